"""DCA's c(.): from what is decoded and forward contexts to the distributions of a quadtree's step.

Kim, Kim, Lee and Oh, "Diversify, contextualize, and adapt: Efficient entropy modeling for neural image
codec", NeurIPS 2024, section 3.2, with the variants of its section 4.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels import Concat, Constant, Input, Layer, Linear, Sequential, Slice
from .blocks import CABlock, lower_attention, lower_pairs
from .entropy_model import Features
from .global_tokens import PAIRS, ask
from .hyper import parameter_head
from .lowering import array, lower, lowers
from .quadtree import STEPS, QuadtreeEntropy, step_adaptors, trunk
from .swin import SwinBlock

REGIONAL, GLOBAL, LOCAL = "RGL"
"""Letters of the forward contexts."""


class LearnedPlane(nn.Module):
    """(B, channels, H, W), learned and the same at all positions, in place of whatever it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.value[None, :, None, None].expand(len(x), -1, *x.shape[2:])


@lowers(LearnedPlane, 1)
def _(module: LearnedPlane, path: str) -> Layer:
    value = array(module.value)
    return Sequential([Slice(0, 1), Linear(np.zeros((len(value), 1), np.float32), value)])


class PlaneStage(nn.Module):
    """A context that is a plane: the state and channels start .. stop - 1 of the features, through layers."""

    def __init__(self, start: int, stop: int, layers: nn.Module) -> None:
        super().__init__()
        self.start, self.stop, self.layers = start, stop, layers

    def forward(self, state: Tensor, features: Features) -> Tensor:
        return self.layers(torch.cat([state, features["features"][:, self.start : self.stop]], 1))

    def lower(self, state: Layer, m: int) -> Layer:
        """The exact twin, of planes (y_hat, features), from the layer that gives the state."""
        plane = Slice(m + self.start, m + self.stop)
        return Sequential([Concat([state, plane]), lower(self.layers, "context")])


