"""Wrote the golden files, by the reference coder alone. Run again only to add cases, never to change one."""

import hashlib
import json
from pathlib import Path

import numpy as np

from quadrans.entropy import CdfTable, default_scales, gaussian_table, reference, scale_thresholds

HERE = Path(__file__).parent
BUSY = [0.3, 5.0, 100.0]
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


def streams() -> dict[str, object]:
    """Streams of the lanes coder: several jobs, each in every layout. Range coder's: make_range.py."""
    rng = np.random.default_rng(0)
    jobs = {}
    for precision, count, scales in (
        (4, 700, [0.3, 1, 3]),
        (12, 500, [1, 9, 90]),
        (14, 1200, BUSY),
        (16, 500, BUSY),
    ):
        table = gaussian_table(scales, [0.0, -0.25, 0.5], precision)
        indexes = rng.integers(0, table.rows, count)
        symbols = np.rint(rng.normal(size=count) * np.array(scales)[indexes]).astype(int)
        symbols[rng.choice(count, 6, replace=False)] = EXTREMES
        jobs[f"gaussian-p{precision}"] = job(table, symbols.tolist(), indexes.tolist())
    flat = CdfTable([[1] * 15 + [1], [15, 1]], [-7, (1 << 31) - 15], 4)
    jobs["flat"] = job(flat, list(range(-10, 10)), [0] * 20)
    jobs["one"] = job(flat, [(1 << 31) - 15], [1])
    jobs["empty"] = job(flat, [], [])
    layouts = [(lanes, groups) for lanes in (1, 2, 4, 8, 16, 32, 64) for groups in (1, 2, 3)]
    cases = [case(name, jobs[name], lanes, groups) for name in jobs for lanes, groups in layouts]
    cases += [case(name, jobs[name], 8, 130) for name in ("gaussian-p12", "one", "empty")]
    # What the encoder chooses for some 700 bytes: lanes of 300 bytes or more, compact of 1,200.
    cases += [case("gaussian-p14", jobs["gaussian-p14"], 2, 1, compact=False)]
    cases += [case("gaussian-p14", jobs["gaussian-p14"], 1, 1, compact=True)]
    return {"jobs": jobs, "streams": cases}


def job(table: CdfTable, symbols: list[int], indexes: list[int]) -> dict[str, object]:
    return {"table": table.to_bytes().hex(), "symbols": symbols, "indexes": indexes}


def case(name: str, job: dict[str, object], lanes: int, groups: int, **choice: bool) -> dict[str, object]:
    """One stream; with `choice` the layout is also what the encoder is to choose."""
    table = CdfTable.from_bytes(bytes.fromhex(job["table"]))
    stream = reference.encode_lanes(job["symbols"], job["indexes"], table, lanes, groups)
    return {"job": name, "lanes": lanes, "groups": groups, **choice, "stream": stream.hex()}


if __name__ == "__main__":
    (HERE / "tables.json").write_text(json.dumps(tables(), indent=1) + "\n")
    made = streams()
    cases = ",\n".join(json.dumps(entry) for entry in made["streams"])
    jobs = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in made["jobs"].items())
    (HERE / "streams.json").write_text(f'{{"jobs": {{\n{jobs}\n}},\n"streams": [\n{cases}\n]}}\n')
