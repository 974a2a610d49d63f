"""Convolutions run by Numba, and what every instruction of a program is run with.

A convolution's positions are taken in chunks, its outputs in panels: a member of the team has a share of all
panels of all chunks, and their totals stay in the L1 cache until all taps are added.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..entropy import _simd
from ._fma import BLOCK, add_block, add_chain, fetch_row, lanes_of, panel_of, rows_of
from .functions import unary
from .program import Column, Function, Op

(OP, SOURCE, SOURCE_PITCH, SOURCE_HEIGHT, SOURCE_WIDTH, SOURCE_CHANNELS) = (
    int(column) for column in list(Column)[:6]
)
(TARGET, TARGET_PITCH, TARGET_HEIGHT, TARGET_WIDTH, TARGET_CHANNELS) = (
    int(column) for column in list(Column)[6:]
)
# The columns that an operation has for itself begin here.
OWN = len(Column)
_IDENTITY = int(Function.IDENTITY)
_CONTEXT = int(Op.CONTEXT)

CHUNK = 48
"""Positions worked on together, so that their totals stay in the L1 cache while the weights stream by. A
multiple of every machine's rows."""


@intrinsic
def float_of(typing_context, bits):
    """The float32 with the low 32 bits of an integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.trunc(arguments[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), generate


@intrinsic
def copy(typing_context, target, to, source, at, count):
    """target[to + i] = source[at + i] for i < count, of two stretches apart."""

    def generate(context, builder, signature, arguments):
        begins = [_simd.data_of(context, builder, signature.args[n], arguments[n]) for n in (0, 2)]
        first, second = builder.gep(begins[0], [arguments[1]]), builder.gep(begins[1], [arguments[3]])
        cgutils.raw_memcpy(builder, first, second, arguments[4], 4, 4)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), generate


@njit(nogil=True, cache=True)
def share(count, thread, threads):
    """(begin, end) of a member's part of range(count)."""
    return count * thread // threads, count * (thread + 1) // threads


@njit(nogil=True, cache=True)
def source_of(at, step, down, size):
    """The row (or column) (at + step) / down, or -1 where that is none of `size`."""
    at += step
    if at < 0:
        return -1
    if down > 1:
        if at % down:
            return -1
        at //= down
    return at if at < size else -1


@njit(nogil=True, cache=True)
def unary_rows(machine, function, slope, memory, source, target, channels, begin, end):
    """A function of positions begin ... end - 1. source, target: (offset, pitch)."""
    at, to = source[0] + begin * source[1], target[0] + begin * target[1]
    many, wide = end - begin, channels
    # Without gaps, all is one position.
    if source[1] == channels and target[1] == channels:
        many, wide = 1, many * channels
    for i in range(many):
        x = memory[at + i * source[1] :][:wide]
        out = memory[to + i * target[1] :][:wide]
        unary(machine, function, slope, x, out)


