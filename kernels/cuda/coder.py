"""The lanes coder on NVIDIA GPUs: the streams of `quadrans.entropy`, from and to arrays on a device.

    stream = encode(symbols, indexes, table)        # CUDA arrays of one shape -> bytes
    symbols = decode(stream, indexes, table)        # CuPy int32, of indexes' shape

Bytes, checks and errors are those of `quadrans.entropy`'s coder of the same names, so either decodes what
the other encoded. `Encoder` and `Decoder` work pass by pass, `encode_batch` and `decode_batch` on many
streams at once. Arrays are any with `__cuda_array_interface__` or DLPack, torch's CUDA tensors among them,
which are read where they are; work is done on CuPy's current stream, or on torch's where torch uses CUDA.

A warp codes a group, so a stream should have several: with lanes=32, groups=16 it has 512 lanes, for some 300
bytes. One lane codes a group's tail, which is the shorter the fewer lanes the group has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy import reference
from ...entropy._arrays import raise_bad_index
from ...entropy._compiled import import_compiled
from ...entropy._lanes import LanesReader, Layout
from ...entropy._passes import (
    KIND_LANES,
    PassEncoder,
    Stream,
    StreamDecoder,
    check_stream,
    raise_status,
)
from ...entropy.errors import CorruptStream
from ...entropy.table import CdfTable
from ._module import at, device_array, function, import_cupy
from .lookup import decoder_lookup

_MAX_LANES, _WARP = 64, 32
_MAX_PASS, _MAX_WORDS = 1 << 30, (1 << 32) - (1 << 10)
# A group's words are read by 64, up to three times as many ahead.
_CHUNK, _AHEAD = 64, 256
# Warps that share a block, at most; and at least, where they share a table in its shared memory.
_MOST_WARPS, _LEAST_STAGED = 16, 4
_CODES_THREADS = 256
# Streams encoded by one launch: a grid has no more rows.
_MOST_STREAMS = 65535

# Of rans.cu, as C lays them out.
_PASS = np.dtype(
    [
        *((name, np.uint64) for name in ("indexes", "symbols")),
        *(("first", np.int64), ("size", np.int32), ("_", np.int32)),
        *((name, np.int32) for name in ("lanes", "groups", "base", "__")),
    ]
)
_SOURCE = np.dtype(
    [
        *((name, np.uint64) for name in ("symbols", "indexes", "codes")),
        *((name, np.int64) for name in ("size", "top", "room")),
        *((name, np.int32) for name in ("lanes", "groups", "base", "_")),
    ]
)


def encode(
    symbols: Any,
    indexes: Any,
    table: CdfTable,
    lanes: int | None = None,
    groups: int | None = None,
    *,
    compact: bool = False,
) -> bytes:
    """Stream of `symbols` under the rows `indexes` of the table: the bytes that `entropy.encode` gives.

    symbols, indexes: integer arrays of one shape on a CUDA device. Other arguments and errors as there.
    """
    return encode_batch([(symbols, indexes)], table, lanes, groups, compact=compact)[0]


def encode_batch(
    pairs: Sequence[tuple[Any, Any]],
    table: CdfTable,
    lanes: int | None = None,
    groups: int | None = None,
    *,
    compact: bool = False,
) -> list[bytes]:
    """A stream for each pair (symbols, indexes), all encoded together. Arguments and errors as `encode`."""
    layout = Layout(lanes, groups, compact, 1)
    if not pairs:
        return []
    arrays, device = _pairs(pairs)
    with at(device):
        parts = [arrays[k : k + _MOST_STREAMS] for k in range(0, len(arrays), _MOST_STREAMS)]
        return [stream for part in parts for stream in _write(_to_codes(part, table), table, layout)]


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
    device = _one_device(arrays)
    with at(device):
        arrays = [_as_int32("indexes", array) for array in arrays]
        decoder = _Streams(streams, table)
        symbols, failed = decoder.decode(arrays)
        if failed:
            raise_status(*failed[1:])
        for number, left_over in enumerate(decoder.left_over()):
            if left_over:
                raise CorruptStream(f"after {arrays[number].size} symbols {left_over}")
    return symbols


class Encoder(PassEncoder):
    """Collects passes; the stream depends on the symbols and their order, not on how `put` cuts them."""

    def __init__(
        self,
        table: CdfTable,
        lanes: int | None = None,
        groups: int | None = None,
        *,
        compact: bool = False,
    ) -> None:
        """Arguments and errors as `entropy.Encoder`."""
        self._table, self._layout = table, Layout(lanes, groups, compact, 1)
        self._passes: list[_Coded] = []
        self._device: int | None = None

    def put(self, symbols: Any, indexes: Any) -> None:
        """Adds one pass, and keeps no reference to the arrays. Arguments and errors as `encode`."""
        self._check_open()
        arrays, device = _pairs([(symbols, indexes)])
        if self._device not in (None, device):
            raise ValueError(f"arrays on device {device}, the encoder's are on {self._device}")
        with at(device):
            self._passes += _to_codes([(a.copy(), b.copy()) for a, b in arrays], self._table)
        self._device = device

    def finish(self) -> bytes:
        """The stream of all passes. The encoder can't be used afterwards."""
        self._finish()
        passes, self._passes = self._passes, []
        with at(import_cupy().cuda.Device().id if self._device is None else self._device):
            return _write([_join(passes)], self._table, self._layout)[0]


