"""What `quadrans bench decode` decodes: networks that predict latents, latents, and their coding orders.

Without trained weights the networks have the published shapes and random weights, around scales that make the
rate of the latents a plausible one. All of them code the same latent, predicted from the same hyper-latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from torch import nn
except ImportError as error:
    raise ImportError("the networks to decode with need PyTorch: pip install 'quadrans[bench]'") from error

from .. import kernels
from ..kernels.step_models import Model
from ..nets.blocks import DepthConvBlock
from ..nets.codec import ImageCodec
from ..nets.container import MULTIPLE
from ..nets.context import CHECKERBOARD, PARALLEL
from ..nets.export import export_weights
from ..nets.lowering import array, lower
from ..nets.systems.minnen2018 import Minnen2018
from .workloads import log_mean

FloatArray = NDArray[np.float32]

PARITY = "odd"

RATE = 0.5
"""Bits of a symbol, about, under networks with random weights."""

POSITIONS = ("raster", "wavefront", CHECKERBOARD, PARALLEL)
"""The orders of Minnen 2018's model."""

ORDERS = (*POSITIONS, "quadtree", "slices_checkerboard")

# Of what random layers add to what passes them by.
_SMALL = 0.1


@dataclass(frozen=True, eq=False)
class Network:
    """A model of y, and the order of an H x W latent that it codes in."""

    name: str
    about: str
    model: Model
    order: Callable[[int, int], kernels.Order]


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent to code, and what it is predicted from.

    z_hat: (H/4, W/4, N). y: (H, W, M), integers. Both float32.
    """

    z_hat: FloatArray
    y: FloatArray


@dataclass(frozen=True, eq=False)
class Source:
    """A codec's hyper-synthesis and tables, its networks by coding order, and latents of images by size."""

    codec: ImageCodec
    networks: Mapping[str, Network]
    latent: Callable[[int, int], Latent]
    """Of an image of that width and height."""


def trained(codec: ImageCodec, pixels: NDArray[np.uint8]) -> Source:
    """A trained codec and an (H, W, 3) photo, which is cut, or continued by reflections, to other sizes."""

    def latent(width: int, height: int) -> Latent:
        missing = [
            (0, max(0, size - own)) for size, own in zip((height, width), pixels.shape[:2], strict=True)
        ]
        latents = codec.analyse(np.pad(pixels, (*missing, (0, 0)), "symmetric")[:height, :width])
        return Latent(latents.sides["z"].astype(np.float32) + codec.medians["z"], latents.y)

    return Source(codec, _minnen2018(codec), latent)


