"""Whole latents, compiled: a position model's program step by step, and what the coder does in between.

One call for a latent, however many steps: gather, networks, indexes, symbols and write-back. Every member
of a team calls the same function; member 0 alone does what is between the program's runs.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from functools import cache

import numpy as np
from numba import njit, types

from ..entropy._lanes_loops import decoding_loop
from ..entropy._symbols import OK
from . import cpu
from ._calls import address_of, caller
from ._interpret import ticks_now
from ._quantize import quantize, store, to_indexes
from ._team import barrier

TOO_LARGE, ABORTED = -1, -2
"""Statuses beside the coder's: a latent beyond the limit, a member of the team that failed."""
INDEX, CODER = 0, 1
"""What ticks hold, before those of the program's instructions: making indexes; the coder and write-back."""
TASKS = 2
PARAMETERS, QUANTIZE = 0, 1
"""What `walk` does: nothing more than parameters, or y to symbols and y_hat."""

_int32s, _int64s, _floats = types.int32[::1], types.int64[::1], types.float32[::1]
_table = types.int64[:, ::1]
_RUN = types.boolean(
    _table, _int64s, _floats, _floats, types.int64,
    _int64s, _int64s, types.boolean, _int64s, types.int64, _int64s,
)  # fmt: skip
_read_only_uint32s, _read_only_uint64s = (
    types.Array(one, 1, "C", readonly=True) for one in (types.uint32, types.uint64)
)
_DECODE = types.UniTuple(types.int64, 2)(
    _int32s, _read_only_uint32s, _read_only_uint64s, _read_only_uint64s, types.int64,
    types.int64, types.int64, types.int64,
    _table, _table, types.UniTuple(_table, 2), types.uint16[::1], _int32s,
)  # fmt: skip
_run, _decode_pass = caller(_RUN), caller(_DECODE)


@cache
def runner(number):
    """What `walk` and `decode` take to run programs on a machine of `_fma.MACHINES`."""
    return address_of(cpu.runner(number), _RUN)


@cache
def coder(level, lanes):
    """What `decode` takes for streams of that many lanes at an `_simd` level."""
    return address_of(decoding_loop(level, lanes), _DECODE)


@njit(nogil=True, cache=True)
def _parameters(runner, program, memory, part, places, quantization, offsets, indexes, team, thread, ticks):
    """Runs the program at a part of a step; member 0 fills offsets and indexes. False if a member failed."""
    table, ints, floats = program
    rows, cols, context = part
    out, pitch, _, _, channels = places
    thresholds, bits = quantization
    count = len(rows)
    arguments = (table, ints, floats, memory, count, rows, cols, context, team, thread, ticks[TASKS:])
    if not _run(runner, arguments):
        return False
    if thread == 0:
        began = ticks_now() if len(ticks) else 0
        to_indexes(memory, out, out + channels, pitch, count, channels, thresholds, bits, offsets, indexes)
        if len(ticks):
            ticks[INDEX] += ticks_now() - began
    return True


@njit(nogil=True, cache=True)
def walk(
    runner, task, table, ints, floats, memory, starts, context, rows, cols, places, thresholds, bits, y,
    offsets, indexes, symbols, shared, team, thread, ticks,
):  # fmt: skip
    """Parameters of all positions, in coding order; for QUANTIZE also symbols, and y_hat in its plane.

    places: (offset and pitch of the program's result, offset and width of the y_hat plane, channels);
    y (H, W, M), read by QUANTIZE. Step s has the positions starts[s] .. starts[s + 1] - 1; (status, element).
    """
    firsts = np.zeros(len(rows), np.int64)
    _, _, plane, width, channels = places
    for s in range(len(starts) - 1):
        begin, end = starts[s], starts[s + 1]
        r, c = rows[begin:end], cols[begin:end]
        a, b = begin * channels, end * channels
        o = offsets[a:b]
        if not _parameters(
            runner, (table, ints, floats), memory, (r, c, context[s]), places, (thresholds, bits),
            o, indexes[a:b], team, thread, ticks,
        ):  # fmt: skip
            return ABORTED, 0
        if task == QUANTIZE and thread == 0:
            v = symbols[a:b]
            at = quantize(y, 0, width, channels, r, c, firsts, channels, o, bits, v)
            if at < 0:
                at = store(memory, plane, width, channels, r, c, firsts, channels, v, o, bits)
            if at >= 0:
                shared[0], shared[1] = TOO_LARGE, a + at
        if not barrier(team):
            return ABORTED, 0
        if shared[0] != OK:
            break
    return shared[0], shared[1]


@njit(nogil=True, cache=True)
def decode(
    runner, coder, table, ints, floats, memory, starts, context, rows, cols, places, thresholds, bits,
    offsets, indexes, symbols, lookup, states, progress, saved, words, first, shared, team, thread, ticks,
):  # fmt: skip
    """y_hat into its plane. offsets, indexes, symbols: room for the longest step; lookup, states .. words: a
    decoder's loan. Arguments else as `walk`; (status, detail, symbols decoded).
    """
    firsts = np.zeros(len(rows), np.int64)
    _, _, plane, width, channels = places
    row_data, cells, buckets, precision = lookup
    groups = len(states)
    done = 0
    for s in range(len(starts) - 1):
        begin, end = starts[s], starts[s + 1]
        r, c = rows[begin:end], cols[begin:end]
        size = (end - begin) * channels
        index, v = indexes[:size], symbols[:size]
        if not _parameters(
            runner, (table, ints, floats), memory, (r, c, context[s]), places, (thresholds, bits),
            offsets[:size], index, team, thread, ticks,
        ):  # fmt: skip
            return ABORTED, 0, done
        if thread == 0:
            began = ticks_now() if len(ticks) else 0
            arguments = (
                index, row_data, cells, buckets, precision,
                first + done, 0, groups, states, progress, saved, words, v,
            )  # fmt: skip
            status, detail = _decode_pass(coder, arguments)
            if status == OK:
                done += size
                at = store(memory, plane, width, channels, r, c, firsts, channels, v, offsets, bits)
                if at >= 0:
                    status, detail = TOO_LARGE, v[at]
            shared[0], shared[1] = status, detail
            if len(ticks):
                ticks[CODER] += ticks_now() - began
        if not barrier(team):
            return ABORTED, 0, done
        if shared[0] != OK:
            break
    return shared[0], shared[1], done
