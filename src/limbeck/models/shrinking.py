"""Makes a smaller model of a larger one: with some of its layers or channels, of low rank, or a narrower new one."""

from __future__ import annotations

import copy
import math
import re
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from limbeck.batch import input_rows
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.model_call import call, logits_of
from limbeck.models.block_stacks import find_block_stacks
from limbeck.models.hf_folder import is_transformers
from limbeck.models.latency import median_milliseconds
from limbeck.models.model_transforms import copy_transformed
from limbeck.models.reference import seeded
from limbeck.models.shrink_ways import WAYS, ShrinkWay
from limbeck.models.size_and_hash import count_parameters, size_in_bytes, unwrap_compiled
from limbeck.optional_imports import MissingPackageError

SHRINK_WAYS = ("auto", "layers", "channels", "low_rank", "narrow")
"""How a smaller model is made; see `shrink`."""
_NEAR = math.log(1.15)
"""A size within 15 % of what was asked is reached; sizes of whole layers can be further away."""


class ShrinkReport(NamedTuple):
    """What `shrink` did.

    Attributes:
        by: The way: ``layers``, ``channels``, ``low_rank``, ``narrow``, or ``layers and low_rank``.
        why: Why this way was chosen, as a sentence; empty if it was asked for.
        what: What stays, such as ``layers 0, 3 of 6``.
        asked: The size that was asked for, as a share of the larger model's parameters, or a limit in words.
        share: The share with which `shrink` makes the same model; that of a limit is found by measurement.
        parameters: The parameters of the smaller model.
        teacher_parameters: The parameters of the larger model.
    """

    by: str
    why: str
    what: str
    asked: float | str
    share: float
    parameters: int
    teacher_parameters: int

    @property
    def size(self) -> float:
        """The share of the larger model's parameters that was reached."""
        return self.parameters / self.teacher_parameters

    @property
    def sentence(self) -> str:
        """The report in two sentences."""
        asked = self.asked if isinstance(self.asked, str) else f"{100 * self.asked:.3g} %"
        why = f" {self.why}" if self.why else ""
        return (
            f"{self.parameters:,} of the teacher's {self.teacher_parameters:,} parameters, {100 * self.size:.3g} % "
            f"(asked: {asked}), by {self.by}: {self.what}.{why}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**self._asdict(), "size": self.size, "sentence": self.sentence}


_REPORTS: WeakKeyDictionary[nn.Module, ShrinkReport] = WeakKeyDictionary()


def get_shrink_report(model: nn.Module) -> ShrinkReport | None:
    """What `shrink` did to make a model; None for other models."""
    return _REPORTS.get(model)


def shrink(
    teacher: nn.Module,
    *,
    size: float | int | str | None = None,
    latency: float | int | str | None = None,
    bytes: float | int | str | None = None,
    by: str = "auto",
    example: Any = None,
) -> nn.Module:
    """Make a smaller model of a larger one, as a student that starts from its teacher.

    * ``layers``: some layers at even distances of each stack of like blocks (transformers, residual stages);
    * ``channels``: the channels whose weights have the largest norm, of all layers that share them;
    * ``low_rank``: linear layers and embeddings as products of two thinner ones, by singular values;
    * ``narrow``: a narrower model of the same architecture with new weights.

    ``auto`` takes layers of a transformer, and low rank too if no whole number of layers is near the size; of other
    models it takes channels. `get_shrink_report` says what was done, and why. The result is a plain module. `save`
    records how it was made, and `load` makes it again.

    Args:
        teacher: Any module; it is not changed.
        size: The share of the teacher's parameters: 0.25, ``"25%"``, or ``"4x"`` for four times fewer. At 1 the result
            is a copy. Layers and channels are whole, so the size that is reached may differ.
        latency: In place of a size: the largest model that answers one example in this time on this machine, with one
            CPU thread: ``"2ms"``, or a number of milliseconds.
        bytes: In place of a size: the largest model whose weights have at most so many bytes: ``"500kB"``.
        by: One of `SHRINK_WAYS`.
        example: Inputs of the model, a few examples; only ``layers`` and ``narrow`` with a size need none.

    Returns:
        The smaller model, on the teacher's device, in training mode, with all parameters trainable.

    Raises:
        LimbeckError: If the size is not above 0 and at most 1, the way does not suit the model, the size or limit
            cannot be reached (the message has the best that can), or a package is missing.

    Example:
        >>> wide = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)), nn.Linear(8, 2))
        >>> small = shrink(wide, size=0.5, by="layers")
        >>> get_shrink_report(small).what
        'blocks 0, 2, 4 of 5'

    Source: layers, Sanh et al., DistilBERT, 2019, arXiv:1910.01108; channels, Li et al., 2016, arXiv:1608.08710.
    """
    teacher = unwrap_compiled(teacher)
    sizes = {"size": size, "latency": latency, "bytes": bytes}
    limit = check_shrink(**sizes, by=by)
    if limit == "size":
        share = parse_size(size)  # type: ignore[arg-type]
        return _with_report(teacher, *_Maker(teacher, by, example).make(share), asked=share, share=share)
    if example is None and limit == "latency":
        raise ArgumentError("A latency is measured on inputs: pass example=.", argument="example")
    return _shrink_to_limit(_Maker(teacher, by, example), limit, sizes[limit])


def check_shrink(*, size: Any = None, latency: Any = None, bytes: Any = None, by: Any = "auto") -> str:
    """Check the arguments of `shrink`, and return the name of the one that sets the size.

    Raises:
        LimbeckError: If a value is wrong, or there is not exactly one of size, latency and bytes.

    Example:
        >>> check_shrink(size="4x")
        'size'
    """
    if by not in SHRINK_WAYS:
        raise unknown_name_error("way to shrink", str(by), SHRINK_WAYS, argument="by")
    values = {"size": size, "latency": latency, "bytes": bytes}
    names = [name for name, value in values.items() if value is not None]
    if len(names) != 1:
        listed = " and ".join(f"{name}={values[name]}" for name in names) or "none"
        raise ArgumentError(
            f"A smaller model needs one of size, latency and bytes; got {listed}.", argument="size", example="0.25"
        )
    parse = {"size": parse_size, "latency": parse_latency, "bytes": parse_bytes}[names[0]]
    parse(values[names[0]])
    return names[0]


def parse_size(size: float | int | str) -> float:
    """Read a share of parameters.

    Raises:
        ArgumentError: If it is not above 0 and at most 1.

    Example:
        >>> parse_size("4x"), parse_size("25%"), parse_size(0.25)
        (0.25, 0.25, 0.25)
    """
    text = str(size).strip().lower()
    times, percent = text.endswith("x"), text.endswith("%")
    try:
        number = float(text[:-1] if times or percent else text)
        share = 1 / number if times else number / 100 if percent else number
    except (ValueError, ZeroDivisionError):
        share = math.nan
    if isinstance(size, bool) or not 0 < share <= 1:
        raise ArgumentError(
            f"size is a share of the teacher's parameters above 0 and at most 1, such as 0.25, 25% or 4x (four times "
            f"fewer); got {size!r}.",
            argument="size", example="0.25",
        )  # fmt: skip
    return share


_UNITS = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0},
    "bytes": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "": 1.0},
}


