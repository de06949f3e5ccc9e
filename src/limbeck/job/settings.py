"""Settings of the parts of a job: models, teachers of one or several models, methods, the task, the cache."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limbeck.cache import validate_encoding
from limbeck.data.written_share import mean_share
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError, nearest, unknown_name_error
from limbeck.job.adversarial_settings import AdversarialSettings, check_learns, name_epsilon
from limbeck.job.budget import Budget, Strict
from limbeck.job.routes import Routes, read_routes
from limbeck.job.several_teachers import SEVERAL, is_url, name_models
from limbeck.job.validation import add_flag_hint, check_is_argument, flag_hint
from limbeck.methods import method, names
from limbeck.methods.support import read_share
from limbeck.models import UserFile, is_student_folder, reference_names
from limbeck.models.hub import LibraryModel
from limbeck.tasks import Task, get_task
from limbeck.teachers import EstimatorFile
from limbeck.teachers.estimators import name_estimator
from limbeck.teachers.served.client import check_url

SHALLOW = "shallow"
"""A student that starts as a subset of the teacher's layers (`limbeck.models.shallow`)."""
SHRINK = "shrink"
"""A student that is made smaller from the teacher (`limbeck.models.shrink`); a job writes ``from: teacher``."""
ENSEMBLE = "ensemble"
"""The model name of a teacher that is one average of several models."""


class ModelSettings(BaseModel):
    """A model by name, with its arguments.

    Attributes:
        model: ``mlp``, ``cnn``, ``resnet20``, ...; ``my.py:build``; ``my.py:build@weights.safetensors``; a student
            folder; ``timm:NAME``; ``hf:NAME``; of a teacher also ``sklearn:forest.joblib``; ``random_forest`` and other
            estimators, also as ``estimator:``. A student may be ``shallow`` with ``layers``: a subset of the
            teacher's. ``from: teacher`` with ``size`` (0.25, 4x), ``latency`` (2ms) or ``bytes`` (500kB), and ``by``,
            makes a smaller one of it (`limbeck.models.shrink`).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, values: Any) -> Any:
        """The settings without arguments that are null: no reference network takes None as a value."""
        if not isinstance(values, Mapping) or values.get("model") not in (*reference_names(), SHALLOW, SHRINK):
            return values
        return {key: value for key, value in values.items() if value is not None or key in cls.model_fields}

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the model."""
        return dict(self.model_extra or {})

    @property
    def is_shallow(self) -> bool:
        """Whether it starts as a subset of the teacher's layers."""
        return self.model == SHALLOW

    @property
    def starts_from_teacher(self) -> bool:
        """Whether it is made of the teacher: ``shallow`` or ``shrink``."""
        return self.model in (SHALLOW, SHRINK)

    @property
    def has_weights(self) -> bool:
        """Whether it comes with weights, or must be trained."""
        if EstimatorFile.parse(self.model) is not None:
            return True
        if (library := LibraryModel.parse(self.model)) is not None:
            return library.weights is not None or bool(self.arguments.get("pretrained", True))
        return (".py:" in self.model and "@" in self.model) or is_student_folder(Path(self.model))

    @property
    def runs_code(self) -> bool:
        """Whether opening it runs a user's Python file or opens a pickle."""
        return UserFile.parse(self.model) is not None or EstimatorFile.parse(self.model) is not None


class MemberSettings(ModelSettings):
    """One of several teachers.

    Attributes:
        url: The address of a server, as of a teacher by itself. Only one that lists all tokens (``top_k: null``) can be
            averaged.
        weight: Its weight in the average, relative to the others.
        route: The examples that it teaches alone: a column of the data and a value, or a list of values,
            ``{domain: [law, tax]}``; or ``default``, all others. If one teacher has a route, all have.
        train: The budget for training it, if it has no weights yet; that of all teachers by default.
        adversarial: How its training images are changed to make it wrong; those of all teachers by default.
    """

    url: str | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    route: dict[str, Any] | str | None = None
    train: Budget | None = None
    adversarial: AdversarialSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_served(cls, values: Any) -> Any:
        return _with_served_name(values)

    @field_validator("adversarial", mode="before")
    @classmethod
    def _named_epsilon(cls, value: Any) -> Any:
        return name_epsilon(value)


SERVED = "served:"
"""The begin of the model name of a teacher that is behind a server."""


def _with_served_name(values: Any) -> Any:
    """The settings of a teacher, with the name of one that is behind a server."""
    if not isinstance(values, Mapping):
        return values
    values = name_estimator(values)
    if values.get("url") is None and is_url(values.get("model")):
        values["url"] = values.pop("model")
    if values.get("url") is not None:
        values["url"] = f"{check_url(str(values['url']))}/v1"
        name = str(values.get("model") or "").removeprefix(SERVED)
        values["model"] = f"{SERVED}{name}"
    return values


