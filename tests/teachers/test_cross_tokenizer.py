"""A teacher with another tokenizer: what it says of the student's text, at which position."""

from __future__ import annotations

import copy

import pytest
import torch

from limbeck import functional as K
from limbeck.batch import IGNORED, LOGITS, Outputs, Progress
from limbeck.data import ShuffledLoader, TokenDataset, TokenPairDataset, train_byte_level_tokenizer
from limbeck.engine import distill
from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.functional import HiddenLogits, OutputLayer, fused_linear_losses
from limbeck.group_likelihoods import dense_rows
from limbeck.losses import Loss, LossContext
from limbeck.recipe import Optimizer, Recipe, Stage
from limbeck.teachers import CachedTeacher, CrossTokenizerTeacher, ModelTeacher, ShuffledTeacher, TeacherContext
from limbeck.testing import check_teacher
from two_tokenizers import LAYOUTS, TEXTS, ask, make_model, take
from vocabularies import train_bytes

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizers():
    return tuple(train_byte_level_tokenizer(TEXTS[:2], vocabulary=size) for size in (264, 290))


@pytest.fixture(scope="module")
def models(tokenizers):
    return tuple(make_model(tokenizer, seed) for seed, tokenizer in enumerate(tokenizers))


def whole_text(model, tokenizer, text, *, end=True):
    """The log-likelihood of each token of a text but the first, and the logits, by the teacher alone."""
    ids = torch.tensor([*tokenizer(text)["input_ids"], *([tokenizer.eos_token_id] if end else [])])
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    return ids, logits, logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]


@LAYOUTS
def test_trap_19_likelihoods_are_those_of_the_teachers_own_text_at_the_students_positions(tokenizers, models, how):
    """Group by group, against the teacher alone on each text: nothing is one position late (trap 11)."""
    data = TokenDataset(TEXTS, tokenizer=tokenizers[0], **how)
    batch = take(data)
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    logits = ask(teacher, batch).partial[LOGITS]
    seen = 0
    for number, text in enumerate(TEXTS):
        _, own_logits, own = whole_text(models[1], tokenizers[1], text)
        ours = torch.tensor([*tokenizers[0](text)["input_ids"], tokenizers[0].eos_token_id])
        groups = teacher.aligner.align([ours.tolist()])[0].groups
        at = (batch.extra["text_number"] == number).nonzero().tolist()  # in order of the text
        lengths = torch.stack([logits.likelihoods.lengths[row, column] for row, column in at])
        expected = torch.zeros_like(lengths)
        for first, count, its_first, its_count in zip(*(c.tolist() for c in groups), strict=True):
            if first == 0 or its_first == 0:
                continue  # nothing predicts the first token of a text
            expected[first - 1] = count
            row, column = at[first - 1]
            torch.testing.assert_close(
                logits.likelihoods.log_likelihood[row, column], own[its_first - 1 : its_first - 1 + its_count].sum()
            )
            assert batch.labels[row, column] == ours[first]
            torch.testing.assert_close(
                dense_rows(logits.rows[logits.index[row, column]]).softmax(-1), own_logits[its_first - 1].softmax(0)
            )
            seen += 1
        assert torch.equal(lengths, expected)
    assert seen == int((logits.index >= 0).sum()) > 20


def test_padding_is_known_from_the_attention_mask_if_other_masks_do_not_say_it(tokenizers, models):
    """As of a loader of one's own within a MaskedLoader."""
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0], max_length=40, padding_side="left"))
    text = batch.extra["masks"]["text"]
    inputs = {"input_ids": batch.inputs["input_ids"], "attention_mask": text.long()}
    other = batch._replace(inputs=inputs, extra={"masks": {"mine": batch.mask}})
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    one, two = (ask(teacher, each).partial[LOGITS].likelihoods for each in (batch, other))
    assert torch.equal(one.lengths, two.lengths)
    torch.testing.assert_close(one.log_likelihood, two.log_likelihood)


