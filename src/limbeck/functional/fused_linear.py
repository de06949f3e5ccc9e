"""Losses of an output layer's logits, computed from hidden states without holding the logits of all tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional.blockwise import AT_MOST
from limbeck.functional.output_layer import (
    NeedsHidden,
    OtherClasses,
    OutputLayer,
    find_hidden_logits,
    logits_into,
    slices,
    times_weight_into,
)

CHUNK = 128
"""Number of tokens whose logits are in memory at a time on a CPU: fewer make products slower, more hardly faster."""

_CHUNK_ON_ACCELERATOR = 256  # with fewer rows, reading the weight for each chunk takes longer than the product


class TokenRows(NamedTuple):
    """The inputs of a row loss for some tokens, except the student's logits.

    Attributes:
        teacher: The teacher's logits, or partial logits; None without a teacher.
        labels: The labels; None without labels.
    """

    teacher: Any
    labels: Int[Tensor, " rows"] | None


RowLoss = Callable[[Tensor, TokenRows], Tensor]
"""A function of the student's logits ``[rows, vocabulary]`` and `TokenRows`, with one value for each row."""


class FusedLoss(NamedTuple):
    """One loss of `fused_linear_losses`.

    Attributes:
        total: The sum of the values, times the token weights; differentiable.
        values: The value of each token that counts, in order, without its weight; not differentiable. If each loss
            has tokens of its own, these are the tokens of any loss, with 0 for those of others.
    """

    total: Float[Tensor, ""]
    values: Float[Tensor, " tokens"]


def fused_linear_losses(
    hidden: Float[Tensor, "*tokens width"],
    layer: OutputLayer,
    losses: Mapping[str, RowLoss],
    *,
    teacher: Any = None,
    labels: Int[Tensor, "*tokens"] | None = None,
    keep: Bool[Tensor, "*tokens"] | Mapping[str, Bool[Tensor, "*tokens"]] | None = None,
    token_weights: Float[Tensor, "*tokens"] | None = None,
    weights: Mapping[str, float] | None = None,
    chunk: int | None = None,
) -> dict[str, FusedLoss]:
    r"""Compute losses of ``layer.logits(hidden)`` and their gradients, holding the logits of `chunk` tokens at a time.

    For each loss l the result has :math:`\sum_t w_t\, l(z_t)` with :math:`z_t` the logits of token t. It is the same as
    with all logits at once, up to rounding. All losses share one pass: one product for the logits, one for the gradient
    of the hidden states, one for that of the weight. A frozen weight costs no product.

    Gradients are computed in the forward pass for the factors `weights`, by which the totals are expected to be
    multiplied in the loss that is minimized. The backward pass only scales them. If the factors turn out to be in other
    proportions, as when the gradient of one loss alone is asked for, the pass is repeated.

    Memory beyond the inputs: the gradients of hidden states and weight in float32, and the logits of `chunk` tokens of
    student and teacher. Tokens without `keep` are dropped first. Sums over a row are in float32 (float64 for float64
    inputs), and sums over tokens in float64. There are no second derivatives.

    Args:
        hidden: The inputs of the output layer.
        layer: The output layer of the student.
        losses: Functions of the logits of some tokens, by name. Each gets rows with the whole vocabulary, and returns
            one value for each row.
        teacher: Logits, partial logits, `HiddenLogits`, or a `NeedsHidden` such as `limbeck.mean_embedding`; its
            leading dimensions are those of `hidden`.
        labels: The next token of each position.
        keep: Which tokens count, for all losses or for each by its name; None means all.
        token_weights: w; None means 1.
        weights: The factor of each total in the minimized loss; 1 where not given. It changes the cost, not the result.
        chunk: The number of tokens whose logits are held; by default 128 on a CPU and 256 on other devices.

    Returns:
        A `FusedLoss` for each loss.

    Raises:
        ArgumentError: If `chunk` is below 1, `weights` names a loss that there is not, or `keep` other losses.
        LimbeckError: If shapes do not match, or a loss does not return one value for each row.

    Example:
        >>> from limbeck.functional import cross_entropy
        >>> hidden, layer = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), OutputLayer(torch.eye(2))
        >>> losses = {"ce": lambda student, rows: cross_entropy(student, labels=rows.labels)}
        >>> fused_linear_losses(hidden, layer, losses, labels=torch.tensor([0, 0]))["ce"].values
        tensor([0.3133, 1.3133])

    Source: the gradient in the forward pass as in Hsu et al., Liger Kernel: Efficient Triton Kernels for LLM Training,
        2024, arXiv:2410.10989; here with closed-form gradients of each divergence, block by block in the CPU's caches.
    """
    if chunk is None:
        chunk = CHUNK if hidden.device.type == "cpu" else _CHUNK_ON_ACCELERATOR
    _check_arguments(losses, weights or {}, chunk, keep)
    if isinstance(teacher, NeedsHidden):
        teacher.check_layer(layer)
    masks = None
    if isinstance(keep, Mapping):
        masks = torch.stack([keep[name] for name in losses], -1)
        keep = masks.any(-1)
    _check_shapes(hidden, layer, teacher, labels, keep, token_weights)
    width = hidden.shape[-1]
    if isinstance(teacher, Tensor):
        teacher = teacher.reshape(-1, *teacher.shape[hidden.ndim - 1 :])
    elif teacher is not None:
        teacher = teacher.reshape(-1)
    tokens = _Tokens(
        hidden.reshape(-1, width), teacher,
        None if labels is None else labels.reshape(-1),
        None if token_weights is None else token_weights.reshape(-1),
        None if masks is None else masks.reshape(-1, len(losses)),
    )  # fmt: skip
    if keep is not None:
        tokens = tokens.select(keep.reshape(-1).nonzero().squeeze(1))
    names = tuple(losses)
    factors = tuple(float((weights or {}).get(name, 1.0)) for name in names)
    learns = torch.is_grad_enabled()
    work = _Work(tuple(losses.values()), factors, tokens.detach(), layer.softcap, layer.scale, chunk, learns)
    totals, values = _FusedLosses.apply(tokens.hidden, layer.weight, layer.bias, work)
    return {name: FusedLoss(totals[i], values[i]) for i, name in enumerate(names)}


