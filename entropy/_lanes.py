"""The lanes format around its loops: layout, header, states and words (FORMAT.md, sections 3 and 4).

Nothing here knows what the symbols' distributions are: `rans.py` codes under tables with it,
`mixture.py` under mixtures.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._compiled import import_compiled, simd_level
from ._passes import VERSION, Codes, PassEncoder
from ._threads import split
from .errors import CorruptStream, TableMismatch
from .table import MIN_PRECISION

MAX_LANES, MAX_GROUPS = 64, 4096
_GROUPED = 8
# Lanes in a vector register of 256 bits; all the levels with wider ones have these too.
_SCALAR, _AVX2, _AVX2_LANES = 0, 1, 8
# A varint has at most this many bytes, of 7 bits each.
_VARINT = 7
# The layout leaves at least so many bytes to a lane, which costs some 0.6, and to each of several groups
# as much as two groups of MAX_LANES lanes need.
_PER_LANE, _PER_LANE_COMPACT = 300, 1200


@cache
def _encoder() -> ModuleType:
    return import_compiled("._lanes_encoder", __package__)


@cache
def _decoder() -> ModuleType:
    return import_compiled("._lanes_loops", __package__)


def decoding_loop(lanes: int) -> Callable[..., Any]:
    """The loop that decodes that many lanes under tables on this CPU."""
    return _decoder().decoding_loop(*specialized(lanes))


def specialized(lanes: int) -> tuple[int, int]:
    """(level, lanes) to compile for: fewer lanes than a vector register holds share the scalar loops."""
    level = simd_level()
    if level == _SCALAR or lanes < _AVX2_LANES:
        return _SCALAR, 0
    return (_AVX2 if lanes == _AVX2_LANES else level), lanes


@dataclass(frozen=True)
class Layout:
    """What a caller asks of a stream's layout; checked when made, so that no finish fails for it.

    lanes: power of two 1..64; groups: 1..4096; None to choose from the payload. compact: fewer of those
    chosen. threads: >= 1, how many may work. Raises ValueError, TypeError for what isn't an integer.
    """

    lanes: int | None
    groups: int | None
    compact: bool
    threads: int

    def __post_init__(self) -> None:
        for name in ("lanes", "groups", "threads"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, operator.index(value))
        if self.lanes not in (None, 1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"lanes {self.lanes}, legal are the powers of two 1..{MAX_LANES}")
        if self.groups is not None and not 1 <= self.groups <= MAX_GROUPS:
            raise ValueError(f"groups {self.groups}, legal are 1..{MAX_GROUPS}")
        check_threads(self.threads)

    def choose(self, cost: int) -> tuple[int, int]:
        """(lanes, groups) for a payload of `cost` units of 2**-10 bit."""
        per_lane = _PER_LANE_COMPACT if self.compact else _PER_LANE
        payload = cost >> 13
        lanes, groups = self.lanes, self.groups
        if lanes is None:
            lanes, share = 1, payload // (groups or 1)
            while lanes < MAX_LANES and share >= 2 * lanes * per_lane:
                lanes *= 2
        if groups is None:
            groups = max(1, min(payload // (2 * MAX_LANES * per_lane), MAX_GROUPS))
        return lanes, groups


def check_threads(threads: int) -> int:
    """The number as a plain int. Raises ValueError unless it is at least 1, TypeError if no integer."""
    threads = operator.index(threads)
    if threads < 1:
        raise ValueError(f"threads {threads}, legal are 1 and more")
    return threads


class LanesEncoder(PassEncoder):
    """Collects the codes of passes, and makes the stream at the end."""

    def __init__(self, kind: int, precision: int, layout: Layout) -> None:
        self._kind, self._precision, self._layout = kind, precision, layout
        self._passes: list[Codes] = []

    def finish(self) -> bytes:
        """The stream of all passes. The encoder can't be used afterwards."""
        self._finish()
        codes, self._passes = Codes.join(self._passes), []
        shape = self._layout.choose(codes.cost)
        return write_stream(self._kind, codes, self._precision, *shape, self._layout.threads)


