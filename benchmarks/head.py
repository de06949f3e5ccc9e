"""Benchmark of an output layer's losses beside dense PyTorch and other toolkits: time, memory and error."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import functional as K
from limbeck.errors import LimbeckError
from limbeck.functional.fused_linear import CHUNK, TokenRows, fused_linear_losses
from limbeck.functional.output_layer import HiddenLogits, OutputLayer
from limbeck.metrics.compute import peak_on_cpu


class HeadShape(NamedTuple):
    """The sizes of one case.

    Attributes:
        name: The name in the results.
        tokens: The number of tokens; a quarter of them are masked.
        student: The width of the student.
        teacher: The width of the teacher.
        vocabulary: The size of the vocabulary.
        bars: The maximum time of each loss, as a multiple of the bare products.
    """

    name: str
    tokens: int
    student: int
    teacher: int
    vocabulary: int
    bars: Mapping[str, float]


SHAPES = (
    HeadShape("A", 1024, 128, 256, 50_257, {"kl": 1.25, "jsd": 1.4}),
    HeadShape("A, long", 8192, 128, 256, 50_257, {"kl": 1.25, "jsd": 1.4}),
    HeadShape("B", 512, 512, 2048, 32_000, {"kl": 1.10, "jsd": 1.15}),
)
"""A small language model with the vocabulary of GPT-2, at two lengths, and one with dominant matrix products."""

_MASKED = 0.25


class Problem(NamedTuple):
    """The inputs of one case; every contender computes the gradients of `hidden` and `weight`."""

    hidden: Tensor
    weight: Tensor
    teacher: Tensor
    teacher_weight: Tensor
    labels: Tensor
    keep: Tensor


Contender = Callable[[Problem, str], Tensor]
"""Computes the sum of a loss over the tokens that count, ready for a backward pass."""


def make_problem(shape: HeadShape, *, dtype: torch.dtype = torch.float32, near: float | None = None) -> Problem:
    """Draw the inputs of a case.

    Args:
        shape: The sizes.
        dtype: The dtype of hidden states and weights.
        near: The size of the noise by which the student differs from the teacher; None for unrelated models.
    """
    draw = torch.Generator().manual_seed(0)
    normal = functools.partial(torch.randn, generator=draw)
    teacher, teacher_weight = normal(shape.tokens, shape.teacher), normal(shape.vocabulary, shape.teacher)
    teacher_weight.mul_(2 / shape.teacher**0.5)
    if near is None:
        hidden, weight = normal(shape.tokens, shape.student), normal(shape.vocabulary, shape.student)
        weight.mul_(2 / shape.student**0.5)
    else:
        hidden, weight = teacher + near * normal(teacher.shape), teacher_weight.clone()
    labels = torch.randint(shape.vocabulary, (shape.tokens,), generator=draw)
    keep = torch.rand(shape.tokens, generator=draw) >= _MASKED
    hidden, weight = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    return Problem(hidden, weight, teacher.to(dtype), teacher_weight.to(dtype), labels, keep)


def sum_fused(problem: Problem, loss: str) -> Tensor:
    """The losses of limbeck."""
    kernel = {"kl": K.kl_divergence, "jsd": K.gkd_jensen_shannon}[loss]

    def of_rows(student: Tensor, rows: TokenRows) -> Tensor:
        return kernel(student, rows.teacher)

    teacher = HiddenLogits(problem.teacher, OutputLayer(problem.teacher_weight))
    layer = OutputLayer(problem.weight)
    return fused_linear_losses(problem.hidden, layer, {"kd": of_rows}, teacher=teacher, keep=problem.keep)["kd"].total


def sum_dense(problem: Problem, loss: str) -> Tensor:
    """Two log-softmaxes of all logits, and `torch.nn.functional.kl_div`, as it is usually written."""
    log_q = (problem.hidden @ problem.weight.t()).log_softmax(-1)
    with torch.no_grad():
        log_p = (problem.teacher @ problem.teacher_weight.t()).log_softmax(-1)
    divergence = functools.partial(F.kl_div, reduction="none", log_target=True)
    if loss == "kl":
        values = divergence(log_q, log_p).sum(-1)
    else:
        half = torch.log(torch.tensor(0.5))
        mixed = torch.logsumexp(torch.stack([log_q + half, log_p + half]), 0)
        values = 0.5 * (divergence(mixed, log_p) + divergence(mixed, log_q)).sum(-1)
    return (values * problem.keep).sum()


def compute_bare(problem: Problem, _: str) -> None:
    """Only the matrix products that every method needs, over the tokens that count."""
    rows = problem.keep.nonzero().squeeze(1)
    hidden, teacher = problem.hidden.detach()[rows], problem.teacher[rows]
    weight, its = problem.weight.detach(), problem.teacher_weight
    logits, others = (torch.empty(min(CHUNK, len(rows)), len(weight)) for _ in range(2))
    by_hidden, by_weight = torch.empty_like(hidden), torch.zeros_like(weight)
    for start in range(0, len(rows), CHUNK):
        some = slice(start, min(start + CHUNK, len(rows)))
        count = some.stop - some.start
        torch.mm(hidden[some], weight.t(), out=logits[:count])
        torch.mm(teacher[some], its.t(), out=others[:count])
        torch.mm(logits[:count], weight, out=by_hidden[some])
        by_weight.addmm_(logits[:count].t(), hidden[some])


def find_peers() -> tuple[dict[str, Contender], dict[str, str]]:
    """The toolkits that are installed, and the reason for each that is not."""
    peers: dict[str, Contender] = {}
    skipped: dict[str, str] = {}
    for name, make in {"trl": _make_trl, "liger": _make_liger}.items():
        try:
            peers[name] = make()
        except ImportError as error:
            skipped[name] = f"does not import: {error}"
    return peers, skipped


def _make_trl() -> Contender:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def total(problem: Problem, loss: str) -> Tensor:
        rows = problem.keep.nonzero().squeeze(1)
        parts = problem.hidden[rows], problem.weight, None, problem.teacher[rows], problem.teacher_weight, None
        result: Tensor = ChunkedDivergenceFunction.apply(*parts, 0.0 if loss == "kl" else 0.5)[0].sum()
        return result

    return total


def _make_liger() -> Contender:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    def total(problem: Problem, loss: str) -> Tensor:
        beta = 0.0 if loss == "kl" else 0.5
        # Without compilation, which costs more than it saves on a CPU; chunk_size=256 is its best setting there.
        options: dict[str, Any] = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0, "compiled": False}
        module = LigerFusedLinearJSDLoss(beta=beta, chunk_size=256, **options)
        labels = problem.labels.masked_fill(~problem.keep, -100)
        result: Tensor = module(problem.hidden, problem.weight, problem.teacher, problem.teacher_weight, labels)
        return result

    return total


def bench_head(
    *, shapes: Sequence[HeadShape] = SHAPES, rounds: int = 3, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure the forward and backward pass of each loss on one thread, beside the peers, in turn.

    Args:
        shapes: The cases.
        rounds: Number of measurements of each.
        say: Gets messages about the progress.

    Returns:
        ``head``: a row for each shape and loss, with ``over_bare`` and ``bar``, ``over_dense``, ``over_trl``,
        ``over_liger`` (None if it is not installed), ``seconds`` of processor time by name, ``memory_mib`` beyond
        the inputs, and ``memory_bar_mib``. ``errors``: the error against float64 of the same inputs. ``skipped``: the
        peers that are not installed.

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
    problem = make_problem(shape)
    for loss, bar in shape.bars.items():
        say(f"{shape.name}: {loss}, {shape.tokens} tokens of {shape.vocabulary} classes")
        contenders = {"limbeck": sum_fused, "dense": sum_dense, **peers}
        steps: dict[str, Callable[[], None]] = {
            name: functools.partial(_step, contender, problem, loss) for name, contender in contenders.items()
        }
        steps["bare"] = functools.partial(compute_bare, problem, loss)
        seconds = _time_in_turn(steps, rounds)
        ratios = {f"over_{name}": round(seconds["limbeck"] / seconds[name], 3) for name in seconds if name != "limbeck"}
        problem.hidden.grad = problem.weight.grad = None
        memory = peak_on_cpu(steps["limbeck"])
        gradients = 4 * (problem.hidden.numel() + problem.weight.numel())
        allowed = 1.15 * (gradients + 2 * min(CHUNK, shape.tokens) * shape.vocabulary * 4)
        yield {
            "shape": shape.name, "loss": loss, "bar": bar, **ratios,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "memory_mib": round(memory / 2**20, 4), "memory_bar_mib": round(allowed / 2**20, 4),
        }  # fmt: skip


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
    shape = HeadShape("errors", 128, 128, 128, 50_257, {"kl": 1.0, "jsd": 1.0})
    for dtype in (torch.float32, torch.bfloat16):
        for near in (None, 0.01):
            for loss in shape.bars:
                problem = make_problem(shape, dtype=dtype, near=near)
                exact = _value_and_gradients(sum_dense, _widen(problem), loss)
                ours = _value_and_gradients(sum_fused, problem, loss)
                dense = _value_and_gradients(sum_dense, problem, loss)
                tokens = int(problem.keep.sum())
                yield {
                    "dtype": str(dtype).removeprefix("torch."), "loss": loss, "nats": float(exact[0] / tokens),
                    "relative": float(abs(ours[0] - exact[0]) / exact[0]),
                    "nats_off": float(abs(ours[0] - exact[0]) / tokens),
                    "gradients": _relative(ours[1:], exact[1:]), "gradients_dense": _relative(dense[1:], exact[1:]),
                }  # fmt: skip


def _widen(problem: Problem) -> Problem:
    return Problem(*(part.detach().double() if part.is_floating_point() else part for part in problem))._replace(
        hidden=problem.hidden.detach().double().requires_grad_(),
        weight=problem.weight.detach().double().requires_grad_(),
    )


def _value_and_gradients(contender: Contender, problem: Problem, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    total = contender(problem, loss)
    gradients = torch.autograd.grad(total, (problem.hidden, problem.weight))
    return total.detach().double(), gradients[0].double(), gradients[1].double()


def _relative(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(float((one - other).norm() / other.norm()) for one, other in zip(ours, exact, strict=True))
