"""`Judgment`: scores, differences and the verdict of judged arms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from limbeck.errors import LimbeckError

Role = Literal["baseline", "control", "method", "teacher"]


@dataclass(frozen=True)
class ArmScores:
    """One arm's score on the test examples.

    Attributes:
        role: ``baseline``, ``control``, ``method`` or ``teacher``.
        mean: Over seeds and examples, in the metric's unit.
        values: The mean over examples of each seed.
        std: The standard deviation over seeds, which ± shows everywhere in limbeck; None with one seed.
    """

    role: Role
    mean: float
    values: tuple[float, ...]
    std: float | None


@dataclass(frozen=True)
class Comparison:
    """The chosen method beside another arm, in the metric's unit; what is positive is better.

    Attributes:
        gain: The mean over paired seeds and examples; of an error it is by how much it fell.
        interval: Its 95 % interval over seeds and test examples; None with one seed.
        p: Two-sided, for as many methods as there were; below 0.05 exactly where zero lies outside the interval.
        sentence: The same for people.
    """

    gain: float
    interval: tuple[float, float] | None
    p: float | None
    sentence: str

    @property
    def helps(self) -> bool | None:
        """Whether the whole interval lies above zero; None where there is none."""
        return None if self.interval is None else self.interval[0] > 0


@dataclass(frozen=True)
class Judgment:
    """Whether a method is worth it, judged from predictions.

    Attributes:
        metric: Its name.
        percent: Whether the metric is a fraction that is read in percent.
        higher_is_better: Which way the metric is better.
        seeds: How many paired runs each arm has.
        examples: How many test examples count.
        arm: The method that is judged: the only one, or the best of several.
        chosen_on: ``development data`` or ``the test data``, which the interval then pays for; empty for a single one.
        arms: Every arm's scores by name.
        verdict: The method beside the baseline.
        against: The method beside each control.
        methods: Every method beside the baseline.
        title: What the page is called.
    """

    metric: str
    percent: bool
    higher_is_better: bool
    seeds: int
    examples: int
    arm: str
    chosen_on: str
    arms: Mapping[str, ArmScores]
    verdict: Comparison
    against: Mapping[str, Comparison]
    methods: Mapping[str, Comparison]
    title: str

    @property
    def helps(self) -> bool | None:
        """Whether the method is better than the baseline, beyond chance; None where one seed cannot tell."""
        return self.verdict.helps

    @property
    def interval(self) -> tuple[float, float] | None:
        """The verdict's interval."""
        return self.verdict.interval

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        return self.verdict.sentence

    def __str__(self) -> str:
        lines = [f"{name}: {self.show(one.mean)}" + self._spread(one) for name, one in self.arms.items()]
        said = [self.sentence, *(one.sentence for one in self.against.values())]
        return "\n".join([*lines, "", *said])

    def show(self, value: float, *, signed: bool = False) -> str:
        """A value in the metric's unit, as people read it."""
        sign = "+" if signed else ""
        return f"{100 * value:{sign}.2f}{' points' if signed else ' %'}" if self.percent else f"{value:{sign}.4g}"

    def _spread(self, arm: ArmScores) -> str:
        if arm.std is None:
            return " (one seed)"
        return f" ± {100 * arm.std:.2f}" if self.percent else f" ± {arm.std:.2g}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        for one, made in (
            (found["verdict"], self.verdict),
            *zip(found["against"].values(), self.against.values(), strict=True),
        ):
            one["helps"] = made.helps
        return found

    def write(self, folder: str | Path) -> Path:
        """Write ``judgment.json`` and the page ``report.html`` into a folder, and give the page's path.

        Args:
            folder: One that is new or empty.

        Raises:
            LimbeckError: If it holds something.
        """
        from limbeck.atomic_io import write_text
        from limbeck.judging.page import judgment_page

        place = Path(folder)
        page = place / "report.html"
        check_new(place)
        place.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(self.as_dict(), indent=2), place / "judgment.json")
        write_text(judgment_page(self), page)
        return page


def check_new(folder: Path) -> None:
    """Refuse to write into a folder that holds something.

    Raises:
        LimbeckError: If it does, or is a file.
    """
    if folder.is_file():
        raise LimbeckError(f"{folder} is a file; out= is a folder that is new or empty.")
    if folder.exists() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} already holds something, which is left alone; choose another with out=.")
