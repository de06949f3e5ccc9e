"""The laws of kernels for unusual inputs: huge, masked, empty, and in half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch, Outputs, Progress
from limbeck.functional import KernelClaim
from limbeck.losses import Loss, LossContext
from limbeck.testing.law import require

OF = "kernels"
_INF = float("inf")
_SQUARABLE = 1e15
"""A size of logits whose squares, and sums of these, fit into float32."""


def check_finite(claim: KernelClaim) -> None:
    """Values and gradients are finite for huge logits, masked columns, masked rows, two classes and one example."""
    for scale in (claim.largest, -claim.largest):
        sample = claim.sample(4)
        huge = {name: scale * sample[name].sign() for name in claim.outputs}
        students = {name: huge[name] for name in claim.student if name in huge}
        _finite(claim, {**sample, **students}, f"a student's logits of {scale:g}")
        _finite(claim, {**sample, **huge}, f"logits of {scale:g}")
    if not claim.constants:
        _finite(claim, claim.sample(4, classes=claim.fewest_classes), f"{claim.fewest_classes} classes")
    _finite(claim, claim.sample(1), "one example")
    if claim.logits:
        _finite(claim, mask_sample(claim, claim.sample(4), columns=2), "columns that are -inf in both")
        value = _finite(claim, mask_sample(claim, claim.sample(4), rows=2), "rows of nothing but -inf in both")
        if claim.per == "position":
            broken = f"rows of nothing but -inf in both give {format_values(value[:2])}, not 0"
            require_kernel(bool((value[:2] == 0).all()), broken)


def check_one_sided(claim: KernelClaim) -> None:
    """A class that is -inf in the student or the teacher alone gives no NaN; infinite values are allowed."""
    if not claim.logits:
        return
    for who, names in (("student", claim.student), ("teacher", claim.teacher)):
        sample = claim.sample(4)
        spoiled = {name: tensor.clone() for name, tensor in sample.items()}
        for name in set(names) & set(claim.outputs):
            spoiled[name][..., -1] = -_INF
        if "labels" in spoiled:  # the label itself is a class that exists
            spoiled["labels"][:] = 0
        value, slopes = _value_and_gradient(claim, spoiled)
        where = f"a class that is -inf in the {who} alone"
        require_kernel(not value.isnan().any(), f"its value for {where} is {format_values(value)}, and must not be NaN")
        for name, slope in slopes.items():
            broken = f"its gradient in the {name} for {where} is {format_values(slope)}, and must not be NaN"
            require_kernel(not slope.isnan().any(), broken)


def check_masked_columns(claim: KernelClaim) -> None:
    """A column that is -inf in both is equivalent to no column."""
    if claim.logits:
        sample = claim.sample(4)
        fewer = {name: tensor[..., :-2] if name in claim.outputs else tensor for name, tensor in sample.items()}
        masked = claim(mask_sample(claim, sample, columns=2))
        require_close(masked, claim(fewer), "a column that is -inf in both changes its values")


def check_empty(claim: KernelClaim) -> None:
    """A batch without examples has no values, and one that is compared as a whole has the value 0."""
    sample = claim.sample(0)
    leaves = {name: sample[name].requires_grad_() for name in claim.outputs}
    value = claim({**sample, **leaves})
    expected = value_shape(claim, sample)
    broken = f"it returns shape {tuple(value.shape)} for a batch of no examples, not {expected}"
    require_kernel(tuple(value.shape) == expected, broken)
    if claim.per == "batch":
        require_kernel(value.item() == 0, f"it is {value.item():g} for a batch of no examples, not 0")
    if value.requires_grad:
        value.sum().backward()


def check_half(claim: KernelClaim) -> None:
    """Inputs in float16 and bfloat16 give the value and gradient that float64 gives for the same numbers."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = claim.sample(4, dtype=dtype)
        double = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in narrow.items()}
        value, slopes = _value_and_gradient(claim, narrow)
        exact, steepness = _value_and_gradient(claim, double)
        require_close(value.double(), exact, f"inputs in {_name(dtype)} give another value", tolerance=1e-4)
        for name, slope in slopes.items():
            wanted = steepness[name]
            allowed = torch.finfo(dtype).eps * wanted.abs() + 1e-4 * wanted.abs().amax() + 1e-6
            error = (slope.double() - wanted).abs()
            broken = f"inputs in {_name(dtype)} give a gradient in the {name} that is wrong by up to {error.max():.2g}"
            require_kernel(slope.dtype == dtype and bool((error <= allowed).all()), broken)


