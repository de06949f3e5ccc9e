"""Partial logits (top-k or sampled classes) and their comparison with a student's full logits."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import LimbeckError, callable_name
from limbeck.functional.kernel import declaration, merges
from limbeck.functional.sparse import COARSE, DENSE, FINE, interpolated, merged_values

Kernel = Callable[..., Tensor]

_SMALLEST = 2.0**-24
"""The least probability of classes that are not listed: log-probabilities in float32 say no more."""

MOST_POWER = 1.5
"""Largest power times temperature for sampled logits. At 1 all weights are equal."""


class PartialLogits(ABC):
    """Logits of a teacher of which only some classes are known, with a summary of the others.

    It is used in place of a tensor ``[*leading, classes]``. The leading dimensions are the example and, if there are
    any, its positions.
    """

    classes: int
    """The number of classes of the teacher."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, each with the leading dimensions first; the first has no others."""

    @abstractmethod
    def _like(self, *tensors: Tensor) -> PartialLogits:
        """Make the same object from other tensors."""

    @abstractmethod
    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """Compute the kernel's values, one for each row of the student's logits.

        Raises:
            LimbeckError: If the shape of the student's logits differs, or `invalid_reason` gives a reason.
        """

    @classmethod
    @abstractmethod
    def invalid_reason(cls, kernel: Kernel, **hyper: Any) -> str | None:
        """Return why a kernel cannot be computed from these logits, and what to store instead; None if it can."""

    def describe_bound(self, kernel: Kernel) -> str | None:
        """Return a sentence if a kernel's value for these logits misses more than the forward KL does; else None."""
        return None

    @property
    def shape(self) -> torch.Size:
        """Shape of the full logits: ``[*leading, classes]``."""
        return torch.Size([*self.tensors[0].shape, self.classes])

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.tensors[0].device

    def to_dense(self) -> Tensor | None:
        """The logits of all classes; None where only some of them are known."""
        return None

    def to(self, device: torch.device | str) -> PartialLogits:
        """Copy to a device."""
        return self._like(*(tensor.to(device, non_blocking=True) for tensor in self.tensors))

    def double(self) -> PartialLogits:
        """The same in float64."""
        return self._like(*(tensor.double() if tensor.is_floating_point() else tensor for tensor in self.tensors))

    def reshape(self, *leading: int) -> PartialLogits:
        """Change the leading dimensions, like ``Tensor.reshape``."""
        flat = self.tensors[0].ndim
        return self._like(*(tensor.reshape(*leading, *tensor.shape[flat:]) for tensor in self.tensors))

    def __getitem__(self, rows: Any) -> PartialLogits:
        """Select along the first dimension: a slice, a mask, or a tensor of indices."""
        return self._like(*(tensor[rows] for tensor in self.tensors))

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.shape)})"

    def _check(self, student: Tensor, kernel: Kernel, hyper: Mapping[str, Any]) -> None:
        why = self.invalid_reason(kernel, **hyper)
        if why:
            raise LimbeckError(why)
        if student.shape != self.shape:
            raise LimbeckError(
                f"The student's logits have shape {list(student.shape)}, and the stored teacher outputs have shape "
                f"{list(self.shape)}. Both need the same examples, positions and classes. Classes are the last "
                "dimension; classes= sets another one for the student."
            )


