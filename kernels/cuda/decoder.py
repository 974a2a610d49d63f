"""The lanes decoder on NVIDIA GPUs: the streams of `quadrans.entropy`, to arrays on a device.

    symbols = decode(stream, indexes, table)        # CuPy int32, of indexes' shape

Checks and errors are those of `quadrans.entropy`'s decoder, and so are the streams. `Decoder` works pass by
pass, `decode_batch` on many streams at once; `encoder` says what arrays may be, and how groups are coded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy._arrays import raise_bad_index
from ...entropy._lanes import LanesReader
from ...entropy._passes import KIND_LANES, LendingDecoder, Stream, check_stream, raise_status
from ...entropy.errors import CorruptStream
from ...entropy.table import CdfTable
from ._lanes import MAX_LANES, WARP, DeviceTable, device_table, upload, warps_of
from ._module import as_int32, at, device_array, function, import_cupy, one_device

_MAX_PASS, _MAX_WORDS = 1 << 30, (1 << 32) - (1 << 10)
# A group's words are read by 64, up to three times as many ahead.
_CHUNK, _AHEAD = 64, 256

# Of rans.cu, as C lays it out.
_PASS = np.dtype(
    [
        *((name, np.uint64) for name in ("indexes", "symbols")),
        *(("first", np.int64), ("size", np.int32), ("_", np.int32)),
        *((name, np.int32) for name in ("lanes", "groups", "base", "__")),
    ]
)


def decode(stream: Stream, indexes: Any, table: CdfTable) -> Any:
    """The symbols of a whole stream: a CuPy int32 array of indexes' shape.

    indexes: integers on a CUDA device. Errors as `entropy.decode`.
    """
    return decode_batch([stream], [indexes], table)[0]


def decode_batch(streams: Sequence[Stream], indexes: Sequence[Any], table: CdfTable) -> list[Any]:
    """The symbols of each stream, all decoded together. Arguments and errors as `decode`.

    Where several streams are corrupt, the error is the first one's.
    """
    if len(streams) != len(indexes):
        raise ValueError(f"{len(streams)} streams and {len(indexes)} arrays of indexes")
    if not streams:
        return []
    arrays = [device_array("indexes", index) for index in indexes]
    device = one_device(arrays)
    with at(device):
        arrays = [as_int32("indexes", array) for array in arrays]
        decoder = _Streams(streams, table)
        symbols, failed = decoder.decode(arrays)
        if failed:
            raise_status(*failed[1:])
        for number, left_over in enumerate(decoder.left_over()):
            if left_over:
                raise CorruptStream(f"after {arrays[number].size} symbols {left_over}")
    return symbols


class Loan(NamedTuple):
    """A decoder's state on its device, lent to a kernel."""

    table: DeviceTable
    states: Any
    """uint32 (groups, 64)."""
    progress: Any
    """int64 (groups, 5), as `rans::Progress` names them."""
    words: Any
    lanes: int
    groups: int
    first: int
    """The stream-wide number of the next symbol."""


class Decoder(LendingDecoder):
    """Decodes a stream pass by pass, in the encoder's order; its cuts may differ from the encoder's."""

    def __init__(self, stream: Stream, table: CdfTable) -> None:
        """For the current device. Raises as `entropy.Decoder`."""
        self._device = import_cupy().cuda.Device().id
        with at(self._device):
            self._streams = _Streams([stream], table)

    def get(self, indexes: Any) -> Any:
        """Symbols of the next pass: a CuPy int32 array of indexes' shape (integers on the decoder's device).

        Raises as `entropy.Decoder.get`.
        """
        self._check_open()
        array = device_array("indexes", indexes)
        if array.device.id != self._device:
            raise ValueError(f"indexes on device {array.device.id}, the decoder is on {self._device}")
        with at(self._device):
            symbols, failed = self._streams.decode([as_int32("indexes", array)])
        if failed:
            self._fail(*failed[1:])
        self._symbol_count += symbols[0].size
        return symbols[0]

    def lend(self, rows: int) -> Loan:
        """What another module's kernel needs to decode passes itself, in place (`decode_pass` of rans.cuh).

        rows: the kernel's indexes lie below. `take_back` says how far it came, or `refuse` that what came is
        illegal; until then the decoder can't be used, and so never again after a launch that raised an error.
        Raises ValueError if the table has fewer rows, or once closed.
        """
        self._check_open()
        streams = self._streams
        if streams.table.rows < rows:
            raise ValueError(f"a table of {streams.table.rows} rows, where indexes need {rows}")
        self._lend()
        groups, lanes = streams.shapes[0]
        return Loan(
            streams.table, streams.states, streams.progress, streams.words, lanes, groups, self._symbol_count
        )

    def take_back(self, symbols: int, status: int = 0, detail: int = 0) -> None:
        """See `entropy.Decoder.take_back`."""
        super().take_back(symbols, status, detail)
        self._streams.counts[0] = self._symbol_count

    def _left_over(self) -> str:
        with at(self._device):
            return self._streams.left_over()[0]


