"""The .qdr file: header, sections and checksums. Bytes in, fields out; `CONTAINER.md` is its specification.

Needs neither torch nor the coder, so that a file can be inspected anywhere.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..entropy.errors import CorruptStream
from ..kernels import ARITHMETIC

MAGIC = b"\x89QDR"
VERSION = 4
MULTIPLE = 64
"""Sides are padded to multiples of this many pixels, or of more where a system needs it."""
MAX_PIXELS = 1 << 26
"""Images that have more pixels than this (8192 x 8192) after padding are refused by writer and reader."""
DIGEST_BYTES = 8
ORDERS = (
    "raster",
    "wavefront",
    "checkerboard",
    "parallel",
    "slices",
    "slices_checkerboard",
    "quadtree",
)
MAX_SECTIONS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECTION = re.compile(r"[a-z][a-z0-9_]{0,7}")


class UnsupportedVersion(CorruptStream):
    """A .qdr file of another format version, or made under another arithmetic."""


@dataclass(frozen=True)
class Container:
    """The content of a .qdr file of this build's arithmetic. Digests are the first 8 bytes of SHA-256s."""

    width: int
    height: int
    order: str
    """One of ORDERS: the coding order of y."""
    model: str
    weight_digest: bytes
    table_digest: bytes
    sections: Mapping[str, bytes]
    """The stream of each latent, by its name in the system, in the order in which they are decoded."""

    def __post_init__(self) -> None:
        check_size(self.width, self.height)
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {self.order!r}")
        check_name(self.model)
        for digest in (self.weight_digest, self.table_digest):
            if len(digest) != DIGEST_BYTES:
                raise ValueError(f"digest of {len(digest)} bytes, not {DIGEST_BYTES}")
        if not 1 <= len(self.sections) <= MAX_SECTIONS:
            raise ValueError(f"{len(self.sections)} sections, not 1 to {MAX_SECTIONS}")
        for section in self.sections:
            if not _SECTION.fullmatch(section):
                raise ValueError(f"section name {section!r}: lower-case letters, digits, '_', at most 8")

    def to_bytes(self) -> bytes:
        """The whole file, as CONTAINER.md has it."""
        name = self.model.encode()
        header = b"".join(
            (
                MAGIC,
                bytes((VERSION, ARITHMETIC, ORDERS.index(self.order))),
                _varint(self.width),
                _varint(self.height),
                bytes((len(name),)),
                name,
                self.weight_digest,
                self.table_digest,
                bytes((len(self.sections),)),
                *(
                    bytes((len(section),)) + section.encode() + _varint(len(stream)) + _crc(stream)
                    for section, stream in self.sections.items()
                ),
            )
        )
        return b"".join((header, _crc(header), *self.sections.values()))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Container:
        """Parse and check everything but the streams' own content.

        Raises UnsupportedVersion on another version or arithmetic, CorruptStream on anything else that is
        not a whole, undamaged .qdr file, or whose image is larger than MAX_PIXELS.
        """
        reader = _Reader(bytes(data))
        if (magic := reader.take(len(MAGIC), "magic")) != MAGIC:
            raise CorruptStream(f"not a .qdr file: it starts with {magic.hex()}, not {MAGIC.hex()}")
        if (version := reader.byte("version")) != VERSION:
            raise UnsupportedVersion(
                f"version {version} of the .qdr format; this build reads version {VERSION}"
            )
        if (arithmetic := reader.byte("arithmetic")) != ARITHMETIC:
            raise UnsupportedVersion(
                f"a .qdr file of arithmetic {arithmetic}; this build decodes arithmetic {ARITHMETIC}"
            )
        order = reader.byte("coding order")
        width, height = reader.varint("width"), reader.varint("height")
        name = reader.take(reader.byte("name length"), "model name")
        weight_digest = reader.take(DIGEST_BYTES, "weight digest")
        table_digest = reader.take(DIGEST_BYTES, "table digest")
        count = reader.byte("number of sections")
        if not 1 <= count <= MAX_SECTIONS:
            raise CorruptStream(f"{count} sections, not 1 to {MAX_SECTIONS}")
        declared = [reader.section() for _ in range(count)]
        computed = _crc(reader.data[: reader.position])
        if reader.take(4, "header checksum") != computed:
            raise CorruptStream("the header is damaged: its checksum does not match")
        sections = {}
        for section, length, crc in declared:
            payload = reader.take(length, f"section {section}")
            if _crc(payload) != crc:
                raise CorruptStream(
                    f"section {section} ({length} bytes) is damaged: its checksum does not match"
                )
            if section in sections:
                raise CorruptStream(f"two sections named {section}")
            sections[section] = payload
        if reader.position != len(data):
            raise CorruptStream(f"{len(data) - reader.position} bytes after the end of the last section")
        try:
            if order >= len(ORDERS):
                raise ValueError(f"unknown coding order {order}")
            return cls(
                width, height, ORDERS[order], name.decode("ascii"), weight_digest, table_digest, sections
            )
        except ValueError as error:
            raise CorruptStream(str(error)) from error


def check_size(width: int, height: int) -> None:
    """Raise ValueError unless both sides are at least 1 and the padded pixels at most MAX_PIXELS."""
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width}x{height} pixels has no pixels")
    if -(-width // MULTIPLE) * -(-height // MULTIPLE) * MULTIPLE**2 > MAX_PIXELS:
        raise ValueError(
            f"an image of {width}x{height} pixels, padded to multiples of {MULTIPLE}, "
            f"exceeds the limit of {MAX_PIXELS} pixels"
        )


def check_name(name: str) -> None:
    """Raise ValueError unless `name` may be a model's: it goes into file names, headers and terminals."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"model name {name!r}: letters, digits, '.', '_', '-' only, at most 64")


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Reader:
    """Takes fields off the front of some bytes; every read is checked against what is left."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, count: int, what: str) -> bytes:
        left = len(self.data) - self.position
        if count > left:
            raise CorruptStream(f"the file ends in its {what}: {count} bytes needed, {left} left")
        self.position += count
        return self.data[self.position - count : self.position]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def section(self) -> tuple[str, int, bytes]:
        """(name, length, CRC) of a section."""
        name = self.take(self.byte("length of a section's name"), "name of a section")
        shown = name.decode("ascii", "replace")
        if not _SECTION.fullmatch(shown):
            raise CorruptStream(f"a section named {shown!r}")
        return shown, self.varint(f"length of section {shown}"), self.take(4, f"checksum of section {shown}")

    def varint(self, what: str) -> int:
        """At most 5 bytes, so at most 35 bits, in the shortest form."""
        value = 0
        for i in range(5):
            byte = self.byte(what)
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if byte == 0 and i > 0:
                    raise CorruptStream(f"{what} is not in its shortest form")
                return value
        raise CorruptStream(f"{what} has more than 5 bytes")
