"""A teacher with another vocabulary: its outputs and the student's are compared over the shared tokens alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cache.records import again
from limbeck import ArrayDataset, CachedTeacher, ModelTeacher, ShuffledLoader, ShuffledTeacher
from limbeck import functional as K
from limbeck.batch import LOGITS, Batch, Outputs, Progress
from limbeck.cache.encodings import make_encoding
from limbeck.data import Dataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import HiddenLogits, OutputLayer, cross_entropy, fused_linear_losses
from limbeck.functional.output_layer import find_hidden_logits
from limbeck.losses import Loss, LossContext
from limbeck.models import VocabularyAlignment
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import (
    AlignedLogits,
    AlignedTeacher,
    FunctionSession,
    Teacher,
    TeacherContext,
    TranslatedTeacher,
    fill_cache,
)
from limbeck.testing import check_teacher

DIVERGENCES = [name for name in K.__all__ if getattr(getattr(K, name), "divergence", False)]
SHARED, STUDENT, TEACHER = 6, 8, 9

PADDED = VocabularyAlignment(torch.arange(SHARED), torch.arange(SHARED), STUDENT, TEACHER, {})
PERMUTED = VocabularyAlignment(
    torch.tensor([0, 1, 3, 4, 6, 7]), torch.tensor([5, 0, 8, 2, 1, 6]), STUDENT, TEACHER, {2: "two", 5: "five"}
)
SUPERSET = VocabularyAlignment(torch.arange(STUDENT), torch.arange(STUDENT) + 1, STUDENT, TEACHER, {})
ALIGNMENTS = pytest.mark.parametrize("alignment", [PADDED, PERMUTED, SUPERSET], ids=["padded", "permuted", "superset"])


class Given(Teacher):
    """Shows one value at the logits."""

    def __init__(self, value):
        self.value = value

    def open(self, context):
        return FunctionSession(lambda batch: Outputs.of({LOGITS: self.value, "body": torch.ones(len(self.value), 2)}))

    @property
    def fingerprint(self):
        return "given"


def answer(value, alignment, batch=None):
    teacher = value if isinstance(value, Teacher) else Given(value)
    with AlignedTeacher(teacher, alignment).open(TeacherContext()) as session:
        return session(Batch(torch.zeros(5, 2)) if batch is None else batch)


def term(loss, student, teacher, batch):
    student = Outputs(logits=student)
    loss = loss.setup(LossContext(student, teacher, batch))
    return loss.term(student, teacher, batch, Progress()).total


def value_and_slope(loss, logits, teacher):
    student = logits.clone().requires_grad_()
    value = term(loss, student, teacher, Batch(None, id=torch.arange(len(logits))))
    return value.detach(), torch.autograd.grad(value, student)[0]


def draw(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(5, STUDENT, generator=generator, dtype=dtype)
    return student, 3 * torch.randn(5, TEACHER, generator=generator, dtype=dtype)


@ALIGNMENTS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_trap_17_a_divergence_is_that_of_the_shared_tokens_alone(name, temperature, alignment):
    student, teacher = draw()
    loss = Loss(getattr(K, name), temperature=temperature)
    value, slope = value_and_slope(loss, student, answer(teacher, alignment))
    shared = student[:, alignment.student_ids].clone().requires_grad_()
    truth = getattr(K, name)(shared, teacher[:, alignment.teacher_ids], temperature=temperature).sum()
    (expected,) = torch.autograd.grad(truth, shared)
    torch.testing.assert_close(value, truth.detach())
    torch.testing.assert_close(slope[:, alignment.student_ids], expected)
    others = torch.ones(STUDENT, dtype=torch.bool).index_fill(0, alignment.student_ids, False)
    assert bool((slope[:, others] == 0).all())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_trap_5_minus_infinity_on_both_sides_is_the_same_and_finite(name):
    student, teacher = draw()
    value, slope = value_and_slope(Loss(getattr(K, name)), student, answer(teacher, PERMUTED))
    dense = torch.full((5, STUDENT), -torch.inf, dtype=torch.float64)
    dense[:, PERMUTED.student_ids] = teacher[:, PERMUTED.teacher_ids]
    masked = student.masked_fill(dense == -torch.inf, -torch.inf).requires_grad_()
    truth = getattr(K, name)(masked, dense).sum()
    torch.testing.assert_close(value, truth.detach())
    (expected,) = torch.autograd.grad(truth, masked)
    torch.testing.assert_close(slope, expected)
    assert bool(value.isfinite())
    assert bool(slope.isfinite().all())
    torch.testing.assert_close(answer(teacher, PERMUTED)[LOGITS], dense)


@ALIGNMENTS
@pytest.mark.parametrize("name", DIVERGENCES)
def test_trap_17_what_stands_in_unused_outputs_changes_nothing(name, alignment):
    student, teacher = draw()
    loss = Loss(getattr(K, name))
    once = value_and_slope(loss, student, answer(teacher, alignment))
    for fill in (0.0, 50.0, -50.0):
        other = torch.full_like(teacher, fill).index_copy(1, alignment.teacher_ids, teacher[:, alignment.teacher_ids])
        mine = torch.full_like(student, fill).index_copy(1, alignment.student_ids, student[:, alignment.student_ids])
        again = value_and_slope(loss, mine, answer(other, alignment))
        torch.testing.assert_close(again, once)


@ALIGNMENTS
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(alignment):
    student, teacher = draw()
    student[:, alignment.student_ids] = teacher[:, alignment.teacher_ids]
    for name in DIVERGENCES:
        value, slope = value_and_slope(Loss(getattr(K, name)), student, answer(teacher, alignment))
        assert abs(float(value)) < 1e-12
        assert float(slope.abs().max()) < 1e-6


@ALIGNMENTS
@pytest.mark.parametrize("name", DIVERGENCES)
def test_hidden_states_stay_hidden_and_give_the_same(name, alignment):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(TEACHER, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(TEACHER, generator=generator, dtype=torch.float64)
    layer = OutputLayer(weight, bias, softcap=5.0, scale=0.7)
    aligned = answer(HiddenLogits(hidden, layer), alignment).raw(LOGITS)
    inner = aligned.logits if isinstance(aligned, AlignedLogits) else aligned
    assert isinstance(inner, HiddenLogits)
    assert len(inner.layer.weight) == alignment.shared
    student, _ = draw()
    value, slope = value_and_slope(Loss(getattr(K, name)), student, answer(layer.logits(hidden), alignment))
    if isinstance(aligned, AlignedLogits):
        own = student.clone().requires_grad_()
        mine = aligned.compare(getattr(K, name), own)
        torch.testing.assert_close(mine.sum().detach(), value)
        torch.testing.assert_close(torch.autograd.grad(mine.sum(), own)[0], slope)
    else:
        torch.testing.assert_close(aligned.to_dense(), layer.logits(hidden)[:, alignment.teacher_ids])


@pytest.mark.parametrize("lazy", [True, False])
@ALIGNMENTS
def test_fused_losses_read_an_aligned_teacher(alignment, lazy):
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    layer = OutputLayer(torch.randn(STUDENT, 4, generator=generator, dtype=torch.float64, requires_grad=True))
    own = OutputLayer(torch.randn(TEACHER, 3, generator=generator, dtype=torch.float64), softcap=4.0)
    states = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    teacher = own.logits(states)
    rows = answer(HiddenLogits(states, own) if lazy else teacher, alignment).raw(LOGITS)
    assert (find_hidden_logits(rows) is not None) == lazy
    labels = torch.tensor([0, 2, 5, 7, 1])  # some are unknown to the teacher

    def kl(student, token_rows):
        own = token_rows.teacher
        return (
            own.compare(K.kl_divergence, student) if isinstance(own, AlignedLogits) else K.kl_divergence(student, own)
        )

    losses = {"kl": kl, "ce": lambda student, token_rows: cross_entropy(student, labels=token_rows.labels)}
    fused = fused_linear_losses(hidden, layer, losses, teacher=rows, labels=labels, chunk=2)
    logits = layer.logits(hidden)
    truth = {
        "kl": K.kl_divergence(logits[:, alignment.student_ids], teacher[:, alignment.teacher_ids]).sum(),
        "ce": cross_entropy(logits, labels=labels).sum(),
    }
    for name, loss in fused.items():
        torch.testing.assert_close(loss.total, truth[name])
        torch.testing.assert_close(
            torch.autograd.grad(loss.total, (hidden, layer.weight), retain_graph=True),
            torch.autograd.grad(truth[name], (hidden, layer.weight), retain_graph=True),
        )


def partial(name, logits, **parameters):
    encoding = make_encoding(name, classes=logits.shape[-1], **parameters)
    return again(encoding, logits.float())


@ALIGNMENTS
@pytest.mark.parametrize("name", DIVERGENCES)
def test_top_k_with_every_class_is_the_dense_teacher(name, alignment):
    student, teacher = draw(dtype=torch.float32)
    loss = Loss(getattr(K, name))
    dense = value_and_slope(loss, student, answer(teacher, alignment))
    partly = value_and_slope(loss, student, answer(partial("top-k", teacher, k=TEACHER, bits=32), alignment))
    torch.testing.assert_close(partly, dense, rtol=1e-4, atol=1e-5)


@ALIGNMENTS
@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_merges_what_it_does_not_know_and_leaves_out_what_the_student_does_not(alignment, k):
    student, teacher = draw(dtype=torch.float32)
    teacher[:, alignment.from_teacher == alignment.shared] += 1.0  # so that some are among the largest
    top = partial("top-k", teacher, k=k, bits=32)
    value, _ = value_and_slope(Loss(K.kl_divergence), student, answer(top, alignment))
    truth = 0.0
    for row in range(5):
        ids = top.ids[row].tolist()
        p, q, rest_p, rest_q = [], [], 0.0, 0.0
        shared = dict(zip(alignment.teacher_ids.tolist(), alignment.student_ids.tolist(), strict=True))
        for c in range(TEACHER):
            if c in ids and c in shared:
                p.append(teacher[row, c].exp())
                q.append(student[row, shared[c]].exp())
            elif c not in ids:
                rest_p += teacher[row, c].exp()
                rest_q += student[row, shared[c]].exp() if c in shared else 0.0
        p, q = torch.stack([*p, rest_p]), torch.stack([*q, rest_q])
        truth += float((p / p.sum() * ((p / p.sum()) / (q / q.sum())).log()).sum())
    assert float(value) == pytest.approx(truth, rel=1e-4)


@ALIGNMENTS
def test_sampled_classes_point_where_the_shared_tokens_point(alignment):
    _, teacher = draw()
    student, teacher = torch.zeros(1, STUDENT), 0.4 * teacher[:1].float()
    many = partial("sampled", teacher, draws=20_000, power=1.0)
    value, slope = value_and_slope(Loss(K.kl_divergence), student, answer(many, alignment))
    p = teacher.softmax(-1)[0, alignment.teacher_ids]
    expected = torch.zeros(STUDENT)
    expected[alignment.student_ids] = p.sum() / alignment.shared - p
    assert bool(value.isfinite())
    torch.testing.assert_close(slope[0], expected, atol=0.02, rtol=0)


def test_losses_on_labels_read_every_output_of_the_student():
    student, teacher = draw()
    labels = torch.tensor([2, 5, 0, 1, 2])  # 2 and 5 are unknown to the teacher
    batch = Batch(None, id=torch.arange(5), labels=labels)
    loss = Loss(cross_entropy)
    torch.testing.assert_close(
        term(loss, student, answer(teacher, PERMUTED), batch), cross_entropy(student, labels=labels).sum()
    )


def test_kernels_that_need_more_than_the_two_are_refused_by_name():
    @K.kernel(per="example")
    def own_loss(student, teacher, labels):
        return (student - teacher).sum(-1)

    student, teacher = draw()
    batch = Batch(None, id=torch.arange(5), labels=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(LimbeckError, match="own_loss"):
        term(Loss(own_loss), student, answer(teacher, PERMUTED), batch)


class Reader(nn.Module):
    """Answers with a row for each token that it reads."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(TEACHER, TEACHER)

    def forward(self, input_ids, **more):
        return self.table(input_ids)


