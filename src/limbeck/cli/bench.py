"""Which benchmarks can be typed?"""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.cli.options import Json
from limbeck.cli.terminal import CommandGroup

bench = CommandGroup(no_args_is_help=True, help="Our speed beside others', measured in one run.")


@bench.command("loop")
def bench_loop(
    as_json: Json = False,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each loop.")] = 500,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; PyTorch's choice by default.")] = None,
) -> None:
    """The engine beside a hand-written PyTorch loop of the same mathematics, interleaved."""
    from limbeck.cli.benches import run_loop_bench

    run_loop_bench(as_json=as_json, steps=steps, threads=threads)


@bench.command("cache")
def bench_cache(as_json: Json = False) -> None:
    """A student of stored answers beside one with none and one of a live teacher; and what a store notices."""
    from limbeck.cli.benches import run_cache_bench

    run_cache_bench(as_json=as_json)


@bench.command("judging")
def bench_judging(as_json: Json = False) -> None:
    """What measuring adds to a run's time, and how long a page about ten runs takes and weighs."""
    from limbeck.cli.benches import run_judging_bench

    run_judging_bench(as_json=as_json)


@bench.command("coverage")
def bench_coverage(
    as_json: Json = False,
    simulations: Annotated[int, typer.Option(min=1, help="Of each row of both tables.")] = 1000,
) -> None:
    """How often a verdict's interval holds the truth on unseen data, and how often methods that do nothing "help"."""
    from limbeck.cli.benches import run_coverage_bench

    run_coverage_bench(as_json=as_json, simulations=simulations)


@bench.command("pictures")
def bench_pictures(
    as_json: Json = False,
    torchvision_python: Annotated[
        str | None, typer.Option(help="An interpreter that has torchvision; this one by default.")
    ] = None,
) -> None:
    """Crops beside torchvision's; and how long a busy device waits for pictures to be decoded."""
    from limbeck.cli.benches import run_picture_bench

    run_picture_bench(as_json=as_json, torchvision_python=torchvision_python)


@bench.command("kernels")
def bench_kernels(
    as_json: Json = False,
    shape: Annotated[
        list[str] | None, typer.Option(help="Rows and classes in place of the usual ones, 2048x32000; may be repeated.")
    ] = None,
) -> None:
    """Losses beside the quickest way to write them in plain PyTorch: time and memory, forward and backward."""
    from limbeck.cli.benches import run_kernel_bench

    run_kernel_bench(as_json=as_json, shapes=shape or [])
