"""`Judgment`: scores, differences and verdict of the compared arms, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from limbeck.atomic_io import make_folder, write_text
from limbeck.errors import LimbeckError
from limbeck.job import sort_controls
from limbeck.report.arms import ScoreFormat
from limbeck.report.html import Markup, join, listed, section, table, tag
from limbeck.report.page import page_document
from limbeck.report.scores import DifferenceRow, draw_differences
from limbeck.report.summary import Headline, banner
from limbeck.report.svg import figure, page_style

Role = Literal["baseline", "control", "method", "teacher"]


@dataclass(frozen=True)
class ArmScores:
    """The scores of one arm on the test examples.

    Attributes:
        role: ``baseline``, ``control``, ``method`` or ``teacher``.
        mean: The mean over seeds and examples, in the unit of the metric.
        values: For each seed the mean over examples.
        std: The standard deviation over seeds, which limbeck shows after ± everywhere; None with one seed.
    """

    role: Role
    mean: float
    values: tuple[float, ...]
    std: float | None


@dataclass(frozen=True)
class Comparison:
    """The difference between two arms, in the unit of the metric; positive values are better.

    Attributes:
        gain: The mean difference over paired seeds and examples. For an error this is the reduction.
        interval: The 95 % interval over seeds and test examples; None with one seed.
        p: The two-sided p-value, corrected for the number of methods. It is below 0.05 exactly if zero lies outside
            the interval.
        sentence: The result as a sentence.
    """

    gain: float
    interval: tuple[float, float] | None
    p: float | None
    sentence: str

    @property
    def helps(self) -> bool | None:
        """Whether the whole interval lies above zero; None if there is no interval."""
        return None if self.interval is None else self.interval[0] > 0


@dataclass(frozen=True)
class Judgment:
    """Whether a method is better than the baseline, computed from predictions.

    Attributes:
        metric: The name of the metric.
        percent: Whether the metric is a fraction that is shown in percent.
        higher_is_better: Whether higher values of the metric are better.
        seeds: The number of paired runs of each arm.
        examples: The number of test examples that count.
        arm: The method of the verdict: the only one, or the best of several.
        chosen_on: ``development data`` or ``the test data``; empty if there is one method. The interval allows for the
            choice.
        arms: The scores of every arm by name.
        verdict: The difference between the method and the baseline.
        against: The difference between the method and each control.
        methods: The difference between every method and the baseline.
        title: The title of the page.
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
        """Whether the method is better than the baseline beyond chance; None with one seed."""
        return self.verdict.helps

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the verdict."""
        return self.verdict.interval

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        return self.verdict.sentence

    def __str__(self) -> str:
        lines = [f"{name}: {self.show(arm.mean)}" + self._format_std(arm) for name, arm in self.arms.items()]
        return "\n".join([*lines, "", self.sentence, *(control.sentence for control in self.against.values())])

    def show(self, value: float, *, signed: bool = False) -> str:
        """Format a value with the unit of the metric."""
        sign = "+" if signed else ""
        return f"{100 * value:{sign}.2f}{' points' if signed else ' %'}" if self.percent else f"{value:{sign}.4g}"

    def _format_std(self, arm: ArmScores) -> str:
        if arm.std is None:
            return " (one seed)"
        return f" ± {100 * arm.std:.2f}" if self.percent else f" ± {arm.std:.2g}"

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        values = asdict(self)
        # asdict drops properties
        values["verdict"]["helps"] = self.verdict.helps
        for name, control in self.against.items():
            values["against"][name]["helps"] = control.helps
        return values

    def write(self, folder: str | Path) -> Path:
        """Write ``judgment.json`` and the page ``report.html`` into a folder, and return the path of the page.

        Args:
            folder: A new or empty folder.

        Raises:
            LimbeckError: If the folder is not empty.
        """
        path = Path(folder)
        page = path / "report.html"
        check_new(path)
        make_folder(path)
        write_text(json.dumps(self.as_dict(), indent=2), path / "judgment.json")
        write_text(judgment_page(self), page)
        return page


def check_new(folder: Path) -> None:
    """Check that a folder is new or empty.

    Raises:
        LimbeckError: If it is not, or is a file.
    """
    if folder.is_file():
        raise LimbeckError(f"{folder} is a file; out= is a folder that is new or empty.")
    if folder.exists() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty. Nothing was changed in it; choose another folder with out=.")


# --- the page -------------------------------------------------------------------------------------------------------

_STYLES = {"method": 0, "baseline": 1, "control": 2, "teacher": 3}


@page_style()
def judgment_page(judgment: Judgment) -> str:
    """The page as self-contained HTML, without scripts or external files."""
    top = tag(
        "section", banner(_headline(judgment)), _differences(judgment),
        tag("ul", (tag("li", control.sentence) for control in judgment.against.values()), class_="sentences"),
        id="verdict", aria_label="Verdict", class_="top",
    )  # fmt: skip
    main = tag("main", join(top, _arms(judgment), _interval_note(judgment)))
    return page_document(judgment.title, judgment.title, main)


def _headline(judgment: Judgment) -> Headline:
    interval, sentence = judgment.interval, judgment.sentence
    if interval is None:
        return Headline("unsure", "Unknown: one seed" if judgment.seeds == 1 else "Unknown: one test example", sentence)
    if interval[1] < 0:
        return Headline("no", f"No: {judgment.arm} is worse", sentence)
    if interval[0] <= 0:
        return Headline("unsure", "Not shown to be worth it", sentence)
    better, equal = sort_controls(
        {"against": {name: {"interval": control.interval} for name, control in judgment.against.items()}}
    )
    if better:
        return Headline("unsure", f"It helps, but {listed(better)} does better", sentence)
    if equal:
        return Headline("unsure", f"It helps, but {listed(equal)} may do as well", sentence)
    return Headline("yes", "Yes: it is worth it", sentence)


def _differences(judgment: Judgment) -> Markup:
    baseline = next(name for name, arm in judgment.arms.items() if arm.role == "baseline")
    rows = [(f"over {baseline}", judgment.verdict, "baseline")]
    rows += [(f"over {name}", comparison, "control") for name, comparison in judgment.against.items()]
    rows += [
        (f"{name} over {baseline}", comparison, "method")
        for name, comparison in judgment.methods.items()
        if name != judgment.arm
    ]
    bars = [DifferenceRow(name, _STYLES[role], comparison.gain, comparison.interval) for name, comparison, role in rows]
    score = ScoreFormat(judgment.metric.replace("_", " "), judgment.percent, judgment.higher_is_better)
    caption = f"Right of zero is better. Bars are 95 % intervals over {judgment.seeds} paired seeds and test examples."
    return figure(f"{judgment.arm} compared with each arm", lambda: draw_differences(bars, score), caption)


def _arms(judgment: Judgment) -> Markup:
    metric = judgment.metric.replace("_", " ")
    rows = [
        (name, arm.role, judgment.show(arm.mean), "-" if arm.std is None else judgment.show(arm.std), len(arm.values))
        for name, arm in judgment.arms.items()
    ]
    caption = f"{metric} on {judgment.examples:,} test examples; ± is the standard deviation over seeds"
    return section("arms", "The arms", table(caption, ("arm", "role", metric, "±", "seeds"), rows, words=2))


def _interval_note(judgment: Judgment) -> Markup:
    choice = (
        f" The method was chosen on {judgment.chosen_on}; the intervals allow for that." if judgment.chosen_on else ""
    )
    return section(
        "meaning", "What the interval means",
        tag("p", "In 95 of 100 such experiments it contains the true difference, for other seeds and other test "
            "examples of the same kind. It is valid for this teacher and this training data." + choice),
    )  # fmt: skip
