"""The share of batches with written texts: schedules, and one that rises with a validation loss."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers")

from engine.rollout_stories import WRITING, Own, loader, stable, tokens, train, weights
from limbeck.batch import IGNORED, Progress
from limbeck.compare.arm_recipes import recipe_of
from limbeck.data import AdaptiveShare, Replay, RolloutLoader, Rollouts
from limbeck.data.written_share import TextSources, describe_share, mean_share, measure_loss
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.job import MethodSettings, make_job
from limbeck.methods.language.distillm import distillm
from limbeck.methods.language.gkd import gkd
from limbeck.methods.support import read_share
from limbeck.schedule import Schedule, constant, cosine, ramp, read_schedule, steps
from limbeck.teachers import ModelTeacher


@pytest.mark.parametrize(
    "made", [constant(0.3), ramp(0.8, start=0.1, until=0.5), cosine(0.2), steps({0.5: 0.4}, start=0.0)]
)
def test_a_schedule_is_read_from_its_own_text(made):
    again = read_schedule(repr(made))
    assert repr(again) == repr(made)
    for step in range(7):
        assert again(Progress(step, 7)) == made(Progress(step, 7))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("text", ["ramp", "ramp(", "rmap(1.0)", "ramp(1.0, untill=2)", "ramp('a')", "exec(1)", "1 + 1"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(LimbeckError):
        read_schedule(text)


def sources_of(share, *, replay=None, size=4, accumulate=1, epochs=40):
    made = RolloutLoader(loader(size), Rollouts(share=share, generation=WRITING, replay=replay))
    each = math.ceil(len(made) / accumulate)
    made.set_steps(epochs * each, accumulate=accumulate)
    return [[batch.extra["rollout"]["source"] for batch in made.batches(epoch, 0)] for epoch in range(epochs)], made


def test_a_ramp_is_a_pure_function_of_the_step():
    every, made = sources_of(ramp(1.0))
    # A loader that begins in the middle of an epoch, as a resumed run does, throws the same coins.
    assert [b.extra["rollout"]["source"] for b in made.batches(31, 1)] == every[31][1:]
    flat = [source for epoch in every for source in epoch]
    count = len(flat)
    assert flat[0] == "data"  # the share is 0 at the first step, and 1 at the last
    assert flat[-1] == "fresh"
    written = [source != "data" for source in flat]
    assert sum(written[: count // 3]) < sum(written[count // 3 : 2 * count // 3]) < sum(written[2 * count // 3 :])
    for epoch, number in ((0, 0), (7, 2), (39, 2)):
        step = 3 * epoch + number
        assert made.sources.share_at(epoch, number) == pytest.approx(step / (count - 1))


def test_batches_of_one_step_have_one_share():
    _, made = sources_of(ramp(1.0), size=2, accumulate=4)  # 6 batches in an epoch: steps of 4 and of 2
    shares = [[made.sources.share_at(epoch, number) for number in range(6)] for epoch in range(2)]
    assert shares[0][:4] == [0.0] * 4
    assert len({*shares[0][4:]}) == 1
    assert shares[1][0] == pytest.approx(2 / 79)


def test_a_constant_schedule_is_the_number_and_replay_has_a_schedule_too():
    assert sources_of(0.6)[0] == sources_of(constant(0.6))[0]
    flat = [s for epoch in sources_of(1.0, replay=Replay(9, share=ramp(1.0)))[0] for s in epoch]
    assert flat[0] == "fresh"
    assert flat[-1] == "replay"


@pytest.mark.usefixtures("unchecked")
def test_shares_out_of_range_and_without_steps_are_refused():
    for share in (1.2, -0.1, "half", True, None, ramp(1.5), float("nan")):
        with pytest.raises(ArgumentError):
            Rollouts(share=share)
    inside = RolloutLoader(loader(), Rollouts(share=steps({0.4: 3.0, 0.6: 0.0}, start=0.0)))
    inside.set_steps(9)
    with pytest.raises(ArgumentError, match="share"):
        inside.sources.share_at(1, 1)
    with pytest.raises(LimbeckError, match="set_steps"):
        next(RolloutLoader(loader(), Rollouts(share=ramp(1.0))).batches(0, 0))
    with pytest.raises(LimbeckError, match="length"):
        TextSources(ramp(1.0), None).set_steps(9, accumulate=1, batches=None)
    with pytest.raises(ArgumentError):
        Replay(share=AdaptiveShare(tokens(4), every=1))
    for wrong in ({"every": 0}, {"start": 2.0}, {"increase": 0.0}, {"tolerance": -1.0}):
        with pytest.raises(ArgumentError) as refused:
            AdaptiveShare(tokens(4), **{"every": 1, **wrong})
        assert refused.value.argument == next(iter(wrong))


@pytest.mark.usefixtures("unchecked")
def test_the_loss_is_the_mean_over_labels_by_loops_and_leaves_no_trace():
    model, data = Own(), tokens(7)
    model.train()
    total, count = 0.0, 0
    with torch.no_grad():
        for i in range(len(data)):
            batch = data.take(torch.tensor([i]))
            logits = model.eval()(batch.inputs["input_ids"])[0].double()
            for row, label in zip(logits, batch.labels[0].tolist(), strict=True):
                if label != IGNORED:
                    total, count = total - float(row.log_softmax(0)[label]), count + 1
    model.train()
    for size in (2, 7):
        assert measure_loss(model, data, batch_size=size) == pytest.approx(total / count, rel=1e-6)
    assert model.training
    with pytest.raises(LimbeckError, match="label"):
        measure_loss(model, Unlabeled(data), batch_size=2)


class Unlabeled:
    """Texts without labels."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def take(self, rows):
        return self.data.take(rows)._replace(labels=None)


