"""A model's class names, and whether two orders of classes agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.models.description import get_description
from limbeck.models.folder import is_student_folder, read_config
from limbeck.models.size_and_hash import unwrap_compiled

_NAMELESS = re.compile(r"(?i)label[_ ]?\d+|class[_ ]?\d+|\d+")


def get_class_names(model: nn.Module) -> tuple[str, ...] | None:
    """A model's class names, in the order of its outputs; None where it has none, or they are only numbers.

    They come from ``config.id2label`` of a model of transformers, and from the folder's metadata after `limbeck.load`.

    Example:
        >>> get_class_names(nn.Linear(2, 2)) is None
        True
    """
    plain = unwrap_compiled(model)
    names = get_description(plain).get("class_names") or _labels(getattr(plain, "config", None))  # transformers only
    return _drop_numbers(names)


def read_class_names(folder: str | Path) -> tuple[str, ...] | None:
    """The class names of the model in a folder, without loading it; None for a folder without a model."""
    path = Path(folder)
    try:
        if is_student_folder(path):
            return _drop_numbers(read_config(path)["metadata"].get("class_names") or ())
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return _drop_numbers(_labels(config))
    except (OSError, ValueError, RecursionError):
        return None


def match_order(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...] | None:
    """Our names in the order of another model's names; None where they cannot be matched one to one.

    Case, ``_``, ``-`` and spaces are ignored.

    Example:
        >>> match_order(["Refund", "block_card"], ["block card", "refund"])
        ('block_card', 'Refund')
    """
    mine, its = {_normalize(name): name for name in ours}, [_normalize(name) for name in theirs]
    if len(mine) != len(ours) or len(set(its)) != len(its) or set(mine) != set(its):
        return None
    return tuple(mine[name] for name in its)


def find_first_moved(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, str, str] | None:
    """The first class with different names that also occurs elsewhere in the other list: its index and both names.

    Example:
        >>> find_first_moved(["negative", "positive"], ["positive", "negative"])
        (0, 'negative', 'positive')
    """
    mine, its = [_normalize(name) for name in ours], [_normalize(name) for name in theirs]
    for index, (a, b) in enumerate(zip(mine, its, strict=False)):
        if a != b and (a in its or b in mine):
            return index, ours[index], theirs[index]
    return None


def _labels(config: Any) -> Iterable[Any]:
    """The names in ``id2label`` of a configuration, in the order of their numbers."""
    # Configurations of other libraries may lack it.
    labels = config.get("id2label") if isinstance(config, Mapping) else getattr(config, "id2label", None)
    if not isinstance(labels, Mapping):
        return ()
    try:
        numbered = {int(number): name for number, name in labels.items()}
    except (TypeError, ValueError):
        return ()
    return [numbered[i] for i in range(len(numbered))] if set(numbered) == set(range(len(numbered))) else ()


def _drop_numbers(names: Iterable[Any]) -> tuple[str, ...] | None:
    """The names; None where they only repeat the numbers of the classes."""
    texts = tuple(str(name) for name in names)
    numbers = all(_NAMELESS.fullmatch(name) and int(re.sub(r"\D", "", name)) == i for i, name in enumerate(texts))
    return None if len(texts) < 2 or numbers or len(set(texts)) != len(texts) else texts


def _normalize(name: str) -> str:
    return " ".join(re.sub(r"[_-]+", " ", name.casefold()).split())
