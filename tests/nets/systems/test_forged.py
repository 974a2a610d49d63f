"""Every system under files behind right checksums, latents, and weights that no honest encoder makes."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext, suppress
from functools import cache
from typing import Any

import numpy as np
import pytest
from tiny import photo, small

from quadrans import entropy
from quadrans.entropy import CorruptStream, TableMismatch
from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import Container
from quadrans.nets.export import export_weights
from quadrans.nets.latents import Latents
from quadrans.nets.registry import SYSTEMS

NAMES = sorted({row.architecture: name for name, row in reversed(SYSTEMS.items()) if row.codes}.values())
WIDTH, HEIGHT = 100, 70


@cache
def random_codec(name: str) -> ImageCodec:
    return ImageCodec(export_weights(small(name), name, {}, "float32"))


@cache
def busy(name: str) -> Latents:
    """Latents of a WIDTH x HEIGHT photo, of which every symbol is drawn."""
    one, rng = random_codec(name), np.random.default_rng(0)
    empty = one.analyse(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    sides = {key: rng.integers(-6, 7, side.shape).astype(np.int32) for key, side in empty.sides.items()}
    y = np.rint(6 * rng.standard_normal(empty.y.shape)).astype(np.float32) + np.float32(0)
    return Latents(y, sides)


def damaged(stream: bytes, kind: int, rng: np.random.Generator) -> bytes:
    out = bytearray(stream)
    match kind:
        case 0:
            for bit in rng.integers(0, 8 * len(out), rng.integers(1, 5)):
                out[bit // 8] ^= 1 << bit % 8
        case 1:
            del out[rng.integers(len(out)) :]
        case 2:
            out += rng.bytes(int(rng.integers(1, 9)))
        case 3:
            out[2:] = rng.bytes(int(rng.integers(400)))
        case _:
            out[rng.integers(min(24, len(out)))] = rng.integers(256)
    return bytes(out)


@pytest.mark.parametrize("name", NAMES)
def test_damage_behind_right_checksums(name: str) -> None:
    one, rng = random_codec(name), np.random.default_rng(1)
    refused = 0
    for order in one.orders:
        container, coded = one.code(busy(name), WIDTH, HEIGHT, order)
        for trial in range(60):
            section = str(rng.choice(list(container.sections)))
            stream = damaged(container.sections[section], trial % 5, rng)
            forged = dataclasses.replace(container, sections={**container.sections, section: stream})
            try:
                latents = one.decode(Container.from_bytes(forged.to_bytes()))
            except (CorruptStream, TableMismatch):
                refused += 1
                continue
            assert latents.y.shape == coded.y.shape
            one.synthesise(latents.y, WIDTH, HEIGHT)
    assert refused > 30


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1, 2**24, 10**5])
def test_side_information_far_out(name: str, value: int) -> None:
    """It is coded well, and what follows from it is a typed error or the encoder's own latent."""
    one, latents = random_codec(name), busy(name)
    for section, side in latents.sides.items():
        far = Latents(latents.y, {**latents.sides, section: np.full_like(side, value)})
        with suppress(ValueError):
            container, coded = one.code(far, WIDTH, HEIGHT)
            found = one.decode(container)
            assert found.same_bits(coded)
            one.synthesise(found.y, WIDTH, HEIGHT)
        honest = one.encode(latents, WIDTH, HEIGHT)
        rows = np.broadcast_to(np.arange(side.shape[2], dtype=np.int32), side.shape)
        stream = entropy.encode(np.full_like(side, value), rows, one.tables[section])
        forged = dataclasses.replace(honest, sections={**honest.sections, section: stream})
        with suppress(CorruptStream, TableMismatch):
            assert one.decode(forged).y.shape == latents.y.shape


