"""Systems without their weights: parameters and steps, beside what is published."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..nets import registry
from .published import KODAK, PARAMETERS, STEPS, TECNICK, Count


@dataclass
class Counted:
    """A system without its weights. Steps by order, its own first: at Kodak's size, and at Tecnick's."""

    system: str
    paper: str
    parameters: int
    published: Count | None
    steps: dict[str, tuple[int, int]]
    published_steps: int | None

    @property
    def agrees(self) -> bool:
        """Whether it is as published, as far as that is known."""
        right = self.published is None or self.published.agrees(self.parameters)
        own = next(iter(self.steps.values()), ())
        return right and (self.published_steps is None or {self.published_steps} == set(own))


def counted(name: str) -> Counted:
    """A system's counts, and what is published of them."""
    row = registry.SYSTEMS[name]
    with torch.device("meta"):
        system = registry.make(name)
    parameters = sum(parameter.numel() for parameter in system.parameters())
    orders = system.orders if row.codes else ()
    steps = {order: (system.steps(order, *KODAK), system.steps(order, *TECNICK)) for order in orders}
    published = PARAMETERS.get(name)
    return Counted(name, row.paper, parameters, published, steps, STEPS.get(row.architecture))
