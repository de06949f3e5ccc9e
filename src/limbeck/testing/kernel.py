"""`check_kernel`: checks the laws of kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from limbeck.functional import KernelClaim, coarse_logits
from limbeck.functional.kernel import Per, merges
from limbeck.losses.bound_kernel import FROM_BATCH
from limbeck.testing.invariance import transform_sample
from limbeck.testing.kernel_inputs import (
    OF,
    check_empty,
    check_finite,
    check_half,
    check_mask,
    check_masked_columns,
    check_masked_teacher,
    check_one_sided,
    format_values,
    mask_sample,
    require_close,
    require_kernel,
    value_shape,
)
from limbeck.testing.law import check_laws
from limbeck.top_k_logits import default_temperature

__all__ = ["LAWS", "check_kernel"]


def check_kernel(kernel: Callable[..., Tensor] | KernelClaim, **claim: Any) -> None:
    """Check a kernel against all laws that apply to it.

    The laws:

    * It declares what one value belongs to, and returns values of that shape.
    * The order of examples and of classes does not matter.
    * It computes in float32 or better, with and without autocast.
    * It does not change its arguments.
    * Values and gradients are finite for huge logits, masked columns, masked rows, two classes and one example.
    * A batch of no examples has no values, or the value 0 if it is compared as a whole.
    * Inputs in float16 and bfloat16 give the value and gradient of float64, up to the rounding of the inputs.
    * A class that is -inf in the student or the teacher alone gives no NaN.
    * A masked column is equivalent to no column, and a `mask` to leaving out what it masks.
    * In a `Loss`, what the teacher says where the mask of a batch is False may be NaN.
    * The gradient is the derivative of the value, except with `stop_gradient`.
    * Each of `invariances` changes nothing.
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
    check_laws([partial(check_declaration, whole)], of=OF, subject=str(whole))
    check_laws([partial(law, whole) for law in LAWS], of=OF, subject=str(whole))


def check_declaration(claim: KernelClaim) -> None:
    """It declares ``per``, and its hyper-parameters are keyword-only."""
    require_kernel(claim.per in get_args(Per), f"per is {claim.per}; decorate the function with @kernel(per=...)")
    for name, parameter in inspect.signature(claim.kernel).parameters.items():
        keyword_only = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
        require_kernel(keyword_only or name in {*FROM_BATCH, *claim.outputs}, f"{name} must be keyword-only")


def check_shape(claim: KernelClaim) -> None:
    """Its values are unreduced, with the shape that ``per`` declares."""
    positions = claim.per in ("example", "position", "output") and not claim.shape
    for shape in ((4,), (1,)) + (((3, 2),) if positions else ()):
        sample = claim.sample(*shape)
        value, each, expected = claim(sample), tuple(sample[claim.student[0]].shape), value_shape(claim, sample)
        broken = f"it returns shape {tuple(value.shape)} per {claim.per} for a student of shape {each}, not {expected}"
        require_kernel(tuple(value.shape) == expected, broken)


def check_examples(claim: KernelClaim) -> None:
    """The order of the examples in a batch does not matter."""
    sample, order = claim.sample(4), torch.tensor([2, 0, 3, 1])
    value = claim(sample)
    moved = claim({name: tensor if name in claim.constants else tensor[order] for name, tensor in sample.items()})
    expected = {"pair": lambda: value[order][:, order], "batch": lambda: value}.get(claim.per, lambda: value[order])()
    require_close(moved, expected, "its values are not permuted with the examples")


def check_classes(claim: KernelClaim) -> None:
    """The order of the classes does not matter."""
    if not claim.logits or not claim.permutable_classes:
        return
    sample = claim.sample(4)
    order = torch.arange(sample[claim.student[0]].shape[-1]).roll(1)
    moved = {name: tensor[..., order] for name, tensor in sample.items() if name in claim.outputs}
    labels = {"labels": order.argsort()[sample["labels"]]} if "labels" in sample else {}
    require_close(
        claim({**sample, **moved, **labels}), claim(sample), "its values change when the classes are permuted"
    )


def check_precision(claim: KernelClaim) -> None:
    """It computes in float32 or better for every input dtype, and autocast changes nothing."""
    narrow = claim.sample(4, dtype=torch.bfloat16)
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in narrow.items()}
    value = claim(wide)
    require_kernel(value.dtype == torch.float32, f"float32 logits give {value.dtype}, not torch.float32")
    require_kernel(torch.equal(claim(narrow), value), "bfloat16 logits are not widened to float32 before it computes")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        require_kernel(torch.equal(claim(wide), value), "autocast changes its values; decorate it with @kernel")
    double = claim({name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in wide.items()})
    require_kernel(double.dtype == torch.float64, f"float64 logits give {double.dtype}, not torch.float64")
    require_close(value.double(), double, "its float32 and float64 values differ by more than rounding", tolerance=1e-4)


