"""He 2021's random-mask experiment: what rate each context mask saves, all masks on the same latents.

    python bench/random_mask.py TRAIN_FOLDER EVAL_FOLDER [--steps N] [--json FILE] [--plot FILE]

He et al., "Checkerboard context model for efficient learned image compression", CVPR 2021, sections 4.1, 4.2
and 5.1: Figure 4, Table 1 and equation 7. Transforms and priors of a trained Minnen 2018 stay as they are;
the context's convolution, of all 24 taps, and the head are trained on, each step under a new random mask.
Rates are the model's estimates, -log2 of its densities: nothing is coded, and nothing could be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quadrans.bench.random_mask_training import Latent, Run, Settings, analyse, mean_rate, rates, read_photos
from quadrans.nets.codec import build
from quadrans.nets.files import check_writable, write_file
from quadrans.nets.quantizer import GIVEN
from quadrans.nets.system import System
from quadrans.nets.systems.he2021 import KERNEL, TABLE_1, RandomMask, rate_saving, single_reference_masks
from quadrans.nets.weights import DEFAULT_MODEL, Weights, find_weights

PAPER: Mapping[str, tuple[float, float]] = {
    "none": (0.4332, 0.0),
    "serial 3x3": (0.3928, 0.093),
    "serial 5x5": (0.3817, 0.119),
    "checkerboard 3x3": (0.3651, 0.157),
    "checkerboard 5x5": (0.3648, 0.158),
    "all of 3x3": (0.3649, 0.158),
}
"""(bits per pixel, saving) of Table 1, on Kodak."""

DIFFERENCES = (
    "The paper trains transforms, priors, context and head together under random masks. Here transforms and "
    "priors are frozen, trained before under the masks of the model's own coding orders; context and head "
    "start from those weights, so that the taps of those masks have a lead.",
    "N, M, lambda and rate aren't the paper's.",
    "Fewer steps and photos than the paper's 2 million steps on 8000 photos. Training's densities are of "
    "rounded latents, in place of noisy ones.",
    "A random mask is hardly ever empty or of a single tap: Figure 4 and the rate without context, which all "
    "savings are relative to, are what the shared weights make of masks that they weren't trained for. So it "
    "is in the paper. start_bpp has the rates of the model before, in coding orders that it was trained for.",
    "The frozen transforms may have seen some of the training photos, but none of the measured ones.",
)

HELD_OUT = 16
"""Of so many photos of the training folder, the last isn't trained on but watched."""


def load(weights: Weights) -> tuple[RandomMask, System]:
    """The random-mask model that starts from a Minnen 2018, and the latter. ValueError for other weights."""
    system = build(weights)
    if weights.architecture != "minnen2018" or system.config["rounding"] != "integer":
        raise ValueError(f"{weights.name} is a {weights.architecture}; a minnen2018 of integers is needed")
    model = RandomMask(system.config["n"], system.config["m"])
    model.load_state_dict(system.state_dict())
    model.channels_last().requires_grad_(False)
    return model, system


@torch.no_grad()
def order_rates(system: System, latents: Sequence[Latent]) -> dict[str, float]:
    """Bits per pixel of the system that the run starts from, in each of its own coding orders."""
    entropy = system.parts()["y"].model
    return {
        order: mean_rate(latents, lambda y, f, order=order: entropy.forward(y, f, GIVEN, order).bits.sum())
        for order in entropy.orders
    }


def experiment(model: RandomMask, latents: Sequence[Latent]) -> dict[str, Any]:
    """Table 1 and Figure 4: bits per pixel and saving under each mask."""
    single = {f"{row} {col}": ((row, col), mask) for (row, col), mask in single_reference_masks()}
    found = rates(model, latents, {**TABLE_1, **{name: mask for name, (_, mask) in single.items()}})
    table = {
        name: {
            "taps": int(mask.sum()),
            "bpp": found[name],
            "saving": rate_saving(found[name], found["none"]),
            "paper_bpp": PAPER[name][0],
            "paper_saving": PAPER[name][1],
        }
        for name, mask in TABLE_1.items()
    }
    figure = [
        {
            "row": row,
            "col": col,
            "distance": math.hypot(row, col),
            "bpp": found[name],
            "saving": rate_saving(found[name], found["none"]),
        }
        for name, ((row, col), _) in single.items()
    ]
    return {"table_1": table, "figure_4": figure}


