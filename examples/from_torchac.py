"""A script that used torchac: one import is another, every call stays, and so does every byte.

Every second column of a photo is coded given its neighbors left and right, which both ends have: a pixel is
near their mean, and less near where they differ.

torchac's functions take CDFs as floats, so both ends must compute equal floats. Sums and quotients are
rounded alike everywhere; networks and exponentials are not: for them there is `quadrans.nets.EntropyBackend`.
"""

import hashlib

import torch
from skimage import data

# import torchac                                # before
from quadrans.nets.adapters import torchac  # after: nothing is compiled at import

VALUES = 256


def cdf_of(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(..., 257) float CDFs of the pixels between: P(pixel < v) for v in 0..256."""
    mean, scale = (left + right) / 2, 1 + (left - right).abs() / 8
    edges = torch.arange(VALUES + 1) - 0.5
    t = (edges - mean[..., None]) / scale[..., None]
    cdf = 0.5 + 0.5 * t / (t.abs() + 1)
    cdf[..., 0], cdf[..., -1] = 0, 1
    return cdf


photo = torch.from_numpy(data.camera()[:128, :257].astype("float32"))
cdf = cdf_of(photo[:, :-1:2], photo[:, 2::2])
symbols = photo[:, 1::2].to(torch.int16)

stream = torchac.encode_float_cdf(cdf, symbols, check_input_bounds=True)
assert torch.equal(torchac.decode_float_cdf(cdf, stream), symbols)
# What torchac 0.9.3 itself made of them.
assert (
    hashlib.sha256(stream).hexdigest() == "c3cca3ec0fdc04aca433b26bc3a1fe109a0da4b6c6daa91b22562bd9dabae08a"
)
print(f"{symbols.numel()} pixels in {len(stream)} bytes: {8 * len(stream) / symbols.numel():.2f} bits each")
