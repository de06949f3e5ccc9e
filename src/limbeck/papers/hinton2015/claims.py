"""The claims of Hinton et al., 2015, judged from the rows of the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from limbeck.papers.claim import Claim, ClaimResult, Column, judge_claims
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row


class RowClaim(NamedTuple):
    """A claim about a row of the table: that its numbers are better than those of another row.

    Attributes:
        sentence: The claim in words.
        row: The start of the better row's name.
        over: The start of the other row's name; empty for the row's own numbers.
        bound: What the difference, or the number itself, must exceed.
        paper: The difference in the paper.
    """

    sentence: str
    row: str
    over: str = ""
    bound: float = 0.0
    paper: float | None = None


CLAIMS = {
    "mnist": [RowClaim("soft targets over labels alone: test errors", "the same student", "student 784", 0.0, 72.0)],
    "omit3": [RowClaim("with the bias raised, over without: test errors", "the bias of three", "no three", 0.0, 97.0)],
    "only78": [
        RowClaim("with the biases lowered, over without: test errors", "the biases of", "only sevens", 0.0, 34.1)
    ],
    "regularizer": [RowClaim("3 % of the data: soft targets over hard ones", "gain of soft targets")],
    "speech": [
        RowClaim("distilled model over a member: frames", "distilled single model, frame", "baseline, frame"),
        RowClaim("distilled model over as long on labels: frames", "distilled single model, frame", "  as long on"),
    ],
    "specialists": [
        RowClaim("specialists over the generalist", "gain over the generalist", "", 0.0, 4.4),
        RowClaim("specialists over the better control of equal cost", "gain over the better control"),
    ],
}
"""The claims by experiment; those of an experiment are judged together."""


def add_claims(experiment: Experiment) -> Experiment:
    """Give an experiment its claims."""
    if experiment.name not in CLAIMS:
        return experiment

    def judge(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[ClaimResult]:
        return judge_rows(experiment.name, experiment.rows(scale, results))

    return replace(experiment, claims=judge)


def judge_rows(experiment: str, rows: Sequence[Row]) -> list[ClaimResult]:
    """Judge the claims of an experiment from its rows."""
    claims, numbers = [], {}
    for claim in CLAIMS[experiment]:
        row = _find(rows, claim.row)
        values = list(row.values)
        if claim.over:
            sign = -1 if row.lower_is_better else 1
            values = [sign * (a - b) for a, b in zip(values, _find(rows, claim.over).values, strict=True)]
        numbers[claim.sentence] = [float(value) for value in values]
        unit = "points" if row.unit == "%" and claim.over else row.unit
        read = _reader(claim.sentence)
        claims.append(Claim(claim.sentence, read, unit, (claim.bound, float("inf")), paper=claim.paper))
    return judge_claims(claims, lambda sentence, _: numbers[sentence])


def _reader(sentence: str) -> Callable[[Column], Sequence[float]]:
    return lambda column: column(sentence, "")


def _find(rows: Sequence[Row], start: str) -> Row:
    return next(row for row in rows if row.name.startswith(start))