def untrained(n: int, m: int) -> Source:
    """Minnen 2018 with n and m channels, a quadtree and an ELIC-like model of m, all with random weights."""
    scales = np.exp(log_mean(RATE) + np.random.default_rng(0).standard_normal(m)).astype(np.float32)
    # What networks give: these scales and means of 0, but for what the random weights of their layers add.
    typical = torch.from_numpy(np.concatenate([scales, np.zeros_like(scales)]))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net: Any = Minnen2018(n, m, orders=POSITIONS, parity=PARITY)
        for layers in (net.h_s, net.entropy_parameters):
            layers[-1].bias.copy_(typical)
        codec = ImageCodec(export_weights(net, "minnen2018", {}))
        steps = {"quadtree": quadtree(codec), "slices_checkerboard": elic(codec, typical)}

    def latent(width: int, height: int) -> Latent:
        rng = np.random.default_rng((width, height))
        rows, cols = (-(-size // MULTIPLE) for size in (height, width))
        times = MULTIPLE // codec.system.stride
        z_hat = np.rint(rng.standard_normal((rows, cols, n), np.float32)) + codec.medians["z"]
        noise = rng.standard_normal((times * rows, times * cols, m), np.float32)
        # Adding zero turns the -0.0 that rounding may give into 0.0.
        return Latent(z_hat, np.rint(scales * noise) + np.float32(0))

    return Source(codec, _minnen2018(codec) | steps, latent)


def _minnen2018(codec: ImageCodec) -> dict[str, Network]:
    about = "Minnen 2018's: a 5x5 context convolution under each order's mask, three 1x1 convolutions"
    return {
        order: Network(codec.name, about, model(codec), partial(_order, codec, order))
        for order in POSITIONS
        if order in codec.orders
    }


def model(codec: ImageCodec) -> Any:
    """The codec's exact model of y."""
    return codec.cpu.parts["y"].model


def _order(codec: ImageCodec, name: str, height: int, width: int) -> kernels.Order:
    return codec.system.parts()["y"].model.order(name, height, width)


def quadtree(codec: ImageCodec) -> Network:
    """A quadtree as DCA's baseline, read as DCVC-DC's code is: step 1 has the hyper features themselves.

    Steps 2 to 4: a 1x1 convolution each of (y_hat as it is by then, features), 3M to 3M, then three
    DepthConvBlocks that they share, 3M to 3M, 2M and 2M. Sources: Li et al., "Neural video compression with
    diverse contexts" (DCVC-DC), CVPR 2023; DCA, NeurIPS 2024.
    """
    m = codec.system.m
    adaptors = [nn.Conv2d(3 * m, 3 * m, 1) for _ in range(3)]
    widths = ((3 * m, 3 * m), (3 * m, 2 * m), (2 * m, 2 * m))
    trunk: list[Any] = [DepthConvBlock(*width) for width in widths]
    # Features pass by the layers, which add little to them, so that scales stay plausible.
    for adaptor in (*adaptors, trunk[1].block[0].adaptor):
        adaptor.weight.mul_(_SMALL)[:, :, 0, 0] += torch.eye(3 * m)[-adaptor.out_channels :]
    for block in trunk:
        depthwise, forward = block.block
        depthwise.conv2.weight.mul_(_SMALL)
        forward.conv[2].weight.mul_(_SMALL)
    shared = lower(nn.Sequential(*trunk))
    nets = [kernels.Slice(m, 3 * m), *(kernels.Sequential([lower(one), shared]) for one in adaptors)]
    steps = kernels.StepModel(nets, m, 2 * m, model(codec).quantization)
    about = "DCVC-DC's: step 1 from hyper features; then a 1x1 convolution and three shared DepthConvBlocks"
    return Network("quadtree", about, steps, partial(kernels.quadtree, channels=m))


def elic(codec: ImageCodec, typical: torch.Tensor) -> Network:
    """Slices times checkerboard after ELIC: five groups of channels, 16, 16, 32, 64 and the rest.

    For each group a channel network of earlier groups (5x5 convolutions to 224, 128 and 2 K channels), a
    5x5 checkerboard convolution of its own anchors, and three 1x1 convolutions of both and hyper features.
    Source: He et al., "ELIC", CVPR 2022; in the last ones' widths its re-implementations differ.
    """
    m = codec.system.m
    unit = min(16, m // 12)
    sizes = (unit, unit, 2 * unit, 4 * unit, m - 8 * unit)
    mask = kernels.checkerboard_mask(5)
    nets, before = [], 0
    for size in sizes:
        after, outputs = before + size, 2 * size
        # Without a bias, so that anchors, whose group is all 0, get 0 of it.
        own = kernels.Conv2d(array(nn.Conv2d(size, outputs, 5).weight), None, padding=2, mask=mask)
        branches = [kernels.Sequential([kernels.Slice(before, after), own]), kernels.Slice(m, 3 * m)]
        if before:
            channel = _convs((before, 224, 128, outputs), 5, nn.ReLU())
            branches.append(kernels.Sequential([kernels.Slice(0, before), lower(channel)]))
        inputs = 2 * m + outputs * (len(branches) - 1)
        head = _convs((inputs, outputs * 5 // 3, outputs * 4 // 3, outputs), 1, nn.LeakyReLU())
        head[-1].bias.copy_(typical.view(2, m)[:, before:after].reshape(-1))
        # Anchors and the rest.
        nets += 2 * [kernels.Sequential([kernels.Concat(branches), lower(head)])]
        before = after
    steps = kernels.StepModel(nets, m, 2 * m, model(codec).quantization)
    order = partial(kernels.slices_checkerboard, sizes=sizes, mask=mask, parity=PARITY)
    about = f"ELIC's: channel and checkerboard contexts for groups of {', '.join(map(str, sizes))} channels"
    return Network("elic", about, steps, order)


def _convs(widths: tuple[int, ...], kernel: int, between: nn.Module) -> Any:
    """Convolutions that keep the size, from each width to the next."""
    convs = [nn.Conv2d(a, b, kernel, padding=kernel // 2) for a, b in pairwise(widths)]
    return nn.Sequential(*(layer for conv in convs for layer in (conv, between)))[:-1]
