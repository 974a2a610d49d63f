"""Wrote the golden files, by the reference coder alone. Run again only to add cases, never to change one."""

import hashlib
import json
from pathlib import Path

import numpy as np

from quadrans.entropy import CdfTable, default_scales, gaussian_table, reference, scale_thresholds

HERE = Path(__file__).parent
EXTREMES = [-(1 << 31), (1 << 31) - 1, -40, 40, -(1 << 31) + 1, (1 << 31) - 2]


def tables() -> dict[str, object]:
    means = (np.arange(16) - 8) / 16
    return {
        "scales": hashlib.sha256(default_scales().astype("<f8").tobytes()).hexdigest(),
        "thresholds": hashlib.sha256(scale_thresholds().astype("<f4").tobytes()).hexdigest(),
        "default": gaussian_table().digest,
        "means": gaussian_table(default_scales()[:, None], means).digest,
        "precisions": {str(p): gaussian_table(precision=p).digest for p in range(4, 17)},
    }


def streams() -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    cases = []
    for precision in (4, 8, 14, 16):
        table = gaussian_table([0.3, 1.0, 3.0], [0.0, -0.25, 0.5], precision)
        for lanes in [1, 2, 4, 8, 16, 32, 64, 0]:
            count = 150
            indexes = rng.integers(0, table.rows, count).tolist()
            symbols = (
                np.rint(rng.normal(size=count) * np.array([0.3, 1.0, 3.0])[indexes]).astype(int).tolist()
            )
            for place, symbol in zip(rng.choice(count, 6, replace=False), EXTREMES, strict=True):
                symbols[place] = symbol
            cases.append(case(f"gaussian-p{precision}", table, symbols, indexes, lanes))
    flat = CdfTable([[1] * 15 + [1], [15, 1]], [-7, (1 << 31) - 15], 4)
    cases.append(case("flat", flat, list(range(-10, 10)), [0] * 20, 4))
    cases.append(case("flat", flat, list(range(-10, 10)), [0] * 20, 0))
    cases.append(case("one", flat, [(1 << 31) - 15], [1], 1))
    cases.append(case("one", flat, [(1 << 31) - 15], [1], 0))
    return cases


def case(name: str, table: CdfTable, symbols: list[int], indexes: list[int], lanes: int) -> dict[str, object]:
    """One case; lanes 0 stands for the range coder."""
    if lanes:
        stream = reference.encode_lanes(symbols, indexes, table, lanes)
    else:
        stream = reference.encode_range(symbols, indexes, table)
    return {
        "name": f"{name}-{f'lanes{lanes}' if lanes else 'range'}",
        "coder": "lanes" if lanes else "range",
        "lanes": lanes,
        "table": table.to_bytes().hex(),
        "symbols": symbols,
        "indexes": indexes,
        "stream": stream.hex(),
    }


if __name__ == "__main__":
    (HERE / "tables.json").write_text(json.dumps(tables(), indent=1) + "\n")
    lines = ",\n".join(json.dumps(entry) for entry in streams())
    (HERE / "streams.json").write_text(f"[\n{lines}\n]\n")
