"""Atheris (libFuzzer) at every decoder: `python tests/fuzz/fuzz_decoders.py [options of libFuzzer]`.

The first byte of an input chooses the decoder, the second what is given beside the stream, which is the
rest. The fuzzer is led by the coverage of the references, which are plain Python, and of what surrounds
the loops.
"""

import random
import sys
import tempfile
from functools import cache
from pathlib import Path

import atheris

# What Numba compiles must stay as it is.
ENTROPY = Path(__file__).parents[2] / "entropy"
COMPILED = [
    f"quadrans.entropy.{path.stem}" for path in ENTROPY.glob("*.py") if "\nfrom numba" in path.read_text()
]

with atheris.instrument_imports(include=["quadrans.entropy"], exclude=COMPILED):
    from fuzz_targets import ACCEPTED, JOBS, Job

NAMES = list(JOBS)
SEEDS = 64


@cache
def job(choice: int, seed: int) -> Job:
    return JOBS[NAMES[choice]](random.Random(seed))


def one_input(data: bytes) -> None:
    """The fast decoder's verdict, and that the reference agrees."""
    if len(data) >= 2:
        own, stream = job(data[0] % len(NAMES), data[1] % SEEDS), data[2:]
        accepted = own.verdict(stream) == ACCEPTED
        assert accepted == own.reference_accepts(stream), "decoder and reference differ"


def main() -> None:
    """Starts from every job's own stream."""
    with tempfile.TemporaryDirectory() as corpus:
        for choice in range(len(NAMES)):
            for seed in range(SEEDS):
                start = bytes((choice, seed)) + job(choice, seed).stream
                one_input(start)
                Path(corpus, f"{choice}-{seed}").write_bytes(start)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
