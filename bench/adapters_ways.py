"""What `quadrans bench adapters` runs: CompressAI and torchac as they are, and with our code in their place.

Weights are random, around scales that make the rate a plausible one; latents are drawn at these scales.
Transforms are left out: a model's analysis gives a latent drawn before, its synthesis keeps what it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..nets.adapters import torchac as our_torchac
from ..nets.adapters.compressai import installed
from ..nets.backend import EntropyBackend
from .coders import cdfs, torchac
from .decoders import compressai_models
from .plausible import channel_scales
from .workloads import gaussians

STRIDE = 64
"""Pixels between positions of z; 16 between those of y."""

Z_STD = 2.0

BITS = 0.6
"""Of a symbol that torchac codes, about."""


@dataclass(frozen=True)
class Load:
    """n, m: channels of z and y. width, height: of the image, in pixels. symbols: those for torchac."""

    n: int
    m: int
    width: int
    height: int
    symbols: int

    @property
    def positions(self) -> tuple[int, int]:
        """Height and width of z."""
        return -(-self.height // STRIDE), -(-self.width // STRIDE)


@dataclass(frozen=True, eq=False)
class Job:
    """encode() and decode(what it gave) are timed; the other two are not.

    strings: the bytes in what encode gave. values: what was decoded, in NumPy; raises AssertionError where
    it can't be what was encoded. count: symbols.
    """

    encode: Callable[[], Any]
    decode: Callable[[Any], Any]
    strings: Callable[[Any], list[bytes]]
    values: Callable[[Any], NDArray]
    count: int


@dataclass(frozen=True)
class Way:
    """One way to do a table's work. same: whether bytes and values must be those of the table's first."""

    name: str
    about: str
    prepare: Callable[[Load], Job]
    peer: str | None = None
    same: bool = True
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Comparison:
    """A table. size: of its image, unless another is asked for. compared: whether all do the same work."""

    about: str
    ways: tuple[Way, ...]
    size: tuple[int, int] = (768, 512)
    compared: bool = True


def near(y: NDArray[np.float32], y_hat: Tensor) -> NDArray:
    """y_hat, which must be y but for rounding: any wrong symbol would move it by one or more."""
    found = y_hat.numpy()
    if found.shape != y.shape:
        raise AssertionError(f"the latent is {found.shape}, not {y.shape}")
    if wrong := int(np.count_nonzero(~(np.abs(found - y) < 0.501))):
        raise AssertionError(f"the round trip failed: {wrong} of {y.size} elements are wrong")
    return found


# CompressAI


class Given(nn.Module):
    """An analysis that has been done already."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.register_buffer("y", y, persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.y


class Kept(nn.Module):
    """A synthesis that nobody waits for."""

    y_hat: Tensor

    def forward(self, y_hat: Tensor) -> Tensor:
        self.y_hat = y_hat
        return torch.zeros(1)


def latent(m: int, height: int, width: int) -> Tensor:
    """(1, m, height, width) float32, not rounded, of another scale in each channel."""
    noise = np.random.default_rng((height, width)).standard_normal((1, m, height, width), np.float32)
    return channel_scales(m) * torch.from_numpy(noise)


