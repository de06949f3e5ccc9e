"""A student learns the same from cached outputs as from the teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, Ensemble, ModelTeacher, RandomShift, ShuffledLoader, distill
from limbeck.cache import CacheReader
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import kl_divergence, logit_squared_error
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.recipe import Stage
from limbeck.teachers import CachedTeacher, TeacherContext, fill_cache
from limbeck.teachers.cache_request import check_head
from limbeck.teachers.teacher import read_inputs
from teachers.asked import Changed, Counting, ask, examples, make_loader, trained, unchanged

# --- the same, and paid once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [None, RandomShift(1)])
def test_a_student_of_the_cache_is_the_live_teachers_to_the_bit(tmp_path, augment):
    net = Counting()
    live = trained(net, make_loader(augment=augment))
    for _ in range(2):  # asked as it goes, and then read
        assert torch.equal(
            trained(CachedTeacher(net, tmp_path / "s", encoding="float32"), make_loader(augment=augment)), live
        )
    assert torch.equal(trained(CachedTeacher(None, tmp_path / "s"), make_loader(augment=augment)), live)


def test_branches_of_a_stage_share_a_new_cache(tmp_path):
    def student_after(teacher):
        torch.manual_seed(3)
        student = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
        parts = [Stage(Loss(kernel), teacher=teacher, epochs=2) for kernel in (kl_divergence, logit_squared_error)]
        run = distill(student, parts[0] & parts[1], make_loader(), seed=1).finish()
        return torch.cat([p.detach().flatten() for p in run.student.parameters()])

    net = Counting()
    live = student_after(net)
    assert torch.equal(student_after(CachedTeacher(net, tmp_path / "s", encoding="float32")), live)
    assert len(CacheReader(tmp_path / "s")) == 24
    assert torch.equal(student_after(CachedTeacher(None, tmp_path / "s")), live)


def test_a_branch_that_skips_batches_leaves_no_gaps_in_a_new_cache(tmp_path):
    net = Counting()
    teacher = CachedTeacher(net, tmp_path / "s")
    some, every = (Stage(Loss(kl_divergence), teacher=teacher, epochs=3, every=k) for k in (3, 1))
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    distill(student, some & every, make_loader(), seed=1).finish()
    assert len(CacheReader(tmp_path / "s")) == 24
    assert sum(net.asked) <= 24 + 8, "each view once, and the batch of the probe"
    rest = CachedTeacher(None, tmp_path / "s")
    distill(student, Stage(Loss(kl_divergence), teacher=rest, epochs=1), make_loader(seed=2)).finish()


def test_the_teacher_is_called_once_about_each_view(tmp_path):
    net = Counting()
    for student in range(3):  # students in other orders, with other batches
        ask(CachedTeacher(net, tmp_path / "s"), make_loader(seed=student, batch_size=8 + student), epochs=range(3))
        assert net.asked == [8, 8, 8]
    views = Counting()
    for epochs in (2, 3):
        ask(CachedTeacher(views, tmp_path / "views"), make_loader(augment=RandomShift(1)), epochs=range(epochs))
    assert sum(views.asked) == 3 * 24


def repeated(epoch):
    """Some examples come several times."""
    return iter(epoch + [batch.rows(torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])) for batch in epoch])


def test_examples_that_come_several_times_are_kept_once_and_in_few_files(tmp_path):
    net = Counting()
    stream = Changed(ShuffledLoader(examples(), batch_size=8), repeated)
    found = ask(CachedTeacher(net, tmp_path / "s", encoding="float32"), stream, epochs=(0, 1, 2))
    store = CacheReader(tmp_path / "s")
    assert len(store) == 24
    assert len(store.manifest.shards) == 1
    assert net.asked == [8, 8, 8]
    with torch.no_grad():
        whole = net(examples().take(torch.arange(24)).inputs)
    torch.testing.assert_close(torch.stack([found[None, i]["logits"] for i in range(24)]), whole)


def test_a_last_batch_is_filled_up_so_that_its_answers_have_the_same_bits(tmp_path):
    net = Counting()
    found = ask(CachedTeacher(net, tmp_path / "s", encoding="float32"), make_loader(20))
    assert net.asked == [8, 8, 8]
    with torch.no_grad():
        whole = net(make_loader(20).examples.take(torch.arange(8)).inputs)
    for place in range(8):
        assert torch.equal(found[None, place]["logits"], whole[place])


def test_answers_belong_to_views(tmp_path):
    net, stream = Counting(), make_loader(augment=RandomShift(1, seed=5))
    kept = ask(CachedTeacher(net, tmp_path / "s", encoding="float32"), stream, epochs=(0, 1, 4))
    again = ask(CachedTeacher(None, tmp_path / "s"), stream, epochs=(4, 0))
    for key, answer in again.items():
        assert torch.equal(answer["logits"], kept[key]["logits"])
    inputs = stream.augment(stream.examples.take(torch.tensor([7])).inputs, torch.tensor([7]), torch.tensor([4]))
    with torch.no_grad():
        torch.testing.assert_close(again[4, 7]["logits"], net(inputs)[0])
    with pytest.raises(LimbeckError, match="there is no teacher"):
        ask(CachedTeacher(None, tmp_path / "s"), stream, epochs=(2,))


def test_several_answer_as_one_and_other_addresses_are_kept_too(tmp_path):
    nets = [Counting(0), Counting(1)]
    both = Ensemble(*nets)
    kept = ask(CachedTeacher(both, tmp_path / "both", encoding="float32"), make_loader())
    live = ask(both, make_loader())
    for key in live:
        torch.testing.assert_close(kept[key]["logits"], live[key]["logits"])
    for _ in range(2):
        shown = ask(CachedTeacher(nets[0], tmp_path / "hints"), make_loader(), requires=("logits", "body"))
        assert shown[None, 3]["body"].shape == (8,)
    hint = ask(ModelTeacher(nets[0]), make_loader(), requires=("body",))[None, 3]
    torch.testing.assert_close(shown[None, 3]["body"], hint["body"], atol=2e-3, rtol=2e-3)
    with pytest.raises(LimbeckError, match=r"another set of addresses \(outputs\)"):
        ask(CachedTeacher(nets[0], tmp_path / "hints"), make_loader(), requires=("out:in",))


def hinted(teacher, stream):
    """A student that takes a hint first, and soft targets then."""
    torch.manual_seed(3)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 4))
    recipe = make("fitnets", teacher=teacher, hint="body", guided="1", hint_epochs=1, epochs=1)
    run = distill(student, recipe, stream, seed=1).finish()
    return torch.cat([p.detach().flatten() for p in run.student.parameters()])


def test_all_stages_addresses_are_asked_at_once(tmp_path):
    net = Counting()
    first = hinted(CachedTeacher(net, tmp_path / "s", encoding="float32"), make_loader())
    assert net.asked == [8, 8, 8]
    store = CacheReader(tmp_path / "s")
    assert {address: column.encoding.name for address, column in store.columns.items()} == {
        "logits": "float32", "body": "float16",
    }  # fmt: skip
    assert torch.equal(hinted(CachedTeacher(None, tmp_path / "s"), make_loader()), first)
    torch.testing.assert_close(first, hinted(ModelTeacher(net), make_loader()), rtol=0, atol=2e-3)


def test_who_reads_less_than_a_store_keeps_adds_to_all_of_it(tmp_path):
    net = Counting()
    kept = CachedTeacher(net, tmp_path / "s", addresses=["body"])
    with kept.open(TeacherContext(preprocess=unchanged, loader=make_loader())) as answer:
        answer(next(make_loader().batches(0, 0)))
    assert len(list(fill_cache(CachedTeacher(net, tmp_path / "s"), make_loader(), preprocess=unchanged))) == 3
    found = ask(CachedTeacher(None, tmp_path / "s"), make_loader(), requires=("logits", "body"))
    with torch.no_grad():
        whole = net.body(examples().take(torch.arange(24)).inputs.flatten(1))
    torch.testing.assert_close(torch.stack([found[None, i]["body"] for i in range(24)]), whole, rtol=0, atol=2e-3)


def test_a_hint_that_was_not_kept_is_refused_before_anything_is_trained(tmp_path):
    list(fill_cache(CachedTeacher(Counting(), tmp_path / "s"), make_loader(), preprocess=read_inputs))
    stage = Stage(Loss(kl_divergence), teacher=Counting(), epochs=1)
    hint = make("fitnets", teacher=CachedTeacher(Counting(), tmp_path / "s"), hint="body", guided="1")
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 4))
    with pytest.raises(LimbeckError, match=r"\(outputs\): it has logits, and this run has body\."):
        distill(student, stage >> hint, make_loader(), epochs=1)


def test_the_inputs_of_the_last_layer_are_kept_in_place_of_the_logits(tmp_path):
    net = Counting()
    live = ask(ModelTeacher(net), make_loader())
    for teacher in (
        CachedTeacher(net, tmp_path / "s", encoding="float32", through="out"),
        CachedTeacher(net, tmp_path / "s", encoding="float32", through="out"),
        CachedTeacher(None, tmp_path / "s"),
    ):
        for key, answer in ask(teacher, make_loader()).items():
            assert torch.equal(answer["logits"], live[key]["logits"])
    assert CacheReader(tmp_path / "s").columns["out:in"].encoding.classes == 8
    with pytest.raises(LimbeckError, match=r"last layer \(through\)"):
        ask(CachedTeacher(net, tmp_path / "s", encoding="float32"), make_loader())
    with pytest.raises(LimbeckError, match="'body'"):
        ask(CachedTeacher(net, tmp_path / "other", through="body"), make_loader())
    with pytest.raises(LimbeckError, match=r"'outt'.*Did you mean 'out'\?"):
        ask(CachedTeacher(net, tmp_path / "other", through="outt"), make_loader())
    with pytest.raises(LimbeckError, match="Ensemble"):
        ask(CachedTeacher(Ensemble(net, net), tmp_path / "other", through="out"), make_loader())
    (tmp_path / "s" / "head.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"head\.safetensors is damaged"):
        ask(CachedTeacher(None, tmp_path / "s"), make_loader())
    assert "head.safetensors is damaged" in str(check_head(CacheReader(tmp_path / "s")))
    list(
        fill_cache(
            CachedTeacher(net, tmp_path / "s", encoding="float32", through="out"), make_loader(), preprocess=unchanged
        )
    )
    assert check_head(CacheReader(tmp_path / "s")) is None
    assert ask(CachedTeacher(None, tmp_path / "s"), make_loader()).keys() == live.keys()


class AtOnce:
    """A source, but that something is done before its second batch."""

    def __init__(self, loader, act):
        self._loader, self._act = loader, act

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def batches(self, epoch, start):
        for number, batch in enumerate(self._loader.batches(epoch, start)):
            if number == 1:
                self._act()
            yield batch


@pytest.mark.parametrize("who", ["preprocess", "asks"])
def test_what_another_adds_meanwhile_is_seen_and_not_kept_twice(tmp_path, who):
    net = Counting()
    stream = make_loader(shuffle=False)
    list(
        fill_cache(CachedTeacher(net, tmp_path / "all"), Changed(stream, lambda epoch: epoch[:1]), preprocess=unchanged)
    )

    def finish():
        list(fill_cache(CachedTeacher(net, tmp_path / "all"), stream, preprocess=unchanged))

    net.asked.clear()
    teacher = CachedTeacher(net if who == "asks" else None, tmp_path / "all")
    assert len(ask(teacher, AtOnce(stream, finish))) == 24
    assert sum(net.asked) == 16
    assert len(CacheReader(tmp_path / "all")) == 24


def test_of_two_that_begin_at_once_each_answer_is_kept_once(tmp_path):
    net, stream = Counting(), make_loader(shuffle=False)
    teacher = CachedTeacher(net, tmp_path / "s")
    opened = teacher.open(TeacherContext(preprocess=unchanged, loader=stream))
    list(
        fill_cache(CachedTeacher(net, tmp_path / "s"), stream, preprocess=unchanged)
    )  # before the first has asked anything
    with opened as answer:
        for batch in stream.batches(0, 0):
            assert answer(batch)["logits"].shape == (8, 4)
    assert len(CacheReader(tmp_path / "s")) == 24


def test_one_number_for_each_example_is_refused(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    with pytest.raises(LimbeckError, match=r"\[batch, classes\]"):
        ask(CachedTeacher(net, tmp_path / "s"), make_loader())


# --- partial answers ------------------------------------------------------------------------------------------------


def test_a_student_of_all_classes_as_top_classes_is_the_live_teachers(tmp_path):
    net, every = Counting(), {"name": "top-k", "k": 4, "bits": 32}
    live = trained(net, make_loader())
    for number in range(2):
        found = trained(CachedTeacher(net, tmp_path / "s", encoding=every), make_loader())
        torch.testing.assert_close(found, live, atol=1e-4, rtol=1e-3)
        assert not torch.equal(found, trained(Counting(5), make_loader())), number
    few = trained(CachedTeacher(net, tmp_path / "few", encoding={"name": "top-k", "k": 1}), make_loader())
    assert (few - live).abs().max() > 1e-4


def test_the_more_classes_are_drawn_the_nearer_is_the_student_to_the_live_teachers(tmp_path):
    net, apart = Counting(), []
    live = trained(net, make_loader())
    for draws in (1, 4096):
        found = trained(
            CachedTeacher(net, tmp_path / f"{draws}", encoding={"name": "sampled", "draws": draws}), make_loader()
        )
        apart.append(float((found - live).norm()))
    assert apart[1] < apart[0] / 4


def test_losses_that_part_of_an_answer_cannot_serve_say_why_before_training(tmp_path):
    teacher = CachedTeacher(Counting(), tmp_path / "s", encoding={"name": "top-k", "k": 2})
    stage = Stage(Loss(logit_squared_error), teacher=teacher, epochs=1)
    with pytest.raises(LimbeckError, match="logit_squared_error cannot be computed from the top-k"):
        distill(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), stage, make_loader()).finish()


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("flaot16", r"Did you mean 'float16'\?"),
        ("top-k", "needs k"),
        ({"name": "top-k", "kk": 3}, r"Did you mean 'k'\?"),
        ({"name": "quantized", "bits": 99}, "99"),
        ({"k": 3}, "a mapping with one"),
    ],
)
def test_an_encoding_is_looked_at_when_the_teacher_is_made(tmp_path, encoding, said):
    with pytest.raises(LimbeckError, match=said):
        CachedTeacher(Counting(), tmp_path, encoding=encoding)
    assert CachedTeacher(Counting(), tmp_path, encoding={"name": "top-k", "k": 5000}).encoding["k"] == 5000


# --- interruptions --------------------------------------------------------------------------------------------------


def interrupted(answer, stream):
    for number, batch in enumerate(stream.batches(0, 0)):
        if number == 2:
            raise KeyboardInterrupt
        answer(batch)


def test_what_was_asked_before_an_interruption_is_kept(tmp_path):
    net, stream = Counting(), make_loader()
    teacher = CachedTeacher(net, tmp_path / "s")
    opened = teacher.open(TeacherContext(preprocess=unchanged, loader=stream))
    with pytest.raises(KeyboardInterrupt), opened as answer:
        interrupted(answer, stream)
    assert len(CacheReader(tmp_path / "s")) == 16
    net.asked.clear()
    assert list(fill_cache(CachedTeacher(net, tmp_path / "s"), stream, preprocess=unchanged)) == [8, 16, 24]
    assert len(net.asked) == 1
    assert len(CacheReader(tmp_path / "s")) == 24


def test_a_teacher_that_cannot_read_the_examples_explains_what_to_give(tmp_path):
    pictures = ShuffledLoader(ArrayDataset(torch.zeros(8, 4, 4, dtype=torch.uint8), torch.arange(8) % 4), batch_size=4)
    said = r"ModelTeacher.*uint8 \[4, 4, 4\].*preprocess="
    with pytest.raises(LimbeckError, match=said):
        list(fill_cache(CachedTeacher(Counting(), tmp_path / "s"), pictures))
    stage = Stage(Loss(kl_divergence), teacher=CachedTeacher(Counting(), tmp_path / "s"), epochs=1)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(LimbeckError, match="preprocess="):
        distill(student, stage, pictures).finish()
