"""Bounds on the values of a job, its arms and extra metrics, and the flag that corrects an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError, nearest, unknown_name_error
from limbeck.job.run_layout import ARMS, LIKE_FIRST_METHOD, method_arms
from limbeck.methods import names as method_names

MAX_BYTES = 1_000_000

"""Largest size of a job file. A usual one has about a thousand bytes."""

_MOST_VALUES = 20_000

_DEEPEST = 20

_LARGEST = 2**63

_LONGEST = 255

"""Longest name in a path, in bytes: the limit of the common file systems."""


def check_bounds(value: Any, who: str) -> None:
    """Refuse values that would use up all memory or fail later.

    A few lines of YAML can expand to any number of values through aliases; the expanded values are counted.

    Args:
        value: The value.
        who: The start of the message.

    Raises:
        LimbeckError: If the value is nested too deep or contains itself, expands to too many values, or contains a
            control character, a name or integer that is too large, or an unsupported type.
    """
    waiting, count = [(value, 0, "")], 0
    while waiting:
        one, depth, key = waiting.pop()
        count += 1
        if depth > _DEEPEST:
            raise LimbeckError(f"{who} is nested more than {_DEEPEST} levels deep, or contains itself.")
        if count > _MOST_VALUES:
            raise LimbeckError(f"{who} expands to more than {_MOST_VALUES:,} values.")
        if isinstance(one, Mapping):
            waiting += [(name, depth + 1, key) for name in one]
            waiting += [(inner, depth + 1, str(name)) for name, inner in one.items()]
        elif isinstance(one, (list, tuple)):
            waiting += [(inner, depth + 1, key) for inner in one[: _MOST_VALUES + 1]]
        else:
            _check(one, f"{who}, in the key {key[:60]!r}," if key else who)


def _check(value: Any, who: str) -> None:
    if isinstance(value, str):
        if any((ord(c) < 32 and c not in "\t\n\r") or 0xD800 <= ord(c) < 0xE000 for c in value):
            raise LimbeckError(f"{who} contains a control character: {value[:60]!r}.")
        if any(len(part.encode()) > _LONGEST for part in value.split("/")):
            raise LimbeckError(
                f"{who} contains a name that is too long, {value[:40]!r}...: at most {_LONGEST} bytes are allowed."
            )
    elif isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise LimbeckError(f"{who} contains an integer that is too large: the largest is 2^63 - 1.")
    elif isinstance(value, (bytes, set, frozenset)):
        raise LimbeckError(f"{who} contains a {type(value).__name__}; use strings, numbers, lists and mappings.")


ALIKE = 0.75
"""How like a name another one is that was surely meant to be it: where most names that are less like it are right."""

EXTRA_METRICS = ("attacks", "cka", "corruptions", "faithfulness", "groups", "sharpness")

"""Metrics that cost more than predictions on the test data."""


_MEANT: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("robustness", "robust", "robust accuracy"), ("attacks", "corruptions")),
    **dict.fromkeys(("adversarial", "adversarial robustness", "pgd"), ("attacks",)),
    **dict.fromkeys(("noise", "shift", "ood", "blur", "common corruptions"), ("corruptions",)),
    **dict.fromkeys(("fairness", "subgroups", "worst group", "slices"), ("groups",)),
    **dict.fromkeys(("flatness", "hessian", "eigenvalue"), ("sharpness",)),
    **dict.fromkeys(("certified", "bounds", "interval", "confidence gap"), ("faithfulness",)),
    **dict.fromkeys(("similarity", "representations", "layers", "features"), ("cka",)),
}
"""Extra metrics by words that people type for them and that are not like their names."""


def as_list(value: Any) -> Any:
    """Wrap one name in a list; None is an empty list."""
    return [value] if isinstance(value, str) else [] if value is None else value


def check_extra_metrics(names: tuple[str, ...]) -> None:
    """Check the names of extra metrics.

    Raises:
        UnknownNameError: If a name is unknown; the nearest is given.
        LimbeckError: If a name is listed twice.
    """
    for name in names:
        if name not in EXTRA_METRICS:
            raise unknown_name_error(
                "name in also", name, EXTRA_METRICS, then="All other metrics are always computed.", least=ALIKE,
                meant=_MEANT.get(str(name).lower().replace("_", " "), ()),
            )  # fmt: skip
        if names.count(name) > 1:
            raise LimbeckError(f"{name!r} is listed twice in also; list each name once.")


def _where_methods_belong(arm: Any, chosen: Sequence[str]) -> str:
    """What to type for a method among the arms; empty for another name.

    A name that is misspelled counts as a method if it is much like one.
    """
    if arm in method_arms(chosen):
        return "The arm 'distilled' includes every method; methods=[...] selects them."
    name = nearest(arm, method_names(), least=ALIKE) if isinstance(arm, str) else None
    if name is None or nearest(arm, ARMS, least=ALIKE) is not None:
        return ""
    return (
        f"{name!r} is a method: type --set methods=[{name}] (or --method {name}), and the arm 'distilled' is the "
        "student that learns by it."
    )


def check_arms(arms: Sequence[str], methods: Sequence[str]) -> None:
    """Check the arms of a job: known, each once, and at least one student that is trained.

    Args:
        arms: The arms.
        methods: The names of several methods; empty for a job with one.

    Raises:
        LimbeckError: If an arm is unknown or listed twice, no student is trained, or the arm ``distilled`` is missing
            and something in the job is for it: several methods, or a control of a method.
    """
    for arm in arms:
        if arm not in ARMS:
            raise unknown_name_error("arm", arm, ARMS, then=_where_methods_belong(arm, methods))
        if arms.count(arm) > 1:
            raise LimbeckError(f"The arm {arm!r} is listed twice in the job; list each arm once.")
    if "distilled" in arms:
        return
    control = next((arm for arm in arms if arm in LIKE_FIRST_METHOD), None)
    if methods:
        why = f"no arm learns by the methods {', '.join(methods)} then"
    elif control is not None:
        why = f"the arm {control!r} is a control of a method"
    elif not set(arms) - {"teacher"}:
        why = "no student is trained then"
    else:
        return
    raise LimbeckError(f"arms={list(arms)} leaves out 'distilled', and {why}. Add 'distilled' to arms.")


def check_is_argument(arguments: Iterable[str], keys: Iterable[str], place: str) -> None:
    """Check that no argument of a model is a misspelled key of its part of the job.

    Args:
        arguments: The names of the arguments, which may be right: the model is not known here.
        keys: The keys of the part.
        place: The part: ``teacher``, ``teachers.big``, ``student``.

    Raises:
        UnknownNameError: If one is nearly such a key.
    """
    known = [key for key in keys if key != "model"]
    for name in arguments:
        near = nearest(name, known, least=ALIKE)
        if near is not None:
            raise UnknownNameError(
                f"Unknown key '{place}.{name}' in the job. Did you mean {near!r}? {flag_hint(place, near)}"
            )


def add_flag_hint(error: LimbeckError, place: str, names: Iterable[str] = ()) -> LimbeckError:
    """Add to an error the part of the job that it is about, and the flag to type.

    The flag comes from the error's argument, never from its text, because a text may contain the name of another key
    by chance.

    Args:
        error: An error raised by a model, a method or an optimizer.
        place: The part of the job: ``teacher``, ``method``, ``teacher.train``, ...
        names: The keys of that part. Another argument gets no flag; without keys, every argument does.

    Example:
        >>> error = ArgumentError("lr must be positive; got 0.", argument="lr", example="0.001")
        >>> print(add_flag_hint(error, "budget", ["epochs", "lr"]))
        budget: lr must be positive; got 0. Type --set budget.lr=0.001
    """
    kind = UnknownNameError if isinstance(error, UnknownNameError) else LimbeckError
    return kind(f"{place}: {error} {_hint(error, place, tuple(names))}".rstrip())


def _hint(error: LimbeckError, place: str, names: tuple[str, ...]) -> str:
    if not isinstance(error, (ArgumentError, UnknownNameError)):
        return ""
    if not error.argument:
        return ""
    if names and error.argument not in names:
        return ""
    return flag_hint(place, error.argument, error.example if isinstance(error, ArgumentError) else "...")


def flag_hint(place: str, key: str, value: str = "...") -> str:
    """The flag that sets a key of a part of the job, as a sentence."""
    return f"Type --set {place}.{key}={value}"
