"""From a trained module to a weight file: tensors to float16, the prior of z to an integer table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..entropy import CdfTable
from .density import FactorizedPrior
from .minnen2018 import Minnen2018
from .weights import Weights

SEARCH = 1024
"""Hyper-latent symbols beyond +-SEARCH always go through the escape."""


@torch.no_grad()
def hyper_table(prior: FactorizedPrior) -> CdfTable:
    """One row a channel: the prior's mass at each integer distance from the channel's median.

    Tails of less than 2^-17 on each side are left to the escape. Made once, at export: the integers then
    travel with the weights, since torch's exponentials may round differently on another machine.
    """
    exact = FactorizedPrior(len(prior.medians)).double()
    exact.load_state_dict({key: value.double() for key, value in prior.state_dict().items()})
    distance = torch.arange(-SEARCH, SEARCH + 1, dtype=torch.float64)
    mass = exact.likelihood(exact.medians[:, None, None] + distance)[:, 0].numpy()
    pmfs, offsets = [], []
    for row in mass:
        first = min(int(np.searchsorted(np.cumsum(row), 2.0**-17)), SEARCH)
        last = max(2 * SEARCH - int(np.searchsorted(np.cumsum(row[::-1]), 2.0**-17)), SEARCH)
        pmfs.append(row[first : last + 1])
        offsets.append(first - SEARCH)
    return CdfTable.from_pmf(pmfs, np.array(offsets, np.int32))


def export_weights(net: Minnen2018, name: str, info: Mapping[str, str]) -> Weights:
    """The module's weights as they are shipped. float16 keeps 11 bits of each, and halves the file.

    Raises ValueError if a value is not finite in float16.
    """
    tensors = {key: value.detach().cpu().half() for key, value in net.state_dict().items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"tensor {key} holds values beyond float16's 65504, or not finite")
    rounded = Minnen2018(net.n, net.m)
    rounded.load_state_dict(tensors)
    arrays = {key: value.numpy() for key, value in tensors.items()}
    return Weights(name, "minnen2018", arrays, hyper_table(rounded.entropy_bottleneck), dict(info))
