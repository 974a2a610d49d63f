"""Backends whose parameters are floats of another's making: indexes are checked before they are used.

Float parameters may differ between devices in their last bits, and one bit may change an index, after which
a stream decodes to noise. So the encoder puts a checksum of the indexes before each step's symbols, and the
decoder compares (CONTAINER.md, "Backend streams").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ... import entropy
from ...entropy import CdfTable, CorruptStream
from . import stream as head
from .floats import FloatParameters
from .latent import StepElements, SteppedLatent, check_limit, too_large
from .modules import OrderFunction, check_eval, is_parallel
from .orders import Orders
from .quantize import Int32Array, Quantizer
from .tables import INTEGER, rule
from .tensors import FloatArray, check_same_shape, planes

_VALUES = 256
"""Symbols of the check row."""
_MOST_ROWS = 1 << 16


class IndexMismatch(CorruptStream):
    """The decoder's float parameters give other indexes than the encoder's, or the stream is damaged.

    image: which one of the streams; step: the first that differs, of `steps` in the coding order named
    `order`; elements: how many it codes; found, expected: checksums, of these indexes and the encoder's.
    """

    image = 0

    def __init__(self, step: int, steps: int, elements: int, order: str, found: int, expected: int) -> None:
        super().__init__(step, steps, elements, order, found, expected)
        self.step, self.steps, self.elements, self.order = step, steps, elements, order
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        where = (
            f"image {self.image}, step {self.step} of {self.steps} ({self.order}, {self.elements} elements)"
        )
        return (
            f"{where}: its indexes have the checksum {self.found:x}, the encoder's had {self.expected:x}. "
            "Float parameters differ from the encoder's (another device, version of torch, or model), or the "
            "stream is damaged"
        )


def checked_table(table: CdfTable) -> CdfTable:
    """The table with one more row, its last, for check symbols 0..255 of nearly equal frequencies.

    ValueError for a precision below 9, which has no room for them, and a table that is full.
    """
    if table.precision < 9 or table.rows >= _MOST_ROWS:
        raise ValueError(
            f"a table of precision {table.precision} and {table.rows} rows; with a row for checksums it must "
            f"have at least 9 and at most {_MOST_ROWS}"
        )
    row = np.full(_VALUES + 1, (1 << table.precision) // _VALUES)
    row[-2:] = row[-2] - 1, 1
    freqs = np.concatenate((table.freqs, row))
    starts = np.append(table.row_starts, freqs.size)
    return CdfTable.from_flat(freqs, starts, np.append(table.offsets, 0), table.precision)


class Checksum:
    """The CRC-32 of what decides the symbols' meaning, as the check symbols of each step give it."""

    def __init__(self, steps: int, rounding: str) -> None:
        self._last, self._whole, self._crc = steps - 1, rounding == INTEGER, 0

    def add(self, number: int, indexes: Int32Array, offsets: FloatArray) -> Int32Array:
        """The check symbols of a step, least significant first, its own indexes included."""
        self._crc = crc32(indexes.astype("<i4", copy=False).data, self._crc)
        if self._whole:
            self._crc = crc32(offsets.astype("<i4").data, self._crc)
        count = 4 if number == self._last else 2
        return np.frombuffer(self._crc.to_bytes(4, "little")[:count], np.uint8).astype(np.int32)


@dataclass(frozen=True)
class CheckedRecipe:
    """What makes a `CheckedCoder`, checked by `EntropyBackend`."""

    parameters: Any
    order: OrderFunction
    context: nn.Conv2d | None
    hyper: Any
    channels: int | None
    rounding: str
    table: CdfTable
    thresholds: NDArray[np.float32]
    threads: int
    mode: ClassVar[str] = "checked"

    def build(self) -> CheckedCoder:
        """Raises ValueError for a table without room for checksums."""
        return CheckedCoder(self)


