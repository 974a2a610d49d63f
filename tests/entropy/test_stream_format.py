"""FORMAT.md's worked example, and golden streams of the lanes coder that must never change."""

import json
import re
from pathlib import Path

import pytest
from entropy_cases import LANES

from quadrans import entropy
from quadrans.entropy import CdfTable, range_coder, rans, reference

PAGE = (Path(entropy.__file__).parent / "FORMAT.md").read_text()
GOLDEN = json.loads((Path(__file__).parent / "golden" / "streams.json").read_text())

TABLE = CdfTable([[4, 8, 3, 1], [10, 6]], [-1, 5], 4)
SYMBOLS, INDEXES = [0, 1, 5, -4, 300], [0, 0, 1, 0, 1]


def on_page(data):
    """True if the page shows these bytes in hexadecimal, however they are spaced."""
    return data.hex() in re.sub(r"\s", "", PAGE.split("## 9.")[1])


def test_worked_example():
    lanes = bytes.fromhex("20 13 02 53 8b 08 6f 85 cb b0 00")
    one_lane = bytes.fromhex("20 03 a1 83 0d 95 ee 4c 02")
    groups = bytes.fromhex("20 93 02 01 00 00 72 57 95 74 86 c5 c7 a1 99 09 00 00")
    ranged = bytes.fromhex("21 03 ae 24 5b 2f 34")
    assert rans.encode(SYMBOLS, INDEXES, TABLE, lanes=2) == lanes
    assert rans.encode(SYMBOLS, INDEXES, TABLE) == one_lane
    assert rans.encode(SYMBOLS, INDEXES, TABLE, lanes=2, groups=2) == groups
    assert range_coder.encode(SYMBOLS, INDEXES, TABLE) == ranged
    empty = rans.encode([], [], TABLE), range_coder.encode([], [], TABLE)
    assert TABLE.digest in PAGE
    for data in (TABLE.to_bytes(), lanes, one_lane, groups, ranged, *empty):
        assert on_page(data)
    rows = reference.read_table(TABLE.to_bytes())[1]
    for j, (symbol, index) in enumerate(zip(SYMBOLS, INDEXES, strict=True)):
        shown = ", ".join(str(i) for i in reference.intervals_of(symbol, rows[index], 4))
        assert f"| {j} | {symbol} | {shown} |" in PAGE


def test_worked_states():
    """The page's table of words and states, row by row: two rounds of two lanes, and a tail of one symbol."""
    rows = reference.read_table(TABLE.to_bytes())[1]
    todo = [
        reference.intervals_of(symbol, rows[index], 4) for symbol, index in zip(SYMBOLS, INDEXES, strict=True)
    ]
    states, words = [reference.LOW, 0], []
    for j in reversed(range(5)):
        lane = j % 2 if j < 4 else 0
        if j == 3:
            states[1] = reference.LOW + words.pop()
            assert f"| | 1 | | | {states[1]:08x} |" in PAGE
        for interval in reversed(todo[j]):
            before = len(words)
            states[lane] = reference.push_symbol(states[lane], [interval], 4, words)
            word = f" {words[-1]:04x}" if len(words) > before else ""
            assert f"| {j} | {lane} | {interval} |{word} | {states[lane]:08x} |" in PAGE
    assert not words
    assert reference.split_groups(rans.encode(SYMBOLS, INDEXES, TABLE, 2), 1) == [(2, states, [])]


@pytest.mark.parametrize("lanes", LANES)
def test_golden_streams(level, lanes):
    for case in GOLDEN["streams"]:
        if case["lanes"] == lanes:
            job, stream = GOLDEN["jobs"][case["job"]], bytes.fromhex(case["stream"])
            table, symbols, indexes = (
                CdfTable.from_bytes(bytes.fromhex(job["table"])),
                job["symbols"],
                job["indexes"],
            )
            layout = {key: case[key] for key in (["compact"] if "compact" in case else ["lanes", "groups"])}
            assert rans.encode(symbols, indexes, table, **layout) == stream
            assert rans.decode(stream, indexes, table).tolist() == symbols
            assert reference.decode_lanes(stream, indexes, table) == symbols