@cache
def model(name: str, n: int, m: int, rows: int, columns: int) -> Any:
    """CompressAI's model of this class, whose image has rows x columns positions of z."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = getattr(compressai_models(), name)(n, m).eval()
        scales = channel_scales(m).reshape(-1)
        typical = torch.cat([scales, torch.zeros_like(scales)])
        for layers in filter(None, (net.h_s, getattr(net, "entropy_parameters", None))):
            layers[-1].bias.copy_(typical)
        if context := getattr(net, "context_prediction", None):
            # As training leaves it: its decoder takes the weights as they are.
            context.weight.mul_(context.mask)
        net.g_a, net.g_s = Given(latent(m, 4 * rows, 4 * columns)), Kept()
        gain = Z_STD / net.h_a(net.g_a.y).std()
        for parameter in net.h_a[-1].parameters():
            parameter.mul_(gain)
        net.update(force=True)
    return net


def accelerated(net: Any, stream: str) -> Any:
    """A copy of the model, whose class CompressAI has defined by now."""
    from ..nets.adapters.compressai import accelerate

    return accelerate(deepcopy(net), stream)


def whole(load: Load, architecture: str, stream: str | None) -> Job:
    """compress and decompress of a model, accelerated if `stream` says for what."""
    net = model(architecture, load.n, load.m, *load.positions)
    if stream:
        net = accelerated(net, stream)
    y, image = net.g_a.y.numpy(), torch.zeros(1, 3, STRIDE, STRIDE)

    @torch.no_grad()
    def decode(coded: Any) -> Tensor:
        net.decompress(coded["strings"], coded["shape"])
        return net.g_s.y_hat

    return Job(
        torch.no_grad()(lambda: net.compress(image)),
        decode,
        lambda coded: [string for (string,) in coded["strings"]],
        partial(near, y),
        y.size,
    )


def conditional(load: Load, stream: str | None) -> Job:
    """The mean model's Gaussian conditional, from float32 scales and means."""
    net = model("MeanScaleHyperprior", load.n, load.m, *load.positions)
    y, means, scales = parameters(net)
    gaussian = (accelerated(net, stream) if stream else net).gaussian_conditional
    return Job(
        lambda: gaussian.compress(y, gaussian.build_indexes(scales), means),
        lambda strings: gaussian.decompress(strings, gaussian.build_indexes(scales), means=means),
        list,
        partial(near, y.numpy()),
        y.numel(),
    )


def conditional_of_backend(load: Load) -> Job:
    """`EntropyBackend` from the same means and scales."""
    net = model("MeanScaleHyperprior", load.n, load.m, *load.positions)
    return of_backend(EntropyBackend(), *parameters(net))


