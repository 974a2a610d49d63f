"""The arithmetic contract compiled by Numba: one tap convolution and what surrounds it.

All the speed is in `_fma_block`, a register block of rows x vectors running sums. Its vectors run
across output channels and its rows across positions, so every output keeps its own sum and the
order of its terms; no schedule can change a bit. Import this module only where it's used: it
imports Numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def _block_shape() -> tuple[int, int]:
    """(floats in a vector, vectors in a panel) for the CPU that Numba compiles for.

    ROWS x vectors running sums must fit the vector registers (32, but 16 on AVX2).
    """
    features = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
    if "+avx512f" in features:
        return 16, 4
    return (8, 2) if "+fma" in features else (4, 4)


ROWS = 6
LANES, VECTORS = _block_shape()
PANEL = LANES * VECTORS
# Positions worked on together: their sums stay in the L2 cache while the weights stream by.
CHUNK = 192


def pack(weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(taps, inputs, outputs) weights and (outputs,) bias in the layout that the kernels stream.

    Outputs are padded with zeros to a multiple of LANES; for each tap and each panel of at most
    PANEL outputs, the weights follow as (inputs, panel). Both results are 1-D.
    """
    spare = -len(bias) % LANES
    padded = np.pad(weight.astype(np.float32), ((0, 0), (0, 0), (0, spare)))
    panels = [
        padded[:, :, start : start + PANEL].reshape(len(padded), -1)
        for start in range(0, padded.shape[2], PANEL)
    ]
    return np.ascontiguousarray(np.hstack(panels)).ravel(), np.pad(bias.astype(np.float32), (0, spare))


def _emit_block(
    builder: Any, rows: int, vectors: int, x: Any, starts: Any, acc: Any, sums: Any, weight: Any, terms: Any
) -> None:
    """Emit acc[r, v] = fma(x[r, k], weight[k, v], acc[r, v]) for k = 0, 1, ... terms - 1.

    REQUIRES: terms >= 1.
    """
    i64 = ir.IntType(64)
    vector = ir.VectorType(ir.FloatType(), LANES)
    lane_zero = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    fma = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
    )

    def slot(base: Any, index: Any) -> Any:
        return builder.gep(base, [index])

    def vector_slot(base: Any, v: int) -> Any:
        return builder.bitcast(slot(base, i64(v * LANES)), vector.as_pointer())

    inputs = [slot(x, builder.load(slot(starts, i64(r)))) for r in range(rows)]
    outputs = [slot(acc, builder.load(slot(sums, i64(r)))) for r in range(rows)]
    initial = [[builder.load(vector_slot(out, v), align=4) for v in range(vectors)] for out in outputs]

    before = builder.block
    loop = builder.append_basic_block("terms")
    after = builder.append_basic_block("stored")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(i64)
    k.add_incoming(i64(0), before)
    running = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    row = slot(weight, builder.mul(k, i64(vectors * LANES)))
    factors = [builder.load(vector_slot(row, v), align=4) for v in range(vectors)]
    for r in range(rows):
        value = builder.load(slot(inputs[r], k))
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
        spread = builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lane_zero)
        for v in range(vectors):
            total = builder.call(fma, [spread, factors[v], running[r][v]])
            running[r][v].add_incoming(initial[r][v], before)
            running[r][v].add_incoming(total, loop)
            initial[r][v] = total
    following = builder.add(k, i64(1))
    k.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, terms), loop, after)
    builder.position_at_end(after)
    for out, totals in zip(outputs, initial, strict=True):
        for v, total in enumerate(totals):
            builder.store(total, vector_slot(out, v), align=4)


@intrinsic
def _fma_block(typingctx, rows, vectors, x, starts, acc, sums, first, column, weight, offset, terms):  # type: ignore[no-untyped-def]
    """Add `terms` products to rows x vectors running sums.

    Row r reads x[starts[first + r] + k], its sums are acc[sums[first + r] + column + ...], and the
    weights of term k are weight[offset + k * vectors * LANES + ...].
    REQUIRES: 1 <= rows <= ROWS, 1 <= vectors <= VECTORS, terms >= 1, everything within bounds.
    """
    sig = types.void(rows, vectors, x, starts, acc, sums, first, column, weight, offset, terms)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(n: int) -> Any:
            return context.make_array(signature.args[n])(context, builder, args[n]).data

        def at(n: int, index: Any) -> Any:
            return builder.gep(data(n), [index])

        i64 = ir.IntType(64)
        shape = builder.add(builder.mul(args[0], i64(VECTORS + 1)), args[1])
        x, starts, acc = data(2), at(3, args[6]), at(4, args[7])
        sums, weight = at(5, args[6]), at(8, args[9])
        done = builder.append_basic_block("done")
        choice = builder.switch(shape, done)
        for r in range(1, ROWS + 1):
            for v in range(1, VECTORS + 1):
                case = builder.append_basic_block(f"block{r}x{v}")
                choice.add_case(i64(r * (VECTORS + 1) + v), case)
                builder.position_at_end(case)
                _emit_block(builder, r, v, x, starts, acc, sums, weight, args[10])
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return sig, codegen


