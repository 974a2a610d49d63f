"""Plain integers for the range coder's tests: the interval of a prefix, and symbols full of carries."""

from collections.abc import Iterable
from typing import NamedTuple

from quadrans.entropy import CdfTable, reference


class Span(NamedTuple):
    """The codes of all streams that begin with some symbols: low <= code < low + width, 4 + shifts bytes."""

    low: int
    width: int
    shifts: int

    def narrow(self, start: int, freq: int, precision: int) -> "Span":
        """What is left of it once the interval (start, freq) is coded."""
        unit = self.width >> precision
        low, width, shifts = self.low + unit * start, unit * freq, self.shifts
        while width < 1 << 24:
            low, width, shifts = low << 8, width << 8, shifts + 1
        return Span(low, width, shifts)

    def settled(self) -> bytes:
        """The bytes of the code that all of these streams share."""
        size = self.shifts + 4
        first, last = self.low.to_bytes(size, "big"), (self.low + self.width - 1).to_bytes(size, "big")
        count = 0
        while count < self.shifts and first[count] == last[count]:
            count += 1
        return first[:count]

    def holds_all(self, code: bytes) -> bool:
        """Whether the code of every stream that begins with these bytes lies in the interval."""
        size = max(self.shifts + 4, len(code))
        low, width = (n << 8 * (size - 4 - self.shifts) for n in (self.low, self.width))
        first = int.from_bytes(code, "big") << 8 * (size - len(code))
        return low <= first and first + (1 << 8 * (size - len(code))) <= low + width


ALL = Span(0, 1 << 32, 0)


def spans(symbols: Iterable[int], indexes: Iterable[int], table: CdfTable) -> list[Span]:
    """The span after 0, 1, 2, ... symbols, which are plain integers."""
    precision, rows = reference.read_table(table.to_bytes())
    result = [ALL]
    for symbol, index in zip(symbols, indexes, strict=True):
        span = result[-1]
        for start, freq in reference.intervals_of(symbol, rows[index], precision):
            span = span.narrow(start, freq, precision)
        result.append(span)
    return result


# Rows of 256 cells of some 2^-8 each, whose borders lie on no byte's and not on each other's.
BYTES = CdfTable([[131] + [257] * 254 + [126, 1], [57] + [257] * 254 + [200, 1]], [0, 0], 16)


def straddling(count: int, point: int, bits: int) -> tuple[list[int], list[int]]:
    """(symbols, indexes), `count` of each, under BYTES: point / 2**bits of the whole lies inside their span.

    Inside, not at its end: what follows may lie below or above the point. So after the bytes before the
    point's last, none is settled.
    """
    _, rows = reference.read_table(BYTES.to_bytes())
    span, symbols, indexes = ALL, list[int](), list[int]()
    for _ in range(count):
        slot = ((point << 32 + 8 * span.shifts >> bits) - span.low) // (span.width >> 16)
        for index in range(len(rows)):
            cell, start = reference.cell_of(slot, rows[index].freqs)
            narrower = span.narrow(start, rows[index].freqs[cell], 16)
            above = (point << 32 + 8 * narrower.shifts >> bits) - narrower.low
            # In a row's cells again, not at an end of this one nor in the escape's.
            if 0 < above < narrower.width >> 16 << 16 and cell < 256:
                break
        else:
            raise AssertionError("no row will do")
        symbols.append(cell)
        indexes.append(index)
        span = narrower
    return symbols, indexes
