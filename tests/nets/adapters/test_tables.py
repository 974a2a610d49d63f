"""CompressAI's tables as ours, whether they are stale, and integers from torch's floats."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional, GaussianMixtureConditional
from compressai.models.base import get_scale_table
from hypothesis import given
from hypothesis import strategies as st
from tiny_compressai import tiny
from torch import Tensor, nn

from quadrans.entropy import CdfTable
from quadrans.entropy._simd import LEVELS, levels
from quadrans.nets._scale_search import search_loop
from quadrans.nets.adapters.compressai import tables
from quadrans.nets.adapters.compressai.quantization import ScaleIndexes, quantized
from quadrans.nets.adapters.compressai.tables import (
    TOLERANCE,
    TablesMissing,
    bottleneck_table,
    checked,
    conditional_table,
    scale_indexes,
)
from quadrans.nets.stale import StaleWeights

SPECIAL = [0.0, -0.0, 5e-324, 1e-45, 1.1754944e-38, 3.4028235e38, float("inf"), -float("inf"), -1.0]


def bottleneck(wide: float = 10, seed: int = 0) -> EntropyBottleneck:
    """16 channels of different shapes, scales around `wide` and means."""
    torch.manual_seed(seed)
    model = EntropyBottleneck(16, init_scale=wide)
    with torch.no_grad():
        for parameters in (model.matrices, model.biases, model.factors):
            for parameter in parameters:
                parameter.add_(0.5 * torch.randn(parameter.shape))
    model.update(force=True, update_quantiles=True)
    return model


def conditional(scales: Any = None) -> GaussianConditional:
    model = GaussianConditional(None)
    model.update_scale_table(get_scale_table() if scales is None else scales, force=True)
    return model


def buffers(model: nn.Module) -> list[np.ndarray]:
    return [getattr(model, name).numpy() for name in ("_quantized_cdf", "_cdf_length", "_offset")]


@pytest.mark.parametrize("make", [bottleneck, conditional])
def test_a_table_is_that_of_the_buffers_and_made_once(make: Any) -> None:
    model = make()
    table = (conditional_table if make is conditional else bottleneck_table)(model)
    assert table == CdfTable.from_cdf(*buffers(model))
    assert tables._table(model) is table
    again = copy.deepcopy(model)
    assert tables._table(again) == table
    # Equal values elsewhere, as a loaded state dict leaves them, are no change.
    model._quantized_cdf = model._quantized_cdf.clone()
    assert tables._table(model) is table


def test_a_table_follows_its_buffers() -> None:
    model = conditional()
    before = conditional_table(model)
    other = conditional([0.3 * 1.1**k for k in range(64)])
    model._quantized_cdf.zero_()
    with pytest.raises(ValueError, match="GaussianConditional has no legal tables: row 0"):
        conditional_table(model)
    for name in ("_quantized_cdf", "_cdf_length", "_offset", "scale_table"):
        # Such writes leave no trace.
        getattr(model, name).data = getattr(other, name).clone()
    assert conditional_table(model) == conditional_table(other) != before


def test_models_are_not_kept_alive() -> None:
    model = conditional()
    conditional_table(model), scale_indexes(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("wide", [30, 100])
def test_rounding_is_no_change(wide: float) -> None:
    model = bottleneck(wide)
    expected = buffers(model)
    # As releases up to 1.1 wrote it: the difference of the less extreme sigmoids.
    other = copy.deepcopy(model)

    def likelihood(inputs: Tensor, stop_gradient: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper = (model._logits_cumulative(inputs + half, stop_gradient) for half in (-0.5, 0.5))
        sign = -torch.sign(lower + upper)
        return torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)), lower, upper

    other._likelihood = likelihood
    other.update(force=True)
    # As another precision makes it.
    double = copy.deepcopy(model).double()
    double.update(force=True)
    differ = 0
    for made in (other, double):
        for name in ("_quantized_cdf", "_cdf_length", "_offset"):
            setattr(model, name, getattr(made, name))
        differ += not np.array_equal(buffers(model)[0], expected[0])
        checked(model)
    assert differ, "neither differs, so nothing is tested"


@pytest.mark.parametrize("wide", [0.3, 10, 60])
@pytest.mark.parametrize("part", ["matrices.1", "biases.0", "factors.2", "quantiles"])
def test_a_changed_bottleneck_is_stale(wide: float, part: str) -> None:
    model = bottleneck(wide)
    checked(model)
    with torch.no_grad():
        model.get_parameter(part)[5].mul_(1.05).add_(0.02 * wide)
    with pytest.raises(
        StaleWeights, match=r"EntropyBottleneck aren't those of its weights: channel 5 .*; run model.update"
    ):
        checked(model)
    model.update(force=True)
    checked(model)


def test_one_small_step_of_training_is_stale() -> None:
    model = bottleneck()
    optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if name != "quantiles"], 1e-4)
    _, likelihoods = model(5 * torch.randn(1, 16, 8, 8))
    (-likelihoods.log().sum()).backward()
    optimizer.step()
    with pytest.raises(StaleWeights, match="off by"):
        checked(model)


def test_a_rounding_that_moves_every_frequency_is_no_distance() -> None:
    counts = np.full(400, 163.0)
    counts[200] = 65536 - 399 * 163
    down, up = counts.copy(), counts.copy()
    down[7], up[7] = 163.499, 163.501
    cdf = tables.pmf_to_quantized_cdf(up / 65536)
    assert np.abs(cdf - tables.pmf_to_quantized_cdf(down / 65536)).max() > 100
    assert tables._distance(cdf, down / 65536, TOLERANCE) <= 2


def test_a_distance_is_not_understated() -> None:
    """That other sums are tried hides nothing beyond the tolerance and what they add."""
    rng = np.random.default_rng(5)
    masses = rng.dirichlet(np.geomspace(1, 50, 40))
    cdf = tables.pmf_to_quantized_cdf(masses)
    assert tables._distance(cdf, masses, TOLERANCE) == 0
    for units in (TOLERANCE + 9, 100, 1000):
        moved = masses.copy()
        moved[39] -= units / 65536
        moved[20] += units / 65536
        assert TOLERANCE < tables._distance(cdf, moved, TOLERANCE) <= units + 1


@pytest.mark.parametrize("change", ["scale_table", "length", "rows", "off"])
def test_changed_gaussian_tables_are_stale(change: str) -> None:
    model = conditional()
    if change == "scale_table":
        model.scale_table[7] *= 1.1
    elif change == "length":
        model.scale_table[60] *= 1.1
    elif change == "rows":
        model.scale_table = model.scale_table[:-1]
    else:
        model._quantized_cdf[9, 4] += TOLERANCE + 9
    reason = {
        "scale_table": "scale 7 is off",
        "length": "scale 60 has",
        "rows": "64 rows, not 63",
        "off": "scale 9 is off",
    }
    with pytest.raises(StaleWeights, match=reason[change]):
        conditional_table(model)


def test_weights_that_give_no_table() -> None:
    for value in (torch.nan, torch.inf):
        model = bottleneck()
        with torch.no_grad():
            model.biases[0][3] = value
        with pytest.raises(StaleWeights, match="channel 3"):
            checked(model)
    # Nothing is allocated for what wrong quantiles ask for.
    with torch.no_grad():
        model.quantiles[2, 0, 2] = 1e9
    with pytest.raises(StaleWeights, match=r"channel 2 has \d+ symbols"):
        checked(model)


def test_missing_tables_name_the_module_and_the_mend() -> None:
    model = tiny("mbt2018-mean")
    checked(model)
    model.gaussian_conditional._offset = torch.IntTensor()
    with pytest.raises(
        TablesMissing,
        match=r"gaussian_conditional \(GaussianConditional\) were never built; run model\.update\(",
    ):
        checked(model)
    with pytest.raises(TablesMissing, match="EntropyBottleneck were never built"):
        bottleneck_table(EntropyBottleneck(2))
    with pytest.raises(TablesMissing, match="no scale table"):
        scale_indexes(GaussianConditional(None))
    # A mixture makes its own rows.
    checked(nn.ModuleList([GaussianMixtureConditional()]))


def test_weights_in_half_precision_keep_their_tables() -> None:
    model = nn.ModuleList([bottleneck(), conditional()])
    expected = [tables._table(one) for one in model]
    for dtype in (torch.float16, torch.bfloat16):
        assert [tables._table(one) for one in copy.deepcopy(model).to(dtype)] == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_weights_in_half_precision(dtype: torch.dtype) -> None:
    model = bottleneck().to(dtype)
    bottleneck_table(model)
    with torch.no_grad():
        model.quantiles += 2
    with pytest.raises(StaleWeights, match=r"channel \d is off by \d+ / 65536"):
        bottleneck_table(model)
    scales = conditional().to(dtype)
    conditional_table(scales)
    scales.scale_table *= 1.5
    with pytest.raises(StaleWeights, match=r"scale \d+ is off by \d+ / 65536"):
        conditional_table(scales)
    scales.scale_table = scales.scale_table[1:]
    with pytest.raises(StaleWeights, match="64 rows, not 63"):
        conditional_table(scales)


def test_tables_built_under_inference_mode() -> None:
    with torch.inference_mode():
        model = conditional()
        table = conditional_table(model)
        assert table.rows == 64
    assert conditional_table(model) is table


def stock_indexes(table: Tensor, bound: float, scales: Tensor) -> Tensor:
    model = GaussianConditional(None, scale_bound=bound)
    model.scale_table = table
    return model.build_indexes(scales)


def near(values: list[float]) -> Tensor:
    """The values as float32, and what is just below and above them."""
    exact = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        around = [np.nextafter(exact, np.float32(side)) for side in (-np.inf, np.inf)]
    return torch.from_numpy(np.concatenate([exact, *around]))


positive = st.floats(2**-140, 2**100, width=32)
scale_tables = st.one_of(
    st.lists(positive, min_size=1, max_size=70),
    st.builds(
        lambda n, a, b: np.geomspace(a, a * b, n).tolist(), st.integers(1, 300), positive, st.floats(1, 1e6)
    ),
    st.builds(lambda n: np.linspace(1, 1.01, n).tolist(), st.integers(1, 200)),
)


@given(table=scale_tables, bound=st.floats(2**-140, 100, width=32), data=st.data())
def test_indexes_are_those_of_compressai(table: list[float], bound: float, data: st.DataObject) -> None:
    more = data.draw(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
    with np.errstate(over="ignore"):
        scales = near(table + more + SPECIAL + [bound])
    values = torch.tensor(table)
    search = ScaleIndexes(values, torch.tensor([bound]))
    for given_scales in (scales, scales.double(), scales.half(), scales.bfloat16()):
        found = search(given_scales)
        assert found.dtype == torch.int32
        assert torch.equal(found, stock_indexes(values, bound, given_scales))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_indexes_of_tables_of_other_types(dtype: torch.dtype) -> None:
    model = conditional().to(dtype)
    if dtype == torch.float64:
        # No float32 any more.
        model.scale_table *= 1 + 1e-9
        model.lower_bound_scale.bound.copy_(model.scale_table[4] - 1e-10)
    scales = near(model.scale_table.tolist() + SPECIAL)
    for given_scales in (scales, scales.to(dtype)):
        assert torch.equal(scale_indexes(model)(given_scales), model.build_indexes(given_scales))


def test_every_float_near_the_default_table() -> None:
    model = conditional()
    bits = model.scale_table.numpy().view(np.int32)[:, None] + np.arange(-300, 300, dtype=np.int32)
    scales = torch.from_numpy(bits.view(np.float32))
    search = scale_indexes(model)
    assert search._search._records is not None, "the default table goes the slow way"
    assert torch.equal(search(scales), model.build_indexes(scales))
    assert scale_indexes(model) is search
    model.scale_table[3] += 0.01
    assert torch.equal(scale_indexes(model)(scales), model.build_indexes(scales))
    # Strided, without elements, one.
    for shape in (scales.T, scales[:0], scales[:1, 0], scales[3, 3:4].expand(2, 3, 4)):
        assert torch.equal(scale_indexes(model)(shape), model.build_indexes(shape))


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 500])
def test_every_simd_level_searches_alike(level: str, size: int) -> None:
    model = conditional()
    search = scale_indexes(model)._search
    rng = np.random.default_rng(size)
    scales = np.exp(rng.normal(0, 3, size)).astype(np.float32) * rng.choice([-1, 1, 1, 1], size).astype(
        np.float32
    )
    loop = search_loop(LEVELS.index(level))
    for place in (None, 0, size // 2, size - 1):
        given_scales, found = scales.copy(), np.full(size + 1, -7, np.int32)
        if place is not None and size:
            given_scales[place] = np.nan
        nan = loop(given_scales.view(np.int32), search._low, search._shift, search._records, found[:size])
        assert nan == bool(np.isnan(given_scales).any())
        legal = ~np.isnan(given_scales)
        expected = model.build_indexes(torch.from_numpy(given_scales)).numpy()
        assert np.array_equal(found[:size][legal], expected[legal])
        assert found[size] == -7


def test_tables_that_no_record_holds() -> None:
    """Thresholds below 0, each counted by every scale, may be more than a record has room for."""
    for count in (10, 5000, 300_000):
        table = torch.cat((-torch.ones(count), torch.tensor([0.5, 1.0, 2.0])))
        scales = torch.tensor([0.1, 0.5, 0.75, 1.5, 9.0])
        search = ScaleIndexes(table, torch.tensor([0.11]))
        assert (search(scales) - count).tolist() == [0, 0, 1, 2, 2]
        assert (search._search._records is None) == (count == 300_000)


@pytest.mark.parametrize("table", [[0.5, 1.0, 2.0], [0.5, 0.5, 2.0]])
@pytest.mark.parametrize("nan", [0x7FC00000, 0x7F800001, -1, -0x7FFFFF])
def test_no_nan_gets_an_index(table: list[float], nan: int) -> None:
    search = ScaleIndexes(torch.tensor(table), torch.tensor([0.11]))
    scales = torch.ones(3, 4)
    scales.view(torch.int32)[1, 2] = nan
    for given_scales in (scales, scales.double(), scales.bfloat16()):
        with pytest.raises(ValueError, match=r"NaN at \[1, 2\] of \[3, 4\]"):
            search(given_scales)


def test_no_table_of_nan() -> None:
    for bad in ([1.0, torch.nan], []):
        with pytest.raises(ValueError, match="scale table"):
            ScaleIndexes(torch.tensor(bad), torch.tensor([0.11]))


@given(
    values=st.lists(st.floats(-(2**31) + 1, 2**31 - 129, width=64), min_size=1, max_size=40),
    mean=st.floats(-1000, 1000, width=16),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    wide=st.booleans(),
)
def test_symbols_are_those_of_compressai(
    values: list[float], mean: float, dtype: torch.dtype, wide: bool
) -> None:
    values += [0.5, -0.5, 1.5, 2.5, -0.0, 1e-40, 8388609.5]
    inputs = torch.tensor(values, dtype=torch.float64).to(dtype)[None]
    model = conditional([1.0])
    for means in (None, torch.tensor([[mean]], dtype=torch.float64 if wide else dtype)):
        residuals = model.quantize(inputs, "dequantize") if means is None else inputs.clone().sub_(means)
        legal = bool((torch.round(residuals).double().abs() < 2**31).all())
        if legal:
            symbols = quantized(inputs, means)
            assert symbols.dtype == np.int32
            assert np.array_equal(symbols, model.quantize(inputs, "symbols", means).numpy())
        else:
            with pytest.raises(ValueError, match="not within int32"):
                quantized(inputs, means)
