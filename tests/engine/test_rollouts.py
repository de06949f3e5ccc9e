"""Runs in which the student writes its texts: resumed, looked at, accumulated, refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.data import PromptDataset, RolloutLoader, Rollouts, ShuffledLoader
from limbeck.engine import StepReport, TrainConfig, distill, open_fabric, open_stage
from limbeck.engine.recipe_runner import RunModels
from limbeck.engine.stage_loop import bind_loader
from limbeck.errors import DataError, LimbeckError, UnknownNameError
from limbeck.functional import cross_entropy, kl_divergence, reverse_kl
from limbeck.generation import GenerationConfig, generate
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import CachedTeacher, ModelTeacher, PrecomputedTeacher, ShuffledTeacher, without_cache

from .rollout_stories import WRITING, Own, loader, rollouts, rows, stable, stage, tokenizer, train, weights

SHARES = [(0.0, False), (0.7, False), (0.7, True), (1.0, False), (1.0, True)]


@pytest.mark.parametrize(("share", "replay"), SHARES)
def test_a_resumed_run_has_the_same_bits(tmp_path, share, replay):
    whole = Own()
    history = train(whole, share, replay=replay, log_every=2).finish().history
    broken = Own()
    run = train(broken, share, replay=replay, log_every=2, out=tmp_path / "run", checkpoint_seconds=0.0)
    for report in run:
        if report.step == 4:
            break
    again = Own(seed=5)
    later = train(again, share, replay=replay, log_every=2, out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(whole), weights(again))
    assert stable(history[2:]) == stable(later.history)


def test_the_student_s_texts_are_those_of_its_present_weights():
    """The loss of a step is that of texts written by the weights before it."""
    student, teacher = Own(), Own(7, width=12)
    writing = Rollouts(generation=WRITING)
    step = Stage(Loss(reverse_kl), teacher=teacher, steps=1, optimizer=Optimizer("sgd", lr=1e-30), loader=writing)
    student.drop.p = 0.0
    data = loader()
    report = distill(student, step, data).finish().history[0]
    loaded = RolloutLoader(loader(), writing)
    loaded.bind({"student": student})
    batch = loaded.complete(loaded.peek())
    known = torch.tensor(sorted(data.examples.tokenizer.get_vocab().values()))
    ends = GenerationConfig(**{**vars(WRITING), "eos_token_id": data.examples.tokenizer.eos_token_id})
    total, count, given = 0.0, 0, loader().peek()
    for i, number in enumerate(given.id.tolist()):
        row = given.rows(torch.tensor([i]))
        prompt = row.inputs["input_ids"][0, : int((row.labels[0] >= 0).long().argmax()) + 1]
        text = generate(student, [prompt], ends, ids=torch.tensor([number]), tokens=known).texts[0]
        both = torch.cat([prompt, text])
        with torch.no_grad():
            mine, its = (model.eval()(both[None, :-1])[0, len(prompt) - 1 :] for model in (student, teacher))
        total += float(reverse_kl(mine, its).sum())
        count += len(text)
        assert batch.labels[i][batch.labels[i] >= 0].tolist() == text.tolist()
    assert report.loss == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("share", [0.7, 1.0])
def test_looking_at_a_batch_changes_nothing(share):
    plain, looked = Own(), Own()
    first = train(plain, share, replay=True).finish()
    run = train(looked, share, replay=True)
    for _ in run:
        inner = run._loop.loader
        state = inner.state_dict()
        inner.complete(inner.peek(), used=False)
        assert str(inner.state_dict()) == str(state)
    assert torch.equal(weights(plain), weights(looked))
    assert stable(first.history) == stable(run.history)


def test_trap_13_means_are_exact_where_the_number_of_tokens_is_known_only_after_writing():
    """Two halves of a batch have the gradient of the whole one, although their texts have other lengths."""
    students = [Own().double(), Own().double()]
    histories = []
    for student, (size, accumulate) in zip(students, [(6, 1), (3, 2)], strict=True):
        student.drop.p = 0.0
        step = stage(1.0, steps=4, supervised=False)
        step = replace(step, teacher=ModelTeacher(Own(7, width=12).double()), optimizer=Optimizer("sgd", lr=0.5))
        histories.append(
            distill(student, step, loader(batch_size=size), accumulate=accumulate, log_every=1).finish().history
        )
    torch.testing.assert_close(weights(students[0]), weights(students[1]), rtol=1e-10, atol=1e-10)
    for one, other in zip(*histories, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert {k: v for k, v in one.generation.items() if k in ("finished", "cut_off")} == {
            k: v for k, v in other.generation.items() if k in ("finished", "cut_off")
        }
    assert len({report.generation["finished"] for report in histories[0]}) > 1  # the lengths do differ


def test_trap_29_the_coin_is_the_same_on_all_ranks_and_needs_no_message(monkeypatch):
    made = RolloutLoader(loader(), rollouts(0.5, replay=True))
    monkeypatch.setattr(torch.distributed, "broadcast", None)
    sources = [batch.extra["rollout"]["source"] for epoch in range(40) for batch in made.batches(epoch, 0)]
    assert sources == [batch.extra["rollout"]["source"] for epoch in range(40) for batch in made.batches(epoch, 0)]
    # A rank that begins at another batch throws the same coins.
    assert [b.extra["rollout"]["source"] for b in made.batches(3, 1)] == sources[10:12]
    counts = {source: sources.count(source) / len(sources) for source in ("data", "fresh", "replay")}
    assert counts == pytest.approx({"data": 0.5, "fresh": 0.25, "replay": 0.25}, abs=0.12)
    assert {b.extra["rollout"]["source"] for b in RolloutLoader(loader(), rollouts(1.0)).batches(0, 0)} == {"fresh"}


def test_reports_count_texts_and_are_saved(tmp_path):
    run = train(Own(), 1.0, replay=True, out=tmp_path / "run").finish()
    assert all(isinstance(report, StepReport) for report in run.history)
    texts = [report.generation["finished"] + report.generation["cut_off"] for report in run.history]
    assert set(texts) <= {0.0, 4.0}
    assert max(report.generation["mean_age"] for report in run.history if not report.generation["cut_off"]) > 0
    assert all(0 <= report.generation["time_share"] <= 1 for report in run.history)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("tokens_per_second") == len(run.history)
    assert not train(Own(), 0.0, steps=1).finish().history[0].generation


def test_trap_14_a_batch_of_which_nothing_counts_is_a_zero_with_a_graph():
    """Of a written batch, no token counts for the labels, and the step is taken."""
    student = Own()
    run = train(student, 1.0, steps=2).finish()
    assert [report.terms["cross_entropy"] for report in run.history] == [0.0, 0.0]
    assert torch.isfinite(weights(student)).all()


@pytest.mark.parametrize("writer", ["teacher", "peer"])
def test_others_may_write(writer):
    student, peer = Own(), Own(3)
    made = rollouts(1.0, writer=peer if writer == "teacher" else "peer")
    step = Stage(Loss(kl_divergence), teacher=peer, steps=3, loader=made)
    run = distill({"student": student, "peer": peer}, step, loader()).finish()
    assert run.history[-1].loss > 0
    assert made.describe()["rollouts"] == "peer" or made.describe()["rollouts"].startswith("Own ")
    with pytest.raises(UnknownNameError):
        distill(Own(), replace(step, loader=rollouts(1.0, writer="per")), loader()).finish()


def test_stored_and_shuffled_outputs_are_refused_by_name(tmp_path):
    live = ModelTeacher(Own(7, width=12))
    for teacher, name in (
        (CachedTeacher(live, tmp_path / "cache"), "cache"),
        (PrecomputedTeacher(torch.randn(12, 9, 30)), "PrecomputedTeacher"),
        (ShuffledTeacher(live), "ShuffledTeacher"),
    ):
        with pytest.raises(LimbeckError, match=name):
            distill(Own(), replace(stage(), teacher=teacher), loader())
    recipe = make("gkd", teacher=CachedTeacher(live, tmp_path / "cache"), max_new_tokens=3)
    assert next(recipe.stages()).teacher is live
    assert without_cache(ShuffledTeacher(CachedTeacher(live, tmp_path / "cache"))).inner is live
    with pytest.raises(LimbeckError, match="cache"):
        make("gkd", teacher=CachedTeacher(None, tmp_path / "cache"))
    with pytest.raises(LimbeckError, match="ShuffledTeacher"):
        make("gkd", teacher=ShuffledTeacher(live), writer="teacher")


def test_a_sharded_student_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("limbeck.engine.stage_loop.is_sharded", lambda fabric: True)
    with pytest.raises(LimbeckError, match="RolloutLoader"):
        bind_loader(RolloutLoader(loader(), rollouts()), {"student": Own()}, [stage()], open_fabric(accelerator="cpu"))


def test_a_stage_takes_no_other_loader():
    with pytest.raises(LimbeckError):
        RolloutLoader(RolloutLoader(loader(), rollouts()), rollouts())
    given = loader()
    assert Stage(Loss(cross_entropy), loader=rollouts(0.0)).find_loader(given) is given


def test_an_open_stage_takes_steps_on_texts():
    student = Own()
    with open_stage(stage(), {"student": student}, loader()) as trainer:
        assert trainer.batch.extra["written_by"] == "student"


def test_the_loader_of_a_run_may_be_one_of_rollouts(tmp_path):
    def run(student, **options):
        step = replace(stage(steps=6), loader=None)
        return distill(student, step, RolloutLoader(loader(), rollouts(0.7, replay=True)), log_every=1, **options)

    whole, again = Own(), Own(seed=4)
    run(whole).finish()
    for report in run(Own(), out=tmp_path / "run", checkpoint_seconds=0.0):
        if report.step == 3:
            break
    run(again, out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(whole), weights(again))


def test_a_resumed_run_refuses_other_settings(tmp_path):
    run = train(Own(), 1.0, out=tmp_path / "run", checkpoint_seconds=0.0)
    next(iter(run))
    with pytest.raises(LimbeckError):
        train(Own(), 0.5, out=tmp_path / "run", resume=True)


def test_prompts_without_answers_and_a_share_below_1_are_refused_before_the_first_step():
    """Also where the first batches are written ones."""
    prompts = PromptDataset([row["prompt"] for row in rows()], tokenizer=tokenizer())
    planned = replace(stage(0.999), objective=Loss(reverse_kl))
    with pytest.raises(DataError, match=r"share=0\.999"):
        next(iter(distill(Own(), planned, ShuffledLoader(prompts, batch_size=4))))


class Other(Own):
    """Its output is a dict without logits."""

    def forward(self, input_ids):
        return {"scores": super().forward(input_ids)}


def test_texts_are_written_by_the_logits_that_learn():
    """Those of the adaptor of the run, which may also change them."""

    def learn(student, **options):
        student.drop.p = 0.0
        recipe = make("gkd", teacher=Own(7, width=12), max_new_tokens=4)
        optimizer = Optimizer("adam", lr=0.01)
        return distill(student, recipe, loader(), steps=3, log_every=1, optimizer=optimizer, **options).finish()

    plain, other = Own(), Other()
    learn(plain)
    learn(other, adaptor=lambda output: output["scores"])
    assert torch.equal(weights(plain), weights(other))
    with open_stage(stage(), {"student": Other()}, data := loader(), TrainConfig(adaptor=lambda out: out["scores"])):
        pass

    def force(logits):
        return torch.nn.functional.pad(logits[..., 1:], (1, 0), value=99.0)

    written = RolloutLoader(data, rollouts())
    written.bind(RunModels({"student": Own()}, {}, seed=0, adaptor=force))
    batch = written.complete(written.peek())
    assert set(batch.labels[batch.mask].tolist()) == {0}


def test_a_preprocess_that_the_writer_would_not_have_is_refused():
    def double(batch):
        return {"input_ids": batch.inputs["input_ids"]}

    with pytest.raises(LimbeckError, match="double"):
        next(iter(distill(Own(), stage(), loader(), preprocess=double)))
    for own in ({"preprocess": double}, {"adaptor": lambda output: output}):
        with pytest.raises(LimbeckError, match="writer=teacher"):
            make("gkd", teacher=ModelTeacher(Own(), **own), writer="teacher")
