"""Checks of the teacher: accuracy, determinism, stored outputs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS
from limbeck.cache import Store, is_store
from limbeck.data import ShuffledLoader
from limbeck.doctor.context import CheckContext, draw_examples
from limbeck.doctor.finding import Finding, fail, passed, warn
from limbeck.errors import LimbeckError
from limbeck.metrics.class_order import is_misordered, misorder_message, renamed_accuracy
from limbeck.metrics.memoize import predicted_class
from limbeck.teachers import CachedTeacher, predict_padded, verify_cache
from limbeck.teachers.chance import compute_chance, most_frequent_share

ACCURACY = "teacher's accuracy"

_SECONDS, _EXAMPLES, _SIZE = 20.0, 2000, 100


def check_accuracy(patient: CheckContext) -> Finding:
    """The teacher on development data beside chance; if it is poor, whether renaming the classes would mend it."""
    if not patient.trained:
        return warn(
            ACCURACY,
            None,
            "Not known: the job trains its teacher first, and refuses it if it then is no better than chance.",
        )
    labels = patient.development.labels
    if labels is None or labels.ndim != 1 or not bool((labels != IGNORED).any()):
        return warn(ACCURACY, None, "Not known: no development example has one label.")
    said, known = _asked(patient)
    accuracy, most = float((said == known).double().mean()), most_frequent_share(known)
    chance = compute_chance(patient.classes, len(known), most_frequent=most)
    shown = f"{100 * accuracy:.1f} %"
    beside = f"on {len(known):,} development examples; chance gives {100 * chance.share:.1f} %, "
    beside += f"always answering the most frequent class {100 * most:.1f} %."
    renamed, order = renamed_accuracy(said, known, patient.classes)
    if is_misordered(accuracy, renamed, known, chance.reach):
        return fail(
            ACCURACY, accuracy,
            f"{shown} {beside} With its classes in another order it would be {100 * renamed:.1f} %: its label order is "
            f"not that of the data ({misorder_message(order, patient.class_names)}).", shown,
        )  # fmt: skip
    if accuracy <= chance.reach and accuracy < 1.0:
        return fail(
            ACCURACY,
            accuracy,
            f"{shown} {beside} Was it trained with another input normalization or other labels?",
            shown,
        )
    return passed(ACCURACY, accuracy, f"Right {beside}", shown)


def _asked(patient: CheckContext) -> tuple[Tensor, Tensor]:
    """What the teacher says and what is true, for as many examples as there is time for."""
    count = min(_EXAMPLES, len(patient.development))
    part = ShuffledLoader(patient.development, batch_size=_SIZE, shuffle=True)
    said, known = list[Tensor](), list[Tensor]()
    until = time.perf_counter() + _SECONDS
    prepared = patient.teacher.prepare(frozenset({LOGITS}), device=patient.device, preprocess=patient.preprocess)
    with torch.no_grad(), prepared as answer, patient.fabric.autocast():
        for batch in part.batches(0, 0):
            if sum(map(len, said)) >= count or (said and time.perf_counter() > until) or batch.labels is None:
                break
            said.append(predicted_class(answer(batch.to(patient.device))[LOGITS]).cpu())
            known.append(batch.labels)
    guesses, labels = torch.cat(said), torch.cat(known)
    return guesses[labels != IGNORED], labels[labels != IGNORED]


STEADY, UNTOUCHED = "teacher's answers", "teacher untouched"

_SIZE_STILLNESS = 64


def check_deterministic(patient: CheckContext) -> Finding:
    """Asked again about a part of the same examples, the teacher gives the same classes and nearly the same numbers."""
    batch = draw_examples(patient.train, _SIZE_STILLNESS).to(patient.device)
    prepared = patient.teacher.prepare(frozenset({LOGITS}), device=patient.device, preprocess=patient.preprocess)
    half = torch.arange(max(batch.size // 2, 1), device=patient.device)
    with torch.no_grad(), prepared as answer, patient.fabric.autocast():
        whole = answer(batch)[LOGITS][: len(half)].double()
        again = answer(batch.rows(half))[LOGITS].double()
        filled = predict_padded(answer, batch.rows(half), batch.size)[LOGITS].double()
    if nothing := int(whole.isnan().flatten(1).any(1).sum()):
        said = (
            f"The teacher answers with NaN for {nothing} of {len(whole)} examples: look at what it does in eval mode."
        )
        return fail(STEADY, None, said, f"{nothing} NaN")
    agreement = float((whole.argmax(-1) == again.argmax(-1)).double().mean())
    apart = max(_apart(whole, again), _apart(whole, filled))
    if apart > 0.01:
        return fail(
            STEADY, agreement,
            f"Asked twice about the same examples, beside others, the teacher gives other answers (up to "
            f"{100 * apart:.2g} % of their spread apart): it draws at random, or normalizes by the batch, also in eval "
            "mode.", f"{100 * agreement:.0f} % agree",
        )  # fmt: skip
    return passed(
        STEADY, agreement, "Asked twice about the same examples, it says the same.", f"{100 * agreement:.0f} %"
    )


def _apart(one: Tensor, other: Tensor) -> float:
    spread = float(one[one.isfinite()].std()) if one.isfinite().sum() > 1 else 1.0
    return float((one - other).nan_to_num(0.0).abs().max()) / max(spread, 1e-9)


def state_of(networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """The hash of every parameter and buffer of the networks, also of those that no file holds."""
    found = {}
    for name, network in networks.items():
        for kind, tensors in (("weight", network.named_parameters()), ("buffer", network.named_buffers())):
            for inner, tensor in tensors:
                flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found[f"{kind} {name}.{inner}"] = hashlib.sha256(flat.numpy().data).hexdigest()
    return found


def check_teacher_unchanged(patient: CheckContext, before: Mapping[str, str], students: list[nn.Module]) -> Finding:
    """After every arm was forward and back: the teacher got no gradient, nothing in it moved, and nothing is shared.

    Args:
        patient: What is looked at.
        before: The teacher's state when the doctor came.
        students: The models that learnt meanwhile.
    """
    inside = [parameter for network in patient.networks.values() for parameter in network.parameters()]
    learning = {p.untyped_storage().data_ptr() for student in students for p in student.parameters() if p.numel()}
    shared = [p for p in inside if p.numel() and p.untyped_storage().data_ptr() in learning]
    if shared:
        return fail(
            UNTOUCHED, len(shared),
            f"{len(shared)} parameters belong to teacher and student alike, so the teacher would learn too: build each "
            "with layers of its own.", f"{len(shared)} shared",
        )  # fmt: skip
    graded = sum(parameter.grad is not None for parameter in inside)
    if graded:
        return fail(UNTOUCHED, graded, f"{graded} parameters of the teacher got a gradient.", f"{graded} graded")
    after = state_of(patient.networks)
    moved = [name for name, value in after.items() if before.get(name) != value]
    if moved:
        said = ", ".join(moved[:3]) + (", ..." if len(moved) > 3 else "")
        return fail(
            UNTOUCHED, len(moved),
            f"Being asked changes the teacher: {said}. Its forward() must write nothing in eval mode, else its answers "
            "depend on who asked before.", f"{len(moved)} moved",
        )  # fmt: skip
    return passed(
        UNTOUCHED, 0, f"No gradient reaches its {len(inside)} parameters, and no weight or buffer of it moves.",
        "0 moved",
    )  # fmt: skip


STORED_OUTPUTS = "stored answers"

_SAMPLE = 128


def check_stored_outputs(patient: CheckContext) -> Finding | None:
    """Some answers, drawn at random, beside the live teacher's; None for a job that stores none."""
    if patient.stored is None:
        return None
    cached, loader = patient.stored
    if not is_store(cached.where):
        return passed(STORED_OUTPUTS, None, f"There is no store at {cached.where} yet: the job makes it.")
    if not patient.trained:
        return warn(
            STORED_OUTPUTS,
            None,
            f"There is a store at {cached.where}, and the teacher whose it may be has yet to learn.",
        )
    try:
        cached.attach_loader(loader, patient.preprocess)  # refuses one that was made for something else
        lacking = _lacking(cached, patient)
        if lacking:
            return warn(
                STORED_OUTPUTS, lacking,
                f"{lacking:,} answers are not in {cached.where} yet, so none was compared: `limbeck cache build` asks "
                "for them, or the job does as it goes.", f"{lacking:,} lacking",
            )  # fmt: skip
        return _compared(cached, loader, patient)
    except LimbeckError as error:
        return fail(STORED_OUTPUTS, None, str(error))


def _compared(cached: CachedTeacher, loader: ShuffledLoader, patient: CheckContext) -> Finding:
    with patient.fabric.autocast():
        again = verify_cache(
            cached,
            loader,
            preprocess=patient.preprocess,
            sample=_SAMPLE,
            views=range(patient.views),
            device=patient.device,
        )
    shown = f"{100 * again.identical:.0f} % identical"
    if not again.same:
        return fail(
            STORED_OUTPUTS, again.identical,
            f"Of {again.answers} outputs {shown} ({again.distance_text}): the teacher, the device or a library has "
            f"changed since they were stored. Delete {cached.where} and build it again.", shown,
        )  # fmt: skip
    return passed(
        STORED_OUTPUTS, again.identical, f"{again.answers} of them were computed again: {again.distance_text}.", shown
    )


def _lacking(cached: CachedTeacher, patient: CheckContext) -> int:
    store, ids = Store(cached.where), patient.train.ids.numpy()
    views = range(patient.views) if store.manifest.origin.views is not None else (-1,)
    return sum(int((store.rows(ids, view) < 0).sum()) for view in views)