def parse_latency(latency: float | int | str) -> float:
    """Read a time, in milliseconds.

    Raises:
        ArgumentError: If it is no positive time.

    Example:
        >>> parse_latency("2ms"), parse_latency("0.5 s"), parse_latency(3)
        (2.0, 500.0, 3.0)
    """
    return _parse_unit("latency", latency, "2ms, 800us or a number of milliseconds")


def parse_bytes(bytes: float | int | str) -> float:
    """Read a number of bytes; kB, MB and GB are powers of 1,000.

    Raises:
        ArgumentError: If it is no positive number of bytes.

    Example:
        >>> parse_bytes("500kB"), parse_bytes("1.5 MB")
        (500000.0, 1500000.0)
    """
    return _parse_unit("bytes", bytes, "500kB, 2MB or a number of bytes")


def _parse_unit(name: str, value: Any, such_as: str) -> float:
    match = re.fullmatch(r"\s*([\d.]+(?:e[-+]?\d+)?)\s*([a-z]*)\s*", str(value).lower())
    factor = _UNITS[name].get(match[2]) if match else None
    try:
        number = float(match[1]) * factor if match and factor is not None else math.nan
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ArgumentError(f"{name} is {such_as}; got {value!r}.", argument=name, example=such_as.split(",")[0])
    return number


