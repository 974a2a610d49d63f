"""A codec of one's own: a model of 30 lines of torch, and as many around quadrans' `EntropyBackend`.

A hyper-prior with a checkerboard context (He et al., CVPR 2021): half of the latent is coded from the
hyper-prior alone, and then the other half, which also sees its neighbors. Hyper-synthesis, context and head
are given to the backend as modules, so it lowers them to exact kernels: a file decodes to the same latent on
every machine.
"""

from itertools import pairwise

import torch
from skimage import data
from torch import Tensor, nn

from quadrans.kernels import checkerboard_mask
from quadrans.nets import EntropyBackend
from quadrans.nets.density import gaussian_bits

M, N = 48, 32  # channels of the latent y, and of the side information z


def stages(*widths: int, layer: type = nn.Conv2d, **extra: int) -> nn.Sequential:
    """5x5 convolutions with stride 2 between these numbers of channels, and GELU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [layer(inputs, outputs, 5, stride=2, padding=2, **extra), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Codec(nn.Module):
    """Photos (B, 3, H, W) in 0..1, sides multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        up = {"layer": nn.ConvTranspose2d, "output_padding": 1}
        self.g_a, self.g_s = stages(3, N, N, M), stages(M, N, N, 3, **up)
        self.h_a, self.h_s = stages(M, N, N), stages(N, N, 2 * M, **up)
        self.context = nn.Conv2d(M, 2 * M, 5, padding=2)
        self.head = nn.Sequential(nn.Conv2d(4 * M, 2 * M, 1), nn.GELU(), nn.Conv2d(2 * M, 2 * M, 1))
        self.z_scale = nn.Parameter(torch.full((N, 1, 1), 2.0))
        self.register_buffer("mask", torch.tensor(checkerboard_mask(5)).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What training needs: (x_hat, bits), rounding replaced by noise."""
        y = self.g_a(x)
        z = self.h_a(y)
        y, z = (latent + torch.rand_like(latent) - 0.5 for latent in (y, z))
        rows, cols = (torch.arange(size) for size in y.shape[2:])
        later = (rows[:, None] + cols) % 2  # anchors have an even row + column, and no context
        seen = nn.functional.conv2d(y, self.context.weight * self.mask, self.context.bias, padding=2)
        mean, scale = self.head(torch.cat([self.h_s(z), seen * later], 1)).chunk(2, 1)
        bits = gaussian_bits(y, scale, mean).sum() + gaussian_bits(z, self.z_scale, torch.zeros(())).sum()
        return self.g_s(y), bits


class Coder:
    """A trained codec's bytes."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec.eval()
        self.y = EntropyBackend(codec.head, "checkerboard", context=codec.context, hyper=codec.h_s)
        self.z = EntropyBackend()

    def _z_parameters(self, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        scale = self.codec.z_scale.detach().expand(batch, -1, height, width)
        return torch.zeros_like(scale), scale

    @torch.no_grad()
    def compress(self, x: Tensor) -> list[tuple[bytes, bytes]]:
        """The streams of z and of y of each photo."""
        y = self.codec.g_a(x)
        z_hat = self.codec.h_a(y).round()
        z_streams = self.z.compress(z_hat, *self._z_parameters(len(x), *z_hat.shape[2:]))
        return list(zip(z_streams, self.y.compress(y, z_hat), strict=True))

    @torch.no_grad()
    def latent(self, streams: list[tuple[bytes, bytes]], height: int, width: int) -> Tensor:
        """y_hat of photos of this size, to the bit that of the encoder."""
        z_streams, y_streams = zip(*streams, strict=True)
        z_hat = self.z.decompress(z_streams, *self._z_parameters(len(streams), height // 32, width // 32))
        return self.y.decompress(y_streams, z_hat)


def train(codec: Codec, photo: Tensor, steps: int) -> None:
    """Some steps on pieces of a photo: too few for a good codec, enough for a latent that is worth coding."""
    pieces = photo.unfold(2, 64, 32).unfold(3, 64, 32).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 64, 64)
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    for _ in range(steps):
        x = pieces[torch.randint(len(pieces), (4,))]
        x_hat, bits = codec(x)
        loss = bits / (len(x) * 64 * 64) + 0.01 * 255**2 * (x_hat - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    photo = torch.from_numpy(data.astronaut()[:256, 128:384].copy()).permute(2, 0, 1)[None] / 255
    codec = Codec()
    train(codec, photo, steps=150)

    coder = Coder(codec)
    photos = torch.cat([photo, photo.flip(3)])
    streams = coder.compress(photos)
    y_hat = coder.latent(streams, 256, 256)
    assert torch.equal(coder.latent(streams[1:], 256, 256), y_hat[1:])  # each photo's stream is its own
    with torch.no_grad():
        assert (y_hat - codec.g_a(photos)).abs().max() < 0.501  # rounded about its mean, and nothing else
        x_hat = codec.g_s(y_hat)
    psnr = -10 * (x_hat - photos).square().mean(dim=(1, 2, 3)).log10()
    for number, (z, y) in enumerate(streams):
        print(f"photo {number}: {len(z)} + {len(y)} bytes, {psnr[number]:.1f} dB")


if __name__ == "__main__":
    main()
