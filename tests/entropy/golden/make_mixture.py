"""Wrote mixture.json and families.json, streams by the reference alone. Run again only to add cases."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from mixture_cases import digest, golden_job  # noqa: E402

from quadrans.entropy import default_scales, mixture  # noqa: E402
from quadrans.entropy import reference_mixture as plain  # noqa: E402
from quadrans.entropy.symmetric import laplace_table, logistic_table  # noqa: E402


def mixtures() -> dict[str, object]:
    symbols, *floats = golden_job()
    columns = (part.T.tolist() for part in floats)
    rows = [plain.quantize(*one) for one in zip(*columns, strict=True)]
    weights, means, codes = np.array(rows).transpose(2, 1, 0)
    return {
        "phi": digest(mixture.phi_table().astype(np.uint32)),
        "parameters": digest(weights.astype(np.uint16), means.astype(np.int32), codes.astype(np.uint16)),
        "streams": {
            f"{lanes}x{groups}": hashlib.sha256(
                plain.encode(symbols.tolist(), rows, lanes, groups)
            ).hexdigest()
            for lanes, groups in ((1, 1), (8, 1), (16, 3))
        },
    }


def families() -> dict[str, object]:
    means = (np.arange(16) - 8) / 16
    return {
        name: {
            "means": build(default_scales()[:, None], means).digest,
            "precisions": {str(p): build(default_scales(), precision=p).digest for p in range(4, 17)},
        }
        for name, build in (("laplace", laplace_table), ("logistic", logistic_table))
    }


if __name__ == "__main__":
    for name, golden in (("mixture", mixtures()), ("families", families())):
        (HERE / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")
