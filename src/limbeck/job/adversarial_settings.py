"""Settings of the adversarial training of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from limbeck.data import Attack
from limbeck.errors import LimbeckError
from limbeck.job.budget import Strict


class AdversarialSettings(Strict):
    """How the images that a teacher learns from are changed at each step, to make it wrong.

    Attributes:
        epsilon: The largest change of a pixel, as a fraction of the range of pixels, above 0: 0.1, or 0.0314 (8/255).
        steps: The number of steps of the attack. Each costs a forward and a backward pass.
        step_size: The length of a step, likewise; by default a quarter of epsilon.
        start: ``uniform`` starts anywhere in the ball; a number is the standard deviation of normal noise around the
            image, as a fraction of the range.
        keep_clean: Whether the teacher learns from the clean images too.
    """

    epsilon: float = Field(gt=0, le=1)
    steps: int = Field(default=10, ge=1)
    step_size: float | None = Field(default=None, gt=0)
    start: float | Literal["uniform"] = "uniform"
    keep_clean: bool = False

    @field_validator("start")
    @classmethod
    def _check_start(cls, value: float | str) -> float | str:
        if isinstance(value, float) and value < 0:
            raise ValueError("Input should be 'uniform' or a number of at least 0")
        return value

    def make_attack(self, *, model: str, high: float | None = None) -> Attack:
        """The attack on a model of a run.

        Args:
            model: The name of the model.
            high: The largest value of a pixel; by default that of their type.
        """
        return Attack(
            self.epsilon, step_size=self.step_size, steps=self.steps, start=self.start, model=model,
            keep_clean=self.keep_clean, high=high,
        )  # fmt: skip


def name_epsilon(value: Any) -> Any:
    """The settings of ``adversarial: 0.1``, which is short for ``{epsilon: 0.1}``.

    Raises:
        LimbeckError: If it is neither a number nor a mapping.

    Example:
        >>> name_epsilon(0.1), name_epsilon({"epsilon": 0.1, "steps": 4})
        ({'epsilon': 0.1}, {'epsilon': 0.1, 'steps': 4})
    """
    if value is None or isinstance(value, (Mapping, AdversarialSettings)):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LimbeckError(f"adversarial is a radius, such as 0.1, or a mapping with epsilon; got {value!r}.")
    return {"epsilon": value}


def check_learns(
    adversarial: AdversarialSettings | None, place: str, *, title: str, served: bool, weights: bool
) -> None:
    """Check that a teacher with these settings is trained by the job.

    Args:
        adversarial: The settings.
        place: Their key in the job.
        title: The name of the model.
        served: Whether it is behind a server.
        weights: Whether it comes with weights.

    Raises:
        LimbeckError: If it is not.
    """
    if adversarial is None or not (served or weights):
        return
    why = "is behind a server" if served else "has weights"
    raise LimbeckError(
        f"{place}: {title} {why}, and a job trains only a teacher without weights against an attack. Leave "
        f"{place} out, or name a new model, such as teacher.model=cnn."
    )
