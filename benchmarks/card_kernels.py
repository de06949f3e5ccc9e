"""Benchmark of every kernel beside plain KL divergence on the same shapes: time, its spread, and peak memory."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.interleave import paired_quartiles, paired_ratio
from benchmarks.kernels import time_in_turn
from limbeck import functional
from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, kl_divergence
from limbeck.functional.blockwise import release_buffers
from limbeck.functional.kernel import declaration
from limbeck.methods import method, names
from limbeck.metrics.compute import peak_on_cpu

MEMORY_BAR = 3.0
"""Peak memory as a multiple of the inputs, except where the mathematics needs pairs."""

_EXAMPLE, _BATCH = 1 << 14, 1 << 18  # numbers of values, at most, of an example and of a batch of student's tensors


def list_claims() -> dict[str, KernelClaim]:
    """The kernels of `limbeck.functional`, and those on the cards of methods, by name: the first claim of each."""
    claims: dict[str, KernelClaim] = {}
    for name in functional.__all__:
        kernel = vars(functional)[name]
        per = declaration(kernel, "per") if inspect.isfunction(kernel) else None
        if per and declaration(kernel, "across_tokenizers") is None:
            claims[name] = KernelClaim(kernel)
    for name in names():
        for claim in method(name).card.kernels:
            stated = claims.get(claim.name)
            if stated is None or (stated.kernel is claim.kernel and stated == KernelClaim(claim.kernel)):
                claims[claim.name] = claim
    return claims


def enlarge(claim: KernelClaim, *, values: int = _EXAMPLE, classes: int = 1000) -> KernelClaim:
    """Multiply all sizes of the examples by one factor, so that a large one has about `values` values.

    Rows of logits or features get `classes` columns. One factor for all keeps sizes that belong together.
    """
    shapes = [claim.shape, claim.teacher_shape, *claim.shapes.values(), *claim.constants.values()]
    largest = max(shapes, key=math.prod) if any(shapes) else ()
    if len(largest) < 2:
        factor = max(classes // max(largest or (claim.classes,)), 1)
    else:
        factor = max(int((values / math.prod(largest)) ** (1 / len(largest))), 1)

    def grown(shape: Iterable[int]) -> tuple[int, ...]:
        return tuple(size * factor for size in shape)

    return replace(
        claim,
        classes=claim.classes * factor,
        shape=grown(claim.shape),
        teacher_shape=grown(claim.teacher_shape),
        shapes={name: grown(shape) for name, shape in claim.shapes.items()},
        constants={name: grown(shape) for name, shape in claim.constants.items()},
    )


def bench_card_kernels(
    *,
    claims: Iterable[KernelClaim] | None = None,
    values: int = _EXAMPLE,
    classes: int = 1000,
    rounds: int = 40,
    seconds: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare the processor time of every kernel with plain KL divergence on as many values, on one thread, in turn.

    Args:
        claims: The kernels; by default those of `list_claims`.
        values: The number of values of an example of feature maps or tokens, about.
        classes: The number of columns of logits or features.
        rounds: Maximum number of rounds.
        seconds: Seconds of processor time after which a kernel ends, with at least two rounds.
        say: Gets messages about the progress.

    Returns:
        ``cards``: a row for each kernel, with ``per``, ``shape`` (of the student's first tensor), ``time`` (forward and
        backward over those of `kl_divergence` on tensors of the student's shapes, the median of rounds), ``quartiles``
        of that ratio, ``memory`` (peak over the size of its inputs) and ``memory_bar`` (None if it compares examples,
        classes or positions with each other, or needs the whole batch).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        for claim in list_claims().values() if claims is None else claims:
            say(f"every kernel: {claim}")
            rows.append(_measured(_usable(claim, enlarge(claim, values=values, classes=classes)), rounds, seconds))
        return {"cards": rows}
    finally:
        torch.set_num_threads(before)


def _usable(claim: KernelClaim, large: KernelClaim) -> KernelClaim:
    """The larger sizes, unless hyper-parameters of the claim, such as a weight for each class, refuse them."""
    try:
        large(large.sample(2))
    except LimbeckError:
        return claim
    return large


def _measured(claim: KernelClaim, rounds: int, seconds: float) -> dict[str, Any]:
    batch = max(min(256, _BATCH // math.prod(claim.example_shape(claim.student[0]))), 4)
    sample = claim.sample(batch)
    students = {name: sample[name].requires_grad_() for name in claim.student if name in sample}
    others = {name: 3 * torch.randn(student.shape) for name, student in students.items()}

    def step(value: Callable[[], Tensor]) -> None:
        for student in students.values():
            student.grad = None
        value().mean().backward()

    def plain() -> Tensor:
        return torch.stack([kl_divergence(student, others[name]).mean() for name, student in students.items()])

    steps = {
        "kernel": functools.partial(step, functools.partial(claim, sample)),
        "plain": functools.partial(step, plain),
    }
    size = sum(student.numel() for student in students.values())
    times = time_in_turn(steps, size, rounds, seconds)
    for student in students.values():
        student.grad = None  # a gradient that exists already would not be counted
    release_buffers()
    peak = peak_on_cpu(steps["kernel"])
    inputs = sum(tensor.numel() * tensor.element_size() for tensor in sample.values())
    pairs = claim.pairs or claim.per in ("pair", "batch")
    return {
        "kernel": str(claim),
        "per": claim.per,
        "shape": list(next(iter(students.values())).shape),
        "time": round(paired_ratio(times["kernel"], times["plain"]), 2),
        "quartiles": [round(one, 2) for one in paired_quartiles(times["kernel"], times["plain"])],
        "memory": round(peak / inputs, 2),
        "memory_bar": None if pairs else MEMORY_BAR,
        "rounds": len(times["kernel"]),
    }
