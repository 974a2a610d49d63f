"""CompressAI's checkpoints: which system of ours a state dict is of, and that system with its weights.

The names of parameters depend on the release that wrote a file. It also holds buffers: constants, which are
checked, and tables that our streams don't use. What is left must be a system's parameters to the last shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError("quadrans.nets.checkpoints needs PyTorch: pip install 'quadrans[codec]'") from error

from ..kernels import causal_mask
from .system import System
from .transforms import PEDESTAL


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or not of a model that is known here."""


@dataclass(frozen=True)
class _Architecture:
    """A model of CompressAI's zoo as one of our systems."""

    module: str
    """Of `systems`."""
    name: str
    """Its class."""
    sizes: Mapping[str, str]
    """Of each size that the class is made with, the parameter whose first axis it is."""
    config: Mapping[str, Any]

    def make(self, shapes: Mapping[str, tuple[int, ...]]) -> System | None:
        """A system on the meta device, of the sizes that these shapes have; None if they have none."""
        sizes = {name: (*shapes.get(key, ()), 0)[0] for name, key in self.sizes.items()}
        if not all(0 < size <= MAX_CHANNELS for size in sizes.values()):
            return None
        with torch.device("meta"):
            return getattr(import_module(f"{__package__}.systems.{self.module}"), self.name)(
                **sizes, **self.config
            )


_FOUR_LAYERS = {"n": "g_a.0.weight", "m": "g_a.6.weight"}
_RESIDUAL_BLOCKS = {"n": "g_a.0.conv1.weight"}
# CompressAI codes what is left of y after its mean, under single Gaussians.
_RESIDUALS = {"rounding": "residual"}

ARCHITECTURES: Mapping[str, _Architecture] = {
    "bmshj2018-factorized": _Architecture("balle2017", "Balle2018Factorized", _FOUR_LAYERS, {}),
    "bmshj2018-factorized-relu": _Architecture(
        "balle2017", "Balle2018Factorized", _FOUR_LAYERS, {"activation": "relu"}
    ),
    "bmshj2018-hyperprior": _Architecture("balle2018", "ScaleHyperprior", _FOUR_LAYERS, {}),
    "mbt2018-mean": _Architecture("minnen2018", "MeanScaleHyperprior", _FOUR_LAYERS, {}),
    "mbt2018": _Architecture("minnen2018", "Minnen2018", _FOUR_LAYERS, _RESIDUALS),
    "cheng2020-anchor": _Architecture(
        "cheng2020", "Cheng2020Anchor", _RESIDUAL_BLOCKS, {"components": None, **_RESIDUALS}
    ),
    "cheng2020-attn": _Architecture(
        "cheng2020", "Cheng2020", _RESIDUAL_BLOCKS, {"components": None, **_RESIDUALS}
    ),
}
"""By their names in CompressAI's zoo."""

_RENAMED = (
    (re.compile(r"^module\."), ""),
    (re.compile(r"\.downsample\."), ".skip."),
    (re.compile(r"^(entropy_bottleneck)\._(?:matrix|matrices\.)(\d)$"), r"\1.matrices.\2"),
    (re.compile(r"^(entropy_bottleneck)\._bias(?:es\.)?(\d)$"), r"\1.biases.\2"),
    (re.compile(r"^(entropy_bottleneck)\._factor(?:s\.)?(\d)$"), r"\1.factors.\2"),
)
"""What older releases and data-parallel training write, and what it is called now."""

_TAIL = math.log(2 / 1e-9 - 1)

_CONSTANTS: Mapping[str, Any] = {
    r"entropy_bottleneck\.target": (-_TAIL, 0.0, _TAIL),
    r"(entropy_bottleneck|gaussian_conditional)\.likelihood_lower_bound\.bound": 1e-9,
    r"gaussian_conditional\.(scale_bound|lower_bound_scale\.bound)": 0.11,
    r".*\.(beta|gamma)_reparam\.pedestal": PEDESTAL,
    r".*\.beta_reparam\.lower_bound\.bound": (1e-6 + PEDESTAL) ** 0.5,
    r".*\.gamma_reparam\.lower_bound\.bound": PEDESTAL**0.5,
    r"context_prediction\.mask": causal_mask(5),
}
"""Buffers by what their names match, and what they must be, since our modules have it as a constant."""

_TABLES = re.compile(
    r"(entropy_bottleneck|gaussian_conditional)\.(_offset|_quantized_cdf|_cdf_length)"
    r"|gaussian_conditional\.scale_table"
)
"""Buffers of tables for CompressAI's own streams."""

