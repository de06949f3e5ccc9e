"""Section of language jobs: what teacher and students write, and how well a student drafts for its teacher."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.job import RunLayout
from limbeck.job.run_layout import SAMPLES
from limbeck.report.arms import as_mapping, mean_std_text, read_stat
from limbeck.report.html import Markup, join, note, section, table, tag
from limbeck.report.run_data import RunData

_TITLE = "What they write"


def read_samples(run: RunData) -> dict[str, Mapping[str, Any]]:
    """Read the texts of the teacher, and of the first seed of each arm, by the name of the arm.

    An arm whose file is missing or damaged is left out.
    """
    samples: dict[str, Mapping[str, Any]] = {}
    for name, arm in run.arms.items():
        values = _read(_folder(run, name, arm.role) / SAMPLES)
        if isinstance(values.get("texts"), list) and all(isinstance(one, Mapping) for one in values["texts"]):
            samples[name] = values
    return samples


def texts_section(run: RunData) -> Markup:
    """Show texts side by side, exact matches, and the acceptance of drafts."""
    samples, own = read_samples(run), _own_texts(run)
    failures = [note(f"{name}: {failure}") for name, failure in _read_failures(run)]
    if not samples:
        return section("texts", _TITLE, own, *(failures or [note("Not known: this run has no texts.")]))
    source = "written by the teacher" if run.score.examples == "prompts" else "in the data"
    return section(
        "texts", _TITLE, own, *failures, _answers(samples, source), _drafts(samples), _texts(samples, source)
    )


def _own_texts(run: RunData) -> Markup | None:
    """What is measured of the students' own texts for prompts without answers; None for other data."""
    if run.score.examples != "prompts":
        return None
    result = as_mapping(run.result.get("own_texts"))
    if "arms" not in result:
        why = result.get("sentence")
        return note(why if isinstance(why, str) else "Not measured: what students write, as the teacher is served.")
    head = ("arm", "reverse KL, nats per token", "teacher's NLL, nats per token", "greedy text of the teacher, %")
    rows = [
        (name, mean_std_text(read_stat(row.get("reverse_kl"))), mean_std_text(read_stat(row.get("teacher_nll"))),
         mean_std_text(read_stat(row.get("greedy_agreement")), 1, 100))
        for name, row in as_mapping(result["arms"]).items()
    ]  # fmt: skip
    teacher = run.teacher_arm
    nll = "" if teacher is None or (mean := teacher.measure("nll").mean) is None else (
        f" The teacher's own texts have an NLL of {mean:.4g}: nearer to that is better, not less."
    )  # fmt: skip
    caption = (
        f"What the students write themselves for {result.get('prompts')} test prompts, at temperature 1, judged by the "
        f"teacher at every token; and the share of the teacher's greedy text that a student's greedy text has too, up "
        f"to the first other token. Mean ± standard deviation over seeds.{nll}"
    )
    compared = [
        tag("li", one["sentence"]) for row in as_mapping(result.get("against")).values() for one in row.values()
    ]
    limits = note(
        "The prompts have no answers. These figures say how near a student is to its teacher; whether the teacher is "
        "right is not measured."
    )
    listed = join(tag("p", f"Compared with the controls, {run.method_arm}:"), tag("ul", compared)) if compared else None
    return join(limits, table(caption, head, rows), listed)


def _read_failures(run: RunData) -> Iterator[tuple[str, str]]:
    """The arms whose texts could not be written, each with the reason."""
    for name, arm in run.arms.items():
        if isinstance(failure := _read(_folder(run, name, arm.role) / SAMPLES).get("failure"), str):
            yield name, failure


def _folder(run: RunData, name: str, role: str) -> Path:
    layout = RunLayout(run.folder)
    return layout.teacher if role == "teacher" else layout.seed(name, 0)