class TeacherSettings(ModelSettings):
    """A teacher: one model, or an ensemble, of models of the same kind or of different ones, loaded or trained.

    Attributes:
        url: The address of a server that scores texts (vLLM, SGLang), ``http://localhost:8000/v1``. ``model`` is then
            the name that it has there, and may be left out if it is the only one; ``top_k``, ``tokenizer`` (a folder or
            ``hf:NAME``), ``api``, ``api_key_env``, ``concurrency``, ``timeout`` and ``retries`` are arguments of
            `limbeck.teachers.ServedTeacher`. A key is read from the environment, and is in no file.
        members: The number of networks in the ensemble, trained from different initial weights.
        ensemble: The models of an ensemble of different ones: a list, or a mapping from names to models. The key
            ``teachers:`` of a job is short for this, with a cache for each teacher.
        mean: How their predictions are averaged.
        train: The budget for training the teacher, if it has no weights yet; the student's by default.
        adversarial: Train the teacher against attacks: how its images are changed to make it wrong. A mapping with
            ``epsilon``, or that number alone.
        check: Stop if its accuracy on development data is at chance level.
    """

    url: str | None = None
    members: int = Field(default=1, ge=1)
    ensemble: dict[str, MemberSettings] = Field(default_factory=dict)
    mean: Literal["arithmetic", "geometric"] = "geometric"
    train: Budget | None = None
    adversarial: AdversarialSettings | None = None
    check: bool = True

    @model_validator(mode="before")
    @classmethod
    def _name_served(cls, values: Any) -> Any:
        return _with_served_name(values)

    @field_validator("adversarial", mode="before")
    @classmethod
    def _named_epsilon(cls, value: Any) -> Any:
        return name_epsilon(value)

    @model_validator(mode="before")
    @classmethod
    def _name_members(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not values.get("ensemble"):
            return values
        return {"model": ENSEMBLE, **values, "ensemble": name_models(values["ensemble"])}

    @model_validator(mode="after")
    def _check_ensemble(self) -> TeacherSettings:
        if self.model in (ENSEMBLE, SEVERAL) and len(self.ensemble) < 2:
            raise LimbeckError(f"teacher.{ENSEMBLE} needs two models or more; got {list(self.ensemble)}.")
        if not self.ensemble:
            check_learns(
                self.adversarial, "teacher.adversarial", title=self.title, served=self.url is not None,
                weights=self.has_weights,
            )  # fmt: skip
            return self
        if self.model not in (ENSEMBLE, SEVERAL) or self.members > 1:
            other = f"members={self.members}" if self.members > 1 else f"model={self.model}"
            raise LimbeckError(f"teacher.ensemble lists the models of the teacher; leave out {other}.")
        if self.arguments:
            first = next(iter(self.arguments))
            if first in self.ensemble:
                raise LimbeckError(f"teacher.{first}: type --set {self.place}.{first}.KEY=...")
            check_is_argument(self.arguments, type(self).model_fields, "teacher")
            raise LimbeckError(f"teacher.{first} belongs to one model: teacher.ensemble.NAME.{first}.")
        for name, member in self.ensemble.items():
            if not re.fullmatch(r"[\w-]+", name) or name == "student":
                raise LimbeckError(f"A teacher cannot be called {name!r}; use letters, digits, '-' and '_'.")
            if member.starts_from_teacher:
                raise LimbeckError(f"teacher.ensemble.{name}: {member.model} is a student made of its teacher.")
            if member.train is not None and (member.url is not None or member.has_weights):
                raise LimbeckError(f"{self.place}.{name}.train: {member.model} has weights; leave out its train.")
            check_learns(
                member.adversarial, f"{self.place}.{name}.adversarial", title=member.model,
                served=member.url is not None, weights=member.has_weights,
            )  # fmt: skip
        _ = self.routes  # raises for routes that do not fit together
        return self

    @property
    def routes(self) -> Routes | None:
        """Which of its models teaches which examples; None if they are averaged."""
        routes = {name: member.route for name, member in self.ensemble.items()}
        return read_routes(routes, {name: member.weight for name, member in self.ensemble.items()}, self.place)

    @property
    def place(self) -> str:
        """The key of its models in the job."""
        return "teachers" if self.model == SEVERAL else f"teacher.{ENSEMBLE}"

    @property
    def train_places(self) -> tuple[str, ...]:
        """The keys of the budgets of the models that are trained."""
        if not self.ensemble:
            return ("teacher.train",)
        return tuple(f"{self.place}.{name}.train" for name, part in self.parts.items() if not part.has_weights)

    @property
    def parts(self) -> dict[str, TeacherSettings]:
        """Each of its models by name, as a separate teacher."""
        if not self.ensemble:
            return {f"member-{i}": self for i in range(self.members)}
        return {
            name: TeacherSettings(
                model=member.model, url=member.url, train=member.train or self.train, check=self.check,
                adversarial=self._adversarial_of(member), **member.arguments,
            )
            for name, member in self.ensemble.items()
        }  # fmt: skip

    def _adversarial_of(self, member: MemberSettings) -> AdversarialSettings | None:
        """The adversarial training of one of several teachers; those that are not trained have none."""
        if member.url is not None or member.has_weights:
            return None
        return self.adversarial if member.adversarial is None else member.adversarial

    @property
    def served_model(self) -> str | None:
        """The name of the model at its server; None if it is the only one there."""
        return self.model.removeprefix(SERVED) or None

    @property
    def weights(self) -> list[float] | None:
        """The weights of its models; None if they are equal."""
        return [member.weight for member in self.ensemble.values()] or None

    @property
    def title(self) -> str:
        """A readable name: the model, or the names of several."""
        if self.url is not None:
            return self.served_model or "model of the server"
        return f"{self.model} ({', '.join(self.ensemble)})" if self.ensemble else self.model

    @property
    def has_weights(self) -> bool:
        """Whether all its models come with weights."""
        if self.url is not None:
            return True
        return all(part.has_weights for part in self.parts.values()) if self.ensemble else super().has_weights

    @property
    def runs_code(self) -> bool:
        """Whether opening it runs a user's Python file or opens a pickle."""
        return any(one.runs_code for one in self.ensemble.values()) if self.ensemble else super().runs_code


class MethodSettings(BaseModel):
    """A method by name, with its hyper-parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "hinton"

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, values: Any) -> Any:
        """The settings without those that are null and belong to another method."""
        name = values.get("name", "hinton") if isinstance(values, Mapping) else None
        if name not in names():
            return values
        known = method(name).hyper_parameters
        return {key: value for key, value in values.items() if value is not None or key in known or key == "name"}

    @property
    def hyper(self) -> dict[str, Any]:
        """Its hyper-parameters."""
        return dict(self.model_extra or {})

    @property
    def written_share(self) -> float:
        """The share of the batches whose texts a model writes while it learns; 0 for methods on given data."""
        values = {**method(self.name).defaults, **self.hyper}
        return mean_share(read_share("share", values.get("share", 1.0))) if "max_new_tokens" in values else 0.0

    @property
    def is_user_function(self) -> bool:
        """Whether it is a user's function, ``my.py:function``, whose file has to be run."""
        return UserFile.parse(self.name) is not None

    def check(self, place: str = "method") -> None:
        """Check the names of the method and its hyper-parameters. Values are checked when the recipe is made.

        Args:
            place: The key of the method in the job, for the flag in a message.

        Raises:
            UnknownNameError: If the method or a hyper-parameter is unknown; the nearest name is given.
            LimbeckError: If a required hyper-parameter is missing.
        """
        definition = method(self.name)
        known = list(definition.hyper_parameters)
        for key in self.hyper:
            if key not in known:
                near, kind = nearest(key, [*known, "name"]), f"hyper-parameter of {self.name}"
                raise unknown_name_error(kind, key, [*known, "name"], then=flag_hint(place, near) if near else "")
        lacking = [name for name in definition.required if name in known and name not in self.hyper]
        if lacking:
            flags = " ".join(f"--set {place}.{name}=..." for name in lacking)
            raise LimbeckError(f"The method {self.name} needs {' and '.join(lacking)}: {flags}")


class TaskSettings(BaseModel):
    """A task by name, with its settings: ``regression`` with ``standardize: false``.

    Attributes:
        name: ``classification``, ``multi_label``, ``regression``, ``segmentation`` or ``language_modeling``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @field_validator("name")
    @classmethod
    def _known_name(cls, value: str) -> str:
        return get_task(value).name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the task."""
        return dict(self.model_extra or {})

    def open(self) -> Task:
        """The task, before it is set up for the data.

        Raises:
            LimbeckError: If a setting is unknown or has the wrong type.
        """
        return get_task(self.name, **self.settings)


class CacheSettings(Strict):
    """Cache of the teacher's outputs: each output is computed once.

    Attributes:
        folder: The folder of the cache, or an address that fsspec opens; ``answers`` in the job's folder by default.
            Jobs with the same teacher and data can share a cache.
        encoding: ``float32``, ``float16``, ``top-k``, ``sampled``, ...; or a mapping of a name and its parameters. By
            default ``float16``; of a served teacher, ``listed``.
        views: The number of different views of each example, if inputs are augmented: epoch e uses view e modulo this
            number. By default one for each epoch.
        through: The name of the teacher's last layer: its inputs are cached instead of the logits.
        inputs: Whether a language model's tokens and tokenizer are stored too, so that the cache is a training set by
            itself.
    """

    folder: str | None = None
    encoding: str | dict[str, Any] | None = None
    views: int | None = Field(default=None, ge=1)
    through: str | None = None
    inputs: bool = False

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        try:
            _ = None if value is None else validate_encoding(value)
        except (ArgumentError, UnknownNameError) as error:
            raise add_flag_hint(error, "cache" if error.argument == "encoding" else "cache.encoding") from error
        return value