def write_stream(kind: int, codes: Codes, precision: int, lanes: int, groups: int, threads: int) -> bytes:
    """The stream of all symbols in a legal layout: header, states and words."""
    encode = _encoder().encoding_loop(*specialized(lanes))
    states = np.empty((groups, lanes), np.int64)
    rounds, left = np.empty(groups, np.int64), np.empty((groups, _encoder().LEFT), np.int64)
    cycles = -(-codes.codes.size // (lanes * groups))
    crowd = 0
    if codes.raws.size:
        crowd = int(np.bincount(codes.places // lanes % groups).max())
    # An escape has up to ten intervals more than a symbol's one.
    words = np.empty((groups, cycles * lanes + 10 * crowd + _encoder().SLACK), np.uint16)

    def work(begin: int, end: int) -> None:
        encode(*codes[:3], precision, begin, end, states, words, rounds, left)

    split(work, groups, threads)
    layout = lanes.bit_length() - 1 | (_GROUPED if groups > 1 else 0)
    out = bytearray((VERSION << 4 | kind, layout << 4 | precision - 1))
    if groups > 1:
        out += _varint(groups)
    spans = left[:, : _encoder().END + 1].tolist()
    for group, (first, stop) in enumerate(spans):
        if lanes > 1:
            out += _varint(int(rounds[group]))
        if group < groups - 1:
            out += _varint(stop - first)
    packed = np.empty(5 * states.size, np.uint8)
    out += packed[: _encoder().pack_states(states, packed)].tobytes()
    for row, (first, stop) in zip(words, spans, strict=True):
        out += row[first:stop].astype("<u2", copy=False).tobytes()
    return bytes(out)


class LanesReader:
    """The state of a stream of the lanes format between passes."""

    def __init__(self, data: bytes, precision: int, owner: str = "table") -> None:
        """data: a stream whose first byte was found right; precision: that of the table, or of the `owner`.

        Raises CorruptStream or TableMismatch.
        """
        declared, layout = (data[1] & 15) + 1, data[1] >> 4
        lanes = 1 << (layout & 7)
        if declared < MIN_PRECISION or lanes > MAX_LANES:
            raise CorruptStream(f"precision {declared} and layout {layout} in the header")
        if declared != precision:
            raise TableMismatch(f"stream of precision {declared}, {owner} of precision {precision}")
        position, groups = 2, 1
        if layout & _GROUPED:
            groups, position = _read_varint(data, position)
            if not 2 <= groups <= MAX_GROUPS:
                raise CorruptStream(f"{groups} groups, legal are 2..{MAX_GROUPS}")
        # Each state has 20 bits or more: nothing larger than the stream is allocated.
        if 20 * groups * lanes > 8 * (len(data) - position):
            raise CorruptStream(f"stream of {len(data)} bytes for {groups} x {lanes} lanes")
        rounds, counts = [0] * groups, [0] * groups
        for group in range(groups):
            if lanes > 1:
                rounds[group], position = _read_varint(data, position)
            if group < groups - 1:
                counts[group], position = _read_varint(data, position)
        self.header_bytes = position
        states = np.empty((groups, lanes), np.int64)
        position = _decoder().unpack_states(np.frombuffer(data, np.uint8), position, states)
        if position < 0:
            raise CorruptStream(f"the states of {groups} x {lanes} lanes are cut short or end in a 1")
        total, odd = divmod(len(data) - position, 2)
        counts[-1] = total - sum(counts)
        if odd or counts[-1] < 0:
            raise CorruptStream(f"{len(data) - position} bytes of words, the groups' are {counts[:-1]}")
        # Behind each group's words there is room for those that its tail finds in the lanes. Vectors read
        # up to MAX_LANES words beyond the last.
        words = np.zeros(total + groups * (lanes - 1) + MAX_LANES, np.uint16)
        progress = np.empty((groups, _decoder().PROGRESS), np.int64)
        unread = np.frombuffer(data, "<u2", offset=position)
        begin = 0
        for group, count in enumerate(counts):
            words[begin : begin + count], unread = unread[:count], unread[count:]
            progress[group] = begin, begin + count, rounds[group], -1, -1
            begin += count + lanes - 1
        self._states, self._progress, self._words = states, progress, words
        self._saved = np.empty_like(states), np.empty_like(progress)

    @property
    def shape(self) -> tuple[int, int]:
        """(groups, lanes)."""
        groups, lanes = self._states.shape
        return groups, lanes

    def loan(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Any, NDArray[np.uint16]]:
        """(states, progress, saved, words), as `_lanes_loops.decode_groups` takes them."""
        return self._states, self._progress, self._saved, self._words

    def decode(
        self,
        loop: Callable[..., Any],
        source: tuple[Any, ...],
        first: int,
        symbols: NDArray[np.int32],
        threads: int,
    ) -> tuple[int, int]:
        """Runs the loop, a `decode_groups` of the source's kind, over one pass.

        first: the stream-wide number of symbols[0]; symbols: (n,), written. REQUIRES: the source's precision
        is the stream's. Returns (status, detail), the state unchanged unless OK; where several groups fail,
        which of them it tells of depends on `threads`.
        """
        state = self._states, self._progress, self._saved

        def work(begin: int, end: int) -> tuple[int, int]:
            return loop(*source, first, begin, end, *state, self._words, symbols)

        results = split(work, len(self._states), threads)
        failed = next((result for result in results if result[0]), None)
        if failed:
            _decoder().restore(first, symbols.size, *state)
        return failed or (0, 0)

    def left_over(self, count: int) -> str:
        """What isn't as it must be after all `count` symbols, or nothing."""
        left, wrong = _decoder().left_over(count, self._states, self._progress, self._words)
        if not left and not wrong:
            return ""
        return f"{left} words are left, {wrong} of {len(self._states)} groups end in a wrong state"


def _varint(value: int) -> bytes:
    """Seven bits a byte, the least first; the top bit says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """(value, position behind it). Raises CorruptStream if cut short, too long, or with a 0 at the end."""
    value = 0
    for shift in range(_VARINT):
        if position >= len(data):
            raise CorruptStream(f"stream of {len(data)} bytes ends in its header")
        byte = data[position]
        position += 1
        value |= (byte & 127) << (7 * shift)
        if byte < 128:
            if byte == 0 and shift > 0:
                raise CorruptStream("a number in the header has a zero as last byte")
            return value, position
    raise CorruptStream(f"a number in the header has more than {_VARINT} bytes")
