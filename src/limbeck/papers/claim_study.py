"""Studies of a paper's claims: arms that are trained with the same seeds, their table, and a word for each claim.

A paper is one module in this folder, found by its ``EXPERIMENTS``. With this harness it is about 80 to 120 lines:

1. ``ARMS``: the name of each arm and what it means, with ``alone`` and ``kd`` among them.
2. A function of the module that trains one arm with one seed and returns its figures. It is called as
   ``train(folder, arm=..., seed=..., quick=...)`` in a process of its own. `limbeck.papers.small_images` has data,
   networks, a teacher as a task that arms share, and a function that trains and measures a student.
3. ``STUDY = ClaimStudy(...)`` with the figures of the table and the claims, and
   ``EXPERIMENTS = (STUDY.experiment(),)``. With a `SettingsSearch` each arm first chooses settings on development data.
4. ``TITLE``: authors, title, year and arXiv number; ``CLAIM``: what the paper claims, in one sentence.

``limbeck papers NAME`` runs it, and ``limbeck papers`` lists it. `limbeck.papers.stanton2021` is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from limbeck.errors import LimbeckError
from limbeck.papers.claim import Claim, ClaimResult, Column, Figure, judge_claims
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row, TaskFolder
from limbeck.task_runner import WorkItem

Results = Mapping[str, Figures]
"""The figures of all tasks by name."""


def pass_quick(scale: ExperimentScale) -> dict[str, Any]:
    """The default arguments of `ClaimStudy.train`: ``quick``."""
    return {"quick": scale.quick}


@dataclass(frozen=True)
class SettingsSearch:
    """Settings that the arms try on development data, before the study.

    Each arm is trained with each of its settings and each of the search's own seeds, as ``train(...,
    development=True, **settings)``, and measured on data on which no arm is judged. The settings with the best mean are
    its arguments for all seeds of the study. All arms have equally many settings to try: an arm that is tuned more than
    another can win for that alone.

    Attributes:
        settings: The settings of each arm: arguments of `ClaimStudy.train`.
        figure: The figure of the development data that decides. Of equal values the first wins.
        seeds: The seeds of the tries; no student of the study has them. Where seeds differ by more than settings, one
            seed chooses by chance: give several.

    Raises:
        LimbeckError: If an arm has more settings than another, or there is no seed.
    """

    settings: Mapping[str, Sequence[Mapping[str, Any]]]
    figure: Figure
    seeds: tuple[int, ...] = (100,)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise LimbeckError("A search needs at least one seed of its own, such as seeds=(100, 101); got none.")
        counts = {arm: len(own) for arm, own in self.settings.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise LimbeckError(f"All arms need equally many settings to try, and at least one; got {counts}.")


def train_chosen(
    train: Callable[..., Figures], folder: TaskFolder, *, arm: str, chosen: str, **arguments: Any
) -> Figures:
    """Train an arm with the settings that another task chose for it."""
    return train(folder, arm=arm, **arguments, **folder.figures_of(chosen)[arm])


class Try(NamedTuple):
    """Settings that an arm tries, and the tasks that train it with them, one for each seed of the search."""

    settings: Mapping[str, Any]
    tasks: tuple[str, ...]


def choose_settings(
    folder: TaskFolder, *, tries: Mapping[str, Sequence[Try]], figure: str, lower_is_better: bool
) -> Figures:
    """Choose for each arm the settings whose tries have the best mean; of equal ones the first.

    Args:
        folder: The folder of the task.
        tries: Maps each arm to its tries.
        figure: The key of the figure that decides.
        lower_is_better: Whether the smallest is the best.
    """
    sign = -1.0 if lower_is_better else 1.0

    def score(one: Try) -> float:
        return sign * sum(folder.figures_of(task)[figure] for task in one.tasks) / len(one.tasks)

    return {arm: max(own, key=score).settings for arm, own in tries.items()}


@dataclass(frozen=True)
class ClaimStudy:
    """Arms that are trained with the same seeds, and claims about their figures.

    Attributes:
        name: The name for ``--only``, and the folder of its tasks.
        title: The question, in one line.
        arms: The name of each arm and what it means.
        train: A function of a module, ``train(folder, arm=..., seed=..., **settings)``: it trains one arm with one
            seed, and returns its figures. A figure that an arm does not have, such as the accuracy of the teacher where
            there is none, is left out, and its cell is a dash. `folder` is a `TaskFolder`.
        figures: The columns of the table.
        claims: The claims. They are judged together, with Holm's correction for their number.
        seconds: The estimated seconds of one arm and seed at scale ``quick`` and ``full``, on one core.
        settings: Maps the scale to further arguments of `train`; by default ``quick=True`` or ``False``.
        shared: Maps the scale to tasks that arms share, such as the training of teachers.
        requires: Maps a seed to the names of the shared tasks that its arms need.
        rows: Maps the scale and all results to further rows of the table.
        skip: Maps the scale to the reason why this machine does not run the study; empty if it does.
        describe: Maps the scale to a sentence about data, networks and training, for the table and the page of results.
        search: The settings that arms try before the study; by default they have those of `train`.

    Raises:
        LimbeckError: If `search` does not have the arms of the study.
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
    describe: Callable[[ExperimentScale], str] = lambda _: ""
    search: SettingsSearch | None = None

    def __post_init__(self) -> None:
        if self.search is not None and set(self.search.settings) != set(self.arms):
            raise LimbeckError(f"A search needs settings for {list(self.arms)}; got {list(self.search.settings)}.")

    def task_name(self, arm: str, seed: int) -> str:
        """The name of the task that trains an arm with a seed."""
        return f"{self.name}/{arm.replace(', ', '-').replace(' ', '-')}/seed-{seed}"

    def column(self, scale: ExperimentScale, results: Results) -> Column:
        """Make a function of an arm and the key of a figure that returns its numbers by seed."""
        return lambda arm, key: [results[self.task_name(arm, seed)][key] for seed in scale.seeds]

    def tasks(self, scale: ExperimentScale) -> list[WorkItem]:
        """The shared tasks, those of a search, and one for each arm and seed."""
        search, settings = self.search, self.settings(scale)
        train, chosen, before = partial(self.train), tuple[str, ...](), [*self.shared(scale)]
        if search is not None:
            with_seed = scale._replace(seeds=(*scale.seeds, *search.seeds))
            before = [*self.shared(with_seed), *self._search_tasks(search, scale)]
            train, chosen = partial(train_chosen, self.train, chosen=self._chosen), (self._chosen,)
        return before + [
            WorkItem(
                self.task_name(arm, seed), partial(train, arm=arm, seed=seed, **settings),
                (*self.requires(seed), *chosen), self.seconds[scale.name],
            )
            for seed in scale.seeds
            for arm in self.arms
        ]  # fmt: skip

    @property
    def _chosen(self) -> str:
        """The task that chooses the settings of the arms."""
        return f"{self.name}/settings"

    def _tries(self, search: SettingsSearch) -> dict[str, list[Try]]:
        """The tries of each arm."""
        return {
            arm: [
                Try(settings, tuple(self.task_name(f"try {number} {arm}", seed) for seed in search.seeds))
                for number, settings in enumerate(own)
            ]
            for arm, own in search.settings.items()
        }

    def _search_tasks(self, search: SettingsSearch, scale: ExperimentScale) -> list[WorkItem]:
        """The tries of a search, and the task that chooses among them."""
        tries, settings = self._tries(search), self.settings(scale)
        tasks = [
            WorkItem(
                task, partial(self.train, arm=arm, seed=seed, development=True, **settings, **one.settings),
                self.requires(seed), self.seconds[scale.name],
            )
            for arm, mine in tries.items()
            for one in mine
            for seed, task in zip(search.seeds, one.tasks, strict=True)
        ]  # fmt: skip
        figure = search.figure
        choose = partial(choose_settings, tries=tries, figure=figure.key, lower_is_better=figure.lower_is_better)
        return [*tasks, WorkItem(self._chosen, choose, tuple(task.name for task in tasks), 0.1)]

    def _search_rows(self, results: Results) -> list[Row]:
        """What each try gave on development data."""
        if self.search is None:
            return []
        figure, chosen = self.search.figure, results[self._chosen]
        return [
            Row(
                f"development data, {arm}: {_describe(one.settings)}",
                [results[task][figure.key] for task in one.tasks], figure.unit, lower_is_better=figure.lower_is_better,
                note="chosen" if one.settings == chosen[arm] else "",
            )
            for arm, tries in self._tries(self.search).items()
            for one in tries
        ]  # fmt: skip

    def table(self, scale: ExperimentScale, results: Results) -> list[Row]:
        """A line for each arm with a column for each figure that it has, and the further rows."""
        column = self.column(scale, results)
        cells = [
            Row(
                arm, column(arm, figure.key), figure.unit, lower_is_better=figure.lower_is_better,
                column=figure.title, note=meaning,
            )
            for arm, meaning in self.arms.items()
            for figure in self.figures
            if self._is_measured(arm, figure, scale, results)
        ]  # fmt: skip
        return [*cells, *self.rows(scale, results), *self._search_rows(results)]

    def _is_measured(self, arm: str, figure: Figure, scale: ExperimentScale, results: Results) -> bool:
        """Whether an arm has a figure: one without a teacher has no accuracy of its teacher. Some arm must have it."""
        own = {name: results[self.task_name(name, scale.seeds[0])] for name in self.arms}
        return figure.key in own[arm] or not any(figure.key in figures for figures in own.values())

    def judge(self, scale: ExperimentScale, results: Results) -> list[ClaimResult]:
        """The word of each claim."""
        return judge_claims(self.claims, self.column(scale, results))

    def experiment(self) -> Experiment:
        """The study as an experiment of a paper."""
        return Experiment(self.name, self.title, self.tasks, self.table, self.skip, self.judge, self.describe)


def _describe(settings: Mapping[str, Any]) -> str:
    """Settings in words: ``lr 0.01, weight 0.5``. A number has at most four digits: 4/255 is 0.01569."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in settings.items()}
    return ", ".join(f"{key} {value}" for key, value in rounded.items()) or "as it is"
