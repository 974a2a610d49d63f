"""CompressAI's models over our coder: its bytes, its results, in both directions, to the bit."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import (
    EntropyBottleneck,
    EntropyBottleneckVbr,
    GaussianConditional,
    GaussianMixtureConditional,
)
from compressai.models import google
from tiny_compressai import MAKERS, image, tiny
from torch import Tensor, nn

from quadrans.entropy import CorruptStream
from quadrans.nets.adapters.compressai.entropy_models import Override, override, restore
from quadrans.nets.adapters.compressai.tables import TablesMissing
from quadrans.nets.stale import StaleWeights

SERIAL = ("mbt2018", "cheng2020-anchor", "codec-raster")


def accelerated(model: nn.Module) -> Any:
    """A copy with our functions in it."""
    fast = copy.deepcopy(model)
    override(fast)
    return fast


def assert_equal(ours: Any, theirs: Any) -> None:
    """The same structure with the same bytes, and tensors that are equal to the bit."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_equal(*pair)
    elif isinstance(theirs, Tensor):
        assert (ours.dtype, ours.device, ours.shape) == (theirs.dtype, theirs.device, theirs.shape)
        assert torch.equal(*(one.detach().reshape(-1).view(torch.uint8) for one in (ours, theirs)))
    else:
        assert ours == theirs


def assert_like_stock(fast: Any, stock: Any, x: Tensor) -> None:
    """Both code x to the same, and each decodes what both coded to the same."""
    coded = stock.compress(x)
    assert_equal(fast.compress(x), coded)
    assert_equal(fast.decompress(**_given(coded)), stock.decompress(**_given(coded)))


def _given(coded: dict[str, Any]) -> dict[str, Any]:
    return {key: coded[key] for key in ("strings", "shape")}


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bottleneck(channels: int = 5) -> EntropyBottleneck:
    torch.manual_seed(3)
    model = EntropyBottleneck(channels)
    with torch.no_grad():
        for matrix in model.matrices:
            matrix.add_(0.3 * torch.randn(matrix.shape))
        model.update(force=True, update_quantiles=True)
    return model


def conditional() -> GaussianConditional:
    model = GaussianConditional(None)
    model.update_scale_table([0.11 * 1.5**k for k in range(14)], force=True)
    return model


def gaussian_latent(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(y, scales, means), some of y far outside its scale, some scales outside the table."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, *shape, generator=generator)
    scales = torch.exp(2 * noise[0])
    y = noise[1] + scales * noise[2]
    y.view(-1)[::17] *= 1000
    return y, scales, noise[1]


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_every_architecture_has_its_bytes_and_results(name: str) -> None:
    stock = tiny(name)
    fast = accelerated(stock)
    assert_like_stock(fast, stock, image(64, 128))
    # CompressAI's own raster codec can't decode more than one image.
    if name == "codec-raster":
        assert_equal(fast.compress(image(64, 64, 3)), stock.compress(image(64, 64, 3)))
    else:
        assert_like_stock(fast, stock, image(64, 64, 3))


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "codec-factorized"])
@torch.no_grad()
def test_sides_that_nothing_divides(name: str) -> None:
    stock = tiny(name)
    assert_like_stock(accelerated(stock), stock, image(37, 101, 2))


@pytest.mark.parametrize("name", ["mbt2018", "codec-raster"])
@torch.no_grad()
def test_serial_models_with_threads(name: str) -> None:
    stock = tiny(name, seed=2)
    fast = accelerated(stock)
    with threads(2):
        assert_like_stock(fast, stock, image(64, 64))


@torch.no_grad()
def test_serial_model_of_the_size_of_the_zoo() -> None:
    # Large enough for the kernels that torch chooses then, under which others would round otherwise.
    torch.manual_seed(0)
    stock = google.JointAutoregressiveHierarchicalPriors(192, 192).eval()
    stock.update(force=True)
    assert_like_stock(accelerated(stock), stock, 8 * image(64, 64))


@pytest.mark.parametrize("name", ["mbt2018-mean", *SERIAL])
def test_with_gradients_on(name: str) -> None:
    stock = tiny(name)
    fast = accelerated(stock)
    coded = stock.compress(image(64, 64))
    assert_equal(_given(fast.compress(image(64, 64))), _given(coded))
    ours, theirs = (model.decompress(**_given(coded))["x_hat"] for model in (fast, stock))
    assert torch.equal(ours, theirs)
    assert ours.requires_grad == theirs.requires_grad
    # What comes out can be trained on.
    ours.sum().backward()


