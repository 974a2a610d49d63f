"""Networks by the reference's functions, straight from their layers: slow, literal, the oracle.

It knows nothing of programs: `evaluate` walks the layers and does to arrays what ARITHMETIC.md says of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import numpy as np

from . import attentions, blocks, layers, parity, reference, reference_functions
from .layers import Layer
from .program import FloatArray

Inputs = Mapping[str, FloatArray]

UNARY: dict[type[Layer], Callable[[FloatArray], FloatArray]] = {
    layers.ReLU: reference_functions.relu,
    layers.GELU: reference_functions.gelu,
    layers.Exp: reference_functions.exp,
    layers.Softplus: reference_functions.softplus,
    layers.Tanh: reference_functions.tanh,
    layers.Sigmoid: reference_functions.sigmoid,
    layers.Abs: reference_functions.absolute,
    layers.Sqrt: reference_functions.sqrt,
}


def run(layer: Layer, x: FloatArray, inputs: Inputs | None = None) -> FloatArray:
    """What `layer(x, inputs)` must give, for float32 (H, W, C) or (N, H, W, C)."""
    others = inputs or {}
    with np.errstate(all="ignore"):
        if x.ndim == 3:
            return evaluate(layer, x, others)
        images = [{name: array[n] for name, array in others.items()} for n in range(len(x))]
        return np.stack([evaluate(layer, image, other) for image, other in zip(x, images, strict=True)])


@singledispatch
def evaluate(layer: Layer, x: FloatArray, inputs: Inputs) -> FloatArray:
    """A layer's values for one image (H, W, C)."""
    raise TypeError(f"the reference has no {type(layer).__name__}")


def _bias(layer: layers.Conv2d | layers.DepthwiseConv2d | layers.ConvTranspose2d | layers.Linear) -> Any:
    """A layer made without a bias has zeros."""
    return layer.bias


@evaluate.register
def _(layer: layers.Conv2d, x: FloatArray, inputs: Inputs) -> FloatArray:
    return reference.conv2d(x, layer.weight, _bias(layer), layer.stride, layer.padding, layer.mask)


@evaluate.register
def _(layer: layers.DepthwiseConv2d, x: FloatArray, inputs: Inputs) -> FloatArray:
    return reference.depthwise_conv2d(x, layer.weight, _bias(layer), layer.stride, layer.padding)


@evaluate.register
def _(layer: layers.ConvTranspose2d, x: FloatArray, inputs: Inputs) -> FloatArray:
    stride = layers.pair_of("stride", layer.stride)[0]
    return reference.conv_transpose2d(
        x, layer.weight, _bias(layer), stride, layer.padding, layer.output_padding
    )


@evaluate.register
def _(layer: layers.Linear, x: FloatArray, inputs: Inputs) -> FloatArray:
    return reference.linear(x, layer.weight, _bias(layer))


@evaluate.register
def _(layer: layers.Unary, x: FloatArray, inputs: Inputs) -> FloatArray:
    match layer:
        case layers.LeakyReLU(slope=slope):
            return reference_functions.leaky_relu(x, slope)
        case layers.GELU(approximate="tanh"):
            return reference_functions.gelu_tanh(x)
    return UNARY[type(layer)](x)


@evaluate.register
def _(layer: layers.LayerNorm, x: FloatArray, inputs: Inputs) -> FloatArray:
    return reference_functions.layer_norm(x, layer.gamma, layer.beta, layer.epsilon)


@evaluate.register
def _(layer: layers.PixelShuffle, x: FloatArray, inputs: Inputs) -> FloatArray:
    return reference.pixel_shuffle(x, layer.factor)


@evaluate.register
def _(layer: layers.PixelUnshuffle, x: FloatArray, inputs: Inputs) -> FloatArray:
    return reference.pixel_unshuffle(x, layer.factor)


@evaluate.register
def _(layer: blocks.Sequential, x: FloatArray, inputs: Inputs) -> FloatArray:
    for part in layer.layers:
        x = evaluate(part, x, inputs)
    return x


@evaluate.register
def _(layer: blocks.Input, x: FloatArray, inputs: Inputs) -> FloatArray:
    return inputs[layer.name]


@evaluate.register
def _(layer: blocks.Constant, x: FloatArray, inputs: Inputs) -> FloatArray:
    return layer.array


@evaluate.register
def _(layer: blocks.Slice, x: FloatArray, inputs: Inputs) -> FloatArray:
    return x[..., layer.start : layer.stop]


@evaluate.register
def _(layer: blocks.Concat, x: FloatArray, inputs: Inputs) -> FloatArray:
    return np.concatenate([evaluate(branch, x, inputs) for branch in layer.branches], axis=2)


@evaluate.register
def _(layer: blocks.Residual, x: FloatArray, inputs: Inputs) -> FloatArray:
    return evaluate(layer.skip, x, inputs) + evaluate(layer.body, x, inputs)


