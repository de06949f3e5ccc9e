"""Checks of language jobs find what would spoil a run, and say what a teacher can teach."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset, TokenDataset
from limbeck.data.tokenized_texts import TokenizedTexts
from limbeck.doctor import examine, gradient_checks, teacher_news
from limbeck.doctor import language_checks as checks
from limbeck.doctor.memory import BatchMemory, judge_batch_memory, measure_batch_memory
from limbeck.doctor.rollout_checks import check_written_texts
from limbeck.engine import TrainConfig
from limbeck.methods import make
from limbeck.models import VocabularyAlignment, read_context_length
from limbeck.tasks import LanguageModeling
from limbeck.teachers import AlignedTeacher, ModelTeacher
from patients import patient
from vocabularies import train_bytes

TEXTS = ["the quick brown fox and the lazy dog", "the lazy fox", "a small vocabulary and some words"] * 4
PROMPTS = [{"prompt": f"add {a} and {b}: ", "completion": str(a + b)} for a in range(5) for b in range(5)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bytes()


class Bigram(nn.Module):
    """Logits that depend on the present token alone."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids, **_):
        return self.table[input_ids]


def knowing(data, weight=1.0):
    """A bigram model that has seen the data."""
    size = len(data.tokenizer)
    counts = torch.full((size, size), 1e-3)
    batch = data.take(torch.arange(len(data)))
    known = batch.labels >= 0
    counts.index_put_((batch.inputs["input_ids"][known], batch.labels[known]), torch.tensor(1.0), accumulate=True)
    return Bigram(weight * counts.log())


def ignorant(size, seed=0):
    return Bigram(0.1 * torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))


def findings_of(context):
    return {one.name: one for one in examine(context, seconds=60.0)}


def job(data, *, development=None, teacher=None, student=None, **changes):
    teacher = teacher or knowing(data)
    wrapped = teacher if not isinstance(teacher, nn.Module) else ModelTeacher(teacher)
    network = teacher if isinstance(teacher, nn.Module) else nn.Identity()
    return patient(
        data=data, development=development or data, network=network, teacher=wrapped, classes=0,
        trainer=lambda: student or ignorant(len(data.tokenizer)), task=LanguageModeling().fit(data), **changes,
    )  # fmt: skip


def test_the_tokens_that_count_are_shown_and_a_prompt_is_not_among_them(tokenizer):
    data = TokenDataset(PROMPTS, tokenizer=tokenizer, max_length=40)
    finding = checks.check_tokens(job(data))
    assert finding.state == "ok"
    batch = data.take(torch.arange(len(data)))
    assert finding.value == pytest.approx(int(batch.mask.sum()) / int(batch.extra["masks"]["text"].sum()))
    for line in finding.details:
        row = int(line.split()[1].rstrip(":"))
        text = PROMPTS[row]
        # The space before an answer belongs to its token, so all that is before the answer is not marked.
        assert line.startswith(f"row {row}: {text['prompt'].rstrip()}")
        assert line.endswith(f"{text['completion']}<|end|>]]")


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("max_length", [4, 200])
def test_every_token_is_shown_once_and_marked_as_the_loss_counts_it(tokenizer, packing, max_length):
    data = TokenDataset([*TEXTS[:2], *PROMPTS[:2]], tokenizer=tokenizer, max_length=max_length, packing=packing,
                        too_long="window")  # fmt: skip
    batch = data.take(torch.arange(len(data)))
    for row in range(len(data)):
        tokens = list(checks._tokens_in_order(batch, row))
        assert [id for id, counts in tokens if counts] == batch.labels[row][batch.mask[row]].tolist()
        if max_length == 200 and not packing:
            assert [id for id, _ in tokens] == data.texts.ids[
                data.texts.starts[row] : data.texts.starts[row + 1]
            ].tolist()


def test_labels_that_equal_their_inputs_are_wrong(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)

    class Unshifted(ArrayDataset):
        def take(self, index):
            batch = data.take(index)
            return batch._replace(labels=batch.inputs["input_ids"])

    whole = Unshifted(torch.zeros(len(data), 1))
    assert checks.check_tokens(job(data, train=whole)).state == "wrong"