class TokenStage(nn.Module):
    """A context that is tokens, to which the state attends."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.block = CABlock(channels, heads)

    def forward(self, state: Tensor, features: Features) -> Tensor:
        return self.block.attend(state, features[PAIRS])

    def lower(self, state: Layer, m: int) -> Layer:
        """See `PlaneStage`."""
        return Sequential([state, lower_attention(self.block, Input(PAIRS), "context")])


class Listening(nn.Module):
    """Attention of a state (B, c, H, W) to tokens that first ask all of y_hat (B, m, H, W).

    `count` learned tokens of m channels attend to y_hat, as Informer's do to y; a linear layer gives them c
    channels, and all positions of the state attend to them. Heads have `head_dim` channels.
    """

    def __init__(self, m: int, c: int, count: int, head_dim: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(count, m))
        self.ask = CABlock(m, m // head_dim)
        self.widen = nn.Linear(m, c)
        self.block = CABlock(c, c // head_dim)

    def forward(self, state: Tensor, y_hat: Tensor) -> Tensor:
        return self.block(state, self.widen(ask(self.tokens, self.ask, y_hat)))

    def lower(self, state: Layer, m: int) -> Layer:
        """See `PlaneStage`."""
        c, tokens = self.widen.out_features, Constant(array(self.tokens)[None])
        heard = Sequential(
            [
                Slice(c, c + m),
                lower_attention(self.ask, lower_pairs(self.ask, "ask"), "ask", tokens),
                lower(self.widen, "widen"),
                lower_pairs(self.block, "listening"),
            ]
        )
        listening = lower_attention(self.block, heard, "listening", Slice(0, c))
        return Sequential([Concat([state, Slice(0, m)]), listening])


class Contextualizer(nn.Module):
    """A step's (scales, means), 2m channels, from y_hat as it is by then and forward contexts.

    Contexts are used in the order of the letters of `contexts`; each makes of a state another of 2m channels,
    of which the last is (scales, means):

    - R: the state and the regional features, joined by a 1x1 convolution, through a trunk of three blocks;
    - G: the state attends to the global tokens;
    - L: the state and the local features, through three 1x1 convolutions.

    The state at first is y_hat. What it first goes through is a 1x1 convolution that each step has of its
    own: that of R, if R is first. All other weights are shared. The paper draws R, G, L. Where it leaves
    variants open:

    - An order that doesn't begin with R begins with 1x1 convolutions of y_hat to 2m channels; R's is shared.
    - Without R, y_hat alone goes through 1x1 convolutions and trunk: backward adaptation stays as it is.
    - In both, the first step, where nothing is decoded, has a learned constant in place of its convolution.
    - Not step-adaptive: the contexts make a state of the regional features beforehand, in their order, which
      all steps read in place of the regional features, and nothing else.

    reading: see `quadtree.READINGS`; in A, the first step's state is the regional features. backward: "cnn",
    or "attention" for a trunk of three Swin blocks of 2m channels (windows of 4, the second's moved).
    global_plane: G's features are a plane, and G does what L does. backward_tokens: how many tokens gather
    what is decoded anywhere, for the state to attend to after the trunk; 0: there are none.
    """

    def __init__(
        self,
        m: int,
        contexts: str = "RGL",
        *,
        step_adaptive: bool = True,
        backward: str = "cnn",
        global_plane: bool = False,
        backward_tokens: int = 0,
        reading: str = "B",
        head_dim: int = 64,
        swin_head_dim: int = 32,
    ) -> None:
        super().__init__()
        planar, letters = REGIONAL + LOCAL + GLOBAL * global_plane, set(contexts)
        if not letters & set(planar) or letters - set("RGL") or len(letters) < len(contexts):
            raise ValueError(
                f"contexts are different letters of R, G, L, and not tokens alone, not {contexts!r}"
            )
        self.regional_first, regional = contexts[0] == REGIONAL, REGIONAL in contexts
        if not self.regional_first and (reading == "A" or not step_adaptive):
            raise ValueError(f"reading A and contexts combined beforehand begin with R, not {contexts}")
        trunk_first = self.regional_first or not regional
        if backward_tokens and not trunk_first:
            raise ValueError(
                f"the trunk, whose state would attend to y_hat's tokens, isn't first in {contexts}"
            )
        if backward not in ("cnn", "attention") or (backward == "attention" and reading == "A"):
            raise ValueError(f'backward must be "cnn" or, in reading B, "attention", not {backward!r}')
        wide = 2 * m
        planes = [letter for letter in planar if letter in contexts]
        self.m, self.given = m, wide * len(planes)
        self.tokens = GLOBAL in contexts and GLOBAL not in planes
        self.memory = 0 if step_adaptive else wide

        width = 3 * m if backward == "cnn" else wide
        blocks = trunk(m, reading) if backward == "cnn" else _swin_trunk(wide, swin_head_dim)
        first = width if trunk_first else wide
        if self.regional_first:
            self.adaptors = step_adaptors(m, wide, first, reading)
        else:
            later = [nn.Conv2d(m, first, 1) for _ in range(STEPS - 1)]
            self.adaptors = nn.ModuleList([LearnedPlane(first), *later])
        self.trunk = blocks if trunk_first else nn.Sequential()
        self.listening = Listening(m, wide, backward_tokens, head_dim) if backward_tokens else None
        self.stages = nn.ModuleDict()
        for letter in contexts[self.regional_first :]:
            if letter not in planes:
                self.stages[letter] = TokenStage(wide, wide // head_dim)
                continue
            if letter == REGIONAL:
                layers = nn.Sequential(nn.Conv2d(2 * wide, width, 1), *blocks)
            else:
                layers = parameter_head(m)
            start = wide * planes.index(letter)
            self.stages[letter] = PlaneStage(start, start + wide, layers)

    def forward(self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None) -> Tensor:
        """(B, 2m, H, W) of a step. memory: what `combined` gives, unless the model is step-adaptive."""
        seen = [y_hat] if step or not self.regional_first else []
        if self.regional_first:
            seen.append(self._regional(features) if memory is None else memory)
        state, adaptor = torch.cat(seen, 1), self._adaptor(step)
        if adaptor is not None:
            state = self.trunk(adaptor(state))
        if self.listening is not None and step:
            state = self.listening(state, y_hat)
        return state if self.memory else self._use(state, features)

    def combined(self, features: Features) -> Tensor:
        """All forward contexts in one, (B, 2m, H, W)."""
        return self._use(self._regional(features), features)

    def _use(self, state: Tensor, features: Features) -> Tensor:
        for stage in self.stages.values():
            state = stage(state, features)
        return state

    def _regional(self, features: Features) -> Tensor:
        return features["features"][:, : 2 * self.m]

    def _adaptor(self, step: int) -> nn.Module | None:
        """None: the step begins without one, and without the trunk."""
        at = step - STEPS + len(self.adaptors)
        return self.adaptors[at] if at >= 0 else None

    def lower_step(self, step: int) -> Layer:
        """The exact twin of a step, of planes (y_hat, features, memory)."""
        m = self.m
        seen: list[Layer] = [Slice(0, m)] if step or not self.regional_first else []
        if self.regional_first:
            start = m + self.given if self.memory else m
            seen.append(Slice(start, start + 2 * m))
        state: Layer = Concat(seen)
        adaptor = self._adaptor(step)
        if adaptor is not None:
            state = Sequential([state, lower(adaptor, f"adaptors {step}"), lower(self.trunk, "trunk")])
        if self.listening is not None and step:
            state = self.listening.lower(state, m)
        return state if self.memory else self._lower_use(state)

    def lower_combined(self) -> Layer:
        """The exact twin of `combined`, of the same planes."""
        return self._lower_use(Slice(self.m, 3 * self.m))

    def _lower_use(self, state: Layer) -> Layer:
        for stage in self.stages.values():
            assert isinstance(stage, PlaneStage | TokenStage)
            state = stage.lower(state, self.m)
        return state


def _swin_trunk(channels: int, head_dim: int) -> nn.Sequential:
    return nn.Sequential(*(SwinBlock(channels, channels // head_dim, 4, shift) for shift in (0, 2, 0)))


class ContextualEntropy(QuadtreeEntropy):
    """A quadtree under a `Contextualizer`."""

    def __init__(self, contextualizer: Contextualizer) -> None:
        super().__init__(contextualizer.m, contextualizer.given)
        self.contextualizer = contextualizer
        self.inputs = (PAIRS,) if contextualizer.tokens else ()

    def before(self, step: int, y_hat: Tensor, features: Features) -> Tensor | None:
        """See `StepEntropy`."""
        c = self.contextualizer
        return c.combined(features) if c.memory and step == 0 else None

    def net(self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None) -> Tensor:
        """See `QuadtreeEntropy`."""
        return self.contextualizer(step, y_hat, features, memory)

    def lower_net(self, step: int) -> Layer:
        """See `QuadtreeEntropy`."""
        return self.contextualizer.lower_step(step)

    def lower_options(self) -> dict[str, Any]:
        """See `QuadtreeEntropy`."""
        c = self.contextualizer
        before = (c.lower_combined(), *[None] * (STEPS - 1)) if c.memory else ()
        return {"inputs": dict.fromkeys(self.inputs, 4 * c.m), "memory": c.memory, "before": before}