def tokens(ids, mask=None):
    inputs = {"input_ids": torch.tensor(ids)}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
    return Batch(inputs, id=torch.arange(len(ids)))


def test_the_teacher_reads_the_students_tokens_under_its_own_ids():
    model = Reader()
    own = answer(ModelTeacher(model), PERMUTED, tokens([[0, 3, 7]]))
    expected = model.table.weight[torch.tensor([5, 8, 6])].detach()[:, PERMUTED.teacher_ids]
    torch.testing.assert_close(own[LOGITS][0][:, PERMUTED.student_ids], expected)
    plain = answer(
        ModelTeacher(nn.Embedding.from_pretrained(model.table.weight.detach())),
        PERMUTED,
        Batch(torch.tensor([[0, 3, 7]])),
    )
    torch.testing.assert_close(plain[LOGITS], own[LOGITS])


def test_padding_may_be_unknown_to_the_teacher_and_a_token_of_the_text_may_not():
    model = Reader()
    whole = answer(ModelTeacher(model), PERMUTED, tokens([[0, 3, 2]], [[1, 1, 0]]))[LOGITS]
    torch.testing.assert_close(whole[:, :2], answer(ModelTeacher(model), PERMUTED, tokens([[0, 3]]))[LOGITS])
    with pytest.raises(LimbeckError, match="'two'"):
        answer(ModelTeacher(model), PERMUTED, tokens([[0, 3, 2]], [[1, 1, 1]]))
    with pytest.raises(LimbeckError, match="'five'"):
        answer(ModelTeacher(model), PERMUTED, tokens([[0, 5, 1]]))


