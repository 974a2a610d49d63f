"""Streams that our encoders wouldn't write: each rule of FORMAT.md, section 4, refuses what it must."""

import random

import numpy as np
import pytest
import unusual_streams
from hypothesis import given, settings
from hypothesis import strategies as st
from unusual_streams import code_group, layout_of

from quadrans.entropy import CdfTable, CorruptStream, TableMismatch, rans, reference
from quadrans.entropy.reference import LOW, Group

# Symbols 0 .. 14 of 4 bits each: four of them, or five, emit a word.
TABLE = CdfTable([[4096] * 15 + [4095, 1]], [0], 16)
SYMBOLS = [i % 15 for i in range(24)]


def as_intervals(symbols):
    return [[(4096 * symbol, 4096)] for symbol in symbols]


def group(rounds, lanes=2, start=(), symbols=SYMBOLS):
    return code_group(as_intervals(symbols), 16, lanes, rounds, start)


def decode(*groups, count=24):
    """What decoder and reference answer alike: symbols, or None for a refusal."""
    return answer(reference.join_groups(list(groups), 16), [0] * count, TABLE)


def answer(stream, indexes, table):
    answers = []
    for decode in (rans.decode, reference.decode_lanes):
        try:
            answers.append(list(map(int, decode(stream, indexes, table))))
        except (CorruptStream, TableMismatch):
            answers.append(None)
    assert answers[0] == answers[1]
    if answers[0] is not None:
        assert rans.encode(answers[0], indexes, table, *layout_of(stream)) == stream
    return answers[0]


@settings(max_examples=150)
@given(st.integers(0, 1 << 30), st.sampled_from([0, 1, 5, 40, 150, 400]))
def test_decoder_and_reference_agree(level, seed, count):
    rng = random.Random(seed)
    table = unusual_streams.table(rng)
    symbols, indexes = unusual_streams.symbols(rng, table, count)
    stream = unusual_streams.lanes_stream(rng, symbols, indexes, table)
    assert answer(stream, indexes, table) in (symbols, None)
    answer(unusual_streams.mutated(rng, stream, stream), indexes, table)


@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_the_shortest_tail_alone_is_legal(lanes):
    legal = reference.write_group(as_intervals(SYMBOLS), 16, lanes)
    for rounds in range(len(SYMBOLS) // lanes + 1):
        assert decode(group(rounds, lanes)) == (SYMBOLS if rounds == legal.rounds else None)


def test_rounds_of_one_lane_are_all_tail():
    assert decode(group(0, 1)) == SYMBOLS


def test_every_lane_starts_where_the_tail_says():
    legal = reference.write_group(as_intervals(SYMBOLS), 16, 4)
    for lane in range(4):
        for step in (1, 0xFFFF, 0x10000):
            start = [LOW] * 4
            start[lane] += step
            changed = group(legal.rounds, 4, start)
            assert changed == legal or decode(changed) is None


def test_lanes_that_no_word_needs_hold_zeros():
    few = [1, 2, 3]
    legal = group(0, 8, symbols=few)
    assert decode(legal, count=3) == few
    for lane in range(1, 8):
        states = list(legal.states)
        states[lane] ^= 1
        assert decode(legal._replace(states=states), count=3) is None


@pytest.mark.parametrize("rounds", [0, 1])
def test_no_words_but_in_lanes_while_lanes_are_free(rounds):
    """Words of zeros in the stream instead of in the lanes would be a second stream of the same symbols."""
    symbols = [0] * (8 + 8 * rounds)
    legal = reference.write_group(as_intervals(symbols), 16, 8)
    assert legal.rounds == 0
    assert decode(legal, count=len(symbols)) == symbols
    for count in range(1, 9):
        assert decode(legal._replace(words=[*legal.words, *[0] * count]), count=len(symbols)) is None


def test_rounds_beyond_the_symbols():
    legal = reference.write_group(as_intervals(SYMBOLS), 16, 2)
    for rounds in (legal.rounds - 1, legal.rounds + 1, 12, 13, 1 << 20, (1 << 49) - 1):
        assert decode(legal._replace(rounds=rounds)) is None


def test_words_too_many_or_too_few():
    """Other words can be the stream of other symbols, never of these."""
    legal = reference.write_group(as_intervals(SYMBOLS), 16, 2)
    assert decode(legal) == SYMBOLS
    for place in range(len(legal.words) + 1):
        before, after = legal.words[:place], legal.words[place:]
        assert decode(legal._replace(words=before + after[1:])) != SYMBOLS or not after
        for word in (0, 1, 0xFFFF):
            assert decode(legal._replace(words=[*before, word, *after])) != SYMBOLS


def test_a_word_of_the_next_group_is_not_for_this_one():
    first, second = group(0, 1, symbols=SYMBOLS[::2]), group(0, 1, symbols=SYMBOLS[1::2])
    assert decode(first, second) == SYMBOLS
    moved = Group(0, first.states, first.words[:-1]), Group(0, second.states, first.words[-1:] + second.words)
    assert decode(*moved) is None


def test_groups_without_symbols():
    empty = Group(0, [LOW] * 4, [])
    legal = reference.write_group(as_intervals(SYMBOLS[:3]), 16, 4)
    assert decode(legal, *[empty] * 4095, count=3) == SYMBOLS[:3]
    for wrong in (
        empty._replace(words=[0]),
        empty._replace(states=[LOW, LOW, LOW + 1, LOW]),
        empty._replace(rounds=1),
    ):
        assert decode(legal, empty, wrong, empty, count=3) is None


def test_numbers_have_one_form():
    legal = reference.join_groups([group(0, 1, symbols=SYMBOLS[::2]), group(0, 1, symbols=SYMBOLS[1::2])], 16)
    assert legal[2:4] == b"\x02\x03"
    for longer in (b"\x00", b"\x80\x00", b"\x80\x80\x80\x80\x80\x80\x00"):
        assert answer(legal[:2] + b"\x82" + longer + legal[3:], [0] * 24, TABLE) is None
        assert answer(legal[:3] + b"\x83" + longer + legal[4:], [0] * 24, TABLE) is None


def test_generator_reaches_what_it_is_for():
    """Most unusual streams are refused, for many reasons; a good part is legal."""
    accepted, layouts = 0, set()
    for seed in range(300):
        rng = random.Random(seed)
        table = unusual_streams.table(rng)
        symbols, indexes = unusual_streams.symbols(rng, table, 60)
        stream = unusual_streams.lanes_stream(rng, symbols, indexes, table)
        try:
            accepted += np.array_equal(rans.decode(stream, indexes, table), symbols)
            layouts.add(layout_of(stream))
        except (CorruptStream, TableMismatch):
            pass
    assert 60 < accepted < 240
    assert len(layouts) > 20
