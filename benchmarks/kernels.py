"""Benchmark of kernels beside the fastest way to write them in plain PyTorch: forward, backward and memory."""

from __future__ import annotations

import functools
import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import functional as K
from limbeck.errors import LimbeckError
from limbeck.functional.blockwise import release_buffers
from limbeck.metrics.compute import peak_on_cpu

SHAPES = ((256, 10), (256, 1000), (512, 32_000))
"""Rows and classes: a small classifier, a large one, and the tokens of a language model."""

FEATURES = (128, 256, 8, 8)
"""Shapes of feature maps, for `squared_error`."""

_T = 4.0
_SHARE = 0.1
_WARM = 3
_STEPS = 20  # maximum number of steps in a round
_LARGE = 1 << 18  # number of values from which a round is a single step

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Student, teacher, labels -> values or their mean."""


class Case(NamedTuple):
    """A kernel of limbeck and the same mathematics by hand, with the maximum cost as a multiple of that."""

    ours: Loss
    peers: Mapping[str, Loss]
    time_bar: float = 1.3
    memory_bar: float | None = 1.3


def soft_cross_entropy(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """``-T^2 sum p log q``: the divergence without the teacher's entropy, as many losses of this kind are written."""
    return -_T * _T * ((teacher / _T).softmax(-1) * (student / _T).log_softmax(-1)).sum(-1)


def divergence_of_logarithms(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """`torch.nn.functional.kl_div` between two log-softmaxes."""
    log_q, log_p = (student / _T).log_softmax(-1), (teacher / _T).log_softmax(-1)
    return _T * _T * F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)


