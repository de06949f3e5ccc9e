"""Does the teacher know more than chance, and does it count the classes as the data do?"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.patient import Patient
from limbeck.measure.once import chosen
from limbeck.signal import IGNORED, LOGITS
from limbeck.sources import Shuffled
from limbeck.teachers.guessing import chance_of

NAME = "teacher's accuracy"
_SECONDS, _EXAMPLES, _SIZE = 20.0, 2000, 100


def check(patient: Patient) -> Finding:
    """The teacher on development data beside chance; if it is poor, whether renaming the classes would mend it."""
    if not patient.trained:
        return look(
            NAME,
            None,
            "Not known: the job trains its teacher first, and refuses it if it then is no better than chance.",
        )
    labels = patient.development.labels
    if labels is None or labels.ndim != 1 or not bool((labels != IGNORED).any()):
        return look(NAME, None, "Not known: no development example has one label.")
    said, known = _asked(patient)
    accuracy, chance = float((said == known).double().mean()), chance_of(patient.classes, len(known))
    shown = f"{100 * accuracy:.1f} %"
    beside = f"on {len(known):,} development examples; chance gives {100 * chance.share:.1f} %."
    renamed, order = _renamed(said, known, patient.classes)
    # Who always says one class is as right as that class is common, by whatever name.
    commonest = float(known.bincount().max()) / len(known)
    if accuracy < 0.5 * renamed and renamed > max(chance.reach, commonest) + 0.1:
        return wrong(
            NAME, accuracy,
            f"{shown} {beside} With its classes in another order it would be {100 * renamed:.1f} %: its label order is "
            f"not that of the data ({_said(order, patient.class_names)}).", shown,
        )  # fmt: skip
    if accuracy <= chance.reach:
        return wrong(
            NAME, accuracy, f"{shown} {beside} Was it trained with another input normalisation or other labels?", shown
        )
    return ok(NAME, accuracy, f"Right {beside}", shown)


def _asked(patient: Patient) -> tuple[Tensor, Tensor]:
    """What the teacher says and what is true, for as many examples as there is time for."""
    count = min(_EXAMPLES, len(patient.development))
    part = Shuffled(patient.development, batch_size=_SIZE, shuffle=True)
    said, known = list[Tensor](), list[Tensor]()
    until = time.perf_counter() + _SECONDS
    prepared = patient.teacher.prepare(frozenset({LOGITS}), device=patient.device, reads=patient.reads)
    with torch.no_grad(), prepared as answer, patient.fabric.autocast():
        for batch in part.batches(0, 0):
            if sum(map(len, said)) >= count or (said and time.perf_counter() > until) or batch.labels is None:
                break
            said.append(chosen(answer(batch.to(patient.device))[LOGITS]).cpu())
            known.append(batch.labels)
    guesses, labels = torch.cat(said), torch.cat(known)
    return guesses[labels != IGNORED], labels[labels != IGNORED]


def _renamed(said: Tensor, known: Tensor, classes: int) -> tuple[float, list[int]]:
    """The accuracy under another naming of the teacher's classes, and that naming, theirs -> ours.

    The accuracy is that of a naming found on one half of the examples, on the other half: of many classes, the best
    naming of a few answers fits them by luck.
    """
    halves = [(said[part::2], known[part::2]) for part in (0, 1)]
    right = 0
    for (theirs, ours), (asked, truth) in zip(halves, reversed(halves), strict=True):
        there = asked >= 0
        named = torch.tensor(_best_order(theirs, ours, classes))[asked[there]]
        right += int((named == truth[there]).sum())
    return right / max(len(said), 1), _best_order(said, known, classes)


def _best_order(said: Tensor, known: Tensor, classes: int) -> list[int]:
    """The naming of the teacher's classes under which most of its answers are right: theirs -> ours."""
    from scipy.optimize import linear_sum_assignment

    there = said >= 0
    met = torch.bincount((said * classes + known)[there], minlength=classes * classes).view(classes, classes)
    ours: list[int] = linear_sum_assignment(met.numpy(), maximize=True)[1].tolist()
    return ours


def _said(order: list[int], names: tuple[str, ...] | None) -> str:
    moved = [(theirs, ours) for theirs, ours in enumerate(order) if theirs != ours][:3]
    named = [str(names[ours]) if names else str(ours) for _, ours in moved]
    return ", ".join(f"its {theirs} is {name}" for (theirs, _), name in zip(moved, named, strict=True))
