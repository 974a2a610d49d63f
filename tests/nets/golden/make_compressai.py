"""Wrote compressai_models.json with CompressAI's own models. Run again only to add cases.

python tests/nets/golden/make_compressai.py
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from compressai_models import ARCHITECTURES, ask  # noqa: E402

if __name__ == "__main__":
    answers = dict(zip(ARCHITECTURES, ask(list(ARCHITECTURES)), strict=True))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in answers.items())
    text = f'{{"version": {json.dumps(version("compressai"))},\n{lines}}}\n'
    (HERE / "compressai_models.json").write_text(text)