def check_mask(claim: KernelClaim) -> None:
    """A mask is equivalent to leaving out what it masks, whatever stands there."""
    if not claim.takes("mask"):
        return
    sample = claim.sample(4, dtype=torch.float64)
    mask = sample["mask"].clone()
    if not claim.positions:
        mask[1::2] = False
        value, expected = claim(_spoil(claim, sample, mask)), claim(_keep(sample, mask))
        kept = {"batch": lambda: value, "pair": lambda: value[mask][:, mask]}.get(claim.per, lambda: value[mask])()
        require_close(kept, expected, "a mask is not equivalent to leaving examples out")
        return
    length = mask.shape[1]
    for row in range(len(mask)):  # another number of positions in each example, and not only the last are masked
        mask[row, torch.arange(length).roll(-row)[: row % length]] = False
    if claim.per not in ("example", "position"):
        mask[:] = mask[-1]
    value = claim(_spoil(claim, sample, mask))
    broken = "a mask is not equivalent to leaving positions out"
    if claim.per not in ("example", "position"):
        require_close(value, claim(_keep_positions(claim, sample, mask[-1])), broken)
        return
    for row, kept in enumerate(mask):
        one = {name: tensor if name in claim.constants else tensor[row : row + 1] for name, tensor in sample.items()}
        alone = claim(_keep_positions(claim, one, kept))
        own = value[row : row + 1]
        require_close(own if claim.per == "example" else own[:, _line(kept)], alone, broken)


def check_masked_teacher(claim: KernelClaim) -> None:
    """In a `Loss`, NaN of the teacher where nothing counts, as attention over padding alone gives, changes nothing."""
    sample = claim.sample(4, dtype=torch.float64)
    own, its = ([name for name in names if name in sample] for names in (claim.student, claim.teacher))
    rows = (4, *sample[own[0]].shape[1 : 1 + claim.positions])
    mask = torch.arange(math.prod(rows)).reshape(rows) % 3 != 1
    mask[-1] = False
    spoilable = [name for name in its if sample[name].shape[: mask.ndim] == mask.shape]
    if not spoilable:
        return
    hyper = {**claim.hyper, **{name: sample[name] for name in claim.constants}}
    loss = Loss(claim.kernel, student={name: name for name in own}, teacher={name: name for name in its}, **hyper)
    extra = {"targets": sample["targets"]} if "targets" in sample else {}
    batch = Batch(torch.zeros(4, 1), sample.get("id"), labels=sample.get("labels"), mask=mask, extra=extra)
    found = []
    for masked in (0.0, torch.nan):
        teacher = Outputs({name: sample[name].clone() for name in its})
        for name in spoilable:
            teacher[name][~mask] = masked
        student = Outputs({name: sample[name].clone().requires_grad_() for name in own})
        term = loss.setup(LossContext(student, teacher, batch)).term(student, teacher, batch, Progress())
        found.append((term.total, torch.autograd.grad(term.total, list(student.values()), materialize_grads=True)))
    (value, slopes), (other, others) = found
    require_close(other, value, "a teacher's NaN where the mask is false changes its value in a Loss")
    for one, expected in zip(others, slopes, strict=True):
        require_close(one, expected, "a teacher's NaN where the mask is false changes its gradient in a Loss")