class Decoder(StreamDecoder):
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
            symbols, failed = self._streams.decode([_as_int32("indexes", array)])
        if failed:
            self._fail(*failed[1:])
        self._symbol_count += symbols[0].size
        return symbols[0]

    def lend(self) -> Loan:
        """What another module's kernel needs to decode passes itself, in place (`decode_pass` of rans.cuh).

        `take_back` says how far it came; until then the decoder must not be used. ValueError once closed.
        """
        self._check_open()
        streams = self._streams
        groups, lanes = streams.shapes[0]
        return Loan(
            streams.table, streams.states, streams.progress, streams.words, lanes, groups, self._symbol_count
        )

    def take_back(self, symbols: int, status: int = 0, detail: int = 0) -> None:
        """Ends a loan after so many decoded symbols; raises as `get` for the status of a pass that failed."""
        self._symbol_count += symbols
        self._streams.counts[0] += symbols
        if status:
            self._fail(status, detail)

    def _left_over(self) -> str:
        with at(self._device):
            return self._streams.left_over()[0]


# Arrays


def _pairs(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[tuple[Any, Any]], int]:
    """((symbols, indexes) as flat int32 arrays, their device)."""
    arrays = [(device_array("symbols", a), device_array("indexes", b)) for a, b in pairs]
    device = _one_device([array for pair in arrays for array in pair])
    flat = []
    with at(device):
        for a, b in arrays:
            symbol, index = _as_int32("symbols", a), _as_int32("indexes", b)
            if symbol.shape != index.shape:
                raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
            flat.append((symbol.reshape(-1), index.reshape(-1)))
    return flat, device


def _one_device(arrays: Sequence[Any]) -> int:
    devices = sorted({array.device.id for array in arrays})
    if len(devices) > 1:
        raise ValueError(f"arrays on devices {devices}, not on one")
    return devices[0]


def _as_int32(name: str, array: Any) -> Any:
    """`entropy._arrays.as_int32` on the device: no copy of what is contiguous int32."""
    cupy = import_cupy()
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.dtype == np.int32:
        return cupy.ascontiguousarray(array)
    narrow = array.astype(np.int32)
    if not np.can_cast(array.dtype, np.int32):
        bad = (narrow != array).reshape(-1)
        if bool(bad.any()):
            position = int(bad.argmax())
            value = int(array.reshape(-1)[position])
            raise ValueError(f"{name} holds {value} at {position}, outside int32")
    return cupy.ascontiguousarray(narrow)


def _check_indexes(indexes: Any, rows: int) -> None:
    bad = ((indexes < 0) | (indexes >= rows)).reshape(-1)
    if bool(bad.any()):
        raise_bad_index(indexes.reshape(-1).get(), int(bad.argmax()), rows)


# Tables


class DeviceTable(NamedTuple):
    """A table on a device: what the decoder looks up, what the encoder does."""

    decoder_rows: Any
    decoder_cells: Any
    encoder_rows: Any
    encoder_cells: Any
    rows: np.int32
    precision: np.int32

    def encoder(self) -> tuple[Any, ...]:
        """The first arguments of an encoder's kernel."""
        return self.encoder_rows, self.encoder_cells, self.rows, self.precision

    def decoder(self) -> tuple[Any, ...]:
        """The first arguments of a decoder's kernel."""
        return self.decoder_rows, self.decoder_cells, self.rows, self.precision


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


