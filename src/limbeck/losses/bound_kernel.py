"""A kernel with its hyper-parameters, and the tensors that it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from torch import Tensor

from limbeck.batch import Progress
from limbeck.errors import ArgumentError, LimbeckError, nearest, unknown_name_error
from limbeck.functional.kernel import check_hyper, is_checked
from limbeck.schedule import Schedule
from limbeck.top_k_logits import PartialLogits, default_temperature

Kernel = Callable[..., Tensor]
Addresses = str | Mapping[str, str]
FROM_BATCH = frozenset({"labels", "targets", "mask", "id"})
_POINTS = 101  # at which a schedule of temperatures is evaluated


class BoundKernel:
    """A kernel with its hyper-parameters, the tensors that it needs, and the meaning of one value.

    Args:
        kernel: A function declared with ``@kernel(per=...)``.
        hyper: The hyper-parameters, each a value or a `Schedule`.
        outputs: The names under which it gets outputs of models.

    Raises:
        LimbeckError: If the kernel declares no ``per``, has other tensor names, or a hyper-parameter is missing or out
            of range.
        UnknownNameError: If the kernel has no such hyper-parameter. The message suggests the nearest name.
    """

    def __init__(self, kernel: Kernel, hyper: Mapping[str, Any], outputs: frozenset[str]) -> None:
        self.name = kernel.__name__ if hasattr(kernel, "__name__") else type(kernel).__name__
        self.per = self._declared_per(kernel)
        self.inputs, accepted = self._parameters(kernel, FROM_BATCH | outputs)
        self.hyper = dict(hyper)
        self.function = kernel
        """The function of the kernel."""
        self.divergence: bool = bool(kernel.divergence)  # type: ignore[attr-defined]
        """Whether it declares that it is an f-divergence between softmaxes."""
        for name in hyper:
            if name not in accepted:
                near = nearest(name, accepted) or ""
                raise unknown_name_error(f"hyper-parameter of {self.name}()", name, accepted, argument=near)
        absent = [key for key, required in accepted.items() if required and key not in hyper]
        check_hyper(**{k: value for k, value in hyper.items() if is_checked(k) and not isinstance(value, Schedule)})
        if absent:
            raise LimbeckError(f"{self.name}() needs a value for {', '.join(absent)}: Loss(..., {absent[0]}=...).")

    def __call__(self, tensors: Mapping[str, Tensor | PartialLogits], progress: Progress) -> Tensor:
        """Compute the unreduced values, with every schedule evaluated at `progress`."""
        hyper = {k: v(progress) if isinstance(v, Schedule) else v for k, v in self.hyper.items()}
        teacher = tensors.get("teacher")
        if isinstance(teacher, PartialLogits):
            return teacher.compare(self.function, cast(Tensor, tensors["student"]), **hyper)
        return self.function(**tensors, **hyper)

    @property
    def temperatures(self) -> frozenset[float]:
        """The temperatures of the kernel: its value, its default, or all values of a schedule; 1 if it has none."""
        temperature = self.hyper.get("temperature", default_temperature(self.function))
        if isinstance(temperature, Schedule):
            return frozenset(float(temperature(Progress(step, _POINTS))) for step in range(_POINTS))
        return frozenset({float(temperature)})

    def __repr__(self) -> str:
        return ", ".join([self.name, *(f"{k}={v!r}" for k, v in self.hyper.items())])

    def _declared_per(self, kernel: Kernel) -> str:
        if not hasattr(kernel, "per"):
            raise LimbeckError(
                f"{self.name}() does not declare what one value belongs to; "
                'put @kernel(per="example") (or "position", "output", "pair", "batch") above it.'
            )
        return cast(Any, kernel).per

    def _parameters(self, kernel: Kernel, tensors: frozenset[str]) -> tuple[set[str], dict[str, bool]]:
        """The tensors that it needs, and its hyper-parameters with whether each is required."""
        parameters = inspect.signature(kernel).parameters
        strange = [n for n, p in parameters.items() if p.kind is not p.KEYWORD_ONLY and n not in tensors]
        if strange or not set(parameters) & tensors:
            near = nearest(strange[0], tensors) if strange else None
            raise LimbeckError(
                f"{self.name}({', '.join(parameters)}): the tensors of a kernel are "
                f"{', '.join(sorted(tensors - FROM_BATCH))}, labels, targets, mask, id"
                + (f"; {strange[0]!r} is not one of them" if strange else "")
                + (f" (did you mean {near!r}?)" if near else "")
                + ", and its hyper-parameters are keyword-only. Other tensors are named in the loss: "
                'Loss(kernel, student={"a": "layer1", "b": "layer2"}).'
            )
        hyper = {n: p.default is p.empty for n, p in parameters.items() if n not in tensors}
        return set(parameters) & tensors, hyper


def check_tensor_names(kernel: Kernel, names: Iterable[str], argument: str) -> None:
    """Check that a kernel has a parameter for each of these names.

    Raises:
        UnknownNameError: If it has not; the message lists its parameters.
    """
    parameters = inspect.signature(kernel).parameters
    for name in names:
        if name not in parameters:
            raise unknown_name_error("tensor of the kernel", name, parameters, argument=argument)


def name_addresses(side: str, addresses: Addresses) -> dict[str, str]:
    """The addresses of a side by the names of the kernel's parameters.

    Raises:
        ArgumentError: If there are none, one is no address, or a name is that of a column of the batch.
    """
    if isinstance(addresses, str):
        return {side: addresses}
    for tensor, address in addresses.items():
        if tensor in FROM_BATCH:
            raise ArgumentError(f"{side}= names the tensor {tensor!r}, which comes from the batch.", argument=side)
        if not isinstance(address, str):
            raise ArgumentError(f"{side}= maps {tensor!r} to {address!r}, and needs an address.", argument=side)
    if not addresses:
        raise ArgumentError(f"{side}= is empty; give an address, or leave it out.", argument=side)
    return dict(addresses)