@njit(nogil=True, cache=True)
def _chunks(positions, panels, threads, rows):
    """(positions of a chunk, chunks) for which the member with most to do has least.

    A panel of a chunk costs one for each block of rows, and about one more for fetching the weights.
    """
    chunk, least = CHUNK, -1
    fewest = -(-positions // CHUNK)
    for parts in range(fewest, fewest + threads if positions else 0):
        blocks = -(-positions // (parts * rows))
        cost = -(-parts * panels // threads) * (blocks + 1)
        if least < 0 or cost < least:
            chunk, least = blocks * rows, cost
    return chunk, -(-positions // chunk)


@njit(nogil=True, cache=True)
def _add_tap(machine, x, k, starts, count, floats, at, terms, vectors, totals, places, ahead):
    """Add a block of one tap to the totals of `count` positions, in near-equal blocks of rows."""
    most = rows_of(machine)
    blocks = (count + most - 1) // most
    # Each block of rows fetches its part of what follows.
    step = (vectors * lanes_of(machine) + blocks - 1) // blocks
    first = 0
    for block in range(blocks):
        rows = (count - first) // (blocks - block)
        add_block(machine, rows, vectors, x, k, starts, first, floats, at, terms, totals, places, ahead, step)
        ahead += terms * step
        first += rows


@njit(nogil=True, cache=True)
def convolve(machine, row, ints, floats, memory, n, rows, cols, context, thread, threads, totals, lists):
    """CONV or CONTEXT: a member's share of all panels of all chunks, panel by panel.

    totals, lists: room for a chunk.
    """
    at_step = row[OP] == _CONTEXT
    pitch, height, width, terms = row[SOURCE_PITCH : SOURCE_CHANNELS + 1]
    target_height, target_width, outputs = row[TARGET_HEIGHT : TARGET_CHANNELS + 1]
    taps, tap_count, up, down, weights, biases, function, slope = row[OWN : OWN + 8]
    area = target_height * target_width
    lanes, panel = lanes_of(machine), panel_of(machine)
    padded = -(-outputs // lanes) * lanes
    panels = -(-outputs // panel)
    origins, tops, lefts, starts, places = lists
    if at_step and not context:
        tap_count = 0
    chunk, parts = _chunks(n * area, panels, threads, rows_of(machine))
    first, last = share(parts * panels, thread, threads)
    for item in range(first, last):
        begin, column = item % parts * chunk, item // parts * panel
        many = min(chunk, n * area - begin)
        image, position = begin // area, begin % area
        r, c = position // target_width, position % target_width
        for i in range(many):
            if at_step:
                origins[i], tops[i], lefts[i] = row[SOURCE], rows[begin + i], cols[begin + i]
                continue
            origins[i] = row[SOURCE] + image * height * width * pitch
            tops[i], lefts[i] = r * up, c * up
            c += 1
            if c == target_width:
                r, c = r + 1, 0
            if r == target_height:
                image, r = image + 1, 0
        wide = min(panel, padded - column)
        for i in range(many):
            copy(totals, i * wide, floats, biases + column, wide)
            fetch_row(machine, memory, row[TARGET] + (begin + i) * row[TARGET_PITCH] + column)
        if at_step and not context:
            totals[: many * wide] = 0
        for t in range(tap_count):
            slot, dr, dc = ints[taps + 3 * t : taps + 3 * t + 3]
            count = 0
            for i in range(many):
                r = source_of(tops[i], dr, down, height)
                c = source_of(lefts[i], dc, down, width)
                if r >= 0 and c >= 0:
                    starts[count] = origins[i] + (r * width + c) * pitch
                    places[count] = i * wide
                    count += 1
            if not count:
                continue
            at = weights + terms * (slot * padded + column)
            for k in range(0, terms, BLOCK):
                ahead = at + BLOCK * wide
                if k + BLOCK >= terms and t + 1 < tap_count:
                    ahead = weights + terms * (ints[taps + 3 * t + 3] * padded + column)
                elif k + BLOCK >= terms:
                    ahead = weights + terms * (ints[taps] * padded + column + wide)
                weight = floats, at, min(BLOCK, terms - k), wide // lanes
                _add_tap(machine, memory, k, starts, count, *weight, totals, places, ahead)
                at += BLOCK * wide
        if function != _IDENTITY:
            used = totals[: many * wide]
            unary(machine, function, float_of(slope), used, used)
        written = min(wide, outputs - column)
        for i in range(many):
            to = row[TARGET] + (begin + i) * row[TARGET_PITCH] + column
            copy(memory, to, totals, i * wide, written)


@njit(nogil=True, cache=True)
def depthwise(machine, row, ints, floats, memory, begin, end):
    """DEPTHWISE at target positions begin ... end - 1."""
    pitch, height, width, channels = row[SOURCE_PITCH : SOURCE_CHANNELS + 1]
    target_width = row[TARGET_WIDTH]
    taps, tap_count, up, down, weights, bias, function, slope = row[OWN : OWN + 8]
    area = row[TARGET_HEIGHT] * target_width
    lanes, panel = lanes_of(machine), panel_of(machine)
    starts, places = np.empty(tap_count, np.int64), np.empty(tap_count, np.int64)
    for i in range(begin, end):
        image, position = i // area, i % area
        top, left = position // target_width * up, position % target_width * up
        origin = row[SOURCE] + image * height * width * pitch
        count = 0
        for t in range(tap_count):
            slot, dr, dc = ints[taps + 3 * t : taps + 3 * t + 3]
            r, c = source_of(top, dr, down, height), source_of(left, dc, down, width)
            if r >= 0 and c >= 0:
                starts[count] = origin + (r * width + c) * pitch
                places[count] = weights + slot * channels
                count += 1
        to = row[TARGET] + i * row[TARGET_PITCH]
        column = 0
        while column < channels:
            left_over = channels - column
            wide = panel if left_over >= panel else lanes if left_over >= lanes else 1
            add_chain(machine, wide, memory, starts, floats, places, count, column, bias, memory, to + column)
            column += wide
    if function != _IDENTITY:
        out = row[TARGET], row[TARGET_PITCH]
        unary_rows(machine, function, float_of(slope), memory, out, out, channels, begin, end)
