"""A CompressAI model before and after `accelerate`: the same object, the same calls, time and bytes.

    stream="compressai"   CompressAI's own bytes, so its files decode here and ours there
    stream="lanes"        ours: exact kernels instead of torch between z and y, serial contexts by wavefronts;
                          a file decodes to the same latent on every machine

The models are small and trained for seconds, on the photo itself, so the sizes say nothing about the
architectures. With a checkpoint, load it and leave the training out.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from compressai.models import JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior
from skimage import data
from torch import Tensor, nn

from quadrans.nets.adapters.compressai import accelerate


def train(model: nn.Module, photo: Tensor, steps: int) -> None:
    """Some steps on pieces of the photo."""
    pieces = photo.unfold(2, 64, 32).unfold(3, 64, 32).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 64, 64)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        x = pieces[torch.randint(len(pieces), (4,))]
        out = model(x)
        bits = -sum(likelihoods.log2().sum() for likelihoods in out["likelihoods"].values())
        loss = bits / (len(x) * 64 * 64) + 0.03 * 255**2 * (out["x_hat"] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(its result, median of the milliseconds of three calls). A call before them compiles what isn't yet."""
    out = call()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return out, median(times)


@torch.no_grad()
def coded(model: nn.Module, photo: Tensor, label: str) -> tuple[dict[str, Any], Tensor]:
    """(what compress gives, x_hat), with a line of what they took."""
    out, encoding = timed(lambda: model.compress(photo))
    decoded, decoding = timed(lambda: model.decompress(out["strings"], out["shape"]))
    size = sum(len(string) for strings in out["strings"] for string in strings)
    print(f"  {label:22} compress {encoding:6.1f} ms, decompress {decoding:6.1f} ms, {size} bytes")
    return out, decoded["x_hat"]


def main() -> None:
    photo = torch.from_numpy(data.astronaut()[:256, 128:384].copy()).permute(2, 0, 1)[None] / 255
    for name, architecture in (
        ("mbt2018-mean", MeanScaleHyperprior),
        ("mbt2018", JointAutoregressiveHierarchicalPriors),
    ):
        torch.manual_seed(0)
        model = architecture(32, 48)
        train(model, photo, steps=80)
        model.eval()
        model.update(force=True)

        print(name)
        before, x_before = coded(model, photo, "CompressAI")
        accelerate(model, stream="compressai")
        same, x_same = coded(model, photo, 'stream="compressai"')
        assert same["strings"] == before["strings"]
        assert torch.equal(x_same, x_before)
        accelerate(model, stream="lanes")
        _, x_lanes = coded(model, photo, 'stream="lanes"')
        # Another arithmetic, so another rounding here and there; but nothing that one would see.
        assert (x_lanes - x_before).square().mean() < 1e-4


if __name__ == "__main__":
    main()
