"""How does a comparison come by its teacher?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compare.material import Material, new_model, setting_of, stream, whole
from limbeck.engine import Run, open_fabric
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.job import Job
from limbeck.measure import Predictions, accuracy
from limbeck.models import is_student_folder
from limbeck.objective import Loss
from limbeck.recipe import Recipe, Stage
from limbeck.signal import IGNORED, LOGITS
from limbeck.sources import Examples
from limbeck.teachers import Ensemble, Live, Teacher

Watch = Callable[[str, Any], None]
"""Told what happens: ``("say", text)``, ``("report", (who, report))``, ``("arm", (arm, seed, measures))``."""


def prepare_teacher(
    job: Job, material: Material, out: Path | None, watch: Watch
) -> tuple[Teacher, dict[str, nn.Module]]:
    """Load the teacher, or train it; a killed run takes its training up again. Also the models that it is made of.

    Raises:
        LimbeckError: If its number of classes is not the data's.
    """
    models = {f"member-{i}": new_model(job.teacher, material, seed=1000 + i) for i in range(job.teacher.members)}
    if has_weights(job.teacher.model):
        watch("say", f"Teacher loaded from {job.teacher.model}.")
    else:
        _train(models, job, material, out, watch)
    members = [Live(model) for model in models.values()]
    return (members[0] if len(members) == 1 else Ensemble(*members, mean=job.teacher.mean)), models


def has_weights(name: str) -> bool:
    """Whether a model of that name comes with weights, or must be trained."""
    return "@" in name or name.startswith(("hf:", "timm:")) or is_student_folder(Path(name))


def _train(models: dict[str, nn.Module], job: Job, material: Material, out: Path | None, watch: Watch) -> None:
    budget = job.teacher.train or job.budget
    recipe = Recipe(Stage(Loss(cross_entropy), trains=next(iter(models)), name="teacher"))
    for name in list(models)[1:]:
        recipe = recipe | Stage(Loss(cross_entropy), trains=name, name="teacher")
    watch("say", f"Training the teacher: {len(models)} x {job.teacher.model}, {budget.epochs} epochs.")
    run = Run(
        models, recipe, stream(material.train, budget, seed=0),
        setting=setting_of(job, budget, material, seed=0, workers=job.workers),
        fabric=open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy),
        out=out / "teacher" if out else None, resume=True,
    )  # fmt: skip
    for report in run:
        watch("report", ("teacher", report))


def ask(teacher: Teacher, examples: Examples, material: Material) -> Tensor:
    """The teacher's logits for every example, in order, on the CPU."""
    with teacher.prepare(frozenset({LOGITS}), device=torch.device("cpu"), reads=material.data.reads) as answer:
        return torch.cat([answer(batch)[LOGITS].float() for batch in whole(examples)])


def check_teacher(teacher_logits: Tensor, examples: Examples, *, classes: int) -> float:
    """The teacher's accuracy on development data, in the student's own pipeline.

    Raises:
        LimbeckError: If it is no better than chance: the sign of another normalisation or label order.
    """
    labels = examples.labels
    if labels is None or not bool((labels != IGNORED).any()):
        return float("nan")
    if teacher_logits.shape[-1] != classes:
        raise LimbeckError(f"The teacher knows {teacher_logits.shape[-1]} classes and the data have {classes}.")
    found = accuracy(Predictions(teacher_logits, None, labels)).value
    chance = 1.0 / classes
    noise = 2.0 * (chance * (1 - chance) / int((labels != IGNORED).sum())) ** 0.5
    if found <= chance + noise:
        raise LimbeckError(
            f"The teacher's accuracy on development data is {100 * found:.1f} %, which is chance ({100 * chance:.1f} "
            "%). Was it trained with another input normalisation or label order? To go on anyway: teacher.check=false."
        )
    return found
