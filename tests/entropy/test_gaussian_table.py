"""Gaussian tables: accuracy against the C library, range of rows, thresholds, total loss, golden digests."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from entropy_cases import gaussian_workload

from quadrans.entropy import default_scales, encode, gaussian_table, scale_thresholds
from quadrans.entropy.gaussian import normal_tail

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tables.json").read_text())


def means_table(precision=14):
    return gaussian_table(default_scales()[:, None], (np.arange(16) - 8) / 16, precision)


def test_golden_digests():
    assert hashlib.sha256(default_scales().astype("<f8").tobytes()).hexdigest() == GOLDEN["scales"]
    assert hashlib.sha256(scale_thresholds().astype("<f4").tobytes()).hexdigest() == GOLDEN["thresholds"]
    assert gaussian_table().digest == GOLDEN["default"]
    assert means_table().digest == GOLDEN["means"]
    assert {str(p): gaussian_table(precision=p).digest for p in range(4, 17)} == GOLDEN["precisions"]


def test_normal_tail():
    x = np.linspace(0, 12, 4001)
    exact = np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in x])
    assert np.max(np.abs(normal_tail(x) / exact - 1)) < 1e-13


def test_default_scales():
    scales = default_scales()
    assert scales.shape == (64,)
    assert (scales[0], scales[-1]) == (0.11, 256.0)
    assert np.allclose(scales, np.geomspace(0.11, 256, 64), rtol=1e-13)


def test_scale_thresholds():
    thresholds = scale_thresholds()
    assert thresholds.dtype == np.float32
    scales = default_scales()
    nearest = (scales.astype(np.float32)[:, None] > thresholds).sum(1)
    assert nearest.tolist() == list(range(64))
    assert np.allclose(thresholds, np.sqrt(scales[1:] * scales[:-1]), rtol=1e-7)
    assert scale_thresholds([1.0]).shape == (0,)
    for bad in ([], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, math.nan], [1.0, 1.0 + 1e-12, 1.0 + 2e-12]):
        with pytest.raises(ValueError, match=r"scales|midpoints"):
            scale_thresholds(bad)


def test_rows_match_the_distribution():
    table = means_table()
    rng = np.random.default_rng(1)
    for r in rng.choice(1024, 60, replace=False):
        scale, mean = float(default_scales()[r // 16]), (int(r) % 16 - 8) / 16
        first, end = table.row_starts[r : r + 2]
        k = np.arange(end - first - 1) + table.offsets[r]
        sigma = scale * math.sqrt(2)
        edges = np.array([math.erf((v - 0.5 - mean) / sigma) for v in np.append(k, k[-1] + 1)])
        mass = np.diff(edges) / 2
        freqs = table.freqs[first : end - 1] / 16384
        # Cells lifted to 1 take from the others, in proportion.
        lifted = np.maximum(mass, 1 / 16384)
        assert np.all(np.abs(freqs - lifted) <= 0.75 / 16384 + 0.02 * lifted)


def test_rows_are_in_c_order_of_the_broadcast():
    scales, means = np.array([0.5, 2.0, 8.0]), np.array([-0.5, 0.0])
    table = gaussian_table(scales[:, None], means)
    for r in range(6):
        one = gaussian_table(scales[r // 2], means[r % 2])
        span = slice(table.row_starts[r], table.row_starts[r + 1])
        assert one.freqs.tolist() == table.freqs[span].tolist()
        assert one.offsets[0] == table.offsets[r]


@pytest.mark.parametrize("precision", [4, 8, 12, 16])
@pytest.mark.parametrize("scale", [2.0**-20, 0.3, 300.0, 2.0**20])
@pytest.mark.parametrize("mean", [-(2.0**20), -0.5, 0.5, 1000.25])
def test_extreme_parameters(scale, mean, precision):
    table = gaussian_table(scale, mean, precision)
    middle = math.floor(mean + 0.5)
    regular = table.freqs.size - 1
    assert 1 <= regular <= max(1, 1 << (precision - 1))
    assert table.offsets[0] <= middle < table.offsets[0] + regular


@pytest.mark.parametrize(
    ("scales", "means", "precision"),
    [
        (0.0, 0.0, 14),
        (-1.0, 0.0, 14),
        (math.nan, 0.0, 14),
        (2.0**21, 0.0, 14),
        (1.0, math.inf, 14),
        (1.0, 0.0, 3),
        (1.0, 0.0, 17),
        ([], 0.0, 14),
        (np.full(1 << 14, 1e6), 0.0, 16),
    ],
)
def test_refuses(scales, means, precision):
    with pytest.raises(ValueError, match=r"scale|mean|precision|rows"):
        gaussian_table(scales, means, precision)


def entropy_of(symbols, scales):
    upper = [0.5 * math.erfc((abs(k) - 0.5) / s / math.sqrt(2)) for k, s in zip(symbols, scales, strict=True)]
    lower = [0.5 * math.erfc((abs(k) + 0.5) / s / math.sqrt(2)) for k, s in zip(symbols, scales, strict=True)]
    return -sum(math.log2(a - b) for a, b in zip(upper, lower, strict=True))


def test_loss_over_the_ideal():
    """Total size of a stream against the entropy under the rows' own Gaussians."""
    table, symbols, indexes, _ = gaussian_workload(200_000)
    ideal = entropy_of(symbols.tolist(), default_scales()[indexes].tolist())
    assert table.bits(symbols, indexes) / ideal < 1.0005
    for lanes, bound in ((1, 1.0008), (None, 1.0025)):
        assert 8 * len(encode(symbols, indexes, table, lanes)) / ideal < bound
