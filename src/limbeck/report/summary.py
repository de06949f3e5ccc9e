"""The top of the report: verdict, six answers, and differences to the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from limbeck.job import RunLayout, read_interval, read_suggestions, recommend, sort_controls, split_rerun
from limbeck.report.arms import ArmRow, ScoreFormat, half_width
from limbeck.report.classes import ClassRow
from limbeck.report.html import Markup, duration, listed, megabytes_text, prose, share_of, sized, tag, times
from limbeck.report.run_data import ALONE, RunData
from limbeck.report.scores import plot_differences, read_differences
from limbeck.report.svg import figure
from limbeck.tasks import Classification

_EQUAL = 0.05  # timings of the same network differ by this much


class Headline(NamedTuple):
    """The verdict: ``yes``, ``no`` or ``unsure``, with a title and a sentence."""

    kind: str
    words: str
    sentence: str


class KeyAnswer(NamedTuple):
    """A question with a short answer and its reason."""

    question: str
    answer: str
    why: str


def headline(run: RunData) -> Headline:
    """Return the headline of the verdict. It is never stronger than the interval."""
    verdict = run.verdict
    sentence = str(verdict.get("sentence") or "This result has no verdict.")
    interval = read_interval(verdict)
    if not isinstance(verdict.get("difference"), (int, float)):
        return Headline("unsure", "No verdict", sentence)
    if interval is None:
        return Headline("unsure", f"Unknown: one {_single_unit(run)}", sentence)
    if interval[1] < 0:
        return Headline("no", "No: distillation made the student worse", sentence)
    if interval[0] <= 0:
        return Headline("unsure", "Not shown to be worth it", sentence)
    better, equal = sort_controls(run.verdict)
    if better:
        return Headline("unsure", f"It helps, but {listed(better)} does better", sentence)
    if equal:
        return Headline("unsure", f"It helps, but {listed(equal)} may do as well", sentence)
    return Headline("yes", "Yes: distillation is worth it", sentence)


def _single_unit(run: RunData) -> str:
    """Return what there is only one of in a run without an interval."""
    return "seed" if run.seeds == 1 else f"test {run.score.examples.removesuffix('s')}"


def answers(run: RunData, classes: Sequence[ClassRow]) -> list[KeyAnswer]:
    """Return the questions and answers at the top of the report."""
    return [
        _gain(run), _method(run), _certainty(run),
        *([_class_losses(run, classes)] if isinstance(run.task, Classification) else []), _speed(run),
        _recommendation(run),
    ]  # fmt: skip


def _gain(run: RunData) -> KeyAnswer:
    question = "Is distillation worth it?"
    difference = run.verdict.get("difference")
    if not isinstance(difference, (int, float)):
        missing = "student alone" if _methods(run) else "distilled"
        return KeyAnswer(question, "Unknown", f"There is no arm {missing!r} to compare with.")
    if read_interval(run.verdict) is None:
        sentence = f"One {_single_unit(run)} gives no interval. The difference is {run.score.difference(difference)}"
        return KeyAnswer(question, "Unknown", f"{sentence} {run.score.points} {_than_alone(run)} {_gap_closed(run)}")
    return KeyAnswer(
        question,
        f"{_answer_word(run)}: {run.score.difference(difference)}{' points' if run.score.percent else ''}",
        f"{'of ' if run.score.higher_is_better else ''}{run.score.title} {_than_alone(run)} {_gap_closed(run)}",
    )


def _than_alone(run: RunData) -> str:
    when = "before training" if run.score.examples == "prompts" else "trained alone"
    return f"{'over' if run.score.higher_is_better else 'than'} the same student {when}."


def _answer_word(run: RunData) -> str:
    interval = read_interval(run.verdict)
    if interval is None:
        return "Unknown"
    return "Yes" if interval[0] > 0 else "No" if interval[1] < 0 else "Not shown"


def _gap_closed(run: RunData) -> str:
    teacher = run.teacher_arm.score.mean if run.teacher_arm else None
    alone = run.arms[ALONE].score.mean if ALONE in run.arms else None
    ours = run.arms[run.method_arm].score.mean if run.method_arm else None
    if teacher is None or alone is None or ours is None:
        return ""
    # Without a gap between teacher and student alone, a share of it is meaningless.
    score = run.score
    gap, gain = (score.gain(value, alone) for value in (teacher, ours))
    if gap <= 0:
        return "The teacher is no better than the student alone, so there was little to distill."
    if gain <= 0:
        return ""
    if gain >= gap:
        return f"The teacher has {score.text(teacher)}: the gap is closed."
    return f"It closes {100 * gain / gap:.0f} % of the gap to the teacher ({score.text(teacher)})."


def _method(run: RunData) -> KeyAnswer:
    question = "With which method?"
    methods, method_arm = _methods(run), run.method_arm
    if method_arm is None or not methods:
        return KeyAnswer(question, "None", "No arm of this run uses a method.")
    named = run.arms[method_arm].row.get("method") or run.result.get("method")
    name = str(named.get("name", method_arm)) if isinstance(named, Mapping) else method_arm
    if len(methods) < 2:
        return KeyAnswer(question, name, "The only method of this run. `limbeck compare` compares several.")
    if all(arm.development.mean is None for arm in methods):
        return KeyAnswer(
            question, name, f"One of {len(methods)} methods. Their scores on development data were not saved."
        )
    rest = sorted((a for a in methods if a.name != method_arm and a.development.mean is not None),
                  key=lambda a: -run.score.gain(a.development.mean or 0.0, 0.0))  # fmt: skip
    second = f" Second best: {rest[0].name}{_by_luck(run.score, run.arms[method_arm], rest[0])}." if rest else ""
    return KeyAnswer(
        question, name, f"Chosen on development data among {len(methods)} methods; test data were not used.{second}"
    )


def _methods(run: RunData) -> list[ArmRow]:
    return [arm for arm in run.arms.values() if arm.role == "method"]


def _by_luck(score: ScoreFormat, first: ArmRow, second: ArmRow) -> str:
    """Return a remark if the difference between two methods may be chance."""
    ours, theirs = first.development.values, second.development.values
    differences = [score.gain(a, b) for a, b in zip(ours, theirs, strict=False)]
    half = half_width(differences)
    if len(ours) != len(theirs) or half is None or fmean(differences) > half:
        return ""
    return ", by so little that it may be chance"


def _certainty(run: RunData) -> KeyAnswer:
    question = "How certain is that?"
    interval = read_interval(run.verdict)
    if not isinstance(run.verdict.get("difference"), (int, float)):
        return KeyAnswer(question, "Unknown", "No difference was measured.")
    if interval is None:
        advice = "Run it with --seeds 5." if run.seeds == 1 else "Use more test data."
        return KeyAnswer(question, "Unknown", f"One {_single_unit(run)} gives no interval. {advice}")
    low, high = interval
    side = "zero is inside" if low <= 0 <= high else "zero is outside"
    better, equal = sort_controls(run.verdict)
    more = (
        f" Beaten by {listed(better)}." if better else f" Not shown to be better than {listed(equal)}." if equal else ""
    )
    unit = "points" if run.score.percent else run.score.title
    if not run.score.higher_is_better and not low < 0 < high:
        unit = f"{run.score.less if low >= 0 else 'more'} {unit}"
    return KeyAnswer(question, " to ".join(run.score.ends(low, high)),
                  f"{unit}, the 95 % interval {run.interval_covers}; {side}.{more}")  # fmt: skip


def _class_losses(run: RunData, classes: Sequence[ClassRow]) -> KeyAnswer:
    question = "Which classes lose accuracy?"
    if not classes:
        return KeyAnswer(question, "Not known", "The predictions of both arms are needed.")
    losers = sorted((row for row in classes if row.sure and row.change < 0), key=lambda row: row.change)
    fell = [row for row in classes if row.change < 0]
    if losers:
        names = listed([f"{_class(row)} ({100 * row.change:+.1f})" for row in losers[:3]])
        more = f" and {len(losers) - 3} more" if len(losers) > 3 else ""
        if run.seeds == 1:
            return KeyAnswer(question, f"{len(losers)} of {len(classes)}",
                          f"lose accuracy in this student: {names}{more}, points. One seed compares two "
                          "models, not two methods.")  # fmt: skip
        return KeyAnswer(
            question, f"{len(losers)} of {len(classes)}", f"lose accuracy, beyond chance: {names}{more} points."
        )
    if not fell:
        return KeyAnswer(question, "None", "No class is less accurate than with the student alone.")
    worst = min(fell, key=lambda row: row.change)
    return KeyAnswer(question, "None beyond chance",
                  f"{len(fell)} of {len(classes)} lost accuracy, none beyond chance. Largest loss: {_class(worst)}, "
                  f"{100 * worst.change:+.1f} points.")  # fmt: skip


def _class(row: ClassRow) -> str:
    """Return the name of a class, or "class N" if it has none."""
    return f"class {row.name}" if row.name.isdecimal() else row.name


def _speed(run: RunData) -> KeyAnswer:
    question = "How fast is the student?"
    arm = run.arms.get(run.method_arm or "")
    teacher = run.teacher_arm
    time = arm.number("milliseconds") if arm else None
    if arm is None or not time:
        return KeyAnswer(question, "Not measured", "This result has no timing of it.")
    size, its = arm.number("megabytes"), teacher.number("megabytes") if teacher else None
    weighs = "Its size is not known"
    if size:
        weighs = f"{sized(size)} MB" if size >= 0.001 else megabytes_text(size)
    part = f", {share_of(size, its)} of the teacher's" if size and its else ""
    slow = teacher.number("milliseconds") if teacher else None
    if not slow:
        return KeyAnswer(question, duration(time), f"per example on one CPU thread. {weighs}{part}.")
    why = f"as the teacher: {duration(time)} per example on one CPU thread. {weighs}{part}."
    return KeyAnswer(question, _pace(slow / time), why)


def _pace(ratio: float) -> str:
    if abs(ratio - 1) < _EQUAL:
        return "As fast"
    return f"{times(ratio)} as fast" if ratio > 1 else f"{times(1 / ratio)} as slow"


def _recommendation(run: RunData) -> KeyAnswer:
    return KeyAnswer("Which student to ship?", recommend(run.result).answer, recommended_student(run)[1])


def recommended_student(run: RunData) -> tuple[str | None, str]:
    """Return the arm whose student is recommended, and the reason.

    The arm is None if no student is better than guessing.
    """
    recommendation = recommend(run.result)
    if recommendation.arm is None or not recommendation.ready:
        return None, recommendation.why
    if not recommendation.others:
        return recommendation.arm, f"{recommendation.why} Its student is in {student_folder(run, recommendation.arm)}"
    folders = (f"that of {arm} in {student_folder(run, arm)}" for arm in (recommendation.arm, *recommendation.others))
    return recommendation.arm, f"{recommendation.why} Their students: {', '.join(folders)}"


def student_folder(run: RunData, arm: str) -> Path:
    """Return the folder of an arm's student."""
    if arm == run.shipped_arm:
        return RunLayout(run.folder).student
    return RunLayout(run.folder).seed_student(arm, 0)


