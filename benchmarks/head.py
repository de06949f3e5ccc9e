"""Benchmark of an output layer's losses beside dense PyTorch and other toolkits: time, memory and error."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.head_contenders import (
    LOSSES,
    Contender,
    HeadShape,
    Problem,
    compute_bare,
    find_peers,
    make_problem,
    sum_dense,
    sum_fused,
    sum_gathered,
)
from limbeck.errors import LimbeckError
from limbeck.functional.fused_linear import CHUNK
from limbeck.metrics.compute import peak_on_cpu

_NARROW = {
    "kl": {"bare": 1.25, "trl": 0.22, "liger": 0.42, "unsloth": 1.0},
    "jsd": {"bare": 1.4, "trl": 0.15, "liger": 0.2, "unsloth": 1.0},
    "top-64": {"dense": 0.26},
}
SHAPES = (
    HeadShape("A", 1024, 128, 256, 50_257, _NARROW),
    HeadShape("A, long", 8192, 128, 256, 50_257, _NARROW),
    HeadShape("B", 512, 512, 2048, 32_000, {"kl": {"bare": 1.10}, "jsd": {"bare": 1.15}}),
)
"""A small language model with the vocabulary of GPT-2, at two lengths, and one with dominant matrix products."""

_TOKENS_WITH_PEERS = 1024
"""The most tokens with which peers and the dense loss run: with more they take minutes and several gigabytes."""

_APART = 0.1  # nats a token, below which an error is absolute
_ERRORS = {
    "float32": {"relative": 1e-5, "nats_off": 2e-6, "gradients_over_dense": 2.0},
    "bfloat16": {"relative": 1e-4, "nats_off": 2e-6, "gradients": 5e-3},
}


def bench_head(
    *, shapes: Sequence[HeadShape] = SHAPES, rounds: int = 3, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure the forward and backward pass of each loss on one thread, beside the peers, in turn.

    Args:
        shapes: The cases.
        rounds: Number of measurements of each.
        say: Gets messages about the progress.

    Returns:
        ``head``: a row for each shape and loss, with ``over`` (the time of limbeck over that of others, by name),
        ``bars``, ``missed`` (the bars that are missed), ``seconds`` of processor time by name, ``memory_mib`` beyond
        the inputs, ``memory_bar_mib``, and ``memory_over_unsloth`` (at most 0.5). ``errors``: the error against float64
        of the same inputs. ``skipped``: the peers that are not installed, with the reason.

    Raises:
        LimbeckError: If `rounds` is below 1.
    """
    if rounds < 1:
        raise LimbeckError(f"rounds must be at least 1; got {rounds}.")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        peers, skipped = find_peers()
        rows = [row for shape in shapes for row in _measure(shape, peers, rounds, say)]
        return {"head": rows, "errors": list(_measure_errors()), "skipped": skipped, "torch": torch.__version__}
    finally:
        torch.set_num_threads(before)


def _measure(
    shape: HeadShape, peers: Mapping[str, Contender], rounds: int, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    problem = make_problem(shape, stored="top-64" in shape.bars)
    for loss, bars in shape.bars.items():
        say(f"{shape.name}: {loss}, {shape.tokens} tokens of {shape.vocabulary} classes")
        contenders: dict[str, Contender] = {"limbeck": sum_fused}
        if shape.tokens <= _TOKENS_WITH_PEERS:
            others = {"gathered": sum_gathered} if loss == "top-64" else peers
            contenders |= {"dense": sum_dense, **others}
        steps: dict[str, Callable[[], None]] = {
            name: functools.partial(_step, contender, problem, loss) for name, contender in contenders.items()
        }
        steps["bare"] = functools.partial(compute_bare, problem, loss)
        seconds = _time_in_turn(steps, rounds)
        over = {name: round(seconds["limbeck"] / value, 3) for name, value in seconds.items() if name != "limbeck"}
        missed = [name for name, bar in bars.items() if over.get(name, 0.0) > bar]
        yield {
            "shape": shape.name, "loss": loss, "over": over, "bars": dict(bars), "missed": missed,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            **_measure_memory(shape, problem, steps),
        }  # fmt: skip


def _measure_memory(shape: HeadShape, problem: Problem, steps: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    memory = {}
    for name in {"limbeck", "unsloth"} & set(steps):
        problem.hidden.grad = problem.weight.grad = None
        memory[name] = peak_on_cpu(steps[name])
    gradients = 4 * (problem.hidden.numel() + problem.weight.numel())
    allowed = 1.15 * (gradients + 2 * min(CHUNK, shape.tokens) * shape.vocabulary * 4)
    figures = {"memory_mib": round(memory["limbeck"] / 2**20, 4), "memory_bar_mib": round(allowed / 2**20, 4)}
    if "unsloth" in memory:
        figures["memory_over_unsloth"] = round(memory["limbeck"] / memory["unsloth"], 3)
    return figures


def _step(contender: Contender, problem: Problem, loss: str) -> None:
    problem.hidden.grad = problem.weight.grad = None
    contender(problem, loss).backward()


def _time_in_turn(steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median processor time of each step; in turn, so that other programs slow all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def _measure_errors() -> Iterator[dict[str, Any]]:
    """The errors of limbeck and of the dense path against float64, for close and for unrelated models."""
    shape = HeadShape("errors", 128, 128, 128, 50_257, {})
    for dtype in (torch.float32, torch.bfloat16):
        for near in (None, 0.01):
            for loss in LOSSES[:2]:
                yield _measure_error(make_problem(shape, dtype=dtype, near=near), loss)


def _measure_error(problem: Problem, loss: str) -> dict[str, Any]:
    exact = _value_and_gradients(sum_dense, _widen(problem), loss)
    ours = _value_and_gradients(sum_fused, problem, loss)
    dense = _value_and_gradients(sum_dense, problem, loss)
    tokens, dtype = int(problem.keep.sum()), str(problem.hidden.dtype).removeprefix("torch.")
    off = float(abs(ours[0] - exact[0]))
    nats = float(exact[0] / tokens)
    figures = {
        "relative": off / float(exact[0]), "nats_off": off / tokens,
        "gradients": _relative(ours[1:], exact[1:]), "gradients_dense": _relative(dense[1:], exact[1:]),
    }  # fmt: skip
    checked = figures | {"gradients_over_dense": figures["gradients"] / figures["gradients_dense"]}
    unused = "nats_off" if nats > _APART else "relative"
    missed = [name for name, bar in _ERRORS[dtype].items() if name != unused and checked[name] > bar]
    return {"dtype": dtype, "loss": loss, "nats": nats, **checked, "missed": missed}


def _widen(problem: Problem) -> Problem:
    def wide(part: Tensor) -> Tensor:
        return part.detach().double()

    return problem._replace(
        hidden=wide(problem.hidden).requires_grad_(), weight=wide(problem.weight).requires_grad_(),
        teacher=wide(problem.teacher), teacher_weight=wide(problem.teacher_weight),
    )  # fmt: skip


def _value_and_gradients(contender: Contender, problem: Problem, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    total = contender(problem, loss)
    gradients = torch.autograd.grad(total, (problem.hidden, problem.weight))
    return total.detach().double(), gradients[0].double(), gradients[1].double()


def _relative(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(float((one - other).norm() / other.norm()) for one, other in zip(ours, exact, strict=True))
