"""Random cases through CompressAI's own classes: over ours, equal bytes and equal symbols.

500 with ours installed, 500 with the methods that stream="compressai" puts in their place.
"""

from contextlib import ExitStack

import pytest
import torch
from compressai.entropy_models import (
    EntropyBottleneck,
    EntropyBottleneckVbr,
    GaussianConditional,
    GaussianMixtureConditional,
)
from tiny_compressai import MAKERS, image, tiny

from quadrans.nets.adapters.compressai import installed
from quadrans.nets.adapters.compressai.entropy_models import override


def shape(generator, channels, least=12):
    """(batch, channels, height, width) with at least so many values per image: of one, the wheel may die."""
    height, width = torch.randint(1, 12, (2,), generator=generator).tolist()
    return int(torch.randint(1, 4, (), generator=generator)), channels, max(height, -(-least // width)), width


def latent(generator, size, spread):
    """Mostly near 0, with values far outside every table."""
    y = spread * torch.randn(size, generator=generator)
    far = torch.rand(size, generator=generator) < 0.02
    return torch.where(far, 10 ** (1 + 5 * torch.rand(size, generator=generator)) * y.sign(), y)


def bottleneck(generator, kind, **given):
    torch.manual_seed(generator.initial_seed())
    model = kind(int(torch.randint(1, 9, (), generator=generator)), init_scale=5.0, **given)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "quantiles":
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        low, middle, high = torch.rand(3, model.channels, generator=generator)
        model.quantiles[:, 0] = torch.stack((-30 * low**4 - 1, middle - 0.5, 30 * high**4 + 1), 1)
    return model


def entropy_bottleneck(generator, precisions=1):
    precision = 16 - generator.initial_seed() % precisions
    model = bottleneck(generator, EntropyBottleneck, entropy_coder_precision=precision)
    model.update()
    x = latent(generator, shape(generator, model.channels), 3)
    return model, lambda: model.compress(x), lambda strings: model.decompress(strings, x.shape[2:])


def entropy_bottleneck_of_any_precision(generator):
    return entropy_bottleneck(generator, 3)


def entropy_bottleneck_vbr(generator):
    model = bottleneck(generator, EntropyBottleneckVbr)
    step = torch.tensor(0.5 + float(torch.rand((), generator=generator)))
    model.update_variable(qs=step)
    x = latent(generator, shape(generator, model.channels), 3)
    return (
        model,
        lambda: model.compress(x, step),
        lambda strings: model.decompress(strings, x.shape[2:], step),
    )


def gaussian_conditional(generator):
    table = torch.exp(torch.linspace(-2.2, 3.0, int(torch.randint(1, 30, (), generator=generator))))
    model = GaussianConditional(table.tolist(), scale_bound=0.11)
    model.update()
    size = shape(generator, 5)
    scales = torch.exp(1.5 * torch.randn(size, generator=generator) - 1)
    means = torch.randn(size, generator=generator) if torch.rand((), generator=generator) < 0.7 else None
    y = latent(generator, size, 1) * scales
    return (
        model,
        lambda: model.compress(y, model.build_indexes(scales), means),
        lambda strings: model.decompress(strings, model.build_indexes(scales), means=means),
    )


def gaussian_mixture(generator):
    """Its coder gets a row for each symbol, and no channels of zeros."""
    count = int(torch.randint(1, 5, (), generator=generator))
    model = GaussianMixtureConditional(count, [0.11, 1.0])
    _, channels, height, width = shape(generator, 4)
    size = (1, count * channels, height, width)
    scales, means = 3 * torch.rand(size, generator=generator), 4 * torch.randn(size, generator=generator)
    weights = torch.softmax(torch.randn(1, count, channels * height * width, generator=generator), 1).reshape(
        size
    )
    y = latent(generator, (1, channels, height, width), 4).clamp(-60, 60)
    y[:, 1] = 0
    given = scales, means, weights

    def decode(coded):
        strings, largest, bitmap = coded
        return model.decompress(strings, largest, bitmap.clone(), *(tensor.clone() for tensor in given))

    def encode():
        (strings, largest, bitmap), _ = model.compress(y, *(tensor.clone() for tensor in given))
        return Mixture((strings, largest, bitmap))

    return model, encode, decode


class Mixture(tuple):
    """Comparable, as a tuple with a tensor in it isn't."""

    __slots__ = ()

    def __eq__(self, other):
        return self[:2] == other[:2] and torch.equal(self[2], other[2])

    __hash__ = None


def overridden(*models):
    stack = ExitStack()
    for model in models:
        stack.callback(override(model))
    return stack


CASES = [
    ("installed", entropy_bottleneck_of_any_precision, 150),
    ("installed", entropy_bottleneck_vbr, 100),
    ("installed", gaussian_conditional, 150),
    ("installed", gaussian_mixture, 70),
    ("overridden", entropy_bottleneck, 200),
    ("overridden", gaussian_conditional, 200),
    ("overridden", gaussian_mixture, 100),
]


@pytest.mark.parametrize(("way", "make", "count"), CASES, ids=lambda one: getattr(one, "__name__", str(one)))
@torch.no_grad()
def test_entropy_models(way, make, count):
    def over_ours(models):
        return installed() if way == "installed" else overridden(*models)

    cases = [make(torch.Generator().manual_seed(seed)) for seed in range(count)]
    coded = [encode() for _, encode, _ in cases]
    decoded = [decode(strings) for (*_, decode), strings in zip(cases, coded, strict=True)]
    with over_ours(model for model, *_ in cases):
        ours = [encode() for _, encode, _ in cases]
        for seed, (*_, decode) in enumerate(cases):
            assert ours[seed] == coded[seed], seed
            assert torch.equal(decode(coded[seed]), decoded[seed]), seed
    with installed():
        remade = [make(torch.Generator().manual_seed(seed)) for seed in range(0, count, 10)]
        with over_ours(model for model, *_ in remade):
            assert [encode() for _, encode, _ in remade] == coded[::10]
    for seed, (*_, decode) in enumerate(cases):
        assert torch.equal(decode(ours[seed]), decoded[seed]), seed


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_models_and_latent_codecs(name):
    """Two images each; half of these models call the coder once for each position."""
    model = tiny(name)
    for x in (image(64, 64), 1 - image(64, 128)):
        coded = model.compress(x)
        x_hat = model.decompress(coded["strings"], coded["shape"])["x_hat"]
        with installed():
            again = model.compress(x)
            assert (again["strings"], again["shape"]) == (coded["strings"], coded["shape"])
            assert torch.equal(model.decompress(coded["strings"], coded["shape"])["x_hat"], x_hat)


def test_there_are_500():
    counts = {way: sum(count for one, _, count in CASES if one == way) for way in ("installed", "overridden")}
    assert counts["installed"] + 2 * len(MAKERS) >= 500
    assert counts["overridden"] >= 500
