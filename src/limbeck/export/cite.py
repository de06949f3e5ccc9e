"""Citations for everything that a run used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.checksums import read_json
from limbeck.consent import read_consent
from limbeck.errors import DataError, LimbeckError, printable
from limbeck.export import bibtex_entries
from limbeck.export.finished_run import FinishedRun, open_finished
from limbeck.job import plain_name
from limbeck.methods import method, names
from limbeck.models import is_student_folder, read_config

_KEY = re.compile(r"@\w+\{\s*([^,\s]+)")
_LOSSES = {
    "kl_divergence, temperature": "hinton", "logit_squared_error": "logit_matching", "squared_error": "fitnets",
    "smoothed_cross_entropy": "label_smoothing",
}  # fmt: skip
"""How an objective's text begins a loss -> the method whose paper is its source, for stages that no method named."""
_BETWEEN = re.compile(r"\n+(?=@\w+\{)")


class Citation(NamedTuple):
    """What a run used, and whom to cite for it.

    Attributes:
        used: For what, in words: ``method hinton``, ``data mnist``.
        bibtex: The entry; None where limbeck knows none.
    """

    used: str
    bibtex: str | None

    @property
    def key(self) -> str | None:
        """The entry's key.

        Example:
            >>> Citation("data mnist", papers.DATA["mnist"]).key
            'lecun1998gradient'
        """
        match = _KEY.match(self.bibtex or "")
        return match[1] if match else None


def cite(run: str | Path, *, trust: bool = False) -> list[Citation]:
    """Whom to cite for exactly what a finished run used: methods, controls, data, networks, views, measures, limbeck.

    An entry that stands for several things comes once, with all of them. Nothing is made up: what limbeck knows no
    paper of is there without one.

    Args:
        run: The run's folder. Of one that was made in Python (`limbeck.distill`) the methods and losses are known; its
            data and models stand in your script alone, and one entry without BibTeX says so.
        trust: Whether Python files that the run's job names may be run, for the card that a method in one has.

    Raises:
        LimbeckError: If it is no finished run.

    Example:
        >>> # print(bibtex(cite("runs/hinton")))
    """
    folder = Path(run)
    if (
        (folder / "run.json").is_file()
        and not (folder / "job.yaml").is_file()
        and is_student_folder(folder / "student")
    ):
        return _merged(_used_in_python(folder))
    with read_consent("cite", trust=trust):
        return citations(open_finished(run))


def citations(done: FinishedRun, *, to: str | None = None) -> list[Citation]:
    """`cite` for a run that is open; with what an export in the format `to` adds."""
    extra = [Citation("static 8-bit quantization", bibtex_entries.INT8)] if to == "int8" else []
    return _merged((*_used(done), *extra))


def _merged(used: Iterable[Citation]) -> list[Citation]:
    """Each entry once, with all that it stands for."""
    merged: dict[str, Citation] = {}
    for one in (entry for whole in used for entry in _apart(whole)):
        place = one.bibtex or one.used
        before = merged.get(place)
        if before is None:
            merged[place] = one
        elif one.used not in before.used.split(", "):
            merged[place] = before._replace(used=f"{before.used}, {one.used}")
    return list(merged.values())


def bibtex(entries: list[Citation]) -> str:
    """The entries as a file, each below a comment that says what it is for."""
    blocks = [f"{_comment(one.used)}\n{one.bibtex}" for one in entries if one.bibtex]
    unknown = [
        _comment(f"{one.used}: cite whoever made it; limbeck knows no entry") for one in entries if not one.bibtex
    ]
    return printable("\n\n".join([*blocks, *(["\n".join(unknown)] if unknown else [])]) + "\n")


def _comment(text: str) -> str:
    # A data file's name may hold line breaks; what stands behind one would be no comment.
    return f"% {' '.join(text.split())}"


def _used(done: FinishedRun) -> Iterator[Citation]:
    job = done.job
    for trainer in job.method_arms.values():
        yield _of_method(trainer.name)
    if "label smoothing" in job.arms:
        yield Citation("the arm 'label smoothing'", method("label_smoothing").card.bibtex)
    name = job.data if isinstance(job.data, str) else str(job.data.get("name"))
    yield Citation(f"data {plain_name(name)}", bibtex_entries.DATA.get(name))
    for who, model in (("student", job.student.model), ("teacher", job.teacher.model)):
        paper = bibtex_entries.network(model)
        if paper is not None or model not in ("mlp", "cnn"):
            yield Citation(f"{who} {plain_name(model)}", paper)
    for view in _views(done):
        if view in bibtex_entries.VIEWS:
            yield Citation(f"augmentation {view}", bibtex_entries.VIEWS[view])
    if job.cache is not None:
        encoding = job.cache.encoding
        kind = encoding if isinstance(encoding, str) else str(encoding.get("name"))
        if kind in bibtex_entries.ENCODINGS:
            yield Citation(f"stored answers, {kind}", bibtex_entries.ENCODINGS[kind])
    measured = {name for arm in done.result.get("arms", {}).values() for name in _names(arm.get("measures"))}
    for name in sorted(measured & set(bibtex_entries.METRICS)):
        yield Citation(f"measure {name}", bibtex_entries.METRICS[name])
    for name in sorted(bibtex_entries.ALSO.keys() & done.result.keys()):
        yield Citation(f"measure {name}", bibtex_entries.ALSO[name])
    yield Citation("limbeck", _limbeck(done.student))


def _used_in_python(folder: Path) -> Iterator[Citation]:
    """What ``run.json`` of a run made in Python tells: its stages, by the methods that they are named after."""
    try:
        metadata = read_json(folder / "run.json")
        stages = [dict(stage) for stage in metadata["recipe"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'run.json'} is damaged: {type(error).__name__}, {error}.") from error
    for stage in stages:
        objective = str(stage.get("objective"))
        named = stage.get("stage") if stage.get("stage") in names() else None
        losses = [one for loss, one in _LOSSES.items() if f"Loss({loss}" in objective]
        for name in [str(named)] if named else losses:
            yield _of_method(name)
    yield Citation("the data, the student and the teacher of your script", None)
    yield Citation("limbeck", _limbeck(folder / "student"))


def _apart(one: Citation) -> list[Citation]:
    """One for each entry: a method's card may cite two papers."""
    return [one._replace(bibtex=entry) for entry in _BETWEEN.split(one.bibtex)] if one.bibtex else [one]


def _of_method(name: str) -> Citation:
    try:
        card = method(name).card
    except LimbeckError:  # a file of the person's own that is no longer there
        return Citation(f"method {plain_name(name)}", None)
    return Citation(f"method {plain_name(name)}", card.bibtex or None)


def _views(done: FinishedRun) -> Iterator[str]:
    """The names of all augmentations that the arms or the teacher met."""
    for budget in (done.job.budget, done.job.teacher.train):
        if budget is not None:
            yield from _names(budget.augment)
            yield from _names(budget.mix)


def _names(augment: Any) -> Iterator[str]:
    """The names in ``crop``, ``{crop: options}``, or a list of these."""
    if isinstance(augment, str):
        yield augment
    elif isinstance(augment, dict):
        yield from map(str, augment)
    elif isinstance(augment, (list, tuple)):
        for one in augment:
            yield from _names(one)


def _limbeck(student: Path) -> str:
    version = read_config(student).get("limbeck", "unknown")
    return (
        "@software{limbeck,\n"
        "  title = {limbeck: knowledge distillation that is right, paid once, and judged},\n"
        "  author = {{The limbeck authors}},\n"
        f"  version = {{{version}}}\n"
        "}"
    )
