"""The commands `quadrans bench ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Force, fail_if_any, reported, wide

bench = typer.Typer(help="Measure the coders, and decoding as a whole.", no_args_is_help=True)


@bench.command("coder")
def bench_coder(
    workload: Annotated[
        list[str] | None, typer.Option("--workload", "-w", help="Names or patterns; all by default.")
    ] = None,
    coder: Annotated[
        list[str] | None,
        typer.Option("--coder", "-c", help="Names or patterns, such as 'lanes*'; all by default."),
    ] = None,
    symbols: Annotated[
        list[int] | None, typer.Option("--symbols", "-n", help="Sizes, instead of each workload's own.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Runs whose median is taken.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads, where a coder can use several.")] = 1,
    json: Annotated[Path | None, typer.Option(help="File to write all rows to.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to plot the speeds to.")] = None,
    force: Force = False,
) -> None:
    """Measure our coders and the installed peers on the same workloads. -w, -c and -n may be repeated."""
    wrong: list[str] = []
    with reported() as failed:
        from .bench.coder import run_benchmark

        selected = workload or [], coder or [], symbols or []
        wrong = run_benchmark(*selected, runs, threads, json, plot, force, wide())
    fail_if_any(failed, wrong)


@bench.command("decode")
def bench_decode(
    order: Annotated[
        list[str] | None,
        typer.Option("--order", "-o", help="Names or patterns, such as '*checkerboard'; all by default."),
    ] = None,
    decoder: Annotated[
        list[str] | None, typer.Option("--decoder", "-d", help="Names or patterns; all by default.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Of images: 256,512 or 768x512, in pixels.")] = "768x512",
    threads: Annotated[str, typer.Option(help="Numbers of threads to decode with: 1,2.")] = "1",
    runs: Annotated[int, typer.Option(help="Runs whose median is taken.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda or all.")] = "cpu",
    channels: Annotated[str, typer.Option(help="N,M of the networks with random weights.")] = "192,192",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Trained weights instead: a bundled name or a .safetensors path."),
    ] = None,
    photo: Annotated[
        Path | None, typer.Option(help="What --model codes; one of scikit-image's if not given.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File to write all rows to.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to plot the times over sizes to.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write bench/results/DEVICE.json for each device.")
    ] = False,
    force: Force = False,
) -> None:
    """Measure decoding from z to y_hat in every coding order, beside serial decoders of today."""
    wrong: list[str] = []
    with reported() as failed:
        from .bench.decode import run_benchmark

        wrong = run_benchmark(
            *(order or [], decoder or [], sizes, threads, runs, device, channels, model, photo),
            *(json, plot, record, force, wide()),
        )
    fail_if_any(failed, wrong)


@bench.command("systems")
def bench_systems(
    system: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            "-s",
            help="Names or patterns, such as 'cheng*'; if not given one of each architecture.",
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option("--table", "-t", help="counts, systems, he2021, dca2024; with --system the first two."),
    ] = None,
    size: Annotated[str, typer.Option(help="Of the systems' image: 256 or 768x512, in pixels.")] = "768x512",
    threads: Annotated[str, typer.Option(help="Numbers of threads: 1,2.")] = "1",
    runs: Annotated[int, typer.Option(help="Runs whose median is taken.")] = 3,
    json: Annotated[Path | None, typer.Option(help="File to write all rows to.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write bench/results/systems-CPU.json.")] = False,
    force: Force = False,
) -> None:
    """Count all systems, time them at their published sizes, and put the papers' times beside ours."""
    wrong: list[str] = []
    with reported() as failed:
        from .bench.systems import run_benchmark

        wrong = run_benchmark(system or [], table or [], size, threads, runs, json, record, force, wide())
    fail_if_any(failed, wrong)


@bench.command("adapters")
def bench_adapters(
    table: Annotated[
        list[str] | None,
        typer.Option("--table", "-t", help="Names or patterns, such as 'torchac*'; all by default."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of the image, 768x512, instead of each table's own.")
    ] = None,
    channels: Annotated[str, typer.Option(help="N,M of the models.")] = "192,192",
    symbols: Annotated[int, typer.Option(help="Symbols of torchac's tables.")] = 491_520,
    runs: Annotated[int, typer.Option(help="Runs whose median is taken.")] = 3,
    json: Annotated[Path | None, typer.Option(help="File to write all rows to.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write bench/results/adapters-CPU.json.")] = False,
    force: Force = False,
) -> None:
    """Measure CompressAI and torchac as they are and through our adapters, and EntropyBackend."""
    wrong: list[str] = []
    with reported() as failed:
        from .bench.adapters import run_benchmark

        wrong = run_benchmark(table or [], size, channels, symbols, runs, json, record, force, wide())
    fail_if_any(failed, wrong)
