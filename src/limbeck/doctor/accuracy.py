"""Does the teacher know more than chance, and does it count the classes as the data do?"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.patient import Patient
from limbeck.measure.once import chosen
from limbeck.measure.renaming import is_misordered, renamed_accuracy, renaming_said
from limbeck.signal import IGNORED, LOGITS
from limbeck.sources import Shuffled
from limbeck.teachers.guessing import chance_of, most_frequent_share

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
    accuracy, most = float((said == known).double().mean()), most_frequent_share(known)
    chance = chance_of(patient.classes, len(known), most_frequent=most)
    shown = f"{100 * accuracy:.1f} %"
    beside = f"on {len(known):,} development examples; chance gives {100 * chance.share:.1f} %, "
    beside += f"always answering the most frequent class {100 * most:.1f} %."
    renamed, order = renamed_accuracy(said, known, patient.classes)
    if is_misordered(accuracy, renamed, known, chance.reach):
        return wrong(
            NAME, accuracy,
            f"{shown} {beside} With its classes in another order it would be {100 * renamed:.1f} %: its label order is "
            f"not that of the data ({renaming_said(order, patient.class_names)}).", shown,
        )  # fmt: skip
    if accuracy <= chance.reach and accuracy < 1.0:
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
