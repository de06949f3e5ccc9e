"""Partial logits (top-k or sampled classes) and their comparison with a student's full logits."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional.sparse import COARSE, DENSE, FINE, interpolated
from limbeck.functional.sparse import coarse_logits

Kernel = Callable[..., Tensor]

MOST_POWER = 1.5
"""Power times temperature above which sampled answers are refused; at 1 their weights are all alike."""


class PartialLogits(ABC):
    """A teacher's answer that says less than a row of logits does: which classes, and how the others are known.

    It stands where a tensor ``[*leading, classes]`` would: classes are last, and its leading dimensions are the
    example and, where there are any, its positions.
    """

    classes: int
    """How many classes the teacher has."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds, each with the leading dimensions first; the first has no others."""

    @abstractmethod
    def _like(self, *tensors: Tensor) -> PartialLogits:
        """The same of other tensors."""

    @abstractmethod
    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """The kernel's values, one for each row of the student's logits.

        Raises:
            LimbeckError: If the student's logits are not of the same rows and classes, or the kernel is
            `invalid_reason` here.
        """

    @classmethod
    @abstractmethod
    def invalid_reason(cls, kernel: Kernel) -> str | None:
        """Why a kernel cannot be computed from answers of this kind, and what to store instead; None where it can."""

    @property
    def shape(self) -> torch.Size:
        """Of the logits that it stands for: ``[*leading, classes]``."""
        return torch.Size([*self.tensors[0].shape, self.classes])

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.tensors[0].device

    def to(self, device: torch.device | str) -> PartialLogits:
        """The same on `device`."""
        return self._like(*(tensor.to(device, non_blocking=True) for tensor in self.tensors))

    def reshape(self, *leading: int) -> PartialLogits:
        """The same rows under other leading dimensions, as ``Tensor.reshape`` has them."""
        flat = self.tensors[0].ndim
        return self._like(*(tensor.reshape(*leading, *tensor.shape[flat:]) for tensor in self.tensors))

    def __getitem__(self, rows: Any) -> PartialLogits:
        """These of the first dimension: a slice, a mask, or a tensor of places."""
        return self._like(*(tensor[rows] for tensor in self.tensors))

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.shape)})"

    def _check(self, student: Tensor, kernel: Kernel) -> None:
        why = self.invalid_reason(kernel)
        if why:
            raise LimbeckError(why)
        if student.shape != self.shape:
            raise LimbeckError(
                f"The student's logits have the shape {list(student.shape)} and the stored answers stand for "
                f"{list(self.shape)}: give both the same examples, positions and classes (the classes last; classes= "
                "says which dimension of the student's they are)."
            )


