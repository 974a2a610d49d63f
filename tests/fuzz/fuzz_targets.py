"""Every decoder as the fuzzers see it: streams to start from, and what must hold for any bytes.

A *job* is a stream with what its decoder is given beside it. `Job.verdict` throws any bytes at the decoder:
it must answer or raise `CorruptStream` or `TableMismatch`, and what it accepts must be what its encoder
writes for the symbols it found.
"""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Callable

import numpy as np
import unusual_streams
from guarded import Guarded, guard_table
from unusual_streams import layout_of

from quadrans.entropy import (
    CdfTable,
    CorruptStream,
    TableMismatch,
    _passes,
    mixture,
    range_coder,
    rans,
    rans64,
    reference,
    reference_mixture,
    reference_rans64,
)
from quadrans.entropy._compiled import simd_level
from quadrans.entropy._simd import levels
from quadrans.entropy.errors import IncompleteStream
from quadrans.entropy.mixture import Mixtures

ACCEPTED = "accepted"
ERRORS = (CorruptStream, TableMismatch)
LEVELS = [name for name in levels() if os.environ.get("QUADRANS_SIMD") in (None, "", name)]


def use_level(name: str) -> None:
    """Makes the lanes coders run at this one of LEVELS."""
    os.environ["QUADRANS_SIMD"] = name
    simd_level.cache_clear()


class Job:
    """A stream, be it legal or not, and its decoder's other arguments."""

    levels = False
    # Bytes of memory, and bytes for each of the stream's.
    room, growth = 50_000, 40
    count = 0
    stream = b""

    def decode(self, stream: bytes) -> np.ndarray:
        """The flat symbols of the whole stream."""
        raise NotImplementedError

    def decode_in_parts(self, stream: bytes, rng: random.Random) -> np.ndarray:
        """The same, in passes cut anywhere."""
        raise NotImplementedError

    def encode(self, symbols: np.ndarray, stream: bytes) -> bytes:
        """The only stream of the symbols in the layout of `stream`."""
        raise NotImplementedError

    def reference(self, stream: bytes) -> list[int]:
        """What `decode` must answer."""
        raise NotImplementedError

    def verdict(self, stream: bytes) -> str:
        """ACCEPTED or the name of the error; AssertionError if an accepted stream isn't the symbols' own."""
        try:
            symbols = self.decode(stream)
        except ERRORS as error:
            return type(error).__name__
        assert self.encode(symbols, stream) == stream, "an accepted stream isn't the encoder's"
        return ACCEPTED

    def verdicts_agree(self, stream: bytes, rng: random.Random) -> None:
        """AssertionError unless all ways to decode and the reference answer alike."""
        expected = self._answer(self.reference, stream)
        for level in LEVELS if self.levels else LEVELS[:1]:
            use_level(level)
            assert self._answer(self.decode, stream) == expected, level
            assert self._answer(lambda stream: self.decode_in_parts(stream, rng), stream) == expected, level

    def reference_accepts(self, stream: bytes) -> bool:
        """Whether the reference finds symbols."""
        return self._answer(self.reference, stream) is not None

    def memory_is_bounded(self, stream: bytes) -> None:
        """AssertionError if decoding takes more memory than stream and symbols warrant."""
        tracemalloc.start()
        self._answer(self.decode, stream)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < self.room + self.growth * len(stream) + 20 * self.count, f"{peak} bytes of memory"

    def _answer(self, decode: Callable[[bytes], object], stream: bytes) -> list[int] | None:
        try:
            return list(map(int, decode(stream)))
        except ERRORS:
            return None

    def _cuts(self, rng: random.Random) -> list[slice]:
        places = sorted(rng.randint(0, self.count) for _ in range(rng.randrange(6)))
        return [slice(*pair) for pair in zip([0, *places], [*places, self.count], strict=True)]


class TableJob(Job):
    """A stream under a table."""

    coder = rans
    precision: int | None = None

    def __init__(self, rng: random.Random) -> None:
        self.table = unusual_streams.table(rng, self.precision)
        size = rng.choice([0, 1, 2, 10, 40, 40, 40, 150, 150, 400, 1500])
        symbols, indexes = unusual_streams.symbols(rng, self.table, size)
        self.stream = self.make(rng, symbols, indexes)
        # The decoder may be given other indexes than the encoder was.
        if rng.random() < 0.1:
            end = max(0, size + rng.choice([-2, -1, 1, 2, 100]))
            indexes = [*indexes, *[0] * 100][:end]
        self.indexes = np.array(indexes, np.int32)
        self.count = len(indexes)
        if isinstance(_passes.np, Guarded):
            self.indexes = _passes.np.copy(self.indexes)
            guard_table(_passes.np, self.table)

    def make(self, rng: random.Random, symbols: list[int], indexes: list[int]) -> bytes:
        """The stream to start from."""
        return self.coder.encode(np.array(symbols, np.int64), np.array(indexes, np.int64), self.table)

    def decode(self, stream: bytes) -> np.ndarray:
        return self.coder.decode(stream, self.indexes, self.table)

    def decode_in_parts(self, stream: bytes, rng: random.Random) -> np.ndarray:
        decoder = self.coder.Decoder(stream, self.table)
        parts = [decoder.get(self.indexes[part]) for part in self._cuts(rng)]
        decoder.close()
        return np.concatenate(parts)

    def encode(self, symbols: np.ndarray, stream: bytes) -> bytes:
        return self.coder.encode(symbols, self.indexes, self.table)