class _Tokens(NamedTuple):
    """The tokens that count, in one dimension; `teacher` has all tokens, of which `rows` count."""

    hidden: Tensor
    teacher: Any
    labels: Tensor | None
    weights: Tensor | None
    masks: Tensor | None
    """``[tokens, losses]``: which tokens count for each loss; None if they are the same for all."""
    rows: Tensor | None = None

    def select(self, index: Tensor) -> _Tokens:
        # The teacher's part is the largest, and is selected when a chunk needs it.
        labels, weights, masks = (None if part is None else part[index] for part in self[2:5])
        return _Tokens(self.hidden[index], self.teacher, labels, weights, masks, index)

    def detach(self) -> _Tokens:
        parts = (part.detach() if isinstance(part, Tensor) else part for part in self)
        return _Tokens._make(parts)


class _Work(NamedTuple):
    """What the forward pass computes, and what the backward pass needs to repeat it with other factors."""

    losses: tuple[RowLoss, ...]
    factors: tuple[float, ...]
    tokens: _Tokens
    softcap: float | None
    scale: float
    chunk: int
    learns: bool


class _Gradients(NamedTuple):
    """The gradients of ``sum of factor * total``; None where not needed."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    def scaled(self, factor: float, dtypes: tuple[torch.dtype, ...]) -> list[Tensor | None]:
        # Never in place: the graph may be walked again, for the gradient norms of a report.
        return [
            None if part is None else (part if factor == 1 else part * factor).to(dtype)
            for part, dtype in zip(self, dtypes, strict=True)
        ]


class _FusedLosses(torch.autograd.Function):
    """All totals at once, ``[losses]``, and the values ``[losses, tokens]``."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> tuple[Tensor, Tensor]:
        # Within torch.no_grad() the inputs still say that they need a gradient.
        learns = work.learns and any(work.factors)
        needs = tuple(ctx.needs_input_grad[:3]) if learns else (False, False, False)
        totals, values, gradients = _compute(weight, bias, work, needs)
        ctx.work, ctx.dtypes = work, (hidden.dtype, weight.dtype, (bias if bias is not None else weight).dtype)
        ctx.save_for_backward(weight, bias, *gradients)
        ctx.mark_non_differentiable(values)
        ctx.set_materialize_grads(False)
        return totals, values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        weight, bias, *saved = ctx.saved_tensors
        work: _Work = ctx.work
        upstream = tuple(grad.tolist())
        factor = _common_factor(upstream, work.factors)
        if factor is None:
            other = work._replace(factors=upstream)
            gradients, factor = _compute(weight, bias, other, tuple(ctx.needs_input_grad[:3]))[2], 1.0
        else:
            gradients = _Gradients(*saved)
        return (*gradients.scaled(factor, ctx.dtypes), None)


