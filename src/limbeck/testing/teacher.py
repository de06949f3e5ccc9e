"""`check_teacher`: checks the laws of teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Inputs, Outputs
from limbeck.errors import MissingOutputError
from limbeck.teachers import Teacher, TeacherContext, TeacherSession
from limbeck.testing.law import check_laws, require, require_close, require_plain, rows, same_weights, traces, weights

_OF = "teachers"


def check_teacher(
    teacher: Teacher,
    batch: Batch,
    *,
    models: Mapping[str, nn.Module] | None = None,
    requires: frozenset[str] = frozenset({LOGITS}),
    preprocess: Callable[[Batch], Inputs] = lambda batch: batch.inputs,
) -> None:
    """Check a teacher against all laws of teachers.

    The laws:

    * `open` refuses an address that it does not have.
    * It returns all required outputs, one row per example, without gradients unless it declares them.
    * `submit` gives the same outputs as a call.
    * In eval mode the outputs are repeatable, and do not depend on the other examples of a batch.
    * It leaves no hooks, flags or keys in any model.
    * Its fingerprint does not change.
    * If it changes in training, its state restores its outputs. If not, it has no state.
    * It describes itself.

    Args:
        teacher: The teacher.
        batch: Any batch of at least two examples whose inputs are a tensor.
        models: The models of the run, for a teacher that refers to one of them.
        requires: The addresses of the outputs.
        preprocess: Maps the batch to inputs, for a teacher that declares no preprocessing.

    Raises:
        LawError: If laws are broken; the message lists them.

    Example:
        >>> from limbeck.teachers import ModelTeacher
        >>> check_teacher(ModelTeacher(nn.Linear(2, 3)), Batch(torch.randn(6, 2)))
    """
    named_models = dict(models or {})
    context = TeacherContext(requires=requires, preprocess=preprocess, models=named_models)
    resolved, is_random = teacher.resolve(named_models), teacher.describe().get("mode", "eval") != "eval"
    modules = [*named_models.values(), *(value for value in vars(teacher).values() if isinstance(value, nn.Module))]
    before, states, mark = traces(modules), [weights(module) for module in modules], resolved.fingerprint

    def outputs() -> None:
        """It returns all required outputs."""
        with teacher.open(context) as session:
            _check_answer(session(batch), batch, requires, gradients=teacher.capabilities.gradients)

    def repeats() -> None:
        """Its outputs are repeatable."""
        with teacher.open(context) as session:
            _check_repeats(session, batch, requires)

    def no_traces() -> None:
        require(traces(modules) == before, "it leaves hooks, flags or keys in a model", of=_OF)

    def models_unchanged() -> None:
        changed = not all(map(same_weights, map(weights, modules), states))
        require(not changed, "computing outputs changes the weights or buffers of a model", of=_OF)

    def same_fingerprint() -> None:
        require(resolved.fingerprint == mark, "its fingerprint changes when outputs are computed", of=_OF)

    laws: list[Callable[[], None]] = [partial(_check_refusal, teacher, context), outputs]
    laws += [no_traces] if is_random else [repeats, no_traces, models_unchanged, same_fingerprint]
    laws.append(partial(_check_state, teacher, batch, context, is_random=is_random))
    check_laws([*laws, partial(require_plain, teacher.describe(), of=_OF)], of=_OF)


def _check_refusal(teacher: Teacher, context: TeacherContext) -> None:
    """It refuses an address that it does not have."""
    try:
        teacher.open(replace(context, requires=frozenset({"no such address"})))
    except MissingOutputError:
        return
    require(False, "open() accepts an address that it does not have; raise MissingOutputError there", of=_OF)


def _check_answer(outputs: Outputs, batch: Batch, requires: frozenset[str], *, gradients: bool) -> None:
    for address in requires:
        require(address in outputs or address in outputs.partial, f"it does not return {address!r}", of=_OF)
        for tensor in _tensors_at(outputs, address):
            require(len(tensor) == batch.size, f"{address!r} has {len(tensor)} rows for {batch.size} examples", of=_OF)
            allowed = gradients or not tensor.requires_grad
            require(allowed, f"{address!r} requires a gradient; compute it under torch.no_grad()", of=_OF)
            require(not bool(tensor.isnan().any()), f"{address!r} contains NaN", of=_OF)


def _tensors_at(outputs: Outputs, address: str) -> tuple[Tensor, ...]:
    """The tensors of an output: one, or those of a partial output."""
    partial = outputs.partial.get(address)
    return (outputs[address],) if partial is None else partial.tensors


def _check_repeats(session: TeacherSession, batch: Batch, requires: frozenset[str]) -> None:
    once, twice, submitted = session(batch), session(batch), session.submit(batch).result()
    part = session(rows(batch, slice(max(batch.size // 2, 1))))
    for address in requires:
        for first, second, future, alone in zip(
            *(_tensors_at(outputs, address) for outputs in (once, twice, submitted, part)), strict=True
        ):
            require(torch.equal(first, second), f"{address!r} differs in a second call", of=_OF)
            require(torch.equal(first, future), f"{address!r} differs between submit() and a call", of=_OF)
            broken = f"{address!r} of an example depends on the other examples of the batch"
            require_close(alone, first[: len(alone)], broken, of=_OF, tolerance=1e-4)


def _check_state(teacher: Teacher, batch: Batch, context: TeacherContext, *, is_random: bool) -> None:
    """Its state restores its outputs."""
    with teacher.open(context) as session:
        if not teacher.capabilities.changes:
            require(not session.state_dict(), "it has a state and declares that it does not change", of=_OF)
            return
        state, before = _copied(session.state_dict()), session(batch)
        session.after_step()
        session.load_state_dict(state)
        require(_same_values(state, session.state_dict()), "loading its state does not restore its state", of=_OF)
        for address in () if is_random else context.requires:
            same = all(map(torch.equal, _tensors_at(before, address), _tensors_at(session(batch), address)))
            require(same, "loading its state does not restore its outputs", of=_OF)


def _same_values(one: Any, other: Any) -> bool:
    """Whether two nested states are equal."""
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and [*one] == [*other] and all(_same_values(one[k], other[k]) for k in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return value
