"""What papers and published codes say of their systems: parameters, steps, and times on their devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """Trainable parameters, known to multiples of `unit`."""

    parameters: int
    unit: int
    source: str

    def agrees(self, parameters: int) -> bool:
        """Whether a count is this one, as far as its digits go."""
        return 2 * abs(parameters - self.parameters) < self.unit


def _compressai(model: str, *counts: int) -> list[Count]:
    return [Count(count, 1, f"CompressAI {model}") for count in counts]


_DCA = "DCA 2024, table 1"
_FACTORIZED = _compressai("bmshj2018-factorized", 2_998_147, 7_030_531)
_RELU = _compressai("bmshj2018-factorized-relu", 2_899_075, 6_808_195)
_SCALE = _compressai("bmshj2018-hyperprior", 5_075_843, 11_816_323)
_MEAN = _compressai("mbt2018-mean", 7_028_003, 17_561_699)
_JOINT = _compressai("mbt2018", 14_130_467, 25_504_596)
_ANCHOR = _compressai("cheng2020-anchor", 11_833_149, 26_598_956)
_INFORMER = [Count(count, 1, "official code") for count in (10_940_051, 21_308_388)]
_TCM = [Count(count, 1, "official code") for count in (45_180_752, 59_133_650, 76_568_148)]
_ATTENTION = _compressai("cheng2020-attn", 13_183_293, 29_631_788)

PARAMETERS: Mapping[str, Count] = {
    "balle2018-factorized": _FACTORIZED[0],
    "balle2018-factorized-large": _FACTORIZED[1],
    "balle2018-factorized-relu": _RELU[0],
    "balle2018-factorized-relu-large": _RELU[1],
    "balle2018": _SCALE[0],
    "balle2018-large": _SCALE[1],
    "minnen2018-mean": _MEAN[0],
    "minnen2018-mean-large": _MEAN[1],
    "minnen2018": _JOINT[0],
    "minnen2018-large": _JOINT[1],
    "cheng2020-anchor": _ANCHOR[0],
    "cheng2020-anchor-large": _ANCHOR[1],
    "cheng2020-attn": _ATTENTION[0],
    "cheng2020-attn-large": _ATTENTION[1],
    "cheng2020": Count(14_207_436, 1, "CompressAI cheng2020-attn with the head of Cheng's code"),
    "cheng2020-large": Count(30_622_764, 1, "CompressAI cheng2020-attn with the head of Cheng's code"),
    "charm2020": Count(113_990_000, 10_000, "TensorFlow Compression's layers"),
    "charm2020-all": Count(119_360_000, 10_000, "TensorFlow Compression's layers"),
    "elic2022": Count(32_070_000, 10_000, "CompressAI Elic2022Official"),
    "informer2022": _INFORMER[0],
    "informer2022-large": _INFORMER[1],
    "dcvc-dc2023": Count(30_998_187, 1, "DCVC-DC, IntraNoAR"),
    "tcm2023-small": _TCM[0],
    "tcm2023-medium": _TCM[1],
    "tcm2023": _TCM[2],
    "dca2024": Count(37_890_000, 10_000, _DCA),
    "quadtree-baseline": Count(32_640_000, 10_000, f"{_DCA}, baseline"),
    "tcm2023-elic-sm": Count(55_190_000, 10_000, f"{_DCA}, LIC-TCM"),
    "mlicpp2023": Count(83_500_000, 10_000, "official code"),
    "mlicpp2023-old": Count(116_720_000, 10_000, "official code"),
    "mlicpp2023-elic-sm-fixed": Count(71_910_000, 10_000, "DCA 2024's transforms and official code"),
    "mlicpp2023-elic-sm": Count(107_800_000, 10_000, f"{_DCA}, MLIC++"),
}
"""By name in `nets.registry.SYSTEMS`."""

STEPS: Mapping[str, int] = {
    "checkerboard-minnen2018": 2,
    "checkerboard-cheng2020": 2,
    "charm2020": 10,
    "elic2022": 10,
    "dcvc-dc2023": 4,
    "dca2024": 4,
    "quadtree-baseline": 4,
    "tcm2023": 5,
    "mlicpp2023": 20,
}
"""Steps, whatever the image's size, of architectures."""

TITAN_XP = "NVIDIA TITAN Xp; He et al., CVPR 2021, tables 2 and 3"

KODAK, TECNICK = (768, 512), (1200, 1200)

PAPER_ORDERS: Mapping[str, str] = {
    "raster": "serial",
    "wavefront": "serial",
    "checkerboard": "checkerboard",
    "parallel": "parallel",
}
"""What our orders are in the keys below."""

HE_TOTALS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("balle2018", "parallel"): (26.34, 83.28),
    ("minnen2018-mean", "parallel"): (26.41, 86.31),
    ("minnen2018", "serial"): (1323.66, 4977.98),
    ("minnen2018", "checkerboard"): (29.66, 95.46),
    ("cheng2020", "serial"): (1395.35, 5296.16),
    ("cheng2020", "checkerboard"): (75.23, 259.37),
}
"""Table 2: ms of decoding an image of KODAK's and of TECNICK's size, without coding; all with N = 192."""

HE_PARTS: Mapping[str, Mapping[str, float]] = {
    "serial": {"hyper synthesis": 1.26, "parameter calculation": 1302.42, "latent synthesis": 20.98},
    "checkerboard": {"hyper synthesis": 1.42, "parameter calculation": 4.75, "latent synthesis": 23.49},
}
"""Table 3: Minnen 2018's at KODAK's size. The serial ones sum to 1324.66, not to the 1323.66 printed."""

V100 = "NVIDIA V100; Kim et al., NeurIPS 2024, table 2"

DCA_PARTS: Mapping[str, float] = {
    "f_a": 3.46,
    "f_s": 1.54,
    "l_a": 0.98,
    "l_s": 0.96,
    "r_a": 5.32,
    "r_s": 4.78,
    "g_a": 0.63,
    "g_s": 0.08,
    "c": 14.75,
    "encoding": 117.49,
    "decoding": 82.05,
}
"""ms of DCA's networks, and in all with coding, at KODAK's size."""
