"""Tables of papers with our numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from limbeck.atomic_io import make_folder, write_text
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row
from limbeck.papers.task_queue import Callback, TaskQueue, machine_slowness
from limbeck.task_runner import sort_tasks

_SEEDS = {"quick": 5, "full": 5}
"""Paired seeds of each arm, for papers that have no SEEDS of their own."""
SCALES = tuple(_SEEDS)


@dataclass(frozen=True)
class Paper:
    """The experiments of a paper.

    Attributes:
        name: The name on the command line.
        title: Authors, title and year.
        claim: What the paper claims, in one sentence.
        experiments: The experiments by name, in the order of the paper.
        seeds: The number of seeds at each scale.
    """

    name: str
    title: str
    claim: str
    experiments: Mapping[str, Experiment]
    seeds: Mapping[str, int]

    def scale(self, name: str, seeds: int | None = None) -> ExperimentScale:
        """A scale with this number of seeds; by default that of the paper."""
        return ExperimentScale(name, tuple(range(self.seeds[name] if seeds is None else seeds)))

    def skipped(self, scale: str) -> dict[str, str]:
        """The experiments that this machine cannot run at a scale, with the reason: what to put where."""
        at = self.scale(scale)
        return {name: reason for name, one in self.experiments.items() if (reason := one.skip(at))}

    def seconds(self, scale: str) -> float:
        """Estimate the seconds of all experiments at a scale on one core, without those that would be skipped."""
        at = self.scale(scale)
        tasks = {task.name: task for one in self.experiments.values() if not one.skip(at) for task in one.tasks(at)}
        return float(sum(task.seconds for task in tasks.values()))


@cache
def paper_names() -> tuple[str, ...]:
    """The names of all papers: every module of this folder that defines ``EXPERIMENTS``, by the paper's year.

    The files are searched as text: importing all of them would make ``limbeck --help`` slow.
    """
    years = {}
    for item in resources.files("limbeck.papers").iterdir():
        file = item / "__init__.py" if item.is_dir() else item
        if not file.name.endswith(".py") or not file.is_file() or item.name == "__init__.py":
            continue
        text = file.read_text(encoding="utf-8")
        if "\nEXPERIMENTS = " in text:
            name = item.name.removesuffix(".py")
            years[name] = re.findall(r"\b(?:19|20)\d\d\b", text.partition("\nTITLE = ")[2])[:1]
    return tuple(sorted(years, key=lambda name: (years[name], name)))


def paper(name: str) -> Paper:
    """Find a paper by name.

    Raises:
        UnknownNameError: If there is no such paper.
    """
    if name not in paper_names():
        raise unknown_name_error("paper", name, paper_names())
    module = import_module(f"limbeck.papers.{name}")
    experiments = {experiment.name: experiment for experiment in module.EXPERIMENTS}
    return Paper(name, module.TITLE, module.CLAIM, experiments, vars(module).get("SEEDS", _SEEDS))


class Reproduction:
    """Runs the experiments of a paper on this machine.

    Args:
        name: The name of the paper.
        only: Names of experiments; by default all.
        scale: ``quick`` takes a minute or two per experiment; ``full`` has the numbers of the pages of results.
        seeds: The number of seeds; by default five, or the paper's own number.
        out: The output folder. Finished tasks in it are not repeated.
        workers: The number of parallel tasks, each with one thread; by default one per core.

    Raises:
        UnknownNameError: If paper, experiment or scale is unknown.
        LimbeckError: If the folder has results of another scale, or a number is out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        only: Sequence[str] = (),
        scale: str = "quick",
        seeds: int | None = None,
        out: str | os.PathLike[str] | None = None,
        workers: int | None = None,
    ) -> None:
        self.paper = paper(name)
        for experiment_name in only:
            if experiment_name not in self.paper.experiments:
                raise unknown_name_error("experiment", experiment_name, self.paper.experiments)
        if scale not in SCALES:
            raise unknown_name_error("scale", scale, list(SCALES))
        cores = (os.cpu_count() or 1) if workers is None else workers
        if (seeds is not None and seeds < 1) or cores < 1:
            raise LimbeckError(f"seeds and workers must be at least 1; got seeds={seeds}, workers={cores}.")
        self.scale = self.paper.scale(scale, seeds)
        chosen = {n: e for n, e in self.paper.experiments.items() if not only or n in only}
        self.skipped = {n: reason for n, e in chosen.items() if (reason := e.skip(self.scale))}
        self.experiments = {n: e for n, e in chosen.items() if n not in self.skipped}
        self.folder = Path(out) if out is not None else Path("runs") / name / scale
        self.tasks = sort_tasks(
            [task for experiment in self.experiments.values() for task in experiment.tasks(self.scale)]
        )
        _check_folder(self.folder, scale)
        workers = max(min(cores, len(self.tasks)), 1)
        self._queue = TaskQueue(self.folder, workers=workers, slowness=machine_slowness)

    @property
    def seconds(self) -> float:
        """Estimate the remaining time on this machine."""
        return self._queue.estimate(self.tasks)

    def run(self, callback: Callback = lambda _: None) -> dict[str, Any]:
        """Run the remaining tasks and make the table.

        Returns:
            ``{"paper", "claim", "scale", "seeds", "cpu_seconds", "experiments": {name: {"title", "rows": [...],
            "claims": [...]}}, "skipped": {name: reason}}``, with rows from `Row.as_json` and claims from
            `ClaimResult.as_json`.
        """
        results = self._queue.run(self.tasks, callback)
        experiments = {name: self._summarize(experiment, results) for name, experiment in self.experiments.items()}
        return {
            "paper": self.paper.name, "claim": self.paper.claim, "scale": self.scale.name,
            "seeds": len(self.scale.seeds), "cpu_seconds": self._queue.cpu_seconds, "experiments": experiments,
            "skipped": self.skipped,
        }  # fmt: skip

    def _summarize(self, experiment: Experiment, results: Mapping[str, Figures]) -> dict[str, Any]:
        claims = experiment.claims(self.scale, results) if experiment.claims else ()
        return {
            "title": experiment.title,
            "description": experiment.describe(self.scale),
            "rows": [row.as_json() for row in _rows(experiment, self.scale, results)],
            "claims": [claim.as_json() for claim in claims],
        }


