"""Are the answers that are stored those that the teacher would give now?"""

from __future__ import annotations

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.patient import Patient
from limbeck.errors import LimbeckError
from limbeck.sources import Shuffled
from limbeck.store import Store, is_store
from limbeck.teachers import Cached, recheck

NAME = "stored answers"
_SAMPLE = 128


def check(patient: Patient) -> Finding | None:
    """Some answers, drawn at random, beside the live teacher's; None for a job that stores none."""
    if patient.stored is None:
        return None
    cached, source = patient.stored
    if not is_store(cached.where):
        return ok(NAME, None, f"There is no store at {cached.where} yet: the job makes it.")
    if not patient.trained:
        return look(
            NAME, None, f"There is a store at {cached.where}, and the teacher whose it may be has yet to learn."
        )
    try:
        cached.expect(source, patient.reads)  # refuses one that was made for something else
        lacking = _lacking(cached, patient)
        if lacking:
            return look(
                NAME, lacking,
                f"{lacking:,} answers are not in {cached.where} yet, so none was compared: `limbeck cache build` asks "
                "for them, or the job does as it goes.", f"{lacking:,} lacking",
            )  # fmt: skip
        return _compared(cached, source, patient)
    except LimbeckError as error:
        return wrong(NAME, None, str(error))


def _compared(cached: Cached, source: Shuffled, patient: Patient) -> Finding:
    with patient.fabric.autocast():
        again = recheck(
            cached, source, reads=patient.reads, sample=_SAMPLE, views=range(patient.views), device=patient.device
        )
    shown = f"{100 * again.identical:.0f} % identical"
    if not again.same:
        return wrong(
            NAME, again.identical,
            f"Of {again.answers} answers {shown} ({again.how_far}): teacher, device or a library are other ones than "
            f"when they were stored. Delete {cached.where} and build it again.", shown,
        )  # fmt: skip
    return ok(NAME, again.identical, f"{again.answers} of them were asked again: {again.how_far}.", shown)


def _lacking(cached: Cached, patient: Patient) -> int:
    store, ids = Store(cached.where), patient.train.ids.numpy()
    views = range(patient.views) if store.manifest.origin.views is not None else (-1,)
    return sum(int((store.rows(ids, view) < 0).sum()) for view in views)
