"""Lowered modules: close to torch, equal to the reference to the bit, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from quadrans.kernels import reference_network
from quadrans.nets import blocks, swin
from quadrans.nets.hyper import hyper_analysis, hyper_synthesis
from quadrans.nets.lowering import lower
from quadrans.nets.transforms import conv, deconv

SIZE = (4, 8)
"""Height and width of the tests' inputs."""


def randomized(module: nn.Module) -> nn.Module:
    """The module with parameters that are neither zeros nor ones anywhere, in inference."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter += torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    return module.eval().requires_grad_(False)


def check(
    module: nn.Module, channels: int, size: tuple[int, int] = SIZE, tokens: torch.Tensor | None = None
) -> None:
    """The lowered module gives the reference's bits and torch's numbers, on a batch of two."""
    randomized(module)
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(6))
    layer = lower(module)
    image = x.permute(0, 2, 3, 1).contiguous().numpy()
    inputs = {} if tokens is None else {blocks.TOKENS: tokens[:, None].numpy()}
    ours = layer(image, inputs)
    expected = reference_network.run(layer, image, inputs)
    np.testing.assert_array_equal(ours.view(np.uint32), expected.view(np.uint32))
    assert layer.channels(channels) == ours.shape[3]
    theirs = module(x) if tokens is None else module(x, tokens)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(6, 5, 3),
        nn.Conv2d(6, 5, (1, 3), (2, 1), (0, 2), bias=False),
        nn.Conv2d(6, 5, (3, 5), padding="same"),
        nn.Conv2d(6, 5, 2, padding="valid"),
        nn.Conv2d(6, 6, 3, (1, 2), 1, groups=6),
        nn.ConvTranspose2d(6, 5, 5, 2, 2, 1),
        nn.ConvTranspose2d(6, 5, (3, 4), 2, (1, 0), (0, 1), bias=False),
        nn.Sequential(nn.Conv2d(6, 8, 1), nn.PixelShuffle(2), nn.PixelUnshuffle(4)),
        nn.Sequential(nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.Softplus()),
        nn.Sequential(nn.GELU(), nn.LeakyReLU(0.2), nn.GELU("tanh"), nn.LeakyReLU(0), nn.Identity()),
        nn.Sequential(
            nn.Sequential(nn.Conv2d(6, 8, 1), nn.Dropout(0.5)), nn.Sequential(), nn.Conv2d(8, 2, 3)
        ),
        hyper_analysis(4, 6),
        hyper_synthesis(6, 4),
    ],
)
def test_modules(module: nn.Module) -> None:
    check(module, 6)


def test_last_axis() -> None:
    """Linear and LayerNorm work on the last axis, and so does what is lowered from them."""
    module = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9, 1e-3), nn.GELU(), nn.Linear(9, 4, bias=False))
    plain = nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4, bias=False))
    randomized(module), randomized(plain)
    x = torch.randn(2, 5, 3, 6)
    for one, image in ((module, x), (plain, module(x))):
        np.testing.assert_allclose(lower(one)(image.numpy()), one(image).numpy(), rtol=1e-4, atol=1e-5)
        with pytest.raises(TypeError, match=r"(?s)layer h_s .* channels in axis -1, its inputs in axis 1"):
            lower(one, "h_s", 1)
    lower(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "h_s", 1)


def test_shared_modules() -> None:
    """A module that takes part twice is lowered twice."""
    act, same = nn.LeakyReLU(), nn.Conv2d(6, 6, 1)
    module = nn.Sequential(same, act, same, act, nn.Conv2d(6, 3, 1), act)
    check(module, 6)
    assert len(lower(module).layers) == 6  # type: ignore[attr-defined]


def test_half_precision_weights() -> None:
    """float16 and bfloat16 are float32 numbers too."""
    module = randomized(nn.Conv2d(3, 4, 1))
    for dtype in (torch.float16, torch.bfloat16):
        half = module.to(dtype)
        np.testing.assert_array_equal(lower(half).weight, half.weight.float().numpy())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("module", "channels"),
    [
        (blocks.subpixel_conv(6, 3), 6),
        (blocks.ResidualBottleneck(6), 6),
        (blocks.DepthConv(6, 6), 6),
        (blocks.DepthConv(6, 4), 6),
        (blocks.DepthConvBlock(6, 4), 6),
        (blocks.DepthConvBlock2(6, 4), 6),
        (blocks.DepthConvBlock2(6, 6), 6),
        (swin.PatchMerge(6, 5), 6),
        (swin.PatchSplit(6, 5), 6),
        (swin.SwinBlock(6, 3, 4), 6),
        (swin.SwinBlock(6, 2, 4, 1), 6),
        (swin.SwinBlock(6, 2, 2, 1), 6),
        (nn.Sequential(blocks.ResidualBottleneck(6), swin.SwinBlock(6, 2, 4, 2), swin.PatchMerge(6, 4)), 6),
    ],
)
def test_blocks(module: nn.Module, channels: int) -> None:
    check(module, channels)


def test_window_estimator() -> None:
    check(blocks.WindowEstimator(3), 6, (4, 4))


def test_one_window() -> None:
    """A plane that is a single window, moved or not."""
    check(swin.SwinBlock(6, 2, 4, 2), 6, (4, 4))
    check(swin.SwinBlock(6, 2, 2), 6, (2, 2))


def test_cross_attention() -> None:
    tokens = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(7))
    check(blocks.CABlock(6, 2), 6, tokens=tokens)
    check(blocks.CABlock(6, 3), 6, (1, 1), tokens=tokens[:, :1])
    assert lower(blocks.CABlock(6, 2)).pointwise


def test_who_attends_to_whom() -> None:
    """In a moved window: positions that are neighbors on the plane, and not only around its borders."""
    h, w, window, shift = 8, 12, 4, 1
    masks = swin._border_masks(h, w, window, shift, torch.zeros(1))
    numbers = torch.arange(h * w).view(1, h, w, 1).roll((-shift, -shift), (1, 2))
    at = swin._windows(numbers, window)[..., 0]
    rows, cols = ((x[:, :, None] - x[:, None]).abs() for x in (at // w, at % w))
    assert masks.shape == (6, 16, 16)
    assert set(masks.unique().tolist()) == {0, -100}
    assert ((masks == 0) == (rows.maximum(cols) < window)).all()


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_parameter_counts() -> None:
    """Those of the papers' systems, from their published codes."""
    with torch.device("meta"):
        assert parameters(blocks.CABlock(320, 5)) == 1_233_600
        assert parameters(blocks.CABlock(640, 10)) == 4_924_800
        assert parameters(blocks.WindowEstimator(192)) == 1_401_792
        swins = [swin.SwinBlock(192, 6, 4, 2 * (i % 2)) for i in range(6)]
        assert parameters(swin.PatchMerge(320, 192), swin.PatchMerge(192, 192), *swins) == 3_068_260
        assert parameters(swin.PatchSplit(192, 192), swin.PatchSplit(192, 640), *swins) == 3_316_580
        bottlenecks = [blocks.ResidualBottleneck(192) for _ in range(3)]
        analysis = [conv(3, 192), conv(192, 192), conv(192, 192), conv(192, 320)]
        synthesis = [deconv(320, 192), deconv(192, 192), deconv(192, 192), deconv(192, 3)]
        assert parameters(*analysis, *bottlenecks) == 3_755_072
        assert parameters(*synthesis, *bottlenecks) == 3_754_755
        first = [nn.Conv2d(640, 960, 1), *(nn.Conv2d(960, 960, 1) for _ in range(3))]
        gated = [blocks.DepthConvBlock2(960, 640), *(blocks.DepthConvBlock2(640, 640) for _ in range(2))]
        assert parameters(*first, *gated) == 14_581_440
        plain = [blocks.DepthConvBlock(*widths) for widths in ((960, 960), (960, 640), (640, 640))]
        assert parameters(*first[1:], *plain) == 14_581_440


