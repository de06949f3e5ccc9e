"""Bhattacharyya and Tripathi, 2024, arXiv:2411.14957: fields of receipts from a teacher that returns strings, ANLS."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from limbeck.generated_texts import GeneratedText, MatchesSchema, filter_texts, parse_json
from limbeck.metrics import field_anls
from limbeck.papers.claim import Claim, Column, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder
from limbeck.papers.small_texts import ask, make_student, make_tokenizer, train

SHOPS = ("Alba", "Bono", "Cora", "Dino", "Elan", "Fara", "Gala", "Hugo")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
FIELDS = ("shop", "date", "total")
TEMPLATES = (
    "{shop}\n{date}\nnet {net}\ntotal {total}\n",
    "{date}\n{shop}\ntotal {total}\ncash {cash}\n",
    "shop {shop}\nnet {net}\ntotal {total}\n{date}\n",
    "{shop}\ntotal {total}\ncash {cash}\n{date}\n",
    "{date}\nnet {net}\ntotal {total}\n{shop}\n",
    "cash {cash}\ntotal {total}\n{shop}\n{date}\n",
)
SEEN = 4
"""The first templates are learned; the others show whether a student reads templates that it never saw."""
SCHEMA = {
    "type": "object",
    "required": list(FIELDS),
    "additionalProperties": False,
    "properties": {
        "shop": {"type": "string", "minLength": 1},
        "date": {"type": "string", "pattern": f"^[1-9] ({'|'.join(MONTHS)})$"},
        "total": {"type": "string", "pattern": r"^\d\.\d\d$"},
    },
}
ERRORS = 0.2
"""How often the noisy teacher errs, for each field."""
ARMS = {
    "right": "strings without errors",
    "noisy": "strings with random errors, not filtered",
    "schema": "the same, only those that match the schema",
    "systematic": "strings of a teacher that takes the net amount for the total wherever there is one",
}


class Receipt(NamedTuple):
    """A receipt.

    Attributes:
        text: What stands on it.
        fields: The right fields.
        amounts: The net amount and what was paid in cash; one of them stands on the receipt.
        template: The number of its template.
    """

    text: str
    fields: dict[str, str]
    amounts: dict[str, str]
    template: int


def draw_receipt(template: int, rng: random.Random) -> Receipt:
    """Draw a receipt of a template."""

    def amount() -> str:
        return f"{rng.randrange(10)}.{rng.randrange(10)}{rng.randrange(10)}"

    fields = {"shop": rng.choice(SHOPS), "date": f"{rng.randrange(1, 10)} {rng.choice(MONTHS)}", "total": amount()}
    amounts = {"net": amount(), "cash": amount()}
    return Receipt(TEMPLATES[template].format(**fields, **amounts), fields, amounts, template)


def label(receipt: Receipt, rng: random.Random, *, errors: float = 0.0, systematic: bool = False) -> str:
    """Ask the teacher, which returns a string and nothing else: no weights, no logits.

    Args:
        receipt: The receipt.
        rng: The source of errors.
        errors: The probability of an error in each field: half of them break the format, half are another value.
        systematic: Whether the teacher takes the net amount for the total.
    """
    fields = dict(receipt.fields)
    if systematic and "net" in TEMPLATES[receipt.template]:
        fields["total"] = receipt.amounts["net"]
    for name in FIELDS:
        if rng.random() < errors:
            fields[name] = _break(name, fields[name]) if rng.random() < 0.5 else draw_receipt(0, rng).fields[name]
    return json.dumps(fields)


def _break(name: str, value: str) -> str:
    """A value in a wrong format."""
    return {"shop": "", "date": value.split()[-1], "total": value.replace(".", ",")}[name]


def filter_labels(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keep the pairs whose label matches the schema."""
    own = [MatchesSchema(SCHEMA)]
    return [pair for pair in pairs if filter_texts([GeneratedText(0, 0, *pair)], own)[0]]


def read_fields(text: str) -> dict[str, str]:
    """The fields that a model wrote; none if it is no JSON."""
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return {str(name): str(own) for name, own in value.items()} if isinstance(value, dict) else {}


def read_by_place(receipts: Sequence[Receipt]) -> Callable[[str], dict[str, str]]:
    """Make the baseline that is bound to templates: for each field, the line and the word where it stood.

    A text is read by the template whose words that are the same on all receipts it has in the same places.
    """
    known = {receipt.template: _place_fields(TEMPLATES[receipt.template]) for receipt in receipts}

    def read(text: str) -> dict[str, str]:
        lines = text.splitlines()
        best = max(known.values(), key=lambda place: _count_fits(place, lines))
        found: dict[str, str] = {}
        for own, line in zip(best, lines, strict=False):
            # A line of another kind is read by its place all the same: this is what binds it to the template.
            match = re.fullmatch(own, line)
            names = re.findall(r"\?P<(\w+)>", own)
            found |= match.groupdict() if match else dict.fromkeys(names, line.split(" ", 1)[-1])
        return {name: value for name, value in found.items() if name in FIELDS}

    return read


def _count_fits(place: Sequence[str], lines: Sequence[str]) -> int:
    return sum(bool(re.fullmatch(own, line)) for own, line in zip(place, lines, strict=False))


def _place_fields(template: str) -> list[str]:
    """A pattern for each line of a template."""
    kinds = {"shop": r"[A-Z]\w+", "date": r"\d \w+", "total": r"\d\.\d\d", "net": r"\d\.\d\d", "cash": r"\d\.\d\d"}
    return [re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{kinds[m[1]]})", line) for line in template.splitlines()]