def test_texts_without_an_end_are_counted(tokenizer):
    whole = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    ended = checks.check_ends(job(whole))
    assert (ended.state, ended.value) == ("ok", 1.0)
    assert "padding token" in ended.sentence  # pad is eos here, which is said and harmless
    open_ended = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40, add_eos_token=False)
    finding = checks.check_ends(job(open_ended))
    assert (finding.state, finding.value) == ("look", 0.0)
    half = TokenDataset([f"{text}<|end|>" if i % 2 else text for i, text in enumerate(TEXTS)], tokenizer=tokenizer,
                        max_length=40, add_eos_token=False)  # fmt: skip
    assert checks.check_ends(job(half)).value == 0.5


@pytest.mark.parametrize(("too_long", "words"), [("drop", "left out"), ("window", "do not see the prompt")])
def test_prompts_that_do_not_fit_are_counted(tokenizer, too_long, words):
    long = {"prompt": "a very long prompt " * 5, "completion": "1"}
    data = TokenDataset([*PROMPTS, long], tokenizer=tokenizer, max_length=40, too_long=too_long)
    finding = checks.check_lengths(job(data))
    assert (finding.state, finding.value) == ("look", 1)
    assert words in finding.sentence
    enough = int(finding.sentence.rpartition("max_length=")[2].split()[0])
    assert checks.check_lengths(job(TokenDataset([*PROMPTS, long], tokenizer=tokenizer, max_length=enough))).value == 0
    assert checks.check_lengths(job(TokenDataset(TEXTS, tokenizer=tokenizer, max_length=8))) is None


def test_a_context_that_is_shorter_than_the_windows_is_wrong(tokenizer):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=290, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    student = transformers.GPT2LMHeadModel(config)
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=16)
    finding = checks.check_contexts(job(data, student=student))
    assert (finding.state, finding.value) == ("wrong", {"student": 8})
    assert "data.max_length=8" in finding.sentence
    assert (
        checks.check_contexts(job(TokenDataset(TEXTS, tokenizer=tokenizer, max_length=8), student=student)).state
        == "ok"
    )
    assert read_context_length(nn.Linear(2, 3)) is None


def test_prompts_of_an_on_policy_job_leave_room_for_new_tokens_and_texts_can_end(tokenizer):
    data = TokenDataset(PROMPTS, tokenizer=tokenizer, max_length=40)
    longest = max(len(tokenizer(row["prompt"]).input_ids) for row in PROMPTS)
    teacher = ignorant(len(tokenizer))

    def state(limit=None, new=8, size=None, data=data):
        student = ignorant(size or len(tokenizer))
        if limit is not None:
            student.config = SimpleNamespace(max_position_embeddings=limit)
        if size is not None:
            student.get_input_embeddings = lambda: nn.Embedding(size, 2)
        recipe = make("gkd", teacher=teacher, max_new_tokens=new)
        return check_written_texts(job(data, teacher=teacher, student=student, recipe=recipe))

    assert (state().state, state().value) == ("ok", {"prompts": len(data), "longest": longest})
    assert state(limit=longest + 8).state == "ok"
    assert (state(limit=longest, new=8).state, state(limit=longest, new=1).state) == ("look", "ok")
    assert state(limit=longest - 1).state == "wrong"
    teacher.config = SimpleNamespace(max_position_embeddings=longest + 7)
    assert state().state == "ok"
    teacher.config = SimpleNamespace(max_position_embeddings=longest + 6)  # the last new token is not read
    assert (state().state, state().value) == ("wrong", longest + 7)
    assert state(limit=longest + 6).state == "look", "the student's own context ends its texts before"
    del teacher.config
    assert state(size=tokenizer.eos_token_id).state == "wrong"
    assert state(data=TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)).state == "look"
    assert check_written_texts(job(data)) is None


def test_test_texts_that_were_trained_on_are_counted(tokenizer):
    train = TokenDataset(["one", "two", "three", "four"], tokenizer=tokenizer, max_length=8)
    test = TokenDataset(["five", "three", "six"], tokenizer=tokenizer, max_length=3)
    finding = checks.check_repeated(job(train, test=test))
    assert (finding.state, finding.value["test"]) == ("look", 1)
    assert checks.check_repeated(job(train)) is None
    own = TokenDataset(["one", "two", "three", "four", "five"], tokenizer=tokenizer, max_length=8)
    part = own.select_texts(torch.tensor([0, 1, 2]))
    other = own.select_texts(torch.tensor([3, 4]))
    assert checks.check_repeated(job(part, test=other)).state == "ok"


