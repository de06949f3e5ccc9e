"""The first screen in plain words: headline and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from limbeck.job import read_interval, recommend, sort_controls
from limbeck.report.arms import ArmRow, half_width
from limbeck.report.figures import ClassRow
from limbeck.report.numbers import duration, listed, share_of, sized, times
from limbeck.report.predictions import recommended_student
from limbeck.report.run_data import ALONE, RunData

_EQUAL = 0.05  # clocks differ by so much from one measurement of a network to the next


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


def headline(evidence: RunData) -> Headline:
    """Whether distilling was worth it; it never says more than the interval does."""
    verdict = evidence.verdict
    sentence = str(verdict.get("sentence") or "This result holds no verdict.")
    interval = read_interval(verdict)
    if not isinstance(verdict.get("difference"), (int, float)):
        return Headline("unsure", "No verdict", sentence)
    if interval is None:
        return Headline("unsure", f"Unknown: one {_lone(evidence)}", sentence)
    if interval[1] < 0:
        return Headline("no", "No: distilling made the student worse", sentence)
    if interval[0] <= 0:
        return Headline("unsure", "Not shown to be worth it", sentence)
    better, equal = sort_controls(evidence.verdict)
    if better:
        return Headline("unsure", f"It helps, but {listed(better)} does better", sentence)
    if equal:
        return Headline("unsure", f"It helps, but {listed(equal)} may do as well", sentence)
    return Headline("yes", "Yes: distilling is worth it", sentence)


def _lone(evidence: RunData) -> str:
    """What a run without an interval has one of."""
    return "seed" if evidence.seeds == 1 else "test example"


def interval_covers(evidence: RunData) -> str:
    """What the intervals of a run's differences allow for, in words."""
    seeds, tested = f"over {evidence.seeds} paired seeds", evidence.data.get("test")
    examples = f"{tested:,} test examples" if isinstance(tested, int) else "the test examples"
    covers = evidence.verdict.get("covers")
    said = {
        "seeds and test examples": f"{seeds} and {examples}",
        "seeds and a bound for test examples": f"{seeds} and {examples}, wide for lack of predictions",
    }.get(str(covers), f"{seeds}, with the sampling of test examples left out")
    count = evidence.verdict.get("comparisons")
    return f"{said}, for the best of {count} methods" if isinstance(count, int) and count > 1 else said


def answers(evidence: RunData, classes: Sequence[ClassRow]) -> list[Answer]:
    """The six questions of the first screen."""
    return [
        _worth(evidence), _method(evidence), _sure(evidence), _losers(evidence, classes), _fast(evidence),
        _ship(evidence),
    ]  # fmt: skip


def _worth(evidence: RunData) -> Answer:
    question = "Is distilling worth it?"
    difference = evidence.verdict.get("difference")
    if not isinstance(difference, (int, float)):
        return Answer(question, "Nobody can tell", "There is no student alone to compare with.")
    if read_interval(evidence.verdict) is None:
        said = f"One {_lone(evidence)} has no interval. It measured {100 * difference:+.2f} points of accuracy"
        return Answer(question, "Unknown", f"{said} over the same student trained alone. {_gap(evidence)}")
    return Answer(
        question,
        f"{_word(evidence)}: {100 * difference:+.2f} points",
        f"of accuracy over the same student trained alone. {_gap(evidence)}",
    )


def _word(evidence: RunData) -> str:
    interval = read_interval(evidence.verdict)
    if interval is None:
        return "Unknown"
    return "Yes" if interval[0] > 0 else "No" if interval[1] < 0 else "Not shown"


def _gap(evidence: RunData) -> str:
    teacher = next((arm.accuracy.mean for arm in evidence.arms.values() if arm.role == "teacher"), None)
    alone = evidence.arms[ALONE].accuracy.mean if ALONE in evidence.arms else None
    ours = evidence.arms[evidence.judged].accuracy.mean if evidence.judged else None
    if teacher is None or alone is None or ours is None:
        return ""
    if teacher <= alone:
        return "The teacher is no better than the student alone, so there was little to hand on."
    if ours <= alone:
        return ""
    if ours >= teacher:
        return f"The teacher's own is {100 * teacher:.2f} %: nothing is left of the gap."
    return (
        f"That is {100 * (ours - alone) / (teacher - alone):.0f} % of the way to the teacher's {100 * teacher:.2f} %."
    )


