"""The systems by name: which class each is, with which arguments, from which paper.

Importing this module imports no torch; `make` and `system_class` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .arguments import check_arguments

if TYPE_CHECKING:
    from .system import System

ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "balle2017": ("balle2017", "Balle2017"),
    "theis2017": ("theis2017", "Theis2017"),
    "balle2018-factorized": ("balle2017", "Balle2018Factorized"),
    "balle2018": ("balle2018", "ScaleHyperprior"),
    "informer2022": ("informer2022", "Informer2022"),
    "quadtree-baseline": ("dcvc_dc2023", "QuadtreeBaseline"),
    "dcvc-dc2023": ("dcvc_dc2023", "IntraNoAR"),
    "dca2024": ("dca2024", "DCA2024"),
    "charm2020": ("charm2020", "Charm2020"),
    "elic2022": ("elic2022", "Elic2022"),
    "tcm2023": ("tcm2023", "Tcm2023"),
    "mlicpp2023": ("mlicpp2023", "Mlicpp2023"),
    "minnen2018": ("minnen2018", "Minnen2018"),
    "minnen2018-mean": ("minnen2018", "MeanScaleHyperprior"),
    "lee2019": ("lee2019", "Lee2019"),
    "lee2019-hybrid": ("lee2019", "Lee2019Hybrid"),
    "cheng2020": ("cheng2020", "Cheng2020"),
    "cheng2020-anchor": ("cheng2020", "Cheng2020Anchor"),
    "checkerboard-minnen2018": ("he2021", "CheckerboardMinnen2018"),
    "checkerboard-cheng2020": ("he2021", "CheckerboardCheng2020"),
    "random-mask": ("he2021", "RandomMask"),
}
"""Class of each architecture: (module of `systems`, name). Weight files name their architecture."""

COMPRESSAI_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)
"""Weights of the squared error, on pixels in 0..255, of CompressAI's qualities 1 to 8."""

HE_LAMBDAS = (0.0016, 0.0032, 0.0075, 0.015, 0.03, 0.045)
"""Those of Cheng 2020 and He 2021, in the same scale."""

LEE_LAMBDAS = (0.5, 0.4, 0.3, 0.2, 0.12, 0.06, 0.03, 0.017, 0.01)
"""Those of Lee 2019, which weight the rate: `Lee2019.loss`."""


@dataclass(frozen=True)
class Row:
    """A system of a size in which it was published."""

    name: str
    architecture: str
    paper: str
    config: Mapping[str, Any] = field(default_factory=dict)
    lambdas: tuple[float, ...] = ()
    """For the squared error: what its authors trained it for, or CompressAI of that shape; none: unknown."""
    codes: bool = True
    """Whether it is a codec: what only measures can be trained, too."""

    @property
    def usual_lambdas(self) -> tuple[float, ...]:
        """Its lambdas, or six customary ones where its own are unknown."""
        return self.lambdas or COMPRESSAI_LAMBDAS[:6]


_BALLE_2017 = "Ballé et al., ICLR 2017"
_BALLE_2018 = "Ballé et al., ICLR 2018"
_MINNEN = "Minnen et al., NeurIPS 2018"
_LEE = "Lee et al., ICLR 2019"
_CHENG = "Cheng et al., CVPR 2020"
_HE = "He et al., CVPR 2021"
_SMALL, _LARGE = {"n": 128, "m": 192}, {"n": 192, "m": 320}
_RELU = {"activation": "relu"}
_CHARM = "Minnen and Singh, ICIP 2020"
_ELIC = "He et al., CVPR 2022"
_INFORMER = "Kim et al., CVPR 2022"
_DCVC = "Li et al., CVPR 2023"
_TCM = "Liu et al., CVPR 2023"
_MLIC = "Jiang et al., arXiv 2307.15421"
_ELIC_SM = {"transforms": "elic-sm"}
_OLD_LRP = {"lrp": "old"}
_GAUSSIAN = {"components": None, "rounding": "residual"}

