"""Global hyper latents: a few learned tokens that attend to a whole latent, coded as a single position.

Source: Kim et al., "Joint global and local hierarchical priors for learned image compression" (Informer),
CVPR 2022.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..kernels import Sequential
from .blocks import CABlock, lower_pairs
from .lowering import lower
from .system import ExactFeatures

PAIRS = "pairs"
"""Name of the features (B, K, 2C) that hold the keys and values of K tokens."""


def ask(tokens: Tensor, block: CABlock, y: Tensor) -> Tensor:
    """What learned tokens (K, C) hear from all positions of y (B, C, H, W): (B, K, C)."""
    queries = tokens.T[None, :, None].expand(len(y), -1, -1, -1)
    return block(queries, y.flatten(2).transpose(1, 2))[:, :, 0].transpose(1, 2)


def as_position(tokens: Tensor) -> Tensor:
    """Tokens (B, K, c), one after the other: a latent (B, K * c, 1, 1)."""
    return tokens.flatten(1)[:, :, None, None]


def as_tokens(z: Tensor, count: int) -> Tensor:
    """The inverse of `as_position`."""
    return z.reshape(len(z), count, -1)


def exact_pairs(synthesis: nn.Linear, block: CABlock, side: str, count: int) -> ExactFeatures:
    """Keys and values for `block` of the `count` tokens that `synthesis` makes of a global latent."""
    layer = Sequential([lower(synthesis, f"{side}'s synthesis"), lower_pairs(block, f"{side}'s attention")])
    return ExactFeatures(layer, (side,), (1, count, synthesis.in_features))