def check_purity(claim: KernelClaim) -> None:
    """It does not change its arguments."""
    sample = claim.sample(4)
    before = {name: tensor.clone() for name, tensor in sample.items()}
    claim(sample)
    for name, tensor in sample.items():
        require_kernel(torch.equal(tensor, before[name]), f"it writes into {name}")


def check_gradient(claim: KernelClaim) -> None:
    """Its first and second derivatives agree with finite differences."""
    if claim.stop_gradient:
        return
    sample = claim.sample(3, dtype=torch.float64)
    names = claim.outputs
    leaves = tuple(sample[name].requires_grad_() for name in names)

    def value(*tensors: Tensor) -> Tensor:
        return claim({**sample, **dict(zip(names, tensors, strict=True))})

    for check, what in ((torch.autograd.gradcheck, "gradient"), (torch.autograd.gradgradcheck, "second derivative")):
        try:
            # The fast mode compares random directions. Each entry by itself would take seconds.
            check(value, leaves, fast_mode=True)
        except GradcheckError as error:
            message = " ".join(str(error).split())
            require_kernel(False, f"its {what} does not agree with finite differences: {message.rstrip('.')}")


def check_equality(claim: KernelClaim) -> None:
    """It is 0, with a gradient of 0, where student and teacher are equal, and positive where they differ."""
    if not (claim.is_divergence if claim.zero_at_equality is None else claim.zero_at_equality):
        return
    sample = claim.sample(4)
    masked = [mask_sample(claim, sample, columns=2)] if claim.logits else []
    huge = {**sample, **{name: claim.largest * sample[name].sign() for name in claim.teacher}}
    for equal in (sample, huge, *masked):
        mine = {
            name: equal[its].clone().requires_grad_() for name, its in zip(claim.student, claim.teacher, strict=True)
        }
        value = claim({**equal, **mine})
        largest = value.abs().max().item()
        require_kernel(largest <= claim.tolerance, f"it is {largest:g} where student and teacher are equal, not 0")
        slopes = torch.autograd.grad(value.sum(), list(mine.values()))
        steepest = max(slope.abs().max().item() for slope in slopes)
        require_kernel(steepest <= claim.tolerance, f"its gradient at equality is {steepest:g}, not 0")
    value = claim(sample)
    if claim.per == "pair":  # an example and itself are the same pair in both
        value = value[~torch.eye(len(value), dtype=torch.bool)]
    require_kernel(bool((value > 0).all()), "it is not positive where student and teacher differ")


def check_invariances(claim: KernelClaim) -> None:
    """The transformations that it claims to be invariant to change nothing."""
    sample = claim.sample(4, dtype=torch.float64)
    value = claim(sample)

    def check(name: str) -> None:
        moved = claim(transform_sample(name, claim, sample, seed=1))
        require_close(moved, value, f"it is not invariant to {name}", tolerance=1e-9)

    check_laws([partial(check, name) for name in claim.invariances], of=OF)


def check_merging(claim: KernelClaim) -> None:
    """A declared divergence does not increase if classes are merged."""
    if not merges(claim.kernel, **claim.hyper):
        return
    sample = claim.sample(8)
    temperature = claim.hyper.get("temperature", default_temperature(claim.kernel))
    classes = sample["teacher"].topk(2).indices
    merged = {name: coarse_logits(rows, classes, temperature=temperature) for name, rows in sample.items()}
    whole, part = claim(sample), claim(merged)
    require_kernel(
        bool((part <= whole * (1 + 1e-4) + 1e-6).all()),
        f"it increases from {format_values(whole)} to {format_values(part)} when classes are merged, so it is no "
        "f-divergence of softmax(. / temperature); leave out @kernel(divergence=True)",
    )


LAWS: tuple[Callable[[KernelClaim], None], ...] = (
    check_declaration,
    check_shape,
    check_examples,
    check_classes,
    check_precision,
    check_purity,
    check_finite,
    check_empty,
    check_half,
    check_masked_columns,
    check_one_sided,
    check_mask,
    check_masked_teacher,
    check_gradient,
    check_equality,
    check_invariances,
    check_merging,
)
"""All laws of kernels."""
