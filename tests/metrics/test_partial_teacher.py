"""Students are compared with teachers of which only some logits are stored: bounds, and exact values where they are."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch
from limbeck.cache.encodings import make_encoding
from limbeck.data import ShuffledLoader, TokenDataset, train_tokenizer
from limbeck.errors import LimbeckError
from limbeck.metrics.language import TextSumsState, kl_at_least, kl_to_teacher
from limbeck.metrics.partial_teacher import compare_with_partial
from limbeck.models import VocabularyAlignment
from limbeck.tasks import LanguageModeling
from limbeck.teachers import AlignedTeacher, CachedTeacher, fill_cache
from limbeck.teachers.aligned import AlignedLogits
from limbeck.top_k_logits import TopKLogits

CLASSES, ROWS = 30, 50


def encode(logits, name="top-k", **options):
    rows = torch.arange(len(logits))
    encoding = make_encoding(name, classes=logits.shape[-1], **options)
    return encoding.decode(encoding.encode(logits.float(), id=rows, view=rows * 0, position=rows * 0))


@pytest.fixture
def pair():
    draw = torch.Generator().manual_seed(0)
    return tuple(2 * torch.randn(ROWS, CLASSES, generator=draw, dtype=torch.float64) for _ in range(2))


def values_of(student, teacher):
    q, p = student.softmax(1), teacher.softmax(1)
    return {
        "kl": (p * (p / q).log()).sum(1),
        "reverse": (q * (q / p).log()).sum(1),
        "acceptance": torch.minimum(p, q).sum(1),
        "agreement": (q.argmax(1) == p.argmax(1)).double(),
        "best": p.argsort(1, descending=True)[:, :10],
    }


def merge(probabilities, ids):
    listed = probabilities.gather(1, ids)
    return torch.cat([listed, 1 - listed.sum(1, keepdim=True)], 1)


@pytest.mark.parametrize("k", [1, 4, 12, 29])
def test_bounds_are_those_of_merged_classes_and_bounds(k, pair):
    student, teacher = pair
    values, exact = compare_with_partial(student, encode(teacher, k=k, bits=32), top_k=10), values_of(*pair)
    ids = teacher.argsort(1, descending=True)[:, :k]
    q, p = merge(student.softmax(1), ids), merge(teacher.softmax(1), ids)
    torch.testing.assert_close(values["kl_at_least"], (p * (p / q).log()).sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values["reverse_kl_at_least"], (q * (q / p).log()).sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values["acceptance_at_most"], torch.minimum(p, q).sum(1), rtol=1e-4, atol=1e-5)
    assert bool((values["kl_at_least"] <= exact["kl"] + 1e-5).all())
    assert bool((values["reverse_kl_at_least"] <= exact["reverse"] + 1e-5).all())
    assert bool((values["acceptance_at_most"] >= exact["acceptance"] - 1e-5).all())
    torch.testing.assert_close(values["agreement"], exact["agreement"])
    mass = student.softmax(1).gather(1, exact["best"]).sum(1)
    if k >= 10:
        torch.testing.assert_close(values["top_k_mass"], mass)
        assert bool(values["top_k_overlap"].isfinite().all())
    else:
        assert bool(values["top_k_mass"].isnan().all() & values["top_k_overlap"].isnan().all())


def test_sampled_classes_give_an_estimate_without_bias(pair):
    student, teacher = pair
    sampled = encode(teacher[:1].expand(4000, -1), "sampled", draws=8, power=1.0)
    values = compare_with_partial(student[:1].expand(4000, -1), sampled, top_k=10)
    assert set(values) == {"kl_to_teacher", "teacher_entropy"}
    exact = float(values_of(*pair)["kl"][0])
    error = float(values["kl_to_teacher"].std()) / math.sqrt(4000)
    assert float(values["kl_to_teacher"].mean()) == pytest.approx(exact, abs=4 * error)
    p = teacher[0].softmax(0)
    assert float(values["teacher_entropy"][0]) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-3)


def test_sampled_classes_that_the_student_lacks_leave_nothing_known(pair):
    student, teacher = pair
    sampled = encode(teacher, "sampled", draws=8, power=1.0)
    moved = AlignedLogits(sampled, torch.arange(CLASSES), classes=CLASSES)
    assert set(compare_with_partial(student, moved, top_k=10)) == {"kl_to_teacher", "teacher_entropy"}
    sampled.classes = 21
    assert compare_with_partial(student[:, :20], AlignedLogits(sampled, slice(0, 20), classes=20), top_k=10) == {}


def test_a_server_s_list_is_compared_too(pair):
    student, teacher = pair
    log_p, ids = teacher.log_softmax(1).topk(12, 1)
    values = compare_with_partial(student, TopKLogits.from_log_probs(ids, log_p, classes=CLASSES), top_k=10)
    stored = compare_with_partial(student, encode(teacher, k=12, bits=32), top_k=10)
    for name, value in stored.items():
        torch.testing.assert_close(values[name], value, rtol=1e-4, atol=1e-5)


def test_tokens_that_the_student_lacks_leave_fewer_known_ones(pair):
    student, teacher = pair
    student = student[:, :20]
    partial = encode(teacher, k=11, bits=32)
    ids = torch.where(partial.ids < 20, partial.ids, 20)
    renumbered = TopKLogits(
        ids, partial.depths.masked_fill(ids == 20, -math.inf), partial.top, partial.rest, classes=21, grid=partial.grid
    )
    aligned = AlignedLogits(renumbered, slice(0, 20), classes=20)
    values = compare_with_partial(student, aligned, top_k=10)
    known = (partial.ids < 20).sum(1) >= 10
    assert torch.equal(values["top_k_mass"].isfinite(), known)
    best = teacher[:, :20].argmax(1)
    right = (student.argmax(1) == best).double()
    there = values["agreement"].isfinite()
    torch.testing.assert_close(values["agreement"][there], right[there])
    assert bool((values["kl_at_least"] >= 0).all())


def test_sums_hold_what_is_known_and_the_rest_is_refused_by_name(pair):
    student, teacher = pair
    state = TextSumsState()
    batch = Batch(torch.zeros(1, ROWS), labels=torch.arange(ROWS)[None] % CLASSES)
    state.update(student[None], batch, encode(teacher, k=5).reshape(1, ROWS))
    sums = state.compute()
    assert kl_at_least(sums).value > 0
    with pytest.raises(LimbeckError, match="kl_at_least"):
        kl_to_teacher(sums)


TOKENIZER = train_tokenizer(["a b c d e f g h"], vocabulary=40)


class Bigram(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(len(TOKENIZER), len(TOKENIZER)))

    def forward(self, input_ids, **_):
        return self.table[input_ids]


@pytest.mark.parametrize("aligned", [False, True])
def test_evaluation_with_a_stored_teacher_alone(aligned, tmp_path):
    data = TokenDataset(["a b c d e", "h g f", "a a b"], tokenizer=TOKENIZER, add_eos_token=False)
    teacher, student, task = Bigram(0), Bigram(1), LanguageModeling().fit(data)
    spec = {"name": "top-k", "k": 10}
    list(fill_cache(CachedTeacher(teacher, tmp_path / "c", encoding=spec), ShuffledLoader(data, batch_size=2)))
    stored = CachedTeacher(None, tmp_path / "c")
    if aligned:
        same = torch.arange(task.outputs)
        stored = AlignedTeacher(stored, VocabularyAlignment(same, same, task.outputs, task.outputs, {}))
    loader = ShuffledLoader(data, batch_size=2, shuffle=False)
    bounds = task.evaluate(student, loader, teacher=stored).measures
    exact = task.evaluate(student, loader, teacher=teacher).measures
    assert 0 < bounds["kl_at_least"] <= exact["kl_to_teacher"]
    assert bounds["acceptance_at_most"] >= exact["acceptance"]
    assert bounds["top_k_mass"] == pytest.approx(exact["top_k_mass"], rel=1e-5)
    assert bounds["agreement"] == exact["agreement"]
    assert {"kl_to_teacher", "acceptance", "teacher_entropy"}.isdisjoint(bounds)
    assert {"kl_at_least", "acceptance_at_most"}.isdisjoint(exact)
    with pytest.raises(LimbeckError):  # its own likelihood is not known
        task.evaluate(stored, loader)