def _common_factor(upstream: tuple[float, ...], expected: tuple[float, ...]) -> float | None:
    """Return f with ``upstream = f * expected``; None if there is none, so that the pass must be repeated."""
    if not any(upstream):
        return 0.0 if any(expected) else None
    ratios = [up / factor for up, factor in zip(upstream, expected, strict=True) if factor]
    if not ratios or any(up for up, factor in zip(upstream, expected, strict=True) if not factor):
        return None
    # The upstream gradients were rounded to float32, so equal proportions differ in the last digits.
    return ratios[0] if all(math.isclose(ratio, ratios[0], rel_tol=1e-6) for ratio in ratios) else None


def _compute(
    weight: Tensor, bias: Tensor | None, work: _Work, needs: tuple[bool, ...]
) -> tuple[Tensor, Tensor, _Gradients]:
    with torch.autocast(weight.device.type, enabled=False), torch.no_grad():
        return _compute_chunks(weight, bias, work, needs)


def _compute_chunks(
    weight: Tensor, bias: Tensor | None, work: _Work, needs: tuple[bool, ...]
) -> tuple[Tensor, Tensor, _Gradients]:
    hidden, vocabulary = work.tokens.hidden, weight.shape[0]
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    new = partial(torch.empty, dtype=dtype, device=hidden.device)
    gradients = _Gradients(
        new(hidden.shape) if needs[0] else None,
        new(weight.shape).zero_() if needs[1] else None,
        new(vocabulary).zero_() if needs[2] and bias is not None else None,
    )
    values = new(len(work.losses), len(hidden))
    buffer = new(min(work.chunk, len(hidden)), vocabulary)
    # One buffer for all chunks: new memory pages cost about as much as the arithmetic on them.
    theirs = find_hidden_logits(work.tokens.teacher)
    teacher_buffer = None if theirs is None else new(len(buffer), theirs.shape[-1])
    for rows in slices(len(hidden), work.chunk):
        inputs = hidden[rows].to(dtype)
        logits = logits_into(buffer[: len(inputs)], inputs, weight, bias, work.scale, work.softcap)
        at = rows if work.tokens.rows is None else work.tokens.rows[rows]
        teacher = _teacher_rows(work.tokens.teacher, at, teacher_buffer)
        by_mean = None
        if isinstance(teacher, NeedsHidden):
            teacher, by_mean = teacher.meet(inputs), inputs.new_zeros(len(inputs))
        _values_and_slopes(logits, teacher, work, rows, values, any(needs), by_mean)
        if gradients.hidden is not None:
            times_weight_into(gradients.hidden[rows], logits, weight)
            if by_mean is not None:
                gradients.hidden[rows].addcmul_(by_mean.unsqueeze(1), teacher.mean.to(dtype))
        if gradients.weight is not None:
            gradients.weight.addmm_(logits.t(), inputs)
        if gradients.bias is not None:
            gradients.bias.add_(logits.sum(0))
    weighted = values if work.tokens.weights is None else values * work.tokens.weights.to(dtype)
    return weighted.sum(1, dtype=torch.float64).to(dtype), values, gradients