SYSTEMS: Mapping[str, Row] = {
    row.name: row
    for row in (
        Row("balle2017", "balle2017", _BALLE_2017, {"n": 128}),
        Row("theis2017", "theis2017", "Theis et al., ICLR 2017", {"n": 64, "m": 96}),
        Row("balle2018-factorized", "balle2018-factorized", _BALLE_2018, _SMALL, COMPRESSAI_LAMBDAS[:5]),
        Row(
            "balle2018-factorized-large", "balle2018-factorized", _BALLE_2018, _LARGE, COMPRESSAI_LAMBDAS[5:]
        ),
        Row("balle2018-factorized-relu", "balle2018-factorized", _BALLE_2018, {**_SMALL, **_RELU}),
        Row("balle2018-factorized-relu-large", "balle2018-factorized", _BALLE_2018, {**_LARGE, **_RELU}),
        Row("balle2018", "balle2018", _BALLE_2018, _SMALL, COMPRESSAI_LAMBDAS[:5]),
        Row("balle2018-large", "balle2018", _BALLE_2018, _LARGE, COMPRESSAI_LAMBDAS[5:]),
        Row("minnen2018-mean", "minnen2018-mean", _MINNEN, _SMALL, COMPRESSAI_LAMBDAS[:4]),
        Row("minnen2018-mean-large", "minnen2018-mean", _MINNEN, _LARGE, COMPRESSAI_LAMBDAS[4:]),
        Row("minnen2018", "minnen2018", _MINNEN, {"n": 192, "m": 192}, COMPRESSAI_LAMBDAS[:4]),
        Row("minnen2018-large", "minnen2018", _MINNEN, _LARGE, COMPRESSAI_LAMBDAS[4:]),
        Row("lee2019", "lee2019", _LEE, {"n": 128, "m1": 192}, LEE_LAMBDAS[:5]),
        Row("lee2019-hybrid", "lee2019-hybrid", _LEE, {"n": 320, "m1": 192, "m2": 228}, LEE_LAMBDAS[5:7]),
        Row(
            "lee2019-hybrid-large", "lee2019-hybrid", _LEE, {"n": 400, "m1": 192, "m2": 408}, LEE_LAMBDAS[7:]
        ),
        Row("cheng2020", "cheng2020", _CHENG, {"n": 128}, HE_LAMBDAS[:3]),
        Row("cheng2020-large", "cheng2020", _CHENG, {"n": 192}, HE_LAMBDAS[3:]),
        Row("cheng2020-anchor", "cheng2020-anchor", _CHENG, {"n": 128}, COMPRESSAI_LAMBDAS[:3]),
        Row("cheng2020-anchor-large", "cheng2020-anchor", _CHENG, {"n": 192}, COMPRESSAI_LAMBDAS[3:6]),
        Row("cheng2020-attn", "cheng2020", _CHENG, {"n": 128, **_GAUSSIAN}, COMPRESSAI_LAMBDAS[:3]),
        Row("cheng2020-attn-large", "cheng2020", _CHENG, {"n": 192, **_GAUSSIAN}, COMPRESSAI_LAMBDAS[3:6]),
        Row("checkerboard-minnen2018", "checkerboard-minnen2018", _HE, _SMALL, HE_LAMBDAS),
        Row("checkerboard-minnen2018-large", "checkerboard-minnen2018", _HE, _LARGE, HE_LAMBDAS),
        Row("checkerboard-cheng2020", "checkerboard-cheng2020", _HE, {"n": 128}, HE_LAMBDAS[:3]),
        Row("checkerboard-cheng2020-large", "checkerboard-cheng2020", _HE, {"n": 192}, HE_LAMBDAS[3:]),
        Row("random-mask", "random-mask", _HE, _SMALL, HE_LAMBDAS, codes=False),
        Row("charm2020", "charm2020", _CHARM),
        Row("charm2020-all", "charm2020", _CHARM, {"max_support": -1}),
        Row("charm2020-elic-sm", "charm2020", _CHARM, _ELIC_SM),
        Row("elic2022", "elic2022", _ELIC),
        Row("elic2022-sm", "elic2022", _ELIC, _ELIC_SM),
        Row("informer2022", "informer2022", _INFORMER, {"n": 192, "m": 192}),
        Row("informer2022-large", "informer2022", _INFORMER, _LARGE),
        Row("dcvc-dc2023", "dcvc-dc2023", _DCVC),
        Row("quadtree-baseline", "quadtree-baseline", _DCVC),
        Row("dca2024", "dca2024", "Kim et al., NeurIPS 2024"),
        Row("tcm2023-small", "tcm2023", _TCM, {"n": 64}),
        Row("tcm2023-medium", "tcm2023", _TCM, {"n": 96}),
        Row("tcm2023", "tcm2023", _TCM, {"n": 128}),
        Row("tcm2023-elic-sm", "tcm2023", _TCM, _ELIC_SM),
        Row("mlicpp2023", "mlicpp2023", _MLIC),
        Row("mlicpp2023-old", "mlicpp2023", _MLIC, {"synthesis": "old", **_OLD_LRP}),
        Row("mlicpp2023-elic-sm", "mlicpp2023", _MLIC, {**_ELIC_SM, **_OLD_LRP}),
        Row("mlicpp2023-elic-sm-fixed", "mlicpp2023", _MLIC, _ELIC_SM),
    )
}


def system_class(architecture: str) -> type[System]:
    """The class of an architecture. ValueError for unknown names."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    module, name = ARCHITECTURES[architecture]
    return getattr(import_module(f"{__package__}.systems.{module}"), name)


def architecture_of(system: System) -> str:
    """The architecture whose class a system is an instance of. TypeError for other systems."""
    kind = type(system)
    here = (kind.__module__, kind.__qualname__)
    for architecture, (module, name) in ARCHITECTURES.items():
        if here == (f"{__package__}.systems.{module}", name):
            return architecture
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is no system of `registry.ARCHITECTURES`")


def make(name: str, **config: Any) -> System:
    """A new system by its name in SYSTEMS, with some arguments changed. ValueError for what isn't known.

    Weights are random; under `torch.device("meta")` there are none, and it takes no time.
    """
    if name not in SYSTEMS:
        raise ValueError(f"unknown system {name!r}; known: {', '.join(SYSTEMS)}")
    row = SYSTEMS[name]
    return new(row.architecture, {**row.config, **config})


def new(architecture: str, config: Mapping[str, Any]) -> System:
    """A system by its architecture and arguments. ValueError for those that it can't have."""
    kind = system_class(architecture)
    check_arguments(kind, config)
    return kind(**config)
