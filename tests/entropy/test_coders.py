"""Both coders under tables alike: round trips, cuts of passes, arguments, threads."""

import threading

import numpy as np
import pytest
from entropy_cases import INT32_MAX, INT32_MIN, gaussian_workload, jobs
from hypothesis import given
from hypothesis import strategies as st

from quadrans.entropy import CdfTable, CorruptStream, gaussian_table, range_coder, rans, reference


@pytest.fixture(params=[rans, range_coder], ids=["lanes", "range"])
def coder(request):
    return request.param


def cut(array, places):
    return np.split(array, sorted(p % (array.size + 1) for p in places))


cuts = st.lists(st.integers(0, 1000), max_size=6)


@given(jobs())
def test_range_coder_equals_reference(job):
    table, symbols, indexes = job
    stream = range_coder.encode(symbols, indexes, table)
    assert stream == reference.encode_range(symbols.tolist(), indexes.tolist(), table)
    assert reference.decode_range(stream, indexes.tolist(), table) == symbols.tolist()
    assert range_coder.decode(stream, indexes, table).tolist() == symbols.tolist()


@given(job=jobs(), encoder_cuts=cuts, decoder_cuts=cuts)
def test_cuts_do_not_matter(coder, job, encoder_cuts, decoder_cuts):
    table, symbols, indexes = job
    encoder = coder.Encoder(table)
    for part, index in zip(cut(symbols, encoder_cuts), cut(indexes, encoder_cuts), strict=True):
        encoder.put(part, index)
    stream = encoder.finish()
    assert stream == coder.encode(symbols, indexes, table)
    decoder = coder.Decoder(stream, table)
    parts = [decoder.get(index) for index in cut(indexes, decoder_cuts)]
    decoder.close()
    assert np.concatenate(parts).tolist() == symbols.tolist()


def test_many_escapes(coder):
    table = CdfTable([[15, 1]], [0], 4)
    symbols = np.array([INT32_MIN, INT32_MAX] * 3000, np.int32)
    indexes = np.zeros(symbols.size, np.int32)
    assert np.array_equal(coder.decode(coder.encode(symbols, indexes, table), indexes, table), symbols)


def test_empty(coder):
    table = gaussian_table()
    for shape in ((0,), (0, 3), (2, 0)):
        nothing = np.zeros(shape, np.int32)
        stream = coder.encode(nothing, nothing, table)
        decoded = coder.decode(stream, nothing, table)
        assert decoded.shape == shape
        assert decoded.dtype == np.int32
    assert coder.Encoder(table).finish() == coder.encode([], [], table) == stream
    assert len(stream) == (5 if coder is rans else 3)
    coder.Decoder(stream, table).close()


def test_zero_dimensional_arrays(coder):
    table = gaussian_table()
    decoded = coder.decode(coder.encode(3, 20, table), np.int64(20), table)
    assert decoded.shape == ()
    assert decoded == 3


def test_shapes_strides_and_dtypes(coder):
    table, symbols, indexes, _ = gaussian_workload(24)
    symbols, indexes = symbols.clip(-100, 100).reshape(2, 3, 4), indexes.reshape(2, 3, 4)
    stream = coder.encode(symbols, indexes, table)
    for dtype in (np.int8, np.int16, np.int32, np.int64, ">i4", ">i8"):
        assert coder.encode(symbols.astype(dtype), indexes.astype(dtype), table) == stream
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        decoded = coder.decode(stream, indexes.astype(dtype), table)
        assert decoded.dtype == np.int32
        assert np.array_equal(decoded, symbols)
    strided = np.zeros((4, 6, 4), np.int32)[::2, ::2]
    strided[:] = indexes
    reversed_ = np.ascontiguousarray(indexes[:, ::-1])[:, ::-1]
    fortran = np.asfortranarray(indexes)
    unaligned = np.frombuffer(b"\0" + indexes.tobytes(), np.uint8)[1:].view(np.int32).reshape(2, 3, 4)
    read_only = indexes.copy()
    read_only.flags.writeable = False
    for view in (strided, reversed_, fortran, unaligned, read_only):
        assert np.array_equal(coder.decode(stream, view, table), symbols)
        assert coder.encode(symbols, view, table) == stream
    assert coder.encode(symbols.tolist(), indexes.tolist(), table) == stream


