"""A frozen output layer: forward KL from the mean output embedding, live and from a cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, ShuffledLoader
from limbeck.cache import CacheReader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence, reverse_kl
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import CachedTeacher, MeanEmbeddingTeacher, TeacherContext, fill_cache, verify_cache

VOCABULARY, WIDTH, LENGTH = 30, 6, 8


class Language(nn.Module):
    def __init__(self, seed, *, width=WIDTH, bias=False):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.body = nn.Embedding(VOCABULARY, width), nn.Linear(width, width)
        self.lm_head = nn.Linear(width, VOCABULARY, bias=bias)

    def forward(self, input_ids):
        return self.lm_head(self.body(self.embed(input_ids)).tanh())


def frozen(seed=1, **how):
    student = Language(seed, **how)
    student.lm_head.requires_grad_(False)
    return student


class Texts(ArrayDataset):
    def __init__(self):
        super().__init__(torch.randint(VOCABULARY, (8, LENGTH), generator=torch.Generator().manual_seed(1)))

    def take(self, index):
        batch = super().take(index)
        return batch._replace(mask=torch.arange(LENGTH) < (1 + index)[:, None])


def loader(**how):
    return ShuffledLoader(Texts(), **{"batch_size": 4, "seed": 2, **how})


def losses(teacher, student, *, kernel=kl_divergence, **hyper):
    stage = Stage(Loss(kernel, **hyper), teacher=teacher, epochs=3)
    run = distill(student, stage, loader(), log_every=1, accelerator="cpu", fuse_output_layer=True)
    return [report.loss for report in run]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_training_is_that_with_all_logits_of_the_teacher(bias, temperature, tmp_path):
    teacher = Language(5, width=10, bias=bias)
    live = losses(teacher, frozen(bias=bias), temperature=temperature)
    mean = MeanEmbeddingTeacher(teacher, frozen(bias=bias), temperature=temperature)
    assert losses(mean, frozen(bias=bias), temperature=temperature) == pytest.approx(live, rel=1e-4)
    cached = CachedTeacher(mean, tmp_path / "s", encoding={**mean.encoding, "bits": 32})
    assert losses(cached, frozen(bias=bias), temperature=temperature) == pytest.approx(live, rel=1e-4)
    again = CachedTeacher(None, tmp_path / "s", encoding={**mean.encoding, "bits": 32})
    assert losses(again, frozen(bias=bias), temperature=temperature) == pytest.approx(live, rel=1e-4)


def test_a_token_takes_two_bytes_a_number_and_eight(tmp_path):
    mean = MeanEmbeddingTeacher(Language(5), frozen())
    cached = CachedTeacher(mean, tmp_path, encoding=mean.encoding)
    list(fill_cache(cached, loader()))
    reader = CacheReader(tmp_path)
    assert reader.columns["logits"].width == 2 * WIDTH + 8
    assert int(reader.keys.positions.sum()) == sum(range(1, 9))
    assert verify_cache(cached, loader(), sample=8).identical == 1.0
    live = losses(Language(5), frozen())
    assert losses(cached, frozen()) == pytest.approx(live, rel=2e-3, abs=1e-4)


def test_the_means_are_those_of_the_probabilities():
    teacher, student, batch = Language(5, bias=True), frozen(bias=True), next(loader().batches(0, 0))
    with MeanEmbeddingTeacher(teacher, student).open(TeacherContext()) as answer:
        mean = answer(batch).partial["logits"]
    p = teacher(batch.inputs).detach().double().softmax(-1)
    torch.testing.assert_close(mean.mean[batch.mask], (p @ student.lm_head.weight.double())[batch.mask].float())
    torch.testing.assert_close(mean.bias[batch.mask], (p @ student.lm_head.bias.double())[batch.mask].float())
    torch.testing.assert_close(mean.entropy[batch.mask], torch.special.entr(p).sum(-1)[batch.mask].float())
    assert not bool(mean.mean[~batch.mask].any())


def test_another_student_another_loss_and_another_temperature_are_refused(tmp_path):
    mean = MeanEmbeddingTeacher(Language(5), frozen())
    cached = CachedTeacher(mean, tmp_path, encoding=mean.encoding)
    list(fill_cache(cached, loader()))
    with pytest.raises(LimbeckError, match="another output layer"):
        losses(CachedTeacher(None, tmp_path, encoding=mean.encoding), frozen(seed=2))
    with pytest.raises(LimbeckError, match="reverse_kl"):
        losses(cached, frozen(), kernel=reverse_kl)
    for teacher in (mean, cached):
        with pytest.raises(LimbeckError, match="temperature"):
            losses(teacher, frozen(), temperature=3.0)
    other = MeanEmbeddingTeacher(Language(5), frozen(seed=2))
    with pytest.raises(LimbeckError, match="another teacher"):
        list(fill_cache(CachedTeacher(other, tmp_path, encoding=other.encoding), loader()))
    assert other.fingerprint != mean.fingerprint


def test_what_cannot_be_a_mean_is_refused_when_it_is_made(tmp_path):
    with pytest.raises(LimbeckError, match="freeze it"):
        MeanEmbeddingTeacher(Language(5), Language(1))
    with pytest.raises(LimbeckError, match="output layer"):
        MeanEmbeddingTeacher(Language(5), nn.Embedding(3, 4))
    mean = MeanEmbeddingTeacher(Language(5), frozen())
    with pytest.raises(LimbeckError, match="its encoding"):
        CachedTeacher(mean, tmp_path, encoding="float16")
    with pytest.raises(LimbeckError, match="MeanEmbeddingTeacher"):
        list(fill_cache(CachedTeacher(Language(5), tmp_path, encoding=mean.encoding), loader()))
    assert mean.describe()["of"]["teacher"] == "ModelTeacher"