def test_an_encoder_decoder_reads_its_own_ids_on_both_sides():
    class Writer(Reader):
        def forward(self, input_ids, decoder_input_ids=None, labels=None, **more):
            written = decoder_input_ids if labels is None else labels.clamp_min(0)
            return self.table(written) + self.table(input_ids).sum(1, keepdim=True)

    model, read, written = Writer(), torch.tensor([[0, 3]]), torch.tensor([[7, 4, 6]])
    own = {name: PERMUTED.from_student[ids] for name, ids in (("input_ids", read), ("decoder_input_ids", written))}
    expected = model(**own).detach()[..., PERMUTED.teacher_ids]
    inputs = {"input_ids": read, "decoder_input_ids": written}
    shown = answer(ModelTeacher(model), PERMUTED, Batch(inputs, id=torch.arange(1)))[LOGITS]
    torch.testing.assert_close(shown[..., PERMUTED.student_ids], expected)
    session = TranslatedTeacher(model, PERMUTED).open(TeacherContext())
    query = session.query(Batch({"input_ids": read, "labels": torch.tensor([[7, 4, -100]])}, id=torch.arange(1)))
    assert query.inputs["labels"].tolist() == [[6, 2, -100]]


def test_an_unknown_token_that_is_masked_by_the_data_counts_as_padding():
    batch = tokens([[0, 3, 2]])._replace(extra={"masks": {"text": torch.tensor([[True, True, False]])}})
    assert bool(answer(ModelTeacher(Reader()), PERMUTED, batch)[LOGITS][0, :2, 0].isfinite().all())


