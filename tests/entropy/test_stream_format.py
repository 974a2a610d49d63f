"""FORMAT.md's worked example, and golden streams of both coders that must never change."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from quadrans import entropy
from quadrans.entropy import CdfTable, range_coder, rans, reference

PAGE = (Path(entropy.__file__).parent / "FORMAT.md").read_text()
GOLDEN = json.loads((Path(__file__).parent / "golden" / "streams.json").read_text())

TABLE = CdfTable([[4, 8, 3, 1], [10, 6]], [-1, 5], 4)
SYMBOLS, INDEXES = [0, 1, 5, -4, 300], [0, 0, 1, 0, 1]


def on_page(data):
    """True if the page shows these bytes in hexadecimal, however they are spaced."""
    return data.hex() in re.sub(r"\s", "", PAGE.split("## 7.")[1])


def test_worked_example():
    lanes = bytes.fromhex("10 13 b5 88 08 00 ad 70 55 55 4c 02")
    ranged = bytes.fromhex("11 03 ae 24 5b 2f 34")
    assert rans.encode(SYMBOLS, INDEXES, TABLE, lanes=2) == lanes
    assert range_coder.encode(SYMBOLS, INDEXES, TABLE) == ranged
    empty = rans.encode([], [], TABLE), range_coder.encode([], [], TABLE)
    assert TABLE.digest in PAGE
    for data in (TABLE.to_bytes(), lanes, ranged, *empty):
        assert on_page(data)
    rows = reference.read_table(TABLE.to_bytes())[1]
    for j, (symbol, index) in enumerate(zip(SYMBOLS, INDEXES, strict=True)):
        shown = ", ".join(str(i) for i in reference.intervals_of(symbol, rows[index], 4))
        assert f"| {j} | {symbol} | {shown} |" in PAGE


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden_streams(case):
    table = CdfTable.from_bytes(bytes.fromhex(case["table"]))
    stream = bytes.fromhex(case["stream"])
    symbols, indexes = case["symbols"], np.array(case["indexes"], np.int32)
    if case["coder"] == "lanes":
        assert rans.encode(symbols, indexes, table, case["lanes"]) == stream
        assert rans.decode(stream, indexes, table).tolist() == symbols
        assert reference.decode_lanes(stream, case["indexes"], table) == symbols
    else:
        assert range_coder.encode(symbols, indexes, table) == stream
        assert range_coder.decode(stream, indexes, table).tolist() == symbols
        assert reference.decode_range(stream, case["indexes"], table) == symbols