@pytest.mark.parametrize("name", ["mbt2018", "codec-raster", "codec-groups"])
@torch.no_grad()
def test_copies_and_pickles_are_accelerated_and_independent(name: str) -> None:
    stock = tiny(name)
    fast = accelerated(stock)
    coded = fast.compress(image(64, 64))
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert len(_overrides(again)) == len(_overrides(fast)) > 0
        assert all(ours.module is module for module, ours in _overrides(again))
        assert_equal(again.compress(image(64, 64)), coded)
        restore(again)
        assert not _overrides(again)
        assert_equal(again.compress(image(64, 64)), coded)
    assert _overrides(fast)
    assert list(fast.state_dict()) == list(stock.state_dict())


def _overrides(model: nn.Module) -> list[tuple[nn.Module, Override]]:
    """(where it is found, itself) of all that is ours in the model."""
    found = [(module, value) for module in model.modules() for value in vars(module).values()]
    return [pair for pair in found if isinstance(pair[1], Override)]


@torch.no_grad()
def test_other_weights_with_their_tables() -> None:
    stock, other = tiny("mbt2018-mean"), tiny("mbt2018-mean", seed=1)
    fast = accelerated(stock)
    before = fast.compress(image(64, 64))
    fast.load_state_dict(_state(other, fast))
    assert_like_stock(fast, other, image(64, 64))
    assert fast.compress(image(64, 64))["strings"] != before["strings"]
    for model in (fast, other):
        model.update([0.2 * 1.3**k for k in range(9)], force=True)
    assert_like_stock(fast, other, image(64, 64))