def _answers(samples: Mapping[str, Mapping[str, Any]], source: str) -> Markup | None:
    """A table of how well answers match the references; None for plain texts. `source` says where these are from."""
    rows = [
        (
            name,
            f"{100 * values['exact_match']:.1f}",
            _number(values.get("chrf"), 1),
            _percent(values.get("ended")),
            values["answers"],
        )
        for name, values in samples.items()
        if isinstance(values.get("exact_match"), (int, float))
    ]
    head = ("arm", "exact match, %", "chrF", "end by themselves, %", "answers")
    shown = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    chosen = (
        f"Greedy answers to prompts of the test data, compared with the answers {source}, seed 0. Those that do not "
        "end by themselves are cut"
    )
    columns = [head[i] for i in shown], [[row[i] for i in shown] for row in rows]
    return table(chosen, *columns) if rows else None


def _drafts(samples: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """A table of speculative sampling; None if it was not measured."""
    measured = {name: values["speculative"] for name, values in samples.items() if values.get("speculative")}
    rows = [
        (name, f"{100 * one['acceptance']:.1f}{_interval(one)}", _number(one["tokens_per_pass"], 2),
         f"{one['tokens']:,}", f"{one['passes']:,}")
        for name, one in measured.items() if one["tokens"] and one["acceptance"] is not None
    ]  # fmt: skip
    if not rows:
        return None
    drafted = next(iter(measured.values()))["drafted"]
    caption = (
        f"The student as draft model of its teacher: {drafted} tokens are drafted at a time, and exact speculative "
        "sampling at temperature 1 gives the teacher's own texts. Without a draft, a pass gives 1 token. "
        "This is counted on the few sampled tokens below; in brackets, the 95 % interval of as many independent "
        'drafts. "Accepted as draft" in the table of the arms is the expected share at all tokens of the test texts, '
        "so the two differ."
    )
    head = ("arm", "accepted drafts, %", "tokens per teacher pass", "tokens", "passes")
    return table(caption, head, rows)


def _texts(samples: Mapping[str, Mapping[str, Any]], source: str) -> Markup:
    first = next(iter(samples.values()))["texts"]
    cards = (_card(number, text, samples, source) for number, text in enumerate(first))
    why = "Each continues the prompt with its most likely tokens (greedy), seed 0. Single texts prove nothing."
    return join(tag("h3", "Side by side"), tag("p", why), tag("ul", cards, class_="texts"))


def _card(number: int, text: Mapping[str, Any], samples: Mapping[str, Mapping[str, Any]], source: str) -> Markup:
    rows: list[tuple[str, str]] = [(source, str(text.get("reference", "")))]
    for name, values in samples.items():
        texts: Sequence[Mapping[str, Any]] = values["texts"]
        if number < len(texts) and texts[number].get("text") == text.get("text"):
            rows.append((name, str(texts[number].get("answer", ""))))
    body = (tag("div", tag("dt", name), tag("dd", _shown(written))) for name, written in rows)
    where = tag("span", f"test text {text.get('text')}", class_="quiet")
    return tag("li", where, tag("p", _shown(str(text.get("prompt", ""))), class_="prompt"),
               tag("dl", body))  # fmt: skip


def _shown(text: str) -> str | Markup:
    return text.strip() or tag("span", "(white space)" if text else "(nothing)", class_="quiet")


def _interval(counts: Mapping[str, Any]) -> str:
    """The Wilson interval of the accepted share; nothing for a run whose number of drafts is not known."""
    drafts = counts.get("proposed")
    if not drafts:
        return ""
    from scipy.stats import binomtest  # slow to import

    accepted = binomtest(round(counts["acceptance"] * drafts), drafts)
    low, high = accepted.proportion_ci(method="wilson")
    return f" ({100 * low:.1f} to {100 * high:.1f}, {drafts:,} drafts)"


def _percent(share: Any) -> str:
    return _number(100 * share if isinstance(share, (int, float)) else None, 1)


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