def _with_report(
    teacher: nn.Module, student: nn.Module, by: str, why: str, what: str, *, asked: float | str, share: float
) -> nn.Module:
    device: Any = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    student = student.to(device).train().requires_grad_(True)
    _REPORTS[student] = ShrinkReport(by, why, what, asked, share, count_parameters(student), count_parameters(teacher))
    return student


class _Maker:
    """Makes smaller models of a teacher, of any size, in one way or in the first that reaches the size."""

    def __init__(self, teacher: nn.Module, by: str, example: Any) -> None:
        if by != "narrow":
            _check_teacher(teacher)
        self.teacher, self.example, self.by = teacher, example, by
        self.total = count_parameters(teacher)
        self._ways: dict[str, ShrinkWay] = {}

    def make(self, share: float) -> tuple[nn.Module, str, str, str]:
        """The model, the way, why, and what stays."""
        if share == 1.0:
            return copy_transformed(self.teacher), "copy", "", "everything"
        target = max(1, round(share * self.total))
        why, order = ("", [self.by]) if self.by != "auto" else self._order()
        reached: dict[str, int] = {}
        problems: dict[str, LimbeckError] = {}
        for by in order:
            try:
                reached[by] = self._way(by).reach(target)
            except LimbeckError as error:
                if isinstance(error, MissingPackageError) and by == order[0]:
                    raise
                problems[by] = error
                continue
            if abs(math.log(reached[by] / target)) < _NEAR:
                break
        if not reached:
            raise self._none_suits(problems)
        by = min(reached, key=lambda one: abs(math.log(reached[one] / target)))
        if math.log(reached[by] / target) >= _NEAR and self._way(by).reach(1) >= reached[by]:
            raise self._unreachable(by, share, reached[by])
        if by != order[0]:
            why += f" The way {order[0]} alone does not reach the size, so {by}."
        # New weights are the caller's random numbers; the other ways draw some and overwrite them.
        with seeded(None if by == "narrow" else 0):
            student, what = self._way(by).make(target)
        self._check(student, by)
        return student, by, why, what

    def _way(self, by: str) -> ShrinkWay:
        if by not in self._ways:
            self._ways[by] = WAYS[by](self.teacher, self.example)
        return self._ways[by]

    def _order(self) -> tuple[str, list[str]]:
        """Why, and the ways to try, the best first."""
        stacks = find_block_stacks(self.teacher)
        has_attention = any("attention" in type(part).__name__.lower() for part in self.teacher.modules())
        if stacks and (is_transformers(self.teacher) or has_attention):
            depth = sum(len(stack.blocks) for stack in stacks)
            why = f"Because this is a stack of {depth} like transformer layers: each is removed with its whole cost."
            return why, ["layers", "layers and low_rank", "channels", "low_rank"]
        why = "Because this is no transformer: fewer channels make each layer smaller and faster."
        return why, ["channels", *(["layers"] if stacks else []), "low_rank"]

    def _none_suits(self, problems: dict[str, LimbeckError]) -> LimbeckError:
        if len(problems) == 1:
            return next(iter(problems.values()))
        listed = "; ".join(f"{by}: {str(error).partition('. ')[0]}" for by, error in problems.items())
        return LimbeckError(f"No way of auto makes this model smaller ({listed}). Name another student.")

    def _unreachable(self, by: str, share: float, reached: int) -> LimbeckError:
        least = {
            "layers": "one block of each stack is left", "channels": "less would leave no channel in some layer",
            "low_rank": "the ranks are 1",
        }.get(by, "nothing more can be removed")  # fmt: skip
        return ArgumentError(
            f"size {share:.3g} cannot be reached by {by}: the smallest student has {reached:,} of "
            f"{self.total:,} parameters, {reached / self.total:.3g} ({least}). Take a larger size, or another way: "
            f"{', '.join(way for way in SHRINK_WAYS[1:] if way != by)}.",
            argument="size", example=f"{math.ceil(1000 * reached / self.total) / 1000:g}",
        )  # fmt: skip

    def _check(self, student: nn.Module, by: str) -> None:
        """Call the student, and compare the shape of its outputs with the teacher's."""
        if self.example is None:
            return
        copies = [copy.deepcopy(model).eval() for model in (student, self.teacher)]
        try:
            with torch.no_grad():
                ours, theirs = (logits_of(call(model, self.example)).shape for model in copies)
        # The forward pass of a user's module may count its blocks or channels, and raise anything.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise LimbeckError(
                f"{type(self.teacher).__name__} cannot be called after it was made smaller by {by}: {reason}. Try "
                "another way: by: layers, channels or low_rank."
            ) from error
        if ours != theirs:
            raise LimbeckError(
                f"{type(self.teacher).__name__} has outputs of shape {list(ours)} in place of {list(theirs)} after it "
                f"was made smaller by {by}. Try another way: by: layers, channels or low_rank."
            )


