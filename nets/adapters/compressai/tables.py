"""The tables of CompressAI's entropy models as ours, and whether they still are those of the weights.

    checked(model)                       # TablesMissing or StaleWeights, naming the module and what mends it
    table = bottleneck_table(model.entropy_bottleneck)

A table is made once, and again whenever what it is made of has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from copy import deepcopy
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.entropy_models.entropy_models import EntropyModel
from numpy.typing import NDArray
from torch import Tensor, nn

from ....entropy import CdfTable
from ....entropy.rans64 import PRECISION, pmf_to_quantized_cdf
from ...stale import StaleWeights
from .quantization import ScaleIndexes

TOLERANCE = 16
"""How far, in units of 2**-16, cumulative probabilities may be from those of the weights.

What update() computes in another precision or release, or on another machine, is within 2; one step of Adam
at a rate of 1e-4 goes beyond 20.
"""
NARROW_TOLERANCE = 2048
"""The same for weights of less than 32 bits, whose rounding, as `half()` does it, left tables as they were.

Rounding to half or bfloat16 moves some by 136, and tables made from bfloat16 are up to 600 off.
"""

_SUMS = 8
"""By how many units rounding may change the sum of a row."""
_BUFFERS = ("_quantized_cdf", "_cdf_length", "_offset")
MEND = "run model.update(force=True), then accelerate(model) again"


class TablesMissing(ValueError):
    """An entropy model whose tables were never built, so that nothing can be coded yet."""


_Made = TypeVar("_Made", CdfTable, ScaleIndexes)
_Contents = list[tuple[torch.dtype, torch.Size, bytes]]
"""All values that something was made of."""

_tables: WeakKeyDictionary[EntropyModel, tuple[_Contents, CdfTable]] = WeakKeyDictionary()
_searches: WeakKeyDictionary[EntropyModel, tuple[_Contents, ScaleIndexes]] = WeakKeyDictionary()


def checked(model: nn.Module) -> None:
    """Makes sure that bottlenecks and conditionals of the model have tables, those of their weights.

    Raises TablesMissing, StaleWeights, or ValueError for buffers that are no tables, naming the module. Of
    subclasses nothing is known; mixtures have no tables, but a row for every symbol.
    """
    for name, module in model.named_modules():
        if type(module) in (EntropyBottleneck, GaussianConditional):
            _table(module, name)


def bottleneck_table(bottleneck: EntropyBottleneck) -> CdfTable:
    """Its table of precision 16, a row for each channel. Raises as `checked`."""
    return _table(bottleneck)


def conditional_table(conditional: GaussianConditional) -> CdfTable:
    """Its table of precision 16, a row for each scale. Raises as `checked`."""
    return _table(conditional)


def scale_indexes(conditional: GaussianConditional) -> ScaleIndexes:
    """Its `build_indexes`, made once. Raises TablesMissing if it has no scales yet."""
    source = [_scales(conditional), conditional.lower_bound_scale.bound]
    return _current(_searches, conditional, source, lambda: ScaleIndexes(*source))


def _scales(conditional: GaussianConditional) -> Tensor:
    if not conditional.scale_table.numel():
        raise TablesMissing(f"{_called(conditional)} has no scale table; {MEND}")
    return conditional.scale_table


def _table(module: EntropyModel, name: str = "") -> CdfTable:
    if not all(getattr(module, buffer).numel() for buffer in _BUFFERS):
        raise TablesMissing(f"tables of {_called(module, name)} were never built; {MEND}")
    source = [getattr(module, buffer) for buffer in _BUFFERS]
    source += [module.scale_table] if isinstance(module, GaussianConditional) else module.parameters()
    return _current(_tables, module, source, lambda: _fresh_table(module, name))


def _fresh_table(module: EntropyModel, name: str) -> CdfTable:
    try:
        table = CdfTable.from_cdf(*(getattr(module, buffer).cpu().numpy() for buffer in _BUFFERS))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_called(module, name)} has no legal tables: {error}; {MEND}") from error
    if reason := _staleness(module, table):
        raise StaleWeights(f"tables of {_called(module, name)} aren't those of its weights: {reason}; {MEND}")
    return table


def _current(
    made: MutableMapping[EntropyModel, tuple[_Contents, _Made]],
    module: EntropyModel,
    source: Iterable[Tensor],
    make: Callable[[], _Made],
) -> _Made:
    """What was made for a module, or is now, if the values of its source aren't the same any more."""
    contents = [(one.dtype, one.shape, _bytes(one)) for one in source]
    before = made.get(module)
    if before is None or before[0] != contents:
        before = made[module] = (contents, make())
    return before[1]


