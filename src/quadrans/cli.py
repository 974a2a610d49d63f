"""The command line: each command names files, shows progress, and turns errors into exit codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache, partial
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from . import __version__
from .cli_bench import bench
from .console import Force, clean, console, errors, fail_if, progress_bar, reported, wide
from .nets.container import ORDERS, Container, check_name
from .nets.files import check_writable, write_file
from .nets.images import IMAGE_SUFFIXES, read_image, write_image
from .nets.weights import DEFAULT_MODEL, DIGEST_SHOWN, bundled_weights, find_weights

if TYPE_CHECKING:
    from .entropy import Report
    from .nets.codec import ImageCodec
    from .nets.weights import Weights

app = typer.Typer(
    help="Learned image compression with exact decoding.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")

Inputs = Annotated[
    list[Path], typer.Argument(help="Files, or folders whose files are taken.", metavar="PATH")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Output file; with a folder or several files as input, the folder to write to."
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", help="A bundled model's name, or a .safetensors path.")]
FileModel = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A .safetensors path, if a file's model is not bundled."),
]
Device = Annotated[
    str,
    typer.Option(help="torch device of the transforms; on a CUDA device what is exact runs too, by CuPy."),
]
Exact = Annotated[
    str | None,
    typer.Option("--exact", help="cpu: with the transforms on a CUDA device, run what is exact on the CPU."),
]


def _version(show: bool) -> None:
    if show:
        console.print(f"quadrans {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Learned image compression with exact decoding."""


def _expand(inputs: list[Path], suffixes: frozenset[str]) -> list[Path]:
    """Files as they were named, and of each folder the files with one of the suffixes; each file once."""
    files = []
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and p.is_file())
            if not found:
                raise FileNotFoundError(f"{path} holds no {' or '.join(sorted(suffixes))} file")
            files += found
        else:
            if path.exists() and not path.is_file():
                raise OSError(f"{path} is neither a file nor a folder")
            files.append(path)
    return list(dict.fromkeys(files))


def _destinations(
    inputs: list[Path], files: list[Path], output: Path | None, suffix: str, force: bool
) -> list[Path]:
    """Where each file goes: beside it, into the folder `output`, or, if it is alone, to `output` itself."""
    if output is None:
        targets = [path.with_suffix(suffix) for path in files]
    elif output.is_dir() or len(files) > 1 or inputs[0].is_dir():
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"{output} is a file, not a folder for {len(files)} outputs")
        targets = [output / path.with_suffix(suffix).name for path in files]
        output.mkdir(parents=True, exist_ok=True)
    else:
        if output.suffix.lower() != suffix:
            raise ValueError(f"{output} must end in {suffix}, which is what will be in it")
        targets = [output]
    sources: dict[Path, Path] = {}
    for path, target in zip(files, targets, strict=True):
        if (other := sources.setdefault(target.resolve(), path)) != path:
            raise ValueError(f"{other} and {path} would both become {target}")
        if target.resolve() == path.resolve():
            raise ValueError(f"{path} would be overwritten by its own output")
        check_writable(target, force)
    return targets


def _convert(
    inputs: list[Path],
    output: Path | None,
    suffixes: frozenset[str],
    target_suffix: str,
    force: bool,
    prepare: Callable[[], Callable[[Path, Path], str]],
) -> None:
    """Convert all inputs with a progress bar; go on after a failure and exit with 2 at the end."""
    with reported() as failed:
        files = _expand(inputs, suffixes)
        targets = _destinations(inputs, files, output, target_suffix, force)
        convert = prepare()
    fail_if(failed)
    outcomes = []
    with progress_bar(len(files) < 2) as progress:
        task = progress.add_task("", total=len(files))
        for path, target in zip(files, targets, strict=True):
            with reported(path) as failed:
                progress.console.print(clean(f"{target}: {convert(path, target)}"))
            outcomes += failed
            progress.advance(task)
    fail_if(outcomes)


def _codec(weights: Weights, device: str, exact: str | None) -> ImageCodec:
    """The codec, imported here: torch takes a second or two that the light commands need not spend."""
    from .nets.codec import ImageCodec

    return ImageCodec(weights, device, exact=exact)


def _codecs(model: str | None, device: str, exact: str | None = None) -> Callable[[Container], ImageCodec]:
    """What finds the codec of a file: the model's, or else the bundled one that the file names."""
    given = None if model is None else _codec(find_weights(model), device, exact)
    bundled = cache(lambda name: _codec(bundled_weights(name), device, exact))
    return lambda container: given or bundled(container.model)


