"""Peak memory of decoding a .qdr file of the largest legal size to pixels, in a fresh process.

python bench/memory.py [--model NAME|PATH]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from quadrans.nets.codec import ImageCodec, Latents
from quadrans.nets.container import MAX_PIXELS, MULTIPLE, Container
from quadrans.nets.weights import DEFAULT_MODEL, find_weights

SIDE = int(MAX_PIXELS**0.5)


def encode(codec: ImageCodec) -> bytes:
    """A file whose latents are all zero: what is in them does not change what decoding takes."""
    positions = SIDE // MULTIPLE
    y_hat = np.zeros((4 * positions, 4 * positions, codec.net.m), np.float32)
    z = np.zeros((positions, positions, codec.net.n), np.int32)
    return codec.encode(Latents(y_hat, z), SIDE, SIDE).to_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    codec = ImageCodec(find_weights(arguments.model))
    if arguments.decode is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "largest.qdr"
            path.write_bytes(encode(codec))
            command = [sys.executable, __file__, "--model", arguments.model, "--decode", str(path)]
            subprocess.run(command, check=True)
        return
    container = Container.from_bytes(arguments.decode.read_bytes())
    for what in ("latent", "pixels"):
        start = time.perf_counter()
        if what == "latent":
            y_hat = codec.decode(container).y_hat
        else:
            codec.synthesise(y_hat, container.width, container.height)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "linux" else 2**30
        )
        seconds = time.perf_counter() - start
        print(f"{SIDE}x{SIDE}, {what}: {seconds:.1f} s, peak of the process so far {peak:.2f} GiB")


if __name__ == "__main__":
    main()
