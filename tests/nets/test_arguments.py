"""Arguments of systems, as weight files have them: bounded, of the right types, refused beforehand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from quadrans.nets.arguments import MAX_LENGTH, MAX_NUMBER, MAX_REPEATS, check_arguments, check_plain
from quadrans.nets.codec import ImageCodec, build
from quadrans.nets.registry import SYSTEMS, make, new, system_class
from quadrans.nets.weights import WeightError, Weights, read_weights, write_weights


def takes(
    n: int = 1,
    some: int | None = None,
    flag: bool = False,
    order: str = "a",
    orders: tuple[str, ...] = (),
    pair: tuple[int, int] = (1, 2),
    factor: float = 0.5,
    **others: Any,
) -> None:
    """What a constructor's arguments may be."""


@pytest.mark.parametrize(
    "config",
    [
        {"n": 3, "some": None, "flag": True, "order": "b", "orders": ["a", "b"], "pair": [3, 4], "factor": 2},
        {"n": MAX_NUMBER, "some": -MAX_NUMBER, "orders": [], "pair": (3, 4), "factor": 0.25},
        {},
    ],
)
def test_accepted(config: dict[str, Any]) -> None:
    check_arguments(takes, config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n": True}, "n = True is no int"),
        ({"n": 1.0}, "n = 1.0 is no int"),
        ({"n": None}, "n = None is no int"),
        ({"n": "1"}, "n = '1' is no int"),
        ({"n": [1]}, r"n = \[1\] is no int"),
        ({"some": 1.5}, "some = 1.5 is no "),
        ({"flag": 1}, "flag = 1 is no bool"),
        ({"order": 1}, "order = 1 is no str"),
        ({"orders": "ab"}, "orders = 'ab' is no tuple"),
        ({"orders": ["a", 1]}, "is no tuple"),
        ({"pair": [1, 2, 3]}, "is no tuple"),
        ({"pair": [1]}, "is no tuple"),
        ({"factor": True}, "factor = True is no float"),
        ({"unknown": 1}, "no argument 'unknown', only n, some"),
        ({"others": 1}, "no argument 'others'"),
        ({"n": MAX_NUMBER + 1}, "n = 16385: a number may be up to"),
        ({"n": -(10**9)}, "a number may be up to"),
        ({"n": 10**5000}, "n = a number of 16610 bits: a number may be"),
        ({"factor": float("nan")}, "factor = nan: a number may be"),
        ({"factor": float("inf")}, "factor = inf: a number may be"),
        ({"order": "x" * (MAX_LENGTH + 1)}, r"order = 'x{63}\.\.\.: "),
        ({"orders": ["a"] * (MAX_LENGTH + 1)}, "a list 64 such"),
        ({"orders": [["a"]]}, "a list 64 such"),
        ({"n": {"a": 1}}, "a list 64 such"),
        ({"x" * (MAX_LENGTH + 1): 1}, "an argument named"),
        ({str(i): 1 for i in range(MAX_LENGTH + 1)}, "65 arguments, more than 64"),
    ],
)
def test_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_arguments(takes, config)


