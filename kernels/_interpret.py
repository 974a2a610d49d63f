"""Programs run by Numba: a function for each operation, and the loop that takes them in turn.

Everything that an operation computes is divided among the team's members, each of which runs the whole
table; a barrier follows each instruction. `program.Op` says what an instruction's columns hold.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ._convolve import (
    CHUNK,
    OP,
    OWN,
    SOURCE,
    SOURCE_CHANNELS,
    SOURCE_HEIGHT,
    SOURCE_PITCH,
    SOURCE_WIDTH,
    TARGET,
    TARGET_CHANNELS,
    TARGET_HEIGHT,
    TARGET_PITCH,
    TARGET_WIDTH,
    convolve,
    copy,
    depthwise,
    float_of,
    share,
    source_of,
    unary_rows,
)
from ._fma import panel_of, rows_of
from ._team import barrier, members
from .attention import attention, attention_scratch, layer_norm_rows
from .program import Op

_CONV, _CONTEXT, _WINDOW, _DEPTHWISE, _UNARY, _ADD, _MULTIPLY, _LAYER_NORM = range(8)
_ATTENTION, _SHUFFLE, _UNSHUFFLE, _GATHER, _COPY, _CONSTANT = range(8, len(Op))

_TRIPLE = cpu_target.target_context.codegen().magic_tuple()[0]


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


@njit(nogil=True, cache=True)
def _binary(row, memory, begin, end):
    pitch, target_pitch, channels = row[SOURCE_PITCH], row[TARGET_PITCH], row[TARGET_CHANNELS]
    second, second_pitch = row[OWN : OWN + 2]
    for i in range(begin, end):
        a, b, to = row[SOURCE] + i * pitch, second + i * second_pitch, row[TARGET] + i * target_pitch
        if row[OP] == _ADD:
            for c in range(channels):
                memory[to + c] = memory[a + c] + memory[b + c]
        else:
            for c in range(channels):
                memory[to + c] = memory[a + c] * memory[b + c]


@njit(nogil=True, cache=True)
def _window(row, ints, memory, rows, cols, context, begin, end):
    """Windows begin ... end - 1, one for each of the step's positions."""
    pitch, height, width, channels = row[SOURCE_PITCH : SOURCE_CHANNELS + 1]
    area = row[TARGET_HEIGHT] * row[TARGET_WIDTH]
    taps, tap_count, is_context = row[OWN : OWN + 3]
    if is_context and not context:
        tap_count = 0
    for i in range(begin, end):
        window = row[TARGET] + i * area * row[TARGET_PITCH]
        for position in range(area):
            to = window + position * row[TARGET_PITCH]
            memory[to : to + channels] = 0
        for t in range(tap_count):
            position, dr, dc = ints[taps + 3 * t : taps + 3 * t + 3]
            r, c = source_of(rows[i], dr, 1, height), source_of(cols[i], dc, 1, width)
            if r >= 0 and c >= 0:
                to = window + position * row[TARGET_PITCH]
                copy(memory, to, memory, row[SOURCE] + (r * width + c) * pitch, channels)