@njit(nogil=True, cache=True)
def _add_tap(x, starts, acc, sums, count, weight, offset, terms, outputs):  # type: ignore[no-untyped-def]
    """Add one tap's products to the sums of `count` positions, in near-equal blocks of rows."""
    blocks = (count + ROWS - 1) // ROWS
    for column in range(0, outputs, PANEL):
        vectors = min(PANEL, outputs - column) // LANES
        first = 0
        for block in range(blocks):
            rows = (count - first) // (blocks - block)
            _fma_block(  # type: ignore[call-arg]
                rows, vectors, x, starts, acc, sums, first, column, weight, offset + terms * column, terms
            )
            first += rows


@njit(nogil=True, cache=True)
def tap_conv(x, rows, cols, index, dr, dc, up, down, weight, bias, out, column):  # type: ignore[no-untyped-def]
    """Write the convolution of x at n positions to out[:, column:].

    x (H, W, C) float32; rows, cols (n,) int64; tap t has the packed weights of tap index[t] and
    reads row (r * up + dr[t]) / down, column likewise, where that is a whole number inside x. So
    stride s is up = s, and a transposed convolution's stride is down = s. weight, bias: from
    `pack`; out (n, column + outputs) float32, of which those columns are written, all others kept.
    """
    height, width, terms = x.shape
    total, outputs, padded = len(rows), out.shape[1] - column, len(bias)
    flat = x.reshape(-1)
    chunk = min(total, CHUNK)
    acc = np.empty(chunk * padded, np.float32)
    starts = np.empty(chunk, np.int64)
    sums = np.empty(chunk, np.int64)
    for begin in range(0, total, CHUNK):
        many = min(CHUNK, total - begin)
        for n in range(many):
            acc[n * padded : (n + 1) * padded] = bias
        for t in range(len(index)):
            count = 0
            for n in range(many):
                r = rows[begin + n] * up + dr[t]
                c = cols[begin + n] * up + dc[t]
                if r >= 0 and c >= 0 and r % down == 0 and c % down == 0:
                    r //= down
                    c //= down
                    if r < height and c < width:
                        starts[count] = (r * width + c) * terms
                        sums[count] = n * padded
                        count += 1
            if count:
                _add_tap(flat, starts, acc, sums, count, weight, index[t] * terms * padded, terms, padded)
        for n in range(many):
            for d in range(outputs):
                out[begin + n, column + d] = acc[n * padded + d]


_PROBES = np.array([2**-126, 2**-149, 0.5, 1, 3 * 2**-25, 2**-25], np.float32)


@njit(nogil=True, cache=True)
def _follows_ieee(probes):  # type: ignore[no-untyped-def]
    # Read from memory, so that no compiler folds the outcome into the code.
    least_normal, least, half, one = probes[0], probes[1], probes[2], probes[3]
    above_tie, below_tie = probes[4], probes[5]
    kept = least_normal * half > np.float32(0) and least + least > least
    to_nearest = one + above_tie > one and one + below_tie == one and -one - below_tie == -one
    return kept and to_nearest


def check_arithmetic() -> None:
    """RuntimeError if this thread flushes subnormals to zero or doesn't round to nearest.

    Both are modes of the CPU that other libraries in the process may change
    (`torch.set_flush_denormal`, shared objects linked with -ffast-math).
    """
    if not _follows_ieee(_PROBES):
        raise RuntimeError(
            "this thread's floating-point mode flushes subnormals or doesn't round to nearest, so results "
            "would differ between machines; has something called torch.set_flush_denormal(True)?"
        )


@njit(nogil=True, cache=True)
def leaky_relu(x, slope, out):  # type: ignore[no-untyped-def]
    """out = x > t ? x : t with t = slope * x; x, out 1-D float32 (may be the same), slope float32."""
    for i in range(len(x)):
        t = slope * x[i]
        out[i] = x[i] if x[i] > t else t


