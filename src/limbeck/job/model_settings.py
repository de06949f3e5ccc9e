"""Settings of models in a job: students, teachers, and teachers of several models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limbeck.errors import LimbeckError
from limbeck.job.budget import Budget
from limbeck.models import UserFile
from limbeck.teachers import EstimatorFile

SHALLOW = "shallow"
"""A student that starts as a subset of the teacher's layers (`limbeck.models.shallow`)."""
ENSEMBLE = "ensemble"
"""The model of a teacher that is one average of several models."""
SEVERAL = "teachers"
"""The model of several teachers, which are averaged and cached each on its own."""


class ModelSettings(BaseModel):
    """A model by name, with its arguments.

    Attributes:
        model: ``mlp``, ``cnn``, ``resnet20``, ...; ``my.py:build``; ``my.py:build@weights.safetensors``; a student
            folder; ``timm:NAME``; ``hf:NAME``; of a teacher also ``sklearn:forest.joblib``. A student may be
            ``shallow`` with ``layers``: a subset of the teacher's.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the model."""
        return dict(self.model_extra or {})

    @property
    def is_shallow(self) -> bool:
        """Whether it starts as a subset of the teacher's layers."""
        return self.model == SHALLOW

    @property
    def runs_code(self) -> bool:
        """Whether opening it runs a user's Python file or opens a pickle."""
        return UserFile.parse(self.model) is not None or EstimatorFile.parse(self.model) is not None


class MemberSettings(ModelSettings):
    """One of several teachers.

    Attributes:
        weight: Its weight in the average, relative to the others.
    """

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class TeacherSettings(ModelSettings):
    """A teacher: one model, or an ensemble, of models of the same kind or of different ones, loaded or trained.

    Attributes:
        members: The number of networks in the ensemble, trained from different initial weights.
        ensemble: The models of an ensemble of different ones: a list, or a mapping from names to models. The key
            ``teachers:`` of a job is short for this, with a cache for each teacher.
        mean: How their predictions are averaged.
        train: The budget for training the teacher, if it has no weights yet; the student's by default.
        check: Stop if its accuracy on development data is at chance level.
    """

    members: int = Field(default=1, ge=1)
    ensemble: dict[str, MemberSettings] = Field(default_factory=dict)
    mean: Literal["arithmetic", "geometric"] = "geometric"
    train: Budget | None = None
    check: bool = True

    @model_validator(mode="before")
    @classmethod
    def _name_members(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not values.get("ensemble"):
            return values
        return {"model": ENSEMBLE, **values, "ensemble": _name_models(values["ensemble"])}

    @model_validator(mode="after")
    def _check_ensemble(self) -> TeacherSettings:
        if self.model in (ENSEMBLE, SEVERAL) and len(self.ensemble) < 2:
            raise LimbeckError(f"teacher.{ENSEMBLE} needs two models or more; got {list(self.ensemble)}.")
        if not self.ensemble:
            return self
        if self.model not in (ENSEMBLE, SEVERAL) or self.members > 1:
            other = f"members={self.members}" if self.members > 1 else f"model={self.model}"
            raise LimbeckError(f"teacher.ensemble lists the models of the teacher; leave out {other}.")
        if self.arguments:
            first = next(iter(self.arguments))
            raise LimbeckError(f"teacher.{first} belongs to one model: teacher.ensemble.NAME.{first}.")
        for name, member in self.ensemble.items():
            if not re.fullmatch(r"[\w-]+", name) or name == "student":
                raise LimbeckError(f"A teacher cannot be called {name!r}; use letters, digits, '-' and '_'.")
            if member.is_shallow:
                raise LimbeckError(f"teacher.ensemble.{name}: shallow is a student made of its teacher's layers.")
        return self

    @property
    def parts(self) -> dict[str, TeacherSettings]:
        """Each of its models by name, as a teacher of its own."""
        if not self.ensemble:
            return {f"member-{i}": self for i in range(self.members)}
        own: dict[str, Any] = {"train": self.train, "check": self.check}
        return {
            name: TeacherSettings(model=member.model, **own, **member.arguments)
            for name, member in self.ensemble.items()
        }

    @property
    def weights(self) -> list[float] | None:
        """The weights of its models; None if they are equal."""
        return [member.weight for member in self.ensemble.values()] or None

    @property
    def title(self) -> str:
        """What it is, for people: the model, or the names of several."""
        return f"{self.model} ({', '.join(self.ensemble)})" if self.ensemble else self.model

    @property
    def runs_code(self) -> bool:
        """Whether opening it runs a user's Python file or opens a pickle."""
        return any(one.runs_code for one in self.ensemble.values()) if self.ensemble else super().runs_code


def join_teachers(values: Any) -> Any:
    """The values of a job with its key ``teachers`` written as ``teacher``; they change teachers that it has already.

    Raises:
        LimbeckError: If there is another teacher as well.
    """
    if not isinstance(values, Mapping) or values.get("teachers") is None:
        return values
    rest = {key: value for key, value in values.items() if key != "teachers"}
    several, before = _name_models(values["teachers"]), rest.get("teacher")
    if before is not None and not (isinstance(before, Mapping) and before.get("model") == SEVERAL):
        raise LimbeckError("The job has teacher: and teachers:; give one of the two keys.")
    before = dict(before or {"model": SEVERAL})
    named = {name: dict(one) for name, one in (before.get("ensemble") or {}).items()}
    for name, one in several.items():
        named[name] = {**named.get(name, {}), **one}
    return {**rest, "teacher": {**before, "ensemble": named}}


def _name_models(models: Any) -> dict[str, Any]:
    """Models by name; those of a list are named by their files or functions."""
    if isinstance(models, Mapping):
        return {str(name): {"model": one} if isinstance(one, str) else one for name, one in models.items()}
    if not isinstance(models, Sequence) or isinstance(models, str):
        raise LimbeckError(f"Several teachers are a list of models, or a mapping of names to models; got {models!r}.")
    named: dict[str, Any] = {}
    for one in models:
        settings = {"model": one} if isinstance(one, str) else dict(one)
        base = name = _short_name(str(settings.get("model")))
        number = 1
        while name in named:
            number += 1
            name = f"{base}-{number}"
        named[name] = settings
    return named


def _short_name(model: str) -> str:
    own = UserFile.parse(model)
    name = own.function if own is not None else Path(model.rpartition(":")[2]).stem
    return re.sub(r"[^\w-]+", "-", name) or "model"