@pytest.mark.parametrize("name", SYSTEMS)
def test_published_arguments_are_accepted(name: str) -> None:
    with torch.device("meta"):
        config = make(name).config
    check_arguments(system_class(SYSTEMS[name].architecture), json.loads(json.dumps(config)))


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("tcm2023", {"slices": 10**9}, "a number may be"),
    ("tcm2023", {"slices": MAX_NUMBER, "m": MAX_NUMBER}, f"must be in 0..{MAX_REPEATS}, not 16384"),
    ("tcm2023", {"depths": [MAX_NUMBER] * 6}, f"must be in 0..{MAX_REPEATS}, not 16384"),
    ("tcm2023", {"depths": [2] * 7}, "six each"),
    ("tcm2023", {"head_dims": [-8] * 6}, "six each"),
    ("tcm2023", {"window": 5}, "windows of 5 or 4 positions: the first must fill tiles of 64"),
    ("tcm2023", {"hyper_window": 0}, "windows of 8 or 0 positions"),
    ("tcm2023", {"widths": [8, 6, 6]}, r"widths \(8, 6, 6\) of 3 convolutions"),
    ("charm2020", {"slices": MAX_NUMBER, "m": MAX_NUMBER}, f"must be in 0..{MAX_REPEATS}"),
    ("charm2020", {"widths": [8]}, r"widths \(8,\) of 3 convolutions"),
    ("elic2022", {"groups": []}, "groups have one"),
    ("elic2022", {"groups": [4, 0]}, "groups have one"),
    ("elic2022", {"aggregated": [4, 4, 4]}, "two numbers each"),
    ("lee2019", {"m2": -8}, "at least 0"),
    ("lee2019", {"points": 0}, "at least 1"),
    ("lee2019", {"absolute": "no"}, "is no bool"),
    ("informer2022", {"head_dim": -8}, "must be a multiple"),
    ("dca2024", {"count": 0}, "must be a multiple"),
    ("dca2024", {"head_dim": -8}, "must be a multiple"),
    ("quadtree-baseline", {"m": 6}, "four groups"),
    ("dcvc-dc2023", {"quality": 0.5}, "is no int"),
    ("dcvc-dc2023", {"refine": [4, 4, 6, 8, 8]}, "is no tuple"),
    ("minnen2018-mean", {"foo": 1}, "no argument 'foo', only n, m"),
    ("minnen2018", {"orders": "wavefront"}, "is no tuple"),
    ("balle2017", {"n": 0}, "would be empty"),
    ("elic2022", {"n": 1}, "would be empty"),
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("architecture", "config", "message"), HOSTILE)
def test_hostile_arguments(architecture: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightError, match=message):
        build(Weights("hostile", architecture, config, {}, {}, {}))
    if "empty" not in message:
        with pytest.raises(ValueError, match=message), torch.device("meta"):
            new(architecture, config)


def with_config(path: Path, text: str) -> None:
    """Put other arguments into a weight file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["config"] = text
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"n":NaN}', "n = nan"),
        ('{"n":1e999}', "n = inf"),
        ('{"n":8,"n":8}', "there twice"),
        ("[8]", "arguments that are a list"),
        ('{"n":' + "[" * 900 + "]" * 900 + "}", "argument n = "),
        ('{"n":' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
        ('{"n":' + "9" * 5000 + "}", "damaged"),
        ('{"n":' + "9" * 4000 + "}", r"argument n = 9+\.\.\.: a number"),
        ("{" + " " * (1 << 14) + "}", "16386 characters, more than 16384"),
        ("", "damaged"),
    ],
)
def test_arguments_in_files(small_weights: Weights, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "small.safetensors"
    write_weights(path, small_weights)
    with_config(path, text)
    with pytest.raises(WeightError, match=message):
        read_weights(path)


def test_arguments_that_cannot_be_read_are_not_written(small_weights: Weights, tmp_path: Path) -> None:
    config = {**small_weights.config, "n": 10**6}
    with pytest.raises(ValueError, match="n = 1000000: a number"):
        write_weights(tmp_path / "a.safetensors", Weights("a", "minnen2018", config, {}, {}, {}))
    assert not list(tmp_path.iterdir())


def test_a_system_that_only_measures_is_refused(
    small_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong as its layers are lowered is an error of the weights."""

    def failing(part: Any) -> None:
        raise TypeError("no exact counterpart")

    monkeypatch.setattr("quadrans.nets.codec._exact_part", failing)
    with pytest.raises(WeightError, match="model small can't be coded with: no exact counterpart"):
        ImageCodec(small_weights)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, None])
def test_threads(small_weights: Weights, threads: Any) -> None:
    with pytest.raises(ValueError, match=r"threads must be a number of at least 1, not"):
        ImageCodec(small_weights, threads=threads)


def test_only_plain_values() -> None:
    with pytest.raises(ValueError, match="such values"):
        check_plain({"a": object()})
