"""What is said of all arms together?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compare.arms import Outcome, measured
from limbeck.compare.material import Material, student_of, whole
from limbeck.compare.statistics import spread
from limbeck.compare.verdict import judge, set_beside
from limbeck.job import Job
from limbeck.measure import Cost, Predictions, cost_of, predict

MEMBER = "one member"
"""The row of a teacher of several: each of them alone, its values one for a member instead of one for a seed."""


def arms_rows(
    job: Job, material: Material, outcomes: Sequence[Outcome], answers: Tensor, teachers: Mapping[str, nn.Module]
) -> dict[str, Any]:
    """Every arm's row: its measures over the seeds, and what it costs on the CPU; and that of an ensemble's members.

    Args:
        job: What was asked.
        material: The data.
        outcomes: Of every arm but the teacher, with every seed.
        answers: The teacher's logits for the test data.
        teachers: The models that the teacher is made of.
    """
    table: dict[str, Any] = {}
    sample = material.data.reads(material.data.test.take(torch.arange(min(64, len(material.data.test)))))
    for arm in job.arms:
        if arm == "teacher":
            own = Predictions(answers, answers, material.data.test.labels)
            rows, models = [measured(own)], list(teachers.values())
        else:
            rows = [o.measures for o in sorted(outcomes, key=lambda o: o.seed) if o.arm == arm]
            models = [student_of(job, material, seed=0)]
        # Arms may have run on an accelerator; all are timed alike.
        costs = [cost_of(model.cpu(), sample) for model in models]
        table[arm] = _row(rows, costs)
        if arm == "teacher" and len(models) > 1:
            # Any one of them could be shipped in the ensemble's place: what does averaging bring?
            table[MEMBER] = _row([_alone(model, answers, material) for model in models], costs[:1])
    return table


def _row(rows: list[dict[str, float]], costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        **_summary(rows),
        "parameters": sum(c.parameters for c in costs),
        "megabytes": round(sum(c.megabytes for c in costs), 6),
        "milliseconds": round(sum(c.milliseconds for c in costs), 6),
    }


def _alone(member: nn.Module, answers: Tensor, material: Material) -> dict[str, float]:
    shown = predict(member, whole(material.data.test), reads=material.data.reads)
    return measured(shown._replace(teacher=answers))


def verdict_of(outcomes: Sequence[Outcome], *, examples: int) -> dict[str, Any]:
    """The distilled arm against the student alone, and against label smoothing, seed by seed, on so many examples."""
    by_seed = {(o.arm, o.seed): o.measures["accuracy"] for o in outcomes}
    seeds = sorted({o.seed for o in outcomes})
    distilled = [by_seed["distilled", seed] for seed in seeds]
    if ("student alone", seeds[0]) not in by_seed:
        said = "No verdict: without the arm 'student alone' there is nothing to compare with."
        return {"difference": None, "interval": None, "helps": None, "sentence": said, "against": {}}
    verdict = judge(distilled, [by_seed["student alone", seed] for seed in seeds], examples=examples)
    against = {}
    if ("label smoothing", seeds[0]) in by_seed:
        rival = [by_seed["label smoothing", seed] for seed in seeds]
        against["label smoothing"] = set_beside(distilled, rival, name="label smoothing", examples=examples).as_dict()
    return {**verdict.as_dict(), "against": against}


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    measures = {name: _spread([row[name] for row in rows]) for name in rows[0]}
    return {
        "accuracy": measures["accuracy"],
        "nll": measures["nll"]["mean"],
        "agreement": measures["agreement"]["mean"],
        "measures": measures,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": sum(values) / len(values), "std": spread(values), "values": values}
