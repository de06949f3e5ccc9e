"""The keys of a job, each with its default and meaning."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NamedTuple

from limbeck.data.options import DataOptions
from limbeck.job.budget import ArmBudget, Budget
from limbeck.job.model_settings import MemberSettings, ModelSettings, TeacherSettings
from limbeck.job.schema import CacheSettings, Job, MethodSettings, TaskSettings

_PARTS: tuple[tuple[str, type], ...] = (
    ("", Job), ("task.", TaskSettings), ("data.", DataOptions),
    ("teacher.", ModelSettings), ("teacher.", TeacherSettings), ("teachers.NAME.", MemberSettings),
    ("student.", ModelSettings), ("method.", MethodSettings), ("budget.", Budget),
    ("budgets.ARM.", ArmBudget), ("cache.", CacheSettings),
)  # fmt: skip
_HOLD_KEYS = ("task", "teacher", "student", "ensemble", "method", "budget", "budgets", "cache", "train")
"""Keys with nested keys, which list their own defaults."""


class Key(NamedTuple):
    """A key of a job.

    Attributes:
        name: As ``--set`` takes it: ``budget.epochs``.
        default: The default; "needed" if there is none.
        meaning: What the key sets.
    """

    name: str
    default: str
    meaning: str


def job_keys(prefix: str = "") -> tuple[Key, ...]:
    """All keys of a job file, or those that start with `prefix`.

    Example:
        >>> [key.default for key in job_keys("budget.epochs")]
        ['20']
    """
    listed = [key for place, owner in _PARTS for key in _keys_of(owner, place)]
    listed.append(Key("data.name", "needed", "The data set's name, a file, a folder, or my.py:load."))
    listed.append(Key("method.SETTING", "", "A setting of the method: see `limbeck methods NAME`."))
    order = {place: i for i, place in enumerate(dict.fromkeys(place for place, _ in _PARTS))}
    listed.sort(key=lambda key: order[key.name.rpartition(".")[0] + "." * ("." in key.name)])
    return tuple(key for key in listed if key.name.startswith(prefix))


def _keys_of(owner: type, place: str) -> list[Key]:
    meanings = attribute_meanings(owner)
    return [
        Key(place + name, default, meanings[name]) for name, default in _defaults(owner).items() if name in meanings
    ]


def attribute_meanings(owner: type) -> dict[str, str]:
    """The descriptions in the section ``Attributes:`` of a class's docstring, by attribute.

    Example:
        >>> attribute_meanings(CacheSettings)["through"].split()[:3]
        ['The', 'name', 'of']
    """
    _, _, section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")
    section = section.partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, flags=re.M)
    return {name: re.sub(r"\s+", " ", text).replace("``", "") for name, text in entries}


def _defaults(owner: Any) -> dict[str, str]:
    if is_dataclass(owner):
        entries = ((one.name, one.default, one.default_factory) for one in fields(owner))
        return {
            name: "" if value is MISSING and factory is MISSING else _describe_value(value)
            for name, value, factory in entries
        }
    return {
        name: "needed" if one.is_required() else _describe_value(one.get_default(call_default_factory=True), name)
        for name, one in owner.model_fields.items()
    }


def _describe_value(value: Any, name: str = "") -> str:
    if name in _HOLD_KEYS and not isinstance(value, str):
        return ""
    if value is None or value == () or value == {}:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)
