"""Names of arms, and the files and folders of a job (`RunLayout`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

ROUNDED = "post-training quantization"
"""The control of a rounded student: that of the first method, rounded after its training, which then ends."""
LIKE_FIRST_METHOD = ("shuffled teacher", ROUNDED)
"""The controls that are trained with the settings of the first method."""
ARMS = ("teacher", "student alone", "label smoothing", "teacher texts", "shuffled teacher", ROUNDED, "distilled")
"""The arms that a comparison can have, in the order of its table; "distilled" stands for every method, and
"teacher texts" is for prompts without answers."""


def plain_name(name: str) -> str:
    """The last part of a path; a name is unchanged.

    Example:
        >>> plain_name("/home/ada/own.py:soft"), plain_name("hinton")
        ('own.py:soft', 'hinton')
    """
    return Path(name).name or name


def method_arms(methods: Iterable[str]) -> list[str]:
    """The names of the arms of several methods: the methods' plain names, with #2, #3 for repeated names.

    Example:
        >>> method_arms(["hinton", "/home/ada/own.py:soft", "hinton"])
        ['hinton', 'own.py:soft', 'hinton#2']
    """
    names: list[str] = []
    for method in methods:
        stem = name = plain_name(method)
        number = 1
        while name in names or name in ARMS:
            number += 1
            name = f"{stem}#{number}"
        names.append(name)
    return names


def shared_path(path: str | Path, *, at: Path | None = None) -> str:
    """Shorten a path for output that is shared: relative to the working directory, or else only its name.

    A shared page, model card or job then reveals no home folders.

    Args:
        path: The path.
        at: The folder to make it relative to, by default the working directory.

    Example:
        >>> shared_path("runs/mine"), shared_path("/home/ada/data/rows.csv"), shared_path(Path.cwd() / "my.py")
        ('runs/mine', 'rows.csv', 'my.py')
    """
    path, at = Path(path), Path.cwd() if at is None else at
    if not path.is_absolute():
        return str(path)
    return str(path.relative_to(at)) if path.is_relative_to(at) else path.name


METRICS = "metrics.jsonl"
"""The outcomes of a job's arms, in its folder; the reports of one training run, in the run's folder."""
PREDICTIONS = "predictions.safetensors"
SAMPLES = "samples.json"
"""Texts that a student or the teacher of a language job writes for prompts of the test data."""
STUDENT = "student"


@final
@dataclass(frozen=True)
class RunLayout:
    """The files and folders of a job, or of a search, in its folder.

    Attributes:
        folder: The folder.

    Example:
        >>> RunLayout(Path("runs/mine")).seed("student alone", 2).as_posix()
        'runs/mine/arms/student-alone/seed-2'
    """

    folder: Path

    @property
    def job(self) -> Path:
        """The job file, written first: a folder without it is not a job's."""
        return self.folder / "job.yaml"

    @property
    def result(self) -> Path:
        """The result, written last."""
        return self.folder / "result.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @property
    def figure(self) -> Path:
        """The figure of the arms."""
        return self.folder / "result.svg"

    @property
    def outcomes(self) -> Path:
        """The file with one line for each finished arm and seed."""
        return self.folder / METRICS

    @property
    def student(self) -> Path:
        """The student that is shipped."""
        return self.folder / STUDENT

    @property
    def teacher(self) -> Path:
        """The folder of the teacher's training run and outputs."""
        return self.folder / "teacher"

    @property
    def teacher_outputs(self) -> Path:
        """The teacher's logits for test and development data, with the labels."""
        return self.teacher / "answers.safetensors"

    @property
    def trained_teacher(self) -> Path:
        """The model folder of a teacher that the job trained."""
        return self.teacher / STUDENT

    @property
    def cache(self) -> Path:
        """The teacher cache, unless the job sets another folder."""
        return self.folder / "answers"

    @property
    def tracked(self) -> Path:
        """The folder for trackers."""
        return self.folder / "tracked"

    @property
    def arms(self) -> Path:
        """The folders of all arms."""
        return self.folder / "arms"

    @property
    def search(self) -> Path:
        """The search ranges of a search."""
        return self.folder / "search.json"

    @property
    def tuned(self) -> Path:
        """The result of a search."""
        return self.folder / "tuned.json"

    @property
    def best(self) -> Path:
        """The job with the values that a search found."""
        return self.folder / "best.yaml"

    def arm(self, arm: str) -> Path:
        """The folder of an arm, always inside the job's folder: its name may come from an untrusted file.

        Example:
            >>> RunLayout(Path("runs/mine")).arm("../../etc").as_posix()
            'runs/mine/arms/..-..-etc'
        """
        return self.arms / arm_folder_name(arm)

    def seed(self, arm: str, seed: int) -> Path:
        """The folder of one arm with one seed: a training run, and the predictions of its student."""
        return self.arm(arm) / seed_folder_name(seed)

    def seed_student(self, arm: str, seed: int) -> Path:
        """The student of one arm with one seed."""
        return self.seed(arm, seed) / STUDENT

    def predictions(self, arm: str) -> dict[int, Path]:
        """The files of an arm's predictions by seed, in the order of the seeds."""
        return {
            seed: folder / PREDICTIONS
            for seed, folder in seed_folders(self.arm(arm)).items()
            if (folder / PREDICTIONS).exists()
        }

    def partial_files(self) -> list[Path]:
        """The partial files that killed processes left."""
        places = (self.arms, self.teacher, self.student)
        return [*self.folder.glob(".*.partial"), *(path for place in places for path in place.rglob(".*.partial"))]


def arm_folder_name(arm: str) -> str:
    """The name of an arm's folder.

    Example:
        >>> arm_folder_name("student alone")
        'student-alone'
    """
    return arm.replace(" ", "-").replace("/", "-")[:200] if arm not in (".", "..") else "-"


def seed_folder_name(seed: int) -> str:
    """The name of a seed's folder inside its arm's folder."""
    return f"seed-{seed}"


def seed_folders(arm: Path) -> dict[int, Path]:
    """The folders of an arm's seeds by seed, in the order of the seeds."""
    numbered = [(path.name.removeprefix("seed-"), path) for path in arm.glob("seed-*")]
    return dict(sorted((int(seed), path) for seed, path in numbered if seed.isdecimal()))