def draw(figure: Sequence[Mapping[str, float]], path: Path) -> None:
    """Figure 4 as a PNG: the saving of each single reference, in percent, at its tap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    middle = KERNEL // 2
    savings = np.full((KERNEL, KERNEL), np.nan)
    for tap in figure:
        savings[int(tap["row"]) + middle, int(tap["col"]) + middle] = 100 * tap["saving"]
    canvas = Figure(figsize=(4.2, 4.2), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    top = np.nanmax(savings)
    axes.imshow(savings, cmap="Blues", vmin=0, vmax=top)
    for (row, col), saving in np.ndenumerate(savings):
        text = "y" if np.isnan(saving) else f"{saving:.2f} %"
        color = "white" if saving > 0.6 * top else "black"
        axes.text(col, row, text, ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(KERNEL), [f"{i - middle:+d}" if i != middle else "0" for i in range(KERNEL)])
    axes.set_yticks(range(KERNEL), [f"{i - middle:+d}" if i != middle else "0" for i in range(KERNEL)])
    axes.set_title("Rate saved by one neighbor alone", fontsize=11)
    canvas.savefig(path, dpi=130, format="png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("eval", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--threads", type=int, default=1, help="another number, other roundings")
    parser.add_argument("--checkpoint", type=Path, help="written at each check; an existing one is taken up")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    for path in filter(None, (options.checkpoint, options.json, options.plot)):
        check_writable(path, force=True)
    if options.plot and not importlib.util.find_spec("matplotlib"):
        raise ImportError("the plot needs matplotlib: pip install 'quadrans[bench]'")
    torch.set_num_threads(options.threads)
    settings = Settings(steps=options.steps, seed=options.seed)
    weights = find_weights(options.model)
    model, system = load(weights)
    latents: list[Latent] = []
    watched: list[Latent] = []
    for i, x in enumerate(read_photos(options.train, model.multiple)):
        if i % HELD_OUT == HELD_OUT - 1:
            watched.append(analyse(model, x))
        else:
            latents += [analyse(model, x), analyse(model, x.flip(3))]
    run = Run(model, latents, watched, settings, options.checkpoint)
    run.train()
    measured = [analyse(model, x) for x in read_photos(options.eval, model.multiple)]
    result = experiment(model, measured)
    for name, row in result["table_1"].items():
        print(f"{name:16} {row['bpp']:.4f} {row['saving']:6.1%}", end="   ")
        print(f"paper {row['paper_bpp']:.4f} {row['paper_saving']:6.1%}")
    for tap in result["figure_4"]:
        print(f"{tap['row']:+d} {tap['col']:+d} {tap['saving']:6.2%}")
    if options.json:
        text = {
            "model": {"name": weights.name, "digest": weights.digest.hex(), "config": dict(weights.config)},
            "training": {
                **asdict(settings),
                "latents": len(latents),
                "watched": len(watched),
                "curve": run.curve,
            },
            "photos": len(measured),
            "side_bpp": float(np.mean([latent.side_bits / latent.pixels for latent in measured])),
            "start_bpp": order_rates(system, measured),
            **result,
            "differences": DIFFERENCES,
        }
        data = json.dumps(text, indent=1) + "\n"
        write_file(options.json, lambda path: path.write_text(data), force=True)
    if options.plot:
        write_file(options.plot, lambda path: draw(result["figure_4"], path), force=True)


if __name__ == "__main__":
    main()
