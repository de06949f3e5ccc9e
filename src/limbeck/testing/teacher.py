"""`check_teacher`: checks the laws of teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Inputs, Outputs
from limbeck.errors import MissingOutputError
from limbeck.teachers import Teacher
from limbeck.testing.law import require, require_close, require_plain, rows, same_weights, traces, weights

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

    * `prepare` refuses an address that it does not have.
    * It returns all required outputs, one row per example, without gradients.
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
        AssertionError: If a law is broken; the message names it.

    Example:
        >>> from limbeck.teachers import ModelTeacher
        >>> check_teacher(ModelTeacher(nn.Linear(2, 3)), Batch(torch.randn(6, 2)))
    """
    named_models = dict(models or {})
    teacher.bind(named_models)
    seen = [*named_models.values(), *(value for value in vars(teacher).values() if isinstance(value, nn.Module))]
    before, states, mark = traces(seen), [weights(module) for module in seen], teacher.fingerprint
    _check_refusal(teacher, preprocess)
    with teacher.prepare(requires, device=torch.device("cpu"), preprocess=preprocess) as answer:
        _check_answer(answer(batch), batch, requires)
        if teacher.describe().get("mode", "eval") == "eval":
            _check_repeats(answer, batch, requires)
    require(traces(seen) == before, "it leaves hooks, flags or keys in a model", of=_OF)
    if teacher.describe().get("mode", "eval") == "eval":
        changed = not all(map(same_weights, map(weights, seen), states))
        require(not changed, "computing outputs changes the weights or buffers of a model", of=_OF)
        require(teacher.fingerprint == mark, "its fingerprint changes when outputs are computed", of=_OF)
    _check_state(teacher, batch, requires, preprocess)
    require_plain(teacher.describe(), of=_OF)


def _check_refusal(teacher: Teacher, preprocess: Callable[[Batch], Inputs]) -> None:
    try:
        teacher.prepare(frozenset({"no such address"}), device=torch.device("cpu"), preprocess=preprocess)
    except MissingOutputError:
        return
    require(False, "prepare() accepts an address that it does not have; raise MissingOutputError there", of=_OF)


def _check_answer(outputs: Outputs, batch: Batch, requires: frozenset[str]) -> None:
    for address in requires:
        require(address in outputs or address in outputs.partial, f"it does not return {address!r}", of=_OF)
        for tensor in _tensors_at(outputs, address):
            require(len(tensor) == batch.size, f"{address!r} has {len(tensor)} rows for {batch.size} examples", of=_OF)
            require(
                not tensor.requires_grad, f"{address!r} requires a gradient; compute it under torch.no_grad()", of=_OF
            )
            require(not bool(tensor.isnan().any()), f"{address!r} contains NaN", of=_OF)


def _tensors_at(outputs: Outputs, address: str) -> tuple[Tensor, ...]:
    """The tensors of an output: one, or those of a partial output."""
    partial = outputs.partial.get(address)
    return (outputs[address],) if partial is None else partial.tensors


def _check_repeats(answer: Callable[[Batch], Outputs], batch: Batch, requires: frozenset[str]) -> None:
    once, twice = answer(batch), answer(batch)
    part = answer(rows(batch, slice(max(batch.size // 2, 1))))
    for address in requires:
        for first, second, alone in zip(
            *(_tensors_at(outputs, address) for outputs in (once, twice, part)), strict=True
        ):
            require(torch.equal(first, second), f"{address!r} differs in a second call", of=_OF)
            broken = f"{address!r} of an example depends on the other examples of the batch"
            require_close(alone, first[: len(alone)], broken, of=_OF, tolerance=1e-4)


def _check_state(
    teacher: Teacher, batch: Batch, requires: frozenset[str], preprocess: Callable[[Batch], Inputs]
) -> None:
    if not teacher.changes:
        require(not teacher.state_dict(), "it has a state and declares that it does not change", of=_OF)
        return
    state, mark = _copied(teacher.state_dict()), teacher.fingerprint
    teacher.after_step()
    teacher.load_state_dict(state)
    require(teacher.fingerprint == mark, "loading its state does not restore its outputs", of=_OF)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return value
