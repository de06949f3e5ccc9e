"""`Job`: the typed settings of a job, and the list of its keys."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from limbeck.data.options import DataOptions, parse_data_name, parse_data_options
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.job.adversarial_settings import AdversarialSettings
from limbeck.job.budget import ArmBudget, Budget, Strict, check_views
from limbeck.job.run_layout import LIKE_FIRST_METHOD, ROUNDED, method_arms, plain_name
from limbeck.job.settings import (
    SHRINK,
    CacheSettings,
    MemberSettings,
    MethodSettings,
    ModelSettings,
    TaskSettings,
    TeacherSettings,
)
from limbeck.job.several_teachers import join_teachers
from limbeck.job.student_settings import (
    QuantizeSettings,
    StudentSettings,
    check_student_settings,
    name_student,
    with_rounded_arm,
)
from limbeck.job.validation import add_flag_hint, as_list, check_arms, check_extra_metrics, flag_hint
from limbeck.methods import check_task as check_method_task
from limbeck.methods import method
from limbeck.models import UserFile
from limbeck.tasks import Task

DEFAULT_ARMS = ("teacher", "student alone", "label smoothing", "distilled")


class Job(Strict):
    """The settings of a job: data, teacher, student, method, budget, arms, seeds, output folder.

    Attributes:
        data: A data set's name, a file, a folder, or a mapping with ``name`` (any of these) and its options.
        task: What is learned: ``classification``, ``multi_label``, ``regression``, ``segmentation`` or
            ``language_modeling``, or a mapping of this ``name`` and settings. By default it is inferred from the
            targets; the summary of the data says why.
        teacher: The teacher's name (``teacher.model``) and its arguments; or ``{ensemble: [...]}``. With the key
            ``teachers``, several of them: ``{big: {model: ..., weight: 2}, small: ...}``.
        student: The student's name (``student.model``) and its arguments; ``{from: teacher, size: 0.25}`` makes it of
            the teacher, and ``quantize`` rounds it to 8 or fewer bits.
        method: The method's name (``method.name``) and its settings; `limbeck methods` lists them.
        methods: Several methods to compare: each is an arm with the method's name. `method` is then the first one.
        budget: Training length, batches and optimizer of all arms, unless `budgets` differs.
        budgets: Settings of single arms by name: ``{student alone: {lr: 0.003, epochs: 12}}``.
        cache: Cache of the teacher's outputs; without it they are computed at every step.
        arms: Which arms to compare, of `ARMS`.
        seeds: The number of runs of each arm, with different initial weights (of a shallow student, those of its new
            parts) and data order. Run k of all arms shares both, so that runs can be compared in pairs.
        train_examples: Use this many training examples, drawn evenly from the classes; None means all.
        development: The fraction of the training data held out for choosing and checking; test data are used once.
        also: Extra metrics, computed after training: ``attacks``, ``cka``, ``corruptions``, ``faithfulness``,
            ``groups``, ``sharpness``.
        metrics: Your own metrics, each ``my.py:function``, computed on the test data for every arm
            (`limbeck.metrics.open_metrics`).
        precision: The precision of Lightning Fabric: ``32-true``, ``bf16-mixed``, ...
        fuse_output_layer: Whether losses are computed without the logits of a whole batch: ``auto``, from 8,192 outputs
            on where it is possible; ``true``, or an error; ``false``, never.
        devices: The number of devices of one run.
        strategy: The strategy of Lightning Fabric: ``auto``, ``ddp``, ``fsdp``, ...
        workers: The number of runs at the same time, each in a process with one thread.
        search: The folder of the search that chose the settings, as `limbeck tune` writes it; a run copies the trials
            into its folder and its report shows them.
        track: Experiment tracker: ``tensorboard``, or ``my.py:function``, which gets a folder and returns a tracker.
        out: The output folder.
    """

    data: str | dict[str, Any]
    task: TaskSettings | None = None
    teacher: TeacherSettings
    student: StudentSettings
    method: MethodSettings = MethodSettings()
    methods: tuple[MethodSettings, ...] = ()
    budget: Budget = Budget()
    budgets: dict[str, ArmBudget] = Field(default_factory=dict)
    cache: CacheSettings | None = None
    arms: tuple[str, ...] = DEFAULT_ARMS
    seeds: int = Field(default=1, ge=1)
    train_examples: int | None = Field(default=None, ge=1)
    development: float = Field(default=0.1, gt=0, lt=1)
    also: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    precision: str = "32-true"
    fuse_output_layer: bool | Literal["auto"] = "auto"
    devices: int | str = "auto"
    strategy: str = "auto"
    workers: int = Field(default=1, ge=1)
    search: str | None = None
    track: str | None = None
    out: str | None = None

    @field_validator("data", mode="before")
    @classmethod
    def _typed_data(cls, value: Any) -> Any:
        """Check the types of the data options before any file is opened."""
        if isinstance(value, dict):
            name = parse_data_name(value.get("name"))
            if UserFile.parse(name) is None:  # the options of a function of one's own are its arguments
                parse_data_options({str(key): one for key, one in value.items() if key != "name"})
            return {**value, "name": name}
        return parse_data_name(value) if isinstance(value, str) else value

    @field_validator("task", "method", mode="before")
    @classmethod
    def _named_part(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("teacher", mode="before")
    @classmethod
    def _named_model(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @field_validator("student", mode="before")
    @classmethod
    def _named_student(cls, value: Any) -> Any:
        return name_student(value)

    @field_validator("methods", mode="before")
    @classmethod
    def _named_methods(cls, value: Any) -> Any:
        several = value if isinstance(value, (list, tuple)) else [value]
        return [{"name": one} if isinstance(one, str) else one for one in several]

    @model_validator(mode="before")
    @classmethod
    def _joined_teachers(cls, values: Any) -> Any:
        return join_teachers(with_rounded_arm(values, DEFAULT_ARMS))

    @model_validator(mode="before")
    @classmethod
    def _first_method(cls, values: Any) -> Any:
        """Use the first of several methods as `method`."""
        several = values.get("methods") if isinstance(values, dict) else None
        if not several:
            return values
        first = several[0] if isinstance(several, (list, tuple)) else several
        if "method" in values and _called(values["method"]) != _called(first):
            raise LimbeckError(
                f"The job has the method {_called(values['method'])!r} and several methods, the first is "
                f"{_called(first)!r}. Use one of the two keys."
            )
        return {**values, "method": first}

    @property
    def method_arms(self) -> dict[str, MethodSettings]:
        """The distilled arms and their methods: one arm "distilled", or one for each of several methods."""
        if "distilled" not in self.arms:
            return {}
        if not self.methods:
            return {"distilled": self.method}
        return dict(zip(method_arms(one.name for one in self.methods), self.methods, strict=True))

    @property
    def student_title(self) -> str:
        """The name of the student's network; of one that is made smaller from its teacher, the teacher's."""
        made = self.student.model == SHRINK
        return f"smaller {plain_name(self.teacher.model)}" if made else plain_name(self.student.model)

    def key_of(self, method: MethodSettings) -> str:
        """The key of a method in the job, for ``--set``."""
        return next(
            (f"methods.{arm}" for arm, one in self.method_arms.items() if one == method and self.methods), "method"
        )

    @property
    def names_files(self) -> bool:
        """Whether the job names a user's Python files, which are run."""
        methods = (one.name for one in self.method_arms.values())
        named = (self.student.model, self.track or "", *methods)
        return self.teacher.runs_code or any(UserFile.parse(name) is not None for name in named)

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The names of all arms, in the order of the table."""
        return tuple(name for arm in self.arms for name in (self.method_arms if arm == "distilled" else (arm,)))

    @property
    def first_arm(self) -> str:
        """The arm of the first method; of a job with controls alone, the first of them."""
        return next(arm for arm in (*self.method_arms, *self.arms) if arm != "teacher")

    def budget_of(self, arm: str) -> Budget:
        """The budget of an arm; "shuffled teacher" and "post-training quantization" have that of the first method."""
        own = self.budgets.get(self.first_arm if arm in LIKE_FIRST_METHOD else arm)
        return self.budget if own is None else own.apply_to(self.budget)

    def of_arm(self, arm: str) -> Job:
        """The job with the arguments of the arm's own estimator for its student; itself if there are none."""
        own = self.budgets.get(self.first_arm if arm in LIKE_FIRST_METHOD else arm)
        values = {**self.student.model_dump(), **own.student} if own is not None and own.student else None
        return self if values is None else self.model_copy(update={"student": StudentSettings(**values)})

    @property
    def teacher_budgets(self) -> dict[str, Budget]:
        """The budget of each model of the teacher that is trained, by name."""
        parts = self.teacher.parts.items() if self.teacher.url is None else ()
        return {name: part.train or self.budget for name, part in parts if not part.has_weights}

    @field_validator("cache", mode="before")
    @classmethod
    def _named_folder(cls, value: Any) -> Any:
        return {"folder": value} if isinstance(value, str) else value

    @field_validator("also", mode="before")
    @classmethod
    def _named_also(cls, value: Any) -> Any:
        return as_list(value)

    @field_validator("metrics", mode="before")
    @classmethod
    def _named_metrics(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Job:
        check_extra_metrics(self.also)
        check_arms(self.arms, [method.name for method in self.methods])
        if ROUNDED in self.arms and self.student.quantize is None:
            raise LimbeckError(f"The arm {ROUNDED!r} is for a rounded student: set student.quantize=int8.")
        if self.workers > 1 and str(self.devices) not in ("auto", "1"):
            raise LimbeckError(
                f"workers={self.workers} runs arms side by side, devices={self.devices} spreads each over devices: "
                "choose one of the two."
            )
        for one in self.methods or (self.method,):
            if not one.is_user_function:  # `check_user_methods` checks those: reading a job runs no file
                one.check(self.key_of(one))
        if self.task is not None:
            self.check_task(self.task.open())
        self._check_budgets()
        check_student_settings(self.student, self.teacher)
        if not self.method.is_user_function:
            self._check_shuffled()
        members = self.teacher.ensemble.items()
        trains = {"teacher.train": self.teacher.train} | {
            f"{self.teacher.place}.{name}.train": member.train for name, member in members
        }
        for place, budget in {"budget": self.budget, **trains}.items():
            try:
                _ = budget.make_optimizer() if budget is not None else None
            except LimbeckError as error:
                raise add_flag_hint(error, place, Budget.model_fields) from error
            if budget is not None:
                check_views(budget, place)
        for place, budget in trains.items():
            if budget is not None and budget.mix is not None:
                raise LimbeckError(
                    f"{place}.mix: a teacher learns labels, and no single label is right for a mixture of two "
                    f"examples. {flag_hint(place, 'mix', 'null')}"
                )
        return self

    def check_task(self, task: Task) -> None:
        """Check that all methods can learn a task.

        Raises:
            LimbeckError: If one cannot, or a hyper-parameter has no meaning for the task.
        """
        for one in self.methods or (self.method,):
            if one.is_user_function:
                continue
            check_method_task(one.name, task)
            if "temperature" in one.hyper and not task.has_temperature:
                raise LimbeckError(
                    f"{self.key_of(one)}.temperature={one.hyper['temperature']}: {task.name} has no temperature, "
                    "because its outputs are numbers, not probabilities. Leave it out."
                )

    def check_user_methods(self) -> None:
        """Check the methods that are functions in a user's files. This runs the files.

        Raises:
            LimbeckError: If a function is missing or fails, a hyper-parameter is unknown, or the user has not agreed
                to run the file.
        """
        own = [one for one in self.methods or (self.method,) if one.is_user_function]
        for one in own:
            one.check(self.key_of(one))
        if self.method in own:
            self._check_shuffled()

    def _check_shuffled(self) -> None:
        if "shuffled teacher" in self.arms and not method(self.method.name).has_teacher:
            raise LimbeckError(
                f"The method {self.method.name} has no teacher whose outputs could be shuffled: leave out the arm "
                "'shuffled teacher'."
            )

    def _check_budgets(self) -> None:
        """Refuse a budget of an arm that is not in the job, and label smoothing of another arm."""
        trained_arms = [arm for arm in self.all_arms if arm not in ("teacher", *LIKE_FIRST_METHOD)]
        for arm, own in self.budgets.items():
            if arm not in trained_arms:
                raise unknown_name_error("arm in budgets", arm, trained_arms)
            if own.smoothing is not None and arm != "label smoothing":
                raise LimbeckError(f"budgets.{arm}.smoothing: only the arm 'label smoothing' smooths its labels.")


def _called(method: Any) -> Any:
    """The name of a method, given as a string, a mapping or `MethodSettings`."""
    if isinstance(method, MethodSettings):
        return method.name
    return method.get("name", "hinton") if isinstance(method, dict) else method


_PARTS: tuple[tuple[str, type], ...] = (
    ("", Job), ("task.", TaskSettings), ("data.", DataOptions),
    ("teacher.", ModelSettings), ("teacher.", TeacherSettings), ("teachers.NAME.", MemberSettings),
    ("teacher.adversarial.", AdversarialSettings),
    ("student.", ModelSettings), ("student.", StudentSettings), ("student.quantize.", QuantizeSettings),
    ("method.", MethodSettings), ("budget.", Budget),
    ("budgets.ARM.", ArmBudget), ("cache.", CacheSettings),
)  # fmt: skip
_HOLD_KEYS = ("task", "teacher", "student", "ensemble", "method", "budget", "budgets", "cache", "train", "adversarial")
"""Keys with nested keys, which list their own defaults."""


class Key(NamedTuple):
    """A key of a job.

    Attributes:
        name: As ``--set`` takes it: ``budget.epochs``.
        default: The default; "needed" if there is none.
        meaning: What the key sets.
    """

    name: str
    default: str
    meaning: str


def job_keys(prefix: str = "") -> tuple[Key, ...]:
    """All keys of a job file, or those that start with `prefix`.

    Example:
        >>> [key.default for key in job_keys("budget.epochs")]
        ['20']
    """
    listed = [key for place, owner in _PARTS for key in _keys_of(owner, place)]
    listed.append(Key("data.name", "needed", "The data set's name, a file, a folder, or my.py:load."))
    listed.append(Key("method.SETTING", "", "A setting of the method: see `limbeck methods NAME`."))
    order = {place: i for i, place in enumerate(dict.fromkeys(place for place, _ in _PARTS))}
    listed.sort(key=lambda key: order[key.name.rpartition(".")[0] + "." * ("." in key.name)])
    return tuple(key for key in listed if key.name.startswith(prefix))


def _keys_of(owner: type, place: str) -> list[Key]:
    meanings = attribute_meanings(owner)
    return [
        Key(place + name, default, meanings[name]) for name, default in _defaults(owner).items() if name in meanings
    ]


def attribute_meanings(owner: type) -> dict[str, str]:
    """The descriptions in the section ``Attributes:`` of a class's docstring, by attribute.

    Example:
        >>> attribute_meanings(CacheSettings)["through"].split()[:3]
        ['The', 'name', 'of']
    """
    _, _, section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")
    section = section.partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, flags=re.M)
    return {name: re.sub(r"\s+", " ", text).replace("``", "") for name, text in entries}


def _defaults(owner: Any) -> dict[str, str]:
    if is_dataclass(owner):
        entries = ((one.name, one.default, one.default_factory) for one in fields(owner))
        return {
            name: "" if value is MISSING and factory is MISSING else _describe_value(value)
            for name, value, factory in entries
        }
    return {
        name: "needed" if one.is_required() else _describe_value(one.get_default(call_default_factory=True), name)
        for name, one in owner.model_fields.items()
    }


def _describe_value(value: Any, name: str = "") -> str:
    if name in _HOLD_KEYS and not isinstance(value, str):
        return ""
    if value is None or value == () or value == {}:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)
