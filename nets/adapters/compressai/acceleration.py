"""`accelerate`: a CompressAI model, the same object, with a fast `compress` and `decompress`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from .anatomy import anatomy_of
from .entropy_models import override, restore
from .lanes import Lanes
from .tables import checked

ModelT = TypeVar("ModelT", bound=nn.Module)

STREAMS = ("lanes", "compressai")

_RECORD = "_quadrans_acceleration"
"""Where a model keeps its `_Acceleration`."""


@dataclass
class _Acceleration:
    """What is put on a model. It goes with copies and pickles of the model, of which it then is."""

    lanes: Lanes | None
    """None: stream="compressai"."""

    def put(self, model: Any) -> None:
        if self.lanes is None:
            override(model)
        else:
            model.compress, model.decompress = self.lanes.compress, self.lanes.decompress
        setattr(model, _RECORD, self)

    def take(self, model: Any) -> None:
        if self.lanes is None:
            restore(model)
        else:
            del model.compress, model.decompress
        delattr(model, _RECORD)


def accelerate(model: ModelT, stream: str = "lanes", *, threads: int = 1, device: str = "cpu") -> ModelT:
    """The model itself, with `compress` and `decompress` that take the same arguments and do it faster.

    stream: "lanes" decodes to the same y_hat on every machine: what decides distributions is lowered to exact
    kernels, contexts in raster scan run by wavefronts, and strings are quadrans' own, one for y and one for z
    of each image. "compressai" gives CompressAI's bytes, and reads them: parameters come from the model's own
    modules as before. Transforms stay in torch where they are, in both. For models that decode position by
    position "lanes" is by far the fastest; for others the time of both is mostly that of the networks.

    threads, device: of the exact part of "lanes", where the number of threads changes nothing but the time,
    and device is "cpu" or "cuda"; torch decides both for "compressai". An accelerated model can be
    accelerated again, with another stream. Its deep copies and pickles are accelerated, too, and by
    themselves; what `copy.copy` makes shares its modules and coder. Its parameters and state dict stay as
    they are.

    Raises TablesMissing if the model's `update` never ran, StaleWeights if weights changed since, as do
    `compress` and `decompress` later; of weights of less than 32 bits, whose rounding says little about
    their tables, it finds only that they give quite other distributions. TypeError naming a module that
    "lanes" doesn't know; ValueError for another stream, a device that can't be used, and threads or a device
    for "compressai". The model is then as it was.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {', '.join(STREAMS)}, not {stream!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be a number of at least 1, not {threads!r}")
    _check_device(device)
    if stream == "compressai" and (threads, str(device)) != (1, "cpu"):
        raise ValueError(
            f'{threads} threads on {device}: stream="compressai" runs where torch runs the model, whose '
            'threads torch.set_num_threads sets; threads and device are of stream="lanes"'
        )
    before: _Acceleration | None = vars(model).get(_RECORD)
    decelerate(model)
    try:
        checked(model)
        lanes = Lanes(model, anatomy_of(model), threads, device) if stream == "lanes" else None
        _Acceleration(lanes).put(model)
    except BaseException:
        if before is not None:
            before.put(model)
        raise
    return model


def _check_device(device: Any) -> None:
    try:
        known = torch.device(device).type in ("cpu", "cuda")
    except (RuntimeError, TypeError):
        known = False
    if not known:
        raise ValueError(f"device must be cpu or cuda, not {device!r}")


def decelerate(model: ModelT) -> ModelT:
    """The model itself, with CompressAI's own `compress` and `decompress` again."""
    done: _Acceleration | None = vars(model).get(_RECORD)
    if done is not None:
        done.take(model)
    return model
