"""The .qdr container: round trip, golden bytes, and every way in which a file can be damaged."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrans.entropy import CorruptStream
from quadrans.nets.container import MAX_PIXELS, ORDERS, Container, UnsupportedVersion

digests = st.binary(min_size=8, max_size=8)
containers = st.builds(
    Container,
    width=st.integers(1, 8192),
    height=st.integers(1, 8192),
    order=st.sampled_from(ORDERS),
    model=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    weight_digest=digests,
    table_digest=digests,
    sections=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True), st.binary(max_size=300), min_size=1, max_size=8
    ),
)
EXAMPLE = Container(768, 512, "wavefront", "minnen", b"weights.", b"tables..", {"z": b"zz", "y": b"yyy"})
GOLDEN = (
    "89514452 04 02 01 8006 8004 06 6d696e6e656e 776569676874732e 7461626c65732e2e"
    "02 01 7a 02 a11bd924 01 79 03 ea814573 48b5cbf9 7a7a 797979"
)


@given(containers)
def test_round_trip(container: Container) -> None:
    assert Container.from_bytes(container.to_bytes()) == container


def test_golden_bytes() -> None:
    assert EXAMPLE.to_bytes() == bytes.fromhex(GOLDEN)


@given(containers)
def test_every_truncation_is_refused(container: Container) -> None:
    data = container.to_bytes()
    for length in range(len(data)):
        with pytest.raises(CorruptStream):
            Container.from_bytes(data[:length])


@given(containers)
def test_trailing_bytes_are_refused(container: Container) -> None:
    with pytest.raises(CorruptStream, match="1 bytes after the end"):
        Container.from_bytes(container.to_bytes() + b"\0")


def test_every_bit_flip_is_refused() -> None:
    data = EXAMPLE.to_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptStream):
            Container.from_bytes(bytes(damaged))


def forged(
    width: int,
    height: int,
    order: int = 1,
    name: bytes = b"minnen",
    sections: tuple[bytes, ...] = (b"z", b"y"),
) -> bytes:
    """A header with right checksums around any fields."""

    def varint(value: int) -> bytes:
        groups = []
        while True:
            groups.append(value & 127)
            value >>= 7
            if not value:
                return bytes([*(g | 128 for g in groups[:-1]), groups[-1]])

    header = b"\x89QDR\x04\x02" + bytes([order]) + varint(width) + varint(height) + bytes([len(name)]) + name
    header += bytes(16) + bytes([len(sections)])
    empty = b"\0" + zlib.crc32(b"").to_bytes(4, "little")
    header += b"".join(bytes([len(section)]) + section + empty for section in sections)
    return header + zlib.crc32(header).to_bytes(4, "little")


def test_forged_headers() -> None:
    assert Container.from_bytes(forged(8192, MAX_PIXELS // 8192)).width == 8192
    for data, message in (
        (forged(8193, MAX_PIXELS // 8192), "exceeds the limit"),
        (forged(1, MAX_PIXELS), "exceeds the limit"),
        (forged(2**35 - 1, 2**35 - 1), "exceeds the limit"),
        (forged(0, 7), "no pixels"),
        (forged(8, 8, order=7), "unknown coding order 7"),
        (forged(8, 8, name=b""), "model name ''"),
        (forged(8, 8, name=b"\xff"), "ascii"),
        (forged(8, 8, name=b"a" * 65), "model name"),
        (forged(8, 8, name=b"/etc/x.safetensors"), "model name"),
        (forged(8, 8, name=b"[/x]\x1b[2J"), "model name"),
        (forged(2**35, 8), "more than 5 bytes"),
        (forged(8, 8, sections=()), "0 sections, not 1 to 8"),
        (forged(8, 8, sections=9 * (b"y",)), "9 sections, not 1 to 8"),
        (forged(8, 8, sections=(b"y", b"y")), "two sections named y"),
        (forged(8, 8, sections=(b"",)), "a section named ''"),
        (forged(8, 8, sections=(b"Y\x1b[2J",)), "a section named"),
        (forged(8, 8, sections=(b"y" * 9,)), "a section named"),
    ):
        with pytest.raises(CorruptStream, match=message):
            Container.from_bytes(data)


def test_later_versions_are_named() -> None:
    data = bytearray(EXAMPLE.to_bytes())
    data[4] = 5
    with pytest.raises(UnsupportedVersion, match=r"version 5 .* reads version 4"):
        Container.from_bytes(bytes(data))


def test_other_arithmetics_are_named() -> None:
    data = bytearray(EXAMPLE.to_bytes())
    data[5] = 1
    with pytest.raises(UnsupportedVersion, match=r"arithmetic 1; this build decodes arithmetic 2"):
        Container.from_bytes(bytes(data))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for candidate in (data, b"\x89QDR\x04\x02" + data):
        with pytest.raises(CorruptStream):
            Container.from_bytes(candidate)


@pytest.mark.parametrize(
    "change", [{"width": 0}, {"order": "spiral"}, {"model": ""}, {"model": "é"}, {"weight_digest": b""}]
)
def test_bad_fields(change: dict) -> None:
    with pytest.raises(ValueError, match=r"pixels|order|name|digest"):
        Container(**{**vars(EXAMPLE), **change})
