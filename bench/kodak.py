"""Rate and distortion of a model on a folder of photos, next to Pillow's JPEG of at least the same size.

    python bench/kodak.py FOLDER [--model NAME|PATH] [--json FILE]

For each photo and coding order: encode, decode, compare the latents, and compare the file's bytes with
the sum of -log2 p under the tables. Averages are over photos. JPEG (4:2:0, optimized Huffman tables) is
at the lowest quality whose file is not smaller than ours, which favours JPEG.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_msssim import ms_ssim

from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import ORDERS, Container
from quadrans.nets.demo import psnr
from quadrans.nets.images import IMAGE_SUFFIXES, read_image
from quadrans.nets.weights import DEFAULT_MODEL, find_weights


@dataclass(frozen=True)
class Row:
    photo: str
    bytes: dict[str, int]
    """By coding order, of the whole file."""
    ideal_bytes: dict[str, float]
    bpp: float
    psnr: float
    ms_ssim: float
    jpeg_bpp: float
    jpeg_psnr: float
    jpeg_ms_ssim: float


def similarity(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    x, y = (torch.tensor(image).permute(2, 0, 1)[None].float() for image in (a, b))
    return float(ms_ssim(x, y, data_range=255))


def jpeg(pixels: NDArray[np.uint8], size: int) -> bytes:
    """The JPEG of lowest quality that has at least `size` bytes (quality 100 if none has)."""

    def encode(quality: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=quality, optimize=True)
        return out.getvalue()

    return next((data for q in range(1, 100) if len(data := encode(q)) >= size), encode(100))


def measure(codec: ImageCodec, path: Path) -> Row:
    pixels = read_image(path).pixels
    height, width = pixels.shape[:2]
    latents = codec.analyse(pixels)
    sizes, ideal = {}, {}
    for order in ORDERS:
        data = codec.encode(latents, width, height, order).to_bytes()
        decoded = codec.decode(Container.from_bytes(data))
        if not decoded.same_bits(latents):
            sys.exit(f"{path}: the {order} file decodes to another latent")
        sizes[order], ideal[order] = len(data), codec.cost(latents, order).tables / 8
    decoded_pixels = codec.synthesise(latents.y_hat, width, height)
    jpeg_data = jpeg(pixels, sizes["wavefront"])
    jpeg_pixels = np.asarray(Image.open(io.BytesIO(jpeg_data)).convert("RGB"))
    return Row(
        path.name,
        sizes,
        ideal,
        8 * sizes["wavefront"] / (width * height),
        psnr(pixels, decoded_pixels),
        similarity(pixels, decoded_pixels),
        8 * len(jpeg_data) / (width * height),
        psnr(pixels, jpeg_pixels),
        similarity(pixels, jpeg_pixels),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    codec = ImageCodec(find_weights(arguments.model))
    rows = []
    for path in sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        rows.append(row := measure(codec, path))
        print(
            f"{row.photo:16} {row.bpp:.4f} bpp {row.psnr:6.2f} dB {row.ms_ssim:.4f}   "
            f"JPEG {row.jpeg_bpp:.4f} bpp {row.jpeg_psnr:6.2f} dB {row.jpeg_ms_ssim:.4f}"
        )
    means = {
        key: float(np.mean([getattr(row, key) for row in rows]))
        for key in ("bpp", "psnr", "ms_ssim", "jpeg_bpp", "jpeg_psnr", "jpeg_ms_ssim")
    }
    print(
        f"mean of {len(rows)}: {means['bpp']:.4f} bpp {means['psnr']:.2f} dB {means['ms_ssim']:.4f}   "
        f"JPEG {means['jpeg_bpp']:.4f} bpp {means['jpeg_psnr']:.2f} dB {means['jpeg_ms_ssim']:.4f}"
    )
    for order in ORDERS:
        actual, ideal = (sum(r.bytes[order] for r in rows), sum(r.ideal_bytes[order] for r in rows))
        worst = max(r.bytes[order] - 1.003 * r.ideal_bytes[order] for r in rows)
        print(
            f"{order:13} {actual} bytes, tables' ideal {ideal:.0f} ({100 * (actual / ideal - 1):+.2f} %); "
            f"worst excess over ideal + 0.3 %: {worst:.1f} bytes"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