# --- section --------------------------------------------------------------------------------------------------------

_SIGNS = {"yes": "✓", "no": "✕", "unsure": "?"}


def top_section(run: RunData, classes: Sequence[ClassRow], *, prefix: str = "") -> Markup:
    """Return the verdict, the six answers, and the differences to the controls."""
    title = f"{run.method_arm} compared with each control"
    drawn = figure(title, lambda: plot_differences(run), _caption(run)) if read_differences(run) else None
    return tag(
        "section", banner(headline(run)), _suggestions(run), _answers(answers(run, classes)), drawn,
        _controls(run),
        id=f"{prefix}verdict", aria_label="Verdict", class_="top",
    )  # fmt: skip


def _suggestions(run: RunData) -> Markup | None:
    """Return likely reasons and commands to try, if the verdict is not a clear yes."""
    suggestions = read_suggestions(run.result, run.folder)
    if not suggestions:
        return None
    reruns = [split_rerun(item["type"] or "") for item in suggestions]
    typed = [parts[1] if parts else item["type"] for parts, item in zip(reruns, suggestions, strict=True)]
    rows = (
        (
            tag("dt", tag("strong", prose(item["why"] or "")), " ", prose(item["evidence"] or "")),
            tag("dd", tag("code", text)) if text else tag("dd"),
        )
        for text, item in zip(typed, suggestions, strict=True)
    )
    rerun = next((parts[0] for parts in reruns if parts), None)
    new = rerun and tag(
        "p", "To run the job again with such a setting, into a new folder NEW: ", tag("code", f"{rerun} --set ...")
    )
    title = tag("h3", "Possible reasons, and what to try")
    return tag("div", title, tag("dl", rows, class_="commands"), new, class_="why")


