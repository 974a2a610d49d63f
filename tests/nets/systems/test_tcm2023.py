"""LIC-TCM: its blocks and their exact twins, what each slice sees, and its own code's names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_latents import randomized
from refined import check_refined
from tiny import SMALL
from torch import nn

from quadrans.kernels import reference_network
from quadrans.nets import swin
from quadrans.nets.lowering import lower
from quadrans.nets.quantizer import Quantizer
from quadrans.nets.residual import AttentionBlock, ResidualBlock, ResidualBlockUpsample
from quadrans.nets.systems.tcm2023 import Tcm2023
from quadrans.nets.tcm_blocks import (
    ConvTransBlock,
    SwinAttention,
    TransformerBlock,
    WindowPair,
    conv_trans_blocks,
)
from quadrans.nets.transforms import GDN

TINY = SMALL["tcm2023"]


def tiny(**changes: object) -> Tcm2023:
    torch.manual_seed(0)
    return Tcm2023(**{**TINY, **changes})


@pytest.mark.parametrize(
    ("changes", "total", "entropy_part"),
    [
        ({"n": 64}, 45_180_752, 36_274_636),
        ({"n": 96}, 59_133_650, 41_621_298),
        ({}, 76_568_148, 47_680_664),
        ({"transforms": "elic-sm"}, 55_190_491, 47_680_664),
    ],
)
def test_counts(changes: dict, total: int, entropy_part: int) -> None:
    with torch.device("meta"):
        system = Tcm2023(**changes)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    assert sum(counts.values()) == total
    assert total - counts["g_a"] - counts["g_s"] == entropy_part
    assert len(system.parts()["y"].model.order("slices", 8, 8)) == 5
    assert system.multiple == 128


def test_names() -> None:
    """Those of the authors' code."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Tcm2023().state_dict().items()}
    for name, shape in {
        "g_a.0.conv1.weight": (256, 3, 3, 3),
        "g_a.0.skip.weight": (256, 3, 1, 1),
        "g_a.0.gdn.gamma": (256, 256),
        "g_a.1.trans_block.msa.relative_position_params": (16, 15, 15),
        "g_a.2.trans_block.msa.embedding_layer.weight": (384, 128),
        "g_a.9.weight": (320, 256, 3, 3),
        "g_s.0.subpel_conv.0.weight": (1024, 320, 3, 3),
        "g_s.0.upsample.0.weight": (1024, 320, 3, 3),
        "g_s.1.trans_block.msa.linear.bias": (128,),
        "g_s.1.trans_block.mlp.2.weight": (128, 512),
        "g_s.1.trans_block.ln2.bias": (128,),
        "g_s.1.conv1_2.weight": (256, 256, 1, 1),
        "g_s.9.0.weight": (12, 256, 3, 3),
        "h_a.0.conv2.weight": (256, 256, 3, 3),
        "h_a.1.conv_block.conv1.weight": (128, 128, 3, 3),
        "h_a.3.weight": (192, 256, 3, 3),
        "h_mean_s.0.igdn.beta": (256,),
        "h_scale_s.2.trans_block.msa.relative_position_params": (4, 7, 7),
        "h_scale_s.3.0.weight": (1280, 256, 3, 3),
        "atten_mean.4.0.in_conv.weight": (128, 576, 1, 1),
        "atten_scale.1.0.out_conv.weight": (384, 128, 1, 1),
        "atten_scale.0.0.conv_b.3.weight": (128, 128, 1, 1),
        "atten_mean.0.0.conv_a.2.conv.4.bias": (128,),
        "atten_mean.0.0.non_local_block.block_2.msa.relative_position_params": (8, 15, 15),
        "cc_mean_transforms.4.0.weight": (224, 576, 3, 3),
        "cc_scale_transforms.0.2.weight": (128, 224, 3, 3),
        "lrp_transforms.4.0.weight": (224, 640, 3, 3),
        "lrp_transforms.0.4.weight": (64, 128, 3, 3),
        "entropy_bottleneck.quantiles": (192, 1, 3),
    }.items():
        assert shapes[name] == shape


