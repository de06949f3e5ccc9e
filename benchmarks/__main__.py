"""Command line of the benchmarks: `python -m benchmarks loop`, or `make bench NAME=loop`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import benchmarks
from benchmarks.coverage import CoverageScale
from benchmarks.tables import print_tables
from limbeck.errors import LimbeckError

Say = Callable[[str], None]


def run_loop(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare the engine with a hand-written PyTorch loop of the same mathematics and with other toolkits."""
    return benchmarks.bench_loop(steps=options.steps, threads=options.threads, say=say)


def run_cache(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare a cached teacher with no teacher and with a model; check that damaged cache files are detected."""
    return benchmarks.bench_cache(say=say)


def run_judging(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Measure the share of the metrics in the time of a run, and the time and size of a report of ten runs."""
    return benchmarks.bench_judging(say=say)


def run_coverage(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Simulate how often a verdict's interval holds the true difference, and how often a useless method "helps"."""
    return benchmarks.bench_coverage(scale=CoverageScale(simulations=options.simulations), say=say)


def run_images(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare random crops with torchvision's; measure how long a busy device waits for decoded images."""
    return benchmarks.bench_images(torchvision_python=options.torchvision_python, say=say)


def run_kernels(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare losses with their fastest form in plain PyTorch, with plain KL, and with those of other toolkits."""
    if options.shape:
        return benchmarks.bench_kernels(shapes=[parse_shape(text) for text in options.shape], features=(), say=say)
    result: dict[str, Any] = {}
    for part, bench in _kernel_parts().items():
        if options.part in (None, part):
            result |= bench(say=say)
    return result


def _kernel_parts() -> dict[str, Callable[..., dict[str, Any]]]:
    return {
        "plain": benchmarks.bench_kernels,
        "cards": benchmarks.bench_card_kernels,
        "peers": benchmarks.bench_peer_kernels,
    }


def run_head(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare losses of an output layer without all its logits with dense PyTorch and other toolkits."""
    return benchmarks.bench_head(rounds=options.rounds, say=say)


def run_lm_step(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare training steps of a language model with and without its logits, and with a stored teacher or none."""
    return benchmarks.bench_lm_step(rounds=options.rounds, say=say)


def run_token_bytes(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare the bytes of a stored token with other toolkits' formats at equal KL error."""
    return benchmarks.bench_token_bytes(say=say)


def run_on_policy(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare an on-policy step of GKD with that of TRL's GKDTrainer: time and memory."""
    return benchmarks.bench_on_policy(rounds=options.rounds, say=say)


def run_tokenizers(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare students of a teacher with another tokenizer, in bits per byte: alone, with ULD, with ALM."""
    return benchmarks.bench_tokenizers(seeds=options.seeds, say=say)


def run_several(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare what several live teachers add to a step with their forward passes alone."""
    return benchmarks.bench_several(say=say)


def run_networks(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare the reference networks with their channels last in memory with PyTorch's default order."""
    return benchmarks.bench_networks(say=say)


BENCHMARKS: Mapping[str, Callable[[argparse.Namespace, Say], dict[str, Any]]] = {
    "loop": run_loop,
    "cache": run_cache,
    "judging": run_judging,
    "coverage": run_coverage,
    "images": run_images,
    "kernels": run_kernels,
    "head": run_head,
    "token_bytes": run_token_bytes,
    "lm_step": run_lm_step,
    "on_policy": run_on_policy,
    "tokenizers": run_tokenizers,
    "several": run_several,
    "networks": run_networks,
}


def parse_shape(text: str) -> tuple[int, int]:
    """Parse rows and classes, such as 2048x32000."""
    rows, _, classes = text.partition("x")
    if not (rows.isdecimal() and classes.isdecimal()):
        raise LimbeckError(f"--shape is rows x classes, such as 2048x32000; got {text!r}.")
    return int(rows), int(classes)


def make_parser() -> argparse.ArgumentParser:
    """The parser: one command for each benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks; the figures are JSON.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    parsers = {name: commands.add_parser(name, help=run.__doc__) for name, run in BENCHMARKS.items()}
    for command in parsers.values():
        command.add_argument("--table", action="store_true", help="Print tables beside the bars instead of JSON.")
    parsers["loop"].add_argument("--steps", type=int, default=500, help="Timed steps of each loop.")
    parsers["loop"].add_argument("--threads", type=int, help="CPU threads; PyTorch's choice by default.")
    parsers["coverage"].add_argument("--simulations", type=int, default=1000, help="Simulations in each row.")
    parsers["images"].add_argument("--torchvision-python", help="An interpreter that has torchvision.")
    parsers["kernels"].add_argument(
        "--shape", action="append", help="Rows and classes instead of the usual ones, 2048x32000; may be repeated."
    )
    parsers["kernels"].add_argument(
        "--part", choices=_kernel_parts(), help="Only the comparison with plain PyTorch, of all cards, or with peers."
    )
    parsers["head"].add_argument("--rounds", type=int, default=3, help="How often each is measured.")
    parsers["lm_step"].add_argument("--rounds", type=int, default=5, help="How often each step is measured.")
    parsers["on_policy"].add_argument("--rounds", type=int, default=5, help="How often each step is measured.")
    parsers["tokenizers"].add_argument("--seeds", type=int, default=3, help="Students of each kind.")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark and print its figures; the exit code is 1 if an argument is wrong."""
    options = make_parser().parse_args(arguments)
    try:
        result = BENCHMARKS[options.name](options, lambda text: print(text, file=sys.stderr, flush=True))
    except LimbeckError as error:
        print(error, file=sys.stderr)
        return 1
    if options.table:
        print_tables(options.name, result)
    else:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