def test_a_teacher_of_another_size_than_the_alignment_says_is_refused():
    with pytest.raises(LimbeckError, match="teacher_size=5"):
        answer(torch.zeros(5, 5), PADDED)


def test_one_cache_serves_students_with_several_vocabularies(tmp_path):
    model, calls = nn.Linear(4, TEACHER), []
    model.register_forward_hook(lambda *_: calls.append(1))
    loader = ShuffledLoader(ArrayDataset(torch.randn(6, 4)), batch_size=3)
    wider = VocabularyAlignment(torch.arange(STUDENT), torch.arange(STUDENT), STUDENT, TEACHER, {})
    smaller = VocabularyAlignment(torch.arange(4), torch.arange(4), 4, TEACHER, {})
    for alignment in (PADDED, wider, smaller):
        teacher = AlignedTeacher(CachedTeacher(model, tmp_path / "cache", encoding="float32"), alignment)
        with teacher.open(TeacherContext(loader=loader)) as session:
            for batch in loader.batches(0, 0):
                dense = session(batch)[LOGITS]
                expected = nn.functional.linear(batch.inputs, model.weight, model.bias).detach()
                torch.testing.assert_close(dense[:, alignment.student_ids], expected[:, alignment.teacher_ids])
    assert len(calls) <= 4  # the two batches, and the checks of the first opening


def test_trap_18_a_cache_of_a_teacher_with_other_ids_is_filled_under_its_own(tmp_path):
    model, where = Reader(), tmp_path / "cache"
    with pytest.raises(LimbeckError, match="TranslatedTeacher"):
        AlignedTeacher(CachedTeacher(model, where), PERMUTED)
    ids = PERMUTED.student_ids[torch.randint(SHARED, (6, 3), generator=torch.Generator().manual_seed(5))]
    loader = ShuffledLoader(Texts(ids), batch_size=3, shuffle=False)
    cached = CachedTeacher(TranslatedTeacher(model, PERMUTED), where, encoding="float32")
    for _ in fill_cache(cached, loader, preprocess=lambda batch: batch.inputs):
        pass
    live = AlignedTeacher(model, PERMUTED)
    with (
        AlignedTeacher(CachedTeacher(None, where), PERMUTED).open(TeacherContext(loader=loader)) as stored,
        live.open(TeacherContext(loader=loader)) as computed,
    ):
        for batch in loader.batches(0, 0):
            torch.testing.assert_close(stored(batch)[LOGITS], computed(batch)[LOGITS])


