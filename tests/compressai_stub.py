"""Stands in for what CompressAI's data sets and training import, to import all the rest of it without.

The models, latent codecs, entropy models, zoo and both extensions stay the real ones.
"""

import importlib.util
import sys
from unittest.mock import MagicMock

UNUSED = (
    "compressai.datasets",
    "compressai.losses",
    "compressai.optimizers",
    "compressai.transforms",
    "compressai.transforms.functional",
    "torch_geometric",
    "torch_geometric.transforms",
    "torchvision",
    "torchvision.transforms",
)
OPTIONAL = ("einops",)


def stub_unused() -> None:
    """Call it before the first import of compressai. What is imported already stays; calls add up to one."""
    missing = [name for name in OPTIONAL if name not in sys.modules and not importlib.util.find_spec(name)]
    for name in (*UNUSED, *missing):
        sys.modules.setdefault(name, MagicMock(name=name))