@torch.no_grad()
def parameters(net: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Its latent y, and the means and scales that it gives it."""
    scales, means = net.h_s(net.h_a(net.g_a.y).round()).chunk(2, 1)
    return net.g_a.y, means.contiguous(), scales.contiguous()


def of_compressai(
    prepare: Callable[..., Job], timed: str, *more: Way, lanes: bool = True, **given: Any
) -> tuple[Way, ...]:
    """CompressAI, the same installed upon, and accelerated for each stream."""
    as_it_is = partial(prepare, stream=None, **given)
    ways = [
        Way("CompressAI", timed, as_it_is, "compressai"),
        Way("install()", "the same code over our coder", as_it_is, "compressai", within=installed),
    ]
    for stream in ("compressai", "lanes")[: 1 + lanes]:
        name = f"accelerate, {stream}"
        about = f'the same calls after accelerate(model, stream="{stream}")'
        job = partial(prepare, stream=stream, **given)
        ways.append(Way(name, about, job, "compressai", same=stream == "compressai"))
    return (*ways, *more)


# torchac


@lru_cache(maxsize=1)
def dense_rows(symbols: int, floats: bool) -> tuple[Tensor, Tensor]:
    """(a CDF for each symbol, float32 or normalized int16; the symbols): the same memory for every way."""
    work = gaussians(BITS, symbols)
    scales = torch.from_numpy(work.scales.astype(np.float32))
    rows = cdfs(work, [torch.ones(1)], [torch.zeros_like(scales)], [scales])
    if not floats:
        # As encode_float_cdf does it: a cell has at least 1 of 65536; the last value, 65536, is read from 0.
        rows = (rows * (65537 - rows.shape[1])).round().long() + torch.arange(rows.shape[1])
        rows = rows.to(torch.int16)
    return rows[torch.from_numpy(work.indexes)], torch.from_numpy(
        (work.symbols + work.bound).astype(np.int16)
    )


def coded_by_torchac(load: Load, module: Callable[[], ModuleType | Any], floats: bool) -> Job:
    """Symbols under dense CDFs, one for each symbol, ready: int16, or float32 that get normalized."""
    ac = module()
    ready, symbols = dense_rows(load.symbols, floats)
    kind = "float" if floats else "int16_normalized"
    encode, decode = (getattr(ac, f"{verb}_{kind}_cdf") for verb in ("encode", "decode"))

    def values(found: Tensor) -> NDArray:
        if not torch.equal(found, symbols):
            raise AssertionError("the round trip failed: other symbols")
        return found.numpy()

    return Job(
        lambda: encode(ready, symbols),
        lambda stream: decode(ready, stream),
        lambda stream: [stream],
        values,
        len(symbols),
    )


def of_torchac(floats: bool) -> tuple[Way, ...]:
    names = "encode_ and decode_" + ("float_cdf" if floats else "int16_normalized_cdf")
    theirs = partial(coded_by_torchac, module=torchac, floats=floats)
    ours = partial(coded_by_torchac, module=lambda: our_torchac, floats=floats)
    return (
        Way("torchac", f"{names}, a CDF for each symbol, ready as a tensor", theirs, "torchac"),
        Way("adapters.torchac", "the same functions of quadrans.nets.adapters.torchac", ours),
    )


# EntropyBackend


def of_backend(backend: EntropyBackend, y: Tensor, *given: Tensor) -> Job:
    return Job(
        lambda: backend.compress(y, *given),
        lambda streams: backend.decompress(streams, *given),
        list,
        partial(near, y.numpy()),
        y.numel(),
    )


def own_latent(load: Load) -> tuple[Tensor, Tensor]:
    """y, and its scales channel by channel, (1, M, 1, 1)."""
    rows, columns = load.positions
    return latent(load.m, 4 * rows, 4 * columns), channel_scales(load.m)[None]


def plain_backend(load: Load) -> Job:
    y, scales = own_latent(load)
    means, spread = torch.from_numpy(np.random.default_rng(1).standard_normal((2, *y.shape), np.float32))
    return of_backend(EntropyBackend(), y + means, means, scales * (0.1 * spread).exp())


def checkerboard_backend(load: Load) -> Job:
    """As Minnen 2018: a 5x5 context from M to 2M channels, three 1x1 convolutions of it and features."""
    y, scales = own_latent(load)
    m = load.m
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        context = nn.Conv2d(m, 2 * m, 5, padding=2)
        widths = (4 * m, m * 10 // 3, m * 8 // 3, 2 * m)
        convs = [nn.Conv2d(a, b, 1) for a, b in pairwise(widths)]
        typical = torch.cat([torch.zeros(m), scales.reshape(-1)])
        convs[-1].bias = nn.Parameter(typical, requires_grad=False)
        features = torch.randn(1, 2 * m, *y.shape[2:])
    head = nn.Sequential(convs[0], nn.LeakyReLU(), convs[1], nn.LeakyReLU(), convs[2])
    backend = EntropyBackend(head, "checkerboard", context=context, exact=True)
    return of_backend(backend, y, features)


COMPARISONS = {
    "compressai-serial": Comparison(
        "mbt2018 without analysis and synthesis",
        of_compressai(
            whole,
            "compress and decompress of JointAutoregressiveHierarchicalPriors: from y, and to y_hat",
            architecture="JointAutoregressiveHierarchicalPriors",
        ),
    ),
    "compressai-mean": Comparison(
        "mbt2018-mean without analysis and synthesis",
        of_compressai(
            whole,
            "compress and decompress of MeanScaleHyperprior: from y, and to y_hat",
            architecture="MeanScaleHyperprior",
        ),
    ),
    "compressai-coder": Comparison(
        "mbt2018-mean's conditional alone, from means and scales",
        of_compressai(
            conditional,
            "GaussianConditional.build_indexes, then compress or decompress",
            Way(
                "EntropyBackend",
                "EntropyBackend().compress and decompress, from the same means and scales",
                conditional_of_backend,
                "compressai",
                same=False,
            ),
            lanes=False,
        ),
    ),
    "torchac-int16": Comparison("dense integer CDFs", of_torchac(floats=False)),
    "torchac-float": Comparison("dense float CDFs", of_torchac(floats=True)),
    "backend": Comparison(
        "EntropyBackend",
        (
            Way("plain", "EntropyBackend(), means and scales given: mode checked", plain_backend, same=False),
            Way(
                "checkerboard",
                "a 5x5 context and three 1x1 convolutions lowered, features given: mode exact",
                checkerboard_backend,
                same=False,
            ),
        ),
        size=(640, 512),
        compared=False,
    ),
}
