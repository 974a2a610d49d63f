"""Lee 2019: means and scales from two contexts, windows of side information and of what is decoded.

Lee, Cho and Beack, "Context-adaptive entropy model for end-to-end optimized image compression", ICLR 2019,
with the hybrid of its appendix 6.1. The paper's text doesn't give the layers of the estimator f:
`WindowEstimator` is a reading of its figure 4, and so are the parameter counts that follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ... import kernels
from ..blocks import WindowEstimator
from ..bounds import lower_bound, round_through
from ..density import SCALE_MIN, Prior, gaussian_mass
from ..entropy_model import ParallelEntropy
from ..hyper import scale_hyper_analysis, scale_hyper_synthesis
from ..hyperprior import Hyperprior
from ..lowering import lowers
from ..system import Part, Prediction
from ..transforms import analysis_transform, synthesis_transform
from ..window import WindowEntropy


class Exp(nn.Module):
    """exp(x)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


@lowers(Exp, None)
def _(module: Exp, path: str) -> kernels.Layer:
    return kernels.Exp()


class ScalePrior(Prior):
    """A Gaussian of mean zero for each channel, its standard deviation a parameter's absolute value (eq. 5).

    Deviations are floored at 0.11, where a channel of zeros costs next to nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.ones(channels))

    @property
    def medians(self) -> Tensor:
        """See `Prior`."""
        return torch.zeros_like(self.sigma).detach()

    def likelihood(self, z: Tensor) -> Tensor:
        """See `Prior`."""
        scales = lower_bound(self.sigma.abs(), SCALE_MIN)
        return gaussian_mass(z, scales[:, None, None], 0.0)


class Lee2019(Hyperprior):
    """Ballé 2018's transforms, exp closing h_s, of which the first m1 channels are c' and the others scales.

    y_hat is round(y), and h_a reads it in place of y. m1: channels of y that have the context. m2: those of
    the hybrid's lightweight model, whose means are zero and scales side information (eq. 10); 0 for the
    system without it. absolute: whether h_a takes |y_hat|; the paper's transforms are Ballé 2018's but for
    the exp, so it does. points: positions whose bits stand for the rate of a training step (`WindowEntropy`).

    The paper trains with noise in the likelihoods and rounding elsewhere: the surrogate "mixed".
    """

    def __init__(
        self, n: int = 128, m1: int = 192, m2: int = 0, absolute: bool = True, points: int | None = 16
    ) -> None:
        if m1 < 1 or m2 < 0 or (points is not None and points < 1):
            raise ValueError(f"m1 = {m1} and points = {points} must be at least 1, m2 = {m2} at least 0")
        m = m1 + m2
        super().__init__(m, n=n, m1=m1, m2=m2, absolute=absolute, points=points)
        self.g_a, self.g_s = analysis_transform(n, m), synthesis_transform(n, m)
        self.h_a, self.h_s = scale_hyper_analysis(n, m), scale_hyper_synthesis(n, m, Exp())
        self.entropy_bottleneck = ScalePrior(n)
        self.estimator = WindowEstimator(m1)

    def parts(self) -> Mapping[str, Part]:
        m1, m2 = self.config["m1"], self.config["m2"]
        context = WindowEntropy(self.estimator, self.m, points=self.config["points"])
        if not m2:
            return {"y": Part(context, 0, m1)}
        # About means of zero, residuals are the integers themselves, and need a row for each scale only.
        light = ParallelEntropy(m2, zero_mean=True, first=m1)
        return {"y1": Part(context, 0, m1), "y2": Part(light, m1, self.m)}

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        y_hat = round_through(y)
        return {"z": self.h_a(y_hat.abs() if self.config["absolute"] else y_hat)}

    def loss(
        self, prediction: Prediction, x: Tensor, lmbda: float, distortion: Tensor, kind: str = "mse"
    ) -> Tensor:
        """Equation 6: lmbda * bits / elements of y + (1 - lmbda) * distortion / 1000. lmbda weights the rate.

        distortion: mean squared error of pixels in 0..255 of the images x. The paper doesn't state that
        scale, which follows from its rates and distortions (at a scale of 0..1 its lambdas could not give
        them), nor whether R is in bits, as here, or nats; nor a scale for MS-SSIM.
        Raises ValueError unless 0 < lmbda < 1, and for another kind of distortion than "mse".
        """
        if kind != "mse":
            raise ValueError(
                f"equation 6 weighs the rate by lambda = {lmbda:g} and the distortion by "
                f"(1 - lambda) / 1000 = {(1 - lmbda) / 1000:g}, which suits mse alone: "
                f"the paper states no scale for {kind}"
            )
        if not 0 < lmbda < 1:
            raise ValueError(f"lambda weights rate against distortion: 0 < lambda < 1, not {lmbda}")
        rate = prediction.total_bits.mean() / prediction.y_hat[0].numel()
        return lmbda * rate + (1 - lmbda) * distortion / 1000


class Lee2019Hybrid(Lee2019):
    """Appendix 6.1's hybrid for high rates: `Lee2019` with a lightweight model of m2 more channels."""

    def __init__(
        self, n: int = 320, m1: int = 192, m2: int = 228, absolute: bool = True, points: int | None = 16
    ) -> None:
        super().__init__(n, m1, m2, absolute, points)
