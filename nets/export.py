"""From a trained module to a weight file: tensors to float16, priors to integer tables."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import torch

from ..entropy import CdfTable
from .density import Prior
from .registry import architecture_of
from .system import System
from .weights import Weights

SEARCH = 1024
"""Symbols of side information beyond +-SEARCH always go through the escape."""

PRECISIONS = {"float16": torch.float16, "float32": torch.float32}


@torch.no_grad()
def prior_table(prior: Prior) -> CdfTable:
    """One row a channel: the prior's mass at each integer distance from the channel's median.

    Tails of less than 2^-17 on each side are left to the escape. Made once, at export: the integers then
    travel with the weights, since torch's exponentials may round differently on another machine.
    """
    exact = deepcopy(prior).cpu().double()
    distance = torch.arange(-SEARCH, SEARCH + 1, dtype=torch.float64)
    mass = exact.likelihood(exact.medians[:, None, None] + distance)[:, 0].numpy()
    pmfs, offsets = [], []
    for row in mass:
        first = min(int(np.searchsorted(np.cumsum(row), 2.0**-17)), SEARCH)
        last = max(2 * SEARCH - int(np.searchsorted(np.cumsum(row[::-1]), 2.0**-17)), SEARCH)
        pmfs.append(row[first : last + 1])
        offsets.append(first - SEARCH)
    return CdfTable.from_pmf(pmfs, np.array(offsets, np.int32))


def export_weights(system: System, name: str, info: Mapping[str, str], precision: str = "float16") -> Weights:
    """The system's weights as they are shipped. float16 keeps 11 bits of each, and halves the file.

    Raises ValueError if a value is not finite in that precision.
    """
    dtype = PRECISIONS[precision]
    tensors = {key: value.detach().cpu().to(dtype) for key, value in system.state_dict().items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            limit = torch.finfo(dtype).max
            raise ValueError(f"tensor {key} holds values beyond {precision}'s {limit}, or not finite")
    rounded = deepcopy(system).cpu()
    rounded.load_state_dict(tensors)
    tables = {name: prior_table(side.prior) for name, side in rounded.sides().items()}
    arrays = {key: value.numpy() for key, value in tensors.items()}
    return Weights(name, architecture_of(system), dict(system.config), arrays, tables, dict(info))