def test_fingerprints_are_those_of_tokenizer_teacher_and_data(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    value = checks.check_fingerprints(job(data)).value
    assert value["training"] == data.fingerprint
    again = checks.check_fingerprints(job(data, teacher=ignorant(290))).value
    assert {name for name in value if value[name] != again[name]} == {"teacher"}


def truth(model, data):
    """The mean negative log-likelihood, directly."""
    batch = data.take(torch.arange(len(data)))
    logits = model(batch.inputs["input_ids"]).detach().double()
    return float(nn.functional.cross_entropy(logits[batch.mask], batch.labels[batch.mask]))


def test_what_the_teacher_knows_is_compared_with_student_and_frequencies(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    teacher, student = knowing(data), ignorant(290)
    finding = teacher_news.check_news(job(data, teacher=teacher, student=student))
    assert finding.state == "ok"
    assert finding.value["teacher"] == pytest.approx(truth(teacher, data), rel=1e-5)
    assert finding.value["student"] == pytest.approx(truth(student, data), rel=1e-5)
    assert finding.value["student"] == pytest.approx(math.log(290), abs=0.1)
    labels = data.take(torch.arange(len(data))).labels
    labels = labels[labels >= 0]
    p = (labels.bincount(minlength=290) + 1) / (len(labels) + 290)
    assert finding.value["unigram"] == pytest.approx(float(-p[labels].log().mean()), rel=1e-5)
    assert finding.value["tokens"] == len(labels)


@pytest.mark.parametrize(
    ("state", "teacher", "student", "words"),
    [
        ("wrong", "ignorant", "ignorant", "no better than the frequencies"),
        ("look", "knowing", "knowing", "hardly anything to learn"),
        ("look", "blurred", "knowing", "no better than the student"),
    ],
)
def test_a_teacher_without_news_is_told_before_it_is_paid_for(tokenizer, state, teacher, student, words):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    models = {"ignorant": ignorant(290), "knowing": knowing(data), "blurred": knowing(data, weight=0.6)}
    finding = teacher_news.check_news(job(data, teacher=models[teacher], student=models[student]))
    assert finding.state == state
    assert words in finding.sentence
    assert teacher_news.check_news(job(data, trained=False)).state == "look"


def test_labels_that_the_teachers_vocabulary_lacks_are_left_out_and_counted(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    known = torch.arange(1, 290)  # not the end token
    alignment = VocabularyAlignment(known, known, 290, 290, {0: "<|end|>"})
    finding = teacher_news.check_news(job(data, teacher=AlignedTeacher(knowing(data), alignment)))
    labels = data.take(torch.arange(len(data))).labels
    assert finding.value["unknown"] == pytest.approx(float((labels[labels >= 0] == 0).double().mean()))
    assert math.isfinite(finding.value["teacher"])


def test_the_largest_batch_is_read_off_a_line():
    memory = BatchMemory(fixed=1e9, row=1e8, limit=5e9)
    assert memory.largest == 40
    assert memory.needed(40) == memory.limit
    assert judge_batch_memory(memory, 32, 64).state == "ok"
    finding = judge_batch_memory(memory, 96, 64)
    assert finding.state == "wrong"
    assert "budget.batch_size=32 and budget.accumulate=3" in finding.sentence
    assert "Not one row" in judge_batch_memory(memory._replace(limit=1e9), 4, 64).sentence
    assert judge_batch_memory(None, 4, 64).state == "look"
    assert judge_batch_memory(memory._replace(row=1.0), 4, 64).text == "any"


def test_peaks_of_two_sizes_give_the_bytes_of_a_row():
    def step(rows):
        torch.ones(rows, 10**7).add_(1)

    memory = measure_batch_memory(step, (1, 4), device=torch.device("cpu"))
    if memory is None:
        pytest.skip("the peak of the memory is not known here")
    assert memory.row == pytest.approx(4e7, rel=0.1)
    assert memory.limit > memory.fixed


def test_frequencies_of_prompts_do_not_count(tokenizer):
    data = TokenDataset(PROMPTS, tokenizer=tokenizer, max_length=40)
    assert isinstance(data.texts, TokenizedTexts)
    log_p = teacher_news.unigram_log_probabilities(data)
    assert float(log_p.exp().sum()) == pytest.approx(1.0)
    unseen = tokenizer.convert_tokens_to_ids("Q")
    word = tokenizer("add", add_special_tokens=False)["input_ids"][0]  # in every prompt, in no answer
    assert float(log_p[word]) == float(log_p[unseen])


def test_a_sound_job_is_sound(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    found = findings_of(job(data))
    assert {name: one for name, one in found.items() if one.state != "ok"} == {}
    expected = (checks.TOKENS, checks.ENDS, checks.CONTEXTS, checks.FINGERPRINTS, teacher_news.NEWS, "largest batch")
    assert all(name in found for name in expected)


@pytest.mark.parametrize("method", ["hinton", "logit matching"])
def test_a_sound_job_with_aligned_vocabularies_is_sound_and_equal_models_lose_exactly_nothing(tokenizer, method):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    teacher = knowing(data)
    padded = Bigram(torch.nn.functional.pad(teacher.table.detach(), (0, 20, 0, 20), value=9.0))
    tokens = torch.arange(290)
    aligned = AlignedTeacher(padded, VocabularyAlignment(tokens, tokens, 300, 310, {}))
    recipe = make(method.replace(" ", "_"), teacher=aligned)
    found = findings_of(job(data, teacher=aligned, student=ignorant(300), recipe=recipe))
    assert {name: one for name, one in found.items() if one.state == "wrong"} == {}
    if method == "hinton":
        assert set(found["teacher as student"].value.values()) == {0.0}
        assert found["copy of teacher"].value["distilled"] == {"kl_divergence": 0.0}
    assert found[teacher_news.NEWS].value["teacher"] == pytest.approx(truth(teacher, data), rel=1e-5)


class Output(nn.Module):
    """A language model with an output layer that is not multiplied out in a training step."""

    def __init__(self, tokens=290, width=8):
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, width), nn.Linear(width, tokens)

    def forward(self, input_ids, **_):
        return self.head(self.embed(input_ids))


@pytest.mark.parametrize("fuse", [True, False])
def test_a_copy_of_the_teacher_loses_exactly_nothing_with_and_without_logits(tokenizer, fuse):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    setting = TrainConfig(epochs=2, fuse_output_layer=fuse)
    context = job(data, teacher=Output(), student=Output(), setting=setting)
    (arm,) = context.arms
    (stage,) = arm.recipe.stages()
    finding = gradient_checks.check_equal_models(stage, arm, {}, context)
    assert (finding.state, finding.value) == ("ok", {"kl_divergence": 0.0})


def test_a_teacher_that_is_called_in_another_way_is_found(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=40)
    teacher = ModelTeacher(Output(), preprocess=lambda batch: {"input_ids": batch.inputs["input_ids"].flip(0)})
    context = job(data, teacher=teacher, student=Output())
    (arm,) = context.arms
    (stage,) = arm.recipe.stages()
    assert gradient_checks.check_equal_models(stage, arm, {}, context).state == "wrong"


def test_the_teacher_scores_the_longest_text_of_each_part(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer)
    good = checks.check_scores(job(data))
    assert good.state == "ok"
    assert set(good.value) == {"training", "development"}
    table = knowing(data).table.detach().clone()
    longest = data.take(data.row_lengths.argmax()[None])
    table[:, longest.labels[0, 2]] = -torch.inf
    assert checks.check_scores(job(data, teacher=Bigram(table))).state == "wrong"

    class Broken(Bigram):
        def forward(self, input_ids, **_):
            raise RuntimeError("too long for me\nmore")

    finding = checks.check_scores(job(data, teacher=Broken(table)))
    assert finding.state == "wrong"
    assert "too long for me" in finding.sentence
    assert str(int(data.row_lengths.max())) in finding.sentence
