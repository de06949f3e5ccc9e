"""`check_kernel`: checks the laws of kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from limbeck.functional import KernelClaim, coarse_logits
from limbeck.functional.kernel import Per, merges
from limbeck.losses.bound_kernel import FROM_BATCH
from limbeck.testing.law import check_laws, require
from limbeck.top_k_logits import default_temperature

__all__ = ["LAWS", "check_kernel"]

_OF = "kernels"
_INF = float("inf")


def check_kernel(kernel: Callable[..., Tensor] | KernelClaim, **claim: Any) -> None:
    """Check a kernel against all laws that apply to it.

    The laws:

    * It declares what one value belongs to, and returns values of that shape.
    * The order of examples and of classes does not matter.
    * It computes in float32 or better, with and without autocast.
    * It does not change its arguments.
    * Values and gradients are finite for huge logits, masked columns, masked rows, two classes and one example.
    * A masked column is equivalent to no column.
    * The gradient is the derivative of the value.
    * With `zero_at_equality`, it is 0 where student and teacher are equal, and positive where they differ.
    * A declared divergence does not increase if classes are merged.

    Args:
        kernel: The kernel, or a `limbeck.functional.KernelClaim`, as a card has it.
        **claim: The properties of the kernel: the fields of `KernelClaim`.

    Raises:
        LawError: If laws are broken. The message names the kernel and lists all broken laws, with the value and the
            expected value.

    Example:
        >>> from limbeck.functional import kl_divergence
        >>> check_kernel(kl_divergence, hyper={"temperature": 4.0})
    """
    whole = replace(kernel, **claim) if isinstance(kernel, KernelClaim) else KernelClaim(kernel, **claim)
    # Without a declaration the other laws have no meaning.
    check_laws([partial(check_declaration, whole)], of=_OF, subject=str(whole))
    check_laws([partial(law, whole) for law in LAWS], of=_OF, subject=str(whole))


def check_declaration(claim: KernelClaim) -> None:
    """It declares ``per``, and its hyper-parameters are keyword-only."""
    _require(claim.per in get_args(Per), f"per is {claim.per}; decorate the function with @kernel(per=...)")
    for name, parameter in inspect.signature(claim.kernel).parameters.items():
        keyword_only = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
        _require(keyword_only or name in {*FROM_BATCH, *claim.outputs}, f"{name} must be keyword-only")


def check_shape(claim: KernelClaim) -> None:
    """Its values are unreduced, with the shape that ``per`` declares."""
    positions = claim.per in ("example", "position", "output") and not claim.shape
    for shape in ((4,), (1,)) + (((3, 2),) if positions else ()):
        sample = claim.sample(*shape)
        value, each = claim(sample), tuple(sample[claim.student[0]].shape)
        pairs = (shape[0], shape[0])
        expected = {"example": shape[:1], "position": each[:-1], "output": each, "pair": pairs, "batch": ()}[claim.per]
        broken = f"it returns shape {tuple(value.shape)} per {claim.per} for a student of shape {each}, not {expected}"
        _require(tuple(value.shape) == expected, broken)


def check_examples(claim: KernelClaim) -> None:
    """The order of the examples in a batch does not matter."""
    sample, order = claim.sample(4), torch.tensor([2, 0, 3, 1])
    value, moved = claim(sample), claim({name: tensor[order] for name, tensor in sample.items()})
    expected = {"pair": lambda: value[order][:, order], "batch": lambda: value}.get(claim.per, lambda: value[order])()
    _close(moved, expected, "its values are not permuted with the examples")


def check_classes(claim: KernelClaim) -> None:
    """The order of the classes does not matter."""
    if not claim.logits:
        return
    sample = claim.sample(4)
    order = torch.arange(sample[claim.student[0]].shape[-1]).roll(1)
    moved = {name: tensor[..., order] for name, tensor in sample.items() if name in claim.outputs}
    labels = {"labels": order.argsort()[sample["labels"]]} if "labels" in sample else {}
    _close(claim({**sample, **moved, **labels}), claim(sample), "its values change when the classes are permuted")


def check_precision(claim: KernelClaim) -> None:
    """It computes in float32 or better for every input dtype, and autocast changes nothing."""
    narrow = claim.sample(4, dtype=torch.bfloat16)
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in narrow.items()}
    value = claim(wide)
    _require(value.dtype == torch.float32, f"float32 logits give {value.dtype}, not torch.float32")
    _require(torch.equal(claim(narrow), value), "bfloat16 logits are not widened to float32 before it computes")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _require(torch.equal(claim(wide), value), "autocast changes its values; decorate it with @kernel")
    double = claim({name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in wide.items()})
    _require(double.dtype == torch.float64, f"float64 logits give {double.dtype}, not torch.float64")
    _close(value.double(), double, "its float32 and float64 values differ by more than rounding", tolerance=1e-4)


def check_purity(claim: KernelClaim) -> None:
    """It does not change its arguments."""
    sample = claim.sample(4)
    before = {name: tensor.clone() for name, tensor in sample.items()}
    claim(sample)
    for name, tensor in sample.items():
        _require(torch.equal(tensor, before[name]), f"it writes into {name}")


def check_finite(claim: KernelClaim) -> None:
    """Values and gradients are finite for huge logits, masked columns, masked rows, two classes and one example."""
    for scale in (claim.largest, -claim.largest):
        sample = claim.sample(4)
        huge = {name: scale * sample[name].sign() for name in claim.outputs}
        _finite(claim, {**sample, **{name: huge[name] for name in claim.student}}, f"a student's logits of {scale:g}")
        _finite(claim, {**sample, **huge}, f"logits of {scale:g}")
    _finite(claim, claim.sample(4, classes=2), "two classes")
    _finite(claim, claim.sample(1), "one example")
    if claim.logits:
        _finite(claim, _masked(claim, claim.sample(4), columns=2), "columns that are -inf in both")
        value = _finite(claim, _masked(claim, claim.sample(4), rows=2), "rows of nothing but -inf in both")
        if claim.per == "position":
            _require(bool((value[:2] == 0).all()), f"rows of nothing but -inf in both give {_format(value[:2])}, not 0")


def check_masked_columns(claim: KernelClaim) -> None:
    """A column that is -inf in both is equivalent to no column."""
    if claim.logits:
        sample = claim.sample(4)
        fewer = {name: tensor[..., :-2] if name in claim.outputs else tensor for name, tensor in sample.items()}
        _close(
            claim(_masked(claim, sample, columns=2)), claim(fewer), "a column that is -inf in both changes its values"
        )


def check_gradient(claim: KernelClaim) -> None:
    """Its first and second derivatives agree with finite differences."""
    sample = claim.sample(3, dtype=torch.float64)
    names = claim.outputs
    leaves = tuple(sample[name].requires_grad_() for name in names)

    def value(*tensors: Tensor) -> Tensor:
        return claim({**sample, **dict(zip(names, tensors, strict=True))})

    for check, what in ((torch.autograd.gradcheck, "gradient"), (torch.autograd.gradgradcheck, "second derivative")):
        try:
            check(value, leaves)
        except GradcheckError as error:
            message = " ".join(str(error).split())
            _require(False, f"its {what} does not agree with finite differences: {message.rstrip('.')}")


def check_equality(claim: KernelClaim) -> None:
    """It is 0, with a gradient of 0, where student and teacher are equal, and positive where they differ."""
    if not (claim.is_divergence if claim.zero_at_equality is None else claim.zero_at_equality):
        return
    sample = claim.sample(4)
    masked = [_masked(claim, sample, columns=2)] if claim.logits else []
    huge = {**sample, **{name: claim.largest * sample[name].sign() for name in claim.teacher}}
    for equal in (sample, huge, *masked):
        mine = {
            name: equal[its].clone().requires_grad_() for name, its in zip(claim.student, claim.teacher, strict=True)
        }
        value = claim({**equal, **mine})
        largest = value.abs().max().item()
        _require(largest <= claim.tolerance, f"it is {largest:g} where student and teacher are equal, not 0")
        slopes = torch.autograd.grad(value.sum(), list(mine.values()))
        steepest = max(slope.abs().max().item() for slope in slopes)
        _require(steepest <= claim.tolerance, f"its gradient at equality is {steepest:g}, not 0")
    _require(bool((claim(sample) > 0).all()), "it is not positive where student and teacher differ")


def check_merging(claim: KernelClaim) -> None:
    """A declared divergence does not increase if classes are merged."""
    if not merges(claim.kernel, **claim.hyper):
        return
    sample = claim.sample(8)
    temperature = claim.hyper.get("temperature", default_temperature(claim.kernel))
    classes = sample["teacher"].topk(2).indices
    merged = {name: coarse_logits(rows, classes, temperature=temperature) for name, rows in sample.items()}
    whole, part = claim(sample), claim(merged)
    _require(
        bool((part <= whole * (1 + 1e-4) + 1e-6).all()),
        f"it increases from {_format(whole)} to {_format(part)} when classes are merged, so it is no f-divergence "
        "of softmax(. / temperature); leave out @kernel(divergence=True)",
    )


LAWS: tuple[Callable[[KernelClaim], None], ...] = (
    check_declaration,
    check_shape,
    check_examples,
    check_classes,
    check_precision,
    check_purity,
    check_finite,
    check_masked_columns,
    check_gradient,
    check_equality,
    check_merging,
)
"""All laws of kernels."""


def _masked(claim: KernelClaim, sample: Mapping[str, Tensor], *, columns: int = 0, rows: int = 0) -> dict[str, Tensor]:
    """Set the last `columns` columns, or the first `rows` rows, to -inf in both. A masked row has no label."""
    masked = {name: tensor.clone() for name, tensor in sample.items()}
    for name in claim.outputs:
        masked[name][..., masked[name].shape[-1] - columns :] = -_INF
        masked[name][:rows] = -_INF
    if "labels" in masked:
        masked["labels"][:rows] = -100
    return masked


def _finite(claim: KernelClaim, sample: Mapping[str, Tensor], where: str) -> Tensor:
    leaves = {name: sample[name].clone().requires_grad_() for name in claim.outputs}
    value = claim({**sample, **leaves})
    _require(bool(value.isfinite().all()), f"its value for {where} is {_format(value)}, and must be finite")
    for (name, _), slope in zip(leaves.items(), torch.autograd.grad(value.sum(), list(leaves.values())), strict=True):
        message = f"its gradient in the {name} for {where} is {_format(slope)}, and must be finite"
        _require(bool(slope.isfinite().all()), message)
    return value.detach()


def _close(value: Tensor, expected: Tensor, broken: str, *, tolerance: float = 1e-5) -> None:
    same = value.shape == expected.shape and torch.allclose(value, expected, rtol=tolerance, atol=tolerance)
    _require(same, f"{broken}: {_format(value)}, where {_format(expected)} is expected")


def _format(values: Tensor) -> str:
    """Format a tensor for a message, with four digits."""
    return f"[{', '.join(map(_format, values))}]" if values.ndim else f"{values.item():.4g}"


def _require(condition: bool, broken: str) -> None:
    require(condition, broken, of=_OF)
