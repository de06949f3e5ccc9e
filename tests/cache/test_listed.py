"""Lists of classes whose log-probabilities are known at one temperature: stored, compared, refused at others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cache.records import again, encoded
from limbeck import ArrayDataset, ShuffledLoader
from limbeck.batch import Batch, Outputs
from limbeck.cache import CacheReader, kl_error, make_encoding
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.functional import kl_divergence, reverse_kl
from limbeck.teachers import (
    CachedTeacher,
    FunctionSession,
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    fill_cache,
    verify_cache,
)
from limbeck.top_k_logits import TopKLogits

CLASSES, K = 40, 6


def listed(logits, *, k=K, temperature=1.0) -> TopKLogits:
    """What a server lists: the k largest log-probabilities, the largest first."""
    log_p = (logits.double() / temperature).log_softmax(-1)
    best = log_p.topk(k, -1)
    return TopKLogits.from_log_probs(best.indices, best.values, classes=logits.shape[-1], temperature=temperature)


def merged_kl(student, logits, temperature):
    """By brute force: KL of the k listed classes and of all others together."""
    p, q = (logits.double() / temperature).softmax(-1), (student.double() / temperature).softmax(-1)
    ids = p.topk(K, -1).indices
    buckets = []
    for one in (p, q):
        some = one.gather(-1, ids)
        buckets.append(torch.cat([some, (1 - some.sum(-1, keepdim=True)).clamp_min(0)], -1))
    return temperature**2 * (buckets[0] * (buckets[0] / buckets[1]).log()).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.7])
def test_a_list_is_compared_as_the_merged_classes(temperature):
    torch.manual_seed(0)
    logits, student = 3 * torch.randn(9, CLASSES), torch.randn(9, CLASSES)
    expected = merged_kl(student, logits, temperature)
    found = listed(logits, temperature=temperature).compare(kl_divergence, student.double(), temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", [6, 10, 16, 32])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("from_list", [True, False])
def test_stored_lists_keep_the_mass(bits, temperature, from_list):
    torch.manual_seed(1)
    logits = 3 * torch.randn(50, CLASSES)
    encoding = make_encoding("listed", classes=CLASSES, k=K, bits=bits, temperature=temperature)
    decoded = again(encoding, listed(logits, temperature=temperature) if from_list else logits)
    p = (logits.double() / temperature).softmax(-1)
    best = p.topk(K, -1)
    shares = (decoded.coarse(temperature).double() / temperature).softmax(-1)
    torch.testing.assert_close(decoded.ids, best.indices.sort(-1).values)
    own = p.gather(-1, decoded.ids)
    step = {6: 0.15, 10: 1e-2, 16: 5e-3, 32: 1e-5}[bits]
    torch.testing.assert_close(shares[:, :-1], own, rtol=step, atol=1e-7)
    torch.testing.assert_close(shares[:, -1], 1 - own.sum(-1), rtol=1e-4, atol=1e-6)
    if temperature == 1:
        assert kl_error(encoding, logits) == pytest.approx(
            kl_error(make_encoding("top-k", classes=CLASSES, k=K, bits=bits), logits), rel=2e-2, abs=1e-5
        )


def test_a_list_is_smaller_than_a_top_k_of_every_temperature():
    for classes, k in ((50257, 64), (151936, 128), (151936, 50)):
        top = make_encoding("top-k", classes=classes, k=k).width
        assert make_encoding("listed", classes=classes, k=k).width == top - 12


def test_other_temperatures_are_refused():
    one = listed(torch.randn(3, CLASSES))
    for refused in (2.0, 0.5):
        with pytest.raises(LimbeckError, match="temperature of 1 alone"):
            one.compare(kl_divergence, torch.randn(3, CLASSES).double(), temperature=refused)


def test_one_impossible_class_and_a_whole_list():
    logits = torch.full((2, CLASSES), -torch.inf)
    logits[:, :3] = torch.tensor([0.0, 1.0, 2.0])
    decoded = again(make_encoding("listed", classes=CLASSES, k=5, bits=32), listed(logits, k=5))
    shares = decoded.coarse().softmax(-1)
    assert float(shares[:, -1].max()) <= 2.0**-24  # what a list of probabilities in float32 leaves open
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))
    whole = listed(torch.randn(4, CLASSES), k=CLASSES)
    assert whole.coarse().softmax(-1)[:, -1].max() == 0


def test_no_list():
    ids = torch.tensor([[0, 1]])
    with pytest.raises(LimbeckError, match="sum to"):
        TopKLogits.from_log_probs(ids, torch.tensor([[2.0, 1.0]]), classes=5)
    with pytest.raises(LimbeckError, match="sum to"):
        TopKLogits.from_log_probs(ids, torch.tensor([[torch.nan, -1.0]]), classes=5)
    encoding = make_encoding("listed", classes=CLASSES, k=3)
    with pytest.raises(LimbeckError, match="k=6"):
        encoded(encoding, listed(torch.randn(2, CLASSES)))
    with pytest.raises(LimbeckError, match="TopKLogits"):
        encoded(make_encoding("float16", classes=CLASSES), listed(torch.randn(2, CLASSES)))
    with pytest.raises(ArgumentError):
        make_encoding("listed", classes=CLASSES, k=CLASSES + 1)
    with pytest.raises(ArgumentError):
        make_encoding("listed", classes=CLASSES, k=3, temperature=0.0)
    records = encoded(encoding, torch.randn(2, CLASSES))
    with pytest.raises(DataError):
        encoding.decode(records[:, :-1])


class Served(Teacher):
    """A teacher that lists the best classes, and counts how often it was asked."""

    def __init__(self, network):
        self.network, self.asked = network, 0

    capabilities = TeacherCapabilities(partial=True)
    fingerprint = "served"

    def open(self, context):
        def answer(batch: Batch) -> Outputs:
            self.asked += 1
            with torch.no_grad():
                return Outputs.of({"logits": listed(self.network(batch.inputs))})

        return FunctionSession(answer)


@pytest.mark.parametrize("text", [False, True])
def test_a_served_teacher_is_asked_once(text, tmp_path):
    torch.manual_seed(2)
    inputs = torch.randn(7, 5, 3) if text else torch.randn(7, 3)
    served, student = Served(nn.Linear(3, CLASSES)), nn.Linear(3, CLASSES)
    loader = ShuffledLoader(ArrayDataset(inputs), batch_size=3, seed=1)
    cached = CachedTeacher(served, tmp_path, encoding={"name": "listed", "k": K, "bits": 32})
    assert cached.capabilities.partial
    list(fill_cache(cached, loader))
    assert served.asked == 3
    with cached.open(TeacherContext(loader=loader, temperatures=frozenset({1.0}))) as answer, torch.no_grad():
        for batch in loader.batches(0, 0):
            found = answer(batch).partial["logits"].compare(reverse_kl, student(batch.inputs))
            expected = listed(served.network(batch.inputs)).compare(reverse_kl, student(batch.inputs).double())
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert served.asked == 3
    assert verify_cache(cached, loader, sample=7).same
    assert len(CacheReader(tmp_path)) == 7


def test_what_cannot_be_stored_is_refused_before_the_teacher_is_asked(tmp_path):
    served = Served(nn.Linear(3, CLASSES))
    loader = ShuffledLoader(ArrayDataset(torch.randn(4, 3)), batch_size=2)
    for encoding in ("float16", {"name": "top-k", "k": 3}):
        with pytest.raises(LimbeckError, match="listed"):
            CachedTeacher(served, tmp_path, encoding=encoding)
    cached = CachedTeacher(served, tmp_path, encoding={"name": "listed", "k": K})
    with pytest.raises(LimbeckError, match="temperature of 1 alone"):
        cached.open(TeacherContext(loader=loader, temperatures=frozenset({4.0})))
    assert served.asked == 0