def _bytes(tensor: Tensor) -> bytes:
    data = tensor.detach().cpu()
    # What NumPy has no type for is as wide as an integer.
    return (data.view(torch.int16) if data.dtype == torch.bfloat16 else data).numpy().tobytes()


def _called(module: EntropyModel, name: str = "") -> str:
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def _staleness(module: EntropyModel, table: CdfTable) -> str:
    """In what a table differs from what update() would make, or nothing.

    Weights of less than 32 bits don't tell how many symbols a row has, only about how likely these are.
    """
    gaussian = isinstance(module, GaussianConditional)
    narrow = (module.scale_table if gaussian else module.quantiles).dtype.itemsize < 4
    tolerance = NARROW_TOLERANCE if narrow else TOLERANCE
    if narrow:
        module = deepcopy(module).float()
    what = "scale" if gaussian else "channel"
    cdf, lengths, offsets = table.to_cdf()
    with torch.inference_mode():
        first, count = (_gaussian_range if gaussian else _bottleneck_range)(module)
        if len(first) != table.rows:
            return f"{table.rows} rows, not {len(first)}"
        other = (count.cpu().numpy() != lengths - 2) | (first.cpu().numpy() != offsets)
        if other.any() and not narrow:
            r = int(other.argmax())
            old = f"{lengths[r] - 2} symbols from {offsets[r]} on"
            return f"{what} {r} has {old}, not {count[r]} from {first[r]} on"
        # The table's: wrong weights may ask for any.
        first, columns = torch.from_numpy(offsets).to(first.device), int(lengths.max()) - 2
        pmf, tails = (_gaussian_masses if gaussian else _bottleneck_masses)(module, first, columns)
    for r, length in enumerate(lengths):
        masses = torch.cat((pmf[r, : length - 2], tails[r])).double().cpu().numpy()
        try:
            distance = _distance(cdf[r, :length], masses, tolerance)
        except ValueError as error:
            return f"{what} {r}: {error}"
        if distance > tolerance:
            return f"{what} {r} is off by {distance} / 65536"
    return ""


def _distance(cdf: NDArray[np.int32], masses: NDArray[np.float64], tolerance: int) -> int:
    """How far cumulative frequencies are from those of the masses, or something within tolerance if they are.

    CompressAI's quantization rounds the masses and divides by their sum, rounding down. So where a single one
    is rounded otherwise, every frequency may change by 1, and cumulative ones by as much as there are
    cells. The greatest mass is therefore tried with a few units more and less.
    """
    least = 1 << PRECISION
    for units in sorted(range(-_SUMS, _SUMS + 1), key=abs):
        tried = masses.copy()
        tried[tried.argmax()] += units / (1 << PRECISION)
        least = min(least, int(np.abs(cdf - pmf_to_quantized_cdf(tried)).max()))
        if least <= tolerance:
            break
    return least


def _gaussian_range(module: GaussianConditional) -> tuple[Tensor, Tensor]:
    """(least symbol, number of symbols) of each row, int32 (rows,)."""
    multiplier = -module._standardized_quantile(module.tail_mass / 2)
    center = torch.ceil(module.scale_table * multiplier).int()
    return -center, 2 * center + 1


def _gaussian_masses(module: GaussianConditional, first: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """(masses (rows, columns) of the symbols, masses (rows, 1) of the escape)."""
    distance = torch.abs(torch.arange(columns, device=first.device) + first[:, None]).float()
    scale = module.scale_table[:, None].float()
    upper = module._standardized_cumulative((0.5 - distance) / scale)
    lower = module._standardized_cumulative((-0.5 - distance) / scale)
    return upper - lower, 2 * lower[:, :1]


def _bottleneck_range(module: EntropyBottleneck) -> tuple[Tensor, Tensor]:
    """As `_gaussian_range`, a row for each channel."""
    low, median, high = module.quantiles[:, 0].unbind(1)
    below, above = (torch.ceil(half).int().clamp(min=0) for half in (median - low, high - median))
    return -below, above + below + 1


def _bottleneck_masses(module: EntropyBottleneck, first: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """As `_gaussian_masses`."""
    start = module.quantiles[:, :, 1:2] + first[:, None, None]
    samples = torch.arange(columns, device=first.device) + start
    lower = module._logits_cumulative(samples - 0.5, stop_gradient=True)[:, 0]
    upper = module._logits_cumulative(samples + 0.5, stop_gradient=True)[:, 0]
    return torch.sigmoid(upper) - torch.sigmoid(lower), torch.sigmoid(lower[:, :1]) + torch.sigmoid(
        -upper[:, -1:]
    )
