"""`KernelClaim`: what a kernel promises, as data that a card of a method holds and `limbeck.testing` checks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, callable_name, unknown_name_error
from limbeck.functional.kernel import declaration

_KINDS = {
    "shift": "a number added to each example, or to each row of logits",
    "scale": "a positive factor for each example, or for each row of logits",
    "batch_scale": "one positive factor for all values of the batch",
    "translation": "one example added to all examples",
    "negation": "the sign of all values",
    "rotation": "an orthogonal matrix, the same for all, applied to the features",
    "channel_permutation": "another order of the features",
    "position_permutation": "another order of the positions, the same for all examples",
    "flip": "the last position dimension in reverse order",
}

INVARIANCES: Mapping[str, str] = {
    f"{side}_{kind}": f"{what}: {text}"
    for kind, text in _KINDS.items()
    for side, what in {
        "student": "the student's tensors",
        "teacher": "the teacher's tensors",
        "joint": "both, in the same way",
    }.items()
}
"""The transformations that may leave a kernel's values unchanged, by name: ``student_shift``, ``joint_rotation``."""


@dataclass(frozen=True)
class KernelClaim:
    """What a kernel promises: `limbeck.testing.check_kernel` checks it, and a card lists it for each of its kernels.

    Attributes:
        kernel: A function decorated with `limbeck.functional.kernel`.
        classes: The number of classes or features of the samples; 4 or more.
        shape: The shape of one example, without the batch dimension, for kernels that need more dimensions than
            ``[classes]``: ``(8, 4, 4)`` for feature maps of 8 channels, ``(6, 5)`` for 6 tokens. It replaces `classes`.
        teacher_shape: The same for the teacher's tensors, if it differs from `shape`, such as another width.
        shapes: The same by name, for tensors that differ from both: ``{"low": (3, 8, 8), "high": (6, 4, 4)}``.
        constants: The shapes of tensors without a batch dimension, such as the weight of a classifier.
        positions: How many dimensions of `shape`, from the first, are positions. Labels and `mask` have them too: 1
            for tokens ``[tokens, width]``.
        channels: The dimension of the features in a batch: -1, or 1 for maps ``[batch, channels, height, width]``.
        student: The names of the student's tensors, for a kernel of several layers (``Loss(..., student={...})``).
        teacher: The names of the teacher's tensors, in the same order.
        hyper: The hyper-parameters of the calls.
        zero_at_equality: Whether the value is 0 where student and teacher are equal, and positive where they differ. By
            default as declared: a ``@kernel(divergence=True)`` is.
        tolerance: The largest value and gradient at equality that count as 0.
        logits: Whether the kernel takes rows of logits. Then classes may be permuted, and -inf masks a class.
        permutable_classes: Whether all classes are alike. False if hyper-parameters name some of them.
        largest: The largest logit that must not overflow.
        fewest_classes: The smallest number of classes or features.
        invariances: The transformations that do not change the values: names of `INVARIANCES`.
        pairs: Whether the mathematics needs pairs of classes or positions, so that memory grows with their square.
        stop_gradient: Whether a part of the formula is constant in the backward pass. Then the gradient is not that of
            the value, and only checked to be finite: the test of the method must compare it.

    Raises:
        UnknownNameError: If there is no such invariance. The message suggests the nearest name.
        ArgumentError: If a shape has fewer dimensions than `positions` says.

    Example:
        >>> from limbeck.functional import kl_divergence
        >>> claim = KernelClaim(kl_divergence, invariances=("student_shift", "teacher_shift"))
        >>> claim(claim.sample(3)).shape
        torch.Size([3])
    """

    kernel: Callable[..., Tensor]
    classes: int = 5
    shape: tuple[int, ...] = ()
    teacher_shape: tuple[int, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    positions: int = 0
    channels: int = -1
    student: tuple[str, ...] = ("student",)
    teacher: tuple[str, ...] = ("teacher",)
    hyper: Mapping[str, Any] = field(default_factory=dict)
    zero_at_equality: bool | None = None
    tolerance: float = 1e-6
    logits: bool = True
    permutable_classes: bool = True
    largest: float = 1e30
    fewest_classes: int = 2
    invariances: tuple[str, ...] = ()
    pairs: bool = False
    stop_gradient: bool = False

    def __post_init__(self) -> None:
        for name in self.invariances:
            if name not in INVARIANCES:
                raise unknown_name_error("invariance of a kernel", name, INVARIANCES, argument="invariances")
        if self.positions and len(self.shape) <= self.positions:
            raise ArgumentError(
                f"positions={self.positions} needs a shape of more dimensions, such as shape=(6, 5) for 6 tokens of 5 "
                f"features; got shape={self.shape}.",
                argument="positions",
            )

    def __call__(self, sample: Mapping[str, Tensor]) -> Tensor:
        """Compute the value for a sample."""
        return self.kernel(**sample, **self.hyper)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.hyper.items())})"

    @property
    def name(self) -> str:
        """The name of the kernel."""
        return callable_name(self.kernel)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all outputs of models that the kernel takes."""
        return tuple(name for name in (*self.student, *self.teacher) if self.takes(name))

    @property
    def per(self) -> str:
        """The kernel's ``per``: what one value belongs to, such as a row, a pair or a batch."""
        return str(declaration(self.kernel, "per"))

    @property
    def is_divergence(self) -> bool:
        """Whether the kernel is declared an f-divergence."""
        return bool(declaration(self.kernel, "divergence"))

    def takes(self, name: str) -> bool:
        """Whether the kernel has an argument of this name."""
        return name in self._parameters

    @cached_property  # a check asks a hundred times, and a signature takes as long as a small kernel
    def _parameters(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.kernel).parameters)

    def example_shape(self, name: str, *, classes: int | None = None) -> tuple[int, ...]:
        """The shape of one example of a tensor, optionally with another number of classes."""
        shape = self.teacher_shape if self.teacher_shape and name in self.teacher else self.shape or (self.classes,)
        shape = self.shapes.get(name, shape)
        return shape if classes is None else (*shape[:-1], classes)

    def sample(
        self, *shape: int, classes: int | None = None, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> dict[str, Tensor]:
        """Draw random arguments: logits of `shape` with classes last, and the labels, targets, ids or mask needed."""
        batch = shape or (4,)
        draw = torch.Generator().manual_seed(seed)
        first = self.example_shape(self.student[0], classes=classes)
        rows = (*batch, *first[: self.positions])

        def normal(*size: int) -> Tensor:
            return (3 * torch.randn(*size, generator=draw)).to(dtype)

        arguments = {
            **{name: normal(*batch, *self.example_shape(name, classes=classes)) for name in self.student},
            **{name: normal(*batch, *self.example_shape(name, classes=classes)) for name in self.teacher},
            # The last two columns have no labels, because some laws mask them.
            "labels": torch.randint(max(first[-1] - 2, 1), rows, generator=draw),
            # From 0 to 1: valid for regression and as probabilities.
            "targets": torch.rand(*batch, *first, generator=draw).to(dtype),
            "mask": torch.ones(rows, dtype=torch.bool),
            "id": torch.arange(math.prod(batch[:1])),
            **{name: normal(*size) / 3 for name, size in self.constants.items()},
        }
        return {name: value for name, value in arguments.items() if self.takes(name)}
