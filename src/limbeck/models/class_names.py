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
    """What a model calls its outputs, in their order; None where it does not say, or says only their numbers.

    A model of transformers says it in ``config.id2label``, one that `limbeck.load` opened in its folder's metadata.

    Example:
        >>> get_class_names(nn.Linear(2, 2)) is None
        True
    """
    plain = unwrap_compiled(model)
    names = get_description(plain).get("class_names") or _labels(getattr(plain, "config", None))
    return _telling(names)


def read_class_names(folder: str | Path) -> tuple[str, ...] | None:
    """The same of the model in a folder, without opening it; None for what is no folder of a model."""
    path = Path(folder)
    try:
        if is_student_folder(path):
            return _telling(read_config(path)["metadata"].get("class_names") or ())
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return _telling(_labels(found))
    except (OSError, ValueError, RecursionError):
        return None


def match_order(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...] | None:
    """Our names in the order in which another has them; None where they cannot be matched one to one.

    Two names are the same one whatever the case of their letters, and whether ``_``, ``-`` or a space is in them.

    Example:
        >>> match_order(["Refund", "block_card"], ["block card", "refund"])
        ('block_card', 'Refund')
    """
    mine, its = {_folded(name): name for name in ours}, [_folded(name) for name in theirs]
    if len(mine) != len(ours) or len(set(its)) != len(its) or set(mine) != set(its):
        return None
    return tuple(mine[name] for name in its)


def find_first_moved(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, str, str] | None:
    """The first class that two call by different names though both know one of these: its number, and the two names.

    Example:
        >>> find_first_moved(["negative", "positive"], ["positive", "negative"])
        (0, 'negative', 'positive')
    """
    mine, its = [_folded(name) for name in ours], [_folded(name) for name in theirs]
    for place, (a, b) in enumerate(zip(mine, its, strict=False)):
        if a != b and (a in its or b in mine):
            return place, ours[place], theirs[place]
    return None


def _labels(config: Any) -> Iterable[Any]:
    """The names in ``id2label`` of a configuration, in the order of their numbers."""
    found = config.get("id2label") if isinstance(config, Mapping) else getattr(config, "id2label", None)
    if not isinstance(found, Mapping):
        return ()
    try:
        numbered = {int(number): name for number, name in found.items()}
    except (TypeError, ValueError):
        return ()
    return [numbered[place] for place in range(len(numbered))] if set(numbered) == set(range(len(numbered))) else ()


def _telling(names: Iterable[Any]) -> tuple[str, ...] | None:
    """The names, if they say more than the numbers of the classes do."""
    found = tuple(str(name) for name in names)
    bare = all(_NAMELESS.fullmatch(name) and int(re.sub(r"\D", "", name)) == place for place, name in enumerate(found))
    return None if len(found) < 2 or bare or len(set(found)) != len(found) else found


def _folded(name: str) -> str:
    return " ".join(re.sub(r"[_-]+", " ", name.casefold()).split())
