"""`Optimizer`: which optimizer a stage uses, its schedule and its parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

_KNOWN = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}

# One fused kernel per step in place of several small ones per parameter; the mathematics is the same.
_FUSED = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of a stage, with its learning-rate schedule, clipping and parameter groups.

    The learning rate at step t of n is ``lr * min(1, (t + 1) / w) * d(x)``, with w warm-up steps and x from 0 to 1 over
    the steps after them: ``d = 1`` for ``"constant"``, ``(1 + cos(pi x)) / 2`` for ``"cosine"``, ``1 - x`` for
    ``"linear"``. At the last step, t = n - 1, x is ``1 - 1 / (n - w)``: the learning rate would be 0 only at
    step n, which is not taken. It is a pure function of the step, so a resumed run needs no state for it.

    Attributes:
        name: ``adam``, ``adamw``, ``sgd``, ``rmsprop``, or a function parameters -> `torch.optim.Optimizer`, whose
            groups' own learning rates are then scaled.
        lr: The peak learning rate.
        warmup: The warm-up, as a fraction of the stage (below 1) or a whole number of steps.
        decay: The schedule after the warm-up.
        clip: The maximum norm of the whole gradient; None for no clipping.
        options: Further arguments of the optimizer: ``{"weight_decay": 1e-4, "momentum": 0.9}``.
        groups: Other options for some parameters, by the name of a part of the model or a pattern of parameter names:
            ``{"backbone": {"lr": 1e-5}, "*.bias": {"weight_decay": 0.0}}``. The first match applies. Parameters
            of losses are called ``loss.TERM.NAME``.

    Raises:
        LimbeckError: If a value is out of range.
        UnknownNameError: If the name or an option is unknown; the message names the nearest.
    """

    name: str | Make = "adamw"
    lr: float = 1e-3
    warmup: float | int = 0
    decay: Literal["constant", "cosine", "linear"] = "cosine"
    clip: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ArgumentError(f"lr must be a positive number; got {self.lr}.", argument="lr")
        if self.warmup < 0 or (isinstance(self.warmup, float) and self.warmup >= 1 and self.warmup != int(self.warmup)):
            raise ArgumentError(
                f"warmup is a fraction below 1, or a whole number of steps; got {self.warmup}.", argument="warmup"
            )
        if self.decay not in ("constant", "cosine", "linear"):
            raise unknown_name_error("decay", self.decay, ["constant", "cosine", "linear"], argument="decay")
        if self.clip is not None and not self.clip > 0:
            raise ArgumentError(
                f"clip is the greatest norm of the gradient, above 0; got {self.clip}.", argument="clip"
            )
        if isinstance(self.name, str) and self.name not in _KNOWN:
            raise unknown_name_error(
                "optimizer",
                self.name,
                _KNOWN,
                then="Or give a function parameters -> torch optimizer.",
                argument="name",
            )
        for pattern, options in self.groups.items():
            lr = options.get("lr", self.lr)
            if not (math.isfinite(lr) and lr >= 0):
                raise ArgumentError(f"lr of the group {pattern!r} must be at least 0; got {lr}.", argument="groups")
        if isinstance(self.name, str):
            self._check_options(self.name)
        elif self.options:
            raise ArgumentError(
                "options belong to an optimizer that is named; a function sets its own.", argument="options"
            )

    def make(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, sparse: bool = False
    ) -> torch.optim.Optimizer:
        """The torch optimizer for `parameters`, or for groups of them (see `group`).

        Args:
            parameters: The parameters to optimize.
            sparse: Whether some parameters have sparse gradients, which few optimizers can use.

        Raises:
            LimbeckError: If gradients are sparse and the optimizer is known not to support them.
        """
        if not isinstance(self.name, str):
            return self.name(parameters)  # type: ignore[arg-type]
        if sparse and self.name != "sgd":  # the other named optimizers of PyTorch raise for sparse gradients
            raise LimbeckError(
                f"An embedding with sparse=True gives sparse gradients, and {self.name} cannot use them. "
                'Give the embedding sparse=False, or use Optimizer("sgd", lr=...).'
            )
        groups: list[Any] = list(parameters)
        options = dict(self.options)
        flat = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
        sharded = any(hasattr(parameter, "to_local") for parameter in flat)
        # PyTorch refuses fused together with foreach, and a choice of the user takes precedence.
        if self.name in _FUSED and not sharded and not sparse and not {"fused", "foreach"} & set(options):
            options["fused"] = True
        return _KNOWN[self.name](groups, lr=self.lr, **options)

    def group(
        self, named: Mapping[str, nn.Parameter], own: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        """Parameters in groups with equal options, for `make`.

        Args:
            named: The parameters by name.
            own: Options by the beginning of a name, for parameters that match no pattern of `groups`.

        Raises:
            UnknownNameError: If a pattern matches no parameter.

        Example:
            >>> layer = torch.nn.Linear(2, 2)
            >>> plan = Optimizer(groups={"bias": {"lr": 0.1}})
            >>> [(len(group["params"]), group.get("lr")) for group in plan.group(dict(layer.named_parameters()))]
            [(1, None), (1, 0.1)]
        """
        patterns = {**self.groups, **(own or {})}
        groups: dict[str | None, list[nn.Parameter]] = {None: [], **{pattern: [] for pattern in patterns}}
        for name, parameter in named.items():
            groups[next((pattern for pattern in patterns if _matches(name, pattern)), None)].append(parameter)
        for pattern in self.groups:
            if not any(_matches(name, pattern) for name in named):
                raise unknown_name_error("group of parameters", pattern, named, argument="groups")
        return [{"params": members, **(patterns[key] if key else {})} for key, members in groups.items() if members]

    def scale(self, step: int, steps: int) -> float:
        """The factor of the peak learning rate at `step` (from 0) of `steps`."""
        warm = self.warmup * steps if isinstance(self.warmup, float) and self.warmup < 1 else float(self.warmup)
        # step + 1, because the first step would otherwise have a learning rate of 0.
        rise = min(1.0, (step + 1) / warm) if warm > 0 else 1.0
        x = min(max((step - warm) / max(steps - warm, 1.0), 0.0), 1.0)
        fall = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * x)), "linear": 1.0 - x}[self.decay]
        return rise * fall

    def describe(self) -> dict[str, Any]:
        """A JSON form of the optimizer, for reports."""
        name = self.name if isinstance(self.name, str) else short_name(self.name)
        shape = {"lr": self.lr, "warmup": self.warmup, "decay": self.decay, "clip": self.clip}
        groups = {"groups": {key: dict(options) for key, options in self.groups.items()}} if self.groups else {}
        return {"name": name, **shape, "options": dict(self.options), **groups}

    def _check_options(self, name: str) -> None:
        import inspect

        accepted = set(inspect.signature(_KNOWN[name]).parameters) - {"params", "lr"}
        for option in self.options:
            if option not in accepted:
                raise unknown_name_error(f"option of {name}", option, accepted, argument="options")
        for options in self.groups.values():
            for option in options:
                if option not in accepted | {"lr"}:
                    raise unknown_name_error(f"option of {name}", option, accepted | {"lr"}, argument="groups")