@evaluate.register
def _(layer: blocks.Multiply, x: FloatArray, inputs: Inputs) -> FloatArray:
    return evaluate(layer.first, x, inputs) * evaluate(layer.second, x, inputs)


@evaluate.register
def _(layer: blocks.CrossAttention, x: FloatArray, inputs: Inputs) -> FloatArray:
    queries = evaluate(layer.query, x, inputs)
    width = queries.shape[2]
    q, pairs = queries.reshape(-1, width), evaluate(layer.keys, x, inputs).reshape(-1, 2 * width)
    assert layer.scale is not None
    heard = reference_functions.attention(q, pairs[:, :width], pairs[:, width:], layer.heads, layer.scale)
    return evaluate(layer.proj, heard.reshape(queries.shape), inputs)


@evaluate.register
def _(layer: blocks.WindowAttention, x: FloatArray, inputs: Inputs) -> FloatArray:
    """Window by window, as in section 5; `blocks` gathers all of them at once."""
    height, width, _ = x.shape
    w, shift = layer.window, layer.shift
    rolled = np.roll(x, (-shift, -shift), (0, 1))
    # Regions of the rolled plane: what the roll has joined is in different ones.
    region = np.zeros((height, width), np.int64)
    if shift:
        cuts = slice(0, -w), slice(-w, -shift), slice(-shift, None)
        for number, (rows, cols) in enumerate((rows, cols) for rows in cuts for cols in cuts):
            region[rows, cols] = number
    out = None
    for r in range(0, height, w):
        for c in range(0, width, w):
            at = slice(r, r + w), slice(c, c + w)
            qkv = evaluate(layer.qkv, rolled[at], inputs).reshape(w * w, -1)
            q, k, v = np.split(qkv, 3, axis=1)
            one = region[at].reshape(-1)
            mask = np.where(one[:, None] == one, np.float32(0), np.float32(-100)) if shift else None
            assert layer.scale is not None
            heard = reference_functions.attention(q, k, v, layer.heads, layer.scale, layer.bias, mask)
            values = evaluate(layer.proj, heard.reshape(w, w, -1), inputs)
            if out is None:
                out = np.empty((height, width, values.shape[2]), np.float32)
            out[at] = values
    assert out is not None
    return np.roll(out, (shift, shift), (0, 1))


def _parity(shape: tuple[int, ...], parity: str) -> Any:
    """(H, W) bool: the positions with an even or odd row + column."""
    rows, cols = np.indices(shape[:2])
    return (rows + cols) % 2 == (parity == "odd")


@evaluate.register
def _(layer: parity.Checkerboard, x: FloatArray, inputs: Inputs) -> FloatArray:
    values = evaluate(layer.layer, x, inputs)
    return np.where(_parity(x.shape, layer.parity)[..., None], values, np.float32(0))


@evaluate.register
def _(layer: attentions.LinearAttention, x: FloatArray, inputs: Inputs) -> FloatArray:
    queries, keys, values = (evaluate(part, x, inputs) for part in (layer.query, layer.keys, layer.values))
    asked = np.ones(queries.shape[:2], bool)
    known = np.ones(keys.shape[:2], bool)
    if layer.parity is not None:
        asked = _parity(queries.shape, layer.parity)
        known = ~asked
    out = np.zeros_like(queries)
    if known.any():
        units = np.tile(np.eye(queries.shape[2] // layer.heads, dtype=np.float32), layer.heads)
        mixed = reference_functions.attention(units, keys[known], values[known], layer.heads, 1)
        out[asked] = reference_functions.attention(queries[asked], units, mixed, layer.heads, 1)
    return evaluate(layer.proj, out, inputs)


@evaluate.register
def _(layer: attentions.LocalAttention, x: FloatArray, inputs: Inputs) -> FloatArray:
    """Window by window, cut from a plane that has zeros around it."""
    n, reach = layer.window, layer.window // 2
    around = (reach, reach), (reach, reach)
    qkv = np.pad(evaluate(layer.qkv, x, inputs), (*around, (0, 0)))
    own = _parity(x.shape, layer.parity)
    coded = np.pad(~own, around)
    out = None
    for r, c in np.argwhere(own):
        at = slice(r, r + n), slice(c, c + n)
        q, k, v = np.split(qkv[at].reshape(n * n, -1), 3, axis=1)
        heard = coded[at].reshape(-1)
        mask = np.where(heard[:, None] & ~heard, np.float32(-1000), np.float32(0))
        assert layer.scale is not None
        window = reference_functions.attention(q, k, v, layer.heads, layer.scale, layer.bias, mask)
        one = evaluate(layer.proj, evaluate(layer.fusion, window.reshape(n, n, -1), inputs), inputs)
        if out is None:
            out = np.zeros((*own.shape, one.shape[2]), np.float32)
        out[r, c] = one[0, 0]
    assert out is not None
    return out
