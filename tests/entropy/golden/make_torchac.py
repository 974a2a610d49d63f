"""Wrote torchac.json with torchac itself. Run again only to add cases, never to change one."""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torchac

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from torchac_cases import CASES, Job, job, torchac_version  # noqa: E402


def stream(case: Job) -> bytes:
    case = case._replace(cdf=torch.from_numpy(case.cdf), symbols=torch.from_numpy(case.symbols))
    data = case.encode(torchac)
    assert torch.equal(case.decode(torchac, data), case.symbols)
    return data


if __name__ == "__main__":
    digests = [hashlib.sha256(stream(job(seed))).hexdigest()[:32] for seed in range(CASES)]
    lines = ",\n".join(map(json.dumps, digests))
    (HERE / "torchac.json").write_text(
        f'{{"version": {json.dumps(torchac_version())},\n"streams": [\n{lines}\n]}}\n'
    )
