"""Stages whose losses are computed with the output layer, without the logits, beside the same stages with logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.language_stories import SGD, WIDTH, WORDS, Language, Tokens, assert_same, both, objective, train
from engine.memory_losses import Contrast
from engine.stories import everything, make_loader, network
from limbeck.batch import IGNORED, LOGITS, LOGITS_INPUT, Progress
from limbeck.data import ShuffledLoader
from limbeck.engine import TrainConfig, distill, fused_output_layer, open_stage
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import cross_entropy, jensen_shannon, kernel, kl_divergence, state_squared_error
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import CachedTeacher, Ensemble, MovingAverage, ShuffledTeacher, TeacherContext


@pytest.mark.parametrize("options", [{}, {"accumulate": 3, "batch_size": 2}, {"parameter_norms": True}], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_trap_16_the_weights_are_those_of_the_dense_run(tied, options):
    fused, dense, run, other = both(lambda: Language(tied=tied, bias=not tied), **options)
    assert not torch.equal(dense.embed.weight, Language(tied=tied).double().embed.weight)
    assert_same(fused, dense)
    for mine, its in zip(run.history, other.history, strict=True):
        assert mine.loss == pytest.approx(its.loss, rel=1e-9)
        assert mine.terms == pytest.approx(its.terms, rel=1e-9)
        assert mine.parameter_norms == pytest.approx(its.parameter_norms, rel=1e-9)
        assert mine.gradient_norms != pytest.approx(its.gradient_norms, rel=1e-3), "those are at the logits' input"


def test_logits_of_student_and_teacher_are_never_computed():
    student, teacher = Language(), Language(1, width=12)
    train(student, True, stage=Stage(objective(), teacher=teacher, steps=6))
    assert student.head.rows == 16, "8 positions, in train and in eval mode, to compare them"
    assert teacher.head.rows == 16


def test_gradient_norms_are_measured_at_the_input_of_the_output_layer():
    student, loader = Language().double(), ShuffledLoader(Tokens(), batch_size=12)
    stage = Stage(Loss(cross_entropy), steps=1)
    with open_stage(stage, {"student": student}, loader, TrainConfig(fuse_output_layer=True)) as trainer:
        batch = loader.peek()
        hidden = student.body(student.embed(batch.inputs["input_ids"]))[0].detach().requires_grad_()
        loss = cross_entropy(student.head(hidden), labels=batch.labels)[batch.mask].mean()
        wanted = torch.autograd.grad(loss, hidden)[0]
        trainer.step([batch], Progress(), measure=True)
    assert float(trainer.tally.squares["cross_entropy"].sqrt()) == pytest.approx(float(wanted.norm()), rel=1e-6)


@pytest.mark.parametrize(("words", "fused"), [(8191, False), (8192, True)])
def test_a_large_vocabulary_is_fused_by_itself(words, fused):
    student, loader = Language(words=words, width=4), ShuffledLoader(Tokens(words=words), batch_size=4)
    with open_stage(Stage(Loss(cross_entropy), steps=1), {"student": student}, loader) as trainer:
        outputs = trainer.tapped(loader.peek().inputs)
        assert (LOGITS in outputs) is not fused
        assert (LOGITS_INPUT in outputs) is fused


class Scaled(Language):
    def forward(self, input_ids: Tensor) -> Tensor:
        return 2.0 * super().forward(input_ids)


class TrainedOtherwise(Language):
    def forward(self, input_ids: Tensor) -> Tensor:
        logits = super().forward(input_ids)
        return logits.tanh() if self.training else logits


@pytest.mark.parametrize("kind", [Scaled, TrainedOtherwise])
def test_what_follows_the_output_layer_is_seen(kind, monkeypatch):
    monkeypatch.setattr(fused_output_layer, "FUSED_FROM", 1)
    students = kind(), kind()
    for student, choice in zip(students, ("auto", False), strict=True):
        train(student, choice)
    for mine, its in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert torch.equal(mine, its)
    with pytest.raises(LimbeckError, match="head"):
        train(kind(), True)


@kernel(per="position")
def neighbors(student, teacher):
    return (student - teacher).square().mean(-1).cumsum(-1)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (Loss(neighbors), "neighbors"),
        (Loss(cross_entropy) + Loss(kl_divergence, head=nn.Linear(WORDS, WORDS)), "kl_divergence"),
        (Loss(state_squared_error, student="embed", teacher="embed"), "none of its losses"),
    ],
    ids=["rows", "head", "no logits"],
)
def test_true_is_refused_with_the_reason(loss, reason):
    with pytest.raises(LimbeckError, match=reason):
        train(Language(), True, stage=Stage(loss, teacher=Language(1), steps=1))
    train(Language(), "auto", stage=Stage(loss, teacher=Language(1), steps=1))


def test_an_unknown_choice_is_refused():
    with pytest.raises(ArgumentError, match="fuse_output_layer"):
        TrainConfig(fuse_output_layer="yes")


def test_trap_24_a_sharded_strategy_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(fused_output_layer, "is_sharded", lambda fabric: True)
    with pytest.raises(LimbeckError, match="in pieces; strategy='ddp'"):
        train(Language(), True)


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
def test_a_compiled_student_keeps_its_compiled_forward_pass(monkeypatch):
    monkeypatch.setattr(fused_output_layer, "FUSED_FROM", 1)
    compiled = torch.compile(Language(), backend="eager")
    train(compiled, "auto")
    with pytest.raises(LimbeckError, match="compiled"):
        train(compiled, True)


def test_trap_25_a_frozen_output_layer_stays_and_the_rest_learns():
    def make() -> Language:
        made = Language(tied=False)
        made.head.requires_grad_(False)
        return made

    fused, dense, *_ = both(make)
    assert torch.equal(fused.head.weight, make().double().head.weight)
    assert_same(fused, dense)


def test_only_a_part_learns():
    def stage() -> Stage:
        return Stage(objective(), teacher=Language(1).double(), steps=4, optimizer=SGD, only="body")

    fused, dense, *_ = both(Language, stage=stage)
    assert torch.equal(fused.embed.weight, Language().double().embed.weight)
    assert_same(fused, dense)


def test_hidden_states_of_all_tokens_beside_a_divergence_of_the_answers():
    def stage() -> Stage:
        hidden = Loss(state_squared_error, student="embed", teacher="embed", where="text")
        return Stage(objective() + 0.1 * hidden, teacher=Language(1).double(), steps=4, optimizer=SGD)

    fused, dense, run, other = both(Language, stage=stage)
    assert_same(fused, dense)
    assert run.history[-1].terms == pytest.approx(other.history[-1].terms, rel=1e-9)


TEACHERS: dict[str, Callable[[Any], Any]] = {
    "ensemble": lambda folder: Ensemble(Language(1).double(), Language(2).double()),
    "shuffled": lambda folder: ShuffledTeacher(Language(1).double()),
    "average": lambda folder: MovingAverage(decay=0.5),
    "itself": lambda folder: "student",
    "cached": lambda folder: CachedTeacher(Language(1), folder, encoding="float32"),
    "through": lambda folder: CachedTeacher(
        Language(1, tied=False, bias=True), folder, encoding="float32", through="head"
    ),
    "top-k": lambda folder: CachedTeacher(Language(1), folder, encoding={"name": "top-k", "k": 5}),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_teachers_of_every_kind(name, tmp_path):
    folders = iter([tmp_path / "fused", tmp_path / "dense"])

    def stage() -> Stage:
        return Stage(objective(), teacher=TEACHERS[name](next(folders)), steps=6, optimizer=SGD)

    fused, dense, *_ = both(Language, stage=stage)
    assert not torch.equal(dense.embed.weight, Language().double().embed.weight)
    assert_same(fused, dense, close=1e-6 if name in ("cached", "through", "top-k") else 1e-10)


def test_a_store_of_hidden_states_is_not_multiplied_out(tmp_path):
    loader = ShuffledLoader(Tokens(), batch_size=4)
    teacher = CachedTeacher(Language(1, tied=False, bias=True), tmp_path, encoding="float32", through="head")
    with teacher.open(TeacherContext(loader=loader)) as session:
        wanted = session(loader.peek())[LOGITS]
    with teacher.open(TeacherContext(loader=loader, hidden_logits=True)) as session:
        outputs = session(loader.peek())
        assert LOGITS not in outputs
        assert outputs.hidden[LOGITS].hidden.shape[-1] == WIDTH
        torch.testing.assert_close(outputs[LOGITS], wanted, rtol=0, atol=0)
        assert LOGITS in outputs, "it is kept for the next reader"


def test_stages_in_order_and_a_resumed_run(tmp_path):
    def recipe() -> Any:
        first = Stage(Loss(cross_entropy), steps=3, optimizer=SGD)
        return first >> Stage(Loss(jensen_shannon), teacher=Language(1), steps=4, optimizer=SGD)

    def run(student: nn.Module, **more: Any) -> Any:
        loader = ShuffledLoader(Tokens(), batch_size=4)
        return distill(student, recipe(), loader, fuse_output_layer=True, log_every=1, checkpoint_seconds=0.0, **more)

    whole = Language()
    run(whole).finish()
    broken = run(Language(), out=tmp_path / "run")
    for report in broken:
        if report.stage.startswith("2") and report.step == 2:
            break
    resumed = run(Language(), out=tmp_path / "run", resume=True).finish()
    for mine, its in zip(resumed.student.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_the_model_has_no_hooks_left():
    student = Language()
    train(student, True)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in student.modules())
    assert student(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, WORDS)


def test_labels_that_equal_their_inputs_are_refused_without_logits():
    class Unshifted(Tokens):
        def take(self, index):
            batch = super().take(index)
            return batch._replace(labels=batch.inputs["input_ids"].masked_fill(~batch.mask, IGNORED))

    for fuse in (True, False):
        with pytest.raises(LimbeckError, match="copy"):
            distill(Language(), Stage(Loss(cross_entropy), steps=1), ShuffledLoader(Unshifted(), batch_size=4),
                    fuse_output_layer=fuse).finish()  # fmt: skip


def test_texts_of_which_no_token_counts_are_refused():
    class Prompts(Tokens):
        def take(self, index):
            batch = super().take(index)
            return batch._replace(labels=torch.full_like(batch.labels, IGNORED), mask=torch.zeros_like(batch.mask))

    for fuse in (True, False):
        with pytest.raises(LimbeckError, match="No token"):
            distill(Language(), Stage(Loss(cross_entropy), steps=1), ShuffledLoader(Prompts(), batch_size=4),
                    fuse_output_layer=fuse).finish()  # fmt: skip


def test_a_label_that_is_no_token_is_refused_without_logits():
    for fuse in (True, False):
        with pytest.raises(LimbeckError, match="Label 40 "):
            distill(Language(), Stage(Loss(cross_entropy), steps=1), ShuffledLoader(Wrong(), batch_size=12),
                    fuse_output_layer=fuse).finish()  # fmt: skip


class Wrong(Tokens):
    def take(self, index):
        batch = super().take(index)
        return batch._replace(labels=torch.where(batch.labels == IGNORED, IGNORED, WORDS), mask=None)


def test_another_vocabulary_of_the_teacher_is_refused():
    with pytest.raises(LimbeckError, match="41"):
        train(Language(), True, stage=Stage(Loss(kl_divergence), teacher=Language(1, words=41), steps=1))


def test_a_loss_with_a_memory_reads_dense_logits():
    assert not Contrast().takes_rows(WORDS, torch.device("cpu"))


def test_others_may_call_the_student_while_its_stage_is_open():
    """It ends before its output layer only where the stage calls it."""
    student, loader = Language(), ShuffledLoader(Tokens(), batch_size=4)
    stage, ids = Stage(objective(), teacher=Language(1), steps=6), loader.peek().inputs["input_ids"]
    for _ in distill(student, stage, loader, fuse_output_layer=True, log_every=1):
        assert student(ids).shape == (4, 8, WORDS)


def test_peers_teach_each_other():
    def run(fuse: bool) -> list[nn.Module]:
        one = Stage(objective(), trains="one", teacher="two", optimizer=SGD)
        two = Stage(objective(), trains="two", teacher="one", optimizer=SGD)
        models = {"one": Language(1).double(), "two": Language(2).double()}
        loader = ShuffledLoader(Tokens(), batch_size=4)
        distill(models, one & two, loader, epochs=2, fuse_output_layer=fuse).finish()
        return list(models.values())

    for mine, its in zip(run(True), run(False), strict=True):
        assert_same(mine, its)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_differs_by_its_rounding(precision):
    runs = [train(Language(), fuse, precision=precision) for fuse in (True, False)]
    assert runs[0].student.head.rows == 16
    for mine, its in zip(*(run.history for run in runs), strict=True):
        assert mine.loss == pytest.approx(its.loss, abs=5e-3)


def test_a_student_that_cannot_read_one_example_keeps_its_logits(monkeypatch):
    """BatchNorm needs two, and the comparison of the logits takes one."""
    monkeypatch.setattr(fused_output_layer, "FUSED_FROM", 1)
    runs = [
        distill(network(norm=True), everything(steps=3), make_loader(), fuse_output_layer=fuse, optimizer=SGD).finish()
        for fuse in ("auto", False)
    ]
    for mine, its in zip(runs[0].student.parameters(), runs[1].student.parameters(), strict=True):
        assert torch.equal(mine, its)
