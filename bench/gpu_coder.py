"""The lanes coder on a GPU: one pass of a latent, and many images at once.

    python bench/gpu_coder.py [--images 1,64] [--symbols N] [--lanes N] [--groups N] [--repetitions N]

Arrays are on the device before and after. A stream goes up or down in each call, and the host reads or
writes its header, so "call" is what a codec waits for; "pass" is one `Decoder.get`, the stream being there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from quadrans.bench.workloads import gaussians
from quadrans.entropy import encode, gaussian_table
from quadrans.kernels import cuda

SYMBOLS = 245_760
"""Of a 768x512 photo's latent of 160 channels."""


def milliseconds(work: Callable[[int], Any], repetitions: int) -> float:
    """The median of work(0), work(1), ..., the device's part included, after one that isn't counted."""
    synchronize = cuda.import_cupy().cuda.Device().synchronize
    times = []
    for number in range(repetitions + 1):
        synchronize()
        start = time.perf_counter()
        work(number)
        synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def measure(images: int, symbols: int, lanes: int, groups: int, repetitions: int) -> dict[str, float]:
    """Milliseconds by name. RuntimeError if a symbol or a byte is not the CPU's."""
    cupy = cuda.import_cupy()
    table = gaussian_table()
    load = gaussians(0.6, images * symbols)
    numbers = list(
        zip(*(array.reshape(images, symbols) for array in (load.symbols, load.indexes)), strict=True)
    )
    pairs = [(cupy.asarray(symbol), cupy.asarray(index)) for symbol, index in numbers]
    indexes = [pair[1] for pair in pairs]
    streams = cuda.encode_batch(pairs, table, lanes, groups)
    decoded = cuda.decode_batch(streams, indexes, table)
    for (symbol, index), stream, out in zip(numbers, streams, decoded, strict=True):
        if not np.array_equal(cupy.asnumpy(out), symbol):
            raise RuntimeError("a GPU's symbols differ from the encoded ones")
        if stream != encode(symbol, index, table, lanes, groups):
            raise RuntimeError("a GPU's stream differs from the CPU's")
    decoders = [cuda.Decoder(streams[0], table) for _ in range(repetitions + 1)]
    return {
        "encode, call": milliseconds(lambda _: cuda.encode_batch(pairs, table, lanes, groups), repetitions),
        "decode, call": milliseconds(lambda _: cuda.decode_batch(streams, indexes, table), repetitions),
        "decode, pass of one image": milliseconds(lambda k: decoders[k].get(indexes[0]), repetitions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="1,64", help="numbers of images at once")
    parser.add_argument("--symbols", type=int, default=SYMBOLS, help="of each image")
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    layout = arguments.lanes, arguments.groups
    for images in map(int, arguments.images.split(",")):
        times = measure(images, arguments.symbols, *layout, arguments.repetitions)
        for name, ms in times.items():
            count = arguments.symbols * (1 if "one image" in name else images)
            print(f"{images:3} images, {name:25} {ms:8.3f} ms, {count / ms / 1e6:7.2f} Gsym/s")


if __name__ == "__main__":
    main()
