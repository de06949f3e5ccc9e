"""Training curves of each loss term, and the search for the settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from limbeck.job import LIKE_FIRST_METHOD, ArmSearch, RunLayout, Search, collect_settings
from limbeck.report import axes
from limbeck.report.arms import ScoreFormat
from limbeck.report.axes import Axes
from limbeck.report.curves import Curve, cut_off_advice, read_written_texts
from limbeck.report.html import Markup, join, note, section, table, tag
from limbeck.report.run_data import RunData, load_run
from limbeck.report.svg import figure

# --- training curves ------------------------------------------------------------------------------------------------


def plot_training(run: RunData | str | Path, term: str, *, ax: Axes | None = None) -> Axes:
    """Plot a loss term against optimizer steps: a thin line for every seed, a thick one for the mean of each arm.

    Args:
        run: The folder of a finished run, or what `read_run` returns.
        term: The name of the term, such as ``cross_entropy``.
        ax: Axes to draw on; by default those of a new figure.

    Raises:
        ValueError: If no arm of the run has this term.
    """
    run = load_run(run)
    terms = curves_by_term(run)
    if term not in terms:
        raise ValueError(f"this run has no term {term!r}; it has {', '.join(terms) or 'no training curves'}")
    ax = draw_training(term, {arm: (run.style(arm), curves) for arm, curves in terms[term].items()}, ax=ax)
    ax.legend(frameon=False)
    return ax


def curves_by_term(run: RunData) -> dict[str, dict[str, Sequence[Curve]]]:
    """Return term -> arm -> one curve for each seed."""
    terms: dict[str, dict[str, Sequence[Curve]]] = {}
    for arm, curves in run.curves.items():
        for term, seeds in curves.items():
            terms.setdefault(term, {})[arm] = seeds
    return terms


def draw_training(term: str, arms: Mapping[str, tuple[int, Sequence[Curve]]], *, ax: Axes | None = None) -> Axes:
    """Draw the curves of a term: arm -> style and one curve for each seed."""
    every = [curve for _, seeds in arms.values() for curve in seeds]
    # The first steps may be far above the rest, so they do not determine the scale.
    late = [value for curve in every for _, value in curve[len(curve) // 30 :]]
    low, high = axes.padded_limits(late, least=1e-6, floor=0.0 if min(v for c in every for _, v in c) >= 0 else None)
    ax = axes.new_axes(ax, height=280.0)
    ax.set(xlim=(0, max(1.0, *(curve[-1][0] for curve in every))), ylim=(low, high), xlabel="optimizer steps",
           ylabel="mean of the term")  # fmt: skip
    axes.round_ticks(ax.xaxis)
    axes.round_ticks(ax.yaxis)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    for name, (style, seeds) in arms.items():
        for curve in seeds if len(seeds) > 1 else ():
            ax.plot(*zip(*curve, strict=True), color=axes.color(style), linewidth=0.8, alpha=0.3)
        mean, end = _mean(seeds), _end(seeds)
        ax.plot(*zip(*mean, strict=True), color=axes.color(style), linewidth=2.0)
        line = ax.plot([max(curve[-1][0] for curve in seeds)], [end], label=axes.shorten(name, 60),
                       **axes.mark(style, 10.0))  # fmt: skip
        axes.set_tip(line, f"{name}: {end:.4g} at the end")
    summary = "; ".join(f"{name} ends at {_end(seeds):.3g}" for name, (_, seeds) in arms.items())
    return axes.describe(ax, f"The term {term} while training. {summary}.")


def _mean(curves: Sequence[Curve]) -> Curve:
    """Return the mean over seeds, up to the end of the shortest curve."""
    steps = zip(*curves, strict=False)
    return [(sum(x for x, _ in at) / len(at), sum(v for _, v in at) / len(at)) for at in steps]


def _end(curves: Sequence[Curve]) -> float:
    return sum(curve[-1][1] for curve in curves) / len(curves)


def training_section(run: RunData) -> Markup:
    """Return a figure for each loss term, with all arms that have it."""
    figures = [
        figure(_term_title(term, run), lambda term=term, arms=arms: draw_training(term, arms), _training_caption(arms))  # type: ignore[misc]
        for term, curves in curves_by_term(run).items()
        if (arms := {arm: (run.style(arm), seeds) for arm, seeds in curves.items()})
    ]
    if not figures:
        return section("training", "Training", note("This run has no training curves (metrics.jsonl)."))
    return section("training", "Training curves", tag("div", figures, class_="grid-2"), _written_texts_table(run))


def _written_texts_table(run: RunData) -> Markup | None:
    """What models wrote while arms were trained; None if they wrote nothing."""
    arms = {name: read_written_texts(RunLayout(run.folder).arm(name)) for name in run.arms}
    rows = [
        (name, f"{texts.finished + texts.cut_off:,.0f}", f"{texts.cut_off:,.0f}", f"{texts.tokens_per_second:,.0f}",
         f"{100 * texts.time_share:.0f}", f"{texts.mean_age:.1f}")
        for name, texts in arms.items() if texts is not None
    ]  # fmt: skip
    head = ("arm", "texts", "cut off", "tokens per second", "share of the time, %", "mean age, batches")
    if not rows:
        return None
    advice = [note(f"{name}: {said}") for name, texts in arms.items() if texts and (said := cut_off_advice(texts))]
    return join([table("Texts that a model wrote while the arm was trained", head, rows), *advice])


def _term_title(term: str, run: RunData) -> str:
    """The title of a term's figure; terms of regression also say what the error is measured to."""
    goal = {"target_squared_error": "to the targets", "squared_error": "to the teacher"}.get(term)
    return f"squared error {goal} ({term})" if goal and run.task.name == "regression" else term


