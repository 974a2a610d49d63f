"""Learning-rate schedules, as data: how far a run has come to what the learning rate is multiplied by."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

MILESTONES: Mapping[str, tuple[tuple[float, float], ...]] = {
    "constant": (),
    # Halved every 50,000 of the last 200,000 of 1M steps: section 4.
    "lee2019": ((0.8, 0.5), (0.85, 0.25), (0.9, 0.125), (0.95, 0.0625)),
    # Section 5.2 lowers the rate for the second half; that it does so by a factor of 0.5 is assumed.
    "he2021": ((0.5, 0.5),),
    # 1e-4 for 90 of 100 epochs, then 1e-5: section 4.
    "dca2024": ((0.9, 0.1),),
}
"""(fraction of the run, factor from there on), ascending."""

SCHEDULES = ("cosine", *MILESTONES)


def factor(schedule: str, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at a step of `steps`.

    "cosine": a linear warm-up over 500 steps (a tenth of short runs), then a cosine to 1 %.
    """
    progress = min(1.0, step / steps)
    if schedule == "cosine":
        warm_up = min(500, max(1, steps // 10))
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, (step + 1) / warm_up) * cosine
    milestones = MILESTONES[schedule]
    passed = bisect_right([fraction for fraction, _ in milestones], progress)
    return milestones[passed - 1][1] if passed else 1.0