def device_table(table: CdfTable) -> DeviceTable:
    """The table on the current device."""
    return _device_table(table, import_cupy().cuda.Device().id)


@lru_cache(maxsize=16)
def _device_table(table: CdfTable, device: int) -> DeviceTable:
    cupy = import_cupy()
    arrays = [cupy.asarray(array) for array in (*decoder_lookup(table), *table.lookup[:2])]
    # Others than the current stream may use the arrays later.
    cupy.cuda.get_current_stream().synchronize()
    rows, cells, encoder_rows, encoder_cells = arrays
    precision = np.int32(table.precision)
    return DeviceTable(rows, cells, encoder_rows, encoder_cells, np.int32(table.rows), precision)


# Launches


def _warps(groups: int, staged: bool) -> tuple[int, int]:
    """(blocks, warps of each): spread over the processors, as what counts is how soon each step is done."""
    processors = import_cupy().cuda.Device().attributes["MultiProcessorCount"]
    least = _LEAST_STAGED if staged else 1
    warps = min(max(-(-groups // processors), least), _MOST_WARPS)
    return -(-groups // warps), warps


def _upload(records: NDArray[Any]) -> Any:
    return import_cupy().asarray(np.ascontiguousarray(records).view(np.uint8))


class _Streams:
    """Streams under decoding: their groups, on the current device, in a row."""

    def __init__(self, streams: Sequence[Stream], table: CdfTable) -> None:
        cupy = import_cupy()
        readers = [LanesReader(check_stream(stream, KIND_LANES), table.precision) for stream in streams]
        self.shapes = [reader.shape for reader in readers]
        group_counts = [groups for groups, _ in self.shapes]
        self._group_count = sum(group_counts)
        self._bases = np.cumsum([0, *group_counts])
        states = np.zeros((self._group_count, _MAX_LANES), np.uint32)
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
        blocks, warps = _warps(self._group_count, True)
        shared = rows.nbytes + cells.nbytes
        staged = shared <= room and sum(sizes) > blocks * cells.size
        if not staged:
            shared = 0
            blocks, warps = _warps(self._group_count, False)
        kernel = function("rans.cu", "decode_lanes")
        if shared > kernel.max_dynamic_shared_size_bytes:
            kernel.max_dynamic_shared_size_bytes = shared
        states, progress = self._spare
        results = cupy.empty((self._group_count, 2), np.int64)
        streams = _upload(records)
        kernel(
            (blocks,),
            (warps * _WARP,),
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
        blocks, warps = _warps(self._group_count, False)
        streams = _upload(self._records())
        arguments = self._owners, np.int32(self._group_count), self.states, self.progress, self.words, ends
        function("rans.cu", "finish_lanes")((blocks,), (warps * _WARP,), (streams, *arguments))
        return [
            f"{left} words are left, {wrong} of {groups} groups end in a wrong state" if left or wrong else ""
            for (left, wrong), (groups, _) in zip(ends.get().tolist(), self.shapes, strict=True)
        ]


class _Coded(NamedTuple):
    """Symbols under encoding, (size,) each, on the device."""

    symbols: Any
    indexes: Any
    codes: Any
    cost: int
    """In units of 2**-10 bit."""
    escapes: int

    def record(self) -> NDArray[Any]:
        record = np.zeros(1, _SOURCE)
        for name in ("symbols", "indexes", "codes"):
            record[name] = getattr(self, name).data.ptr
        record["size"] = self.symbols.size
        return record


def _join(passes: list[_Coded]) -> _Coded:
    cupy = import_cupy()
    if len(passes) == 1:
        return passes[0]

    def joined(name: str, dtype: type) -> Any:
        return cupy.concatenate([cupy.empty(0, dtype), *(getattr(one, name) for one in passes)])

    return _Coded(
        joined("symbols", np.int32),
        joined("indexes", np.int32),
        joined("codes", np.uint32),
        sum(one.cost for one in passes),
        sum(one.escapes for one in passes),
    )


def _to_codes(pairs: Sequence[tuple[Any, Any]], table: CdfTable) -> list[_Coded]:
    """The codes of flat int32 arrays. Raises ValueError for an index that is no row."""
    cupy = import_cupy()
    coded = [_Coded(a, b, cupy.empty(a.size, np.uint32), 0, 0) for a, b in pairs]
    records = np.concatenate([one.record() for one in coded])
    totals = np.zeros((len(coded), 3), np.uint64)
    totals[:, 2] = np.iinfo(np.uint64).max
    totals = cupy.asarray(totals)
    longest = int(records["size"].max())
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    blocks = max(1, min(-(-longest // _CODES_THREADS), 8 * processors))
    streams = _upload(records)
    arguments = (*device_table(table).encoder(), streams, totals)
    function("rans.cu", "to_codes")((blocks, len(coded)), (_CODES_THREADS,), arguments)
    found = totals.get().tolist()
    for one, (_, _, bad) in zip(coded, found, strict=True):
        if bad < one.indexes.size:
            raise_bad_index(one.indexes.get(), bad, table.rows)
    return [one._replace(cost=own[0], escapes=own[1]) for one, own in zip(coded, found, strict=True)]


def _write(coded: Sequence[_Coded], table: CdfTable, layout: Layout) -> list[bytes]:
    """The streams of these symbols."""
    cupy = import_cupy()
    records = np.concatenate([one.record() for one in coded])
    shapes = [layout.choose(one.cost) for one in coded]
    base, top = 0, 0
    for record, one, (lanes, groups) in zip(records, coded, shapes, strict=True):
        most = -(-one.symbols.size // (lanes * groups)) * lanes
        # A group's share of the symbols, and what an escape may have more than a symbol (`encode_group`).
        record["room"] = most + 3 * min(one.escapes, most)
        record["top"], record["base"], record["lanes"], record["groups"] = top, base, lanes, groups
        top, base = top + int(record["room"]) * groups, base + groups
    states, spans = cupy.empty((base, _MAX_LANES), np.uint32), cupy.empty((base, 3), np.int64)
    words = cupy.empty(max(top, 1), np.uint16)
    blocks, warps = _warps(base, False)
    owners = cupy.asarray(np.repeat(np.arange(len(coded), dtype=np.int32), records["groups"]))
    streams = _upload(records)
    function("rans.cu", "encode_lanes")(
        (blocks,),
        (warps * _WARP,),
        (*device_table(table).encoder(), streams, owners, np.int32(base), states, spans, words),
    )
    ends = spans.get()
    counts = ends[:, 1] - ends[:, 0]
    starts = np.cumsum(counts) - counts
    joined = cupy.empty(max(int(counts.sum()), 1), np.uint16)
    function("rans.cu", "join_words")((base,), (256,), (spans, cupy.asarray(starts), words, joined))
    all_words, all_states = joined.get().astype("<u2", copy=False), states.get()
    out = []
    for record, (lanes, groups) in zip(records, shapes, strict=True):
        own = slice(int(record["base"]), int(record["base"]) + groups)
        first = int(starts[own.start])
        payload = all_words[first : first + int(counts[own].sum())]
        head = _header(table.precision, lanes, ends[own, 2].tolist(), counts[own].tolist())
        out.append(head + _packed(all_states[own, :lanes]) + payload.tobytes())
    return out


def _header(precision: int, lanes: int, rounds: list[int], counts: list[int]) -> bytes:
    """What comes before the states: FORMAT.md, sections 3 and 4."""
    groups = len(rounds)
    layout = lanes.bit_length() - 1 | (reference.GROUPED if groups > 1 else 0)
    out = bytearray(reference.write_header(KIND_LANES, precision, layout))
    if groups > 1:
        out += reference.write_number(groups)
    for group in range(groups):
        if lanes > 1:
            out += reference.write_number(rounds[group])
        if group < groups - 1:
            out += reference.write_number(counts[group])
    return bytes(out)


def _packed(states: NDArray[np.uint32]) -> bytes:
    loops = import_compiled("...entropy._lanes_encoder", __package__)
    packed = np.empty(5 * states.size, np.uint8)
    return packed[: loops.pack_states(states.astype(np.int64), packed)].tobytes()