def skewed(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """``-sum p log(a p + (1 - a) q)``, without a guard and without the teacher's entropy."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    return -(p * (_SHARE * p + (1 - _SHARE) * q).log()).sum(-1)


def skewed_reverse(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """``sum q (log q - log((1 - a) p + a q))``, without a guard."""
    p, q, log_q = teacher.softmax(-1), student.softmax(-1), student.log_softmax(-1)
    return (q * (log_q - ((1 - _SHARE) * p + _SHARE * q).log())).sum(-1)


def half_the_distance(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """``sum |p - q| / 2``."""
    return 0.5 * (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)


def binary_with_soft_targets(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """`torch.nn.functional.binary_cross_entropy_with_logits` with the teacher's probabilities."""
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")


def mean_squared_error(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """`torch.nn.functional.mse_loss`."""
    return F.mse_loss(student, teacher)


def smoothed(student: Tensor, _: Tensor, labels: Tensor) -> Tensor:
    """`torch.nn.functional.cross_entropy` with label smoothing."""
    return F.cross_entropy(student, labels, label_smoothing=_SHARE, reduction="none")


_DIVERGENCE_BARS = (1.1, None)
_SQUARES: Mapping[str, Loss] = {"mse_loss": mean_squared_error}
CASES: Mapping[str, Case] = {
    "kl_divergence": Case(
        lambda s, t, _: K.kl_divergence(s, t, temperature=_T),
        {"soft cross-entropy": soft_cross_entropy, "kl_div": divergence_of_logarithms},
        *_DIVERGENCE_BARS,
    ),
    "skew_kl": Case(lambda s, t, _: K.skew_kl(s, t, skew=_SHARE), {"plain": skewed}, *_DIVERGENCE_BARS),
    "skew_reverse_kl": Case(
        lambda s, t, _: K.skew_reverse_kl(s, t, skew=_SHARE), {"plain": skewed_reverse}, *_DIVERGENCE_BARS
    ),
    "total_variation": Case(lambda s, t, _: K.total_variation(s, t), {"plain": half_the_distance}, *_DIVERGENCE_BARS),
    "binary_kl_divergence": Case(
        lambda s, t, _: K.binary_kl_divergence(s, t), {"binary_cross_entropy_with_logits": binary_with_soft_targets}
    ),
    "logit_squared_error": Case(lambda s, t, _: K.logit_squared_error(s, t, centered=False), _SQUARES),
    "logit_squared_error, centered": Case(lambda s, t, _: K.logit_squared_error(s, t), _SQUARES),
    "squared_error": Case(lambda s, t, _: K.squared_error(s, t), _SQUARES),
    "state_squared_error": Case(lambda s, t, _: K.state_squared_error(s, t), _SQUARES),
    "label_smoothing": Case(
        lambda s, _, y: K.label_smoothing(s, labels=y, smoothing=_SHARE), {"cross_entropy": smoothed}
    ),
}
"""The comparisons by name."""


def bench_kernels(
    *,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    features: Sequence[tuple[int, ...]] = (FEATURES,),
    rounds: int = 60,
    seconds: float = 1.5,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare the processor time of each loss with its peers, forward and backward on one thread, in turn.

    Args:
        shapes: Rows and classes of the logits.
        features: Shapes of feature maps, only for `squared_error`.
        rounds: Maximum number of rounds; for small shapes a round is several steps.
        seconds: Seconds of processor time after which a case ends, with at least two rounds.
        say: Gets messages about the progress.

    Returns:
        ``kernels``: a row for each kernel and shape, with ``time`` (limbeck's over the fastest peer's, the median of
        rounds), ``least_time`` (the minimum of limbeck's over the minimum of that peer's, which other programs disturb
        less), ``peer`` (the name of that peer), ``memory`` (limbeck's peak, including buffers for the next call, over
        that peer's), ``time_bar``, ``memory_bar`` (their upper limits; None without a limit), ``microseconds`` (by
        name) and ``rounds``. And ``torch``.

    Raises:
        LimbeckError: If there is no shape, or a number is below 1.
    """
    every = [*shapes, *features]
    if not every or rounds < 1 or any(size < 1 for shape in every for size in shape):
        raise LimbeckError(f"bench_kernels wants shapes and rounds of at least 1; got {every!r} and {rounds!r}.")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        for shape in shapes:
            say(f"{shape[0]} rows of {shape[1]} classes: {', '.join(CASES)}")
            rows += [_measured(name, case, shape, rounds, seconds) for name, case in CASES.items()]
        for sizes in features:
            say(f"feature maps, {' x '.join(map(str, sizes))}: squared_error")
            rows.append(_measured("squared_error", CASES["squared_error"], sizes, rounds, seconds))
        return {"kernels": rows, "torch": torch.__version__}
    finally:
        torch.set_num_threads(before)


def _measured(name: str, case: Case, shape: tuple[int, ...], rounds: int, seconds: float) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(shape, generator=draw) for _ in range(2))
    labels = torch.randint(shape[1], shape[:1], generator=draw)
    student.requires_grad_()

    def step(loss: Loss) -> None:
        student.grad = None
        loss(student, teacher, labels).mean().backward()

    losses = {"limbeck": case.ours, **case.peers}
    steps = {one: functools.partial(step, loss) for one, loss in losses.items()}
    times = time_in_turn(steps, student.numel(), rounds, seconds)
    # The ratio is taken within a round, because other load on the machine slows all parts of a round alike.
    ratio = {one: statistics.median(map(operator.truediv, times["limbeck"], times[one])) for one in case.peers}
    peer = max(case.peers, key=ratio.__getitem__)
    memory = {}
    for one in ("limbeck", peer):
        student.grad = None  # a gradient that exists already would not be counted
        release_buffers()
        memory[one] = peak_on_cpu(steps[one])
    return {
        "kernel": name,
        "shape": list(shape),
        "peer": peer,
        "time": round(ratio[peer], 3),
        "least_time": round(min(times["limbeck"]) / min(times[peer]), 3),
        "time_bar": case.time_bar,
        "memory": round(memory["limbeck"] / memory[peer], 3),
        "memory_bar": case.memory_bar,
        "microseconds": {one: round(1e6 * statistics.median(seconds_each)) for one, seconds_each in times.items()},
        "rounds": len(times[peer]),
    }


def time_in_turn(
    steps: Mapping[str, Callable[[], None]], size: int, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds of processor time for a step of each, in turn, round by round."""
    times: dict[str, list[float]] = {one: [] for one in steps}
    repeats = max(1, min(_STEPS, _LARGE // size))
    warm = _WARM if size < _LARGE * 10 else 1
    began = time.process_time()
    for number in range(-warm, rounds):
        for one in list(steps)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            for _ in range(repeats):
                steps[one]()
            if number >= 0:
                times[one].append((time.process_time() - start) / repeats)
        if number >= 1 and time.process_time() - began > seconds:
            break
    return times