class CheckedCoder:
    """Codes the latent of one image under float parameters."""

    def __init__(self, recipe: CheckedRecipe) -> None:
        self._rounding = recipe.rounding
        self._quantizer = Quantizer(rule(recipe.rounding, recipe.thresholds))
        self._parts = {"parameters": recipe.parameters, "hyper": recipe.hyper}
        self._parameters = FloatParameters(recipe.parameters, recipe.hyper, recipe.context)
        several = recipe.context is not None or isinstance(recipe.parameters, tuple)
        self._stepped = several or not is_parallel(recipe.order)
        crc = head.own_fingerprint(head.CHECKED, recipe.rounding, recipe.table, recipe.thresholds)
        self._orders = Orders(recipe.order, crc)
        self.channels = recipe.channels if recipe.context is None else recipe.context.in_channels
        if recipe.channels not in (None, self.channels):
            raise ValueError(f"a context of {self.channels} channels for a latent of {recipe.channels}")
        self.given = 2 if recipe.parameters is None and recipe.hyper is None else None
        self._table, self._threads = checked_table(recipe.table), recipe.threads

    def encode(self, y: Tensor, given: tuple[Tensor, ...]) -> tuple[bytes, FloatArray]:
        """(stream, y_hat (M, H, W)) of y (1, M, H, W). Raises ValueError for what doesn't fit."""
        latent = self._latent(given)
        encoder = entropy.Encoder(self._table, threads=self._threads)
        checksum = Checksum(len(latent), self._rounding)
        for one, symbols in self._quantized(latent, y):
            check = checksum.add(one.number, one.indexes, one.offsets)
            encoder.put(check, self._check_rows(check))
            encoder.put(symbols, one.indexes)
        return head.with_head(head.CHECKED, latent.fingerprint, encoder.finish()), latent.y_hat

    def decode(self, data: Any, given: tuple[Tensor, ...]) -> FloatArray:
        """y_hat (M, H, W). Raises CorruptStream, IndexMismatch, TableMismatch."""
        opened = head.opened(data, head.CHECKED)
        latent = self._latent(given)
        decoder = entropy.Decoder(opened.checked(latent.fingerprint), self._table, threads=self._threads)
        checksum = Checksum(len(latent), self._rounding)
        for one in latent.steps():
            own = checksum.add(one.number, one.indexes, one.offsets)
            theirs = decoder.get(self._check_rows(own))
            if not np.array_equal(own, theirs):
                numbers = _as_number(own), _as_number(theirs)
                raise IndexMismatch(one.number, len(latent), one.indexes.size, latent.order.name, *numbers)
            latent.put(one, decoder.get(one.indexes), CorruptStream)
        decoder.close()
        return latent.y_hat

    def bits(self, y: Tensor, given: tuple[Tensor, ...]) -> float:
        """What the symbols of y (1, M, H, W) cost under the table, without checksums."""
        latent = self._latent(given)
        return sum(self._table.bits(symbols, one.indexes) for one, symbols in self._quantized(latent, y))

    def _check_rows(self, check: Int32Array) -> Int32Array:
        return np.full(check.size, self._table.rows - 1, np.int32)

    def _latent(self, given: tuple[Tensor, ...]) -> SteppedLatent:
        check_eval(self._parts)
        parameters = self._parameters.of(given)
        return SteppedLatent(parameters, self._orders, self._quantizer, self.channels, self._stepped)

    def _quantized(self, latent: SteppedLatent, y: Tensor) -> Iterator[tuple[StepElements, Int32Array]]:
        """Each step with its symbols. ValueError if y doesn't fit the parameters, or the coder."""
        check_same_shape("y", y, (1, *latent.y_hat.shape))
        values = planes("y", y)
        if self._rounding == INTEGER:
            values = np.rint(values)
            check_limit(values)
        flat = values.reshape(-1)
        for one in latent.steps():
            symbols, bad = self._quantizer.to_symbols(flat[one.places], one.offsets)
            if bad >= 0:
                where = np.arange(flat.size)[one.places][bad]
                raise too_large(values, int(where))
            latent.put(one, symbols, ValueError)
            yield one, symbols


def _as_number(check: Int32Array) -> int:
    """Check symbols as a number; what a damaged stream has in their place is no byte."""
    return sum((int(one) & 0xFF) << 8 * i for i, one in enumerate(check))