def _line(kept: Tensor) -> Tensor:
    """Of the mask of one example, which positions of the first dimension count."""
    return kept.flatten(1).all(1) if kept.ndim > 1 else kept


def _keep(sample: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    return {name: tensor[mask] if len(tensor) == len(mask) else tensor for name, tensor in sample.items()}


def _keep_positions(claim: KernelClaim, sample: Mapping[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
    whole = {"id", *claim.constants}
    return {name: tensor if name in whole else tensor[:, _line(kept)] for name, tensor in sample.items()}


def _spoil(claim: KernelClaim, sample: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Set the mask, and put large numbers where it masks."""
    spoiled = {name: tensor.clone() for name, tensor in sample.items()} | {"mask": mask}
    for name in claim.outputs:
        spoiled[name][~mask] = 1e4
    return spoiled


def value_shape(claim: KernelClaim, sample: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape of a kernel's values, as ``per`` declares it."""
    each = tuple(sample[claim.student[0]].shape)
    shapes = {"example": each[:1], "position": each[:-1], "output": each, "pair": (each[0], each[0]), "batch": ()}
    return shapes[claim.per]


def mask_sample(
    claim: KernelClaim, sample: Mapping[str, Tensor], *, columns: int = 0, rows: int = 0
) -> dict[str, Tensor]:
    """Set the last `columns` columns, or the first `rows` rows, to -inf in both. A masked row has no label."""
    masked = {name: tensor.clone() for name, tensor in sample.items()}
    for name in claim.outputs:
        masked[name][..., masked[name].shape[-1] - columns :] = -_INF
        masked[name][:rows] = -_INF
    if "labels" in masked:
        masked["labels"][:rows] = -100
    return masked


def _value_and_gradient(claim: KernelClaim, sample: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: sample[name].clone().requires_grad_() for name in claim.outputs}
    value = claim({**sample, **leaves})
    slopes = torch.autograd.grad(value.sum(), list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, slopes, strict=True))


def _finite(claim: KernelClaim, sample: Mapping[str, Tensor], where: str) -> Tensor:
    value, slopes = _value_and_gradient(claim, sample)
    hint = _largest_hint(claim, where)
    broken = f"its value for {where} is {format_values(value)}, and must be finite{hint}"
    require_kernel(bool(value.isfinite().all()), broken)
    for name, slope in slopes.items():
        message = f"its gradient in the {name} for {where} is {format_values(slope)}, and must be finite{hint}"
        require_kernel(bool(slope.isfinite().all()), message)
    return value


def _largest_hint(claim: KernelClaim, where: str) -> str:
    """What to type if squares overflow float32."""
    huge = where.endswith((f"logits of {claim.largest:g}", f"logits of {-claim.largest:g}"))
    if not huge or claim.largest <= _SQUARABLE:
        return ""
    return f"; if the formula squares logits, type KernelClaim(..., largest={_SQUARABLE:g})"


def require_close(value: Tensor, expected: Tensor, broken: str, *, tolerance: float = 1e-5) -> None:
    """Raise unless two tensors are equal up to rounding.

    Raises:
        LawError: If they are not. The message has both.
    """
    same = value.shape == expected.shape and torch.allclose(value, expected, rtol=tolerance, atol=tolerance)
    require_kernel(same, f"{broken}: {format_values(value)}, where {format_values(expected)} is expected")


def require_kernel(condition: bool, broken: str) -> None:
    """Raise if a law of kernels is broken.

    Raises:
        LawError: If the condition is false.
    """
    require(condition, broken, of=OF)


def format_values(values: Tensor) -> str:
    """Format a tensor for a message, with four digits; of a long one, the first values of each dimension."""
    if not values.ndim:
        return f"{values.item():.4g}"
    rest = ", ..." if len(values) > 8 else ""
    return f"[{', '.join(map(format_values, values[:8]))}{rest}]"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
