"""Reads a run folder: arms, predictions, training curves and search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.atomic_io import check_no_folder_links
from limbeck.batch import IGNORED
from limbeck.errors import DataError, LimbeckError
from limbeck.job import RunLayout, Search, read_run_job, read_search, trust_option
from limbeck.job.result import read_result, read_task
from limbeck.metrics import Predictions, load_tensors
from limbeck.report.arms import ArmRow, ScoreFormat, as_mapping, read_arms
from limbeck.report.curves import Curves, counted_reports, read_curves
from limbeck.tasks import Classification, Task

ALONE = "student alone"
"""The control arm that every verdict compares with."""


@dataclass(frozen=True)
class RunData:
    """The data of one run for a report. What the folder lacks is None or empty, and listed in `unknown`.

    Attributes:
        folder: The run folder.
        name: The name of the run on a page with several.
        result: ``result.json``.
        job: ``job.yaml`` as a mapping.
        job_text: The text of ``job.yaml``.
        arms: The arms, in the order of the table.
        labels: The test examples' labels; -100 for unlabeled examples.
        teacher: The teacher's logits for the test examples.
        logits: Each arm's logits for the test examples, by seed.
        curves: Training curves of each arm's loss terms.
        search: The search for the settings, if there was one.
        unknown: Sentences about what is missing, and why.
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
        """The verdict of the result."""
        return as_mapping(self.result.get("verdict"))

    @property
    def task(self) -> Task:
        """The task of the run; classification for results of earlier versions."""
        return read_task(self.result)

    @property
    def score(self) -> ScoreFormat:
        """Names and formats of the primary metric."""
        return ScoreFormat.of_task(self.task)

    @property
    def teacher_arm(self) -> ArmRow | None:
        """The arm of the teacher."""
        return next((arm for arm in self.arms.values() if arm.role == "teacher"), None)

    def style(self, arm: str) -> int:
        """Color and shape of an arm in all figures. An arm that was tuned but not run has style 7."""
        return self.arms[arm].style if arm in self.arms else 7

    @property
    def interval_covers(self) -> str:
        """The uncertainty that the intervals cover, for sentences."""
        seeds, tested = f"over {self.seeds} paired seeds", self.verdict.get("examples") or self.data.get("test")
        units = f"test {self.score.examples}"
        examples = f"{tested:,} {units}" if isinstance(tested, int) else f"the {units}"
        covers = {
            "seeds and test examples": f"{seeds} and {examples}",
            "seeds and a bound for test examples": f"{seeds} and {examples}, wider because predictions are missing",
        }
        text = covers.get(str(self.verdict.get("covers")), f"{seeds}, not over {units}")
        count = self.verdict.get("comparisons")
        return f"{text}, for the best of {count} methods" if isinstance(count, int) and count > 1 else text

    @property
    def data(self) -> Mapping[str, Any]:
        """The description of the data."""
        return as_mapping(self.result.get("data"))

    @property
    def method_arm(self) -> str | None:
        """The arm of the method that the verdict is about."""
        named = self.verdict.get("arm")
        if named in self.arms:
            return str(named)
        return next((arm.name for arm in self.arms.values() if arm.role == "method"), None)

    @property
    def seeds(self) -> int:
        """The number of seeds per arm."""
        counted = [len(arm.score.values) for arm in self.arms.values() if arm.role not in ("teacher", "member")]
        return max(counted, default=0)

    @property
    def shipped_arm(self) -> str | None:
        """The arm whose student is in ``student/``. In results of earlier versions it is `method_arm`."""
        named = as_mapping(self.result.get("shipped")).get("arm")
        return str(named) if named in self.arms else self.method_arm

    @property
    def shown_seed(self) -> int | None:
        """The seed of `method_arm` that the figures show: that of the shipped student, or else the first."""
        seeds = self.logits.get(self.method_arm or "", {})
        seed = as_mapping(self.result.get("shipped")).get("seed") if self.shipped_arm == self.method_arm else None
        return seed if isinstance(seed, int) and seed in seeds else min(seeds, default=None)

    @property
    def shown_student(self) -> str:
        """The name of that student in sentences."""
        where = "The student in student/" if self.shipped_arm == self.method_arm else "The student of"
        named = f"{self.method_arm}, seed {self.shown_seed}"
        return f"{where} ({named})" if self.shipped_arm == self.method_arm else f"{where} {named}"

    @property
    def student(self) -> Float[Tensor, "n classes"] | None:
        """The test logits of that student; None if it has other classes than the teacher."""
        seed = self.shown_seed
        if seed is None or self.method_arm is None or self.teacher is None:
            return None
        logits = self.logits[self.method_arm][seed]
        return logits if logits.shape == self.teacher.shape else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers if they have no names."""
        names = self.data.get("class_names")
        count = self.data.get("classes")
        count = count if isinstance(count, int) else 0 if self.teacher is None else self.teacher.shape[1]
        if isinstance(names, list) and names:
            return tuple(str(name) for name in names)
        return tuple(str(number) for number in range(count))


def read_run(run: str | Path) -> RunData:
    """Read the folder of a finished run.

    Raises:
        LimbeckError: If the folder does not exist, the run is not finished, or its result cannot be read.
    """
    folder = Path(run)
    check_no_folder_links(folder)
    result = _result(folder)
    task = read_task(result)
    arms = read_arms(result["arms"], verdict_arm=as_mapping(result.get("verdict")).get("arm"), metric=task.primary.name)
    unknown: list[str] = []
    one_class = isinstance(task, Classification)  # outputs of other tasks are read where they are shown
    labels, teacher = _teacher_outputs(folder, unknown) if one_class else (None, None)
    logits = dict(_predictions(folder, arms, labels, unknown))
    counted = counted_reports(folder)
    curves = {
        name: read
        for name in arms
        if (read := read_curves(RunLayout(folder).arm(name), unknown, counted.get(name, {})))
    }
    try:
        job, text = read_run_job(folder, as_shown=True), RunLayout(folder).job.read_text(encoding="utf-8")
    except LimbeckError as error:
        job, text = {}, ""
        unknown.append(f"The job is not known: {error}")
    search = _search(folder, job, unknown)
    name = folder.resolve().name
    return RunData(folder, name, result, job, text, arms, labels, teacher, logits, curves, search, tuple(unknown))


def load_run(run: RunData | str | Path) -> RunData:
    """Return a run as it is, or read it from its folder."""
    return run if isinstance(run, RunData) else read_run(run)


def pooled_predictions(run: RunData, arm: str) -> Predictions | None:
    """Concatenate the predictions of an arm over its seeds; None if there are none."""
    if run.labels is None or run.teacher is None:
        return None
    if run.arms[arm].role == "teacher":
        return Predictions(run.teacher, None, run.labels)
    seeds = run.logits.get(arm)
    if not seeds:
        return None
    return Predictions(torch.cat(list(seeds.values())), None, run.labels.repeat(len(seeds)))


def _result(folder: Path) -> Mapping[str, Any]:
    if not folder.is_dir():
        raise LimbeckError(
            f"The run folder {str(folder)!r} does not exist. `limbeck distill ... --out DIR` creates one."
        )
    path = RunLayout(folder).result
    if not path.is_file():
        hint = "it is not the folder of a finished run"
        if RunLayout(folder).job.is_file():
            hint = f"the run is not finished: type `limbeck resume {folder}{trust_option(folder)}`"
        if RunLayout(folder).search.is_file():
            hint = (
                f"it is a search: `limbeck compare {folder / 'best.yaml'}` runs the best settings and reports on them"
            )
        raise LimbeckError(f"{folder} contains no result.json; {hint}.")
    return read_result(folder)


def _search(folder: Path, job: Mapping[str, Any], unknown: list[str]) -> Search | None:
    try:
        search = read_search(folder)
    except DataError as error:
        unknown.append(f"The search is not known: {error}")
        return None
    if search is None and job.get("search"):
        unknown.append(
            f"The settings came from the search in {job['search']}, which did not exist when this run started. The "
            "trials of each arm are not known."
        )
    return search


def _teacher_outputs(folder: Path, unknown: list[str]) -> tuple[Tensor | None, Tensor | None]:
    path = RunLayout(folder).teacher_outputs
    if not path.is_file():
        unknown.append(
            "This run has no predictions (it is from an earlier version, or the files were removed). Reliability, "
            "deviation, per-class changes, confusion and examples cannot be shown. Run the job again to get them."
        )
        return None, None
    try:
        tensors = load_tensors(path)
    except DataError as error:
        unknown.append(f"The teacher's outputs cannot be read: {error}")
        return None, None
    labels, teacher = tensors.get("test_labels"), tensors.get("test")
    if labels is None or not _are_labels(labels):
        unknown.append(f"{path} does not contain one label for each test example. What needs labels is left out.")
        return None, None
    if teacher is not None and not _fits(teacher, labels):
        unknown.append("The teacher's outputs are not finite for every test example and class, and are left out.")
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
        by_seed = {seed: _read_logits(path, labels) for seed, path in _seeds(folder, name)}
        good = {seed: logits for seed, logits in by_seed.items() if logits is not None}
        if len(good) < len(by_seed):
            count = f"{len(by_seed) - len(good)} of {len(by_seed)}"
            unknown.append(f"The predictions of {name} are damaged for {count} seeds, which are left out.")
        if good:
            yield name, good
        seeds = len(arm.score.values)
        if not by_seed:
            unknown.append(f"There are no predictions of {name} on disk. It is shown only in the table.")
        elif len(by_seed) < seeds:
            count = f"{len(by_seed)} of {seeds}"
            unknown.append(f"There are predictions of {name} for {count} seeds. The others are only in the table.")


def _read_logits(path: Path, labels: Tensor) -> Tensor | None:
    try:
        test = load_tensors(path).get("test")
    except DataError:
        return None
    return test.float() if test is not None and _fits(test, labels) else None


def _are_labels(labels: Tensor) -> bool:
    """Whether this is a vector of class indices, with -100 for unlabeled examples."""
    if labels.ndim != 1 or not len(labels) or labels.is_floating_point():
        return False
    return not bool(((labels < 0) & (labels != IGNORED)).any())


def _fits(logits: Tensor, labels: Tensor) -> bool:
    """Whether there is a row for each label and a column for each class. A logit may be -inf."""
    if logits.ndim != 2 or len(logits) != len(labels) or int(labels.max()) >= logits.shape[1]:
        return False
    if math.isfinite(float(logits.sum())):  # fast path: one sum proves that all logits are finite
        return True
    return not bool(logits.isnan().any() or (logits == math.inf).any() or (logits == -math.inf).all(1).any())


def _seeds(folder: Path, arm: str) -> list[tuple[int, Path]]:
    """Return the prediction files of an arm in the order of the seeds."""
    return list(RunLayout(folder).predictions(arm).items())
