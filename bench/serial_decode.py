"""A serial context model: our wavefronts against the same model position by position in torch.

    python bench/serial_decode.py PHOTO [--model NAME|PATH] [--repetitions N] [--threads N]

Both start from z and end with y_hat; both use our entropy coder, so what differs is how the
distributions are computed. The torch loop is what the published serial decoders do for each position: crop
a 5x5 window, convolve, run the head, look up the scales' indexes, decode, write back. Each decoder must
give the latent back exactly, from its own stream: torch's rounding differs from ours, so it gets a stream
made with its own loop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quadrans import entropy, kernels
from quadrans.nets.codec import ImageCodec, Latents
from quadrans.nets.container import ORDERS, Container
from quadrans.nets.images import read_image
from quadrans.nets.weights import DEFAULT_MODEL, find_weights


class TorchSerial:
    """The serial decoder as it is usually written, over the same weights and tables."""

    def __init__(self, codec: ImageCodec) -> None:
        self.codec, self.net = codec, codec.net
        context = self.net.context_prediction
        self.weight = (context.weight * context.masks[0]).contiguous()
        self.thresholds = torch.tensor(entropy.scale_thresholds(entropy.default_scales()))

    def features(self, z: np.ndarray) -> Tensor:
        z_hat = torch.tensor(z).permute(2, 0, 1)[None] + self.net.entropy_bottleneck.medians[:, None, None]
        return self.net.h_s(z_hat)

    def parameters(
        self, features: Tensor, padded: Tensor, row: int, col: int
    ) -> tuple[np.ndarray, np.ndarray]:
        window = padded[:, :, row : row + 5, col : col + 5]
        context = F.conv2d(window, self.weight, self.net.context_prediction.bias)
        joined = torch.cat([features[:, :, row : row + 1, col : col + 1], context], 1)
        scales, means = self.net.entropy_parameters(joined)[0, :, 0, 0].chunk(2)
        fixed = (means * kernels.FRACTIONS).round().to(torch.int32)
        whole = (fixed + kernels.FRACTIONS // 2) // kernels.FRACTIONS
        fraction = fixed - whole * kernels.FRACTIONS + kernels.FRACTIONS // 2
        index = torch.searchsorted(self.thresholds, scales) * kernels.FRACTIONS + fraction
        return whole.numpy(), index.numpy()

    @torch.inference_mode()
    def encode(self, latents: Latents) -> bytes:
        y_hat = torch.tensor(latents.y_hat).permute(2, 0, 1)[None]
        padded, features = F.pad(y_hat, (2, 2, 2, 2)), self.features(latents.z)
        encoder = entropy.Encoder(self.codec.y_table)
        for row in range(y_hat.shape[2]):
            for col in range(y_hat.shape[3]):
                means, indexes = self.parameters(features, padded, row, col)
                encoder.put(latents.y_hat[row, col].astype(np.int32) - means, indexes)
        return encoder.finish()

    @torch.inference_mode()
    def decode(self, stream: bytes, z: np.ndarray) -> np.ndarray:
        features = self.features(z)
        height, width = features.shape[2:]
        padded = torch.zeros(1, self.net.m, height + 4, width + 4)
        decoder = entropy.Decoder(stream, self.codec.y_table)
        for row in range(height):
            for col in range(width):
                means, indexes = self.parameters(features, padded, row, col)
                values = decoder.get(indexes) + means
                padded[0, :, row + 2, col + 2] = torch.from_numpy(values)
        decoder.close()
        return padded[0, :, 2:-2, 2:-2].permute(1, 2, 0).contiguous().numpy()


def median_ms(work: Callable[[], np.ndarray], expected: np.ndarray, repetitions: int) -> float:
    """Median time of `work` after one warm-up; every run must give `expected`."""
    times = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        result = work()
        times.append(1000 * (time.perf_counter() - start))
        if not np.array_equal(result, expected):
            raise SystemExit("a decoder gave another latent: its time means nothing")
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch; our decoder uses one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    codec = ImageCodec(find_weights(arguments.model))
    pixels = read_image(arguments.photo).pixels
    height, width = pixels.shape[:2]
    latents = codec.analyse(pixels)
    peer = TorchSerial(codec)
    peer_stream = peer.encode(latents)
    baseline = median_ms(lambda: peer.decode(peer_stream, latents.z), latents.y_hat, arguments.repetitions)
    print(f"{arguments.photo.name}, {width}x{height}, {codec.name}, median of {arguments.repetitions} runs")
    print(f"{'torch, position by position':30} {baseline:8.1f} ms   {len(peer_stream)} bytes")
    for order in ORDERS:
        data = codec.encode(latents, width, height, order).to_bytes()
        container = Container.from_bytes(data)
        ours = median_ms(lambda c=container: codec.decode(c).y_hat, latents.y_hat, arguments.repetitions)  # type: ignore[misc]
        ratio = f"{baseline / ours:.1f} times as fast"
        print(f"{'quadrans, ' + order:30} {ours:8.1f} ms   {len(container.y)} bytes   {ratio}")


if __name__ == "__main__":
    main()
