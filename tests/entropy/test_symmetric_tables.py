"""Laplace and logistic tables: golden digests, accuracy against the C library, range of rows, arguments."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from quadrans.entropy import default_scales
from quadrans.entropy.symmetric import exp, laplace_table, logistic_table

GOLDEN = json.loads((Path(__file__).parent / "golden" / "families.json").read_text())
MEANS = (np.arange(16) - 8) / 16


def laplace_tail(x):
    return 0.5 * math.exp(-x) if x >= 0 else 1 - 0.5 * math.exp(x)


def logistic_tail(x):
    return 1 / (1 + math.exp(x)) if x < 700 else 0.0


FAMILIES = {"laplace": (laplace_table, laplace_tail), "logistic": (logistic_table, logistic_tail)}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_golden_digests(family):
    build, _ = FAMILIES[family]
    golden = GOLDEN[family]
    assert build(default_scales()[:, None], MEANS).digest == golden["means"]
    assert {str(p): build(default_scales(), precision=p).digest for p in range(4, 17)} == golden["precisions"]


def test_exp():
    y = np.linspace(-100, 0, 5001)
    assert np.max(np.abs(exp(y) / np.array([math.exp(v) for v in y]) - 1)) < 1e-14
    assert exp(np.zeros(1)).tolist() == [1.0]


def test_rows_match_the_distribution(family):
    build, tail = FAMILIES[family]
    table = build(default_scales()[:, None], MEANS)
    for r in np.random.default_rng(1).choice(1024, 60, replace=False):
        scale, mean = float(default_scales()[r // 16]), float(MEANS[r % 16])
        first, end = table.row_starts[r : r + 2]
        k = np.arange(end - first - 1) + table.offsets[r]
        edges = [tail(float(v - 0.5 - mean) / scale) for v in np.append(k, k[-1] + 1)]
        freqs = table.freqs[first : end - 1] / 16384
        # Cells lifted to 1 take from the others, in proportion.
        lifted = np.maximum(-np.diff(edges), 1 / 16384)
        assert np.all(np.abs(freqs - lifted) <= 0.75 / 16384 + 0.02 * lifted)


def test_symmetric_around_the_mean(family):
    build, _ = FAMILIES[family]
    left, right = build(1.7, -0.25), build(1.7, 0.25)
    assert left.freqs[:-1].tolist() == right.freqs[-2::-1].tolist()
    shifted = build(1.7, 1000.25)
    assert shifted.freqs.tolist() == right.freqs.tolist()
    assert shifted.offsets[0] == right.offsets[0] + 1000


@pytest.mark.parametrize("precision", [4, 8, 12, 16])
@pytest.mark.parametrize("scale", [2.0**-20, 0.3, 300.0, 2.0**20])
@pytest.mark.parametrize("mean", [-(2.0**20), -0.5, 0.5, 1000.25])
def test_extreme_parameters(family, scale, mean, precision):
    table = FAMILIES[family][0](scale, mean, precision)
    middle = math.floor(mean + 0.5)
    regular = table.freqs.size - 1
    assert 1 <= regular <= max(1, 1 << (precision - 1))
    assert table.offsets[0] <= middle < table.offsets[0] + regular


@pytest.mark.parametrize("scale", [0.11, 0.5, 2.0, 8.0])
def test_expected_length(family, scale):
    """Near the entropy, the tails beyond the row included."""
    build, tail = FAMILIES[family]
    k = np.arange(-400, 401)
    edges = np.array([tail((v - 0.5) / scale) for v in range(402)])
    mass = np.concatenate([(edges[1:-1] - edges[2:])[::-1], [1 - 2 * edges[1]], edges[1:-1] - edges[2:]])
    entropy = -(mass[mass > 0] * np.log2(mass[mass > 0])).sum()
    table = build(scale)
    length = (mass * table.symbol_bits(k, np.zeros(k.size, np.int32))).sum()
    assert 0 <= length - entropy < 0.002 + 0.002 * entropy


@pytest.mark.parametrize(
    ("scales", "means", "precision"),
    [
        (0.0, 0.0, 14),
        (-1.0, 0.0, 14),
        (math.nan, 0.0, 14),
        (1.0, math.inf, 14),
        (1.0, 0.0, 17),
        ([], 0.0, 14),
    ],
)
def test_refuses(family, scales, means, precision):
    with pytest.raises(ValueError, match=r"scale|mean|precision|rows"):
        FAMILIES[family][0](scales, means, precision)
