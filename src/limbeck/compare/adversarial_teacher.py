"""The attacks that a job's teacher is trained against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.estimator import is_estimator
from limbeck.data import Attack, Identity, NormalizeImages
from limbeck.data.transforms.common import check_pixels
from limbeck.errors import LimbeckError
from limbeck.job import AdversarialSettings, Job, plain_name
from limbeck.methods import method
from limbeck.tasks import Classification

_WRITTEN = 16
"""Papers write radii up to 16/255 so; larger ones, such as 0.2, are decimal numbers."""


def adversarial_of(job: Job, name: str) -> AdversarialSettings | None:
    """The adversarial training of one model of the teacher; None if it learns from images as they are."""
    return job.teacher.parts[name].adversarial


def make_attacks(job: Job, material: ComparisonData, names: Iterable[str]) -> dict[str, Attack]:
    """The attacks in the training of these models of the teacher, for `teachers_recipe`."""
    own = {name: one for name in names if (one := adversarial_of(job, name)) is not None}
    high = find_largest_pixel(material) if own else None
    return {name: one.make_attack(model=name, high=high) for name, one in own.items()}


def find_largest_pixel(material: ComparisonData) -> float | None:
    """The largest value of pixels in bytes whose preprocessing divides by it: 16 for scikit-learn's digits.

    None for other inputs, whose range an attack knows: 255 of bytes, and 1.
    """
    preprocess = material.data.preprocess
    if not isinstance(preprocess, NormalizeImages):
        return None
    inputs = material.train.take(torch.tensor([0])).inputs
    return 1 / preprocess.scale if isinstance(inputs, Tensor) and not inputs.is_floating_point() else None


def check_adversarial(job: Job, models: Mapping[str, nn.Module], material: ComparisonData) -> None:
    """Check that the teacher of a job can be trained against attacks, if it is to be.

    Raises:
        LimbeckError: If the data are not images with classes, or a model is an estimator.
    """
    for name, model in models.items():
        if adversarial_of(job, name) is None:
            continue
        place = f"{job.teacher.place}.{name}" if job.teacher.ensemble else "teacher"
        leave = f"Leave {place}.adversarial out."
        if is_estimator({name: model}):
            raise LimbeckError(
                f"{place}.adversarial: an attack follows gradients, and {job.teacher.parts[name].model} is an "
                f"estimator, which has none. {leave}"
            )
        if not isinstance(material.task, Classification):
            raise LimbeckError(
                f"{place}.adversarial: an attack raises the loss of a class, and this is {material.task.name}. {leave}"
            )
        first = material.train.take(torch.tensor([0])).inputs
        if not isinstance(first, Tensor) or first.ndim not in (3, 4):
            kind = f"a row of {first[0].numel()} numbers" if isinstance(first, Tensor) else "several tensors by name"
            raise LimbeckError(
                f"{place}.adversarial: an attack changes pixels, and an example of {plain_name(material.data.name)} is "
                f"{kind}. {leave}"
            )
        if not isinstance(material.data.preprocess, (NormalizeImages, Identity)):
            raise LimbeckError(f"{place}.adversarial: the preprocessing of these data is not that of images. {leave}")
        check_pixels(first, who=f"{place}.adversarial")


def describe_attack(job: Job, name: str) -> str:
    """The attack on a model as words of a message; empty if there is none."""
    own = adversarial_of(job, name)
    return "" if own is None else f", against changes of up to {own.epsilon:.3g} of the range of a pixel"


def trained_radii(job: Job) -> set[float]:
    """The largest changes of a pixel that the job's teacher and its methods are trained with, as shares of the range.

    Those of a method are its argument ``epsilon``; what that means in a user's function is not known.
    """
    radii = {part.adversarial.epsilon for part in job.teacher.parts.values() if part.adversarial is not None}
    for one in job.method_arms.values():
        epsilon = None if one.is_user_function else {**method(one.name).defaults, **one.hyper}.get("epsilon")
        if isinstance(epsilon, (int, float)):
            radii.add(float(epsilon))
    return radii


def attack_radii(job: Job, usual: Mapping[str, float]) -> dict[str, float]:
    """The radii at which arms are attacked by name: the usual ones, and those of `trained_radii`.

    Args:
        job: The job.
        usual: The usual radii by name.
    """
    own = {radius for radius in trained_radii(job) if all(not is_radius(radius, one) for one in usual.values())}
    return dict(sorted({**usual, **{_name_radius(one): one for one in own}}.items(), key=lambda item: item[1]))


def is_radius(one: float, other: float) -> bool:
    """Whether two radii are the same up to rounding, as 0.0314 and 8/255 are."""
    return abs(one - other) < 1e-4


def _name_radius(radius: float) -> str:
    """A radius as text: ``8/255`` where it is one of the radii that are written so, ``0.1`` otherwise."""
    steps = round(255 * radius)
    return f"{steps}/255" if 0 < steps <= _WRITTEN and is_radius(steps / 255, radius) else f"{radius:.3g}"