def test_an_adaptive_share_rises_when_the_loss_has_risen(monkeypatch):
    losses = iter([3.0, 2.0, 2.05, 2.3, 2.3, 9.0, 9.9])
    monkeypatch.setattr("limbeck.data.written_share.measure_loss", lambda *_, **__: next(losses))
    share = AdaptiveShare(tokens(4), every=2, start=0.5, increase=0.3, tolerance=0.1)
    chosen = TextSources(share, None)
    values = []
    for number in range(14):
        if chosen.measures(number):
            chosen.measure(Own(), None, batch_size=2)
            values.append(chosen.share_at(0, number))
    assert values == pytest.approx([0.5, 0.5, 0.5, 0.8, 0.8, 1.0, 1.0])
    assert mean_share(share) == 1.0
    assert describe_share(share)["validation"] == tokens(4).fingerprint


def adaptive(**options):
    return AdaptiveShare(tokens(5), every=2, increase=0.4, tolerance=-0.0, **options)


@pytest.mark.parametrize("share", [adaptive(start=0.3), ramp(1.0)], ids=["adaptive", "ramp"])
def test_a_resumed_run_has_the_same_bits(tmp_path, share):
    whole = Own()
    history = train(whole, share, replay=True, steps=12).finish().history
    broken, again = Own(), Own(seed=5)
    for report in train(broken, share, replay=True, steps=12, out=tmp_path / "run", checkpoint_seconds=0.0):
        if report.step == 7:
            break
    later = train(again, share, replay=True, steps=12, out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(whole), weights(again))
    assert stable(history[7:]) == stable(later.history)
    shares = [report.generation["share"] for report in history]
    assert shares == sorted(shares)
    if isinstance(share, Schedule):
        assert shares[-1] > shares[0]


@pytest.mark.usefixtures("unchecked")
def test_methods_take_numbers_schedules_and_their_texts():
    teacher = Own(7)
    for method in (gkd, distillm):
        for share in (0.5, 1, ramp(0.5), "ramp(0.5)", adaptive()):
            made = next(method(teacher, share=share, replay=4, replay_share="ramp(1.0)").stages()).loader
            assert type(made.share) is type(ramp(0.5) if isinstance(share, str) else share) or made.share == 1.0
            assert isinstance(made.replay.share, Schedule)
        for wrong in ("half", "ramp(2.0)", 1.5):
            with pytest.raises(ArgumentError) as refused:
                method(teacher, share=wrong)
            assert refused.value.argument == "share"
    student = Own()
    run = distill(student, gkd(teacher, share="ramp(1.0)", max_new_tokens=3), loader(), epochs=2, log_every=1).finish()
    assert run.history[0].generation["share"] < run.history[-1].generation["share"] == 1.0


def test_a_job_takes_the_text_of_a_schedule_and_knows_how_much_is_written():
    assert MethodSettings(name="gkd", share="ramp(1.0)").written_share == pytest.approx(0.5)
    assert MethodSettings(name="gkd", share=0.25).written_share == pytest.approx(0.25)
    assert MethodSettings(name="distillm").written_share == 0
    assert MethodSettings(name="hinton").written_share == 0


def test_an_adaptive_share_is_read_from_the_text_of_a_job():
    share = read_share("share", "adaptive(every=3, start=0.2)")
    assert isinstance(share, AdaptiveShare)
    assert (share.every, share.start, share.increase, share.validation) == (3, 0.2, 0.1, None)
    assert share.with_validation(tokens(4)).describe() == AdaptiveShare(tokens(4), every=3, start=0.2).describe()
    assert share.with_validation(tokens(4)).with_validation(tokens(2)).validation.fingerprint == tokens(4).fingerprint
    for text in ("adaptive", "adaptive(50)", "adaptive()", "adaptive(every=a)", "adaptive(every=2, starts=1)",
                 "adaptive(every=0)"):  # fmt: skip
        with pytest.raises(LimbeckError):
            read_share("share", text)
    with pytest.raises(LimbeckError, match="validation texts"):
        Rollouts(share=share)(loader())


@pytest.mark.parametrize("name", ["gkd", "distillm"])
def test_a_job_gives_its_development_data_to_an_adaptive_share(name):
    method = {"name": name, "share": "adaptive(every=3)", "max_new_tokens": 2}
    job = make_job({"data": "t.txt", "teacher": "mlp", "student": "mlp", "method": method})
    assert job.method.written_share == 1.0
    (stage,) = recipe_of(
        job, "distilled", ModelTeacher(Own()), task="language_modeling", development=tokens(4)
    ).stages()
    assert stage.loader.share.validation.fingerprint == tokens(4).fingerprint
