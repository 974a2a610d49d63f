"""Reports add up: ideal, table, escapes, coder and header make the stream."""

import numpy as np
import pytest
from entropy_cases import gaussian_workload

from quadrans.entropy import CorruptStream, TableMismatch, encode, gaussian_table, range_coder, report


def test_lanes():
    table, symbols, indexes, _ = gaussian_workload(30_000)
    symbols[:3] = 5000, -(1 << 31), (1 << 31) - 1
    for lanes, groups, header in ((1, 1, 2), (16, 1, 4), (8, 3, None)):
        stream = encode(symbols, indexes, table, lanes, groups)
        found = report(stream, symbols, indexes, table, 12_000.0)
        assert (found.symbols, found.lanes, found.groups) == (30_000, lanes, groups)
        assert found.bits == 8 * len(stream)
        assert header in (None, found.header_bits // 8)
        assert found.table_bits == table.bits(symbols, indexes)
        assert found.escapes == 3
        assert found.escape_bits == pytest.approx(table.bits(symbols[:3], indexes[:3]))
        assert found.table_loss == found.table_bits - 12_000
        parts = found.ideal_bits + found.table_loss + found.state_loss + found.header_bits
        assert parts == pytest.approx(found.bits)
        # A lane costs some 0.6 bytes, 4 more at most for its first, and 0.1 % goes to finite states.
        assert 0 < found.state_loss < 8 * (1.2 * lanes * groups + 5) + 0.001 * found.bits


def test_range_coder():
    table, symbols, indexes, _ = gaussian_workload(2000)
    found = report(range_coder.encode(symbols, indexes, table), symbols, indexes, table)
    assert (found.lanes, found.groups, found.header_bits) == (1, 1, 16)
    assert found.ideal_bits is found.table_loss is None
    assert 0 < found.state_loss < 40


def test_wrong_arguments():
    table, symbols, indexes, _ = gaussian_workload(100)
    with pytest.raises(CorruptStream, match="starts with 0x00"):
        report(bytes(20), symbols, indexes, table)
    with pytest.raises(CorruptStream, match="second byte of the header is 0xff"):
        report(b"\x21\xff\x00", symbols, indexes, table)
    with pytest.raises(TableMismatch, match="stream of precision 14, table of precision 16"):
        report(encode(symbols, indexes, table), symbols, indexes, gaussian_table(precision=16))
    with pytest.raises(ValueError, match="shape"):
        report(encode(symbols, indexes, table), symbols[1:], indexes, table)
    nothing = np.zeros(0, np.int32)
    assert report(encode(nothing, nothing, table), nothing, nothing, table).table_bits == 0
