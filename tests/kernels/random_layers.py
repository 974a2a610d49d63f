"""Random small trees of layers, with weights and inputs of every kind of binary32 number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quadrans.kernels import attentions, blocks, layers, parity
from quadrans.kernels.builder import Builder
from quadrans.kernels.layers import Layer
from quadrans.kernels.program import WeightStore

FloatArray = NDArray[np.float32]
Shape = tuple[int, int, int]

TOKENS: Shape = (1, 3, 5)
"""Shape of the input "tokens"."""

WIDTHS = (1, 2, 3, 4, 8, 12, 17, 33, 64, 65, 70)
"""Channels: around a vector, and around a block of 64 terms."""

ELEMENTWISE = (
    layers.ReLU(),
    layers.LeakyReLU(),
    layers.LeakyReLU(0.3),
    layers.LeakyReLU(0),
    layers.LeakyReLU(1),
    layers.GELU(),
    layers.GELU("tanh"),
    layers.Exp(),
    layers.Softplus(),
    layers.Tanh(),
    layers.Sigmoid(),
    layers.Abs(),
    layers.Sqrt(),
)


class Grower:
    """Draws layers. extreme: the share of weights that are huge, tiny, subnormal or -0."""

    def __init__(self, seed: int, extreme: float = 0.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.extreme = extreme

    def weights(self, *shape: int) -> FloatArray:
        """Finite weights."""
        x = self.rng.standard_normal(shape).astype(np.float32) * np.float32(0.5)
        odd = np.array([1e30, -1e30, 3.4e38, 1e-40, -1e-44, -0.0, 0.0, 1e-20], np.float32)
        return np.where(self.rng.random(shape) < self.extreme, self.rng.choice(odd, shape), x)

    def values(self, *shape: int, bits: float = 0.0) -> FloatArray:
        """Values, a share of them random bits: also infinities and NaN."""
        x = self.rng.standard_normal(shape).astype(np.float32)
        any_bits = self.rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
        return np.where(self.rng.random(shape) < bits, any_bits, x)

    def pick(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def pair(self, *choices: int) -> tuple[int, int]:
        return self.pick(*choices), self.pick(*choices)

    def bias(self, count: int) -> FloatArray | None:
        return self.weights(count) if self.rng.random() < 0.8 else None

    def conv(self, shape: Shape) -> Layer:
        kernel = self.pair(1, 2, 3)
        outputs = self.pick(*WIDTHS)
        mask = self.rng.random(kernel) < 0.7 if self.rng.random() < 0.3 else None
        weight = self.weights(outputs, shape[2], *kernel)
        return layers.Conv2d(weight, self.bias(outputs), self.pair(1, 1, 2, 3), self.pair(0, 1, 2), mask)

    def depthwise(self, shape: Shape) -> Layer:
        kernel = self.pair(1, 2, 3)
        weight = self.weights(shape[2], 1, *kernel)
        return layers.DepthwiseConv2d(weight, self.bias(shape[2]), self.pair(1, 1, 2), self.pair(0, 1, 2))

    def transposed(self, shape: Shape) -> Layer:
        kernel = self.pair(1, 2, 3, 5)
        outputs, stride = self.pick(*WIDTHS), self.pick(1, 2, 3)
        weight = self.weights(shape[2], outputs, *kernel)
        padding, output_padding = self.pair(0, 1), self.pair(0, stride - 1)
        return layers.ConvTranspose2d(weight, self.bias(outputs), stride, padding, output_padding)

    def linear(self, shape: Shape, outputs: int = 0) -> Layer:
        outputs = outputs or self.pick(*WIDTHS)
        return layers.Linear(self.weights(outputs, shape[2]), self.bias(outputs))

    def elementwise(self, shape: Shape) -> Layer:
        return ELEMENTWISE[self.rng.integers(len(ELEMENTWISE))]

    def layer_norm(self, shape: Shape) -> Layer:
        epsilon = float(self.rng.choice([0, 1e-12, 1e-6, 1e-5, 1]))
        return layers.LayerNorm(self.weights(shape[2]), self.weights(shape[2]), epsilon)

    def slice(self, shape: Shape) -> Layer:
        start = self.pick(*range(shape[2]))
        return blocks.Slice(start, self.pick(*range(start + 1, shape[2] + 1)))

    def shuffle(self, shape: Shape) -> Layer:
        factors = [f for f in (1, 2, 3) if shape[2] % f**2 == 0]
        return layers.PixelShuffle(self.pick(*factors))

    def unshuffle(self, shape: Shape) -> Layer:
        factors = [f for f in (1, 2, 3) if shape[0] % f == shape[1] % f == 0]
        return layers.PixelUnshuffle(self.pick(*factors))

    def constant(self, shape: Shape) -> Layer:
        return blocks.Constant(self.weights(*shape))

    def cross_attention(self, shape: Shape) -> Layer:
        width = self.pick(1, 2, 6, 8)
        heads = self.pick(*(h for h in (1, 2, 3) if width % h == 0))
        tokens = blocks.Sequential([blocks.Input("tokens"), self.linear(TOKENS, 2 * width)])
        keys = tokens if self.rng.random() < 0.7 else self.linear(shape, 2 * width)
        inner = (*shape[:2], width)
        return blocks.CrossAttention(self.linear(shape, width), keys, self.linear(inner), heads)

    def window_attention(self, shape: Shape) -> Layer:
        window = self.pick(*(w for w in (1, 2, 3, 4) if shape[0] % w == shape[1] % w == 0))
        heads = self.pick(1, 2)
        width = heads * self.pick(1, 3, 4)
        bias = self.weights(heads, window**2, window**2) if self.rng.random() < 0.6 else None
        qkv, proj = self.linear(shape, 3 * width), self.linear((*shape[:2], width))
        return blocks.WindowAttention(qkv, proj, heads, window, self.pick(*range(window)), bias)

    def parity(self) -> str:
        return str(self.rng.choice(["even", "odd"]))

    def checkerboard(self, shape: Shape) -> Layer:
        inner = blocks.Sequential([self.linear(shape), self.elementwise(shape)])
        return parity.Checkerboard(self.parity(), inner if self.rng.random() < 0.7 else blocks.Sequential())

    def linear_attention(self, shape: Shape) -> Layer:
        heads = self.pick(1, 2, 3)
        width = heads * self.pick(1, 3, 4)
        parts = [self.linear(shape, width) for _ in range(3)]
        which = self.parity() if self.rng.random() < 0.6 else None
        return attentions.LinearAttention(*parts, self.linear((*shape[:2], width)), heads, which)

    def local_attention(self, shape: Shape) -> Layer:
        window, heads = self.pick(1, 3, 5), self.pick(1, 2)
        width, outputs = heads * self.pick(1, 3), self.pick(1, 4, 17)
        fusion = layers.Conv2d(self.weights(outputs, width, window, window), self.bias(outputs))
        bias = self.weights(heads, window**2, window**2) if self.rng.random() < 0.6 else None
        proj = self.linear((*shape[:2], outputs)) if self.rng.random() < 0.5 else blocks.Sequential()
        qkv = self.linear(shape, 3 * width)
        return attentions.LocalAttention(qkv, fusion, heads, self.parity(), proj, bias)

    def keeping(self, shape: Shape, depth: int) -> Layer:
        """A layer that keeps the shape."""
        first = self.tree(shape, depth)
        if shape_of(first, shape) == shape:
            return first
        kernel = self.pick(1, 3)
        weight = self.weights(shape[2], shape[2], kernel, kernel)
        return layers.Conv2d(weight, self.bias(shape[2]), 1, kernel // 2)

    def residual(self, shape: Shape, depth: int) -> Layer:
        if self.rng.random() < 0.5:
            return blocks.Residual(self.keeping(shape, depth))
        return blocks.Residual(self.keeping(shape, depth), self.keeping(shape, depth))

    def product(self, shape: Shape, depth: int) -> Layer:
        return blocks.Multiply(self.keeping(shape, depth), self.keeping(shape, depth))

    def concat(self, shape: Shape, depth: int) -> Layer:
        # x itself, twice the same branch, and parts of parts among the branches.
        kept = [
            self.keeping(shape, depth),
            blocks.Sequential(),
            self.slice(shape),
            self.keeping(shape, depth),
        ]
        return blocks.Concat(kept[i] for i in self.rng.integers(len(kept), size=self.pick(1, 2, 3)))

    def sequence(self, shape: Shape, depth: int) -> Layer:
        parts = []
        for _ in range(self.pick(0, 2, 3, 4)):
            parts.append(self.tree(shape, depth))
            shape = shape_of(parts[-1], shape)
        return blocks.Sequential(parts)

    def leaves(self) -> list[Callable[[Shape], Layer]]:
        """What draws layers that are no trees, for values of a shape."""
        return [
            self.conv,
            self.conv,
            self.depthwise,
            self.transposed,
            self.linear,
            self.elementwise,
            self.elementwise,
            self.layer_norm,
            self.slice,
            self.shuffle,
            self.unshuffle,
            self.constant,
            self.cross_attention,
            self.window_attention,
            self.checkerboard,
            self.linear_attention,
            self.local_attention,
        ]

    def tree(self, shape: Shape, depth: int) -> Layer:
        """A layer that takes (height, width, channels)."""
        if depth and self.rng.random() < 0.7:
            combine = self.rng.choice([self.residual, self.product, self.concat, self.sequence])
            return combine(shape, depth - 1)
        while True:
            layer = self.rng.choice(self.leaves())(shape)
            height, width, channels = shape_of(layer, shape)
            # Small, and not empty as a convolution without enough positions would be.
            if min(height, width) > 0 and height * width * channels <= 4000:
                return layer


def reads_tokens(layer: Layer) -> bool:
    """Whether a layer has the input "tokens"."""
    return isinstance(layer, blocks.Input) or any(reads_tokens(part) for part in layer.parts())


def shape_of(layer: Layer, shape: Shape) -> Shape:
    """The shape that a layer makes of one; sides below 1 where it can't."""
    builder = Builder(WeightStore(lambda weights: (weights.bias, weights.bias)), 1)
    builder.input("tokens", *TOKENS)
    try:
        value = layer.emit(builder, builder.input("x", *shape))
    except ValueError:
        return 0, 0, 0
    return value.height, value.width, value.channels
