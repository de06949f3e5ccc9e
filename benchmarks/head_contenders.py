"""The ways to compute the losses of an output layer that `bench_head` compares."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import functional as K
from limbeck.cache.encodings import make_encoding
from limbeck.functional.fused_linear import CHUNK, TokenRows, fused_linear_losses
from limbeck.functional.output_layer import HiddenLogits, OutputLayer
from limbeck.top_k_logits import PartialLogits

LOSSES = ("kl", "jsd", "top-64")
"""Forward KL, the Jensen-Shannon divergence of GKD, and forward KL of a teacher of which 64 classes are stored."""

_MASKED = 0.25
_TOP = 64


class HeadShape(NamedTuple):
    """The sizes of one case.

    Attributes:
        name: The name in the results.
        tokens: The number of tokens; a quarter of them are masked.
        student: The width of the student.
        teacher: The width of the teacher.
        vocabulary: The size of the vocabulary.
        bars: For each loss the maximum time of limbeck, as a multiple of that of others by name.
    """

    name: str
    tokens: int
    student: int
    teacher: int
    vocabulary: int
    bars: Mapping[str, Mapping[str, float]]


class Problem(NamedTuple):
    """The inputs of one case; every contender computes the gradients of `hidden` and `weight`."""

    hidden: Tensor
    weight: Tensor
    teacher: Tensor
    teacher_weight: Tensor
    labels: Tensor
    keep: Tensor
    stored: PartialLogits | None = None
    """The teacher's 64 most likely classes and the weight of the rest, with few bits as from a cache."""


Contender = Callable[[Problem, str], Tensor]
"""Computes the sum or mean of a loss over the tokens that count, ready for a backward pass."""


def make_problem(
    shape: HeadShape, *, dtype: torch.dtype = torch.float32, near: float | None = None, stored: bool = False
) -> Problem:
    """Draw the inputs of a case.

    Args:
        shape: The sizes.
        dtype: The dtype of hidden states and weights.
        near: The size of the noise by which the student differs from the teacher; None for unrelated models.
        stored: Whether to store the teacher's top classes.
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
    problem = Problem(hidden, weight, teacher.to(dtype), teacher_weight.to(dtype), labels, keep)
    return problem._replace(stored=_store(problem)) if stored else problem


def _store(problem: Problem) -> PartialLogits:
    """The answers of the teacher as a cache gives them, encoded chunk by chunk."""
    encoding = make_encoding("top-k", classes=len(problem.weight), k=min(_TOP, len(problem.weight)))
    records = []
    for rows in torch.arange(len(problem.teacher)).split(CHUNK):
        logits = problem.teacher[rows] @ problem.teacher_weight.t()
        records.append(torch.from_numpy(encoding.encode(logits, id=rows, view=rows * 0, position=rows * 0)))
    decoded = encoding.decode(torch.cat(records).numpy())
    assert isinstance(decoded, PartialLogits)
    return decoded


def sum_fused(problem: Problem, loss: str) -> Tensor:
    """The losses of limbeck."""
    kernel = K.gkd_jensen_shannon if loss == "jsd" else K.kl_divergence

    def of_rows(student: Tensor, rows: TokenRows) -> Tensor:
        return rows.teacher.compare(kernel, student) if loss == "top-64" else kernel(student, rows.teacher)

    teacher: Any = HiddenLogits(problem.teacher, OutputLayer(problem.teacher_weight))
    if loss == "top-64":
        teacher = problem.stored
    layer = OutputLayer(problem.weight)
    return fused_linear_losses(problem.hidden, layer, {"kd": of_rows}, teacher=teacher, keep=problem.keep)["kd"].total


def sum_dense(problem: Problem, loss: str) -> Tensor:
    """Two log-softmaxes of all logits, and `torch.nn.functional.kl_div`, as it is usually written."""
    log_q = (problem.hidden @ problem.weight.t()).log_softmax(-1)
    with torch.no_grad():
        log_p = (problem.teacher @ problem.teacher_weight.t()).log_softmax(-1)
    divergence = functools.partial(F.kl_div, reduction="none", log_target=True)
    if loss == "jsd":
        half = torch.log(torch.tensor(0.5))
        mixed = torch.logsumexp(torch.stack([log_q + half, log_p + half]), 0)
        values = 0.5 * (divergence(mixed, log_p) + divergence(mixed, log_q)).sum(-1)
    else:
        values = divergence(log_q, log_p).sum(-1)
    return (values * problem.keep).sum()


def sum_gathered(problem: Problem, loss: str) -> Tensor:
    """The stored classes with a log-softmax of all logits, from which they are gathered: no rest, as often written."""
    stored: Any = problem.stored
    log_q = (problem.hidden @ problem.weight.t()).log_softmax(-1).gather(-1, stored.ids)
    log_p = stored.depths.log_softmax(-1)
    return ((log_p.exp() * (log_p - log_q)).sum(-1) * problem.keep).sum()


def compute_bare(problem: Problem, loss: str) -> None:
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
        if loss != "top-64":
            torch.mm(teacher[some], its.t(), out=others[:count])
        torch.mm(logits[:count], weight, out=by_hidden[some])
        by_weight.addmm_(logits[:count].t(), hidden[some])


def find_peers() -> tuple[dict[str, Contender], dict[str, str]]:
    """The toolkits that are installed, and the reason for each that is not."""
    peers: dict[str, Contender] = {}
    skipped: dict[str, str] = {}
    for name, make in {"trl": _make_trl, "liger": _make_liger, "unsloth": _make_unsloth}.items():
        try:
            peers[name] = make()
        except ImportError as error:
            skipped[name] = f"does not import: {error}"
    return peers, skipped


def _load_module(package: str, name: str) -> ModuleType:
    """Load one module of an installed package without the package itself, whose imports need much more.

    Raises:
        ImportError: If the package is not installed, or has no such module.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"No module named {package!r}")
    before = sys.modules.get(package)
    parent = sys.modules[package] = ModuleType(package)
    parent.__path__ = list(found.submodule_search_locations)
    try:
        return importlib.import_module(f"{package}.{name}")
    finally:
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before


def _make_trl() -> Contender:
    function = _load_module("trl", "kernels.chunked_divergence").ChunkedDivergenceFunction

    def total(problem: Problem, loss: str) -> Tensor:
        # On a CPU its trainer computes all tokens and masks their values; it drops tokens on Triton's devices only.
        parts = problem.hidden, problem.weight, None, problem.teacher, problem.teacher_weight, None
        result: Tensor = (function.apply(*parts, 0.0 if loss == "kl" else 0.5)[0] * problem.keep).sum()
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


def _make_unsloth() -> Contender:
    function = _load_module("unsloth_zoo", "fused_losses.fused_linear").fused_linear_jsd

    def total(problem: Problem, loss: str) -> Tensor:
        parts = problem.hidden, problem.weight, problem.teacher, problem.teacher_weight
        result: Tensor = function(*parts, mask=problem.keep, beta=0.0 if loss == "kl" else 0.5)
        return result

    return total
