"""Programs run by Numba: a function for each operation, and the loop that takes them in turn.

Everything that an operation computes is divided among the team's members, each of which runs the whole
table; a barrier follows each instruction. `program.Op` says what an instruction's columns hold.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ..entropy import _simd
from ._fma import BLOCK, add_block, add_chain, fetch_row, lanes_of, panel_of, rows_of
from ._team import barrier, members
from .attention import attention, attention_scratch, layer_norm_rows
from .functions import unary
from .program import Column, Function, Op

(_OP, _SOURCE, _SOURCE_PITCH, _SOURCE_HEIGHT, _SOURCE_WIDTH, _SOURCE_CHANNELS) = (
    int(column) for column in list(Column)[:6]
)
(_TARGET, _TARGET_PITCH, _TARGET_HEIGHT, _TARGET_WIDTH, _TARGET_CHANNELS) = (
    int(column) for column in list(Column)[6:]
)
# The columns that an operation has for itself begin here.
_OWN = len(Column)
_IDENTITY = int(Function.IDENTITY)
_CONV, _CONTEXT, _WINDOW, _DEPTHWISE, _UNARY, _ADD, _MULTIPLY, _LAYER_NORM = range(8)
_ATTENTION, _SHUFFLE, _UNSHUFFLE, _GATHER, _COPY, _CONSTANT = range(8, len(Op))

CHUNK = 48
"""Positions worked on together, so that their totals stay in the L1 cache while the weights stream by. A
multiple of every machine's rows."""

_TRIPLE = cpu_target.target_context.codegen().magic_tuple()[0]


@intrinsic
def _float(typing_context, bits):
    """The float32 with the low 32 bits of an integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.trunc(arguments[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), generate


@intrinsic
def ticks_now(typing_context):
    """A counter that runs at a constant rate."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [])
        # LLVM's own would be a register that only the kernel may read.
        if _TRIPLE.startswith(("aarch64", "arm64")):
            return builder.asm(kind, "mrs $0, cntvct_el0", "=r", [], True)
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", fnty=kind), [])

    return types.int64(), generate


@intrinsic
def _copy(typing_context, target, to, source, at, count):
    """target[to + i] = source[at + i] for i < count, of two stretches apart."""

    def generate(context, builder, signature, arguments):
        begins = [_simd.data_of(context, builder, signature.args[n], arguments[n]) for n in (0, 2)]
        first, second = builder.gep(begins[0], [arguments[1]]), builder.gep(begins[1], [arguments[3]])
        cgutils.raw_memcpy(builder, first, second, arguments[4], 4, 4)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), generate


@njit(nogil=True, cache=True)
def _share(count, thread, threads):
    """(begin, end) of a member's part of range(count)."""
    return count * thread // threads, count * (thread + 1) // threads


