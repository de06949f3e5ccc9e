"""Does each term have a say in the step, or does one drown the others?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.doctor.finding import Finding, look, ok
from limbeck.doctor.opened import Opened
from limbeck.objective import Loss
from limbeck.signal import LOGITS, Signal

NAME = "terms"
_LEAST = 0.01
_SURE = 0.9


def check(opened: Opened) -> Finding:
    """The norm of each term's weighted gradient at the parameters, as a share of their sum, halfway through the stage.

    A teacher that has learnt nothing yet is made sure of the labels first: between two that know nothing there is
    hardly a difference to learn from.
    """
    taught = opened.taught if opened.learnt else _learned(opened)
    norms = {name: float(gradient.norm()) for name, gradient in opened.gradients(taught).items()}
    whole = sum(norms.values())
    if not math.isfinite(whole) or whole == 0:
        return look(NAME, norms, "Not known: there is no finite gradient to share.")
    shares = {name: norm / whole for name, norm in norms.items()}
    shown = " : ".join(f"{100 * share:.3g}" for share in shares.values()) + " %"
    value = {name: {"norm": norms[name], "share": shares[name]} for name in norms}
    small = {name: share for name, share in shares.items() if share < _LEAST}
    if small:
        return look(NAME, value, _why(small, opened), shown, rank=1.0 - min(small.values()))
    said = ", ".join(f"{name} {norm:.2g}" for name, norm in norms.items())
    sentence = f"The norm of each term's gradient at the parameters: {said}.{_stand_in(opened)}"
    return ok(NAME, value, sentence, shown, rank=1.0 - min(shares.values()))


def _why(small: dict[str, float], opened: Opened) -> str:
    weights = {name: weigh(opened.progress) for name, (_, weigh) in opened.objective.named_leaves().items()}
    off = [name for name in small if weights[name] == 0]
    if len(off) == len(small):
        return f"The term {off[0]!r} has weight 0 here: it takes no part."
    name, share = min(((n, s) for n, s in small.items() if weights[n] != 0), key=lambda pair: pair[1])
    return (
        f"The term {name!r} is {100 * share:.2g} % of the gradient: it hardly has a say. Is it a mean over classes or "
        f"tokens too, or is its weight ({weights[name]:.3g}) or temperature too small?{_stand_in(opened)}"
    )


def _stand_in(opened: Opened) -> str:
    made = not opened.learnt and LOGITS in opened.taught
    return " The teacher has yet to learn: here it is 90 % sure of each label." if made else ""


def _learned(opened: Opened) -> Signal:
    """What the teacher might show once it has learnt: its answers, with the right class at 90 %."""
    if LOGITS not in opened.taught:
        return opened.taught
    logits = opened.taught[LOGITS].float()
    place = next((leaf.classes for leaf, _ in opened.objective.leaves() if isinstance(leaf, Loss)), -1)
    rows = logits.movedim(place, -1)
    targets = _targets(rows, opened.batch.labels)
    other = rows.scatter(-1, targets.unsqueeze(-1), -torch.inf).logsumexp(-1, keepdim=True)
    made = rows.scatter(-1, targets.unsqueeze(-1), other + math.log(_SURE / (1.0 - _SURE)))
    return Signal({**opened.taught, LOGITS: made.movedim(-1, place)})


def _targets(rows: Tensor, labels: Tensor | None) -> Tensor:
    guesses = rows.argmax(-1)
    if labels is None or labels.shape != guesses.shape:
        return guesses
    return torch.where((labels >= 0) & (labels < rows.shape[-1]), labels, guesses)
