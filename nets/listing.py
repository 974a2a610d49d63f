"""What can be trained and what comes with the package, as `quadrans models` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .registry import SYSTEMS, make
from .weights import DIGEST_SHOWN, bundled_models, read_weights

WIDTH, HEIGHT = 768, 512
"""Pixels of the photo whose steps are counted: Kodak's."""


@dataclass(frozen=True)
class SystemRow:
    """A system of the registry."""

    name: str
    paper: str
    architecture: str
    config: Mapping[str, Any]
    parameters: int
    """Trainable scalars."""
    order: str
    """Its own coding order."""
    orders: tuple[str, ...]
    """All that its files may have."""
    steps: int | None
    """Of its own order, one after the other, for a photo of 768x512 pixels; None: it is no codec."""
    lambdas: tuple[float, ...]


@dataclass(frozen=True)
class BundledRow:
    """A bundled model."""

    name: str
    architecture: str
    config: Mapping[str, Any]
    bytes: int
    digest: str
    info: Mapping[str, str]


def systems() -> list[SystemRow]:
    """All systems, without making their weights. Raises ImportError without torch."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("the systems need PyTorch: pip install 'quadrans[codec]'") from error
    rows = []
    for name, row in SYSTEMS.items():
        with torch.device("meta"):
            system = make(name)
        parameters = sum(parameter.numel() for parameter in system.parameters())
        orders = system.orders
        steps = system.steps(orders[0], WIDTH, HEIGHT) if row.codes else None
        listed = row.paper, row.architecture, dict(system.config), parameters
        rows.append(SystemRow(name, *listed, orders[0], orders, steps, row.lambdas))
    return rows


def bundled() -> list[BundledRow]:
    """All bundled models."""
    rows = []
    for name, path in bundled_models().items():
        one = read_weights(path)
        digest = one.digest[:DIGEST_SHOWN].hex()
        rows.append(BundledRow(name, one.architecture, one.config, path.stat().st_size, digest, one.info))
    return rows