class Odd(nn.Conv2d):
    """A subclass, which may have any forward."""


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    return module


def prehooked(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2)
    return module


def replaced(module: nn.Module) -> nn.Module:
    module.forward = torch.exp  # type: ignore[assignment]
    return module


def inside(module: nn.Module, name: str, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    change(module.get_submodule(name))
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), r"layer 1 .*groups"),
        (nn.Conv2d(4, 8, 3, groups=4), r"layer 1 .*groups"),
        (nn.Conv2d(4, 4, 3, dilation=2), r"layer 1 .*dilation"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), r"layer 1 .*padding"),
        (nn.Conv2d(4, 4, 2, padding="same"), r"layer 1 .*one side"),
        (nn.ConvTranspose2d(4, 4, 3, (1, 2)), r"layer 1 .*strides"),
        (nn.ConvTranspose2d(4, 4, 3, groups=2), r"layer 1 .*groups"),
        (nn.ConvTranspose2d(4, 4, 3, dilation=2), r"layer 1 .*dilation"),
        (nn.LeakyReLU(-0.1), "layer 1 .*slope"),
        (nn.LeakyReLU(1.1), "layer 1 .*slope"),
        (nn.Softplus(2), "layer 1 .*Softplus"),
        (nn.Softplus(1, 10), "layer 1 .*Softplus"),
        (nn.SiLU(), "layer 1 .*SiLU.*no exact counterpart"),
        (nn.BatchNorm2d(4), "layer 1 .*no exact counterpart"),
        (nn.ModuleList([nn.ReLU()]), "layer 1 .*no exact counterpart"),
        (nn.Dropout(0.1), "layer 1 .*random in training"),
        (nn.LayerNorm([3, 4]), "layer 1 .*over the channels"),
        (Odd(4, 4, 1), "layer 1 .*no exact counterpart"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "layer 1 .*Parametrized"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)), "layer 1 .*Parametrized"),
        (hooked(nn.ReLU()), "layer 1 .*hooks"),
        (prehooked(nn.Conv2d(4, 4, 1)), "layer 1 .*hooks"),
        (replaced(nn.Conv2d(4, 4, 1)), "layer 1 .*another forward"),
        (hooked(nn.Sequential()), "layer 1 .*hooks"),
        (nn.Conv2d(4, 4, 1).double(), "layer 1 .*weight of torch.float64"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(8, 8)), "layer 1.1 .*axis -1"),
        (nn.Sequential(nn.Linear(8, 8), nn.PixelShuffle(2)), "layer 1.1 .*axis 1"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.ELU())), "layer 1.1.0 .*ELU"),
        (inside(blocks.DepthConvBlock(4, 4), "block.0.conv1.1", hooked), r"layer 1.block.0.conv1.1 .*hooks"),
        (inside(blocks.CABlock(4, 2), "cross_attn", prehooked), "layer 1.cross_attn .*hooks"),
        (inside(blocks.CABlock(4, 2), "mlp.act", replaced), "layer 1.mlp.act .*another forward"),
        (inside(swin.SwinBlock(4, 2, 2), "attn", hooked), "layer 1.attn .*hooks"),
        (inside(swin.SwinBlock(4, 2, 2), "attn", nn.Module.double), "layer 1.attn .*torch.float64"),
        (swin.WindowAttention(4, 2, 2), "layer 1 .*no exact counterpart"),
    ],
)
def test_refusals(module: nn.Module, message: str) -> None:
    with pytest.raises(TypeError, match=f"(?s){message}"):
        lower(nn.Sequential(nn.ReLU(), module))


