"""CompressAI's models in a process of their own, without what only its data sets and training need.

Run as a script, it reads pickled questions from its input and writes what CompressAI answers.
"""

import math
import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from unittest.mock import MagicMock

import numpy as np

ARCHITECTURES = (
    "bmshj2018-factorized",
    "bmshj2018-factorized-relu",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
)
UNUSED = (
    "compressai.datasets",
    "compressai.losses",
    "compressai.optimizers",
    "compressai.transforms",
    "compressai.zoo",
    "einops",
    "torch_geometric",
    "torch_geometric.transforms",
    "torchvision",
    "torchvision.transforms",
)


def sizes(architecture: str) -> tuple[int, ...]:
    """(N, M), or of Cheng's (N,): M = N."""
    return (8,) if architecture.startswith("cheng") else (8, 12)


def installed() -> bool:
    """Whether CompressAI is, with what it is bound to import."""
    try:
        return bool(version("compressai") and version("scipy"))
    except PackageNotFoundError:
        return False


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Parameters of these names and shapes, all but quantiles such that a model with them codes something."""
    rng = np.random.default_rng(14)
    return {key: _weight(rng, key, shapes[key]) for key in sorted(shapes)}


def _weight(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> np.ndarray:
    # About normal, from what every NumPy draws alike.
    noise = math.sqrt(3) * (rng.random((4, *shape)).sum(0) - 2)
    match key.rsplit(".", 1)[-1]:
        case "beta":
            value = np.sqrt(1 + 0.1 * np.abs(noise))
        case "gamma":
            value = np.sqrt(0.1 * np.eye(*shape) + 0.02 * np.abs(noise))
        case "bias":
            value = 0.1 * noise
        case "weight":
            value = noise * math.sqrt((0.2 if key.startswith("g_s") else 1) / math.prod(shape[1:]))
        case _:
            value = 0.3 * noise + ("matrices" in key and math.log(math.expm1(1 / 30**0.2)))
    if key in ("g_a.6.weight", "g_a.7.weight", "h_a.4.weight", "h_a.8.weight"):
        value *= 2
    if key == "h_s.4.bias":
        value += 4
    if key == "entropy_parameters.4.bias":
        value[: len(value) // 2] += 4
    return value.astype(np.float32)


def pixels() -> np.ndarray:
    """(128, 192, 3) uint8."""
    rng = np.random.default_rng(15)
    coarse = rng.random((16, 24, 3)).repeat(8, 0).repeat(8, 1)
    return (256 * (0.9 * coarse + 0.1 * rng.random(coarse.shape))).astype(np.uint8)


def ask(architectures: list[str]) -> list[dict]:
    """What `answer` gives in a process of its own. A subprocess error if it fails."""
    command = [sys.executable, __file__]
    run = subprocess.run(
        command, input=pickle.dumps(architectures), stdout=subprocess.PIPE, timeout=300, check=True
    )
    return pickle.loads(run.stdout)


def answer(architecture: str) -> dict:
    """Of the model with `weights`, and of `pixels`, in inference.

    shapes: of all that its state dict holds. quantiles: of the prior, found by bisection. bits: by its
    likelihoods. table_bits: of what it codes, under its tables, as `cost` has it. x_hat: every 1021st value,
    in C order of (3, H, W).
    """
    import torch
    from compressai.entropy_models import entropy_models
    from compressai.models import google, waseda

    classes = {
        "bmshj2018-factorized": google.FactorizedPrior,
        "bmshj2018-factorized-relu": google.FactorizedPriorReLU,
        "bmshj2018-hyperprior": google.ScaleHyperprior,
        "mbt2018-mean": google.MeanScaleHyperprior,
        "mbt2018": google.JointAutoregressiveHierarchicalPriors,
        "cheng2020-anchor": waseda.Cheng2020Anchor,
        "cheng2020-attn": waseda.Cheng2020Attention,
    }
    model = classes[architecture](*sizes(architecture))
    named = dict(model.named_parameters())
    for key, value in weights({key: tuple(p.shape) for key, p in named.items()}).items():
        named[key].data = torch.from_numpy(value)
    if hasattr(model, "context_prediction"):
        # As training leaves it.
        model.context_prediction.weight.data *= model.context_prediction.mask
    model.eval().update(force=True, update_quantiles=True)
    x = torch.from_numpy(pixels()).permute(2, 0, 1)[None].float() / 255
    coded: list[tuple] = []

    class Recording:
        """An encoder that keeps what it is given."""

        def encode_with_indexes(self, *arguments):
            coded.append(arguments)
            return b""

        def flush(self):
            return b""

    entropy_models._EntropyCoder.encode_with_indexes = Recording.encode_with_indexes
    entropy_models._EntropyCoder.decode_with_indexes = lambda *_: coded[0][0]
    google.BufferedRansEncoder = Recording
    with torch.inference_mode():
        out = model(x)
        model.compress(x)
    names = ["y"] if len(coded) == 1 else ["z", "y"]
    return {
        "shapes": {key: list(value.shape) for key, value in model.state_dict().items()},
        "quantiles": model.entropy_bottleneck.quantiles.tolist(),
        "bits": {key: float(-value.double().log2().sum()) for key, value in out["likelihoods"].items()},
        "table_bits": {name: cost(*given) for name, given in zip(names, coded, strict=True)},
        "x_hat": out["x_hat"].flatten()[::1021].tolist(),
    }


def cost(symbols, indexes, cdfs, lengths, offsets) -> float:
    """Bits of symbols under rows of cumulative frequencies of 16 bits, as CompressAI's coder spends them."""
    total = 0.0
    for symbol, index in zip(symbols, indexes, strict=True):
        cdf, last = cdfs[index], lengths[index] - 2
        value = symbol - offsets[index]
        if not 0 <= value < last:
            raw = -2 * value - 1 if value < 0 else 2 * (value - last)
            total += 4 * (1 + -(-raw.bit_length() // 4))
            value = last
        total += 16 - math.log2(cdf[value + 1] - cdf[value])
    return total


if __name__ == "__main__":
    for name in UNUSED:
        sys.modules[name] = MagicMock()
    answers = [answer(name) for name in pickle.loads(sys.stdin.buffer.read())]
    sys.stdout.buffer.write(pickle.dumps(answers))
