"""`SelectiveLoss`: the positions of each text where the current student is least sure."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ShuffledLoader, TokenDataset, train_tokenizer
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import HiddenLogits, OutputLayer, cross_entropy, kl_divergence, reverse_kl, squared_error
from limbeck.losses import Loss, LossContext, SelectiveLoss
from limbeck.recipe import Optimizer, Stage

WORDS, WIDTH = 13, 4


def make_batch(packed=False):
    """Three rows of 10 positions with 9, 4 and 10 that count, and logits of both sides."""
    torch.manual_seed(0)
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[0, 3], mask[1, :6] = False, False
    labels = torch.randint(WORDS, (3, 10)).masked_fill(~mask, -100)
    text = torch.tensor([[0] * 5 + [1] * 5] * 3) if packed else torch.zeros(3, 10, dtype=torch.int64)
    batch = Batch(torch.zeros(3, 10), labels=labels, mask=mask, extra={"text_number": text})
    return batch, *(torch.randn(3, 10, WORDS, dtype=torch.float64) for _ in range(2))


def brute_force(batch, scores, share):
    """The selected positions, text by text."""
    chosen = torch.zeros_like(batch.mask)
    for row in range(len(batch.mask)):
        for text in batch.extra["text_number"][row].unique():
            own = [i for i in range(10) if batch.mask[row, i] and batch.extra["text_number"][row, i] == text]
            own.sort(key=lambda i: -float(scores[row, i]))
            chosen[row, own[: math.ceil(share * len(own) - 1e-9)]] = True
    return chosen


def score_all(score, batch, student, teacher):
    log_q = student.log_softmax(-1)
    if score == "entropy":
        return -(log_q.exp() * log_q).sum(-1)
    if score == "nll":
        return -log_q.gather(-1, batch.labels.clamp_min(0)[..., None])[..., 0]
    return kl_divergence(student, teacher)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("score", ["entropy", "nll", "loss"])
def test_it_is_the_mean_at_the_selected_positions(score, share, packed):
    batch, student, teacher = make_batch(packed)
    loss = SelectiveLoss(Loss(kl_divergence), share=share, score=score)
    chosen = brute_force(batch, score_all(score, batch, student, teacher), share)
    student.requires_grad_()
    expected = (kl_divergence(student, teacher) * chosen).sum()
    total, count, _ = loss.term(Outputs(logits=student), Outputs(logits=teacher), batch, Progress())
    assert count == int(chosen.sum()) == loss.count(batch)
    torch.testing.assert_close(total, expected)
    (slope,) = torch.autograd.grad(total, student)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, student)[0])
    assert bool((slope[~chosen] == 0).all())


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside labels"])
@pytest.mark.parametrize("score", ["entropy", "nll", "loss"])
def test_without_logits_it_is_the_same(score, beside):
    batch, _, teacher = make_batch()
    hidden = torch.randn(3, 10, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(WORDS, WIDTH, dtype=torch.float64, requires_grad=True)
    objective = SelectiveLoss(Loss(reverse_kl), share=0.3, score=score)
    if beside:
        objective = 0.8 * objective + 0.2 * Loss(cross_entropy)
    results = []
    for student in (
        Outputs(logits=hidden @ weight.T),
        Outputs.of({"logits": HiddenLogits(hidden, OutputLayer(weight), requires_grad=True)}),
    ):
        context = LossContext(student, Outputs(logits=teacher), batch)
        terms = objective.setup(context)(student, Outputs(logits=teacher), batch, Progress())
        value = sum(term.weight * term.total / term.count for term in terms.values())
        results.append([value.detach(), *torch.autograd.grad(value, [hidden, weight])])
    for dense, fused in zip(*results, strict=True):
        torch.testing.assert_close(dense, fused)


def test_everything_is_selected_with_a_share_of_1_and_where_outputs_have_no_positions():
    batch, student, teacher = make_batch()
    sides = Outputs(logits=student), Outputs(logits=teacher)
    whole = Loss(kl_divergence).term(*sides, batch, Progress())
    torch.testing.assert_close(SelectiveLoss(Loss(kl_divergence), share=1.0).term(*sides, batch, Progress()), whole)
    flat = Outputs(logits=student[0]), Outputs(logits=teacher[0])
    one_each = SelectiveLoss(Loss(kl_divergence), share=0.1)
    rows = Batch(torch.zeros(10, 2))
    torch.testing.assert_close(
        one_each.term(*flat, rows, Progress()), Loss(kl_divergence).term(*flat, rows, Progress())
    )


def test_maps_and_batches_without_a_mask():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    batch, loss = Batch(torch.zeros(2, 1)), SelectiveLoss(Loss(kl_divergence, classes=1), share=0.5)
    sides = Outputs(logits=student), Outputs(logits=teacher)
    fitted = loss.setup(LossContext(*sides, batch))
    log_q = student.movedim(1, -1).log_softmax(-1)
    best = [part.flatten().topk(6).indices for part in -(log_q.exp() * log_q).sum(-1)]
    values = kl_divergence(student.movedim(1, -1), teacher.movedim(1, -1)).flatten(1)
    total, count, _ = fitted.term(*sides, batch, Progress())
    assert count == fitted.count(batch) == 12
    torch.testing.assert_close(total, sum(row[index].sum() for row, index in zip(values, best, strict=True)))


def test_a_mask_of_its_own_is_replaced():
    batch, student, teacher = make_batch()
    text = torch.ones(3, 10, dtype=torch.bool)
    batch = batch._replace(extra={**batch.extra, "masks": {"text": text}})
    loss = SelectiveLoss(Loss(kl_divergence, where="text"), share=0.2)
    total, count, _ = loss.term(Outputs(logits=student), Outputs(logits=teacher), batch, Progress())
    scores = score_all("entropy", batch, student, teacher)
    assert count == 6
    chosen = brute_force(batch._replace(mask=text), scores, 0.2)
    torch.testing.assert_close(total, kl_divergence(student, teacher)[chosen].sum())


TOKENIZER = train_tokenizer(["a b c d e f g h"], vocabulary=30)
TEXTS = ["a b c d e f g h a", "c d", "b a h g", "e f g h a b c", "d", "h g f e d"]


class Net(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.lm_head = nn.Embedding(len(TOKENIZER), 5), nn.Linear(5, len(TOKENIZER))

    def forward(self, input_ids, position_ids, attention_mask=None, use_cache=None):
        return self.lm_head(self.embed(input_ids) * (1 + position_ids.unsqueeze(-1)))


@pytest.mark.parametrize("fuse", [False, True])
def test_a_run_does_not_depend_on_how_batches_are_split(fuse):
    data = TokenDataset(TEXTS, tokenizer=TOKENIZER, add_eos_token=False, max_length=16)

    def train(size, accumulate):
        student = Net(1).double()
        stage = Stage(SelectiveLoss(Loss(kl_divergence), share=0.4), teacher=Net(2).double(), steps=3)
        loader = ShuffledLoader(data, batch_size=size, shuffle=False)
        distill(student, stage, loader, accumulate=accumulate, optimizer=Optimizer("sgd", lr=0.5),
                fuse_output_layer=fuse, accelerator="cpu").finish()  # fmt: skip
        return student.state_dict()

    for name, tensor in train(6, 1).items():
        torch.testing.assert_close(tensor, train(2, 3)[name], msg=name)


def test_what_cannot_be_selected_is_refused_when_it_is_built():
    for loss in (Loss(squared_error, student="a", teacher="a"), Loss(kl_divergence, head=nn.Identity())):
        with pytest.raises(LimbeckError):
            SelectiveLoss(loss)
    for share in (0.0, 1.1, -0.2, math.nan):
        with pytest.raises(ArgumentError):
            SelectiveLoss(Loss(kl_divergence), share=share)
    with pytest.raises(LimbeckError):
        SelectiveLoss(Loss(kl_divergence), score="entropie")
    with pytest.raises(ArgumentError):
        SelectiveLoss(Loss(kl_divergence, classes=1), score="nll")