def test_a_cache_is_within_and_not_around(tmp_path):
    for encoding in ("float16", {"name": "listed", "k": 2}):
        with pytest.raises(LimbeckError, match="AlignedTeacher\\(CachedTeacher"):
            CachedTeacher(AlignedTeacher(nn.Linear(4, TEACHER), PADDED), tmp_path / "cache", encoding=encoding)


def test_other_outputs_pass_and_the_teacher_keeps_the_laws():
    assert torch.equal(answer(torch.zeros(5, TEACHER), PERMUTED)["body"], torch.ones(5, 2))
    for alignment in (PADDED, PERMUTED, SUPERSET):
        for kind in (AlignedTeacher, TranslatedTeacher):
            check_teacher(kind(nn.Linear(3, TEACHER), alignment), Batch(torch.randn(6, 3)))
        with ShuffledTeacher(AlignedTeacher(nn.Identity(), alignment)).open(TeacherContext()) as session:
            shown = session(Batch(torch.arange(5.0)[:, None].expand(5, TEACHER)))[LOGITS]
        assert shown[:, int(alignment.student_ids[0])].tolist() == [1.0, 2.0, 3.0, 4.0, 0.0]


def test_it_is_hashed_and_described_by_its_alignment():
    model = nn.Linear(3, TEACHER)
    teachers = [AlignedTeacher(model, alignment) for alignment in (PADDED, PERMUTED, SUPERSET)]
    assert len({teacher.fingerprint for teacher in teachers}) == 3
    assert teachers[1].describe()["vocabulary"]["shared"] == SHARED
    assert teachers[0].capabilities.partial
    assert not teachers[2].capabilities.partial


def test_aligned_logits_behave_like_a_tensor():
    _, teacher = draw()
    for value in (teacher, partial("top-k", teacher, k=3, bits=32)):
        aligned = answer(value, PERMUTED).partial[LOGITS]
        assert aligned.shape == (5, STUDENT)
        assert len(aligned) == 5
        assert aligned[torch.tensor([0, 2])].shape == (2, STUDENT)
        assert aligned.reshape(5, 1).shape == (5, 1, STUDENT)
        assert aligned.to("cpu").shape == aligned.shape
        assert "AlignedLogits" in repr(aligned)


class Language(nn.Module):
    """A language model with an output layer."""

    def __init__(self, tokens, width, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed, self.head = nn.Embedding(tokens, width), nn.Linear(width, tokens)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids))


class Texts(Dataset):
    """Rows of tokens, with the next tokens as labels."""

    fingerprint = "texts"

    def __init__(self, ids):
        self.ids_of_rows = ids

    def __len__(self):
        return len(self.ids_of_rows)

    def take(self, index):
        rows = self.ids_of_rows[index]
        return Batch({"input_ids": rows[:, :-1]}, index, labels=rows[:, 1:])


@ALIGNMENTS
@pytest.mark.parametrize("kernel", [K.kl_divergence, K.reverse_kl, K.jensen_shannon])
def test_a_stage_learns_the_same_with_and_without_logits(kernel, alignment):
    ids = alignment.student_ids[torch.randint(SHARED, (12, 5), generator=torch.Generator().manual_seed(3))]
    loader = ShuffledLoader(Texts(ids), batch_size=6)
    weights = []
    for fuse in (True, False):
        student = Language(STUDENT, 4, seed=0)
        teacher = AlignedTeacher(Language(TEACHER, 6, seed=1), alignment)
        stage = Stage(0.5 * Loss(cross_entropy) + 0.5 * Loss(kernel), teacher=teacher)
        for _ in distill(student, stage, loader, epochs=2, fuse_output_layer=fuse, optimizer=Optimizer("sgd", lr=0.5)):
            pass
        weights.append(torch.cat([parameter.detach().flatten() for parameter in student.parameters()]))
    start = torch.cat([parameter.detach().flatten() for parameter in Language(STUDENT, 4, seed=0).parameters()])
    assert float((weights[0] - start).abs().max()) > 0.01
    torch.testing.assert_close(*weights)
