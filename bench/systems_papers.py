"""Times that papers measured, measured here: He 2021's tables 2 and 3, DCA's table 2."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ..nets.codec import ImageCodec
from ..nets.lowering import lower
from .measure import times
from .published import DCA_PARTS, HE_TOTALS, KODAK, PAPER_ORDERS, TECNICK
from .systems_measure import Row, measure_system


@dataclass(frozen=True)
class Compared:
    """A system of He 2021's tables, of N = 192, with its name in the registry."""

    architecture: str
    name: str
    orders: tuple[str, ...]
    """None at all: its own alone."""


_ORDERS = ("raster", "wavefront", "checkerboard")

HE_SYSTEMS = (
    Compared("balle2018", "balle2018-large", ()),
    Compared("minnen2018-mean", "minnen2018-mean-large", ()),
    Compared("minnen2018", "minnen2018-large", _ORDERS),
    Compared("cheng2020", "cheng2020-large", _ORDERS),
)
"""M isn't stated beside the tables: Minnen 2018 has 320 with N = 192 in the paper, Cheng 2020 M = N."""


def he2021(teams: list[int], runs: int, console: Console) -> list[Row]:
    """Rows of HE_SYSTEMS in all their orders, at Kodak's and at Tecnick's size.

    One set of weights serves a system's orders, among which only the context's mask differs.
    """
    rows = []
    for one in HE_SYSTEMS:
        config = {"orders": one.orders} if one.orders else {}
        rows += measure_system(one.name, config, one.orders, (KODAK, TECNICK), teams, runs, console)
    return rows


def he_record(row: Row) -> dict[str, Any]:
    """A row of `he2021`, with ms by the names of Table 3, those of coding, and the paper's total."""
    architecture = next(one.architecture for one in HE_SYSTEMS if one.name == row.system)
    size = (KODAK, TECNICK).index((row.width, row.height))
    record = {**asdict(row), "paper_ms": HE_TOTALS[architecture, PAPER_ORDERS[row.order]][size]}
    if ms := row.decode_ms:
        record["ms"] = {
            "hyper synthesis": ms["features"],
            "parameter calculation": ms["context"] + ms["nets"],
            "latent synthesis": ms["transforms"],
            "coding": ms["index"] + ms["coder"] + ms["rest"],
        }
    return record


DCA = "dca2024"


def dca2024(teams: list[int], runs: int, console: Console) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows of DCA at Kodak's size, and ms of each of its networks, by the paper's names, a dict for each row.

    Analyses and f_s run in torch, the syntheses of side information and c exactly. c: all four steps; g_s:
    without the keys and values that c's attention makes of it.
    """
    found: list[dict[str, Any]] = []

    def networks(codec: ImageCodec, row: Row) -> None:
        found.append({"threads": row.threads, **dca_networks(codec, row, runs)})

    rows = measure_system(DCA, {}, (), (KODAK,), teams, runs, console, networks)
    return rows, found


@torch.inference_mode()
def dca_networks(codec: ImageCodec, row: Row, runs: int) -> dict[str, float]:
    """Median ms of each network of DCA_PARTS."""
    system: Any = codec.system
    h, w = system.positions(row.width, row.height)
    x = torch.zeros(1, 3, 16 * h, 16 * w).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(1, system.m, h, w).contiguous(memory_format=torch.channels_last)
    sides = {
        name: np.zeros((*side.size(h, w), len(side.prior.medians)), np.float32)
        for name, side in system.sides().items()
    }
    tokens = sides["z_g"].reshape(1, system.count, -1)
    exact = {"l_s": sides["z_l"], "r_s": sides["z_r"], "g_s": tokens}
    layers = {name: lower(getattr(system, name), name) for name in exact}
    jobs: dict[str, Callable[[], Any]] = {
        "f_a": lambda: system.f_a(x),
        "f_s": lambda: system.f_s(y),
        **{name: partial(getattr(system, name), y) for name in ("l_a", "r_a", "g_a")},
        **{name: partial(layers[name], z, threads=row.threads) for name, z in exact.items()},
    }
    ms = {}
    for name, job in jobs.items():
        job()
        ms[name] = statistics.median(times(job, lambda _: None, runs))
    ms["c"] = row.decode_ms["context"] + row.decode_ms["nets"]
    ms["encoding"], ms["decoding"] = (sum(parts.values()) for parts in (row.encode_ms, row.decode_ms))
    return {name: ms[name] for name in DCA_PARTS}
