"""`check_teacher`: laws of teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Inputs, Outputs
from limbeck.errors import MissingSignalError
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
    """Check a teacher against every law that applies to it.

    The laws: it refuses an address that it does not have before it is asked anything; it answers with every address
    that was asked for, one row for each example, without a gradient; in eval mode it answers the same twice, and for a
    part of a batch as for the whole; it leaves no trace in any model; its fingerprint stays; if it changes, its state
    brings its answers back, and if not, it has none; it describes itself.

    Args:
        teacher: The teacher.
        batch: Any batch of at least two examples whose inputs are a tensor.
        models: The models of the run, for a teacher that speaks for one of them.
        requires: What to ask it for.
        preprocess: The way from the batch to inputs, for a teacher that declares none.

    Raises:
        AssertionError: With a sentence that says which law is broken.

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
        require(not changed, "answering changes a model's weights or buffers", of=_OF)
        require(teacher.fingerprint == mark, "its fingerprint changes by answering", of=_OF)
    _check_state(teacher, batch, requires, preprocess)
    require_plain(teacher.describe(), of=_OF)


def _check_refusal(teacher: Teacher, preprocess: Callable[[Batch], Inputs]) -> None:
    try:
        teacher.prepare(frozenset({"no such address"}), device=torch.device("cpu"), preprocess=preprocess)
    except MissingSignalError:
        return
    require(False, "prepare() accepts an address that it cannot give; raise MissingSignalError there", of=_OF)


def _check_answer(signal: Outputs, batch: Batch, requires: frozenset[str]) -> None:
    for address in requires:
        require(address in signal or address in signal.partial, f"it does not answer with {address!r}", of=_OF)
        for tensor in _tensors_at(signal, address):
            require(len(tensor) == batch.size, f"{address!r} has {len(tensor)} rows for {batch.size} examples", of=_OF)
            require(not tensor.requires_grad, f"{address!r} carries a gradient; answer under torch.no_grad()", of=_OF)
            require(not bool(tensor.isnan().any()), f"{address!r} holds NaN", of=_OF)


def _tensors_at(signal: Outputs, address: str) -> tuple[Tensor, ...]:
    """The tensors of an answer: one, or those of a part of it."""
    partial = signal.partial.get(address)
    return (signal[address],) if partial is None else partial.tensors


def _check_repeats(answer: Callable[[Batch], Outputs], batch: Batch, requires: frozenset[str]) -> None:
    once, twice = answer(batch), answer(batch)
    part = answer(rows(batch, slice(max(batch.size // 2, 1))))
    for address in requires:
        for first, second, alone in zip(
            *(_tensors_at(outputs, address) for outputs in (once, twice, part)), strict=True
        ):
            require(torch.equal(first, second), f"{address!r} is not the same when asked twice", of=_OF)
            broken = f"{address!r} of an example depends on the other examples of the batch"
            require_close(alone, first[: len(alone)], broken, of=_OF, tolerance=1e-4)


def _check_state(
    teacher: Teacher, batch: Batch, requires: frozenset[str], preprocess: Callable[[Batch], Inputs]
) -> None:
    if not teacher.changes:
        require(not teacher.state_dict(), "it has a state and says that it does not change", of=_OF)
        return
    state, mark = _copied(teacher.state_dict()), teacher.fingerprint
    teacher.after_step()
    teacher.load_state_dict(state)
    require(teacher.fingerprint == mark, "loading its state does not bring it back", of=_OF)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return value