@njit(nogil=True, cache=True)
def _shuffle(row, memory, begin, end):
    """Target positions begin ... end - 1 of a pixel shuffle."""
    pitch, height, width = row[SOURCE_PITCH : SOURCE_WIDTH + 1]
    factor, target_width, channels = row[OWN], row[TARGET_WIDTH], row[TARGET_CHANNELS]
    area = row[TARGET_HEIGHT] * target_width
    for i in range(begin, end):
        image, position = i // area, i % area
        r, c = position // target_width, position % target_width
        at = row[SOURCE] + ((image * height + r // factor) * width + c // factor) * pitch
        at += r % factor * factor + c % factor
        to = row[TARGET] + i * row[TARGET_PITCH]
        for k in range(channels):
            memory[to + k] = memory[at + k * factor * factor]


@njit(nogil=True, cache=True)
def _unshuffle(row, memory, begin, end):
    """Target positions begin ... end - 1 of a pixel unshuffle."""
    pitch, height, width, channels = row[SOURCE_PITCH : SOURCE_CHANNELS + 1]
    factor, target_width = row[OWN], row[TARGET_WIDTH]
    area = row[TARGET_HEIGHT] * target_width
    for i in range(begin, end):
        image, position = i // area, i % area
        r, c = position // target_width * factor, position % target_width * factor
        for dr in range(factor):
            for dc in range(factor):
                at = row[SOURCE] + ((image * height + r + dr) * width + c + dc) * pitch
                to = row[TARGET] + i * row[TARGET_PITCH] + dr * factor + dc
                for k in range(channels):
                    memory[to + k * factor * factor] = memory[at + k]


@njit(nogil=True, cache=True)
def _gather(row, ints, memory, begin, end):
    area = row[TARGET_HEIGHT] * row[TARGET_WIDTH]
    source_area = row[SOURCE_HEIGHT] * row[SOURCE_WIDTH]
    for i in range(begin, end):
        own, to = ints[row[OWN] + i % area], row[TARGET] + i * row[TARGET_PITCH]
        if own < 0:
            memory[to : to + row[TARGET_CHANNELS]] = 0
            continue
        at = row[SOURCE] + (i // area * source_area + own) * row[SOURCE_PITCH]
        copy(memory, to, memory, at, row[TARGET_CHANNELS])


@njit(nogil=True, cache=True)
def _constant(row, floats, memory, begin, end):
    area, channels = row[TARGET_HEIGHT] * row[TARGET_WIDTH], row[TARGET_CHANNELS]
    for i in range(begin, end):
        at, to = row[OWN] + i % area * channels, row[TARGET] + i * row[TARGET_PITCH]
        copy(memory, to, floats, at, channels)


@njit(nogil=True, cache=True)
def _attention(machine, row, ints, floats, memory, n, thread, threads):
    """A member's share of the queries."""
    source, pitch = row[SOURCE : SOURCE_PITCH + 1]
    target, target_pitch = row[TARGET : TARGET_PITCH + 1]
    keys_at, keys_pitch, values_at, values_pitch, queries, keys, heads, head_dim = row[OWN : OWN + 8]
    scale, bias, masks, numbers, shared = row[OWN + 8 : OWN + 13]
    scratch = np.empty(attention_scratch(keys, head_dim), np.float32)
    sequences = row[TARGET_HEIGHT] * row[TARGET_WIDTH] // queries
    # `attention` finds a bias by the number of all queries, so such a sequence stays whole.
    unit = queries if bias >= 0 else 1
    query, end = share(n * sequences * queries // unit, thread, threads)
    query, end = query * unit, end * unit
    while query < end:
        i, skipped = query // queries, query % queries
        many = min(queries - skipped, end - query)
        key = 0 if shared else i * keys
        q, out = (source + query * pitch, pitch), (target + query * target_pitch, target_pitch)
        k, v = (keys_at + key * keys_pitch, keys_pitch), (values_at + key * values_pitch, values_pitch)
        mask = -1 if masks < 0 else masks + (ints[numbers + i % sequences] * queries + skipped) * keys
        sizes = many, keys, heads, head_dim
        attention(machine, memory, *q, *k, *v, *out, *sizes, float_of(scale), floats, bias, mask, scratch)
        query += many


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
        op = row[OP]
        source, pitch = row[SOURCE : SOURCE_PITCH + 1]
        target, target_pitch, height, width, channels = row[TARGET : TARGET_CHANNELS + 1]
        begin, end = share(n * height * width, thread, threads)
        if op in (_CONV, _CONTEXT):
            step = rows, cols, context
            convolve(machine, row, ints, floats, memory, n, *step, thread, threads, totals, lists)
        elif op == _WINDOW:
            _window(row, ints, memory, rows, cols, context, *share(n, thread, threads))
        elif op == _DEPTHWISE:
            depthwise(machine, row, ints, floats, memory, begin, end)
        elif op == _UNARY:
            function, slope = row[OWN : OWN + 2]
            places = (source, pitch), (target, target_pitch)
            unary_rows(machine, function, float_of(slope), memory, *places, channels, begin, end)
        elif op in (_ADD, _MULTIPLY):
            _binary(row, memory, begin, end)
        elif op == _LAYER_NORM:
            gamma, beta, epsilon = row[OWN : OWN + 3]
            places = source, pitch, target, target_pitch, channels, begin, end
            layer_norm_rows(machine, memory, *places, floats, gamma, beta, float_of(epsilon))
        elif op == _ATTENTION:
            _attention(machine, row, ints, floats, memory, n, thread, threads)
        elif op == _SHUFFLE:
            _shuffle(row, memory, begin, end)
        elif op == _UNSHUFFLE:
            _unshuffle(row, memory, begin, end)
        elif op == _GATHER:
            _gather(row, ints, memory, begin, end)
        elif op == _COPY:
            for i in range(begin, end):
                copy(memory, target + i * target_pitch, memory, source + i * pitch, channels)
        elif op == _CONSTANT:
            _constant(row, floats, memory, begin, end)
        if not barrier(team):
            return False
        if len(ticks) and thread == 0:
            ticks[number] += ticks_now() - began
    return True
