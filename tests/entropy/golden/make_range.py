"""Wrote range.json, by the reference coder alone. Run again only to add cases, never to change one."""

import json
import sys
from pathlib import Path

import numpy as np

from quadrans.entropy import CdfTable, CorruptStream, TableMismatch, gaussian_table, reference

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from range_cases import BYTES, straddling  # noqa: E402

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
SMALL = CdfTable([[4, 8, 3, 1], [10, 6]], [-1, 5], 4)
# Every number of nibbles that an escape may have, below and above the row.
ESCAPES = [s for n in range(10) for s in (5 + 16**n // 2, 5 - 16**n // 2, 5 + 8 * 16**n, 5 - 8 * 16**n)]


def valid() -> list[dict[str, object]]:
    rng = np.random.default_rng(1)
    cases = []
    scales = [0.2, 1.0, 5.0]
    for precision in (4, 5, 8, 11, 14, 16):
        table = gaussian_table(scales, [0.0, -0.25, 0.5], precision)
        indexes = rng.integers(0, table.rows, 200)
        symbols = np.rint(rng.normal(size=200) * np.array(scales)[indexes]).astype(int)
        symbols[rng.choice(200, 4, replace=False)] = INT32_MIN, INT32_MAX, INT32_MIN + 1, -40
        cases.append(case(f"gaussian-p{precision}", table, symbols.tolist(), indexes.tolist()))
    escapes = [s for s in ESCAPES if INT32_MIN <= s <= INT32_MAX]
    cases.append(case("escapes", SMALL, escapes, [1] * len(escapes)))
    cases.append(case("worked-example", SMALL, [0, 1, 5, -4, 300], [0, 0, 1, 0, 1]))
    cases.append(case("empty", SMALL, [], []))
    cases.append(case("one-of-mass-1", CdfTable([[1, 65534, 1]], [7], 16), [7], [0]))
    cases.append(case("last-int32", CdfTable([[15, 1]], [INT32_MAX], 4), [INT32_MAX] * 3, [0] * 3))
    for name, point in (("half", 1 << 7), ("a-third", 85)):
        symbols, indexes = straddling(24, point, 8)
        for end, what in ((0, "not"), (255, "does")):
            cases.append(case(f"carry-at-{name}-{what}", BYTES, [*symbols, *[end] * 3], [*indexes, 0, 0, 0]))
    return cases


def case(name: str, table: CdfTable, symbols: list[int], indexes: list[int]) -> dict[str, object]:
    stream = reference.encode_range(symbols, indexes, table)
    assert reference.decode_range(stream, indexes, table) == symbols
    return {
        "name": name,
        "table": table.to_bytes().hex(),
        "symbols": symbols,
        "indexes": indexes,
        "stream": stream.hex(),
    }


def corrupt() -> list[dict[str, object]]:
    head = reference.write_header(reference.KIND_RANGE, 4, 0)
    good = reference.encode_range([0, 1, 5, -4, 300], [0, 0, 1, 0, 1], SMALL)
    indexes = [0, 0, 1, 0, 1]
    escape, nibbles = (10, 6), lambda *values: [(value, 1) for value in values]
    illegal = {
        "ten-nibbles": nibbles(10, *[1] * 10),
        "zero-as-last-nibble": nibbles(2, 3, 0),
        "zero-as-only-nibble": nibbles(1, 0),
        "above-int32": nibbles(8, *[14] + [15] * 7, 1),
        "below-int32": nibbles(9, 1, 0, 0, 0, 0, 0, 0, 0, 15),
    }
    thirds = CdfTable([[21845, 43691]], [0], 16)
    streams = [
        ("no-bytes", SMALL, b"", []),
        ("half-a-header", SMALL, head[:1], []),
        ("header-alone", SMALL, head, []),
        ("version-1", SMALL, b"\x11" + good[1:], indexes),
        ("lanes", SMALL, bytes((head[0] - 1,)) + good[1:], indexes),
        ("log2-of-lanes", SMALL, head[:1] + b"\x13" + good[2:], indexes),
        ("precision-3", SMALL, head[:1] + b"\x02" + good[2:], indexes),
        ("precision-5", SMALL, head[:1] + b"\x04" + good[2:], indexes),
        ("truncated", SMALL, good[:-1], indexes),
        ("trailing", SMALL, good + b"\0", indexes),
        ("more-symbols", SMALL, good, indexes * 3),
        ("final-code", SMALL, head + b"\1", []),
        ("outside-all-cells", thirds, bytes((head[0], 15)) + (65536 * 21845 - 1).to_bytes(4, "big"), [0, 0]),
        *(
            (name, SMALL, reference.write_range([escape, *payload], 4), [1])
            for name, payload in illegal.items()
        ),
    ]
    return [damaged(*stream) for stream in streams]


def damaged(name: str, table: CdfTable, stream: bytes, indexes: list[int]) -> dict[str, object]:
    try:
        reference.decode_range(stream, indexes, table)
    except (CorruptStream, TableMismatch) as error:
        return {
            "name": name,
            "table": table.to_bytes().hex(),
            "indexes": indexes,
            "stream": stream.hex(),
            "error": type(error).__name__,
        }
    raise AssertionError(f"{name} is a legal stream")


if __name__ == "__main__":
    lists = ",\n".join(
        f'"{key}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]"
        for key, entries in (("valid", valid()), ("corrupt", corrupt()))
    )
    (HERE / "range.json").write_text(f"{{\n{lists}\n}}\n")