@LAYOUTS
def test_the_same_model_and_tokenizer_give_0(tokenizers, models, how):
    data = TokenDataset(TEXTS, tokenizer=tokenizers[0], **how)
    batch = take(data)
    teacher = CrossTokenizerTeacher(models[0], tokenizers[0], tokenizers[0])
    answer = ask(teacher, batch)
    with torch.no_grad():
        student = Outputs(logits=models[0](**batch.inputs).logits)
    assert torch.equal(answer.partial[LOGITS].likelihoods.lengths == 1, batch.labels != IGNORED)
    for kernel in (K.sorted_probability_distance, K.binary_likelihood_kl):
        term = Loss(kernel).term(student, answer, batch, Progress())
        assert float(term.total) == pytest.approx(0, abs=1e-9)
        assert term.count == int((batch.labels != IGNORED).sum())


def test_a_student_with_the_teachers_likelihoods_has_no_loss(tokenizers, models):
    """Logits are set so that each group has the teacher's likelihood, however it is shared by its tokens."""
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0]))
    answer = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch)
    own = answer.partial[LOGITS].likelihoods
    classes = len(tokenizers[0])
    logits = torch.zeros(*batch.labels.shape, classes, dtype=torch.float64)
    for row, column in (own.lengths > 0).nonzero().tolist():
        count = int(own.lengths[row, column])
        shares = torch.rand(count, dtype=torch.float64)
        for step, share in enumerate(shares / shares.sum()):
            log_q = own.log_likelihood[row, column] * share
            others = torch.log(-torch.expm1(log_q)) - torch.log(torch.tensor(classes - 1.0))
            logits[row, column + step] = others
            logits[row, column + step, batch.labels[row, column + step]] = log_q
    term = Loss(K.binary_likelihood_kl).term(Outputs(logits=logits), answer, batch, Progress())
    assert float(term.total) == pytest.approx(0, abs=1e-12)
    moved = Loss(K.binary_likelihood_kl).term(Outputs(logits=0.5 * logits), answer, batch, Progress())
    assert float(moved.total) > 1e-3


@pytest.mark.parametrize("kernel", [K.sorted_probability_distance, K.binary_likelihood_kl])
def test_the_gradient_through_groups_is_that_of_finite_differences(tokenizers, models, kernel):
    batch = take(TokenDataset(TEXTS[2:3] + TEXTS[4:], tokenizer=tokenizers[0]))
    answer = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch)
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(*batch.labels.shape, len(tokenizers[0]), dtype=torch.float64, generator=draw)
    logits.requires_grad_()

    def total(value):
        return Loss(kernel).term(Outputs(logits=value), answer, batch, Progress()).total

    assert torch.autograd.gradcheck(total, (logits,), fast_mode=True)


def test_the_likelihood_of_a_whole_text_is_the_sum_over_its_groups(models):
    """With a begin token on both sides every token is predicted, so nothing is left out."""
    ours = train_bytes(vocabulary=270, special=("<|end|>", "<s>"), bos="<s>")
    theirs = train_bytes(vocabulary=290, special=("<eos>", "<begin>"), bos="<begin>")
    model = make_model(theirs, 3)
    teacher = CrossTokenizerTeacher(model, ours, theirs)
    for text in TEXTS:
        batch = take(TokenDataset([text], tokenizer=ours))
        logits = ask(teacher, batch).partial[LOGITS]
        torch.testing.assert_close(logits.likelihoods.log_likelihood.sum(), whole_text(model, theirs, text)[2].sum())
        assert teacher.align(batch).aligned_tokens == int((batch.labels != IGNORED).sum())


def test_trap_12_prompts_are_no_groups_and_one_across_the_border_is_left_out(tokenizers, models):
    rows = [
        {"prompt": "the quick brown", "completion": " fox and the lazy dog"},
        {"prompt": "the qui", "completion": "ck brown fox"},
    ]
    batch = take(TokenDataset(rows, tokenizer=tokenizers[0]))
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    lengths = ask(teacher, batch).partial[LOGITS].likelihoods.lengths
    for row, column in (lengths > 0).nonzero().tolist():
        span = slice(column, column + int(lengths[row, column]))
        assert bool((batch.labels[row, span] != IGNORED).all())
    spelled = [tokenizers[0].decode(group) for group, _ in teacher.align(batch).list_groups(batch)]
    assert spelled[0] == " fox"