@final
class TopKLogits(PartialLogits):
    r"""The k largest logits of each row, exactly which classes, and what all others weigh together.

    Args:
        ids: Which classes, each once in a row.
        depths: Their logits less `top`, 0 or below.
        top: The largest logit.
        rest: :math:`\log \sum_c e^{\beta (v_c - top)}` over the classes that are not in `ids`, and its slope, at each
            :math:`\beta = 1/T` of `grid`.
        classes: How many there are.
        grid: ``limbeck.functional.sparse.COARSE`` and further ones, or ``DENSE``, from which any T from 0.5 on
        is
            computed.

    Example:
        >>> from limbeck.cache.encodings import make
        >>> encoding, logits = make("top-k", classes=4, k=2), torch.tensor([[3.0, 0.0, 2.0, 1.0]])
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

    @property
    def logits(self) -> Float[Tensor, "*leading k"]:
        """The raw logits at `ids`."""
        return self.top.unsqueeze(-1) + self.depths

    def coarse(self, temperature: float = 1.0) -> Float[Tensor, "*leading buckets"]:
        """Logits of k + 1 buckets less `top`, the rest last, as `limbeck.functional.coarse_logits` has them.

        Raises:
            LimbeckError: If what the rest weighs at this temperature is not known; it is guessed at none.
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
        """Logits of all classes, the rest's mass at `temperature` spread evenly: what is not known is made up."""
        buckets = self.coarse(temperature)
        others = max(self.classes - self.ids.shape[-1], 1)
        even = buckets[..., -1:] - temperature * math.log(others)
        return even.expand(*even.shape[:-1], self.classes).scatter(-1, self.ids, self.depths)

    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """A divergence of both sides with all other classes merged: at most the whole one, 0 where buckets agree."""
        self._check(student, kernel)
        temperature = hyper["temperature"] if "temperature" in hyper else default_temperature(kernel)
        return kernel(coarse_logits(student, self.ids, temperature=temperature), self.coarse(temperature), **hyper)

    @classmethod
    def invalid_reason(cls, kernel: Kernel) -> str | None:
        """Only divergences between two softmaxes keep their meaning when classes are merged."""
        if getattr(kernel, "divergence", False) or not _reads_teacher(kernel):
            return None
        return (
            f"{_name(kernel)} cannot be computed from the top k of a teacher's classes: it is not declared a "
            "divergence between two softmaxes (@kernel(divergence=True)), so it needs every class by itself. Store "
            "all of them: the encoding 'quantized' (1 byte a class), 'float16' or 'float32'."
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        return self.top, self.ids, self.depths, self.rest

    def _like(self, *tensors: Tensor) -> TopKLogits:
        top, ids, depths, rest = tensors
        return TopKLogits(ids, depths, top, rest, classes=self.classes, grid=self.grid)


@final
class SampledLogits(PartialLogits):
    r"""Classes drawn at random from :math:`r \propto p^{power}`, with which sums over p can be estimated without bias.

    Args:
        ids: The classes drawn; one may come more than once.
        depths: Their logits less `top`.
        top: The largest logit.
        whole: :math:`\log \sum_c e^{\beta (v_c - top)}` over all classes, and its slope, at each :math:`\beta` of
            `limbeck.functional.sparse.FINE`.
        proposal: The same at :math:`\beta = power`.
        power: 1 draws from p.
        classes: How many there are.
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
        """``p_c / (N r_c)`` with p at `temperature`: one for each of the N draws; 0 in a row without a class."""
        beta = 1 / temperature
        log_z = interpolated(self.whole, beta, FINE)[0]
        log_w = (beta - self.power) * self.depths + (self.proposal - log_z).unsqueeze(-1)
        none = (self.top == -torch.inf).unsqueeze(-1)
        return (log_w - math.log(self.ids.shape[-1])).masked_fill(none, -torch.inf).exp()

    def entropy(self, temperature: float = 1.0) -> Float[Tensor, "*leading"]:
        """Of the teacher at `temperature`, in nats: that of all classes, not of those drawn."""
        beta = 1 / temperature
        log_z, mean = interpolated(self.whole, beta, FINE)
        return (log_z - beta * mean).masked_fill(self.top == -torch.inf, 0.0)

    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """An estimate whose expectation over draws is the kernel's value, and whose gradient's is its gradient."""
        self._check(student, kernel)
        temperature = hyper["temperature"] if "temperature" in hyper else default_temperature(kernel)
        if temperature * FINE[-1] < 1:
            raise LimbeckError(
                f"Sampled answers know what all classes weigh at temperatures of {1 / FINE[-1]} and above; got "
                f"{temperature!r}. Take a higher one, or store 'top-k' or 'quantized'."
            )
        check_power(self.power, temperature)
        weights, entropy = self.weights(temperature), self.entropy(temperature)
        estimate: Kernel = kernel.sampled  # type: ignore[attr-defined]
        return estimate(student, ids=self.ids, weights=weights, entropy=entropy, **hyper)

    @classmethod
    def invalid_reason(cls, kernel: Kernel) -> str | None:
        """Only what is linear in the teacher's probabilities can be estimated without bias."""
        if getattr(kernel, "sampled", None) is not None or not _reads_teacher(kernel):
            return None
        other = "'top-k', " if getattr(kernel, "divergence", False) else ""
        return (
            f"{_name(kernel)} cannot be computed from sampled classes: it is not linear in the teacher's "
            "probabilities, so an average over samples would be biased; kl_divergence is, and can be. Or store the "
            f"encoding {other}'quantized', 'float16' or 'float32'."
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        return self.top, self.ids, self.depths, self.whole, self.proposal

    def _like(self, *tensors: Tensor) -> SampledLogits:
        top, ids, depths, whole, proposal = tensors
        return SampledLogits(ids, depths, top, whole, proposal, power=self.power, classes=self.classes)


def unknown_rest(temperature: float, grid: Sequence[float]) -> LimbeckError:
    """An error for a temperature at which nobody wrote down what the classes weigh that were not kept."""
    temperatures = (
        "0.5 and above" if tuple(grid) == DENSE else ", ".join(f"{1 / beta:g}" for beta in sorted(grid) if beta)
    )
    return LimbeckError(
        f"The top-k outputs hold the weight of all other classes at temperatures of {temperatures}, not at "
        f"{temperature:g}: "
        f"keep it, in a new store, with encoding={{'name': 'top-k', 'k': ..., 'temperatures': [{temperature:g}]}} (a "
        "store that a stage makes keeps its losses' own); or store 'quantized', which serves every temperature."
    )


def check_power(power: float, temperature: float) -> None:
    """Refuse classes drawn from :math:`p^{power}` at a temperature at which few draws carry nearly all the weight.

    Weights go as :math:`p^{1/T - power}`: with a power above 1/T they grow without bound as p goes to 0, so that an
    average over any number of draws that one would keep is nowhere near its expectation.

    Raises:
        LimbeckError: If power times temperature is above 1.5.
    """
    if power * temperature > MOST_POWER:
        raise LimbeckError(
            f"Classes drawn with power={power:g} do not serve temperature={temperature:g}: a few draws would carry "
            f"nearly all the weight (power times temperature is at most {MOST_POWER}). Draw others, in a new store: "
            f"encoding={{'name': 'sampled', 'draws': ..., 'power': {1 / temperature:.3g}}}; without a power, a store "
            "that a stage makes takes 1 / temperature."
        )


def _reads_teacher(kernel: Kernel) -> bool:
    return "teacher" in inspect.signature(kernel).parameters


@lru_cache(maxsize=64)
def default_temperature(kernel: Kernel) -> float:
    """The temperature that a kernel has where none is given."""
    parameter = inspect.signature(kernel).parameters.get("temperature")
    return 1.0 if parameter is None or parameter.default is parameter.empty else float(parameter.default)


def _name(kernel: Kernel) -> str:
    return getattr(kernel, "__name__", type(kernel).__name__)