@final
class TopKLogits(PartialLogits):
    r"""The k largest logits of each row, and the total weight of the other classes.

    Args:
        ids: The k classes, each once per row.
        depths: Their logits minus `top`, 0 or below.
        top: The largest logit.
        rest: :math:`\log \sum_c e^{\beta (v_c - top)}` over the classes that are not in `ids`, and its derivative, at
            each :math:`\beta = 1/T` of `grid`.
        classes: The number of classes.
        grid: ``limbeck.functional.sparse.COARSE`` and further values, or ``DENSE``, which serves every T from 0.5.

    Example:
        >>> from limbeck.cache.encodings import make_encoding
        >>> encoding, logits = make_encoding("top-k", classes=4, k=2), torch.tensor([[3.0, 0.0, 2.0, 1.0]])
        >>> one = torch.zeros(1, dtype=torch.int64)
        >>> encoding.decode(encoding.encode(logits, id=one, view=one, position=one)).ids
        tensor([[0, 2]])
    """

    def __init__(
        self,
        ids: Int[Tensor, "*leading k"],
        depths: Float[Tensor, "*leading k"],
        top: Float[Tensor, "*leading"],
        rest: Float[Tensor, "*leading 2 nodes"],
        *,
        classes: int,
        grid: tuple[float, ...] = COARSE,
    ) -> None:
        self.ids, self.depths, self.top, self.rest = ids, depths, top, rest
        self.classes = classes
        self.grid = grid

    @staticmethod
    def from_log_probs(
        ids: Int[Tensor, "*leading k"],
        log_probs: Float[Tensor, "*leading k"],
        *,
        classes: int,
        temperature: float = 1.0,
    ) -> TopKLogits:
        """Partial logits from listed log-probabilities, as a server returns them; the rest has the missing mass.

        They are known at this temperature alone: a loss at another one is refused.

        Args:
            ids: The listed classes, each once per row.
            log_probs: The logarithms of their probabilities.
            classes: The number of classes.
            temperature: T of the probabilities.

        Raises:
            LimbeckError: If the probabilities of a row sum to more than 1, or one is NaN.

        Example:
            >>> listed = TopKLogits.from_log_probs(
            ...     torch.tensor([[2, 0]]), torch.tensor([[0.5, 0.25]]).log(), classes=5
            ... )
            >>> listed.coarse().softmax(-1)
            tensor([[0.5000, 0.2500, 0.2500]])
        """
        mass = log_probs.exp().sum(-1)
        if not bool((mass <= 1 + 1e-3).all()):
            raise LimbeckError(
                f"The listed probabilities of a row sum to {float(mass.max()):.4g}, more than 1. Are they "
                "log-probabilities, with each class once?"
            )
        top = log_probs.amax(-1)
        if log_probs.shape[-1] == classes:
            rest = torch.full_like(top, -torch.inf)
        else:
            # A mass of 1 is rounded: a rest of 0 would make every divergence from the student infinite.
            rest = torch.log1p(-mass.clamp_max(1.0 - _SMALLEST)) - top
        nodes = torch.stack([rest, torch.zeros_like(rest)], -1).unsqueeze(-1)
        depths = temperature * (log_probs - top.unsqueeze(-1))
        return TopKLogits(ids, depths, temperature * top, nodes, classes=classes, grid=(1 / temperature,))

    @property
    def logits(self) -> Float[Tensor, "*leading k"]:
        """The raw logits at `ids`."""
        return self.top.unsqueeze(-1) + self.depths

    @property
    def temperature(self) -> float:
        """A temperature at which the weight of the rest is known: 1 if possible."""
        return 1.0 if 1.0 in self.grid else 1 / self.grid[-1]

    def coarse(self, temperature: float = 1.0) -> Float[Tensor, "*leading buckets"]:
        """Return logits of k + 1 buckets minus `top`, the rest last, as in `limbeck.functional.coarse_logits`.

        Raises:
            LimbeckError: If the weight of the rest at this temperature was not stored.
        """
        rest = temperature * self._rest_at(temperature)
        return torch.cat([self.depths, rest.unsqueeze(-1)], -1)

    def _rest_at(self, temperature: float) -> Tensor:
        for index, beta in enumerate(self.grid):
            if math.isclose(beta * temperature, 1.0, rel_tol=1e-9):
                return self.rest[..., 0, index]
        if self.ids.shape[-1] == self.classes:  # there is no rest
            return self.rest[..., 0, 0]
        if self.grid == DENSE and temperature * DENSE[-1] > 1:
            return interpolated(self.rest, 1 / temperature, DENSE)[0]
        raise unknown_rest(temperature, self.grid)

    def spread(self, temperature: float = 1.0) -> Float[Tensor, "*leading classes"]:
        """Return logits of all classes, with the mass of the rest at `temperature` spread evenly over its classes."""
        buckets = self.coarse(temperature)
        others = max(self.classes - self.ids.shape[-1], 1)
        even = buckets[..., -1:] - temperature * math.log(others)
        return even.expand(*even.shape[:-1], self.classes).scatter(-1, self.ids, self.depths)

    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """Compute the divergence with all other classes merged: at most the full one, and 0 if the buckets agree."""
        self._check(student, kernel, hyper)
        temperature = hyper["temperature"] if "temperature" in hyper else default_temperature(kernel)
        buckets = self.coarse(temperature)
        return merged_values(partial(kernel, **hyper), student, buckets, self.ids, temperature=temperature)

    def describe_bound(self, kernel: Kernel) -> str | None:
        """Return a sentence for all divergences but the forward KL, if only a list of classes is known."""
        listed = self.ids.shape[-1]
        if len(self.grid) > 1 or listed == self.classes or callable_name(kernel) == "kl_divergence":
            return None
        return (
            f"{callable_name(kernel)} is computed from the {listed} classes that the teacher lists, and the other "
            f"{self.classes - listed:,} as one: a lower bound. It does not see where among the others the student puts "
            "its probability. The forward KL divergence misses less; a larger k helps, too."
        )

    @classmethod
    def invalid_reason(cls, kernel: Kernel, **hyper: Any) -> str | None:
        """Return why not: only divergences between two softmaxes keep their meaning when classes are merged."""
        if merges(kernel, **hyper) or not _reads_teacher(kernel):
            return None
        if declaration(kernel, "divergence"):
            values = ", ".join(f"{name}={value!r}" for name, value in hyper.items())
            return (
                f"{callable_name(kernel)}({values}) cannot be computed from the top-k logits of a teacher: for these "
                "values merging classes can increase it. Choose others (alpha + beta of at most 1), or store all "
                "classes with the encoding 'quantized' (1 byte per class), 'float16' or 'float32'."
            )
        return (
            f"{callable_name(kernel)} cannot be computed from the top-k logits of a teacher: it is not declared a "
            "divergence between two softmaxes (@kernel(divergence=True)), so it needs all classes. Store them with "
            "the encoding 'quantized' (1 byte per class), 'float16' or 'float32'."
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return self.top, self.ids, self.depths, self.rest

    def _like(self, *tensors: Tensor) -> TopKLogits:
        top, ids, depths, rest = tensors
        return TopKLogits(ids, depths, top, rest, classes=self.classes, grid=self.grid)


@final
class SampledLogits(PartialLogits):
    r"""Classes drawn at random from :math:`r \propto p^{power}`, for unbiased estimates of sums over p.

    Args:
        ids: The drawn classes, possibly repeated.
        depths: Their logits minus `top`.
        top: The largest logit.
        whole: :math:`\log \sum_c e^{\beta (v_c - top)}` over all classes, and its derivative, at each :math:`\beta` of
            `limbeck.functional.sparse.FINE`.
        proposal: The same sum at :math:`\beta = power`.
        power: The power of p in r; 1 draws from p.
        classes: The number of classes.
    """

    def __init__(
        self,
        ids: Int[Tensor, "*leading draws"],
        depths: Float[Tensor, "*leading draws"],
        top: Float[Tensor, "*leading"],
        whole: Float[Tensor, "*leading 2 nodes"],
        proposal: Float[Tensor, "*leading"],
        *,
        power: float,
        classes: int,
    ) -> None:
        self.ids, self.depths, self.top, self.whole, self.proposal = ids, depths, top, whole, proposal
        self.power = power
        self.classes = classes

    def weights(self, temperature: float = 1.0) -> Float[Tensor, "*leading draws"]:
        """Return ``p_c / (N r_c)`` for each of the N draws, with p at `temperature`; 0 for a class of logit -inf."""
        beta = 1 / temperature
        log_z = interpolated(self.whole, beta, FINE)[0]
        log_w = (beta - self.power) * self.depths + (self.proposal - log_z).unsqueeze(-1)
        none = (self.top == -torch.inf).unsqueeze(-1) | (self.depths == -torch.inf)
        return (log_w - math.log(self.ids.shape[-1])).masked_fill(none, -torch.inf).exp()

    def entropy(self, temperature: float = 1.0) -> Float[Tensor, "*leading"]:
        """Return the teacher's entropy over all classes at `temperature`, in nats."""
        beta = 1 / temperature
        log_z, mean = interpolated(self.whole, beta, FINE)
        return (log_z - beta * mean).masked_fill(self.top == -torch.inf, 0.0)

    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """Compute an unbiased estimate of the kernel's value, with an unbiased gradient."""
        self._check(student, kernel, hyper)
        temperature = hyper["temperature"] if "temperature" in hyper else default_temperature(kernel)
        if temperature * FINE[-1] < 1:
            raise LimbeckError(
                f"Sampled logits serve temperatures of {1 / FINE[-1]} and above; got {temperature!r}. Use a higher "
                "temperature, or store the encoding 'top-k' or 'quantized'."
            )
        check_power(self.power, temperature)
        weights, entropy = self.weights(temperature), self.entropy(temperature)
        estimate: Kernel = kernel.sampled  # type: ignore[attr-defined]
        return estimate(student, ids=self.ids, weights=weights, entropy=entropy, **hyper)

    @classmethod
    def invalid_reason(cls, kernel: Kernel, **hyper: Any) -> str | None:
        """Return why not: only what is linear in the teacher's probabilities can be estimated without bias."""
        if declaration(kernel, "sampled") is not None or not _reads_teacher(kernel):
            return None
        other = "'top-k', " if merges(kernel, **hyper) else ""
        return (
            f"{callable_name(kernel)} cannot be computed from sampled classes: it is not linear in the teacher's "
            "probabilities, so an average over samples would be biased. Use kl_divergence, or store the "
            f"encoding {other}'quantized', 'float16' or 'float32'."
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return self.top, self.ids, self.depths, self.whole, self.proposal

    def _like(self, *tensors: Tensor) -> SampledLogits:
        top, ids, depths, whole, proposal = tensors
        return SampledLogits(ids, depths, top, whole, proposal, power=self.power, classes=self.classes)


def unknown_rest(temperature: float, grid: Sequence[float]) -> LimbeckError:
    """Make the error for a temperature at which the weight of the other classes was not stored."""
    temperatures = (
        "0.5 and above" if tuple(grid) == DENSE else ", ".join(f"{1 / beta:g}" for beta in sorted(grid) if beta)
    )
    if len(grid) == 1:
        return LimbeckError(
            f"The weight of the classes that this teacher does not list is known at a temperature of {temperatures} "
            f"alone, not at {temperature:g}. Use temperature={temperatures}."
        )
    return LimbeckError(
        f"The top-k outputs hold the weight of all other classes at temperatures of {temperatures}, not at "
        f"{temperature:g}. Fill a new cache with encoding={{'name': 'top-k', 'k': ..., 'temperatures': "
        f"[{temperature:g}]}} (a cache that is filled during training stores the temperatures of its losses), or use "
        "the encoding 'quantized', which serves every temperature."
    )


def check_power(power: float, temperature: float) -> None:
    r"""Check that no few draws from :math:`p^{power}` carry nearly all the weight at a temperature.

    Weights are proportional to :math:`p^{1/T - power}`. With a power far above 1/T they grow without bound as p goes
    to 0, so that an average over a realistic number of draws is far from its expectation.

    Raises:
        LimbeckError: If power times temperature is above 1.5.
    """
    if power * temperature > MOST_POWER:
        raise LimbeckError(
            f"Classes drawn with power={power:g} cannot be used at temperature={temperature:g}: a few draws would have "
            f"nearly all the weight (power times temperature is at most {MOST_POWER}). Fill a new cache with "
            f"encoding={{'name': 'sampled', 'draws': ..., 'power': {1 / temperature:.3g}}}. Without a power, a cache "
            "that is filled during training uses 1 / temperature."
        )


def _reads_teacher(kernel: Kernel) -> bool:
    return "teacher" in inspect.signature(kernel).parameters


@lru_cache(maxsize=64)
def default_temperature(kernel: Kernel) -> float:
    """Return the default temperature of a kernel; 1 if it has none."""
    parameter = inspect.signature(kernel).parameters.get("temperature")
    return 1.0 if parameter is None or parameter.default is parameter.empty else float(parameter.default)