MAX_CHANNELS = 1 << 14
SHOWN = 6
"""Names of parameters that an error has at most."""


def load_compressai(source: Mapping[str, Any] | str | Path) -> tuple[str, System]:
    """(name in CompressAI's zoo, the system in float32) of a checkpoint.

    source: a state dict, as a CompressAI module gives it, or the path of a .pth or .pth.tar file that holds
    one, itself or under "state_dict"; no code in it is run. The system's weights are copies. Raises
    CheckpointError, with the names of what doesn't fit, if it is no model of ARCHITECTURES.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source))
    parameters = _parameters(state.get("state_dict", state))
    shapes = {key: tuple(value.shape) for key, value in parameters.items()}
    misfits = {}
    for name, architecture in ARCHITECTURES.items():
        system = architecture.make(shapes)
        if system is None:
            continue
        misfits[name] = _misfits(
            {key: tuple(value.shape) for key, value in system.state_dict().items()}, shapes
        )
        if not misfits[name]:
            system.load_state_dict(parameters, assign=True)
            return name, system
    if not misfits:
        raise CheckpointError(
            f"none of {', '.join(ARCHITECTURES)}: it has {_some(sorted(shapes)) or 'no parameters'}"
        )
    nearest = min(misfits, key=lambda name: len(misfits[name]))
    raise CheckpointError(
        f"none of {', '.join(ARCHITECTURES)}; nearest is {nearest}, but for {_some(misfits[nearest])}"
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except Exception as error:
        # An unpickler doesn't say which errors it has for damaged files.
        raise CheckpointError(f"{path}: not a readable checkpoint of weights alone ({error})") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: a {type(found).__name__}, not a state dict")
    return found


def _parameters(state: Any) -> dict[str, Tensor]:
    """Under today's names and in float32, without buffers. CheckpointError for what isn't a state dict."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"a {type(state).__name__}, not a state dict")
    parameters: dict[str, Tensor] = {}
    for given, value in state.items():
        if not isinstance(given, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{given!r} is a {type(value).__name__}, not a tensor of a state dict")
        if value.layout != torch.strided or value.untyped_storage().nbytes() < value.nbytes:
            raise CheckpointError(
                f"{given} {tuple(value.shape)} isn't dense, or has fewer values than its shape"
            )
        key = given
        for pattern, replacement in _RENAMED:
            key = pattern.sub(replacement, key)
        if key in parameters:
            raise CheckpointError(f"{given} is there under another name, too: {key}")
        if not _is_buffer(key, value):
            parameters[key] = _float32(key, value)
    return parameters


def _is_buffer(key: str, value: Tensor) -> bool:
    """Whether it is a buffer, of which CheckpointError if it isn't what it must be."""
    if _TABLES.fullmatch(key):
        return True
    for pattern, expected in _CONSTANTS.items():
        if re.fullmatch(pattern, key):
            constant = torch.as_tensor(expected, dtype=torch.float64)
            # The mask is stored for each pair of channels, scalars as vectors of one.
            if value.numel() > 0 and not _all_close(value, constant):
                raise CheckpointError(f"{key} isn't {expected}, but {value.flatten()[:SHOWN].tolist()}")
            return True
    return False


def _all_close(value: Tensor, constant: Tensor) -> bool:
    try:
        wide = constant.expand(value.shape)
    except RuntimeError:
        return False
    # A checkpoint in half precision has them rounded, too.
    kind = torch.finfo(value.dtype if value.is_floating_point() else torch.float64)
    return bool(torch.allclose(value.double(), wide, rtol=max(1e-4, kind.eps), atol=kind.tiny))


def _float32(key: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise CheckpointError(f"{key} {tuple(value.shape)} is of {value.dtype}, not of floats")
    single = value.detach().to("cpu", torch.float32, copy=True)
    bad = value.numel() - int(torch.isfinite(single).sum())
    if bad:
        raise CheckpointError(f"{bad} values of {key} {tuple(value.shape)} aren't finite in float32")
    return single


def _misfits(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is missing, shaped otherwise, or not expected, as words."""
    missing = [f"{key} missing" for key in expected if key not in found]
    unknown = [f"{key} unknown" for key in found if key not in expected]
    shaped = [
        f"{key} of shape {found[key]}, not {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    return missing + shaped + unknown


def _some(words: list[str]) -> str:
    rest = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
