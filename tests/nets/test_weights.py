"""Weight files: what is read back, what identifies weights, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from quadrans.entropy import CdfTable
from quadrans.nets.codec import ImageCodec, build
from quadrans.nets.density import FactorizedPrior
from quadrans.nets.export import prior_table
from quadrans.nets.weights import (
    DEFAULT_MODEL,
    WeightError,
    Weights,
    bundled_models,
    find_weights,
    read_weights,
    write_weights,
)


def test_round_trip(small_weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    write_weights(path, small_weights)
    read = read_weights(path)
    assert read.digest == small_weights.digest
    assert (read.name, read.architecture, read.info) == ("small", "minnen2018", {"training": "none"})
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_digest_depends_on_every_part(small_weights: Weights) -> None:
    name, tensor = next(iter(small_weights.tensors.items()))
    one_bit = tensor.copy()
    one_bit.view(np.uint16).flat[0] ^= 1
    table = CdfTable.from_pmf([np.array([0.5, 0.25])] * 8, np.zeros(8, np.int32))
    variants = (
        {"tensors": {**small_weights.tensors, name: one_bit}},
        {"tensors": {**small_weights.tensors, "extra": tensor}},
        {"tensors": {**small_weights.tensors, name: tensor.reshape(-1)}},
        {"architecture": "other"},
        {"tables": {"z": table}},
        {"tables": {"w": small_weights.tables["z"]}},
        {"config": {**small_weights.config, "parity": "even"}},
    )
    found = {dataclasses.replace(small_weights, **change).digest for change in variants} | {
        small_weights.digest
    }
    assert len(found) == len(variants) + 1


def test_refused_files(small_weights: Weights, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    write_weights(good, small_weights)
    with pytest.raises(WeightError, match="no such weight file"):
        read_weights(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    for length in (0, 5, 100, good.stat().st_size - 1):
        cut.write_bytes(good.read_bytes()[:length])
        with pytest.raises(WeightError, match="not a readable safetensors file"):
            read_weights(cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, foreign)
    with pytest.raises(WeightError, match="not of a quadrans model"):
        read_weights(foreign)
    for bad, message in (
        (np.full(8, np.inf, np.float16), "not finite"),
        (np.zeros((0, 3), np.float16), "is empty"),
        (np.zeros(8, np.float64), "is float64"),
        (np.zeros(8, np.int64), "is int64"),
    ):
        write_weights(foreign, dataclasses.replace(small_weights, tensors={"g_a.0.bias": bad}))
        with pytest.raises(WeightError, match=f"g_a.0.bias .*{message}"):
            read_weights(foreign)
    with pytest.raises(ValueError, match="letters, digits"):
        write_weights(foreign, dataclasses.replace(small_weights, name="../x"))


def test_tensors_that_do_not_fit(small_weights: Weights) -> None:
    for tensors in (
        {},
        {**small_weights.tensors, "h_s.0.weight": np.zeros((1, 1, 5, 5), np.float16)},
        {k: v for k, v in small_weights.tensors.items() if k != "h_a.0.bias"},
    ):
        with pytest.raises(WeightError, match="do not fit"):
            build(dataclasses.replace(small_weights, tensors=tensors))
    with pytest.raises(WeightError, match="unknown architecture"):
        build(dataclasses.replace(small_weights, architecture="x"))
    # Shapes are compared before a network of the size that they claim is made: 17 GB here.
    absurd = {"g_a.0.weight": np.zeros((1 << 16, 1)), "g_a.6.weight": np.zeros((8, 1))}
    with pytest.raises(WeightError, match="do not fit"):
        build(dataclasses.replace(small_weights, tensors=absurd))
    table = CdfTable.from_pmf([np.array([0.5, 0.25])], np.zeros(1, np.int32))
    with pytest.raises(WeightError, match=r"tables of {\'z\': 1} rows for channels {\'z\': 8}"):
        build(dataclasses.replace(small_weights, tables={"z": table}))


def test_unknown_model() -> None:
    with pytest.raises(WeightError, match=f"no model named nothing is bundled, only .*{DEFAULT_MODEL}"):
        find_weights("nothing")


def test_bundled_models_are_small_and_load() -> None:
    paths = bundled_models()
    assert DEFAULT_MODEL in paths
    assert sum(path.stat().st_size for path in paths.values()) <= 4_000_000
    for name in paths:
        weights = find_weights(name)
        assert weights.name == name
        ImageCodec(weights)


@torch.no_grad()
def test_table_follows_the_prior() -> None:
    torch.manual_seed(0)
    prior = FactorizedPrior(5)
    prior.quantiles[:, 0, 1] = torch.tensor([-30.0, -0.5, 0.0, 0.25, 4.0])
    table = prior_table(prior)
    for channel in range(5):
        symbols = torch.arange(-5.0, 6.0)
        mass = prior.likelihood((prior.medians[:, None, None] + symbols).expand(5, 1, -1))[channel, 0]
        bits = [float(table.bits(np.array([int(s)]), np.array([channel]))) for s in symbols]
        likely = mass.numpy() > 2e-3
        assert likely.any() or channel == 0
        np.testing.assert_allclose(np.array(bits)[likely], -mass.log2().numpy()[likely], atol=0.06)
