"""Shared fixtures: deterministic Hypothesis profile, real photos, a small model with a busy latent."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The tests' tensors are tiny: more threads would only wait for each other. Subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that write to one cache at a time can file a function's code under another of its signatures.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cache = os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent.parent / ".pytest_cache" / "numba"
    os.environ["NUMBA_CACHE_DIR"] = str(Path(cache) / worker)

settings.register_profile(
    "quadrans", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("quadrans")


_OF_THE_MACHINE = (
    "this CPU ",
    "this is no x86 CPU",
    "this system ",
    "math.fma is new in Python 3.13",
    "mprotect is POSIX",
    "sends itself a signal",
    "cupy is installed",
)
"""How the reasons begin for which a test may be skipped where all packages are installed."""


def _no_package_is_missing(
    report: pytest.TestReport | pytest.CollectReport,
) -> pytest.TestReport | pytest.CollectReport:
    """The report; where all packages should be installed, what is skipped for another reason has failed."""
    if report.skipped and os.environ.get("QUADRANS_ALL_PACKAGES") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(_OF_THE_MACHINE):
            report.outcome, report.longrepr = "failed", f"QUADRANS_ALL_PACKAGES is set, but: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _no_package_is_missing((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _no_package_is_missing((yield))


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """(300, 451, 3) uint8: a cat, as scikit-image installs it."""
    from skimage import data

    return np.ascontiguousarray(data.chelsea())


@pytest.fixture(scope="session")
def small_weights():
    """A model with random weights whose latent is busy, so that coding it tests something."""
    import torch

    from quadrans.nets.export import export_weights
    from quadrans.nets.systems.minnen2018 import Minnen2018

    torch.manual_seed(1)
    net = Minnen2018(8, 12, orders=("wavefront", "raster", "checkerboard", "parallel"))
    with torch.no_grad():
        for module, gain in ((net.g_a[6], 100.0), (net.h_a[4], 30.0), (net.entropy_parameters[4], 20.0)):
            module.weight.mul_(gain)
        net.entropy_bottleneck.quantiles[:, 0, 1] = torch.linspace(-0.7, 0.7, 8)
    return export_weights(net, "small", {"training": "none"})


@pytest.fixture(scope="session")
def small_codec(small_weights):
    from quadrans.nets.codec import ImageCodec

    return ImageCodec(small_weights)


@pytest.fixture(scope="session")
def bundled_codec():
    from quadrans.nets.codec import ImageCodec
    from quadrans.nets.weights import DEFAULT_MODEL, find_weights

    return ImageCodec(find_weights(DEFAULT_MODEL))
