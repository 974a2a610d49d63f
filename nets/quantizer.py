"""Rounding latents: what stands for it in training, and rounding itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .bounds import round_through, uniform_noise

SURROGATES = ("noise", "straight-through", "mixed")
"""What training puts in place of rounding: uniform noise everywhere; rounding with the gradient of the
identity everywhere; or noise in the likelihoods and rounding where anything else reads the latent (Minnen and
Singh, "Channel-wise autoregressive entropy models for learned image compression", ICIP 2020, section 3.3)."""

ROUNDINGS = ("integer", "residual")
"""Whether y_hat is round(y), or round(y - mean) + mean."""


@dataclass(frozen=True)
class Quantizer:
    """Rounds latents, or does what stands for it.

    surrogate: one of SURROGATES, "round" for rounding without a gradient of its own, or "none" for latents
    that are rounded already.
    """

    surrogate: str = "mixed"

    def __post_init__(self) -> None:
        if self.surrogate not in (*SURROGATES, "round", "none"):
            raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}, not {self.surrogate!r}")

    @property
    def rounds(self) -> bool:
        """Whether what it gives depends on centers."""
        return self.surrogate not in ("none", "noise")

    def __call__(self, y: Tensor, centers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y_hat, what its likelihood is taken of), both like y.

        centers: what y's distance from is rounded, broadcast to y; None: y itself is.
        """
        if self.surrogate == "none":
            return y, y
        if self.surrogate == "noise":
            noisy = uniform_noise(y)
            return noisy, noisy
        rounded = round_through(y) if centers is None else round_through(y - centers) + centers
        return rounded, uniform_noise(y) if self.surrogate == "mixed" else rounded


ROUND, GIVEN = Quantizer("round"), Quantizer("none")