def _training_caption(arms: Mapping[str, tuple[int, Sequence[Curve]]]) -> str:
    seeds = max(len(curves) for _, curves in arms.values())
    many = f"A thin line for each of {seeds} seeds, a thick one for their mean." if seeds > 1 else (
        "One line for each arm, with a mark at its end.")  # fmt: skip
    return f"{many} Values are means of the unweighted term over the steps between two reports."


# --- search ---------------------------------------------------------------------------------------------------------


def plot_search(run: RunData | str | Path, *, ax: Axes | None = None) -> Axes:
    """Plot the best score so far on development data against trials, a line for each arm.

    Small marks are trials, a large mark is the trial whose settings were chosen. Trials in the band differ from the
    best by no more than chance.

    Args:
        run: The folder of a finished run of a job from `limbeck tune`, or what `read_run` returns.
        ax: Axes to draw on; by default those of a new figure.

    Raises:
        ValueError: If the settings of the run do not come from a search.
    """
    run = load_run(run)
    if run.search is None:
        raise ValueError("the settings of this run do not come from a search")
    ax = draw_search(run.search, {arm: run.style(arm) for arm in run.search.arms}, run.score, ax=ax)
    ax.legend(loc="lower right", frameon=False)
    return ax


def draw_search(search: Search, styles: Mapping[str, int], score: ScoreFormat, *, ax: Axes | None = None) -> Axes:
    """Draw the trials of a search; see `plot_search`."""
    arms, factor = search.arms, score.factor
    most = max(len(arm.accuracies) for arm in arms.values())
    low, high = search_limits(search, score)
    ax = axes.new_axes(ax, height=330.0)
    ax.set(xlim=(0.5, most + 0.5), ylim=(low, high), xlabel="trials of each arm",
           ylabel=f"best so far on development data, {score.label.rpartition(', ')[2]}")  # fmt: skip
    step = next(step for step in (1, 5, 10, 25, 50, 100, most) if most <= 12 * step)
    ax.set_xticks(range(step, most + 1, step))
    axes.round_ticks(ax.yaxis)
    lasts = [factor * arm.best_so_far[-1] for arm in arms.values()]
    best = max(lasts) if score.higher_is_better else min(lasts)
    worse = best - factor * search.luck if score.higher_is_better else best + factor * search.luck
    ax.axhspan(max(min(best, worse), low), min(max(best, worse), high), color=axes.QUIET, alpha=0.1, linewidth=0)
    ax.annotate("within chance of the best", (0.0, best), (6, -4), xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="top" if score.higher_is_better else "bottom", **axes.text_style(ax, axes.QUIET))  # fmt: skip
    for i, (name, arm) in enumerate(arms.items()):
        # Marks are shifted a little, so that equal arms do not overlap.
        aside = 0.012 * most * (i - (len(arms) - 1) / 2)
        trials = [(n + 1 + aside, factor * value) for n, value in enumerate(arm.accuracies)]
        shown = [(x, y) for x, y in trials if low <= y <= high]
        stairs = [factor * value for value in arm.best_so_far]
        ax.stairs(stairs, [n + 0.5 for n in range(len(stairs) + 1)], baseline=None, color=axes.color(styles[name]),
                  linewidth=2.0)  # fmt: skip
        ax.plot([x for x, _ in shown], [y for _, y in shown], **axes.mark(styles[name], 5.2, alpha=0.7))
        chosen = trials[arm.best_trial]
        line = ax.plot(*([value] for value in chosen), label=axes.shorten(name, 60),
                       **axes.mark(styles[name], 12.0, markeredgecolor=axes.ink(ax), markeredgewidth=1.8))  # fmt: skip
        axes.set_tip(line, f"{name}: {score.text(arm.accuracies[arm.best_trial])} in trial {arm.best_trial + 1}")
    summary = "; ".join(
        f"{name} from {score.text(arm.accuracies[0])} to {score.text(arm.best_so_far[-1])}, reached in trial "
        f"{arm.best_trial + 1} of {len(arm.accuracies)}" for name, arm in arms.items()
    )  # fmt: skip
    return axes.describe(ax, f"Best {score.title} so far on development data. {summary}.")


