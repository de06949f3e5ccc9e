"""Studies of a paper's claims: arms that are trained with the same seeds, their table, and a word for each claim.

A paper is one module in this folder, found by its ``EXPERIMENTS``. With this harness it is about 80 to 120 lines:

1. ``ARMS``: the name of each arm and what it means, with ``alone`` and ``kd`` among them.
2. A function of the module that trains one arm with one seed and returns its figures. It is called as
   ``train(folder, arm=..., seed=..., quick=...)`` in a process of its own. `limbeck.papers.small_images` has data,
   networks, a teacher as a task that arms share, and a function that trains and measures a student.
3. ``STUDY = ClaimStudy(...)`` with the figures of the table and the claims, and
   ``EXPERIMENTS = (STUDY.experiment(),)``.
4. ``TITLE``: authors, title, year and arXiv number; ``CLAIM``: what the paper claims, in one sentence.

``limbeck papers NAME`` runs it, and ``limbeck papers`` lists it. `limbeck.papers.stanton2021` is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from limbeck.papers.claim import Claim, ClaimResult, Column, Figure, judge_claims
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row
from limbeck.task_runner import WorkItem

Results = Mapping[str, Figures]
"""The figures of all tasks by name."""


def pass_quick(scale: ExperimentScale) -> dict[str, Any]:
    """The default arguments of `ClaimStudy.train`: ``quick``."""
    return {"quick": scale.quick}


@dataclass(frozen=True)
class ClaimStudy:
    """Arms that are trained with the same seeds, and claims about their figures.

    Attributes:
        name: The name for ``--only``, and the folder of its tasks.
        title: The question, in one line.
        arms: The name of each arm and what it means.
        train: A function of a module, ``train(folder, arm=..., seed=..., **settings)``: it trains one arm with one
            seed, and returns its figures. `folder` is a `TaskFolder`.
        figures: The columns of the table.
        claims: The claims. They are judged together, with Holm's correction for their number.
        seconds: The estimated seconds of one arm and seed at scale ``quick`` and ``full``, on one core.
        settings: Maps the scale to further arguments of `train`; by default ``quick=True`` or ``False``.
        shared: Maps the scale to tasks that arms share, such as the training of teachers.
        requires: Maps a seed to the names of the shared tasks that its arms need.
        rows: Maps the scale and all results to further rows of the table.
        skip: Maps the scale to the reason why this machine does not run the study; empty if it does.
    """

    name: str
    title: str
    arms: Mapping[str, str]
    train: Callable[..., Figures]
    figures: Sequence[Figure]
    claims: Sequence[Claim]
    seconds: Mapping[str, float | int]
    settings: Callable[[ExperimentScale], Mapping[str, Any]] = pass_quick
    shared: Callable[[ExperimentScale], Sequence[WorkItem]] = lambda _: ()
    requires: Callable[[int], tuple[str, ...]] = lambda _: ()
    rows: Callable[[ExperimentScale, Results], Sequence[Row]] = lambda *_: ()
    skip: Callable[[ExperimentScale], str] = lambda _: ""

    def task_name(self, arm: str, seed: int) -> str:
        """The name of the task that trains an arm with a seed."""
        return f"{self.name}/{arm.replace(', ', '-').replace(' ', '-')}/seed-{seed}"

    def column(self, scale: ExperimentScale, results: Results) -> Column:
        """Make a function of an arm and the key of a figure that returns its numbers by seed."""
        return lambda arm, key: [results[self.task_name(arm, seed)][key] for seed in scale.seeds]

    def tasks(self, scale: ExperimentScale) -> list[WorkItem]:
        """The shared tasks, and one for each arm and seed."""
        settings = self.settings(scale)
        return [*self.shared(scale)] + [
            WorkItem(
                self.task_name(arm, seed), partial(self.train, arm=arm, seed=seed, **settings), self.requires(seed),
                self.seconds[scale.name],
            )
            for seed in scale.seeds
            for arm in self.arms
        ]  # fmt: skip

    def table(self, scale: ExperimentScale, results: Results) -> list[Row]:
        """A line for each arm with a column for each figure, and the further rows."""
        column = self.column(scale, results)
        cells = [
            Row(
                arm, column(arm, figure.key), figure.unit, lower_is_better=figure.lower_is_better,
                column=figure.title, note=meaning,
            )
            for arm, meaning in self.arms.items()
            for figure in self.figures
        ]  # fmt: skip
        return [*cells, *self.rows(scale, results)]

    def judge(self, scale: ExperimentScale, results: Results) -> list[ClaimResult]:
        """The word of each claim."""
        return judge_claims(self.claims, self.column(scale, results))

    def experiment(self) -> Experiment:
        """The study as an experiment of a paper."""
        return Experiment(self.name, self.title, self.tasks, self.table, self.skip, self.judge)