def study(desk: TaskFolder, *, arm: str, seed: int, steps: int, texts: int, test: int) -> Figures:
    """Train a student on the strings of one teacher, and score it and the teacher on new receipts."""
    del desk  # a task is too short to be interrupted
    tokenizer = make_tokenizer(_alphabet(), 330)
    rng, errors = random.Random(1000 + seed), random.Random(2000 + seed)
    receipts = [draw_receipt(rng.randrange(SEEN), rng) for _ in range(texts)]
    ask_teacher = partial(
        label, rng=errors, errors=ERRORS if arm in ("noisy", "schema") else 0.0, systematic=arm == "systematic"
    )
    pairs = [(receipt.text, ask_teacher(receipt)) for receipt in receipts]
    if arm == "schema":
        pairs = filter_labels(pairs)
    student = make_student(tokenizer, seed=seed, positions=96)
    train(student, tokenizer, pairs, steps=steps, seed=seed)
    fixed = random.Random(1)
    seen = [draw_receipt(n % SEEN, fixed) for n in range(test)]
    unseen = [draw_receipt(SEEN + n % (len(TEMPLATES) - SEEN), fixed) for n in range(test)]
    by_place = read_by_place(receipts)
    figures: dict[str, Any] = {"texts": len(pairs)}
    for name, own in (("seen", seen), ("unseen", unseen)):
        answers = ask(student, tokenizer, [one.text for one in own], max_new_tokens=40).texts
        figures |= _score(name, [read_fields(row[0]) for row in answers], own)
        figures |= _score(f"{name}, teacher", [read_fields(ask_teacher(one)) for one in own], own)
        figures |= _score(f"{name}, by place", [by_place(one.text) for one in own], own)
    return figures


def _score(name: str, answers: Sequence[Mapping[str, str]], receipts: Sequence[Receipt]) -> dict[str, float]:
    """ANLS, and the share of fields that are right to the letter, in percent."""
    scored = [(answer, one.fields) for answer, one in zip(answers, receipts, strict=True)]
    pairs = [(answer.get(field), fields[field]) for answer, fields in scored for field in FIELDS]
    named = [{field: answer.get(field, "") for field in FIELDS} for answer in answers]
    return {
        name: 100 * sum(a == b for a, b in pairs) / len(pairs),
        f"{name}, ANLS": 100 * field_anls(named, [one.fields for one in receipts]).value,
    }


def _alphabet() -> str:
    """Texts whose words become tokens; digits stay single, so that every amount has as many tokens."""
    rng = random.Random(0)
    receipts = [draw_receipt(rng.randrange(len(TEMPLATES)), rng) for _ in range(200)]
    texts = (f"{one.text} {json.dumps(one.fields)}" for one in receipts)
    return "\n".join(re.sub(r"\d", "", text).replace("\n", " ") for text in texts)


def _sizes(scale: ExperimentScale) -> dict[str, Any]:
    return {"steps": scale.pick(300, 600), "texts": scale.pick(3000, 6000), "test": scale.pick(200, 1000)}


SEEN_FIELDS = Figure("seen", "right fields", "%")
FIGURES = (
    SEEN_FIELDS,
    Figure("seen, teacher", "of its teacher", "%"),
    Figure("seen, ANLS", "ANLS", "%"),
    Figure("unseen", "new templates, right fields", "%"),
    Figure("unseen, ANLS", "new templates, ANLS", "%"),
    Figure("texts", "texts", ""),
)


def _gain(arm: str, figure: str, other: str, over: str) -> Callable[[Column], list[float]]:
    return lambda column: [a - b for a, b in zip(column(arm, figure), column(other, over), strict=True)]


CLAIMS = (
    Claim("student over its noisy teacher", _gain("noisy", "seen", "noisy", "seen, teacher")),
    Claim(
        "student not over its systematic teacher, by 2 points",
        _gain("systematic", "seen, teacher", "systematic", "seen"),
        bounds=(-2.0, math.inf),
    ),
    Claim.of_difference("schema", "noisy", SEEN_FIELDS, sentence="filtered by the schema over not filtered"),
    Claim(
        "new templates, ANLS, over rules bound to templates",
        _gain("schema", "unseen, ANLS", "schema", "unseen, by place, ANLS"),
    ),
)


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    column, rows = STUDY.column(scale, results), list[Row]()
    titles = ("bound to templates: right fields", "  new templates, right fields", "  new templates, ANLS")
    for title, figure in zip(titles, ("seen, by place", "unseen, by place", "unseen, by place, ANLS"), strict=True):
        rows.append(Row(title, column("right", figure), "%", lower_is_better=False))
    return rows


STUDY = ClaimStudy(
    "receipts",
    "Does a student that learns from strings pass a teacher that errs, and read templates it never saw?",
    ARMS, study, FIGURES, CLAIMS, {"quick": 18, "full": 60}, settings=_sizes, rows=_rows,
)  # fmt: skip
TITLE = (
    "Bhattacharyya and Tripathi, Information Extraction from Heterogeneous Documents without Ground Truth Labels using "
    "Synthetic Label Generation and Knowledge Distillation, 2024, arXiv:2411.14957"
)
CLAIM = "A small student that learns from the strings of a teacher is on par with it, and reads new layouts."
EXPERIMENTS = (STUDY.experiment(),)