@pytest.mark.parametrize("overlap", [0, 3])
def test_windows_of_a_long_text_are_texts_of_their_own(tokenizers, models, overlap):
    data = TokenDataset(
        ["the quick brown fox and the lazy dog 東京 " * 3], tokenizer=tokenizers[0], max_length=11, overlap=overlap
    )
    assert len(data) > 4
    batch = take(data)
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    together = ask(teacher, batch).partial[LOGITS].likelihoods
    for row in range(len(data)):
        alone = ask(teacher, data.take(torch.tensor([row]))).partial[LOGITS].likelihoods
        width = alone.lengths.shape[1]
        assert torch.equal(alone.lengths[0], together.lengths[row, :width])
        torch.testing.assert_close(alone.log_likelihood[0], together.log_likelihood[row, :width])


def test_trap_14_a_batch_without_groups_has_a_loss_of_0_with_a_graph(tokenizers, models):
    batch = take(TokenDataset(["fox"], tokenizer=tokenizers[0]))
    batch = batch._replace(labels=torch.full_like(batch.labels, IGNORED), mask=torch.zeros_like(batch.mask))
    answer = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch)
    logits = torch.randn(*batch.labels.shape, len(tokenizers[0]), requires_grad=True)
    for kernel in (K.sorted_probability_distance, K.binary_likelihood_kl):
        term = Loss(kernel).term(Outputs(logits=logits), answer, batch, Progress())
        (slope,) = torch.autograd.grad(term.total, logits)
        assert float(term.total.detach()) == float(slope.abs().max()) == 0.0


def test_trap_16_the_distance_without_logits_is_that_with_logits(tokenizers, models):
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0]))
    answer = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch)
    with torch.no_grad():
        hidden = models[0].transformer(**batch.inputs).last_hidden_state
    results = []
    for fused in (False, True):
        inputs, layer = hidden.clone().requires_grad_(), OutputLayer(models[0].lm_head.weight)
        loss = Loss(K.sorted_probability_distance)
        student = Outputs.of({LOGITS: HiddenLogits(inputs, layer, requires_grad=True)})
        if fused:
            loss = loss.setup(LossContext(student, answer, batch))
            row = loss.row_term(student, answer, batch, Progress())
            total = fused_linear_losses(inputs, layer, {"uld": row.loss}, teacher=row.teacher, keep=row.keep, chunk=3)[
                "uld"
            ].total
        else:
            total = loss.term(student, answer, batch, Progress()).total
        total.backward()
        results.append((total.detach(), inputs.grad))
    torch.testing.assert_close(results[0], results[1])


def test_a_shuffled_teacher_keeps_the_groups_of_each_text(tokenizers, models):
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0]))
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    own, other = (ask(one, batch).partial[LOGITS] for one in (teacher, ShuffledTeacher(teacher)))
    there = other.likelihoods.lengths > 0
    assert int(there.sum()) > 10
    assert torch.equal(other.likelihoods.lengths[there], own.likelihoods.lengths[there])
    assert torch.equal(other.likelihoods.labels[there], own.likelihoods.labels[there])
    same = other.likelihoods.log_likelihood[there] == own.likelihoods.log_likelihood[there]
    assert float(same.double().mean()) < 0.2
    assert torch.equal(other.index >= 0, there)


@pytest.mark.parametrize("packing", [False, True])
def test_stored_likelihoods_are_those_of_the_teacher(tokenizers, models, tmp_path, packing):
    data = TokenDataset(TEXTS * 2, tokenizer=tokenizers[0], packing=packing, max_length=64)
    loader = ShuffledLoader(data, batch_size=3)
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    stored = CachedTeacher(teacher, tmp_path, encoding="likelihoods")
    for cached in (stored, CachedTeacher(None, tmp_path, encoding="likelihoods")):
        with cached.open(TeacherContext(loader=loader)) as session:
            for batch in loader.batches(0, 0):
                kept, live = session(batch), ask(teacher, batch)
                student = Outputs(logits=models[0](**batch.inputs).logits.detach())
                terms = [
                    Loss(K.binary_likelihood_kl).term(student, one, batch, Progress()).total for one in (kept, live)
                ]
                torch.testing.assert_close(*terms, rtol=1e-5, atol=1e-5)
                with pytest.raises(LimbeckError, match="alm"):
                    Loss(K.sorted_probability_distance).term(student, kept, batch, Progress())