def _method(evidence: RunData) -> Answer:
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
    then = f" Second there: {rest[0].name}{_by_luck(evidence.arms[judged], rest[0])}." if rest else ""
    return Answer(
        question, name, f"Chosen on development data among {len(methods)} methods; the test data had no say.{then}"
    )


def _by_luck(first: ArmRow, second: ArmRow) -> str:
    """What there is to say of a choice that the seeds do not bear out."""
    ours, theirs = first.development.values, second.development.values
    apart = [a - b for a, b in zip(ours, theirs, strict=False)]
    half = half_width(apart)
    if len(ours) != len(theirs) or half is None or fmean(apart) > half:
        return ""
    return ", by so little that it may be luck"


def _sure(evidence: RunData) -> Answer:
    question = "How sure is that?"
    interval = read_interval(evidence.verdict)
    if interval is None:
        then = "Run it with --seeds 5." if evidence.seeds == 1 else "Measure it on more test data."
        return Answer(question, "Unknown", f"One {_lone(evidence)} has no interval, so none is given. {then}")
    low, high = interval
    side = "zero lies inside" if low <= 0 <= high else "zero lies outside"
    better, equal = sort_controls(evidence.verdict)
    more = f" Beaten by {listed(better)}." if better else f" Not shown to beat {listed(equal)}." if equal else ""
    return Answer(question, f"{100 * low:+.2f} to {100 * high:+.2f}",
                  f"points, the 95 % interval {interval_covers(evidence)}; {side}.{more}")  # fmt: skip


def _losers(evidence: RunData, classes: Sequence[ClassRow]) -> Answer:
    question = "Which classes lose?"
    if not classes:
        return Answer(question, "Not known", "This run kept no predictions of both arms to tell it by.")
    losers = sorted((row for row in classes if row.sure and row.change < 0), key=lambda row: row.change)
    fell = [row for row in classes if row.change < 0]
    if losers:
        shown = listed([f"{_class(row)} ({100 * row.change:+.1f})" for row in losers[:3]])
        more = f" and {len(losers) - 3} more" if len(losers) > 3 else ""
        if evidence.seeds == 1:
            return Answer(question, f"{len(losers)} of {len(classes)}",
                          f"lose in this one student: {shown}{more}, points of accuracy. One seed speaks of two "
                          "models, not of the method.")  # fmt: skip
        return Answer(question, f"{len(losers)} of {len(classes)}", f"surely lose: {shown}{more}, points of accuracy.")
    if not fell:
        return Answer(question, "None", "No class is less accurate than with the student alone.")
    worst = min(fell, key=lambda row: row.change)
    return Answer(question, "None for sure",
                  f"{len(fell)} of {len(classes)} fell, none beyond chance. Most: {_class(worst)}, "
                  f"{100 * worst.change:+.1f} points.")  # fmt: skip


def _class(row: ClassRow) -> str:
    """A class that has no name is called by its number."""
    return f"class {row.name}" if row.name.isdecimal() else row.name


def _fast(evidence: RunData) -> Answer:
    question = "How fast is the student?"
    arm = evidence.arms.get(evidence.judged or "")
    teacher = next((one for one in evidence.arms.values() if one.role == "teacher"), None)
    time = arm.number("milliseconds") if arm else None
    if arm is None or not time:
        return Answer(question, "Not measured", "This result holds no time for it.")
    size, its = arm.number("megabytes"), teacher.number("megabytes") if teacher else None
    weighs = f"{sized(size)} MB" if size else "Its size is not known"
    part = f", {share_of(size, its)} of the teacher's" if size and its else ""
    slow = teacher.number("milliseconds") if teacher else None
    if not slow:
        return Answer(question, duration(time), f"an example on one CPU thread. {weighs}{part}.")
    why = f"as the teacher: {duration(time)} an example on one CPU thread. {weighs}{part}."
    return Answer(question, _pace(slow / time), why)


def _pace(ratio: float) -> str:
    if abs(ratio - 1) < _EQUAL:
        return "As fast"
    return f"{times(ratio)} as fast" if ratio > 1 else f"{times(1 / ratio)} as slow"


def _ship(evidence: RunData) -> Answer:
    return Answer("What do I ship?", recommend(evidence.result).answer, recommended_student(evidence)[1])