@app.command()
def compress(
    inputs: Inputs,
    output: Output = None,
    model: Model = DEFAULT_MODEL,
    order: Annotated[
        str | None,
        typer.Option(
            help=f"Coding order, of those that the model has: {', '.join(ORDERS)}; its own if not given."
        ),
    ] = None,
    device: Device = "cpu",
    exact: Exact = None,
    force: Force = False,
) -> None:
    """Compress photos to .qdr files."""

    def prepare() -> Callable[[Path, Path], str]:
        if order not in (None, *ORDERS):
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        codec = _codec(find_weights(model), device, exact)

        def convert(path: Path, target: Path) -> str:
            photo = read_image(path)
            data = codec.compress(photo.pixels, order)
            write_file(target, lambda temporary: temporary.write_bytes(data), force)
            height, width = photo.pixels.shape[:2]
            notes = "".join(f", {note}" for note in photo.notes)
            return f"{width}x{height}, {len(data)} bytes, {8 * len(data) / (width * height):.3f} bpp{notes}"

        return convert

    _convert(inputs, output, IMAGE_SUFFIXES, ".qdr", force, prepare)


@app.command()
def decompress(
    inputs: Inputs,
    output: Output = None,
    model: FileModel = None,
    device: Device = "cpu",
    exact: Exact = None,
    force: Force = False,
) -> None:
    """Decompress .qdr files to PNG."""

    def prepare() -> Callable[[Path, Path], str]:
        codec_of = _codecs(model, device, exact)

        def convert(path: Path, target: Path) -> str:
            container = Container.from_bytes(path.read_bytes())
            codec = codec_of(container)
            y_hat = codec.decode(container).y
            pixels = codec.synthesise(y_hat, container.width, container.height)
            write_file(target, lambda temporary: write_image(temporary, pixels), force)
            return f"{container.width}x{container.height}"

        return convert

    _convert(inputs, output, frozenset({".qdr"}), ".png", force, prepare)


@app.command()
def info(
    inputs: Inputs,
    bits: Annotated[
        bool, typer.Option("--bits", help="Decode the latents, and show where their bits went.")
    ] = False,
    model: FileModel = None,
) -> None:
    """Show what .qdr files hold, after checking their checksums."""
    with reported() as failed:
        files = _expand(inputs, frozenset({".qdr"}))
    fail_if(failed)
    outcomes = []
    codec_of = cache(lambda: _codecs(model, "cpu"))
    for path in files:
        with reported(path) as failed:
            data = path.read_bytes()
            container = Container.from_bytes(data)
            table = Table(title=clean(str(path)), title_justify="left", show_header=False)
            pixels = container.width * container.height
            sections = sum(map(len, container.sections.values()))
            for row in (
                ("image", f"{container.width}x{container.height} RGB"),
                ("file", f"{len(data)} bytes, {8 * len(data) / pixels:.4f} bpp"),
                ("model", f"{container.model}, weights {container.weight_digest.hex()}"),
                ("tables", container.table_digest.hex()),
                ("coding order", container.order),
                ("header", f"{len(data) - sections} bytes"),
                *((f"latent {name}", f"{len(one)} bytes") for name, one in container.sections.items()),
            ):
                table.add_row(*row)
            console.print(table)
            if bits:
                console.print(_account(_reports(codec_of()(container), container)))
        outcomes += failed
    fail_if(outcomes)


def _reports(codec: ImageCodec, container: Container) -> dict[str, Report]:
    inspection = codec.inspect(container)
    # Where what is decoded is refined, only an encoder knows what the network's densities say.
    known = not codec.system.refines
    bits = codec.model_bits(inspection.latents, inspection.latents, container.order) if known else {}
    return {name: section.report(bits.get(name)) for name, section in inspection.sections.items()}


def _account(reports: dict[str, Report]) -> Table:
    """Where the bits of streams went, in bytes."""
    table = Table(title="bytes", title_justify="left")
    table.add_column("")
    for name in reports:
        table.add_column(name, justify="right")

    def row(label: str, entries: Iterable[str]) -> None:
        table.add_row(label, *entries)

    all_ = reports.values()
    row("by the network's densities", [_bytes_of(r.ideal_bits) for r in all_])
    row("+ integers of the coder", [_bytes_of(r.table_loss) for r in all_])
    row("+ states of the coder", [f"{r.state_loss / 8:.1f}" for r in all_])
    row("+ header of the stream", [f"{r.header_bits / 8:.1f}" for r in all_])
    row("= stream", [f"{r.bits // 8}" for r in all_])
    table.add_section()
    row("symbols", [f"{r.symbols}" for r in all_])
    row("of them escapes", [f"{r.escapes}, {r.escape_bits / 8:.1f} bytes" for r in all_])
    row("groups x lanes", [f"{r.groups} x {r.lanes}" for r in all_])
    return table


def _bytes_of(bits: float | None) -> str:
    return "unknown" if bits is None else f"{bits / 8:.1f}"