def test_other_encodings_and_a_cache_within_are_refused_by_name(tokenizers, models, tmp_path):
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    with pytest.raises(LimbeckError, match="likelihoods"):
        CachedTeacher(teacher, tmp_path)
    cached = CachedTeacher(models[1], tmp_path)
    for within in (cached, ShuffledTeacher(cached), ShuffledTeacher(ShuffledTeacher(cached))):
        with pytest.raises(LimbeckError, match="CachedTeacher\\(CrossTokenizerTeacher"):
            CrossTokenizerTeacher(within, *tokenizers)
    data = TokenDataset(TEXTS, tokenizer=tokenizers[1])
    plain = CachedTeacher(models[1], tmp_path, encoding="likelihoods")
    with pytest.raises(LimbeckError, match="CrossTokenizerTeacher"):
        ask(plain, take(data), loader=ShuffledLoader(data, batch_size=2))


@pytest.mark.parametrize("kernel", [K.kl_divergence, K.reverse_kl, K.squared_error])
def test_trap_18_a_loss_by_class_is_refused_although_the_sizes_are_equal(tokenizers, models, kernel):
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0]))
    answer = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch)
    student = Outputs(logits=torch.zeros(*batch.labels.shape, len(tokenizers[1])))
    with pytest.raises(LimbeckError, match="alm"):
        Loss(kernel).term(student, answer, batch, Progress())


def test_set_ups_that_cannot_work_are_refused(tokenizers, models):
    data = TokenDataset(TEXTS, tokenizer=tokenizers[0])
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    with pytest.raises(MissingOutputError, match=r"transformer\.h\.0"):
        teacher.open(TeacherContext(requires=frozenset({LOGITS, "transformer.h.0"})))
    other = TokenDataset(TEXTS, tokenizer=tokenizers[1])
    with pytest.raises(LimbeckError, match="student_tokenizer"):
        teacher.open(TeacherContext(loader=ShuffledLoader(other, batch_size=2)))
    batch = take(data)
    with pytest.raises(LimbeckError, match=r"5\b"):
        CrossTokenizerTeacher(models[1], *tokenizers, max_length=5).align(batch)
    with pytest.raises(LimbeckError, match="max_length"):
        CrossTokenizerTeacher(models[1], *tokenizers, max_length=0)
    with pytest.raises(LimbeckError, match="next tokens"):
        ask(teacher, batch._replace(labels=batch.inputs["input_ids"]))
    pairs = TokenPairDataset([{"source": "a", "target": "b"}], tokenizer=tokenizers[0])
    with pytest.raises(LimbeckError, match="encoder-decoder"):
        ask(teacher, take(pairs))
    config = transformers.T5Config(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=1)
    decoder = transformers.T5ForConditionalGeneration(config)
    with pytest.raises(LimbeckError, match="encoder-decoder"):
        CrossTokenizerTeacher(decoder, *tokenizers)
    with pytest.raises(LimbeckError, match="264 outputs"):
        CrossTokenizerTeacher(models[0], *tokenizers)


def test_a_teacher_with_another_tokenizer_keeps_the_laws_of_teachers(tokenizers, models):
    data = TokenDataset(TEXTS * 3, tokenizer=tokenizers[0])
    check_teacher(CrossTokenizerTeacher(copy.deepcopy(models[1]), *tokenizers), take(data))
    one, other = (CrossTokenizerTeacher(models[1], *pair) for pair in (tokenizers, tokenizers[::-1]))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == CrossTokenizerTeacher(models[1], *tokenizers).fingerprint
    assert one.capabilities.partial
    assert one.max_length == 64


@pytest.mark.parametrize("kernel", [K.sorted_probability_distance, K.binary_likelihood_kl])
def test_a_student_learns_from_a_teacher_with_another_tokenizer(tokenizers, kernel):
    student = make_model(tokenizers[0], 5).float()
    teacher = CrossTokenizerTeacher(ModelTeacher(make_model(tokenizers[1], 6).float()), *tokenizers)
    data = TokenDataset(TEXTS, tokenizer=tokenizers[0])
    recipe = Recipe(Stage(Loss(kernel), teacher=teacher, optimizer=Optimizer("adam", lr=0.02)))
    run = distill(student, recipe, data, epochs=30, batch_size=5, seed=0, log_every=1)
    values = [report.terms[kernel.__name__] for report in run]
    assert values[-1] < 0.8 * values[0]
