"""Which of a CompressAI model's modules code its latent, and refusals of what isn't known.

A model is known by the very methods with which it compresses and decompresses: what it does with the modules
that they use is known then, whatever these are. Latent codecs are known by their classes. Whatever else is
refused, by its name, rather than coded in another way than it was trained for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from compressai.entropy_models import EntropyBottleneck
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    EntropyBottleneckLatentCodec,
    HyperLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.layers import MaskedConv2d
from compressai.models.base import SimpleVAECompressionModel
from compressai.models.google import (
    FactorizedPrior,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from torch import Tensor, nn

from ...stale import describe

SCALES_MEANS = ("scales", "means")


@dataclass(frozen=True)
class Anatomy:
    """Where a model keeps what codes its latent: names of modules."""

    bottleneck: str
    h_a: str | None = None
    """None: the bottleneck codes y itself."""
    absolute: bool = False
    """Whether h_a reads |y|."""
    h_s: str | None = None
    chunks: tuple[str, ...] = SCALES_MEANS
    """What h_s gives, if nothing else does."""
    serial: bool = False
    """Whether the model itself has a context of y and goes through its positions."""
    codec: str | None = None
    """The latent codec that codes y and z, if there is one, and the model gives results in its structure."""

    @property
    def exact(self) -> tuple[str, ...]:
        """The modules that decide distributions."""
        if self.h_s is None:
            return (self.bottleneck,)
        if self.codec:
            return self.bottleneck, self.h_s, f"{self.codec}.y"
        context = ("context_prediction", "entropy_parameters") if self.serial else ()
        return self.bottleneck, self.h_s, "gaussian_conditional", *context


_COMPRESS = ("compress", "decompress")
_MODELS: Sequence[tuple[type[nn.Module], tuple[str, ...], Anatomy]] = (
    (FactorizedPrior, _COMPRESS, Anatomy("entropy_bottleneck")),
    (
        ScaleHyperprior,
        _COMPRESS,
        Anatomy("entropy_bottleneck", "h_a", absolute=True, h_s="h_s", chunks=("scales",)),
    ),
    (MeanScaleHyperprior, _COMPRESS, Anatomy("entropy_bottleneck", "h_a", h_s="h_s")),
    (
        JointAutoregressiveHierarchicalPriors,
        (*_COMPRESS, "_compress_ar", "_decompress_ar"),
        Anatomy("entropy_bottleneck", "h_a", h_s="h_s", serial=True),
    ),
)
"""Classes, their methods by which a model is known, and what these methods use."""


def anatomy_of(model: Any) -> Anatomy:
    """Where the model keeps what codes its latent. TypeError, with the reason, if it isn't known."""
    kind = type(model)
    for known, names, own in _MODELS:
        if all(getattr(kind, name, None) is getattr(known, name) for name in names):
            methods, found = names, own
            break
    else:
        if any(getattr(kind, name, 0) is not getattr(SimpleVAECompressionModel, name) for name in _COMPRESS):
            raise unknown(model, "", "compresses in a way of its own")
        methods, found = _COMPRESS, _codec_anatomy(model.latent_codec)
    refuse_overrides(model, "", methods)
    check(model.get_submodule(found.bottleneck), found.bottleneck, EntropyBottleneck)
    return found


def _codec_anatomy(codec: Any) -> Anatomy:
    path = "latent_codec"
    if type(codec) is EntropyBottleneckLatentCodec:
        refuse_overrides(codec, path)
        return Anatomy(f"{path}.entropy_bottleneck", codec=path)
    check(codec, path, HyperpriorLatentCodec)
    refuse_others(codec, path, "y", "hyper")
    hyper = f"{path}.hyper"
    check(codec.hyper, hyper, HyperLatentCodec)
    return Anatomy(f"{hyper}.entropy_bottleneck", f"{hyper}.h_a", h_s=f"{hyper}.h_s", codec=path)


def watched(model: nn.Module, found: Anatomy) -> dict[str, Tensor | str]:
    """By name, all tensors that decide distributions, as they are now, and descriptions of their modules.

    Of a masked convolution only what its mask leaves, since CompressAI's own `forward` writes the rest.
    """
    tensors: dict[str, Tensor | str] = {}
    for path in found.exact:
        for name, module in model.get_submodule(path).named_modules(prefix=path, remove_duplicate=False):
            tensors[name] = describe(module)
            own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
            if isinstance(module, MaskedConv2d):
                # Adding zero makes one of what is masked, whatever its sign was.
                own["weight"] = module.weight.detach() * own.pop("mask") + 0
            tensors.update((f"{name}.{key}", tensor) for key, tensor in own.items())
    return tensors


def y_shape(codec: nn.Module, y: Tensor) -> Any:
    """What CompressAI's latent codec of y gives as its shape."""
    if isinstance(codec, ChannelGroupsLatentCodec):
        parts = y.split(codec.groups, 1)
        return [y_shape(codec.latent_codec[f"y{k}"], part) for k, part in enumerate(parts)]
    return y.shape[1:] if isinstance(codec, CheckerboardLatentCodec) else y.shape[2:4]


def check(module: nn.Module, path: str, *kinds: type[nn.Module]) -> None:
    """Raise TypeError unless a module is of one of these very classes, and as the class has it."""
    if type(module) not in kinds:
        raise unknown(module, path, f"isn't of class {' or '.join(kind.__name__ for kind in kinds)}")
    refuse_overrides(module, path)


def refuse_overrides(module: nn.Module, path: str, methods: Iterable[str] = ()) -> None:
    """Raise TypeError if an instance has methods of its own in place of its class's: of these, or of any."""
    kind = type(module)
    # What groups read by a merge_y of their own, `translate` finds out.
    known = "merge_y" if kind is ChannelGroupsLatentCodec else None
    for name in methods or vars(module):
        if name != known and name in vars(module) and callable(getattr(kind, name, None)):
            raise unknown(module, path, f"has a {name} of its own")


def refuse_others(codec: Any, path: str, *names: str) -> None:
    """Raise TypeError unless the codecs that it runs are those that it has as modules."""
    for name in names:
        if codec.latent_codec[name] is not getattr(codec, name):
            raise unknown(codec, path, f"has another {name} in its latent_codec than as its module")


def unknown(module: nn.Module, path: str, reason: str) -> TypeError:
    """The error for what can't be coded exactly."""
    return TypeError(
        f'{path or "the model"} ({type(module).__name__}) {reason}: it can\'t be coded with stream="lanes"'
    )
