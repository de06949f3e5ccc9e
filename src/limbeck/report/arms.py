"""Arms of a result as the report uses them: role, style, primary metric, and statistics over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from limbeck.metrics.statistics import t_ppf
from limbeck.report.axes import Interval, Number, padded_limits
from limbeck.tasks import Task

CONTROLS = ("student alone", "label smoothing", "teacher texts", "shuffled teacher", "post-training quantization")
"""Control arms: without a teacher, with its texts alone, with its outputs for other examples, or rounded alone."""

MEMBER = "one member"
"""The row of the members of a teacher ensemble: one value per member instead of one per seed."""


class SeedStat(NamedTuple):
    """A number for each seed, with mean and standard deviation.

    `std` is the number printed after a ±.

    Attributes:
        values: One for each seed.
        mean: None if a value is missing or not a number.
        std: The standard deviation over the seeds (n - 1); None with a single seed.
    """

    values: tuple[float, ...]
    mean: float | None
    std: float | None


class ScoreFormat(NamedTuple):
    """How the report names and prints the primary metric of a task.

    Attributes:
        title: The name in sentences.
        percent: Whether it is a fraction that is printed in percent, and its differences in points.
        higher_is_better: Whether higher values are better.
        examples: What is judged one by one: examples, texts, or prompts without answers.
        less: What a lower value is called: less, or fewer.
    """

    title: str = "accuracy"
    percent: bool = True
    higher_is_better: bool = True
    examples: str = "examples"
    less: str = "less"

    @classmethod
    def of_task(cls, task: Task) -> ScoreFormat:
        """The format of the primary metric of a task."""
        score = task.primary
        less = "fewer" if score.countable else "less"
        return cls(score.title, score.percent, score.higher_is_better, score.examples, less)

    @property
    def label(self) -> str:
        """Name and unit, for axes and columns."""
        return f"{self.title}, %" if self.percent else self.title

    @property
    def points(self) -> str:
        """The unit of differences in sentences: ``points of accuracy``."""
        return f"points of {self.title}" if self.percent else self.title

    @property
    def factor(self) -> float:
        """The factor from values to the numbers that are printed."""
        return 100.0 if self.percent else 1.0

    @property
    def least(self) -> float:
        """The smallest spread that is worth a scale of its own, in printed numbers."""
        return 1.0 if self.percent else 1e-6

    def gain(self, ours: float, theirs: float) -> float:
        """The gain of the first value over the second; negative if it is worse."""
        return ours - theirs if self.higher_is_better else theirs - ours

    def limits(self, values: Sequence[Number], *, least: float | None = None, margin: float = 0.08) -> Interval:
        """Return the limits of a scale for printed numbers. A percentage stays between 0 and 100."""
        floor, ceiling = (0.0, 100.0) if self.percent else (None, None)
        return padded_limits(values, least=0.4 * self.least if least is None else least, floor=floor, ceiling=ceiling,
                             margin=margin)  # fmt: skip

    def number(self, value: float) -> str:
        """Format a value without its unit."""
        return f"{100 * value:,.2f}" if self.percent else f"{value:,.4g}"

    def text(self, value: float) -> str:
        """Format a value with its unit."""
        return f"{self.number(value)} %" if self.percent else self.number(value)

    def difference(self, gain: float) -> str:
        """Format a gain without its unit: with a sign where more is better; "0.25 fewer" where less is better."""
        if self.higher_is_better:
            return f"{100 * gain:+.2f}" if self.percent else f"{gain:+.3g}"
        return f"{self._size(gain)} {'more' if gain < 0 else self.less}"

    def ends(self, low: float, high: float) -> tuple[str, str]:
        """Format both ends of an interval of gains; in words only if they differ in direction."""
        if self.higher_is_better or low < 0 < high:
            return self.difference(low), self.difference(high)
        first, last = sorted((low, high), key=abs)
        return self._size(first), self._size(last)

    def _size(self, gain: float) -> str:
        return f"{100 * abs(gain):.2f}" if self.percent else f"{abs(gain):.3g}"

    def mean_std(self, stat: SeedStat) -> str:
        """Format a mean ± its standard deviation over seeds, without the unit; a dash if there is none."""
        if stat.mean is None:
            return "-"
        return mean_std_text(stat, 2, 100) if self.percent else mean_std_text(stat)


def mean_std_text(stat: SeedStat, digits: int | None = None, scale: Number = 1) -> str:
    """Format a mean ± its standard deviation over seeds; a dash if there is none.

    Args:
        stat: The mean and the standard deviation.
        digits: Decimals of both; by default as many as give the mean four significant digits.
        scale: A factor.

    Example:
        >>> mean_std_text(SeedStat((), 24632.6411, 3802.255)), mean_std_text(SeedStat((), 0.7877, 0.02604))
        ('24,630 ± 3,800', '0.7877 ± 0.0260')
    """
    if stat.mean is None:
        return "-"
    if digits is None:
        size = abs(scale * stat.mean)
        digits = 3 - math.floor(math.log10(size)) if size > 0 and math.isfinite(size) else 4
        digits = min(digits, 12)

    def text(value: float) -> str:
        return f"{round(scale * value, digits):,.{max(digits, 0)}f}"

    return text(stat.mean) if stat.std is None else f"{text(stat.mean)} ± {text(stat.std)}"


class ArmRow(NamedTuple):
    """One arm.

    Attributes:
        name: The name of the arm.
        role: ``teacher``, ``member``, ``control`` or ``method``.
        style: Color and shape in every figure.
        score: The primary metric on the test data.
        development: The same on the development data; without values if it was not saved.
        row: The entry of the arm in ``result.json``.
    """

    name: str
    role: str
    style: int
    score: SeedStat
    development: SeedStat
    row: Mapping[str, Any]

    def measure(self, name: str) -> SeedStat:
        """Return a metric on the test data."""
        return read_stat(as_mapping(self.row.get("measures")).get(name))

    def number(self, key: str) -> float | None:
        """Return a cost: ``parameters``, ``megabytes``, ``milliseconds`` or ``seconds``."""
        value = self.row.get(key)
        return float(value) if _is_number(value) else None


def read_arms(
    rows: Mapping[str, Mapping[str, Any]], *, verdict_arm: Any = None, metric: str = "accuracy"
) -> dict[str, ArmRow]:
    """Read the arms of a result, with the primary metric of its task. The arm of the verdict has its own color."""
    arms: dict[str, ArmRow] = {}
    methods = 0
    for name, row in rows.items():
        role = _role(name, row)
        style = {"teacher": 1, "member": 1, "control": _CONTROL_STYLES.get(name, 7)}.get(role)
        # Results of earlier versions do not name the arm of the verdict; then it is the first method.
        if style is None and (name == verdict_arm or (verdict_arm not in rows and not methods)):
            style = _JUDGED
        if style is None:
            style = _METHOD_STYLES[methods % len(_METHOD_STYLES)]
        methods += role == "method" and style != _JUDGED
        score = read_stat(row.get(metric) or as_mapping(row.get("measures")).get(metric))
        arms[name] = ArmRow(name, role, style, score, read_stat(row.get("development")), row)
    return arms


_CONTROL_STYLES = {
    "student alone": 2,
    "label smoothing": 3,
    "teacher texts": 3,
    "shuffled teacher": 4,
    "post-training quantization": 11,
}
_METHOD_STYLES = (5, 6, 7, 8, 9, 10, 11)
_JUDGED = 0


def read_stat(entry: Any) -> SeedStat:
    """Read a statistic from a result: a mapping with ``values``, or a single number."""
    if _is_number(entry):
        number = float(entry)
        return SeedStat((number,), number, None)
    entries = as_mapping(entry).get("values")
    entries = entries if isinstance(entries, Sequence) and not isinstance(entries, str) else []
    values = tuple(float(value) for value in entries if _is_number(value))
    if not values or len(values) < len(entries):
        return SeedStat(values, None, None)
    return SeedStat(values, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def half_width(values: Sequence[float]) -> float | None:
    r"""Return half of Student's 95 % interval of a mean, :math:`t_{n-1} s / \sqrt n`; None below two values."""
    if len(values) < 2:
        return None
    return t_ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def _role(name: str, row: Mapping[str, Any]) -> str:
    role = row.get("role")
    if isinstance(role, str):
        return role
    if name in CONTROLS:
        return "control"
    return {"teacher": "teacher", "one member": "member"}.get(name, "method")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else: results may be damaged."""
    return value if isinstance(value, Mapping) else {}
