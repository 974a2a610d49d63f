"""LayerNorm, softmax and attention of the arithmetic contract, compiled by Numba.

Values are rows in one flat float32 array: row r of an operand is memory[start + r * pitch:]. A sum
over a row is 32 partial sums, the lanes of one tile. Results may replace their inputs where both
have the same place and pitch; otherwise they must not overlap. `machine`: see `_fma.Machine`.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

from ._floats import (
    add_products,
    fma,
    greatest,
    keep_first,
    larger,
    load,
    load_first,
    store_first,
    total,
    zeros,
)
from .functions import exp

LANES = 32
BLOCK = 64
_ZERO, _LEAST = np.float32(0), np.float32(-np.inf)

# Attention works on tiles of so many queries and keys, or queries and channels.
_QUERIES, _COLUMNS = 6, 16

_inline = njit(nogil=True, cache=True, forceinline=True, error_model="numpy")


@_inline
def _sum(memory, start, count):
    """The sum of a row."""
    sums = zeros(1, LANES)
    whole = count - count % LANES
    for at in range(start, start + whole, LANES):
        sums = sums + load(sums, memory, at)
    return total(sums + load_first(sums, memory, start + whole, count - whole, _ZERO))


@_inline
def _sum_squared_distances(machine, memory, start, count, mean):
    """The sum of (x - mean)^2 over a row."""
    sums = zeros(1, LANES)
    whole = count - count % LANES
    for at in range(start, start + whole, LANES):
        d = load(sums, memory, at) - mean
        sums = fma(machine, d, d, sums)
    # In the lanes beyond the row, fma(0, 0, s) is s: a partial sum is never -0.
    rest = count - whole
    d = keep_first(load_first(sums, memory, start + whole, rest, _ZERO) - mean, rest)
    return total(fma(machine, d, d, sums))


@_inline
def _peak(memory, start, count):
    """The greatest of a row, NaNs apart, or -inf. Of zeros either sign: nothing depends on it."""
    whole = count - count % LANES
    peaks = load_first(zeros(1, LANES), memory, start, 0, _LEAST)
    for at in range(start, start + whole, LANES):
        peaks = larger(load(peaks, memory, at), peaks)
    return greatest(larger(load_first(peaks, memory, start + whole, count - whole, _LEAST), peaks))


@njit(nogil=True, cache=True, error_model="numpy")
def layer_norm_rows(
    machine, memory, src, src_pitch, dst, dst_pitch, channels, rows_begin, rows_end, floats, gamma, beta, eps
):
    """LayerNorm of rows rows_begin .. rows_end - 1 over their channels.

    floats[gamma:], floats[beta:] are the scales and shifts, eps a float32.
    """
    count = np.float32(channels)
    whole = channels - channels % LANES
    like = zeros(1, LANES)
    for row in range(rows_begin, rows_end):
        x, out = src + row * src_pitch, dst + row * dst_pitch
        mean = _sum(memory, x, channels) / count
        variance = _sum_squared_distances(machine, memory, x, channels, mean) / count
        r = np.float32(1) / np.sqrt(variance + eps)
        for at in range(0, channels, LANES):
            width = LANES if at < whole else channels - whole
            d = load_first(like, memory, x + at, width, _ZERO) - mean
            scale = load_first(like, floats, gamma + at, width, _ZERO)
            shift = load_first(like, floats, beta + at, width, _ZERO)
            store_first(memory, out + at, 0, fma(machine, d * r, scale, shift), 1, width)


@_inline
def _padded(count):
    return (count + _COLUMNS - 1) // _COLUMNS * _COLUMNS


@_inline
def _softmax(machine, memory, start, rows, count):
    """Softmax of rows of `count`, _padded(count) floats apart. What pads them becomes anything."""
    pitch = _padded(count)
    like = zeros(1, _COLUMNS)
    for row in range(start, start + rows * pitch, pitch):
        peak = _peak(memory, row, count)
        for at in range(row, row + pitch, _COLUMNS):
            store_first(memory, at, 0, load(like, memory, at) - peak, 1, _COLUMNS)
    # All rows in one loop of whole vectors.
    for i in range(np.uint64(start), np.uint64(start + rows * pitch)):
        memory[i] = exp(machine, memory[i])
    for row in range(start, start + rows * pitch, pitch):
        divisor = _sum(memory, row, count)
        for at in range(row, row + pitch, _COLUMNS):
            store_first(memory, at, 0, load(like, memory, at) / divisor, 1, _COLUMNS)


@_inline
def _add(memory, start, floats, other, count):
    """memory[start:] += floats[other:], of that many; start's row is padded."""
    like = zeros(1, _COLUMNS)
    for first in range(0, count, _COLUMNS):
        more = load_first(like, floats, other + first, count - first, _ZERO)
        store_first(memory, start + first, 0, load(like, memory, start + first) + more, 1, _COLUMNS)


