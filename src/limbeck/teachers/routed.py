"""`RoutedTeacher`: several teachers, of which each example has one."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch, Outputs
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning, nearest, unknown_name_error
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.teacher import TeacherContext, TeacherSession, get_function_name
from limbeck.teachers.wrapper import LazyFuture, TeacherWrapper, WrapperSession

RouteFunction = Callable[[Batch], Any]
"""Function from a batch to the name of each example's teacher: a sequence of names, or the numbers of the teachers in
their order, ``int64 [batch]``. None or -1 is an example without a route."""

LABELS_COLUMN = "labels"
"""The route that reads the labels of the batch in place of a column of ``Batch.extra``."""


@runtime_checkable
class _HasColumns(Protocol):
    """Examples that know a column as a whole; an `ArrayDataset` and its subsets do."""

    def extra_column(self, name: str) -> Any: ...


@final
class RoutedTeacher(TeacherWrapper):
    """Several teachers, of which each example is taught by one: that of its domain, its language, its source.

    A teacher runs only on the rows that are routed to it. All teachers have the same classes, and the layers that the
    losses read.

    Args:
        teachers: The teachers by name; each is anything that `as_teacher` accepts.
        route: The name of a column of ``Batch.extra``; ``labels``; or a pure function from a batch to the name of each
            example's teacher (see `RouteFunction`).
        values: With a column: the values that belong to each teacher, one or a list. By default the name of the
            teacher.
        default: The name of the teacher of all other examples. Without one, an example without a route is an error.

    Raises:
        LimbeckError: If there is no teacher, two have the same value, or a name is unknown; when it is opened, if the
            data have a value without a teacher, as far as the column can be read without the inputs; else with the
            first batch that has one.

    Example:
        >>> from torch import nn
        >>> teacher = RoutedTeacher({"law": nn.Identity(), "news": nn.Softplus()}, "domain", default="news")
        >>> batch = Batch(torch.zeros(2, 3), extra={"domain": ["web", "law"]})
        >>> with teacher.open(TeacherContext()) as session:
        ...     session(batch)["logits"][:, 0]
        tensor([0.6931, 0.0000])
    """

    def __init__(
        self,
        teachers: Mapping[str, Any],
        route: str | RouteFunction,
        *,
        values: Mapping[str, Any] | None = None,
        default: str | None = None,
    ) -> None:
        if not isinstance(teachers, Mapping) or not teachers:
            raise LimbeckError(
                "A RoutedTeacher needs teachers by name: RoutedTeacher({'a': a, 'b': b}, 'column'); got "
                f"{teachers!r}."
            )
        super().__init__(*teachers.values())
        self.check_full_logits("A RoutedTeacher")
        self.member_names = tuple(str(name) for name in teachers)
        self.route = route
        self.default = default
        for name in [*(values or {}), *([] if default is None else [default])]:
            if name not in self.member_names:
                raise unknown_name_error("teacher of the route", name, self.member_names)
        if not isinstance(route, str) and not callable(route):
            raise ArgumentError(f"route is a column or a function of the batch; got {route!r}.", argument="route")
        if not isinstance(route, str) and values is not None:
            raise ArgumentError("values belong to a column, and route is a function.", argument="values")
        self.values = self._values_of(values) if isinstance(route, str) else {}

    def _values_of(self, values: Mapping[str, Any] | None) -> dict[Any, int]:
        """The number of the teacher of each value of the column."""
        numbers: dict[Any, int] = {}
        for number, name in enumerate(self.member_names):
            own = name if values is None and name != self.default else (values or {}).get(name, [])
            for value in own if isinstance(own, (list, tuple, set, range)) else [own]:
                if value is None or not isinstance(value, Hashable):
                    raise LimbeckError(
                        f"The route of the teacher {name} is a text, a number or a list of these; got {value!r}."
                    )
                if value in numbers:
                    first = self.member_names[numbers[value]]
                    raise LimbeckError(f"The teachers {first} and {name} have the same route, {value!r}; choose one.")
                numbers[value] = number
            if not isinstance(own, (str, bytes)) and own == [] and name != self.default:
                raise LimbeckError(
                    f"The teacher {name} has no route: give it a value of {self.route!r}, or leave it out."
                )
        return numbers

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open all teachers, after a look at the whole column where the examples have it in memory."""
        examples = None if context.loader is None else context.loader.examples
        if isinstance(self.route, str) and isinstance(examples, _HasColumns):
            column = examples.extra_column(self.route)
            if column is not None:
                self.find_numbers(Batch(column, extra={self.route: column}, labels=_labels_in(self.route, column)))
                self._note_typing_errors(_to_values(column))
        return _RoutedSession(self, self.open_all(context))

    def find_numbers(self, batch: Batch) -> Int[Tensor, " batch"]:
        """The number of each example's teacher, in the order of the teachers.

        Raises:
            LimbeckError: If an example has no teacher, or the batch has no such column.
        """
        if isinstance(self.route, str):
            values = _to_values(self._read_column(batch))
            numbers = [self.values.get(value, -1) for value in values]
        else:
            values = _to_values(self.route(batch))
            numbers = [self._number_of(value) for value in values]
        if len(numbers) != batch.size:
            raise LimbeckError(f"The route has {len(numbers)} values for a batch of {batch.size} examples.")
        if self.default is not None:
            other = self.member_names.index(self.default)
            numbers = [other if number < 0 else number for number in numbers]
        if -1 in numbers:
            raise self._no_teacher(values[numbers.index(-1)])
        return torch.tensor(numbers, dtype=torch.int64)

    def _note_typing_errors(self, values: Sequence[Any]) -> None:
        """Warn of a route that no example has, if examples of the default have nearly the same value."""
        present = {value for value in values if isinstance(value, str)}
        for value in [value for value in self.values if isinstance(value, str) and value not in present]:
            near = nearest(value, present - set(self.values))
            if near:
                warnings.warn(
                    f"No example has the route {self.route}={value!r} ({self.member_names[self.values[value]]}), and "
                    f"examples with {near!r} are taught by {self.default}. Did you mean {near!r}?",
                    LimbeckWarning,
                    stacklevel=2,
                )

    def _read_column(self, batch: Batch) -> Any:
        name = str(self.route)
        if name in batch.extra:
            return batch.extra[name]
        if name == LABELS_COLUMN and batch.labels is not None:
            return batch.labels
        near = nearest(name, batch.extra)
        hint = f" Did you mean {near!r}?" if near else ""
        raise LimbeckError(
            f"The batches have no column {name!r} to route by.{hint} They have: {', '.join(batch.extra) or 'none'}. "
            f"Give it with the data: ArrayDataset(..., extra={{{name!r}: values}}), or an array {name}_train in an "
            ".npz."
        )

    def _number_of(self, value: Any) -> int:
        if value is None or (isinstance(value, int) and -1 <= value < len(self.member_names)):
            return -1 if value is None else value
        if value not in self.member_names:
            raise unknown_name_error("teacher of the route", str(value), self.member_names)
        return self.member_names.index(value)

    def _no_teacher(self, value: Any) -> LimbeckError:
        if not isinstance(self.route, str):
            return LimbeckError(f"The route gives no teacher to an example ({value!r}), and there is no default=.")
        routes = ", ".join(f"{one!r} ({self.member_names[number]})" for one, number in self.values.items())
        return LimbeckError(
            f"No teacher has the route {self.route}={value!r}, which examples have. Routes: {routes}. Give the value "
            "to a teacher, or name one for all other examples: default=NAME, in a job teachers.NAME.route=default."
        )

    @property
    def fingerprint(self) -> str:
        """The hash of the teachers' fingerprints and the route."""
        route = self.route if isinstance(self.route, str) else code_fingerprint(self.route)
        text = f"routed {route} {self.values} {self.default} {self.member_names}"
        return hashlib.sha256(f"{text} {[teacher.fingerprint for teacher in self.teachers]}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teachers by name, the route and the default."""
        named = zip(self.member_names, self.teachers, strict=True)
        return {
            "teacher": "RoutedTeacher",
            "route": self.route if isinstance(self.route, str) else get_function_name(self.route),
            "values": {str(value): self.member_names[number] for value, number in self.values.items()},
            "default": self.default,
            "members": {name: teacher.describe() for name, teacher in named},
        }


@final
class _RoutedSession(WrapperSession):
    def __init__(self, own: RoutedTeacher, sessions: Sequence[TeacherSession]) -> None:
        super().__init__(sessions)
        self._own = own

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        """The outputs of the first teacher; `_merge` puts the rows of several together."""
        return outputs[0]

    def _split(self, batch: Batch) -> list[tuple[int, Tensor]]:
        """The number of each teacher that is needed, and its rows; the first one for a batch without rows."""
        if not batch.size:
            return [(0, torch.arange(0))]
        numbers = self._own.find_numbers(batch)
        return [(int(number), (numbers == number).nonzero()[:, 0]) for number in numbers.unique()]

    def __call__(self, batch: Batch) -> Outputs:
        parts = self._split(batch)
        if len(parts) == 1:
            return self.sessions[parts[0][0]](batch)
        return self._merge([(number, rows, self.sessions[number](batch.rows(rows))) for number, rows in parts])

    def submit(self, batch: Batch) -> Future[Outputs]:
        parts = self._split(batch)
        if len(parts) == 1:
            return self.sessions[parts[0][0]].submit(batch)
        futures = [(number, rows, self.sessions[number].submit(batch.rows(rows))) for number, rows in parts]
        return LazyFuture(lambda: self._merge([(number, rows, future.result()) for number, rows, future in futures]))

    def _merge(self, parts: Sequence[tuple[int, Tensor, Outputs]]) -> Outputs:
        order = torch.cat([rows for _, rows, _ in parts]).argsort()
        merged = Outputs()
        for address in parts[0][2]:
            values = [outputs[address] for _, _, outputs in parts]
            shapes = {tuple(value.shape[1:]) for value in values}
            if len(shapes) > 1:
                names = [self._own.member_names[number] for number, _, _ in parts]
                listed = ", ".join(f"{name} {list(v.shape[1:])}" for name, v in zip(names, values, strict=True))
                raise LimbeckError(f"The teachers of a route have different shapes at {address!r}: {listed}.")
            dtype = values[0].dtype
            for value in values[1:]:
                dtype = torch.promote_types(dtype, value.dtype)
            joined = torch.cat([value.to(dtype) for value in values])
            merged[address] = joined[order.to(joined.device)]
        return merged


def _to_values(column: Any) -> list[Any]:
    """The values of a column as plain numbers, texts or None."""
    if isinstance(column, Tensor):
        if column.ndim != 1:
            raise LimbeckError(f"A route has one value for each example; got shape {list(column.shape)}.")
        return list(column.tolist())
    return [value.item() if hasattr(value, "item") else value for value in column]


def _labels_in(route: str, column: Any) -> Tensor | None:
    return column if route == LABELS_COLUMN and isinstance(column, Tensor) else None
