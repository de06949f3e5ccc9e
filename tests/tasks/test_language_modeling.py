"""Language modeling: sums for each text against a direct computation in float64, whatever the windows."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.batch import IGNORED, Batch
from limbeck.data import train_tokenizer
from limbeck.data.token_dataset import TokenDataset
from limbeck.data.tokenizer import count_token_bytes, train_byte_level_tokenizer
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import HiddenLogits, OutputLayer
from limbeck.judging.verdict import compare_results, compare_with_baseline, compare_with_control
from limbeck.metrics import compare_scores
from limbeck.metrics.language import CHUNK, COLUMNS, TOP_K, TextSums, TextSumsState
from limbeck.metrics.partial_teacher import BOUNDS
from limbeck.metrics.predictions import open_token_logits
from limbeck.report.arms import ScoreFormat
from limbeck.tasks import LanguageModeling, get_task, task_from_dict
from limbeck.teachers import Ensemble, ModelTeacher

TEXTS = ["a b c d e f g h", "b c", "c d e f a a b a c d e", "h g"]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer([" ".join(TEXTS)], vocabulary=60)
    tokenizer.eos_token = "[SEP]"
    return tokenizer


class Bigram(nn.Module):
    """A model whose logits depend on the present token alone, so windows make no difference."""

    def __init__(self, vocabulary, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(3 * torch.randn(vocabulary, vocabulary, generator=generator))

    def forward(self, input_ids, **_):
        return self.table[input_ids]


def random_rows(n=40, v=30, seed=0, dtype=torch.float64):
    return torch.randn(n, v, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def truth_of(logits, teacher, labels):
    """All sums of one text in float64, written down from their definitions."""
    q, p = logits.double().softmax(1), teacher.double().softmax(1)
    k = TOP_K
    rows = range(len(labels))
    best_p, best_q = (x.argsort(1, descending=True)[:, :k] for x in (p, q))
    return {
        "nll": -sum(math.log(q[i, labels[i]]) for i in rows),
        "token_accuracy": sum(int(q[i].argmax() == labels[i]) for i in rows),
        "entropy": float(-(q * q.log()).sum()),
        "kl_to_teacher": float((p * (p / q).log()).sum()),
        "reverse_kl_to_teacher": float((q * (q / p).log()).sum()),
        "agreement": sum(int(q[i].argmax() == p[i].argmax()) for i in rows),
        "acceptance": len(labels) - float((p - q).abs().sum()) / 2,
        "top_k_mass": sum(float(q[i, best_p[i]].sum()) for i in rows),
        "top_k_overlap": sum(len({*best_p[i].tolist()} & {*best_q[i].tolist()}) / k for i in rows),
        "teacher_entropy": float(-(p * p.log()).sum()),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sums_are_those_of_the_definitions(dtype):
    logits, teacher = random_rows(dtype=dtype), random_rows(seed=1, dtype=dtype)
    labels = torch.arange(40) % 30
    state = TextSumsState()
    state.update(logits[None], Batch(logits[None], labels=labels[None]), teacher[None])
    sums = state.compute()
    for name, value in truth_of(logits, teacher, labels).items():
        assert float(sums.sums(name)) == pytest.approx(value, rel=1e-9 if dtype == torch.float64 else 1e-5), name


def test_hidden_states_give_the_sums_of_their_logits():
    layer = OutputLayer(random_rows(30, 6, seed=3), softcap=5.0)
    hidden, labels = random_rows(600, 6, seed=4).view(2, 300, 6), torch.arange(600).view(2, 300) % 30
    lazy, dense = TextSumsState(), TextSumsState()
    lazy.update(HiddenLogits(hidden, layer), Batch(hidden, labels=labels), HiddenLogits(-hidden, layer))
    dense.update(layer.logits(hidden), Batch(hidden, labels=labels), layer.logits(-hidden))
    torch.testing.assert_close(lazy.compute().table, dense.compute().table, equal_nan=True)


def test_a_copy_of_the_teacher_has_no_divergence_and_is_always_accepted(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer)
    task = LanguageModeling().fit(data)
    model = Bigram(task.outputs)
    measures = task.evaluate(model, data, teacher=model).measures
    assert measures["kl_to_teacher"] == measures["reverse_kl_to_teacher"] == 0.0
    assert measures["agreement"] == measures["top_k_overlap"] == 1.0
    assert measures["acceptance"] == pytest.approx(1.0, abs=1e-6)
    assert measures["entropy"] == measures["teacher_entropy"]


def test_trap_5_infinite_logits_on_both_sides_are_finite():
    logits, labels = random_rows(4, 12), torch.zeros(1, 4, dtype=torch.long)
    logits[:, 7:] = -math.inf
    state = TextSumsState()
    state.update(logits[None], Batch(logits[None], labels=labels), (2 * logits)[None])
    assert bool(state.compute().table[:, 3:].isfinite().all())


@pytest.mark.parametrize(("packing", "side"), [(False, "right"), (False, "left"), (True, "right")])
@pytest.mark.parametrize("overlap", [0, 2])
def test_windows_and_packing_give_the_sums_of_whole_texts(tokenizer, packing, overlap, side):
    whole = TokenDataset(TEXTS, tokenizer=tokenizer)
    cut = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4, overlap=overlap, packing=packing, padding_side=side)
    task = LanguageModeling().fit(whole)
    model, teacher = Bigram(task.outputs), Bigram(task.outputs, seed=1)
    one, other = (task.evaluate(model, data, teacher=teacher) for data in (whole, cut))
    torch.testing.assert_close(one.outputs, other.outputs)
    assert torch.equal(task.stored_targets(whole), task.stored_targets(cut))
    assert task.check(cut, "test") == len(TEXTS)


def test_batches_do_not_change_an_evaluation(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=3)
    task = LanguageModeling().fit(data)
    model, teacher = Bigram(task.outputs), Bigram(task.outputs, seed=1)
    batches = [data.take(index) for index in torch.randperm(len(data)).split(2)]
    one, other = (task.evaluate(model, part, teacher=teacher) for part in (data, batches))
    torch.testing.assert_close(one.outputs, other.outputs)
    assert one.measures == pytest.approx(other.measures)


def test_trap_11_masked_and_padded_tokens_never_count(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=20)
    task = LanguageModeling().fit(data)
    batch = data.take(torch.arange(4))
    model = Bigram(task.outputs)
    logits = model(batch.inputs["input_ids"]).detach()
    spoiled = logits.masked_fill(~batch.mask[..., None], 1e6)
    values = [task.evaluate_outputs([(batch, each)]).outputs for each in (logits, spoiled)]
    torch.testing.assert_close(*values, equal_nan=True)
    few = batch._replace(mask=batch.mask & (torch.arange(batch.mask.shape[1]) < 2))
    assert task.evaluate_outputs([(few, logits)]).outputs[:, 1].tolist() == [2, 2, 2, 2]


def test_trap_12_prompts_do_not_count(tokenizer):
    rows = [{"prompt": "a b c", "completion": " d e"}, {"prompt": "e f g", "completion": " h"}]
    data = TokenDataset(rows, tokenizer=tokenizer)
    targets = LanguageModeling().fit(data).stored_targets(data)
    assert targets[:, 1].tolist() == [
        int(data.texts.is_target[a:b].sum()) for a, b in data.texts.starts.unfold(0, 2, 1)
    ]


def test_a_text_without_a_token_to_predict_has_no_row(tokenizer):
    task = LanguageModeling(5)
    labels = torch.tensor([[1, 2], [IGNORED, IGNORED], [3, IGNORED]])
    evaluation = task.evaluate(nn.Identity(), [Batch(torch.zeros(3, 2, 5), labels=labels)])
    assert evaluation.outputs[:, 0].tolist() == [0, 2]
    assert len(evaluation.scores) == 2
    with pytest.raises(DataError):
        task.evaluate(nn.Identity(), [Batch(torch.zeros(1, 2, 5), labels=labels[1:2])])


def test_a_model_that_gives_nan_is_named():
    logits = torch.zeros(2, 3, 5)
    logits[1, 2, 4] = math.nan
    with pytest.raises(LimbeckError, match="text 1"):
        LanguageModeling(5).evaluate(nn.Identity(), [Batch(logits, labels=torch.zeros(2, 3, dtype=torch.long))])


def test_the_mean_of_the_scores_is_the_primary_metric_also_from_storage(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4)
    task = LanguageModeling().fit(data)
    evaluation = task.evaluate(Bigram(task.outputs), data, teacher=Bigram(task.outputs, seed=1))
    targets = task.stored_targets(data)
    assert evaluation.scores.mean() == pytest.approx(evaluation.measures["nll"], abs=1e-12)
    assert task.scores(evaluation.outputs, targets) == pytest.approx(evaluation.scores)
    assert task.measure(evaluation.outputs, targets) == evaluation.measures
    assert evaluation.measures["perplexity"] == pytest.approx(math.exp(evaluation.measures["nll"]))
    assert set(evaluation.measures) == set(task.metrics) - set(BOUNDS)
    with pytest.raises(DataError):
        task.scores(evaluation.outputs[1:], targets)


def test_bits_per_byte_count_the_bytes_of_the_text(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4)
    task = LanguageModeling().fit(data)
    evaluation = task.evaluate(Bigram(task.outputs), data)
    # Each word has a letter and the mark in front of it; the end token has none.
    sizes = [2 * len(text.split()) for text in TEXTS]
    assert evaluation.outputs[:, 2].tolist() == sizes
    assert task.stored_targets(data)[:, 2].tolist() == sizes
    total = float(evaluation.outputs[:, 3].sum())
    assert evaluation.measures["bits_per_byte"] == pytest.approx(total / math.log(2) / sum(sizes))


def test_bytes_of_a_byte_level_tokenizer_are_those_of_the_text():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    text = "naïve 日本 🙂 and\nlines"
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [text] * 3,
        tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"]),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    sizes = count_token_bytes(tokenizer)
    assert int(sizes[tokenizer(text)["input_ids"]].sum()) == len(text.encode())
    assert int(sizes[tokenizer.eos_token_id]) == 0


def test_bytes_of_tokens_that_were_added_to_a_byte_level_tokenizer():
    """Their strings are the text itself, not one character for each byte, and special ones are no text."""
    tokenizer = train_byte_level_tokenizer(["a b"], vocabulary=270)
    tokenizer.add_tokens(["<né>"])
    tokenizer.add_tokens(["<|call|>"], special_tokens=True)
    ids = tokenizer("<né>é<|call|>")["input_ids"]
    assert count_token_bytes(tokenizer)[ids].tolist() == [5, 1, 1, 0]


def test_another_tokenizer_is_refused(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer)
    other = train_tokenizer(["x y z " + " ".join(TEXTS)], vocabulary=60)
    with pytest.raises(DataError):
        LanguageModeling().fit(data).check(TokenDataset(TEXTS, tokenizer=other, add_eos_token=False), "test")


def test_labels_that_equal_their_inputs_are_refused(tokenizer, monkeypatch):
    data = TokenDataset(TEXTS, tokenizer=tokenizer)
    task = LanguageModeling().fit(data)
    batch = data.take(torch.arange(2))
    ids = batch.inputs["input_ids"]
    monkeypatch.setattr(TokenDataset, "take", lambda self, index: batch._replace(labels=ids))
    with pytest.raises(DataError):
        task.check(data, "test")


def test_models_of_other_vocabularies_are_not_compared():
    batch = Batch(torch.zeros(1, 2, 5), labels=torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(LimbeckError):
        TextSumsState().update(torch.zeros(1, 2, 5), batch, torch.zeros(1, 2, 6))


def test_a_task_survives_a_file(tokenizer):
    task = LanguageModeling().fit(TokenDataset(TEXTS, tokenizer=tokenizer))
    assert task_from_dict(task.to_dict()) == task
    assert get_task("language-modeling") == LanguageModeling()
    with pytest.raises(LimbeckError):
        LanguageModeling().outputs  # noqa: B018


def test_unknown_columns_are_not_measured():
    table = torch.ones(2, len(COLUMNS), dtype=torch.float64)
    table[:, COLUMNS.index("bytes")] = math.nan
    assert TextSums(table).bytes is None
    measures = LanguageModeling(5).measure(table, None)
    assert "bits_per_byte" not in measures
    assert "kl_to_teacher" in measures


def test_trap_17_tokens_that_the_teacher_lacks_are_left_out_of_the_comparison_on_both_sides():
    logits, teacher, labels = random_rows(), random_rows(seed=1), torch.arange(40) % 20
    known = torch.ones(30, dtype=torch.bool)
    known[[3, 25, 29]] = False
    aligned = teacher.masked_fill(~known, -torch.inf)
    state = TextSumsState()
    state.update(logits[None], Batch(logits[None], labels=labels[None]), aligned[None])
    truth = truth_of(logits[:, known], teacher[:, known], labels)
    whole = truth_of(logits, logits, labels)
    for name in truth:
        own = name in ("nll", "token_accuracy", "entropy")  # these read every output of the student
        expected = (whole if own else truth)[name]
        assert float(state.compute().sums(name)) == pytest.approx(expected, rel=1e-9), name


def test_a_token_that_is_impossible_at_one_position_is_not_one_that_the_teacher_lacks():
    """The last chunk has one position: its token of probability 0 was left out, as if it were not in the vocabulary."""
    positions = CHUNK + 1
    logits, teacher = random_rows(positions, 6), random_rows(positions, 6, seed=1)
    teacher[-1, 3] = -math.inf
    state = TextSumsState()
    state.update(logits[None], Batch(logits[None], labels=torch.zeros(1, positions).long()), teacher[None])
    sums = state.compute()
    assert float(sums.sums("reverse_kl_to_teacher")) == math.inf
    p, q = teacher.double().softmax(1), logits.double().softmax(1)
    assert float(sums.sums("acceptance")) == pytest.approx(float(torch.minimum(p, q).sum()), rel=1e-6)


def test_trap_3_the_cross_entropy_to_the_teacher_is_its_entropy_plus_the_divergence():
    logits, teacher = random_rows(), random_rows(seed=1)
    state = TextSumsState()
    state.update(logits[None], Batch(logits[None], labels=torch.zeros(1, 40, dtype=torch.long)), teacher[None])
    sums = state.compute()
    cross = float(-(teacher.softmax(1) * logits.log_softmax(1)).sum())
    assert float((sums.sums("kl_to_teacher") + sums.sums("teacher_entropy")).sum()) == pytest.approx(cross)


def test_trap_7_many_tokens_add_up_exactly_and_in_any_chunks():
    logits = torch.randn(1, 5000, 40, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5000)[None] % 40
    state = TextSumsState()
    state.update(logits, Batch(logits, labels=labels))
    truth = -logits.double().log_softmax(2).gather(2, labels[..., None]).sum()
    assert float(state.compute().sums("nll")) == pytest.approx(float(truth), rel=1e-7)


def test_trap_12_where_padding_is_the_end_token_the_first_end_token_counts(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    data = TokenDataset(["a b", "c d e f"], tokenizer=tokenizer)
    task = LanguageModeling().fit(data)
    sizes = [len(tokenizer(text)["input_ids"]) for text in ("a b", "c d e f")]
    assert task.stored_targets(data)[:, 1].tolist() == [size - 1 for size in sizes]
    assert task.evaluate(Bigram(task.outputs), data).outputs[:, 1].tolist() == [size - 1 for size in sizes]


def planted(rng, texts=60):
    """Differences of tokens of texts whose tokens share an effect; the true mean difference is 0."""
    sizes = rng.integers(5, 120, texts)
    shared = rng.normal(size=texts)
    return sizes, [shared[i] + rng.normal(size=(3, size)) for i, size in enumerate(sizes)]


def test_an_interval_over_texts_covers_where_one_over_tokens_is_too_narrow():
    rng = np.random.default_rng(0)
    covered, covered_by_tokens, rounds = 0, 0, 150
    for _ in range(rounds):
        sizes, tokens = planted(rng)
        ours = np.stack([texts_of(seed, tokens, sizes) for seed in range(3)])
        interval = compare_results(ours, np.zeros_like(ours) + 3.0, score=LanguageModeling.primary)
        covered += interval.low <= 0 <= interval.high
        every = np.concatenate(tokens, 1)
        naive = compare_scores(every, np.zeros_like(every))
        covered_by_tokens += naive.low <= 0 <= naive.high
    assert covered / rounds > 0.92
    assert covered_by_tokens / rounds < 0.6


def texts_of(seed, tokens, sizes):
    """The scores of one seed, from a table of sums."""
    table = torch.zeros(len(sizes), len(COLUMNS), dtype=torch.float64)
    table[:, 0], table[:, 1] = torch.arange(len(sizes)), torch.tensor(sizes)
    table[:, COLUMNS.index("nll")] = torch.tensor([3.0 * part.shape[1] + part[seed].sum() for part in tokens])
    targets = torch.stack([torch.arange(len(sizes)), torch.tensor(sizes), torch.tensor(sizes)], 1)
    return LanguageModeling(5).scores(table, targets)


def test_a_verdict_speaks_of_nats_and_texts():
    rng = np.random.default_rng(0)
    alone = 3.0 + rng.normal(size=(3, 50)) * 0.1
    better, worse = (
        compare_with_baseline(alone + change, alone, score=LanguageModeling.primary) for change in (-0.25, 0.25)
    )
    assert better.helps
    assert better.difference == pytest.approx(0.25)
    assert "0.25 fewer nats per token" in better.sentence
    assert "(95 % interval 0.232 to 0.268," in better.sentence
    assert "50 test texts" in better.sentence
    assert "0.25 more nats per token" in worse.sentence
    assert "(95 % interval 0.232 to 0.268," in worse.sentence
    noise = rng.normal(size=(3, 50))
    unclear = compare_with_baseline(alone + noise, alone, score=LanguageModeling.primary)
    assert re.search(r"interval [\d.]+ more to [\d.]+ fewer,", unclear.sentence)
    control = compare_with_control(alone + noise, alone, name="label smoothing", score=LanguageModeling.primary)
    assert re.search(r": [\d.]+ (more|fewer) nats per token \(95 % interval [\d.]+ more to", control.sentence)
    assert (better.examples, worse.helps) == (50, False)


def test_the_report_writes_gains_in_words_where_less_is_better():
    score = ScoreFormat.of_task(LanguageModeling(5))
    assert (score.difference(0.25), score.ends(0.1, 0.4)) == ("0.25 fewer", ("0.1", "0.4"))
    assert (score.difference(-0.25), score.ends(-0.4, -0.1)) == ("0.25 more", ("0.1", "0.4"))
    assert score.ends(-0.1, 0.4) == ("0.1 more", "0.4 fewer")
    assert ScoreFormat().ends(0.1, 0.4) == ("+10.00", "+40.00")


class TinyTransformer(nn.Module):
    """Embedding, one hidden layer and an output layer; `after` follows the output layer."""

    def __init__(self, vocabulary, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.after = nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary), after

    def forward(self, input_ids, **_):
        logits = self.head(self.embed(input_ids).tanh())
        return logits if self.after is None else self.after(logits)


@pytest.mark.parametrize("after", [None, nn.Hardtanh(-0.2, 0.2)])
def test_models_are_evaluated_through_their_output_layer_if_nothing_follows_it(tokenizer, after):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4)
    task = LanguageModeling().fit(data)
    model, teacher = TinyTransformer(task.outputs, after), Bigram(task.outputs)
    batch = data.take(torch.arange(len(data)))
    with open_token_logits(model) as logits:
        assert isinstance(logits(batch), HiddenLogits if after is None else torch.Tensor)
    dense = TextSumsState()
    dense.update(model(**batch.inputs), batch, teacher(**batch.inputs))
    torch.testing.assert_close(task.evaluate(model, data, teacher=teacher).outputs, dense.compute().table)
    assert model.training


def test_a_teacher_answers_as_its_module_and_several_as_their_mean(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4)
    task = LanguageModeling().fit(data)
    student, model = Bigram(task.outputs), TinyTransformer(task.outputs)
    plain, wrapped, mixed = (
        task.evaluate(student, data, teacher=one).outputs
        for one in (model, ModelTeacher(model), Ensemble(ModelTeacher(model), ModelTeacher(model)))
    )
    assert torch.equal(plain, wrapped)
    torch.testing.assert_close(plain, mixed)