class Lanes(TableJob):
    """The lanes coder, in any layout."""

    levels = True

    def make(self, rng: random.Random, symbols: list[int], indexes: list[int]) -> bytes:
        return unusual_streams.lanes_stream(rng, symbols, indexes, self.table)

    def decode_in_parts(self, stream: bytes, rng: random.Random) -> np.ndarray:
        decoder = rans.Decoder(stream, self.table, threads=rng.randint(1, 3))
        parts = [decoder.get(self.indexes[part]) for part in self._cuts(rng)]
        decoder.close()
        return np.concatenate(parts)

    def encode(self, symbols: np.ndarray, stream: bytes) -> bytes:
        return rans.encode(symbols, self.indexes, self.table, *layout_of(stream))

    def reference(self, stream: bytes) -> list[int]:
        return reference.decode_lanes(stream, self.indexes.tolist(), self.table)


class Range(TableJob):
    """The range coder; its stream in parts as well."""

    coder = range_coder

    def decode_in_parts(self, stream: bytes, rng: random.Random) -> np.ndarray:
        fed = rng.randint(0, len(stream))
        decoder = range_coder.Decoder(stream[:fed], self.table, final=fed == len(stream))
        parts = []
        for part in self._cuts(rng):
            while (symbols := self._try(decoder, self.indexes[part])) is None:
                end = min(fed + rng.randint(1, 20), len(stream))
                assert end > fed, "the decoder wants more than the stream"
                decoder.feed(stream[fed:end], end == len(stream))
                fed = end
            parts.append(symbols)
        if fed < len(stream):
            decoder.feed(stream[fed:], True)
        decoder.close()
        return np.concatenate(parts)

    def _try(self, decoder: range_coder.Decoder, indexes: np.ndarray) -> np.ndarray | None:
        try:
            return decoder.get(indexes)
        except IncompleteStream as incomplete:
            ready = incomplete.ready
        assert 0 <= ready < indexes.size
        return None

    def reference(self, stream: bytes) -> list[int]:
        return reference.decode_range(stream, self.indexes.tolist(), self.table)


class Rans64(TableJob):
    """CompressAI's bitstream."""

    coder = rans64
    precision = 16

    def reference(self, stream: bytes) -> list[int]:
        return reference_rans64.decode(stream, self.indexes.tolist(), self.table)


# The reference makes whole rows, long ones for lesser inverse scales.
_QUICK = 500


class Mixture(Job):
    """The lanes coder under mixtures."""

    levels = True

    def __init__(self, rng: random.Random) -> None:
        self.count = rng.choice([0, 1, 2, 10, 40, 150])
        components = rng.randint(1, 4)
        draw = np.random.default_rng(rng.getrandbits(64))
        cuts = np.sort(draw.integers(0, mixture.WEIGHT_TOTAL + 1, (components - 1, self.count)), 0)
        weights = np.diff(cuts, axis=0, prepend=0, append=mixture.WEIGHT_TOTAL)
        spread = rng.choice([1 << 10, 1 << 14, mixture.MAX_MEAN])
        means = draw.integers(-spread, spread + 1, (components, self.count))
        least = rng.choice([0, _QUICK])
        scales = draw.integers(least, mixture.INVERSE_SCALES, (components, self.count))
        self.mixtures = Mixtures(weights, means, scales)
        near = means[0] // 1024 + draw.integers(-3, 4, self.count)
        far = draw.integers(-(1 << 31), 1 << 31, self.count)
        symbols = np.where(draw.random(self.count) < rng.choice([0, 0.1, 1]), far, near)
        layout = 1 << rng.randrange(7), rng.choice([1, 1, 2, 3, 7])
        self.stream = mixture.encode(symbols, self.mixtures, *layout)

    def decode(self, stream: bytes) -> np.ndarray:
        return mixture.decode(stream, self.mixtures)

    def decode_in_parts(self, stream: bytes, rng: random.Random) -> np.ndarray:
        decoder = mixture.Decoder(stream, threads=rng.randint(1, 3))
        whole = (self.mixtures.weights, self.mixtures.means, self.mixtures.inverse_scales)
        parts = [decoder.get(Mixtures(*(array[:, part] for array in whole))) for part in self._cuts(rng)]
        decoder.close()
        return np.concatenate(parts)

    def encode(self, symbols: np.ndarray, stream: bytes) -> bytes:
        return mixture.encode(symbols, self.mixtures, *layout_of(stream))

    def reference(self, stream: bytes) -> list[int]:
        if self.mixtures.inverse_scales.min(initial=_QUICK) < _QUICK:
            return self.decode(stream).tolist()
        whole = self.mixtures.weights, self.mixtures.means, self.mixtures.inverse_scales
        columns = (array.T.tolist() for array in whole)
        return reference_mixture.decode(
            stream, [list(zip(*one, strict=True)) for one in zip(*columns, strict=True)]
        )


class Table(Job):
    """A table's canonical bytes; its looked-up arrays are made too."""

    # A table of costs has an entry for each frequency.
    room, growth = 1_200_000, 300

    def __init__(self, rng: random.Random) -> None:
        self.stream = unusual_streams.table(rng).to_bytes()

    def decode(self, stream: bytes) -> np.ndarray:
        try:
            table = CdfTable.from_bytes(stream)
        except ValueError as error:
            raise CorruptStream(str(error)) from None
        assert table.to_bytes() == stream
        return np.concatenate(table.lookup[:3])

    def decode_in_parts(self, stream: bytes, rng: random.Random) -> np.ndarray:
        return self.decode(stream)

    def encode(self, symbols: np.ndarray, stream: bytes) -> bytes:
        return stream

    def reference(self, stream: bytes) -> list[int]:
        return self.decode(stream).tolist()


JOBS: dict[str, type[Job]] = {
    "lanes": Lanes,
    "range": Range,
    "rans64": Rans64,
    "mixture": Mixture,
    "table": Table,
}