def _shrink_to_limit(maker: _Maker, limit: str, value: Any) -> nn.Module:
    """The largest model within a limit, by bisection over sizes; each is made and measured."""
    most = {"latency": parse_latency, "bytes": parse_bytes}[limit](value)
    unit, scale = ("ms", 1.0) if limit == "latency" else ("kB", 1e3)

    def measure(model: nn.Module) -> float:
        if limit == "bytes":
            return float(size_in_bytes(model))
        one = input_rows(maker.example, torch.zeros(1, dtype=torch.int64))
        return median_milliseconds(copy.deepcopy(model).eval(), one, repeats=15)

    whole = measure(maker.teacher)
    if whole <= most:
        raise ArgumentError(
            f"The teacher itself takes {whole / scale:.3g} {unit}, within the limit of {most / scale:.3g} {unit}. Ask "
            "for less, or for a size.",
            argument=limit, example=f"{whole / scale / 4:.2g}{unit}",
        )  # fmt: skip
    best: tuple[float, tuple[nn.Module, str, str, str]] | None = None
    least = whole, 1.0
    low, high = math.log(1e-3), 0.0
    for _ in range(8):
        middle = (low + high) / 2
        try:
            model = maker.make(math.exp(middle))
        except ArgumentError as error:
            if error.argument != "size":
                raise
            low = middle  # smaller than the smallest
            continue
        cost = measure(model[0])
        least = min(least, (cost, math.exp(middle)))
        if cost <= most:
            best, low = (math.exp(middle), model), middle
        else:
            high = middle
    if best is None:
        raise ArgumentError(
            f"{limit} {value} cannot be reached: the smallest student that was tried takes {least[0] / scale:.3g} "
            f"{unit}, at {100 * least[1]:.3g} % of the teacher's parameters.",
            argument=limit, example=f"{least[0] / scale * 1.1:.3g}{unit}",
        )  # fmt: skip
    share, (student, by, why, what) = best
    reached = measure(student) / scale
    request = f"{limit} of at most {most / scale:.4g} {unit}, measured {reached:.3g} {unit}"
    return _with_report(maker.teacher, student, by, why, what, asked=request, share=share)


def _check_teacher(teacher: nn.Module) -> None:
    """Refuse weights without an order, and a module that cannot be copied."""
    for name, parameter in teacher.named_parameters():
        if not parameter.is_meta and not bool(torch.isfinite(parameter).all()):
            raise LimbeckError(
                f"{name} of the teacher has values that are not finite: its training has diverged. Try a smaller "
                "learning rate."
            )
    for name, part in teacher.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                raise LimbeckError(
                    f"{f'{name}.{key}'.lstrip('.')} of the teacher is computed by a hook, such as torch.nn.utils."
                    "weight_norm, and PyTorch cannot copy it. Use torch.nn.utils.parametrizations.weight_norm."
                )