class _Streams:
    """Streams under decoding: their groups, on the current device, in a row."""

    def __init__(self, streams: Sequence[Stream], table: CdfTable) -> None:
        cupy = import_cupy()
        readers = [LanesReader(check_stream(stream, KIND_LANES), table.precision) for stream in streams]
        self.shapes = [reader.shape for reader in readers]
        group_counts = [groups for groups, _ in self.shapes]
        self._group_count = sum(group_counts)
        self._bases = np.cumsum([0, *group_counts])
        states = np.zeros((self._group_count, MAX_LANES), np.uint32)
        progress = np.empty((self._group_count, readers[0].loan()[1].shape[1]), np.int64)
        parts, begin = [], 0
        for reader, base in zip(readers, self._bases, strict=False):
            own_states, own_progress, _, words = reader.loan()
            groups, lanes = own_states.shape
            states[base : base + groups, :lanes] = own_states
            progress[base : base + groups] = own_progress
            progress[base : base + groups, :2] += begin
            padding = -words.size % _CHUNK
            parts += [words, np.zeros(padding, np.uint16)]
            begin += words.size + padding
        if begin > _MAX_WORDS:
            raise ValueError(f"streams of {2 * begin} bytes, {2 * _MAX_WORDS} are decoded together at most")
        parts.append(np.zeros(_AHEAD, np.uint16))
        self.table = device_table(table)
        self.words = cupy.asarray(np.concatenate(parts))
        self._owners = cupy.asarray(np.repeat(np.arange(len(streams), dtype=np.int32), group_counts))
        self.states, self.progress = cupy.asarray(states), cupy.asarray(progress)
        # A pass writes the others, and then they are exchanged.
        self._spare = cupy.empty_like(self.states), cupy.empty_like(self.progress)
        self.counts = [0] * len(streams)

    def _records(self) -> NDArray[Any]:
        records = np.zeros(len(self.shapes), _PASS)
        records["groups"], records["lanes"] = zip(*self.shapes, strict=True)
        records["base"], records["first"] = self._bases[:-1], self.counts
        return records

    def decode(self, indexes: Sequence[Any]) -> tuple[list[Any], tuple[int, int, int] | None]:
        """(symbols of the next pass of each stream, none or what failed: (stream, status, detail)).

        indexes: contiguous int32. If something fails, the state is as before. Raises ValueError for an index
        that is no row.
        """
        cupy = import_cupy()
        symbols = [cupy.empty(array.shape, np.int32) for array in indexes]
        sizes = [array.size for array in indexes]
        if max(sizes) > _MAX_PASS:
            raise ValueError(f"a pass of {max(sizes)} symbols, {_MAX_PASS} are decoded at once at most")
        records = self._records()
        records["size"] = sizes
        records["indexes"] = [array.data.ptr for array in indexes]
        records["symbols"] = [array.data.ptr for array in symbols]
        rows, cells = self.table.decoder_rows, self.table.decoder_cells
        room = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
        # The copy pays where a block decodes more symbols than it copies words.
        blocks, warps = warps_of(self._group_count, True)
        shared = rows.nbytes + cells.nbytes
        staged = shared <= room and sum(sizes) > blocks * cells.size
        if not staged:
            shared = 0
            blocks, warps = warps_of(self._group_count, False)
        kernel = function("rans.cu", "decode_lanes")
        if shared > kernel.max_dynamic_shared_size_bytes:
            kernel.max_dynamic_shared_size_bytes = shared
        states, progress = self._spare
        results = cupy.empty((self._group_count, 2), np.int64)
        streams = upload(records)
        kernel(
            (blocks,),
            (warps * WARP,),
            (
                *self.table.decoder(),
                np.int32(cells.size),
                np.int32(staged),
                streams,
                self._owners,
                np.int32(self._group_count),
                self.states,
                states,
                self.progress,
                progress,
                self.words,
                results,
            ),
            shared_mem=shared,
        )
        found = results.get()
        if found[:, 0].any():
            # A bad index is the caller's error, wherever the stream fails.
            for array in indexes:
                _check_indexes(array, int(self.table.rows))
            group = int(np.flatnonzero(found[:, 0])[0])
            stream = int(np.searchsorted(self._bases, group, side="right")) - 1
            status, detail = found[group].tolist()
            return symbols, (stream, status, detail)
        self._spare, self.states, self.progress = (self.states, self.progress), states, progress
        self.counts = [count + size for count, size in zip(self.counts, sizes, strict=True)]
        return symbols, None

    def left_over(self) -> list[str]:
        """For each stream, what isn't as it must be after all its symbols, or nothing."""
        cupy = import_cupy()
        ends = cupy.zeros((len(self.shapes), 2), np.uint64)
        blocks, warps = warps_of(self._group_count, False)
        streams = upload(self._records())
        arguments = self._owners, np.int32(self._group_count), self.states, self.progress, self.words, ends
        function("rans.cu", "finish_lanes")((blocks,), (warps * WARP,), (streams, *arguments))
        return [
            f"{left} words are left, {wrong} of {groups} groups end in a wrong state" if left or wrong else ""
            for (left, wrong), (groups, _) in zip(ends.get().tolist(), self.shapes, strict=True)
        ]


def _check_indexes(indexes: Any, rows: int) -> None:
    bad = ((indexes < 0) | (indexes >= rows)).reshape(-1)
    if bool(bad.any()):
        raise_bad_index(indexes.reshape(-1).get(), int(bad.argmax()), rows)
