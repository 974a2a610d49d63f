"""The lanes encoder on NVIDIA GPUs: the streams of `quadrans.entropy`, from arrays on a device.

    stream = encode(symbols, indexes, table)        # CUDA arrays of one shape -> bytes

Bytes, checks and errors are those of `quadrans.entropy`'s encoder. `Encoder` works pass by pass,
`encode_batch` on many streams at once. Arrays are any with `__cuda_array_interface__` or DLPack, torch's CUDA
tensors among them, which are read where they are; work is done on CuPy's current stream, or on torch's where
torch uses CUDA.

A warp codes a group, so a stream should have several: with lanes=32, groups=16 it has 512 lanes, for some 300
bytes. One lane codes a group's tail, which is the shorter the fewer lanes the group has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy import reference
from ...entropy._arrays import raise_bad_index
from ...entropy._compiled import import_compiled
from ...entropy._lanes import Layout
from ...entropy._passes import KIND_LANES, PassEncoder
from ...entropy.table import CdfTable
from ._lanes import MAX_LANES, WARP, device_table, upload, warps_of
from ._module import as_int32, at, device_array, function, import_cupy, one_device

_CODES_THREADS = 256
# Streams encoded by one launch: a grid has no more rows.
_MOST_STREAMS = 65535

# Of rans.cu, as C lays it out.
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


def _pairs(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[tuple[Any, Any]], int]:
    """((symbols, indexes) as flat int32 arrays, their device)."""
    arrays = [(device_array("symbols", a), device_array("indexes", b)) for a, b in pairs]
    device = one_device([array for pair in arrays for array in pair])
    flat = []
    with at(device):
        for a, b in arrays:
            symbol, index = as_int32("symbols", a), as_int32("indexes", b)
            if symbol.shape != index.shape:
                raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
            flat.append((symbol.reshape(-1), index.reshape(-1)))
    return flat, device


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
    streams = upload(records)
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
    states, spans = cupy.empty((base, MAX_LANES), np.uint32), cupy.empty((base, 3), np.int64)
    words = cupy.empty(max(top, 1), np.uint16)
    blocks, warps = warps_of(base, False)
    owners = cupy.asarray(np.repeat(np.arange(len(coded), dtype=np.int32), records["groups"]))
    streams = upload(records)
    function("rans.cu", "encode_lanes")(
        (blocks,),
        (warps * WARP,),
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
