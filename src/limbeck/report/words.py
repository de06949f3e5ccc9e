"""What does a run's result say in plain words, on the first screen?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

from limbeck.report.evidence import ALONE, Evidence
from limbeck.report.figure import ClassRow


class Headline(NamedTuple):
    """The verdict: ``yes``, ``no`` or ``unsure``, in a few words, and in a sentence."""

    kind: str
    words: str
    sentence: str


class Answer(NamedTuple):
    """A question that everyone asks, its short answer, and what stands behind it."""

    question: str
    answer: str
    why: str


def headline(evidence: Evidence) -> Headline:
    """Whether distilling was worth it; it never says more than the interval does."""
    verdict = evidence.verdict
    sentence = str(verdict.get("sentence") or "This result holds no verdict.")
    interval = interval_of(verdict)
    if not isinstance(verdict.get("difference"), (int, float)):
        return Headline("unsure", "No verdict", sentence)
    if interval is None:
        return Headline("unsure", "Not known yet: one seed", sentence)
    if interval[1] < 0:
        return Headline("no", "No: distilling made the student worse", sentence)
    if interval[0] <= 0:
        return Headline("no", "Not shown to be worth it", sentence)
    better, equal = rivals(evidence)
    if better:
        return Headline("unsure", f"It helps, but {_listed(better)} does better", sentence)
    if equal:
        return Headline("unsure", f"It helps, but {_listed(equal)} may do as well", sentence)
    return Headline("yes", "Yes: distilling is worth it", sentence)


def rivals(evidence: Evidence) -> tuple[list[str], list[str]]:
    """The controls that beat the judged arm for sure, and those that it is not shown to beat."""
    better, equal = [], []
    against = evidence.verdict.get("against")
    for name, found in (against if isinstance(against, Mapping) else {}).items():
        interval = interval_of(found)
        if interval is not None and interval[1] < 0:
            better.append(str(name))
        elif interval is not None and interval[0] <= 0:
            equal.append(str(name))
    return better, equal


def interval_of(found: Any) -> tuple[float, float] | None:
    """The interval in a verdict, if there is one."""
    given = found.get("interval") if isinstance(found, Mapping) else None
    if isinstance(given, list) and len(given) == 2 and all(isinstance(end, (int, float)) for end in given):
        return float(given[0]), float(given[1])
    return None


def answers(evidence: Evidence, classes: Sequence[ClassRow]) -> list[Answer]:
    """The six questions of the first screen."""
    return [
        _worth(evidence), _method(evidence), _sure(evidence), _losers(evidence, classes), _fast(evidence),
        _ship(evidence),
    ]  # fmt: skip


def _worth(evidence: Evidence) -> Answer:
    question = "Is distilling worth it?"
    difference = evidence.verdict.get("difference")
    if not isinstance(difference, (int, float)):
        return Answer(question, "Nobody can tell", "There is no student alone to compare with.")
    return Answer(
        question,
        f"{100 * difference:+.2f} points",
        f"of accuracy over the same student trained alone. {_gap(evidence)}",
    )


def _gap(evidence: Evidence) -> str:
    teacher = next((arm.accuracy.mean for arm in evidence.arms.values() if arm.role == "teacher"), None)
    alone = evidence.arms[ALONE].accuracy.mean if ALONE in evidence.arms else None
    ours = evidence.arms[evidence.judged].accuracy.mean if evidence.judged else None
    if teacher is None or alone is None or ours is None:
        return ""
    if teacher <= alone:
        return "The teacher is no better than the student alone, so there was little to hand on."
    return (
        f"That is {100 * (ours - alone) / (teacher - alone):.0f} % of the way to the teacher's {100 * teacher:.2f} %."
    )


def _method(evidence: Evidence) -> Answer:
    question = "With which method?"
    methods = [arm for arm in evidence.arms.values() if arm.role == "method"]
    judged = evidence.judged
    if judged is None:
        return Answer(question, "None", "No arm of this run was taught by a method.")
    named = evidence.arms[judged].row.get("method") or evidence.result.get("method")
    name = str(named.get("name", judged)) if isinstance(named, Mapping) else judged
    if len(methods) < 2:
        return Answer(question, name, "The only method of this run. `limbeck compare` sets several side by side.")
    if all(arm.development.mean is None for arm in methods):
        return Answer(question, name, f"Of {len(methods)} methods. How they did on development data was not kept.")
    rest = sorted((a for a in methods if a.name != judged and a.development.mean is not None),
                  key=lambda a: -(a.development.mean or 0.0))  # fmt: skip
    then = f" Next: {rest[0].name}." if rest else ""
    return Answer(
        question, name, f"Chosen on development data among {len(methods)} methods; the test data had no say.{then}"
    )


def _sure(evidence: Evidence) -> Answer:
    question = "How sure is that?"
    interval = interval_of(evidence.verdict)
    if interval is None:
        return Answer(question, "Not known", "One seed has no interval, so none is given. Run it with --seeds 5.")
    low, high = interval
    side = "zero lies inside" if low <= 0 <= high else "zero lies outside"
    better, equal = rivals(evidence)
    more = f" Beaten by {_listed(better)}." if better else f" Not shown to beat {_listed(equal)}." if equal else ""
    return Answer(question, f"{100 * low:+.2f} to {100 * high:+.2f}",
                  f"points, the 95 % interval over {evidence.seeds} paired seeds; {side}.{more}")  # fmt: skip


def _losers(evidence: Evidence, classes: Sequence[ClassRow]) -> Answer:
    question = "Which classes lose?"
    if not classes:
        return Answer(question, "Not known", "This run kept no predictions of both arms to tell it by.")
    losers = sorted((row for row in classes if row.sure and row.change < 0), key=lambda row: row.change)
    fell = [row for row in classes if row.change < 0]
    if losers:
        shown = _listed([f"{row.name} ({100 * row.change:+.1f})" for row in losers[:3]])
        more = f" and {len(losers) - 3} more" if len(losers) > 3 else ""
        return Answer(question, f"{len(losers)} of {len(classes)}", f"surely lose: {shown}{more}, points of accuracy.")
    if not fell:
        return Answer(question, "None", "No class is less accurate than with the student alone.")
    worst = min(fell, key=lambda row: row.change)
    return Answer(question, "None for sure",
                  f"{len(fell)} of {len(classes)} fell, none beyond chance. Most: {worst.name}, "
                  f"{100 * worst.change:+.1f} points.")  # fmt: skip


def _fast(evidence: Evidence) -> Answer:
    question = "How fast is the student?"
    arm = evidence.arms.get(evidence.judged or "")
    teacher = next((a for a in evidence.arms.values() if a.role == "teacher"), None)
    time = arm.number("milliseconds") if arm else None
    if arm is None or not time:
        return Answer(question, "Not measured", "This result holds no time for it.")
    times = _ratio(teacher.number("milliseconds") if teacher else None, time)
    smaller = _ratio(teacher.number("megabytes") if teacher else None, arm.number("megabytes"))
    said = f"{sized(time)} ms an example on one CPU thread"
    size = arm.number("megabytes")
    took = f"{sized(size)} MB" if size is not None else "of unknown size"
    if times is None:
        return Answer(question, f"{sized(time)} ms", f"an example on one CPU thread; {took}.")
    return Answer(question, f"{_times(times)} the teacher's speed",
                  f"{said}; {took}" + (f", {_part(smaller)} of the teacher's." if smaller else "."))  # fmt: skip


def _ship(evidence: Evidence) -> Answer:
    question = "What do I ship?"
    arm, why = shipped(evidence)
    if arm is None:
        return Answer(question, "Nothing yet", why)
    return Answer(question, arm, why)


def shipped(evidence: Evidence) -> tuple[str | None, str]:
    """The arm whose student this evidence speaks for, and why it is that one."""
    judged, interval = evidence.judged, interval_of(evidence.verdict)
    if judged is None:
        return None, "There is no distilled student in this run."
    better, _ = rivals(evidence)
    trained = [name for name in better if name != "shuffled teacher"]
    if trained:
        return trained[0], f"It beats {judged}, and needs no teacher; its student is in {where(evidence, trained[0])}"
    if interval is None:
        return judged, f"For the time being, as one seed proves nothing: its student is in {where(evidence, judged)}"
    if interval[0] <= 0 and ALONE in evidence.arms:
        return ALONE, f"It is not shown to be worse, and is the simpler; its student is in {where(evidence, ALONE)}"
    return judged, f"Its student is complete, in {where(evidence, judged)}"


def where(evidence: Evidence, arm: str) -> str:
    """The folder of an arm's student, for a shell."""
    if arm == evidence.judged:
        return quote(str(evidence.folder / "student"))
    return quote(str(evidence.folder / "arms" / arm.replace(" ", "-") / "seed-0" / "student"))


def sized(value: float) -> str:
    """A positive number with three digits that count.

    Example:
        >>> sized(0.012345), sized(3.14159), sized(1234.5)
        ('0.0123', '3.14', '1,234')
    """
    if value >= 1000:
        return f"{value:,.0f}"
    text = f"{value:#.3g}"
    return text.rstrip(".") if "e" not in text else f"{value:.2g}"


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _part(ratio: float) -> str:
    return f"1/{ratio:.0f}" if ratio >= 1.5 else f"{100 / ratio:.0f} %"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
