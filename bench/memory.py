"""Peak memory of encoding a latent of the largest legal size, and of decoding its file to pixels.

Each in a process of its own.

python bench/memory.py [--model NAME|PATH]
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import MAX_PIXELS, MULTIPLE, Container
from quadrans.nets.latents import Latents
from quadrans.nets.weights import DEFAULT_MODEL, find_weights

SIDE = int(MAX_PIXELS**0.5)


def encode(codec: ImageCodec) -> bytes:
    """A file whose latents are all zero: what is in them does not change what decoding takes."""
    positions = SIDE // MULTIPLE
    y_hat = np.zeros((4 * positions, 4 * positions, codec.system.m), np.float32)
    z = np.zeros((positions, positions, len(codec.medians["z"])), np.int32)
    return codec.encode(Latents(y_hat, {"z": z}), SIDE, SIDE).to_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--encode", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.encode is None and arguments.decode is None:
        with tempfile.TemporaryDirectory() as folder:
            for job in ("--encode", "--decode"):
                path = Path(folder) / "largest.qdr"
                subprocess.run([sys.executable, *sys.argv, job, str(path)], check=True)
        return
    codec = ImageCodec(find_weights(arguments.model))
    if arguments.encode is not None:
        start = time.perf_counter()
        arguments.encode.write_bytes(encode(codec))
        report("encoding", start)
        return
    container = Container.from_bytes(arguments.decode.read_bytes())
    start = time.perf_counter()
    y_hat = codec.decode(container).y
    report("latent", start)
    start = time.perf_counter()
    codec.synthesise(y_hat, container.width, container.height)
    report("pixels", start)


def report(what: str, start: float) -> None:
    """Prints how long it took, and the most memory that this process had."""
    peak = peak_bytes() / 2**30
    print(f"{SIDE}x{SIDE}, {what}: {time.perf_counter() - start:.1f} s, peak so far {peak:.2f} GiB")


def peak_bytes() -> int:
    """The most memory that this process had. `ru_maxrss` would be its parent's on Linux, if that had more."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])  # type: ignore[index]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