def _state(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """What `load_state_dict` takes: CompressAI's gives buffers room only where there are none."""
    for name, buffer in source.named_buffers():
        owner, _, attribute = name.rpartition(".")
        target.get_submodule(owner).register_buffer(attribute, torch.empty_like(buffer))
    return source.state_dict()


@torch.no_grad()
def test_weights_that_changed_are_named() -> None:
    fast = accelerated(tiny("mbt2018-mean"))
    coded = fast.compress(image(64, 64))
    fast.entropy_bottleneck.biases[2].add_(0.1)
    for code in (lambda: fast.compress(image(64, 64)), lambda: fast.decompress(**_given(coded))):
        with pytest.raises(StaleWeights, match=r"EntropyBottleneck .*channel \d.* / 65536; run model.update"):
            code()
    fast.update(force=True)
    stock = copy.deepcopy(fast)
    restore(stock)
    assert_like_stock(fast, stock, image(64, 64))


def test_half_trained_tables_code_as_they_are_once_updated() -> None:
    stock = tiny("mbt2018-mean")
    optimizer = torch.optim.Adam(stock.parameters(), 1e-4)
    stock.train()
    for _ in range(2):
        optimizer.zero_grad()
        sum(-one.log().sum() for one in stock(image(64, 64))["likelihoods"].values()).backward()
        optimizer.step()
    stock.eval()
    fast = accelerated(stock)
    with pytest.raises(StaleWeights), torch.no_grad():
        fast.compress(image(64, 64))
    for model in (stock, fast):
        model.update(force=True)
    with torch.no_grad():
        assert_like_stock(fast, stock, image(64, 64))


@torch.no_grad()
def test_tables_that_were_never_built() -> None:
    model = google.MeanScaleHyperprior(8, 12)
    override(model)
    with pytest.raises(TablesMissing, match=r"EntropyBottleneck were never built; run model.update"):
        model.compress(image(64, 64))
    with pytest.raises(TablesMissing, match="GaussianConditional has no scale table"):
        model.gaussian_conditional.build_indexes(torch.ones(1, 2))
    assert issubclass(TablesMissing, ValueError)


@pytest.mark.parametrize(
    "shape", [(3, 5, 4, 7), (2, 5), (1, 5, 9), (2, 5, 2, 3, 1), (2, 5, 0, 3), (0, 5, 2, 2)]
)
def test_bottleneck_of_any_shape(shape: tuple[int, ...]) -> None:
    stock = bottleneck()
    fast = accelerated(stock)
    x = 20 * torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    x.view(-1)[::13] *= 1000
    strings = fast.compress(x)
    out = fast.decompress(strings, x.shape[2:])
    # CompressAI's coder crashes where there is no symbol.
    if x.numel():
        assert_equal(strings, stock.compress(x))
        assert_equal(out, stock.decompress(strings, x.shape[2:]))
    else:
        assert strings == [bytes([0, 0, 0, 128, 0, 0, 0, 0])] * shape[0]
        assert out.shape == shape


@pytest.mark.parametrize("shape", [(2, 5, 4, 7), (3, 5), (1, 1, 1, 3), (1, 1, 1, 1), (1, 3, 0, 2)])
@pytest.mark.parametrize("given", ["means", "broadcast", "none"])
def test_conditional_of_any_shape(shape: tuple[int, ...], given: str) -> None:
    stock = conditional()
    fast = accelerated(stock)
    y, scales, means = gaussian_latent(*shape)
    means = {"means": means, "broadcast": torch.full(shape[:2] + (1,) * (len(shape) - 2), 0.3), "none": None}[
        given
    ]
    indexes = fast.build_indexes(scales)
    assert_equal(indexes, stock.build_indexes(scales))
    strings = fast.compress(y, indexes, means)
    out = fast.decompress(strings, indexes, means=means)
    # CompressAI's coder crashes, sometimes later, where there is no symbol or one.
    if y.numel() > 1:
        assert_equal(strings, stock.compress(y, indexes, means))
        assert_equal(out, stock.decompress(strings, indexes, means=means))
    else:
        assert_equal(out, torch.round(y if means is None else y - means) + (0 if means is None else means))
    # Strided, and in a wider type.
    turned = [None if one is None else one.mT.contiguous().mT for one in (y, indexes.long(), means)]
    assert fast.compress(*turned) == strings
    assert_equal(fast.decompress(strings, turned[1], means=turned[2]), out)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_conditional_of_other_types(dtype: torch.dtype) -> None:
    stock = conditional()
    fast = accelerated(stock)
    y, scales, means = (one.to(dtype) for one in gaussian_latent(1, 4, 8, 8))
    assert_equal(fast.build_indexes(scales), stock.build_indexes(scales))
    indexes = stock.build_indexes(scales)
    for given in (means, means.float(), None):
        strings = stock.compress(y, indexes, given)
        assert_equal(fast.compress(y, indexes, given), strings)
        assert_equal(
            fast.decompress(strings, indexes, dtype, given), stock.decompress(strings, indexes, dtype, given)
        )


@pytest.mark.parametrize("shape", [(1, 4, 3, 5), (1, 1, 1, 3)])
def test_mixtures(shape: tuple[int, ...]) -> None:
    stock = GaussianMixtureConditional(K=3)
    fast = accelerated(stock)
    generator = torch.Generator().manual_seed(7)
    y = 3 * torch.randn(shape, generator=generator)
    y[:, 2:3] *= 0.1
    wide = (1, 3 * shape[1], *shape[2:])
    scales, means = torch.exp(torch.randn(wide, generator=generator)), torch.randn(wide, generator=generator)
    weights = torch.rand((*shape[:1], 3, *shape[1:]), generator=generator).softmax(1).reshape(wide)
    parameters = [scales, means, weights]
    ours, theirs = (model.compress(y, *(one.clone() for one in parameters)) for model in (fast, stock))
    assert_equal(ours, theirs)
    coded = theirs[0]
    assert_equal(fast.decompress(*coded, *parameters), stock.decompress(*coded, *parameters))
    with pytest.raises(ValueError, match="finite"):
        fast.compress(y * torch.nan, *parameters)
    with pytest.raises(ValueError, match=r"symbols within \+-3000000001; mixtures code 1 to 32767"):
        fast.compress(y.sign() * 3e9, *parameters)


def test_mixtures_whose_largest_symbol_is_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = accelerated(GaussianMixtureConditional(K=1))
    y, scales, means = gaussian_latent(1, 4, 64, 64)
    y = y.clamp(-9, 9)
    (string, largest, bitmap), y_hat = fast.compress(y, scales, means, torch.ones_like(y))
    decompress = partial(fast.decompress, string, zero_bitmap=bitmap)
    given = {"scales": scales, "means": means, "weights": torch.ones_like(y)}
    assert torch.equal(decompress(abs_max=largest, **given), y_hat)

    def build(*_: object) -> Tensor:
        raise AssertionError("it was too late")

    monkeypatch.setattr(fast, "_build_cdf", build)
    for wrong in (-1, 0, 32768, 1 << 40):
        with pytest.raises(ValueError, match=rf"symbols within \+-{wrong}; mixtures code 1 to 32767"):
            decompress(abs_max=wrong, **given)
    with pytest.raises(ValueError, match=f"16384 symbols within .* {16384 * 65537} .* more than {1 << 28}"):
        decompress(abs_max=32767, **given)


def test_what_would_hang_or_garble() -> None:
    fast = accelerated(conditional())
    y, scales, means = gaussian_latent(1, 2, 3, 4)
    indexes = fast.build_indexes(scales)
    for value in (torch.nan, torch.inf, 2.0**31, -3e9):
        bad = y.clone()
        bad[0, 1, 2, 3] = value
        with pytest.raises(ValueError, match=re.escape("at [0, 1, 2, 3] of [1, 2, 3, 4], not within int32")):
            fast.compress(bad, indexes)
    with pytest.raises(ValueError, match=re.escape("are nan at [0, 0, 0, 0]")):
        fast.compress(y + torch.inf, indexes, means + torch.inf)
    edge = torch.tensor([-1.0, 1.0, -0.25]).repeat(8).reshape(y.shape) * (2**31 - 128)
    assert torch.equal(fast.decompress(fast.compress(edge, indexes), indexes), edge)
    scales[0, 1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=re.escape("NaN at [0, 1, 0, 2] of [1, 2, 3, 4]")):
        fast.build_indexes(scales)
    strings = fast.compress(y, indexes, means)
    for string in (strings[0][:-4], strings[0][:7], b"", strings[0] + bytes(4)):
        with pytest.raises(CorruptStream):
            fast.decompress([string], indexes, means=means)
    with pytest.raises(ValueError, match=r"index \d+ at \d+, the table has rows 0..13"):
        fast.compress(y, indexes + 13)


def test_arguments_that_do_not_fit() -> None:
    fast = accelerated(conditional())
    y, scales, means = gaussian_latent(2, 2, 3, 4)
    indexes = fast.build_indexes(scales)
    strings = fast.compress(y, indexes, means)
    for wrong in (
        lambda: fast.compress(y[0, 0, 0], indexes[0, 0, 0]),
        lambda: fast.compress(y, indexes[:1]),
        lambda: fast.decompress(strings[0], indexes),
        lambda: fast.decompress(strings[:1], indexes),
        lambda: fast.decompress(strings, indexes[:, 0, 0, 0]),
        lambda: fast.decompress(strings, indexes, means=means[:1]),
        lambda: fast.decompress(strings, indexes, means=means[:, :, :, :1]),
        lambda: fast.decompress(strings, indexes, means=means[:, :, 0]),
    ):
        with pytest.raises(ValueError, match=r"Invalid|should have the same size"):
            wrong()


@torch.no_grad()
def test_serial_streams_end_exactly() -> None:
    fast = accelerated(tiny("mbt2018"))
    coded = fast.compress(image(64, 64))
    (y_string,), z_strings = coded["strings"]
    for string in (y_string[:-4], y_string + bytes(4)):
        with pytest.raises(CorruptStream):
            fast.decompress([[string], z_strings], coded["shape"])
    with pytest.raises(ValueError, match=r"expected \(1, M, 8, 8\)"):
        fast._decompress_ar(y_string, torch.zeros(1, 12, 4, 4), torch.zeros(1, 24, 4, 4), 4, 4, 5, 2)


class MyBottleneck(EntropyBottleneck):
    """Of a third party."""


class MySerial(google.JointAutoregressiveHierarchicalPriors):
    """Of a third party, that codes its own way."""

    def _compress_ar(self, *arguments: Any) -> bytes:
        return b"mine"


def test_what_is_refused() -> None:
    model = google.FactorizedPrior(4, 6)
    for bad, reason in (
        (
            MyBottleneck(6),
            r"entropy_bottleneck \(.*MyBottleneck\): of entropy models, exactly",
        ),
        (EntropyBottleneckVbr(6), "EntropyBottleneckVbr"),
    ):
        model.entropy_bottleneck = bad
        with pytest.raises(TypeError, match=reason):
            override(model)
    model.entropy_bottleneck = EntropyBottleneck(6)
    model.entropy_bottleneck.entropy_coder.name = "rangecoder"
    with pytest.raises(TypeError, match="codes with 'rangecoder'"):
        override(model)
    model.entropy_bottleneck.entropy_coder.name = "ans"
    model.entropy_bottleneck.decompress = print
    with pytest.raises(TypeError, match="has a decompress of its own already"):
        override(model)
    assert not _overrides(model)
    with pytest.raises(TypeError, match="a Conv2d has none"):
        override(nn.Conv2d(1, 1, 1))


def test_methods_of_subclasses_stay_theirs() -> None:
    model = MySerial(4, 6)
    undo = override(model)
    assert model._compress_ar(0) == b"mine"
    assert not any(isinstance(value, Override) for value in vars(model).values())
    assert isinstance(vars(model.gaussian_conditional)["compress"], Override)
    undo()
    assert not _overrides(model)


def test_what_a_model_looks_like_stays() -> None:
    stock = tiny("mbt2018")
    fast = accelerated(stock)
    assert repr(fast) == repr(stock)
    assert_equal(dict(fast.state_dict()), dict(stock.state_dict()))
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in stock.named_modules()]
    assert np.array_equal(*(one.gaussian_conditional.scale_table.numpy() for one in (fast, stock)))