def _matches(name: str, pattern: str) -> bool:
    """Whether a parameter belongs to the module `pattern`, or its name matches that pattern."""
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def short_name(function: Any) -> str:
    """The name of a function for messages; for an object without a name, that of its class."""
    return str(function.__name__ if hasattr(function, "__name__") else type(function).__name__)


OPTIMIZERS = tuple(_KNOWN)
"""The names of the optimizers."""


def check_optimizer(value: Any) -> None:
    """Raise if the value is not an `Optimizer` or None, which stands for the run's.

    Raises:
        LimbeckError: If it is something else; the message has the line that makes an `Optimizer`.

    Example:
        >>> check_optimizer("adam")
        Traceback (most recent call last):
        ...
        limbeck.errors.LimbeckError: optimizer is 'adam', a name; type optimizer=Optimizer('adam', lr=0.001).
    """
    if value is None or isinstance(value, Optimizer):
        return
    kind = type(value).__name__
    if isinstance(value, str):
        raise LimbeckError(f"optimizer is {value!r}, a name; type optimizer=Optimizer({value!r}, lr=0.001).")
    if isinstance(value, torch.optim.Optimizer):
        lr = float(value.param_groups[0].get("lr", 0.001))
        named = f"optimizer=Optimizer({kind.lower()!r}, lr={lr:g}), or " if kind.lower() in OPTIMIZERS else ""
        raise LimbeckError(
            f"optimizer is a torch.optim.{kind} that is made already; a stage makes its own, because heads learn "
            f"beside the student. Type {named}"
            f"optimizer=Optimizer(lambda parameters: torch.optim.{kind}(parameters, ...))."
        )
    if callable(value):
        name = short_name(value)
        raise LimbeckError(f"optimizer is a function, {name}; type optimizer=Optimizer({name}).")
    raise LimbeckError(f"optimizer is a {kind}; type optimizer=Optimizer('adamw', lr=0.001).")


def optimizer_hint(name: str) -> str:
    """A hint for an argument that belongs to `Optimizer` and not to a run; empty for other arguments."""
    names = [field.name for field in fields(Optimizer) if field.name != "name"]
    return f"Type optimizer=Optimizer({name}=...)." if name in names else ""