def _values_and_slopes(
    logits: Tensor, teacher: Any, work: _Work, rows: slice, values: Tensor, slopes: bool, by_mean: Tensor | None
) -> None:
    """Write the values of some tokens, and replace their logits by the slopes of the weighted sum.

    With a teacher that reads hidden states, `by_mean` gets the slopes of its mean logits.

    On a CPU this is done for a few rows at a time, so that all intermediate results stay in the caches.
    """
    size = max(1, AT_MOST // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    for part in slices(len(logits), size):
        at = slice(rows.start + part.start, rows.start + part.stop)
        block = logits[part].requires_grad_(slopes)
        labels = None if work.tokens.labels is None else work.tokens.labels[at]
        token_rows = TokenRows(None if teacher is None else teacher[part], labels)
        inputs = [block] if by_mean is None else [block, token_rows.teacher.mean_logit.requires_grad_(slopes)]
        outputs, scales = [], []
        for i, (loss, factor) in enumerate(zip(work.losses, work.factors, strict=True)):
            learns = slopes and factor != 0
            with torch.set_grad_enabled(learns):
                value = loss(block, token_rows)
            _check_values(value, len(block))
            if work.tokens.masks is not None:
                with torch.set_grad_enabled(learns):
                    value = value.masked_fill(~work.tokens.masks[at, i], 0.0)
            values[i, at] = value.detach()
            if learns and value.requires_grad:
                outputs.append(value)
                scale = torch.full_like(value, factor)
                scales.append(scale if work.tokens.weights is None else scale.mul_(work.tokens.weights[at]))
        if outputs:
            slope, *others = torch.autograd.grad(outputs, inputs, scales, allow_unused=by_mean is not None)
            _slope_into(logits[part], slope, work)
            if by_mean is not None and others[0] is not None:
                by_mean[part] = others[0]
        elif slopes:
            logits[part].zero_()


def _check_values(value: Tensor, rows: int) -> None:
    # A mean or a sum would depend on how many rows are computed at a time.
    if value.shape != (rows,):
        raise LimbeckError(
            f"A loss of {rows} rows returned the shape {list(value.shape)}; it returns one value for each row, without "
            "a mean or a sum over them."
        )


def _slope_into(logits: Tensor, slope: Tensor, work: _Work) -> None:
    """Replace logits by the slope before scale and cap."""
    if work.softcap is None:
        logits.copy_(slope)
    else:
        # d (c tanh(x / c)) / dx = 1 - tanh(x / c)^2, and the logit is c tanh(x / c).
        logits.div_(work.softcap).square_().neg_().add_(1.0).mul_(slope)
    if work.scale != 1:
        logits.mul_(work.scale)


def _teacher_rows(teacher: Any, rows: slice | Tensor, buffer: Tensor | None) -> Any:
    """The teacher's logits of a chunk; those of hidden states are multiplied out into `buffer`."""
    theirs = find_hidden_logits(teacher)
    if buffer is None or theirs is None:
        return None if teacher is None else teacher[rows]
    hidden, layer = theirs.hidden[rows], theirs.layer
    out = buffer[: len(hidden)]
    logits = logits_into(out, hidden.to(out.dtype), layer.weight, layer.bias, layer.scale, layer.softcap)
    return logits if theirs is teacher else teacher.with_logits(logits)


def _check_arguments(losses: Mapping[str, RowLoss], weights: Mapping[str, float], chunk: int, keep: Any) -> None:
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ArgumentError(f"chunk is a number of tokens, at least 1; got {chunk!r}.", argument="chunk")
    for name in weights:
        if name not in losses:
            raise unknown_name_error("loss", name, losses, argument="weights")
    if isinstance(keep, Mapping) and set(keep) != set(losses):
        raise ArgumentError(
            f"keep names the losses {', '.join(keep)}, and there are {', '.join(losses)}: give one mask for each.",
            argument="keep",
        )


def _check_shapes(
    hidden: Tensor,
    layer: OutputLayer,
    teacher: Any,
    labels: Tensor | None,
    keep: Tensor | None,
    token_weights: Tensor | None,
) -> None:
    leading, (vocabulary, width) = hidden.shape[:-1], layer.weight.shape
    if hidden.shape[-1] != width:
        raise LimbeckError(f"The hidden states have {hidden.shape[-1]} values, and the output layer takes {width}.")
    if layer.softcap is not None and not layer.softcap > 0:
        raise LimbeckError(f"softcap is the bound of the logits, above 0, or None; got {layer.softcap}.")
    if layer.bias is not None and layer.bias.shape != (vocabulary,):
        raise LimbeckError(f"The bias has shape {list(layer.bias.shape)}, and the layer has {vocabulary} outputs.")
    for name, part in (("labels", labels), ("keep", keep), ("token_weights", token_weights)):
        if part is not None and part.shape != leading:
            raise LimbeckError(f"{name} has shape {list(part.shape)}, and the tokens have {list(leading)}.")
    if isinstance(teacher, OtherClasses):
        vocabulary = teacher.shape[-1]  # type: ignore[attr-defined]
    if teacher is not None and tuple(teacher.shape) != (*leading, vocabulary):
        raise LimbeckError(
            f"The teacher's logits have shape {list(teacher.shape)}, and the student's {[*leading, vocabulary]}: both "
            "need the same tokens and the same vocabulary in the same order."
        )
