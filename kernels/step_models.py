"""Models of steps over whole planes: a network for each step of an order, memory, and refinement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from .blocks import input_names
from .layers import Layer
from .models import Inputs, PositionModel, own_inputs
from .orders import Order
from .program import FloatArray, WeightStore
from .quantization import MixtureQuantization, Quantization

if TYPE_CHECKING:
    from .network import Network

_LABELS = {"nets": "net", "before": "before", "after": "after"}
"""What errors call a layer of these fields."""


@dataclass(frozen=True, eq=False)
class StepModel:
    """Networks for each step of an order, over whole planes: channel slices, quadtrees.

    The planes (H, W, M + F + memory) are y_hat as it is by then, zero where nothing is decoded; the features;
    and what layers of steps remember for later ones, zero at first.

    nets: from the planes to scales and means of all M channels, or of those alone that the step codes.
    before: for each step a layer or None. Its channels, of the planes before the step, replace the first of
    the memory, and the others stay. after: for each step a layer or None. What it gives for the planes that
    have the step's symbols, all M channels or those that the step codes, is added to the elements that it
    coded: latent residual prediction. Such a latent is no integer, so this is for residual mode alone. Both
    may be empty: no layers at all. inputs: names and channels of (H', W', C) float32 arrays that the layers
    read as `Input`s.

    An order of a single position may leave steps of a checkerboard out; the layers are those of the whole
    order. A step that is left out codes nothing, but what it has to remember is remembered in its place.
    Raises ValueError, TypeError with the numbers if something doesn't fit.
    """

    nets: Sequence[Layer] = field(repr=False)
    channels: int
    features: int
    quantization: Quantization
    inputs: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    memory: int = field(default=0, kw_only=True)
    before: Sequence[Layer | None] = field(default=(), kw_only=True, repr=False)
    after: Sequence[Layer | None] = field(default=(), kw_only=True, repr=False)
    _reads: dict[str, tuple[frozenset[str], ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.quantization, MixtureQuantization):
            raise TypeError("mixtures are for models of positions: a StepModel needs a Quantization")
        for name in ("channels", "features", "memory"):
            object.__setattr__(self, name, index(getattr(self, name)))
        if self.channels < 1 or min(self.features, self.memory) < 0:
            raise ValueError(
                f"a latent of {self.channels} channels, {self.features} features and {self.memory} of memory"
            )
        nets = tuple(self.nets)
        layers: dict[str, tuple[Layer | None, ...]] = {"nets": nets}
        for what in ("before", "after"):
            layers[what] = tuple(getattr(self, what)) or (None,) * len(nets)
            if len(layers[what]) != len(nets):
                raise ValueError(f"{len(layers[what])} layers {what} the steps of {len(nets)} nets")
        if self.quantization.fraction_bits is not None and any(one is not None for one in layers["after"]):
            raise ValueError("layers after steps refine the latent, which integer mode can't code")
        for what, limit, unit in (
            ("nets", 2 * self.channels, 2),
            ("before", self.memory, 1),
            ("after", self.channels, 1),
        ):
            for number, layer in enumerate(layers[what]):
                if layer is not None:
                    self._check(_LABELS[what], number, layer, limit, unit)
        inputs = own_inputs(self.inputs, [layer for own in layers.values() for layer in own])
        reads = {
            what: tuple(frozenset() if layer is None else input_names(layer) for layer in own)
            for what, own in layers.items()
        }
        for name, value in (layers | {"inputs": inputs, "_reads": reads}).items():
            object.__setattr__(self, name, value)

    @property
    def width(self) -> int:
        """Channels of the planes."""
        return self.channels + self.features + self.memory

    def _check(self, label: str, number: int, layer: Layer, limit: int, unit: int) -> None:
        """Raise ValueError if what is known of the layer's channels doesn't fit."""
        try:
            given = layer.channels(self.width)
        except ValueError as error:
            raise ValueError(f"{label} {number}: {error}") from None
        if limit < 1 or (given is not None and (given % unit or not 0 < given <= limit)):
            of = f"a memory of {limit}" if label == "before" else f"a latent of {self.channels}"
            raise ValueError(f"{label} {number} gives {given} channels for {of}")

    def _number(self, order: Order, step: int) -> int:
        """The place of an order's step among the model's. ValueError if they are other steps."""
        if len(order) == len(self.nets):
            return step
        if 2 * len(order) == len(self.nets) and (order.height, order.width) == (1, 1):
            return 2 * step + int(order.steps[step].context)
        raise ValueError(f"{order.name} has {len(order)} steps, the model {len(self.nets)} nets")

    def _since(self, order: Order, step: int) -> range:
        """The model's steps from the one behind the order's last up to this one."""
        return range(self._number(order, step - 1) + 1 if step else 0, self._number(order, step) + 1)

    def net(self, order: Order, step: int) -> Layer:
        """The net of an order's step. ValueError if the order has other steps than the model."""
        return self.nets[self._number(order, step)]

    def layers(self, order: Order, step: int) -> tuple[tuple[Layer, ...], Layer, Layer | None]:
        """(before, net, after) of an order's step: what must run before it one after the other, and so on.

        Several before it only where the order leaves steps out. Raises as `net`.
        """
        number = self._number(order, step)
        before = tuple(one for i in self._since(order, step) if (one := self.before[i]) is not None)
        return before, self.nets[number], self.after[number]

    def _run(self, what: str, number: int, planes: FloatArray, inputs: Inputs | None, threads: int) -> Any:
        """What a layer gives for the planes. A network refuses inputs that it doesn't read."""
        own = {name: (inputs or {})[name] for name in self._reads[what][number]}
        network = self._networks[id(getattr(self, what)[number])]
        return network(planes, own, threads=threads, check=False)

    @cached_property
    def _networks(self) -> dict[int, Network]:
        """By the layers' ids. Those that have parts in common share a store, so that it holds these once."""
        from ..entropy._compiled import import_compiled

        cpu, network = (import_compiled(f".{name}", __package__) for name in ("cpu", "network"))
        layers = {id(one): one for one in (*self.nets, *self.before, *self.after) if one is not None}
        parts = {key: {id(part) for part in _all_parts(layer)} for key, layer in layers.items()}
        uses = Counter(part for own in parts.values() for part in own)
        common = WeightStore(cpu.pack)
        return {
            key: network.Network(layer, cpu, common if any(uses[part] > 1 for part in parts[key]) else None)
            for key, layer in layers.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        # Another machine packs in its own way.
        return {name: value for name, value in vars(self).items() if name != "_networks"}

    def remember(
        self,
        planes: FloatArray,
        order: Order,
        step: int,
        threads: int = 1,
        inputs: Inputs | None = None,
    ) -> None:
        """Run what belongs before a step: it changes the memory of the planes (H, W, M + F + memory)."""
        memory = planes[:, :, self.channels + self.features :]
        for number in self._since(order, step):
            if self.before[number] is None:
                continue
            out = self._run("before", number, planes, inputs, threads)
            if out.shape[:2] != planes.shape[:2] or out.shape[2] > self.memory:
                raise ValueError(
                    f"before {number} gives {out.shape} for planes of {planes.shape}; it must give "
                    f"up to {self.memory} channels of each position"
                )
            memory[:, :, : out.shape[2]] = out

    def parameters(
        self,
        planes: FloatArray,
        order: Order,
        step: int,
        threads: int = 1,
        inputs: Inputs | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """(scales, means), (n, width) float32 each, of a step's elements.

        planes: (H, W, M + F + memory) float32, as `remember` leaves them before this step. inputs: float32
        arrays, all that the model names.
        """
        out = self._run("nets", self._number(order, step), planes, inputs, threads)
        scales, means = self._of_elements("nets", 2, out, planes, order, step)
        return scales, means

    def refinement(
        self,
        planes: FloatArray,
        order: Order,
        step: int,
        threads: int = 1,
        inputs: Inputs | None = None,
    ) -> FloatArray | None:
        """(n, width) float32, what is added to the elements that a step has coded; None: nothing.

        planes: with the step's elements as decoded.
        """
        number = self._number(order, step)
        if self.after[number] is None:
            return None
        out = self._run("after", number, planes, inputs, threads)
        return self._of_elements("after", 1, out, planes, order, step)[0]

    def _of_elements(
        self, what: str, count: int, out: FloatArray, planes: FloatArray, order: Order, step: int
    ) -> list[FloatArray]:
        """(n, width), what a layer's result says of a step's elements, of each of its `count` arrays."""
        rows, cols, first, width = order.steps[step].block(self.channels)
        given, odd = divmod(out.shape[2], count)
        if out.shape[:2] != planes.shape[:2] or odd or given not in (self.channels, width):
            times = f"{count} x " if count > 1 else ""
            raise ValueError(
                f"{_LABELS[what]} {self._number(order, step)} gives {out.shape} for planes of "
                f"{planes.shape}; it must give {times}{self.channels} channels of each position, or "
                f"{times}{width}"
            )
        if given != self.channels:
            first = np.zeros_like(first)
        starts = range(0, count * given, given)
        if (first == first[:1]).all():
            # Whole rows are taken some ten times as fast as single elements.
            here = out[rows, cols]
            return [here[:, start + first[0] : start + first[0] + width] for start in starts]
        channels = first[:, None] + np.arange(width)
        return [out[rows[:, None], cols[:, None], start + channels] for start in starts]


def _all_parts(layer: Layer) -> Iterator[Layer]:
    yield layer
    for part in layer.parts():
        yield from _all_parts(part)


Model = PositionModel | StepModel


def table_quantization(model: Model) -> Quantization:
    """The quantization of a model whose symbols are coded under a table. TypeError for one of mixtures."""
    if isinstance(model.quantization, MixtureQuantization):
        raise TypeError("a model of mixtures has no table rows: `latent_mixtures` gives what it codes under")
    return model.quantization
