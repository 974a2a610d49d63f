"""Wrote compressai.json with CompressAI's own coder. Run again only to add cases, never to change one."""

import json
import math
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from compressai_wheel import (  # noqa: E402
    INT32_MAX,
    INT32_MIN,
    Rows,
    ask,
    random_rows,
    random_symbols,
    raw_values,
    survives,
    wheel_version,
)

from quadrans.entropy import CdfTable, reference_rans64  # noqa: E402

THREE = ([[0, 16384, 49152, 61440, 65536], [0, 40960, 65536, 0, 0]], [5, 3], [-1, 5])


def gaussian(scale: float) -> list[float]:
    """Masses of a rounded Gaussian as CompressAI tabulates them, the tails last."""
    reach = math.ceil(6.1 * scale)
    cdf = [0.5 * math.erfc(-(k - 0.5) / scale / math.sqrt(2)) for k in range(-reach, reach + 2)]
    return np.float32([*np.diff(cdf), 2 * cdf[0]]).tolist()


def pmfs() -> list[dict]:
    rng = np.random.default_rng(1)
    cases = [(gaussian(scale), 16) for scale in (0.11, 0.3, 1, 2.5)]
    cases += [
        ([1.0], 16),
        ([0.25] * 4, 2),
        ([0.5 / 65536, 1.5 / 65536, 2.5 / 65536, 1], 16),
        ([0, 0, 1, 0], 8),
    ]
    cases += [([3.0, 0.2, 0.0, 7.0], 12), ([40000.0, 20000.0], 16), ([-0.0, 1e-30, 1.0], 16)]
    cases += [((rng.random(40) ** 20).astype(np.float32).tolist(), precision) for precision in (6, 10, 16)]
    cases += [([math.exp(-k) for k in range(30)], 16), ([0.0, 0.0], 16), ([0.1, -0.1], 16)]
    answers = ask([("pmf", *case) for case in cases])
    return [
        {"pmf": pmf, "precision": precision, "cdf": cdf}
        for (pmf, precision), cdf in zip(cases, answers, strict=True)
    ]


def jobs() -> list[tuple[str, Rows, list[int], list[int]]]:
    cdfs = ask([("pmf", gaussian(scale), 16) for scale in (0.2, 1, 3)])
    width = max(map(len, cdfs))
    gaussians = (
        [cdf + [0] * (width - len(cdf)) for cdf in cdfs],
        [len(cdf) for cdf in cdfs],
        [-(len(cdf) - 3) // 2 for cdf in cdfs],
    )
    rng = np.random.default_rng(2)
    cases = [
        (f"gaussian-{reach}", gaussians, *random_symbols(rng, gaussians, 150, reach)) for reach in (4, 27)
    ]
    for k in range(20):
        rows = random_rows(rng)
        size, reach = int(rng.choice([3, 20, 60])), int(rng.choice([4, 12, 27]))
        cases.append((f"random-{k}", rows, *random_symbols(rng, rows, size, reach)))
    low, high = ([[0, 9, 65535, 65536]], [4], [INT32_MIN]), ([[0, 9, 65536]], [3], [INT32_MAX])
    cases += [
        ("page", THREE, [0, 1, 5, -4, 300], [0, 0, 1, 0, 1]),
        ("empty", THREE, [], []),
        ("one symbol", THREE, [0], [0]),
        ("two symbols", THREE, [-1, 5], [0, 1]),
        ("one escape", THREE, [2], [0]),
        ("no nibbles", THREE, [2, 6, 2, 6], [0, 1, 0, 1]),
        ("last of 7 nibbles", THREE, [-(1 << 27) - 1, (1 << 27) + 1, 0], [0, 0, 0]),
        ("first of 8 nibbles", THREE, [-(1 << 27) - 2, (1 << 27) + 2, 0], [0, 0, 0]),
        ("last that its decoder reads", THREE, [-(1 << 30) - 1, (1 << 30) + 1, 0], [0, 0, 0]),
        ("first that it doesn't", THREE, [-(1 << 30) - 2, (1 << 30) + 2, 0], [0, 0, 0]),
        ("limits", THREE, [INT32_MIN, INT32_MAX] * 3, [0, 1, 1, 0, 1, 1]),
        ("around the limits, low", low, [INT32_MIN, INT32_MAX, INT32_MAX - 99, INT32_MIN + 2], [0] * 4),
        ("around the limits, high", high, [INT32_MAX, INT32_MIN, INT32_MIN + 99, INT32_MAX - 1], [0] * 4),
    ]
    return cases


def streams() -> list[dict]:
    """encoder, decoder: what of the wheel was seen to give these bytes, and these symbols."""
    cases = []
    for name, rows, symbols, indexes in jobs():
        stream = reference_rans64.encode(symbols, indexes, CdfTable.from_cdf(*rows))
        raws = raw_values(rows, symbols, indexes)
        encoder, decoder = survives(raws, stream), bool(raws.max(initial=0) < 1 << 31)
        if encoder:
            assert ask([("encode", rows, [(symbols, indexes)])]) == [stream], name
        if decoder:
            assert ask([("decode", rows, stream, [indexes])]) == [symbols], name
        cases.append(
            {
                "name": name,
                "encoder": encoder,
                "decoder": decoder,
                "cdfs": rows[0],
                "lengths": rows[1],
                "offsets": rows[2],
                "symbols": symbols,
                "indexes": indexes,
                "stream": stream.hex(),
            }
        )
    return cases


if __name__ == "__main__":
    parts = [f'"version": {json.dumps(wheel_version())}']
    for name, cases in (("streams", streams()), ("pmfs", pmfs())):
        lines = ",\n".join(map(json.dumps, cases))
        parts.append(f'"{name}": [\n{lines}\n]')
    (HERE / "compressai.json").write_text("{" + ",\n".join(parts) + "}\n")
