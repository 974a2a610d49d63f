"""A decoder's state lent to a compiled loop, and taken back."""

from itertools import pairwise

import numpy as np
import pytest
from entropy_cases import GROUPS, LANES, gaussian_workload

from quadrans import entropy
from quadrans.entropy import CorruptStream, _lanes_loops
from quadrans.entropy._symbols import BAD_STATE, OK, TRUNCATED


def borrowed(decoder, indexes):
    """The next symbols, by a loop of one's own: (status, detail, symbols)."""
    loan = decoder.lend(64)
    symbols = np.empty(indexes.size, np.int32)
    loop = _lanes_loops.decoding_loop(*loan.vector)
    groups = len(loan.states)
    state = loan.states, loan.progress, loan.saved, loan.words
    status, detail = loop(indexes, *loan.lookup, loan.first, 0, groups, *state, symbols)
    return status, detail, symbols


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("lanes", LANES)
def test_loans_among_passes(lanes, groups):
    """Whoever decodes the next part, each takes up where the other stopped."""
    table, symbols, indexes, _ = gaussian_workload(1001)
    decoder = entropy.Decoder(entropy.encode(symbols, indexes, table, lanes, groups), table)
    ends = [0, 1, 70, 70, 71, 500, 1000, 1001]
    for number, (begin, end) in enumerate(pairwise(ends)):
        part = np.ascontiguousarray(indexes[begin:end])
        if number % 2:
            found = decoder.get(part)
        else:
            status, _, found = borrowed(decoder, part)
            assert status == OK
            decoder.take_back(part.size)
        np.testing.assert_array_equal(found, symbols[begin:end])
    decoder.close()


def test_lent_decoders_are_not_used():
    table, symbols, indexes, _ = gaussian_workload(200)
    decoder = entropy.Decoder(entropy.encode(symbols, indexes, table), table)
    assert decoder.lend(table.rows).first == 0
    for use in (lambda: decoder.get(indexes), lambda: decoder.lend(1), decoder.close):
        with pytest.raises(ValueError, match="the decoder is lent"):
            use()
    decoder.take_back(0)
    with pytest.raises(ValueError, match="the decoder is not lent"):
        decoder.take_back(0)
    np.testing.assert_array_equal(decoder.get(indexes), symbols)
    decoder.close()
    for use in (lambda: decoder.lend(1), lambda: decoder.get(indexes)):
        with pytest.raises(ValueError, match="the decoder is closed"):
            use()
    with pytest.raises(ValueError, match="not lent"):
        decoder.take_back(0)


def test_tables_with_too_few_rows():
    table, symbols, indexes, _ = gaussian_workload(200)
    decoder = entropy.Decoder(entropy.encode(symbols, indexes, table), table)
    with pytest.raises(ValueError, match="a table of 64 rows, where indexes need 65"):
        decoder.lend(table.rows + 1)
    np.testing.assert_array_equal(decoder.get(indexes), symbols)
    decoder.close()


def test_a_loan_that_fails_ends_the_decoder():
    table, symbols, indexes, _ = gaussian_workload(200)
    stream = entropy.encode(symbols, indexes, table, 1, 1)
    decoder = entropy.Decoder(stream[:-8], table)
    status, detail, _ = borrowed(decoder, indexes)
    assert status == TRUNCATED
    with pytest.raises(CorruptStream, match="ends before its symbols do"):
        decoder.take_back(0, status, detail)
    with pytest.raises(ValueError, match="the decoder is at the end of a corrupt stream"):
        decoder.get(indexes[:1])
    decoder = entropy.Decoder(stream, table)
    decoder.lend(1)
    with pytest.raises(CorruptStream, match="state of"):
        decoder.take_back(3, BAD_STATE)


def test_a_loan_that_is_refused_ends_the_decoder():
    table, symbols, indexes, _ = gaussian_workload(200)
    decoder = entropy.Decoder(entropy.encode(symbols, indexes, table), table)
    decoder.lend(1)
    with pytest.raises(CorruptStream, match="no such latent"):
        decoder.refuse("no such latent")
    with pytest.raises(ValueError, match="the decoder is at the end of a corrupt stream"):
        decoder.get(indexes[:1])
    with pytest.raises(ValueError, match="not lent"):
        decoder.refuse("again")
