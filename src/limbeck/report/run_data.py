"""What a run folder holds: arms, predictions, curves, the search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from limbeck.atomic_io import check_no_folder_links
from limbeck.batch import IGNORED
from limbeck.errors import DataError, LimbeckError
from limbeck.job import Search, arm_folder, read_run_job, read_search
from limbeck.job.result import read_result
from limbeck.metrics import load_tensors
from limbeck.report.arms import ArmRow, arms_of
from limbeck.report.curves import Curves, counted_reports, curves_of

ALONE = "student alone"
"""The control that every verdict is about."""


@dataclass(frozen=True)
class RunData:
    """All that a report needs of one run; whatever the folder lacks is None or empty, and said in `unknown`.

    Attributes:
        folder: Where it was read.
        name: What the run is called among others.
        result: ``result.json``.
        job: ``job.yaml`` as a mapping.
        job_text: ``job.yaml`` as it stands there.
        arms: The competitors, in the table's order.
        labels: The test examples' labels; -100 where there is none.
        teacher: The teacher's logits for the test examples.
        logits: Each arm's logits for the test examples, by seed.
        curves: What each arm's terms were while it trained.
        search: What was tried for the settings, where they came from a search.
        unknown: What this page cannot say, and why: a sentence each.
    """

    folder: Path
    name: str
    result: Mapping[str, Any]
    job: Mapping[str, Any]
    job_text: str
    arms: Mapping[str, ArmRow]
    labels: Int[Tensor, " n"] | None
    teacher: Float[Tensor, "n classes"] | None
    logits: Mapping[str, Mapping[int, Tensor]]
    curves: Mapping[str, Curves]
    search: Search | None
    unknown: tuple[str, ...]

    @property
    def verdict(self) -> Mapping[str, Any]:
        """What was said of the arms."""
        return _mapping(self.result.get("verdict"))

    @property
    def data(self) -> Mapping[str, Any]:
        """What the arms were judged on."""
        return _mapping(self.result.get("data"))

    @property
    def judged(self) -> str | None:
        """The method's arm that the verdict is about."""
        named = self.verdict.get("arm")
        if named in self.arms:
            return str(named)
        return next((arm.name for arm in self.arms.values() if arm.role == "method"), None)

    @property
    def seeds(self) -> int:
        """How often each arm was run."""
        counted = [len(arm.accuracy.values) for arm in self.arms.values() if arm.role not in ("teacher", "member")]
        return max(counted, default=0)

    @property
    def shipped_arm(self) -> str | None:
        """The arm whose student stands in the folder ``student``: an old result does not say, and ships the judged."""
        named = _mapping(self.result.get("shipped")).get("arm")
        return str(named) if named in self.arms else self.judged

    @property
    def shown_seed(self) -> int | None:
        """The seed of the judged arm whose student is looked at: the one that is shipped, if it is; else the first."""
        seeds = self.logits.get(self.judged or "", {})
        seed = _mapping(self.result.get("shipped")).get("seed") if self.shipped_arm == self.judged else None
        return seed if isinstance(seed, int) and seed in seeds else min(seeds, default=None)

    @property
    def shown_student(self) -> str:
        """What that student is called."""
        where = "The student in student/" if self.shipped_arm == self.judged else "The student of"
        named = f"{self.judged}, seed {self.shown_seed}"
        return f"{where} ({named})" if self.shipped_arm == self.judged else f"{where} {named}"

    @property
    def student(self) -> Float[Tensor, "n classes"] | None:
        """The test logits of that student, where its classes are the teacher's."""
        seed = self.shown_seed
        if seed is None or self.judged is None or self.teacher is None:
            return None
        logits = self.logits[self.judged][seed]
        return logits if logits.shape == self.teacher.shape else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, or their numbers where nobody has named them."""
        names = self.data.get("class_names")
        count = self.data.get("classes")
        count = count if isinstance(count, int) else 0 if self.teacher is None else self.teacher.shape[1]
        if isinstance(names, list) and names:
            return tuple(str(name) for name in names)
        return tuple(str(number) for number in range(count))


def read_run(run: str | Path) -> RunData:
    """What the folder of a finished job or comparison holds.

    Raises:
        LimbeckError: If there is no such folder, its run is not finished, or its result cannot be read.
    """
    folder = Path(run)
    check_no_folder_links(folder)
    result = _result(folder)
    arms = arms_of(result["arms"], judged=_mapping(result.get("verdict")).get("arm"))
    unknown: list[str] = []
    labels, teacher = _answers(folder, unknown)
    logits = dict(_predictions(folder, arms, labels, unknown))
    counted = counted_reports(folder)
    curves = {
        name: found for name in arms if (found := curves_of(arm_folder(folder, name), unknown, counted.get(name, {})))
    }
    try:
        job, text = read_run_job(folder, as_shown=True), (folder / "job.yaml").read_text(encoding="utf-8")
    except LimbeckError as error:
        job, text = {}, ""
        unknown.append(f"The job is not known: {error}")
    search = _search(folder, job, unknown)
    name = folder.resolve().name
    return RunData(folder, name, result, job, text, arms, labels, teacher, logits, curves, search, tuple(unknown))


def _result(folder: Path) -> Mapping[str, Any]:
    if not folder.is_dir():
        raise LimbeckError(f"There is no run folder {str(folder)!r}. `limbeck distill ... --out DIR` makes one.")
    path = folder / "result.json"
    if not path.is_file():
        then = f"it is not finished: type `limbeck resume {folder}`" if (folder / "job.yaml").is_file() else (
            "it is no finished run's folder")  # fmt: skip
        if (folder / "search.json").is_file():
            then = f"it is a search: `limbeck compare {folder / 'best.yaml'}` runs what it found, and shows it"
        raise LimbeckError(f"{folder} holds no result.json; {then}.")
    return read_result(folder)


def _search(folder: Path, job: Mapping[str, Any], unknown: list[str]) -> Search | None:
    try:
        found = read_search(folder)
    except DataError as error:
        unknown.append(str(error))
        return None
    if found is None and job.get("search"):
        unknown.append(
            f"The settings came from the search in {job['search']}, which was not there when this run began: what was "
            "tried, and whether the baselines had as much of it, is not known."
        )
    return found


def _answers(folder: Path, unknown: list[str]) -> tuple[Tensor | None, Tensor | None]:
    path = folder / "teacher" / "answers.safetensors"
    if not path.is_file():
        unknown.append(
            "This run kept no predictions (it is of an earlier version, or its files were removed): reliability, "
            "deviation, per-class changes, confusion and examples cannot be shown. Run its job again to have them."
        )
        return None, None
    try:
        kept = load_tensors(path)
    except DataError as error:
        unknown.append(f"The teacher's answers are not known: {error}")
        return None, None
    labels, teacher = kept.get("test_labels"), kept.get("test")
    if labels is None or not _are_labels(labels):
        unknown.append(f"{path} holds no labels of the test examples, one for each: what needs them is left out.")
        return None, None
    if teacher is not None and not _fits(teacher, labels):
        unknown.append("The teacher's answers hold no finite number for every test example and class: left out.")
        teacher = None
    return labels.long(), teacher.float() if teacher is not None else None


def _predictions(
    folder: Path, arms: Mapping[str, ArmRow], labels: Tensor | None, unknown: list[str]
) -> Iterator[tuple[str, Mapping[int, Tensor]]]:
    if labels is None:
        return
    for name, arm in arms.items():
        if arm.role in ("teacher", "member"):
            continue
        found = {seed: _one(path, labels) for seed, path in _seeds(folder, name)}
        good = {seed: one for seed, one in found.items() if one is not None}
        if len(good) < len(found):
            unknown.append(f"The predictions of {name} are damaged or hold no numbers for "
                           f"{len(found) - len(good)} of {len(found)} seeds: those seeds are left out.")  # fmt: skip
        if good:
            yield name, good
        seeds = len(arm.accuracy.values)
        if not found:
            unknown.append(f"There are no predictions of {name} on disk, so it is only in the table.")
        elif len(found) < seeds:
            unknown.append(f"There are predictions of {name} for {len(found)} of {seeds} seeds on disk: the others are "
                           "only in the table.")  # fmt: skip


def _one(path: Path, labels: Tensor) -> Tensor | None:
    try:
        test = load_tensors(path).get("test")
    except DataError:
        return None
    return test.float() if test is not None and _fits(test, labels) else None


def _are_labels(labels: Tensor) -> bool:
    """Whether these are whole numbers, one for each example: a class, or that there is none."""
    if labels.ndim != 1 or not len(labels) or labels.is_floating_point():
        return False
    return not bool(((labels < 0) & (labels != IGNORED)).any())


def _fits(logits: Tensor, labels: Tensor) -> bool:
    """Whether there is a row for each label and a column for each class; a class may be ruled out by -inf."""
    if logits.ndim != 2 or len(logits) != len(labels) or int(labels.max()) >= logits.shape[1]:
        return False
    if math.isfinite(float(logits.sum())):  # one pass, where none is needed to find what is wrong
        return True
    return not bool(logits.isnan().any() or (logits == math.inf).any() or (logits == -math.inf).all(1).any())


def _seeds(folder: Path, arm: str) -> list[tuple[int, Path]]:
    """The files of an arm's predictions, by seed, in the order of the seeds."""
    found = arm_folder(folder, arm).glob("seed-*/predictions.safetensors")
    numbered = [(path.parent.name.removeprefix("seed-"), path) for path in found]
    return sorted((int(number), path) for number, path in numbered if number.isdecimal())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