@_inline
def attention_scratch(keys, head_dim):
    """Floats of scratch that `attention` needs."""
    return head_dim * _padded(keys) + (keys * _padded(head_dim) + _QUERIES * _padded(keys))


@_inline
def _sum_of_products(machine, x, start, pitch, rows, weights, column, width, terms):
    """A tile of sums over k of x[start + r * pitch + k] * weights[column + k * width + lane].

    Row r; blocks of BLOCK terms. Rows from `rows` on repeat the last one.
    """
    sums = zeros(_QUERIES, _COLUMNS)
    for first in range(0, terms, BLOCK):
        part = zeros(_QUERIES, _COLUMNS)
        for k in range(first, min(terms, first + BLOCK)):
            weight = load(part, weights, column + k * width)
            part = add_products(machine, part, x, start + k, pitch, rows, weight)
        sums = sums + part
    return sums


@njit(nogil=True, cache=True, error_model="numpy")
def attention(
    machine,
    memory,
    q,
    q_pitch,
    k,
    k_pitch,
    v,
    v_pitch,
    out,
    out_pitch,
    queries,
    keys,
    heads,
    head_dim,
    scale,
    floats,
    bias,
    mask,
    scratch,
):
    """Softmax attention of one sequence: rows of q, k, v and out have heads * head_dim channels.

    Scores are multiplied by scale (float32); floats[bias:] (heads, queries, keys) and floats[mask:]
    (queries, keys) are added, unless their place is negative. scratch: float32, at least
    `attention_scratch(keys, head_dim)` long. out may be q, but not k or v.
    """
    key_width, value_width = _padded(keys), _padded(head_dim)
    values = head_dim * key_width
    scores = values + keys * value_width
    # Keys transposed, so that a tile's lanes are keys, and values, both in whole tiles: what pads them
    # may be anything, if it is quick to compute with.
    for i in range(scores):
        scratch[i] = _ZERO
    for head in range(heads):
        channel = head * head_dim
        for j in range(keys):
            key, value = k + j * k_pitch + channel, v + j * v_pitch + channel
            for d in range(head_dim):
                scratch[np.uint64(d * key_width + j)] = memory[np.uint64(key + d)]
            for d in range(head_dim):
                scratch[np.uint64(values + j * value_width + d)] = memory[np.uint64(value + d)]
        for first in range(0, queries, _QUERIES):
            rows = min(_QUERIES, queries - first)
            start = q + first * q_pitch + channel
            for column in range(0, key_width, _COLUMNS):
                tile = _sum_of_products(
                    machine, memory, start, q_pitch, rows, scratch, column, key_width, head_dim
                )
                store_first(scratch, scores + column, key_width, tile * scale, rows, _COLUMNS)
            for r in range(rows):
                row = scores + r * key_width
                if bias >= 0:
                    _add(scratch, row, floats, bias + (head * queries + first + r) * keys, keys)
                if mask >= 0:
                    _add(scratch, row, floats, mask + (first + r) * keys, keys)
            _softmax(machine, scratch, scores, rows, keys)
            start = out + first * out_pitch + channel
            for column in range(0, value_width, _COLUMNS):
                tile = _sum_of_products(
                    machine, scratch, scores, key_width, rows, scratch, values + column, value_width, keys
                )
                width = min(_COLUMNS, head_dim - column)
                store_first(memory, start + column, out_pitch, tile, rows, width)
