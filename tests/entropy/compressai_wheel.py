"""CompressAI's own coder in a process of its own, as its wheel answers some inputs with a crash or a hang.

Run as a script, it reads pickled jobs from its input and writes what the wheel makes of them.
"""

import importlib.machinery
import importlib.util
import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

Rows = tuple[list[list[int]], list[int], list[int]]
"""(cdfs, lengths, offsets) as CompressAI's models hold them and `CdfTable.from_cdf` takes them."""


def wheel_version() -> str | None:
    """The installed version of CompressAI, if any."""
    try:
        return version("compressai")
    except PackageNotFoundError:
        return None


def ask(jobs: list[tuple]) -> list:
    """The wheel's answers, one for each job; a subprocess error if it crashes or hangs.

    ("encode", rows, [(symbols, indexes), ...]) -> bytes, one call for each pair, then one `flush`;
    ("decode", rows, stream, [indexes, ...]) -> list, one call of `decode_stream` for each indexes;
    ("pmf", pmf, precision) -> the quantized CDF, or None for a ValueError.
    """
    command = [sys.executable, __file__]
    run = subprocess.run(command, input=pickle.dumps(jobs), stdout=subprocess.PIPE, timeout=120, check=True)
    return pickle.loads(run.stdout)


def random_rows(rng: np.random.Generator) -> Rows:
    """1 to 5 rows of 2 to 300 cells, from even to all but one of frequency 1."""
    cdfs, offsets = [], []
    for _ in range(rng.integers(1, 6)):
        cells = int(np.exp(rng.uniform(np.log(2), np.log(300))))
        if rng.random() < 0.2:
            inner = np.arange(1, cells) + rng.choice([0, 65536 - cells])
        else:
            span = min(65535, max(cells, int(np.exp(rng.uniform(1, np.log(65535))))))
            inner = np.sort(rng.choice(span, cells - 1, replace=False)) + 1
        cdfs.append([0, *inner.tolist(), 65536])
        near = int(rng.integers(-cells - 2, 3))
        offsets.append(int(rng.choice([near, near, near, INT32_MIN, INT32_MAX - cells + 2])))
    lengths = [len(cdf) for cdf in cdfs]
    width = max(lengths) + int(rng.integers(0, 3))
    return [cdf + [0] * (width - len(cdf)) for cdf in cdfs], lengths, offsets


def random_symbols(
    rng: np.random.Generator, rows: Rows, size: int, reach: int
) -> tuple[list[int], list[int]]:
    """(symbols, indexes): regular ones, and escapes whose distance from the row is below 2**reach."""
    _, lengths, offsets = rows
    indexes = rng.integers(0, len(lengths), size)
    regular = np.array(lengths)[indexes] - 2
    values = (rng.random(size) * regular).astype(np.int64)
    far = np.exp2(rng.uniform(0, reach, size)).astype(np.int64) - 1
    escape = rng.random(size) < rng.choice([0, 0.02, 0.3, 1])
    values = np.where(escape, np.where(rng.random(size) < 0.5, regular + far, -1 - far), values)
    return wrapped(values + np.array(offsets)[indexes]).tolist(), indexes.tolist()


def wrapped(numbers: np.ndarray) -> np.ndarray:
    """The int32 that equal the numbers modulo 2**32."""
    return numbers.astype(np.uint32).astype(np.int32)


def raw_values(rows: Rows, symbols: list[int], indexes: list[int]) -> np.ndarray:
    """What CompressAI writes after the escape of each symbol, int64; -1 for regular symbols."""
    _, lengths, offsets = rows
    index = np.array(indexes, np.int64)
    regular = np.array(lengths)[index] - 2
    value = wrapped(np.array(symbols, np.int64) - np.array(offsets)[index]).astype(np.int64)
    raw = np.where(value < 0, -2 * value - 1, 2 * (value - regular))
    return np.where((value >= 0) & (value < regular), -1, raw)


def survives(raws: np.ndarray, stream: bytes) -> bool:
    """Whether the wheel's encoder lives to return this stream.

    It shifts 32-bit integers by 32 from raw values of 2**28 on, and never ends; and it has room for as
    many words as there are intervals, those of the state included.
    """
    escapes = raws[raws >= 0]
    intervals = raws.size + sum(1 + -(-int(raw).bit_length() // 4) for raw in escapes)
    return bool(escapes.max(initial=0) < 1 << 28) and 4 * intervals >= len(stream)


def _extension(name):
    """One of its compiled modules, without the package, whose import needs much that coding doesn't."""
    places = importlib.util.find_spec("compressai").submodule_search_locations
    spec = importlib.machinery.PathFinder.find_spec(f"compressai.{name}", list(places))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer(ans, cxx, kind, *arguments):
    if kind == "pmf":
        try:
            return cxx.pmf_to_quantized_cdf(*arguments)
        except ValueError:
            return None
    rows, *arguments = arguments
    if kind == "encode":
        encoder = ans.BufferedRansEncoder()
        for symbols, indexes in arguments[0]:
            encoder.encode_with_indexes(symbols, indexes, *rows)
        return encoder.flush()
    stream, calls = arguments
    decoder = ans.RansDecoder()
    decoder.set_stream(stream)
    return [symbol for indexes in calls for symbol in decoder.decode_stream(indexes, *rows)]


if __name__ == "__main__":
    modules = _extension("ans"), _extension("_CXX")
    jobs = pickle.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(pickle.dumps([_answer(*modules, *job) for job in jobs]))