def banner(verdict: Headline) -> Markup:
    """Return the title and the sentence of the verdict."""
    return tag(
        "div",
        tag("span", _SIGNS[verdict.kind], class_="sign", aria_hidden="true"),
        tag("div", tag("h2", verdict.words), tag("p", verdict.sentence)),
        class_=f"banner {verdict.kind}",
    )


def _answers(entries: Sequence[KeyAnswer]) -> Markup:
    return tag(
        "dl",
        (
            tag("div", tag("dt", a.question), tag("dd", tag("strong", a.answer), " ", tag("span", prose(a.why))))
            for a in entries
        ),
        class_="answers",
    )


def _caption(run: RunData) -> str:
    if run.seeds < 2:
        return "There is a single seed. A difference without an interval may be chance."
    return (
        f"Mean difference between arms with the same seeds and {run.score.examples}. Bars are 95 % intervals "
        f"{run.interval_covers}, for this teacher. An interval that contains zero is no evidence of a difference."
    )


def _controls(run: RunData) -> Markup | None:
    """Return the sentences of the comparisons with the controls."""
    against = run.verdict.get("against")
    sentences = [row.get("sentence") for row in (against.values() if isinstance(against, Mapping) else ())
            if isinstance(row, Mapping) and row.get("sentence")]  # fmt: skip
    return tag("ul", (tag("li", str(sentence)) for sentence in sentences), class_="sentences") if sentences else None