@app.command()
def models(
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the systems of the literature that can be trained, and the bundled models."""
    with reported() as failed:
        from .nets.listing import bundled, systems

        rows, trained = systems(), bundled()
        if json:
            content = {"systems": [asdict(row) for row in rows], "bundled": [asdict(row) for row in trained]}
            typer.echo(dumps(content, indent=1))
            return
        table = Table(title="systems", title_justify="left")
        for column in ("name", "paper", "parameters", "order", "steps at 768x512"):
            numbers = column.startswith(("parameters", "steps"))
            table.add_column(column, justify="right" if numbers else "left")
        for row in rows:
            table.add_row(row.name, row.paper, f"{row.parameters:,}", row.order, str(row.steps or "no codec"))
        wide().print(table)
        for model in trained:
            table = Table(title=f"bundled: {model.name}", title_justify="left", show_header=False)
            table.add_row("architecture", model.architecture)
            table.add_row("weights", f"{model.bytes} bytes, digest {model.digest}")
            for key, value in sorted(model.info.items()):
                table.add_row(key, value)
            console.print(table)
    fail_if(failed)


@app.command()
def train(
    photos: Annotated[Path, typer.Argument(help="A folder of photos, searched with its subfolders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of checkpoint, log and weights.")],
    name: Annotated[
        str, typer.Option(help="Name of the model, written into every file made with it.")
    ] = "custom",
    system: Annotated[
        str, typer.Option(help="A system's name, as `quadrans models` lists them.")
    ] = "minnen2018",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: another value, as JSON, of one of the system's arguments."),
    ] = None,
    lmbda: Annotated[
        float | None,
        typer.Option(
            help="Weight of the distortion: more is better and bigger; with lee2019*, of the rate: more is "
            "worse and smaller. If not given, the middle one of the system's own; ms-ssim needs it, such as "
            "8.73."
        ),
    ] = None,
    distortion: Annotated[str, typer.Option(help="mse, or ms-ssim.")] = "mse",
    surrogate: Annotated[
        str, typer.Option(help="What stands for rounding: noise, straight-through or mixed.")
    ] = "mixed",
    orders: Annotated[
        str | None, typer.Option(help="Coding orders, each step drawing one: wavefront,checkerboard.")
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Steps in all; the learning rate follows the schedule.")
    ] = 200_000,
    batch: Annotated[int, typer.Option(help="Crops in a step, of each process.")] = 8,
    crop: Annotated[int, typer.Option(help="Side of the training crops.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 1e-4,
    schedule: Annotated[str, typer.Option(help="cosine, constant, lee2019, he2021 or dca2024.")] = "cosine",
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from, for fine-tuning: a bundled model's name or a .safetensors path, of "
            "the same architecture and shapes."
        ),
    ] = None,
    auxiliary: Annotated[
        bool, typer.Option("--auxiliary", help="Train the priors' quantiles, and so their medians.")
    ] = False,
    ema: Annotated[float, typer.Option(help="Decay of a moving average of the weights; 0: none.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of weights, crops, noise and coding orders.")] = 0,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 for mixed precision.")] = "float32",
    export: Annotated[
        str, typer.Option(help="Precision of the weight file: float16 or float32.")
    ] = "float16",
    device: Annotated[str | None, typer.Option(help="torch device; CUDA if there is one.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
) -> None:
    """Train a system on a folder of photos. Run the same command again to resume after an interruption.

    --init starts from weights instead of random numbers, with the schedule and all else from the
    beginning; a run that was started from others is not resumed.

    Under `accelerate launch -m quadrans train ...` several processes train together.
    """
    with reported() as failed:
        from .nets.export import PRECISIONS, export_weights
        from .nets.photos import Photos
        from .nets.training import Metrics, TrainConfig, Trainer, default_lmbda, distributed
        from .nets.weights import write_weights

        check_name(name)
        if export not in PRECISIONS:
            raise ValueError(f"export must be one of {', '.join(PRECISIONS)}, not {export!r}")
        config = TrainConfig(
            system=system,
            config=_values(set_ or []),
            lmbda=default_lmbda(system, distortion) if lmbda is None else lmbda,
            distortion=distortion,
            surrogate=surrogate,
            orders=tuple(orders.split(",")) if orders else (),
            steps=steps,
            batch=batch,
            crop=crop,
            learning_rate=learning_rate,
            schedule=schedule,
            auxiliary=auxiliary,
            ema=ema,
            seed=seed,
            precision=precision,
        )
        start = None if init is None else find_weights(init)
        found = Photos(photos, crop)
        trainer = Trainer(config, found, output, device, distributed(), start)
        out = console if trainer.leads else Console(quiet=True)
        out.print(
            f"{len(found.paths)} photos, {len(found.skipped)} skipped; from step {trainer.step} of {steps}"
        )
        started, first = time.monotonic(), trainer.step
        with progress_bar(not trainer.leads) as progress:
            task = progress.add_task("", total=steps, completed=trainer.step)
            recent: list[Metrics] = []
            for metrics in trainer.run(checkpoint_every):
                recent = [*recent[-99:], metrics]
                loss, bpp, error = (
                    sum(getattr(r, key) for r in recent) / len(recent)
                    for key in ("loss", "total_bpp", "distortion")
                )
                line = f"loss {loss:.4f}  bpp {bpp:.4f}  {distortion} {error:.4f}"
                progress.update(task, advance=1, description=line)
                if metrics.step % 100 == 99 and not console.is_terminal:
                    speed = (trainer.step - first) / (time.monotonic() - started)
                    out.print(f"step {metrics.step + 1}/{steps}  {line}  {speed:.1f} steps/s")
        if trainer.leads:
            info = {
                "training": f"{steps} steps of {batch} crops of {crop}x{crop}, seed {seed}, {precision}",
                "system": system,
                "lambda": f"{config.lmbda}, {distortion}",
            }
            if start is not None:
                info["started from"] = f"{start.name}, weights {start.digest[:DIGEST_SHOWN].hex()}"
            path = output / f"{name}.safetensors"
            write_weights(path, export_weights(trainer.exported, name, info, export))
            out.print(f"{path}: {path.stat().st_size} bytes")
    fail_if(failed)


def _values(settings: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs, the values in JSON, or as they are where they are none."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not (key.isidentifier() and equals):
            raise ValueError(f"{setting!r} is not like n=192")
        try:
            values[key] = loads(text)
        except ValueError:
            values[key] = text
    return values


@app.command("eval")
def evaluate(
    inputs: Inputs,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A bundled model's name or a .safetensors path; CURVE=MODEL names its curve. Repeatable.",
        ),
    ] = None,
    order: Annotated[str | None, typer.Option(help="Coding order; each model's own if not given.")] = None,
    reference: Annotated[
        str, typer.Option(help="Codecs of Pillow to compare with, or none.")
    ] = "jpeg,jpeg2000,webp",
    anchor: Annotated[
        str | None, typer.Option(help="Curve against which the others' BD-rates are taken.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="JSON file: everything that was measured.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file: a line for each photo and point.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to plot the curves to.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures: bits, and normalized latents of each step.")
    ] = None,
    device: Device = "cpu",
    exact: Exact = None,
    threads: Annotated[int | None, typer.Option(help="Of torch and the exact part; torch's default.")] = None,
    force: Force = False,
) -> None:
    """Code and decode photos: real bytes, PSNR, MS-SSIM, times, as curves beside Pillow's codecs."""
    with reported() as failed:
        from .nets.evaluation import packages
        from .nets.evaluation.curves import bd_rates, curves
        from .nets.evaluation.pictures import rate_distortion
        from .nets.evaluation.report import as_csv, as_json, bd_table, means_table
        from .nets.evaluation.run import Evaluator

        for path in (json, csv, plot):
            if path:
                check_writable(path, force)
        if plot:
            packages.check("matplotlib")
        photos, chosen = _expand(inputs, IMAGE_SUFFIXES), [DEFAULT_MODEL] if model is None else model
        evaluator = Evaluator(
            photos, chosen, order, reference, anchor, device, threads, pictures, force, exact
        )
        for name, reason in evaluator.left_out.items():
            errors.print(f"quadrans: {name} is left out: {reason}")
        with progress_bar() as progress:
            task = progress.add_task("", total=evaluator.total)
            found = evaluator.run(lambda done: progress.update(task, advance=1, description=clean(done)))
        means = curves(found.rows)
        rates = [] if anchor is None else bd_rates(means, anchor)
        wide().print(means_table(means))
        if anchor is not None:
            wide().print(bd_table(rates, anchor))
        for line in dict.fromkeys(one.reason for one in rates if one.reason):
            console.print(f"no BD-rate: {line}")
        for path, text in ((json, as_json(found, means, rates)), (csv, as_csv(found.rows))):
            if path:
                write_file(path, partial(Path.write_text, data=text, encoding="utf-8"), force)
        if plot:
            write_file(plot, lambda path: rate_distortion(path, means, evaluator.references), force)
    fail_if(failed)


@app.command()
def demo(
    photo: Annotated[Path | None, typer.Argument(help="A photo; one of scikit-image's if not given.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the .qdr file and the picture.")
    ] = Path("demo-out"),
    model: Model = DEFAULT_MODEL,
    force: Force = False,
) -> None:
    """Compress a photo in every coding order, decode each, and show that the latents agree to the bit."""
    with reported() as failed:
        from .nets.demo import run_demo

        run_demo(find_weights(model), photo, output, force, console)
    fail_if(failed)