@njit(nogil=True, cache=True)
def _source(at, step, down, size):
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
def _conv(machine, row, ints, floats, memory, n, rows, cols, context, thread, threads, totals, lists):
    """CONV or CONTEXT: a member's share of all panels of all chunks, panel by panel.

    totals, lists: room for a chunk.
    """
    at_step = row[_OP] == _CONTEXT
    pitch, height, width, terms = row[_SOURCE_PITCH : _SOURCE_CHANNELS + 1]
    target_height, target_width, outputs = row[_TARGET_HEIGHT : _TARGET_CHANNELS + 1]
    taps, tap_count, up, down, weights, biases, function, slope = row[_OWN : _OWN + 8]
    area = target_height * target_width
    lanes, panel = lanes_of(machine), panel_of(machine)
    padded = -(-outputs // lanes) * lanes
    panels = -(-outputs // panel)
    origins, tops, lefts, starts, places = lists
    if at_step and not context:
        tap_count = 0
    chunk, parts = _chunks(n * area, panels, threads, rows_of(machine))
    first, last = _share(parts * panels, thread, threads)
    for item in range(first, last):
        begin, column = item % parts * chunk, item // parts * panel
        many = min(chunk, n * area - begin)
        image, position = begin // area, begin % area
        r, c = position // target_width, position % target_width
        for i in range(many):
            if at_step:
                origins[i], tops[i], lefts[i] = row[_SOURCE], rows[begin + i], cols[begin + i]
                continue
            origins[i] = row[_SOURCE] + image * height * width * pitch
            tops[i], lefts[i] = r * up, c * up
            c += 1
            if c == target_width:
                r, c = r + 1, 0
            if r == target_height:
                image, r = image + 1, 0
        wide = min(panel, padded - column)
        for i in range(many):
            _copy(totals, i * wide, floats, biases + column, wide)
            fetch_row(machine, memory, row[_TARGET] + (begin + i) * row[_TARGET_PITCH] + column)
        if at_step and not context:
            totals[: many * wide] = 0
        for t in range(tap_count):
            slot, dr, dc = ints[taps + 3 * t : taps + 3 * t + 3]
            count = 0
            for i in range(many):
                r = _source(tops[i], dr, down, height)
                c = _source(lefts[i], dc, down, width)
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
            unary(machine, function, _float(slope), used, used)
        written = min(wide, outputs - column)
        for i in range(many):
            to = row[_TARGET] + (begin + i) * row[_TARGET_PITCH] + column
            _copy(memory, to, totals, i * wide, written)


@njit(nogil=True, cache=True)
def _depthwise(machine, row, ints, floats, memory, begin, end):
    pitch, height, width, channels = row[_SOURCE_PITCH : _SOURCE_CHANNELS + 1]
    target_width = row[_TARGET_WIDTH]
    taps, tap_count, up, down, weights, bias, function, slope = row[_OWN : _OWN + 8]
    area = row[_TARGET_HEIGHT] * target_width
    lanes, panel = lanes_of(machine), panel_of(machine)
    starts, places = np.empty(tap_count, np.int64), np.empty(tap_count, np.int64)
    for i in range(begin, end):
        image, position = i // area, i % area
        top, left = position // target_width * up, position % target_width * up
        origin = row[_SOURCE] + image * height * width * pitch
        count = 0
        for t in range(tap_count):
            slot, dr, dc = ints[taps + 3 * t : taps + 3 * t + 3]
            r, c = _source(top, dr, down, height), _source(left, dc, down, width)
            if r >= 0 and c >= 0:
                starts[count] = origin + (r * width + c) * pitch
                places[count] = weights + slot * channels
                count += 1
        to = row[_TARGET] + i * row[_TARGET_PITCH]
        column = 0
        while column < channels:
            left_over = channels - column
            wide = panel if left_over >= panel else lanes if left_over >= lanes else 1
            add_chain(machine, wide, memory, starts, floats, places, count, column, bias, memory, to + column)
            column += wide
    if function != _IDENTITY:
        out = row[_TARGET], row[_TARGET_PITCH]
        _unary(machine, function, _float(slope), memory, out, out, channels, begin, end)


@njit(nogil=True, cache=True)
def _unary(machine, function, slope, memory, source, target, channels, begin, end):
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
def _binary(row, memory, begin, end):
    pitch, target_pitch, channels = row[_SOURCE_PITCH], row[_TARGET_PITCH], row[_TARGET_CHANNELS]
    second, second_pitch = row[_OWN : _OWN + 2]
    for i in range(begin, end):
        a, b, to = row[_SOURCE] + i * pitch, second + i * second_pitch, row[_TARGET] + i * target_pitch
        if row[_OP] == _ADD:
            for c in range(channels):
                memory[to + c] = memory[a + c] + memory[b + c]
        else:
            for c in range(channels):
                memory[to + c] = memory[a + c] * memory[b + c]


@njit(nogil=True, cache=True)
def _window(row, ints, memory, rows, cols, context, begin, end):
    """Windows begin ... end - 1, one for each of the step's positions."""
    pitch, height, width, channels = row[_SOURCE_PITCH : _SOURCE_CHANNELS + 1]
    area = row[_TARGET_HEIGHT] * row[_TARGET_WIDTH]
    taps, tap_count, is_context = row[_OWN : _OWN + 3]
    if is_context and not context:
        tap_count = 0
    for i in range(begin, end):
        window = row[_TARGET] + i * area * row[_TARGET_PITCH]
        for position in range(area):
            to = window + position * row[_TARGET_PITCH]
            memory[to : to + channels] = 0
        for t in range(tap_count):
            position, dr, dc = ints[taps + 3 * t : taps + 3 * t + 3]
            r, c = _source(rows[i], dr, 1, height), _source(cols[i], dc, 1, width)
            if r >= 0 and c >= 0:
                to = window + position * row[_TARGET_PITCH]
                _copy(memory, to, memory, row[_SOURCE] + (r * width + c) * pitch, channels)


@njit(nogil=True, cache=True)
def _shuffle(row, memory, begin, end):
    """Target positions begin ... end - 1 of a pixel shuffle."""
    pitch, height, width = row[_SOURCE_PITCH : _SOURCE_WIDTH + 1]
    factor, target_width, channels = row[_OWN], row[_TARGET_WIDTH], row[_TARGET_CHANNELS]
    area = row[_TARGET_HEIGHT] * target_width
    for i in range(begin, end):
        image, position = i // area, i % area
        r, c = position // target_width, position % target_width
        at = row[_SOURCE] + ((image * height + r // factor) * width + c // factor) * pitch
        at += r % factor * factor + c % factor
        to = row[_TARGET] + i * row[_TARGET_PITCH]
        for k in range(channels):
            memory[to + k] = memory[at + k * factor * factor]


@njit(nogil=True, cache=True)
def _unshuffle(row, memory, begin, end):
    """Target positions begin ... end - 1 of a pixel unshuffle."""
    pitch, height, width, channels = row[_SOURCE_PITCH : _SOURCE_CHANNELS + 1]
    factor, target_width = row[_OWN], row[_TARGET_WIDTH]
    area = row[_TARGET_HEIGHT] * target_width
    for i in range(begin, end):
        image, position = i // area, i % area
        r, c = position // target_width * factor, position % target_width * factor
        for dr in range(factor):
            for dc in range(factor):
                at = row[_SOURCE] + ((image * height + r + dr) * width + c + dc) * pitch
                to = row[_TARGET] + i * row[_TARGET_PITCH] + dr * factor + dc
                for k in range(channels):
                    memory[to + k * factor * factor] = memory[at + k]


@njit(nogil=True, cache=True)
def _gather(row, ints, memory, begin, end):
    area = row[_TARGET_HEIGHT] * row[_TARGET_WIDTH]
    source_area = row[_SOURCE_HEIGHT] * row[_SOURCE_WIDTH]
    for i in range(begin, end):
        position = i // area * source_area + ints[row[_OWN] + i % area]
        at = row[_SOURCE] + position * row[_SOURCE_PITCH]
        _copy(memory, row[_TARGET] + i * row[_TARGET_PITCH], memory, at, row[_TARGET_CHANNELS])


@njit(nogil=True, cache=True)
def _constant(row, floats, memory, begin, end):
    area, channels = row[_TARGET_HEIGHT] * row[_TARGET_WIDTH], row[_TARGET_CHANNELS]
    for i in range(begin, end):
        at, to = row[_OWN] + i % area * channels, row[_TARGET] + i * row[_TARGET_PITCH]
        _copy(memory, to, floats, at, channels)


@njit(nogil=True, cache=True)
def _attention(machine, row, floats, memory, n, thread, threads):
    """A member's share of the sequences."""
    source, pitch = row[_SOURCE : _SOURCE_PITCH + 1]
    target, target_pitch = row[_TARGET : _TARGET_PITCH + 1]
    keys_at, keys_pitch, values_at, values_pitch, queries, keys, heads, head_dim = row[_OWN : _OWN + 8]
    scale, bias, masks, mask_count, shared = row[_OWN + 8 : _OWN + 13]
    scratch = np.empty(attention_scratch(keys, head_dim), np.float32)
    sequences = n * row[_TARGET_HEIGHT] * row[_TARGET_WIDTH] // queries
    begin, end = _share(sequences, thread, threads)
    for i in range(begin, end):
        query, key = i * queries, 0 if shared else i * keys
        q, out = (source + query * pitch, pitch), (target + query * target_pitch, target_pitch)
        k, v = (keys_at + key * keys_pitch, keys_pitch), (values_at + key * values_pitch, values_pitch)
        mask = -1 if masks < 0 else masks + i % mask_count * queries * keys
        sizes = queries, keys, heads, head_dim
        attention(machine, memory, *q, *k, *v, *out, *sizes, _float(scale), floats, bias, mask, scratch)


@njit(nogil=True, cache=True)
def run(machine, table, ints, floats, memory, n, rows, cols, context, team, thread, ticks):
    """All instructions for n images or positions of a step, as one member of a team.

    table, ints, floats: a program's; memory: its floats; rows, cols (n,) int64, context: the step's, where
    CONTEXT or WINDOW read them; ticks (instructions,) int64: member 0 adds what each takes, or (0,). False if
    the team was aborted: a member failed.
    REQUIRES: what `cpu.execute` checks.
    """
    threads = members(team)
    totals = np.empty(CHUNK * panel_of(machine), np.float32)
    lists = np.zeros((5, CHUNK + rows_of(machine)), np.int64)
    for number in range(len(table)):
        row = table[number]
        began = ticks_now() if len(ticks) else 0
        op = row[_OP]
        source, pitch = row[_SOURCE : _SOURCE_PITCH + 1]
        target, target_pitch, height, width, channels = row[_TARGET : _TARGET_CHANNELS + 1]
        begin, end = _share(n * height * width, thread, threads)
        if op in (_CONV, _CONTEXT):
            _conv(machine, row, ints, floats, memory, n, rows, cols, context, thread, threads, totals, lists)
        elif op == _WINDOW:
            _window(row, ints, memory, rows, cols, context, *_share(n, thread, threads))
        elif op == _DEPTHWISE:
            _depthwise(machine, row, ints, floats, memory, begin, end)
        elif op == _UNARY:
            function, slope = row[_OWN : _OWN + 2]
            places = (source, pitch), (target, target_pitch)
            _unary(machine, function, _float(slope), memory, *places, channels, begin, end)
        elif op in (_ADD, _MULTIPLY):
            _binary(row, memory, begin, end)
        elif op == _LAYER_NORM:
            gamma, beta, epsilon = row[_OWN : _OWN + 3]
            places = source, pitch, target, target_pitch, channels, begin, end
            layer_norm_rows(machine, memory, *places, floats, gamma, beta, _float(epsilon))
        elif op == _ATTENTION:
            _attention(machine, row, floats, memory, n, thread, threads)
        elif op == _SHUFFLE:
            _shuffle(row, memory, begin, end)
        elif op == _UNSHUFFLE:
            _unshuffle(row, memory, begin, end)
        elif op == _GATHER:
            _gather(row, ints, memory, begin, end)
        elif op == _COPY:
            for i in range(begin, end):
                _copy(memory, target + i * target_pitch, memory, source + i * pitch, channels)
        elif op == _CONSTANT:
            _constant(row, floats, memory, begin, end)
        if not barrier(team):
            return False
        if len(ticks) and thread == 0:
            ticks[number] += ticks_now() - began
    return True
