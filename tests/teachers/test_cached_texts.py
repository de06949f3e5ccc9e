"""Outputs for texts are stored without padding and found for every padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, ShuffledLoader
from limbeck.cache import CacheReader
from limbeck.errors import LimbeckError
from limbeck.teachers import CachedTeacher, TeacherContext, fill_cache, verify_cache
from teachers.asked import Changed, unchanged


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(9, 5), nn.Linear(5, 9)

    def forward(self, x):
        return self.out(self.embed(x))


def texts():
    """Six texts with their lengths, and a way to pad each batch to its longest."""
    words, lengths = torch.randint(9, (6, 7)), torch.tensor([7, 2, 3, 0, 1, 5])

    def padded(epoch):
        for batch in epoch:
            longest = max(int(lengths[batch.id].max()), 1)
            mask = torch.arange(longest) < lengths[batch.id][:, None]
            yield batch._replace(inputs=batch.inputs[:, :longest], mask=mask)

    return words, lengths, padded


def test_texts_of_differing_lengths_can_be_asked_again(tmp_path):
    words, lengths, padded = texts()
    net = Words()
    whole = ShuffledLoader(ArrayDataset(words), batch_size=2, shuffle=False)
    list(fill_cache(CachedTeacher(net, tmp_path / "s"), Changed(whole, padded), preprocess=unchanged))

    def again(change=padded, stream=whole):
        stream = Changed(stream, change)
        return verify_cache(CachedTeacher(net, tmp_path / "s"), stream, preprocess=unchanged, sample=6)

    found = again()
    assert (found.answers, found.identical, found.same) == (6, 1.0, True)
    assert found.divergence == 0.0
    padded_otherwise = again(stream=ShuffledLoader(ArrayDataset(words), batch_size=3, seed=5))
    assert padded_otherwise.same, "the last bits depend on how far a text is padded"
    assert padded_otherwise.divergence < 1e-6
    net.forward = lambda x: net.out(net.embed(x) * (1 + (x == words[0, 6]).unsqueeze(-1)))  # which no fingerprint sees
    other = again()
    met = sum(bool((words[row, : max(int(length), 1)] == words[0, 6]).any()) for row, length in enumerate(lengths))
    assert other.identical == pytest.approx(1 - met / 6), "an answer is the same if all its positions are"
    assert other.divergence > 1e-3
    assert not other.same

    def shorter(epoch):
        return (batch._replace(mask=batch.mask & (torch.arange(batch.mask.shape[1]) < 2)) for batch in padded(epoch))

    with pytest.raises(LimbeckError, match="other lengths"):
        again(shorter)


def test_texts_are_kept_without_their_padding(tmp_path):
    words, lengths, padded = texts()
    net = Words()
    for seed in range(3):
        stream = Changed(ShuffledLoader(ArrayDataset(words), batch_size=2, seed=seed), padded)
        teacher = CachedTeacher(net, tmp_path / "s", encoding="float32")
        with teacher.open(TeacherContext(preprocess=unchanged, loader=stream)) as answer:
            for batch in stream.batches(0, 0):
                shown = answer(batch)["logits"]
                assert shown.shape[:2] == batch.mask.shape
                with torch.no_grad():
                    torch.testing.assert_close(shown[batch.mask], net(batch.inputs)[batch.mask])
    assert sum(CacheReader(tmp_path / "s").keys.positions) == lengths.clamp_min(1).sum()


@pytest.mark.parametrize("side", ["left", "right", "scattered"])
@pytest.mark.parametrize("encoding", ["float32", "top-k"])
def test_it_does_not_matter_where_the_padding_is(side, encoding, tmp_path):
    """Filled beside some texts, read beside others: each token has its own answer."""
    words, lengths, _ = texts()
    net, spec = Words(), {"name": encoding, "k": 9, "bits": 32} if encoding == "top-k" else encoding

    def padded(epoch):
        for batch in epoch:
            own = lengths[batch.id]
            longest = max(int(own.max()), 1)
            mask = torch.arange(longest) < own[:, None]
            mask = mask.flip(1) if side == "left" else mask
            if side == "scattered":
                mask = torch.arange(2 * longest) % 2 == 1
                mask = mask & (torch.arange(2 * longest) < 2 * own[:, None])
            inputs = torch.zeros(mask.shape, dtype=torch.int64)
            for row, id in enumerate(batch.id.tolist()):
                inputs[row, mask[row]] = words[id, : int(own[row])]
            yield batch._replace(inputs=inputs, mask=mask)

    for size, seed in ((2, 0), (3, 1), (6, 2)):
        stream = Changed(ShuffledLoader(ArrayDataset(words), batch_size=size, seed=seed), padded)
        teacher = CachedTeacher(net, tmp_path / "s", encoding=spec)
        with teacher.open(TeacherContext(preprocess=unchanged, loader=stream)) as answer, torch.no_grad():
            for batch in stream.batches(0, 0):
                shown = answer(batch)
                wanted = net(batch.inputs)[batch.mask]
                if encoding == "float32":
                    found = shown["logits"][batch.mask]
                    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
                else:
                    found = shown.partial["logits"].spread()[batch.mask]
                    torch.testing.assert_close(found.softmax(-1), wanted.softmax(-1), rtol=1e-4, atol=1e-5)
    assert sum(CacheReader(tmp_path / "s").keys.positions) == lengths.clamp_min(1).sum()


def test_a_text_that_is_all_padding_may_be_answered_with_nan(tmp_path):
    words, _, padded = texts()
    net = Words()

    class Nothing(nn.Module):
        def forward(self, x):
            shown = net(x)
            shown[x.shape[1] == 1] = torch.nan
            return shown

    def one_by_one(epoch):
        for batch in padded(epoch):
            yield batch._replace(mask=batch.mask & (batch.id != 3)[:, None])

    stream = Changed(ShuffledLoader(ArrayDataset(words), batch_size=1, shuffle=False), one_by_one)
    teacher = CachedTeacher(Nothing(), tmp_path / "s")
    with pytest.raises(LimbeckError, match="NaN"):  # text 4 is one word long, and counts
        list(fill_cache(teacher, stream, preprocess=unchanged))
    assert 3 in CacheReader(tmp_path / "s").keys.id