def test_stream_types(coder):
    table, symbols, indexes, _ = gaussian_workload(50)
    stream = coder.encode(symbols, indexes, table)
    spaced = memoryview(bytes(b for byte in stream for b in (byte, 0)))[::2]
    odd = memoryview(b"\0" + stream)[1:]
    for form in (bytearray(stream), memoryview(stream), spaced, odd):
        assert np.array_equal(coder.decode(form, indexes, table), symbols)
    for form in (5, "text", None, np.frombuffer(stream, np.uint8)):
        with pytest.raises(TypeError, match="stream must be bytes"):
            coder.decode(form, indexes, table)


def test_encoder_keeps_no_reference(coder):
    table, symbols, indexes, _ = gaussian_workload(100)
    stream = coder.encode(symbols, indexes, table)
    encoder = coder.Encoder(table)
    encoder.put(symbols, indexes)
    symbols[:] = 0
    indexes[:] = 0
    assert encoder.finish() == stream


def test_decoder_gives_fresh_arrays(coder):
    """Every symbol is written, even where memory held something else, and no array is used twice."""
    table, symbols, indexes, _ = gaussian_workload(1000)
    decoder = coder.Decoder(coder.encode(symbols, indexes, table), table)
    first = decoder.get(indexes[:500])
    kept = first.copy()
    first[:] = -12345
    second = decoder.get(indexes[500:])
    assert np.array_equal(np.concatenate([kept, second]), symbols)
    assert np.all(first == -12345)


def test_bad_arguments(coder):
    table = gaussian_table()
    stream = coder.encode([0, 0], [0, 0], table)
    with pytest.raises(ValueError, match=r"shape \(2,\), indexes \(1,\)"):
        coder.encode([0, 0], [0], table)
    for bad in (np.zeros(2), np.zeros(2, np.bool_), np.zeros(2, np.complex64), ["a", "b"], [None, 1]):
        with pytest.raises(TypeError, match="symbols must be integers"):
            coder.encode(bad, [0, 0], table)
        with pytest.raises(TypeError, match="indexes must be integers"):
            coder.encode([0, 0], bad, table)
        with pytest.raises(TypeError, match="indexes must be integers"):
            coder.decode(stream, bad, table)
    for value in (1 << 31, -(1 << 31) - 1, (1 << 63) + 5):
        with pytest.raises(ValueError, match=f"symbols holds {value} at 1, outside int32"):
            coder.encode([0, value] if value < 1 << 63 else np.array([0, value], np.uint64), [0, 0], table)
    for index in (-1, 64, INT32_MAX, INT32_MIN):
        with pytest.raises(ValueError, match=rf"index {index} at 1, the table has rows 0\.\.63"):
            coder.encode([0, 0], [0, index], table)
        with pytest.raises(ValueError, match=f"index {index} at 1"):
            coder.decode(stream, [0, index], table)


def test_bad_indexes_leave_the_decoder_as_it_was(coder):
    table, symbols, indexes, _ = gaussian_workload(100)
    decoder = coder.Decoder(coder.encode(symbols, indexes, table), table)
    with pytest.raises(ValueError, match="index 64 at 1"):
        decoder.get([3, 64])
    assert np.array_equal(decoder.get(indexes), symbols)
    decoder.close()


def test_bad_pass_leaves_the_encoder_as_it_was(coder):
    table, symbols, indexes, _ = gaussian_workload(100)
    encoder = coder.Encoder(table)
    with pytest.raises(ValueError, match="index 64 at 1"):
        encoder.put([3, 3], [3, 64])
    encoder.put(symbols, indexes)
    assert encoder.finish() == coder.encode(symbols, indexes, table)


def test_ended_coders_say_so(coder):
    table = gaussian_table()
    encoder = coder.Encoder(table)
    stream = encoder.finish()
    for use in (encoder.finish, lambda: encoder.put([0], [0])):
        with pytest.raises(ValueError, match="finished"):
            use()
    decoder = coder.Decoder(stream, table)
    decoder.close()
    for use in (decoder.close, lambda: decoder.get([0])):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_failed_decoder_stays_failed(coder):
    table, symbols, indexes, _ = gaussian_workload(2000)
    decoder = coder.Decoder(coder.encode(symbols, indexes, table)[:-40], table)
    with pytest.raises(CorruptStream):
        decoder.get(indexes)
    for use in (decoder.close, lambda: decoder.get([0])):
        with pytest.raises(ValueError, match="corrupt"):
            use()


def test_threads(coder):
    table, symbols, indexes, _ = gaussian_workload(100_000)
    stream = coder.encode(symbols, indexes, table)
    equal = []

    def work():
        for _ in range(5):
            equal.append(np.array_equal(coder.decode(stream, indexes, table), symbols))
            equal.append(coder.encode(symbols, indexes, table) == stream)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 20