@pytest.mark.parametrize(
    ("module", "channels", "size"),
    [
        (TransformerBlock(6, 3, 4, False), 6, (4, 8)),
        (TransformerBlock(6, 2, 4, True), 6, (12, 4)),
        (ConvTransBlock(8, 2, 2, True), 8, (4, 6)),
        (WindowPair(4, 2, 4), 4, (8, 4)),
        (SwinAttention(5, 2, 2, 4), 5, (2, 6)),
        (AttentionBlock(6), 6, (3, 5)),
        (ResidualBlock(6, 6), 6, (3, 5)),
        (ResidualBlock(6, 4), 6, (3, 5)),
        (ResidualBlockUpsample(6, 5), 6, (3, 2)),
        (ResidualBlockUpsample(6, 5, skip_kernel=1), 6, (1, 1)),
        (GDN(7, inverse=True), 7, (3, 5)),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_exact_blocks(module: nn.Module, channels: int, size: tuple[int, int]) -> None:
    """The reference's bits, and torch's numbers."""
    randomized(module, gain=1)
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
    image = x.permute(0, 2, 3, 1).contiguous().numpy()
    layer = lower(module)
    found = layer(image)
    assert found.tobytes() == reference_network.run(layer, image).tobytes()
    theirs = module(x).permute(0, 2, 3, 1).numpy()
    assert found.shape == theirs.shape
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-4)


def test_gdn_that_divides_has_no_exact_twin() -> None:
    with pytest.raises(TypeError, match=r"g_s\.0 .* divides: no exact counterpart"):
        lower(nn.Sequential(GDN(4)), "g_s")


@pytest.mark.parametrize("shifted", [False, True])
def test_transformer_block_is_swins(shifted: bool) -> None:
    """With the same weights, laid out as there, of which the bias is (relative position, heads)."""
    ours, theirs = TransformerBlock(6, 2, 4, shifted), swin.SwinBlock(6, 3, 4, 2 if shifted else 0)
    randomized(ours, gain=1)
    names = {
        "ln1": "norm1",
        "ln2": "norm2",
        "msa.embedding_layer": "attn.qkv",
        "msa.linear": "attn.proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    state = {}
    for own, other in names.items():
        state |= {f"{other}.{key}": value for key, value in ours.get_submodule(own).state_dict().items()}
    table = ours.msa.relative_position_params.flatten(1).T
    theirs.load_state_dict(state | {"attn.relative_position_bias_table": table})
    x = torch.randn(2, 6, 8, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def test_every_other_block_has_moved_windows() -> None:
    assert [block.trans_block.shift for block in conv_trans_blocks(8, 4, 2, 4)] == [0, 2, 0, 2]


def test_attention_is_shared_with_the_refinement() -> None:
    """What means are made of is computed once for each slice, and its scales' attention is another."""
    system = tiny()
    calls = []
    for number, module in enumerate(system.atten_mean):
        module.register_forward_hook(lambda *_, number=number: calls.append(number))
    model = system.parts()["y"].model
    model.forward(
        torch.randn(1, 12, 8, 8), {"features": torch.randn(1, 24, 8, 8)}, Quantizer("round"), "slices"
    )
    assert calls == [0, 1, 2]
    assert tiny().parts()["y"].model.lower().memory == 12 + 2 * 4


@pytest.mark.parametrize(("changes", "size"), [({}, (8, 12)), ({"max_support": 1}, (8, 8))], ids=str)
def test_exact_twin(changes: dict, size: tuple[int, int]) -> None:
    check_refined(tiny(**changes), *size)


def test_tiles_begin_with_whole_windows() -> None:
    """Transforms of a piece with `reach` positions around it are those of the whole image."""
    system = randomized(tiny(), gain=1)
    assert system.reach == 8
    y = torch.randn(1, 12, 28, 4)
    whole, piece = system.g_s(y), system.g_s(y[:, :, 4:])
    torch.testing.assert_close(whole[:, :, 12 * 16 :], piece[:, :, 8 * 16 :], rtol=1e-4, atol=1e-4)
    x = torch.rand(1, 3, 28 * 16, 64)
    whole, piece = system.g_a(x), system.g_a(x[:, :, 64:])
    torch.testing.assert_close(whole[:, :, 12:], piece[:, :, 8:], rtol=1e-4, atol=1e-4)
    # It does depend on what is not so far.
    assert not torch.allclose(whole[:, :, 4:5], piece[:, :, :1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"transforms": "elic-sm"}], ids=str)
def test_trains(changes: dict) -> None:
    system = tiny(**changes)
    assert system.multiple == 64
    again = type(system)(**system.config)
    assert again.state_dict().keys() == system.state_dict().keys()
    x = torch.rand(2, 3, 64, 128)
    prediction = system(x, Quantizer("mixed"))
    assert prediction.x_hat.shape == x.shape
    (prediction.total_bits.sum() + (prediction.x_hat - x).square().sum()).backward()
    trained = [p.grad for p in system.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in trained)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="at least 0, not -2"):
        Tcm2023(**{**TINY, "max_support": -2})
    with pytest.raises(ValueError, match="tcm or elic-sm, not 'gdn'"):
        tiny(transforms="gdn")
    with pytest.raises(ValueError, match="4 channels can't be shared by heads of 3"):
        tiny(hyper_head_dim=3)
    with pytest.raises(ValueError, match="8 channels can't be shared by heads of 16"):
        tiny(head_dim=16)