@njit(nogil=True, cache=True)
def relu(x, out):  # type: ignore[no-untyped-def]
    """out = x > 0 ? x : +0; x, out 1-D float32 (may be the same)."""
    for i in range(len(x)):
        out[i] = x[i] if x[i] > np.float32(0) else np.float32(0)


@njit(nogil=True, cache=True)
def _to_indexes(x, thresholds, bits, means, indexes):  # type: ignore[no-untyped-def]
    """Head outputs (n, 2M) = (scales, means) to fixed-point means and table indexes, (n, M) int32."""
    channels = means.shape[1]
    limit = np.float32(2**20)
    unit = np.float32(1 << bits)
    half = (1 << bits) >> 1
    for n in range(len(x)):
        for c in range(channels):
            indexes[n, c] = 0
        for t in thresholds:
            for c in range(channels):
                indexes[n, c] += np.int32(x[n, c] > t)
        for c in range(channels):
            m = x[n, channels + c]
            m = m if m == m else np.float32(0)
            m = min(max(m, -limit), limit)
            q = np.int32(np.rint(m * unit))
            k = (q + half) >> bits
            means[n, c] = k
            indexes[n, c] = (indexes[n, c] << bits) + (q - (k << bits)) + half


@njit(nogil=True, cache=True)
def parameters(  # type: ignore[no-untyped-def]
    features,
    y_hat,
    rows,
    cols,
    index,
    dr,
    dc,
    read_context,
    context_weight,
    context_bias,
    head_weight,
    head_bias,
    widths,
    slopes,
    thresholds,
    bits,
    means,
    indexes,
):
    """Fill means, indexes, (n, M) int32, at n positions; False if a position or tap doesn't exist.

    features (H, W, F), y_hat (H, W, M) float32. The head's layers are packed one after the other
    in head_weight and head_bias; widths (layers + 1,) int64 are its channels, F + context first;
    slopes (layers - 1,) float32 are those of the LeakyReLUs between.
    """
    height, width, hyper = features.shape
    total = len(rows)
    for n in range(total):
        if rows[n] < 0 or rows[n] >= height or cols[n] < 0 or cols[n] >= width:
            return False
    slab = y_hat.shape[2] * len(context_bias)
    for t in range(len(index)):
        if index[t] < 0 or index[t] >= len(context_weight) // slab:
            return False
    here = np.zeros(1, np.int64)
    for begin in range(0, total, CHUNK):
        end = min(total, begin + CHUNK)
        r, c = rows[begin:end], cols[begin:end]
        many = end - begin
        x = np.empty((many, widths[0]), np.float32)
        for n in range(many):
            x[n, :hyper] = features[r[n], c[n]]
        if read_context:
            tap_conv(y_hat, r, c, index, dr, dc, 1, 1, context_weight, context_bias, x, hyper)
        else:
            x[:, hyper:] = np.float32(0)
        places = np.arange(many)
        still = np.zeros(many, np.int64)
        weight_start = bias_start = 0
        for layer in range(len(widths) - 1):
            if layer:
                leaky_relu(x.reshape(-1), slopes[layer - 1], x.reshape(-1))
            padded = (widths[layer + 1] + LANES - 1) // LANES * LANES
            weight_end, bias_end = weight_start + widths[layer] * padded, bias_start + padded
            following = np.empty((many, widths[layer + 1]), np.float32)
            tap_conv(
                x.reshape(1, many, widths[layer]),
                still,
                places,
                here,
                here,
                here,
                1,
                1,
                head_weight[weight_start:weight_end],
                head_bias[bias_start:bias_end],
                following,
                0,
            )
            x, weight_start, bias_start = following, weight_end, bias_end
        _to_indexes(x, thresholds, bits, means[begin:end], indexes[begin:end])
    return True


@njit(nogil=True, cache=True)
def store(symbols, means, rows, cols, y_hat, limit):  # type: ignore[no-untyped-def]
    """y_hat[rows, cols] = symbols + means; False at the first sum beyond +-limit (int64)."""
    for n in range(len(rows)):
        for c in range(symbols.shape[1]):
            value = np.int64(symbols[n, c]) + np.int64(means[n, c])
            if value > limit or value < -limit:
                return False
            y_hat[rows[n], cols[n], c] = value
    return True
