"""MTARD and B-MTARD: a clean teacher for clean inputs, a robust one for adversarial inputs, and a balance of both."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.data import ArrayDataset, Attack
from limbeck.data.adversarial_loader import ADVERSARIAL
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import kl_divergence, probabilities
from limbeck.losses import LossContext, LossTerm, all_reduce_sum
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count, check_share, check_weight, find_ensemble, read_teachers
from limbeck.models import build
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import Ensemble, RoutedTeacher, without_cache


def make_trial() -> tuple[nn.Module, Ensemble, ArrayDataset]:
    """Make a student, two teachers and inputs from 0 to 1, for the tests of the method."""
    draw = torch.Generator().manual_seed(0)
    data = ArrayDataset(torch.rand(48, 6, generator=draw), torch.randint(3, (48,), generator=draw))
    student, *teachers = (build("mlp", inputs=6, classes=3, hidden=[8, 8], dropout=0.1, seed=seed) for seed in range(3))
    return student, Ensemble(*(one.eval() for one in teachers), member_names=["first", "second"]), data


CARD = MethodCard(
    name="mtard",
    title="Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial Distillation",
    authors="Zhao, Wang and Wei",
    year=2023,
    arxiv="2306.16170",
    venue="IEEE Transactions on Pattern Analysis and Machine Intelligence, 2024",
    claim="A clean teacher guides the student on clean inputs and a robust teacher on adversarial ones. The weights of "
    "both losses, and in B-MTARD the temperatures of both teachers, are balanced while the student learns.",
    when="For a small student that must be accurate and hold against adversarial changes of its inputs, with two "
    "teachers: one trained on clean inputs, one trained against attacks. Each step costs `attack_steps` further passes "
    "of the student. `epsilon` is the largest change, as a fraction of the range of the inputs. With "
    "balance_entropy=True it is B-MTARD. Where paper and code differ: the code averages the divergences over classes "
    "too; here they are sums over classes and means over examples.",
    bibtex="""@article{zhao2024mitigating,
  title = {Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial Distillation},
  author = {Zhao, Shiji and Wang, Xizhe and Wei, Xingxing},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year = {2024},
  eprint = {2306.16170},
  archivePrefix = {arXiv}
}
@inproceedings{zhao2022enhanced,
  title = {Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation},
  author = {Zhao, Shiji and Yu, Jie and Sun, Zhenlong and Zhang, Bo and Wei, Xingxing},
  booktitle = {European Conference on Computer Vision},
  year = {2022}
}""",
    ranges={"weight_lr": SearchRange(0.0, 0.2), "clean_temperature": SearchRange(1.0, 10.0)},
    labels="required",
    needs="a clean and a robust teacher",
    example={"clean": "first", "robust": "second", "epsilon": 0.1, "attack_steps": 2},
    trials=(make_trial,),
    keywords=("b-mtard", "adversarial", "robust", "pgd"),
)

_COOLEST, _HOTTEST = 1.0, 10.0


def balance_weight(weight: float, clean: float, robust: float, *, rate: float, power: float = 1.0) -> float:
    r"""Take a step of the clean weight: :math:`w \leftarrow w - \eta (w - r_n^b / (r_n^b + r_a^b))`, within 0 and 1.

    Its fixed point is the clean share of the relative losses, so the slower of both gets the larger weight.

    Args:
        weight: w, the weight of the clean loss; that of the robust loss is 1 - w.
        clean: :math:`r_n`, the clean loss as a fraction of its first value.
        robust: :math:`r_a`, the same of the robust loss.
        rate: eta.
        power: b.

    Example:
        >>> balance_weight(0.5, 0.9, 0.3, rate=1.0), balance_weight(0.5, 0.4, 0.4, rate=0.1)
        (0.75, 0.5)
    """
    total = clean**power + robust**power
    aim = clean**power / total if total > 0 else 0.5
    return min(max(weight - rate * (weight - aim), 0.0), 1.0)


def balance_temperatures(
    temperatures: tuple[float, float], entropies: tuple[float, float], *, rate: float
) -> tuple[float, float]:
    r"""Take a step of both temperatures that brings the entropies of the teachers nearer to each other.

    :math:`T_n \leftarrow T_n - r\, \mathrm{sign}(H_n / H_a - 1)` and
    :math:`T_a \leftarrow T_a - r\, \mathrm{sign}(H_a / H_n - 1)`, each within 1 and 10: the teacher with the
    higher entropy is cooled, the other one is heated.

    Args:
        temperatures: Of the clean and the robust teacher.
        entropies: Their mean entropies at these temperatures, in nats.
        rate: r.

    Example:
        >>> balance_temperatures((2.0, 2.0), (0.5, 1.5), rate=0.25)
        (2.25, 1.75)
    """
    difference = entropies[0] - entropies[1]
    sign = float((difference > 0) - (difference < 0))
    clean, robust = temperatures[0] - rate * sign, temperatures[1] + rate * sign
    return min(max(clean, _COOLEST), _HOTTEST), min(max(robust, _COOLEST), _HOTTEST)


class BalancedDivergences(LossTerm):
    """The loss of `mtard`, one value for each example, and the update of its balance after a step.

    Its buffers are the clean weight, the first value of both losses, and the temperatures of both teachers.
    """

    name, per = "mtard", "example"
    clean_weight: Tensor
    first: Tensor
    teacher_temperatures: Tensor

    def __init__(
        self,
        *,
        weight_lr: float,
        power: float,
        start: tuple[float, float],
        temperature_lr: float,
        balance_entropy: bool,
    ) -> None:
        super().__init__()
        self.weight_lr, self.power, self.start, self.temperature_lr = weight_lr, power, start, temperature_lr
        self.balance_entropy = balance_entropy
        self.register_buffer("clean_weight", torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("first", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("teacher_temperatures", torch.tensor(start, dtype=torch.float64))
        self._sums = [0.0] * 6

    @property
    def requires(self) -> Requirements:
        """The logits of both models, of which each row has its own teacher."""
        return Requirements(frozenset({LOGITS}), frozenset({LOGITS}), frozenset({"labels"}))

    @property
    def teacher_weights(self) -> dict[str, float]:
        """The weights of the present step, of the teacher of clean inputs and of the robust one."""
        return {"clean": float(self.clean_weight), "robust": 1 - float(self.clean_weight)}

    def setup(self, context: LossContext) -> BalancedDivergences:
        """The loss for one stage, balanced anew."""
        if ADVERSARIAL not in context.batch.extra:
            raise LimbeckError("mtard learns from adversarial batches: Stage(loader=Attack(epsilon=...)).")
        fitted = copy.copy(self)
        fitted._sums = [0.0] * 6
        for name in ("clean_weight", "first", "teacher_temperatures"):
            fitted.register_buffer(name, self.get_buffer(name).clone())
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The weighted sum over the rows of both kinds, each divided by the share of its kind."""
        clean, robust, _ = self._values(student, teacher, batch)
        weight = float(self.clean_weight)
        # Half of the rows are of each kind, so a mean over all rows has both means with a factor of 1/2.
        return Term(2 * (weight * clean.sum() + (1 - weight) * robust.sum()), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of rows that count, of both kinds."""
        return float(batch.valid.sum())

    def _values(
        self, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[Float[Tensor, " clean"], Float[Tensor, " adversarial"], list[float]]:
        """The divergences of the clean and of the adversarial rows, and the sums of the teachers' entropies."""
        adversarial: Bool[Tensor, " batch"] = batch.extra[ADVERSARIAL].to(student[LOGITS].device)
        values, entropies = [], []
        for kind, temperature in zip((~adversarial, adversarial), self.teacher_temperatures.tolist(), strict=True):
            rows = kind & batch.valid.to(kind.device)
            target = teacher[LOGITS][rows] / temperature
            values.append(kl_divergence(student[LOGITS][rows], target))
            entropies.append(float(torch.special.entr(probabilities(target.detach()).double()).sum()))
        return values[0], values[1], entropies

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Add up the losses and entropies of the step."""
        clean, robust, entropies = self._values(student, teacher, batch)
        own = [float(clean.sum()), float(robust.sum()), *entropies, float(len(clean)), float(len(robust))]
        self._sums = [a + b for a, b in zip(self._sums, own, strict=True)]

    def end_step(self, batches: Any, progress: Progress) -> None:
        """Take a step of the weight and of the temperatures."""
        clean, robust, clean_entropy, robust_entropy, n, m = (all_reduce_sum(value) for value in self._sums)
        self._sums = [0.0] * 6
        if not n or not m:
            return
        losses = torch.tensor([clean / n, robust / m], dtype=torch.float64)
        if not bool(losses.isfinite().all()):  # a step of mixed precision that overflows; NaN would stay
            return
        if not bool(self.first.any()):
            self.first.copy_(losses)
        ratios = (losses / self.first.cpu().clamp_min(1e-12)).tolist()
        self.clean_weight.fill_(
            balance_weight(float(self.clean_weight), *ratios, rate=self.weight_lr, power=self.power)
        )
        if self.balance_entropy:
            before = self.teacher_temperatures.tolist()
            after = balance_temperatures(
                (before[0], before[1]), (clean_entropy / n, robust_entropy / m), rate=self.temperature_lr
            )
            self.teacher_temperatures.copy_(torch.tensor(after, dtype=torch.float64))

    def __repr__(self) -> str:
        names = ("weight_lr", "power", "start", "temperature_lr", "balance_entropy")
        return f"BalancedDivergences({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


@validates_arguments
def mtard(
    teacher: Any,
    *,
    clean: str,
    robust: str,
    epsilon: float = 8 / 255,
    attack_steps: int = 10,
    step_size: float | None = None,
    start: float = 0.001,
    low: float | None = None,
    high: float | None = None,
    weight_lr: float = 0.025,
    power: float = 1.0,
    clean_temperature: float = 1.0,
    robust_temperature: float = 1.0,
    balance_entropy: bool = False,
    temperature_lr: float = 0.001,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn clean inputs from a clean teacher, adversarial ones from a robust teacher: :math:`w_n l_n + w_a l_a`.

    :math:`l_n = KL(p_n(x; T_n) \| q(x))` and :math:`l_a = KL(p_a(x'; T_a) \| q(x'))` in nats, where x' raises the
    student's loss of the label (`limbeck.data.Attack`). No label is in the loss itself. After each step the weights,
    which sum to 1, move to the shares of the relative losses (`balance_weight`), and with `balance_entropy` the
    temperatures of the teachers move until their entropies are equal (`balance_temperatures`).

    Args:
        teacher: An `Ensemble` with names (``teachers:`` in a job), a mapping from names to teachers, or a list.
        clean: The name of the teacher of clean inputs.
        robust: The name of the teacher of adversarial inputs. It may be the same one.
        epsilon: The largest change of an input, as a fraction of its range; 8/255 in the paper.
        attack_steps: The number of steps of the attack.
        step_size: The length of a step, likewise; by default a quarter of `epsilon`, as in the paper.
        start: The standard deviation of the noise with which an attack starts, likewise.
        low: The smallest value of an input; by default 0.
        high: The largest; by default 255 for bytes and 1 for other numbers.
        weight_lr: eta, the rate of the weights, from 0 to 1. At 0 they stay at one half.
        power: b, the power of the relative losses, above 0.
        clean_temperature: :math:`T_n` at the beginning, 1 to 10.
        robust_temperature: :math:`T_a` at the beginning, 1 to 10.
        balance_entropy: Whether the temperatures are balanced: B-MTARD.
        temperature_lr: The step of the temperatures, above 0.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If there is no teacher of a name, or an argument is out of range.

    Example:
        >>> from torch import nn
        >>> teachers = {"accurate": nn.Linear(4, 3), "robust": nn.Linear(4, 3)}
        >>> [stage.name for stage in mtard(teachers, clean="accurate", robust="robust").stages()]
        ['mtard']

    Source: Zhao, Wang and Wei, 2023, arXiv:2306.16170.
    """
    check_share(weight_lr=weight_lr)
    check_weight(power=power, temperature_lr=temperature_lr, start=start, epsilon=epsilon)
    check_count(attack_steps=attack_steps)
    for name, value in {"clean_temperature": clean_temperature, "robust_temperature": robust_temperature}.items():
        if not _COOLEST <= value <= _HOTTEST:
            raise ArgumentError(f"{name} is a number from 1 to 10; got {value!r}.", argument=name)
    if power == 0 or (balance_entropy and temperature_lr == 0):
        name = "power" if power == 0 else "temperature_lr"
        raise ArgumentError(f"{name} is above 0; got 0.", argument=name)
    attack = Attack(epsilon, step_size=step_size, steps=attack_steps, start=start, low=low, high=high)
    source, names = read_teachers(teacher, "mtard", least=1)
    live = map(without_cache, find_ensemble(source).members)  # no cache has outputs for adversarial inputs
    members: Mapping[str, Any] = dict(zip(names, live, strict=True))
    for argument, name in {"clean": clean, "robust": robust}.items():
        if name not in members:
            raise unknown_name_error("teacher", name, members, argument=argument)
    # Under names of their own, because one teacher may have both parts.
    routed = RoutedTeacher(
        {"clean": members[clean], "robust": members[robust]}, ADVERSARIAL, values={"clean": False, "robust": True}
    )
    loss = BalancedDivergences(
        weight_lr=weight_lr, power=power, start=(clean_temperature, robust_temperature),
        temperature_lr=temperature_lr, balance_entropy=balance_entropy,
    )  # fmt: skip
    return Recipe(Stage(loss, teacher=routed, loader=attack, epochs=epochs, name="mtard"))
