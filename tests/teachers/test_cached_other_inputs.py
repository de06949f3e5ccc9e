"""A source that hands out other inputs under the same ids is answered about these, not about those of before."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.cache import CacheReader
from limbeck.data import ArrayDataset, Loader, ShuffledLoader, TorchLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import CachedTeacher, PrecomputedTeacher, TeacherContext
from limbeck.teachers.fingerprints import input_marks, marks_differ
from teachers.asked import unchanged

OUTPUTS = torch.zeros(12, 7)


class Written(Loader):
    """Token ids that the student would write anew in every epoch, or the same ones if they are `still`."""

    def __init__(self, *, still: bool = False, kind: str = "tokens") -> None:
        super().__init__()
        self.still, self.kind = still, kind

    def __len__(self) -> int:
        return 3

    fingerprint = "written"
    examples_per_epoch = 12

    def batches(self, epoch, start):
        for number in range(start, 3):
            draw = torch.Generator().manual_seed(number if self.still else 10 * epoch + number)
            id = torch.arange(4 * number, 4 * number + 4)
            tokens = torch.randint(9, (4, 5), generator=draw)
            inputs = tokens if self.kind == "tokens" else nn.functional.one_hot(tokens, 9).float()
            yield Batch({"input_ids": tokens} if self.kind == "mapping" else inputs, id=id)


class Words(nn.Module):
    def __init__(self, seed: int = 0, *, kind: str = "tokens") -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.kind, self.embed, self.out = kind, nn.Embedding(9, 5), nn.Linear(5, 7)

    def forward(self, input_ids):
        hidden = input_ids @ self.embed.weight if self.kind == "fractions" else self.embed(input_ids)
        return self.out(hidden.mean(1))


def losses(teacher, loader, kind):
    stage = Stage(Loss(kl_divergence), teacher=teacher, epochs=3)
    return [report.loss for report in distill(Words(5, kind=kind), stage, loader, log_every=1, accelerator="cpu")]


@pytest.mark.parametrize("kind", ["tokens", "fractions", "mapping"])
def test_other_inputs_are_asked_about_and_said(kind, tmp_path):
    live = losses(Words(kind=kind), Written(kind=kind), kind)
    with pytest.warns(LimbeckWarning, match="Example 0 has other inputs.*4 of 4"):
        found = losses(CachedTeacher(Words(kind=kind), tmp_path, encoding="float32"), Written(kind=kind), kind)
    assert found == pytest.approx(live, rel=1e-5)
    assert len(CacheReader(tmp_path)) == 12


@pytest.mark.parametrize("kind", ["tokens", "fractions", "mapping"])
def test_the_same_inputs_are_asked_about_once(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LimbeckWarning)
        for _ in range(2):
            teacher = CachedTeacher(Words(kind=kind), tmp_path, encoding="float32")
            losses(teacher, Written(still=True, kind=kind), kind)
    assert len(CacheReader(tmp_path)) == 12


def test_without_a_teacher_they_are_refused(tmp_path):
    losses(CachedTeacher(Words(), tmp_path), Written(still=True), "tokens")
    with pytest.raises(LimbeckError, match="other inputs"):
        losses(CachedTeacher(None, tmp_path), Written(), "tokens")


def test_a_later_process_with_other_data_is_told(tmp_path):
    """A loader's fingerprint cannot tell two data sets of one shape apart."""

    def loader(seed: int) -> TorchLoader:
        draw = torch.Generator().manual_seed(seed)
        return TorchLoader([{"input_ids": torch.randint(9, (4, 5), generator=draw), "id": torch.arange(4)}])

    losses(CachedTeacher(Words(), tmp_path), loader(0), "tokens")
    with pytest.warns(LimbeckWarning, match="other inputs"):
        losses(CachedTeacher(Words(), tmp_path), loader(1), "tokens")


class Random(ArrayDataset.__base__):
    """Examples of a person's own whose `take` crops at random."""

    fingerprint, labels, class_names = "random", None, None

    def __init__(self, *, still: bool) -> None:
        self.still = still

    def __len__(self) -> int:
        return 8

    def take(self, index):
        return Batch(torch.zeros(len(index), 4) + index[:, None] + (0 if self.still else torch.rand(1)), id=index)


@pytest.mark.parametrize("subset", [False, True])
def test_examples_of_ones_own_are_looked_at(subset, tmp_path):
    for still in (True, False):
        examples = Random(still=still)
        loader = ShuffledLoader(examples.select(torch.arange(8)) if subset else examples, batch_size=8)
        assert not loader.fixed
        teacher = CachedTeacher(nn.Linear(4, 3), tmp_path / str(still), encoding="float32")
        with teacher.open(TeacherContext(preprocess=unchanged, loader=loader)) as answer, torch.no_grad():
            answer(next(loader.batches(0, 0)))
            batch = next(loader.batches(1, 0))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                shown = answer(batch)["logits"]
            torch.testing.assert_close(shown, teacher.inner.model(batch.inputs), rtol=1e-5, atol=1e-5)
            assert bool(said) is not still


def test_recorded_answers_are_for_one_input_of_each_example():
    teacher = PrecomputedTeacher(torch.randn(12, 7))
    losses(teacher, Written(still=True), "tokens")
    with pytest.raises(LimbeckError, match="other inputs"):
        losses(teacher, Written(), "tokens")


def test_limbecks_own_examples_never_change():
    assert ShuffledLoader(ArrayDataset(torch.zeros(4, 2)), batch_size=2).fixed
    assert not Written().fixed


def test_marks_leave_padding_out_and_see_the_rest():
    one = {
        "input_ids": torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]),
    }
    left = {
        "input_ids": torch.tensor([[9, 9, 1, 2, 3], [9, 9, 9, 9, 4]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]),
    }
    other = {**one, "input_ids": torch.tensor([[1, 3, 2, 0], [4, 7, 0, 0]])}
    first, second, third = (input_marks(Batch(inputs, id=torch.arange(2))) for inputs in (one, left, other))
    assert marks_differ(first, second).tolist() == [False, False]
    assert marks_differ(first, third).tolist() == [True, False]
    near = torch.randn(3, 50)
    moved = near * (1 + 1e-7)
    moved[1, 7] += 0.01
    assert marks_differ(input_marks(Batch(near)), input_marks(Batch(moved))).tolist() == [False, True, False]
    assert not marks_differ(input_marks(Batch(near)), input_marks(Batch(near)) * 0).any()


class Rollouts(Written):
    depends_on_model = True


@pytest.mark.parametrize(
    "stored", [lambda folder: CachedTeacher(Words(), folder), lambda _: PrecomputedTeacher(OUTPUTS)]
)
def test_stored_outputs_are_refused_for_texts_that_a_model_writes(stored, tmp_path):
    with pytest.raises(LimbeckError, match="Rollouts"):
        stored(tmp_path).open(TeacherContext(loader=Rollouts()))