def test_refusal_of_the_module_itself() -> None:
    with pytest.raises(TypeError, match=r"layer itself \(SiLU\(\)\) has no exact counterpart"):
        lower(nn.SiLU())
    with pytest.raises(TypeError, match=r"layer norm2 .*hooks"):
        lower(inside(swin.SwinBlock(4, 2, 2), "norm2", hooked))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite(value: float) -> None:
    module = nn.Sequential(blocks.DepthConvBlock2(4, 4), swin.SwinBlock(4, 2, 2))
    attention = module.get_submodule("1.attn")
    with torch.no_grad():
        attention.relative_position_bias_table[3, 1] = value
    with pytest.raises(
        ValueError, match=r"layer 1.attn: 1 values of its relative_position_bias_table \(9, 2\)"
    ):
        lower(module)
    with torch.no_grad():
        module.get_submodule("0.block.1.conv").bias[:3] = value
    with pytest.raises(
        ValueError, match=r"layer 0.block.1.conv: 3 values of its bias \(16,\) are not finite"
    ):
        lower(module)


def test_lowered_weights_are_copies() -> None:
    module = randomized(nn.Conv2d(3, 4, 1))
    layer, x = lower(module), np.ones((2, 2, 3), np.float32)
    before = layer(x)
    with torch.no_grad():
        module.weight.zero_()  # type: ignore[operator]
    np.testing.assert_array_equal(layer(x), before)


def test_a_plain_tensor_in_place_of_a_parameter() -> None:
    module = nn.Conv2d(2, 2, 1)
    weight = module.weight.detach().double() + 1e-12
    del module._parameters["weight"]
    module.weight = weight  # type: ignore[assignment]
    with pytest.raises(TypeError, match="float64"):
        lower(module)
