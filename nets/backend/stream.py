"""Streams of an `EntropyBackend`: the head that names who can read them (CONTAINER.md, "Backend streams")."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ... import kernels
from ...entropy import CdfTable, CorruptStream, TableMismatch
from ...kernels import Order
from .tensors import FloatArray

VERSION = 1
CHECKED, EXACT = 0, 1
_MODES = {CHECKED: "checked", EXACT: "exact"}
_HEAD = struct.Struct("<BI")


def with_head(mode: int, fingerprint: int, stream: bytes) -> bytes:
    """A stream of FORMAT.md behind its head."""
    return _HEAD.pack(VERSION << 4 | mode, fingerprint) + stream


class Opened(NamedTuple):
    """The parts of a stream with a head."""

    fingerprint: int
    stream: memoryview

    def checked(self, fingerprint: int) -> memoryview:
        """The stream of FORMAT.md. Raises TableMismatch, with both numbers, for another fingerprint."""
        if self.fingerprint != fingerprint:
            raise TableMismatch(
                f"a stream with the fingerprint {self.fingerprint:08x}, this backend has {fingerprint:08x}: "
                "another table, model, coding order or size of the latent, or in exact mode what is given to "
                "the backend differs"
            )
        return self.stream


def without_head(data: bytes | bytearray | memoryview, mode: int, fingerprint: int) -> memoryview:
    """The stream behind the head, if it was made as this mode and fingerprint say.

    Raises as `opened` and `Opened.checked`.
    """
    return opened(data, mode).checked(fingerprint)


def opened(data: bytes | bytearray | memoryview, mode: int) -> Opened:
    """What can be read before the fingerprint is known.

    Raises TypeError for what isn't bytes, CorruptStream for other versions, TableMismatch for the other mode.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a stream must be bytes, bytearray or memoryview, not {type(data).__name__}")
    # The items of a memoryview need be neither bytes nor neighbors.
    data = bytes(data)
    if len(data) < _HEAD.size:
        raise CorruptStream(f"a stream of {len(data)} bytes, the head alone has {_HEAD.size}")
    first, found = _HEAD.unpack_from(data)
    if first >> 4 != VERSION or first & 15 not in _MODES:
        expected = " or ".join(f"0x{VERSION << 4 | one:02x}" for one in _MODES)
        raise CorruptStream(f"a stream that starts with 0x{first:02x}, not {expected}")
    if first & 15 != mode:
        raise TableMismatch(f"a stream of the {_MODES[first & 15]} mode, this backend is {_MODES[mode]}")
    return Opened(found, memoryview(data)[_HEAD.size :])


def own_fingerprint(mode: int, rounding: str, table: CdfTable | None, networks: Any) -> int:
    """What of a fingerprint doesn't depend on the latent's size. networks: a description of data, or None."""
    head = f"quadrans backend {VERSION} {_MODES[mode]} {rounding} {kernels.ARITHMETIC}\n"
    crc = crc32(b"" if table is None else table.to_bytes(), crc32(head.encode()))
    return _crc(networks, crc)


def with_order(crc: int, order: Order) -> int:
    """The fingerprint of streams in a coding order."""
    steps, taps = order.flat, order.taps
    arrays = [getattr(steps, field.name) for field in fields(steps)]
    arrays += [taps.index, taps.dr, taps.dc]
    size = order.height, order.width, order.channels, order.partial
    return _crc((*size, tuple(np.asarray(array).astype("<i8") for array in arrays)), crc)


def with_given(crc: int, given: Sequence[FloatArray]) -> int:
    """The fingerprint of exact streams that hang on these tensors, (H, W, C) each, in which no 0 is -0."""
    return _crc(tuple(given), crc)


def _made_with(value: Any) -> Iterator[tuple[str, Any]]:
    """What a dataclass is made with, by name, but for defaults: fields to come change nothing."""
    for field in fields(value):
        own = _plain(getattr(value, field.name))
        default = field.default if field.default_factory is MISSING else field.default_factory()
        usual = type(own) is type(default) and not isinstance(own, np.ndarray) and own == default
        if field.init and not usual:
            yield field.name, own


def _plain(value: Any) -> Any:
    """NumPy's numbers, which have another repr, as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _crc(value: Any, crc: int) -> int:
    """The CRC-32 continued by what describes a value: layers and models by the fields they are made with."""
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        return crc32(data.data, crc32(f"{data.dtype.str} {data.shape}\n".encode(), crc))
    if isinstance(value, Mapping):
        value = tuple(sorted(value.items()))
    if isinstance(value, tuple | list):
        for one in value:
            crc = _crc(one, crc)
        return crc32(f"{len(value)}\n".encode(), crc)
    if is_dataclass(value):
        crc = crc32(f"{type(value).__name__}\n".encode(), crc)
        return _crc(tuple(_made_with(value)), crc)
    value = _plain(value)
    if value is None or isinstance(value, bool | int | float | str):
        return crc32(f"{value!r}\n".encode(), crc)
    raise TypeError(f"a {type(value).__name__} has no fingerprint")
