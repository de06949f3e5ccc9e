"""A small memory bank as in CRD, and the variational bound of VID, for tests of the engine."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from limbeck.batch import Requirements, Term
from limbeck.functional import Projector
from limbeck.losses import LossTerm, RowIndex, all_gather

SIZE = 4


class Contrast(LossTerm):
    """Each student's embedding against the teacher's of all examples, from a bank that is updated after a step.

    Source: Tian et al., 2019, arXiv:1910.10699, with all other examples as negatives.
    """

    name, per = "contrast", "example"

    @property
    def requires(self) -> Requirements:
        return Requirements(frozenset({"0"}), frozenset({"0"}), frozenset({"id"}))

    def setup(self, context: Any) -> Contrast:
        fitted = copy.copy(self)
        fitted.rows = RowIndex(context.ids)
        fitted.student_side = nn.Linear(context.student["0"].shape[-1], SIZE, dtype=context.student["0"].dtype)
        fitted.teacher_side = nn.Linear(context.teacher["0"].shape[-1], SIZE, dtype=context.student["0"].dtype)
        fitted.register_buffer("bank", torch.zeros(len(context.ids), SIZE, dtype=context.student["0"].dtype))
        fitted.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        return fitted

    def term(self, student, teacher, batch, progress) -> Term:
        rows = self.rows(batch.id)
        mine = F.normalize(self.student_side(student["0"]), dim=1)
        own = F.normalize(self.teacher_side(teacher["0"]), dim=1)
        others = (mine @ self.bank.T).scatter(1, rows[:, None], -torch.inf)
        logits = torch.cat([(mine * own).sum(1, keepdim=True), others], 1) / 0.5
        zero = torch.zeros(len(rows), dtype=torch.int64)
        return Term((F.cross_entropy(logits, zero, reduction="none") * batch.valid).sum(), self.count(batch))

    def count(self, batch) -> float:
        return float(batch.valid.sum())

    def after_step(self, student, teacher, batch, progress) -> None:
        ids, features = all_gather(batch.id[batch.valid]), all_gather(teacher["0"][batch.valid])
        self.bank[self.rows(ids)] = F.normalize(self.teacher_side(features), dim=1)
        self.updates += 1


class Variational(LossTerm):
    """``log s + (t - m)^2 / (2 s^2)`` for each number of the teacher's features, with a learned mean and scale.

    Source: Ahn et al., Variational Information Distillation, 2019, arXiv:1904.05835.
    """

    name, per = "variational", "example"

    def __init__(self, lr: float | None = None) -> None:
        super().__init__()
        self.optimizer_options = {} if lr is None else {"lr": lr}

    @property
    def requires(self) -> Requirements:
        return Requirements(frozenset({"0"}), frozenset({"0"}))

    def setup(self, context: Any) -> Variational:
        fitted = type(self)()
        fitted.optimizer_options = self.optimizer_options
        fitted.mean = Projector()
        fitted.mean.shape(context.student["0"], context.teacher["0"])
        fitted.spread = nn.Parameter(torch.zeros_like(context.teacher["0"][0]))
        return fitted

    def term(self, student, teacher, batch, progress) -> Term:
        variance = F.softplus(self.spread)
        values = 0.5 * (variance.log() + (teacher["0"] - self.mean(student["0"])).square() / variance)
        return Term((values.sum(1) * batch.valid).sum(), self.count(batch))

    def count(self, batch) -> float:
        return float(batch.valid.sum())