@pytest.mark.parametrize("name", NAMES)
def test_arrays_that_are_no_latents(name: str) -> None:
    one, latents = random_codec(name), busy(name)
    section, side = next(iter(latents.sides.items()))
    wrong: list[tuple[Latents, str]] = [
        (Latents(latents.y.astype(np.float64), latents.sides), "y_hat of shape .* float64"),
        (Latents(latents.y[:-1], latents.sides), "y_hat of shape"),
        (Latents(latents.y, {}), r"side information \[\] of a model that has"),
        (Latents(latents.y, {**latents.sides, "other": side}), "'other'"),
        (Latents(latents.y, {**latents.sides, section: side[:-1]}), f"{section} of shape"),
        (Latents(latents.y, {**latents.sides, section: side.astype(np.int64)}), "int64"),
        (Latents(latents.y, {**latents.sides, section: side.astype(np.float32)}), "float32"),
    ]
    for value in (np.nan, np.inf, -np.inf, 3e38) if one.system.parts() else ():
        y = latents.y.copy()
        y[1, 2, 3] = value
        wrong.append((Latents(y, latents.sides), r"\(1, 2, 3\)"))
    for one_wrong, message in wrong:
        with pytest.raises(ValueError, match=message):
            one.code(one_wrong, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match=r"y_hat of shape .* float64"):
        one.synthesise(latents.y.astype(np.float64), WIDTH, HEIGHT)


@pytest.mark.parametrize("name", NAMES)
def test_layout_says_nothing(name: str) -> None:
    one, latents = random_codec(name), busy(name)
    sides = {key: np.asfortranarray(side) for key, side in latents.sides.items()}
    turned = Latents(np.asfortranarray(latents.y), sides)
    for array in (turned.y, *turned.sides.values()):
        array.flags.writeable = False
    container, coded = one.code(turned, WIDTH, HEIGHT)
    expected, same = one.code(latents, WIDTH, HEIGHT)
    assert container == expected
    assert coded.same_bits(same)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
def test_extreme_aspects(name: str, size: tuple[int, int]) -> None:
    one, pixels = random_codec(name), photo(*size)
    container, coded = one.code(one.analyse(pixels), *size)
    found = one.decode(Container.from_bytes(container.to_bytes()))
    assert found.same_bits(coded)
    assert one.synthesise(found.y, *size).shape == pixels.shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gain", [3e38, 1e20, 1e-42, 0.0])
def test_weights_out_of_all_proportion(name: str, gain: float) -> None:
    """Finite, as a weight file may have them: a typed error, or streams that decode to the same bits."""
    given = export_weights(small(name), name, {}, "float32")

    def scaled(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.clip(tensor.astype(np.float64) * gain, -3e38, 3e38).astype(np.float32)

    tensors = {key: scaled(tensor) for key, tensor in given.tensors.items()}
    with suppress(ValueError) if gain > 1 else nullcontext():
        one = ImageCodec(dataclasses.replace(given, tensors=tensors))
        container, coded = one.code(one.analyse(photo(WIDTH, HEIGHT)), WIDTH, HEIGHT)
        found = one.decode(container)
        assert found.same_bits(coded)
        one.synthesise(found.y, WIDTH, HEIGHT)


@pytest.mark.parametrize("name", NAMES)
def test_costs_stand_where_their_symbols_do(name: str) -> None:
    """Each symbol's bits, beside the network's own at that element: another place would have others."""
    one, latents = random_codec(name), busy(name)
    for order in one.orders:
        container, decoded = one.code(latents, WIDTH, HEIGHT, order)
        inspection = one.inspect(container)
        assert inspection.latents.same_bits(decoded)
        for section, part in one.densities(latents, decoded, order)[1].items():
            model = part.bits[0].permute(1, 2, 0).numpy()
            coded = inspection.sections[section].bits
            likely = (model < 8) & (coded < 8)
            assert likely.sum() > 20
            # Scales are of 64 steps, and escapes cost what they cost.
            assert np.median(np.abs(model - coded)[likely]) < 0.1, (order, section)
            assert np.abs(model - coded)[likely].max() < 2, (order, section)
            assert np.median(np.abs(np.roll(model, 1, 2) - coded)[likely]) > 2, (order, section)