def search_limits(search: Search, score: ScoreFormat) -> tuple[float, float]:
    """Return limits that fit the lines but not outliers at their start; single trials may lie below."""
    arms = search.arms.values()
    values = sorted({score.factor * value for arm in arms for value in arm.best_so_far})
    ends = {score.factor * arm.best_so_far[-1] for arm in arms}
    pinned = [i for i, value in enumerate(values) if value in ends]
    far = axes.outliers([(value, value) for value in values], least=score.least, pinned=pinned)
    near = [value for index, value in enumerate(values) if index not in far]
    return score.limits(near, least=2 * score.least, margin=0.12)


def search_section(run: RunData, *, prefix: str = "") -> Markup | None:
    """Return the best score against trials, and the chosen settings; None if there was no search."""
    search, score = run.search, run.score
    if search is None:
        return None
    changed = search.list_changes(collect_settings(run.job, {name: arm.row for name, arm in run.arms.items()}))
    deviations = note("This run did not use all chosen settings: ", "; ".join(changed), ".") if changed else None
    every = [value for arm in search.arms.values() for value in arm.accuracies]
    low, high = search_limits(search, score)
    if score.higher_is_better:
        outside = sum(score.factor * value < low for value in every)
        place, end = "below", f"the lowest {score.title} is {score.text(min(every))}"
    else:
        outside = sum(score.factor * value > high for value in every)
        place, end = "above", f"the most {score.title} are {score.text(max(every))}"
    cut = f" {outside} trials are {place} the figure; {end}." if outside else ""
    caption = (
        "A line for the best so far, a small mark for each trial, and a large mark for the trial whose settings were "
        "chosen. The first trial has the settings of the job. With this many examples, values may differ by "
        f"{score.number(search.luck)} by chance: trials in the band are not known to be worse than the best. For the "
        f"same reason, the best of many trials is biased upward.{cut}"
    )
    styles = {name: run.style(name) for name in search.arms}
    drawn = figure(f"Best {score.title} so far", lambda: draw_search(search, styles, score), caption)
    title = "How the settings were chosen"
    return section(f"{prefix}search", title, tag("p", describe_search(run)), deviations, drawn, _table(search, score))


def describe_search(run: RunData) -> str:
    """Say where the settings came from, and whether the search effort was equal for all arms."""
    if run.search is None and run.job.get("search"):
        return "from a search that is not available"
    if run.search is None:
        return "those of the job file; not tuned with `limbeck tune`"
    trained_arms = [name for name, arm in run.arms.items() if arm.role in ("control", "method")]
    return run.search.describe_effort([name for name in trained_arms if name not in LIKE_FIRST_METHOD])


def _table(search: Search, score: ScoreFormat) -> Markup:
    unit = ", %" if score.percent else ""
    head = ("arm", "chosen settings", "search range", "trials", f"job's settings{unit}", f"best{unit}", "best trial",
            "diverged", "total epochs", "time, s")  # fmt: skip
    rows = ((name, *_row(arm, score)) for name, arm in search.arms.items())
    return table("Search on development data", head, rows, words=3, class_="search")


def _row(arm: ArmSearch, score: ScoreFormat) -> tuple[object, ...]:
    return (
        _lines(f"{name} {value:.4g}" for name, value in arm.chosen.items()),
        _lines(f"{name} {low:.4g}" + (f" to {high:.4g}" if low < high else "")
               for name, (low, high) in arm.between.items()),
        len(arm.accuracies), score.number(arm.accuracies[0]), score.number(arm.best_so_far[-1]), arm.best_trial + 1,
        arm.diverged, f"{arm.epochs:,}", f"{arm.seconds:,.0f}",
    )  # fmt: skip


def _lines(lines: Iterable[str]) -> Markup:
    return tag("div", (tag("div", line) for line in lines))
