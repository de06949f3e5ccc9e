"""Positions and rows of token data sets selected by a score of each token (SE-KD)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck import ShuffledLoader
from limbeck.cache import CacheReader
from limbeck.data import (
    ArrayDataset,
    PositionSubset,
    TokenDataset,
    open_cached_texts,
    select_positions,
    select_rows,
    train_tokenizer,
)
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.metrics import score_tokens
from limbeck.teachers import CachedTeacher, TeacherContext, fill_cache
from limbeck.testing import check_loader

ROWS = [{"prompt": "a b c", "completion": text} for text in (" d e f g h a", " c", " b a h", " e f g h")]
TOKENIZER = train_tokenizer(["a b c d e f g h"], vocabulary=30)
LAYOUTS = [{}, {"padding_side": "left"}, {"packing": True}, {"max_length": 6, "too_long": "window"}]


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.lm_head = nn.Embedding(len(TOKENIZER), 5), nn.Linear(5, len(TOKENIZER))

    def forward(self, input_ids, position_ids, attention_mask=None, use_cache=None):
        return self.lm_head(self.embed(input_ids) * (1 + position_ids.unsqueeze(-1)))


def dataset(**how):
    return TokenDataset(ROWS, tokenizer=TOKENIZER, add_eos_token=False, **{"max_length": 32, **how})


def everything(data):
    return data.take(torch.arange(len(data)))


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("score", ["entropy", "nll"])
def test_scores_are_those_of_the_dense_logits(how, score):
    data, net = dataset(**how), Net()
    batch = everything(data)
    log_q = net(**batch.inputs).detach().double().log_softmax(-1)[batch.mask]
    expected = torch.special.entr(log_q.exp()).sum(-1)
    if score == "nll":
        expected = -log_q.gather(1, batch.labels[batch.mask][:, None])[:, 0]
    for size in (1, 3):
        found = score_tokens(net, data, score=score, batch_size=size)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1.0])
def test_each_text_of_a_row_keeps_its_share_of_the_largest_scores(how, share):
    data = dataset(**how)
    scores = torch.rand(data.labeled_tokens, generator=torch.Generator().manual_seed(1))
    chosen, before = everything(select_positions(data, scores, share=share)), everything(data)
    values = torch.zeros(before.mask.shape).masked_scatter(before.mask, scores)
    assert not bool((chosen.mask & ~before.mask).any())
    for row in range(len(data)):
        for text in before.extra["text_number"][row][before.mask[row]].unique():
            own = before.mask[row] & (before.extra["text_number"][row] == text)
            mine = chosen.mask[row] & own
            assert int(mine.sum()) == math.ceil(share * int(own.sum()) - 1e-9)
            rest = values[row][own & ~mine]
            assert len(rest) == 0 or float(values[row][mine].min()) >= float(rest.max())
    for name in before.inputs:
        if name != "use_cache":
            assert torch.equal(chosen.inputs[name], before.inputs[name]), "context stays"


def test_random_scores_and_equal_ones_give_the_share_too():
    data = dataset()
    chosen = everything(select_positions(data, torch.zeros(data.labeled_tokens), share=0.5)).mask
    before = everything(data).mask
    assert chosen.sum(1).tolist() == [math.ceil(n / 2) for n in before.sum(1).tolist()]
    assert bool((chosen.cumsum(1)[before] <= before.cumsum(1)[before]).all()), "the first of equal ones"


def test_rows_with_the_largest_mean():
    data = dataset()
    scores = score_tokens(Net(), data)
    means = [part.mean() for part in scores.split(everything(data).mask.sum(1).tolist())]
    best = sorted(sorted(range(4), key=lambda row: -means[row])[:2])
    assert select_rows(data, scores, share=0.5).ids.tolist() == best
    assert len(select_rows(data, scores, share=0.51)) == 3


def test_a_cache_stores_and_a_loss_reads_the_selected_positions_alone(tmp_path):
    data, student, teacher = dataset(), Net(1), Net(2)
    rows = select_rows(data, score_tokens(student, data), share=0.75)
    chosen = select_positions(rows, score_tokens(student, rows), share=0.4)
    check_loader(ShuffledLoader(chosen, batch_size=2))
    cached = CachedTeacher(teacher, tmp_path / "s", encoding="float32", inputs=True)
    list(fill_cache(cached, ShuffledLoader(chosen, batch_size=2)))
    assert int(CacheReader(tmp_path / "s").keys.positions.sum()) == chosen.labeled_tokens < data.labeled_tokens
    again = open_cached_texts(tmp_path / "s")
    assert again.fingerprint == chosen.fingerprint
    loader = ShuffledLoader(again, batch_size=3, seed=4)
    objective, total, count = Loss(kl_divergence), 0.0, 0
    with CachedTeacher(None, tmp_path / "s").open(TeacherContext(loader=loader)) as answer, torch.no_grad():
        for batch in loader.batches(0, 0):
            own, theirs = student(**batch.inputs), teacher(**batch.inputs)
            expected = kl_divergence(own[batch.mask], theirs[batch.mask]).sum()
            term = term_of(objective, own, answer(batch), batch)
            torch.testing.assert_close(term.total, expected, rtol=1e-5, atol=1e-6)
            total, count = total + float(term.total), count + int(term.count)
    assert count == chosen.labeled_tokens


def term_of(objective, own, outputs, batch):
    from limbeck.batch import Outputs, Progress

    terms = objective(Outputs(logits=own), outputs, batch, Progress())
    return next(iter(terms.values()))


def test_the_other_order_has_no_files():
    data = dataset()
    chosen = select_positions(data, torch.zeros(data.labeled_tokens), share=0.5)
    with pytest.raises(LimbeckError, match="rows first"):
        chosen.select(torch.tensor([0])).to_files()


@pytest.mark.parametrize("share", [0.0, 1.1, -0.1, math.nan])
def test_no_share(share):
    data = dataset()
    for select in (select_positions, select_rows):
        with pytest.raises(ArgumentError):
            select(data, torch.zeros(data.labeled_tokens), share=share)


def test_other_data_and_other_scores():
    data = dataset()
    for select in (select_positions, select_rows):
        with pytest.raises(DataError, match="scores"):
            select(data, torch.zeros(3), share=0.5)
        with pytest.raises(DataError, match="NaN"):
            select(data, torch.full((data.labeled_tokens,), math.nan), share=0.5)
        with pytest.raises(DataError, match="mask"):
            select(ArrayDataset(torch.zeros(3, 2)), torch.zeros(3), share=0.5)
    with pytest.raises(DataError, match="0 of"):
        PositionSubset(data, torch.zeros(data.labeled_tokens, dtype=torch.bool))
    with pytest.raises(LimbeckError, match="entropy"):
        score_tokens(Net(), data, score="entropi")