def summarize_claims(result: Mapping[str, Any]) -> dict[str, Any]:
    """Summarize the result of `Reproduction.run` for the pages of results: claims with their words, and the table.

    The numbers have five digits.
    """
    experiments = result["experiments"].items()
    claims = [
        {"experiment": name, **{key: claim[key] for key in _CLAIM_KEYS}}
        for name, experiment in experiments for claim in experiment["claims"]
    ]  # fmt: skip
    rows = [{"experiment": name, **row} for name, experiment in experiments for row in experiment.get("rows", ())]
    settings = {name: {key: one.get(key, "") for key in ("title", "description")} for name, one in experiments}
    command = f"limbeck papers {result['paper']} --scale {result['scale']}"
    if result["seeds"] != paper(result["paper"]).seeds[result["scale"]]:
        command += f" --seeds {result['seeds']}"
    head = {key: result[key] for key in ("paper", "scale", "seeds", "cpu_seconds")}
    body = {"experiments": settings, "claims": _round(claims), "rows": _round(rows)}
    return {**head, "command": command, **body}


_CLAIM_KEYS = (
    "claim", "word", "mean", "low", "high", "unit", "bounds", "seeds", "comparisons", "paper", "lower_is_better",
)  # fmt: skip


def summary_text(result: Mapping[str, Any]) -> str:
    """Format `summarize_claims` as JSON, with a line for each claim and each row of the table."""
    parts = (f" {json.dumps(key)}: {_lines(value)}" for key, value in summarize_claims(result).items())
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(value: Any) -> str:
    """JSON with a line for each item."""
    one = partial(json.dumps, allow_nan=False, ensure_ascii=False)
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"  {one(item)}" for item in value) + "\n ]"
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"  {one(key)}: {one(item)}" for key, item in value.items()) + "\n }"
    return one(value)


def _round(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_round(one) for one in value]
    if isinstance(value, dict):
        return {key: _round(one) for key, one in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _rows(experiment: Experiment, scale: ExperimentScale, results: Mapping[str, Figures]) -> Sequence[Row]:
    rows = experiment.rows(scale, results)
    # At quick scale the numbers show only that the code works, so they have no aim.
    return [replace(row, aim=None) for row in rows] if scale.quick else rows


def _check_folder(folder: Path, scale: str) -> None:
    """Check that the folder has the same scale, because tasks have the same names at both scales."""
    file = folder / "reproduction.json"
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))["scale"]
        except (ValueError, TypeError, KeyError) as error:
            raise LimbeckError(
                f"{file} is damaged, so the scale of its results is unknown. Use "
                f"""another --out; or, if known, write {{"scale": "quick"}} or {{"scale": "full"}} into it."""
            ) from error
        if before != scale:
            raise LimbeckError(
                f"{folder} holds results at scale {before!r}, not {scale!r}; give another folder: --out."
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty and holds no reproduction; give another folder: --out.")
    make_folder(folder)
    write_text(json.dumps({"scale": scale}), file)
