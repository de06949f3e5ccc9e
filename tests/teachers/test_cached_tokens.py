"""Outputs for token data sets: stored where a loss reads them, whatever the padding, windows or packing."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, ShuffledLoader
from limbeck.cache import CachePart, CacheReader, Location, Manifest, find_manifest
from limbeck.data import TokenDataset, hash_tokenizer, open_cached_texts, train_tokenizer
from limbeck.engine import distill
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import kl_divergence, logit_squared_error
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import CachedTeacher, ShuffledTeacher, TeacherContext, fill_cache, verify_cache
from limbeck.teachers.fingerprints import input_marks, marks_differ

ROWS = [
    {"prompt": "a b c d", "completion": " e f"},
    {"prompt": "a", "completion": " b c d e f g h"},
    {"prompt": "h g f e d", "completion": " c"},
    {"prompt": "b c", "completion": " d e f"},
    {"prompt": "g", "completion": " a b"},
]
TOKENIZER = train_tokenizer(["a b c d e f g h"], vocabulary=30)
VOCABULARY = len(TOKENIZER)


class Causal(nn.Module):
    """The answer at a token depends on the tokens of its text before it and on their places, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Embedding(VOCABULARY, 6), nn.Embedding(16, 6)
        self.out = nn.Linear(6, VOCABULARY)

    def forward(self, input_ids, position_ids, attention_mask=None, use_cache=None):
        own = self.embed(input_ids) + self.place(position_ids)
        if attention_mask is not None:
            own = own * attention_mask.unsqueeze(-1)
        return self.out(torch.stack([self._history(own, position_ids, t) for t in range(own.shape[1])], 1))

    def _history(self, own, position_ids, t):
        """The mean over the text up to position t; packed texts begin at position id 0."""
        steps = position_ids[:, t : t + 1] - (t - torch.arange(own.shape[1]))
        inside = (torch.arange(own.shape[1]) <= t) & (steps >= 0)
        return (own * inside.unsqueeze(-1)).sum(1) / (position_ids[:, t : t + 1] + 1)


def dataset(**how) -> TokenDataset:
    return TokenDataset(ROWS, tokenizer=TOKENIZER, add_eos_token=False, **{"max_length": 16, **how})


def filled(folder, data, *, batch_size=2, encoding="float32") -> CachedTeacher:
    teacher = CachedTeacher(Causal(), folder, encoding=encoding)
    list(fill_cache(teacher, ShuffledLoader(data, batch_size=batch_size, shuffle=False)))
    return teacher


def stored_answers(teacher, data, *, batch_size, seed=1):
    """The stored logits by (text, place of the token in its text)."""
    loader = ShuffledLoader(data, batch_size=batch_size, seed=seed)
    found = {}
    with CachedTeacher(None, teacher.where).open(TeacherContext(loader=loader)) as answer:
        for batch in loader.batches(0, 0):
            logits = answer(batch)["logits"]
            place = batch.inputs["position_ids"]
            for row, column in batch.mask.nonzero().tolist():
                key = int(batch.extra["text_number"][row, column]), int(place[row, column])
                assert key not in found
                found[key] = logits[row, column]
    return found


LAYOUTS = [
    {},
    {"padding_side": "left"},
    {"packing": True},
    {"max_length": 4, "too_long": "window"},
    {"max_length": 16, "packing": True},
]


@pytest.mark.parametrize("how", LAYOUTS[1:3])
def test_padding_and_packing_give_the_same_stored_answers(how, tmp_path):
    plain = stored_answers(filled(tmp_path / "plain", dataset()), dataset(), batch_size=5)
    other = stored_answers(filled(tmp_path / "other", dataset(**how)), dataset(**how), batch_size=1)
    assert plain.keys() == other.keys()
    for key, logits in plain.items():
        torch.testing.assert_close(other[key], logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", LAYOUTS)
def test_every_token_gets_its_own_answer_in_another_order(how, tmp_path):
    data, network = dataset(**how), Causal()
    teacher = filled(tmp_path / "s", data)
    for batch_size, seed in ((1, 0), (3, 1), (5, 2)):
        loader = ShuffledLoader(data, batch_size=batch_size, seed=seed)
        with CachedTeacher(None, teacher.where).open(TeacherContext(loader=loader)) as answer, torch.no_grad():
            for batch in loader.batches(0, 0):
                expected = network(**batch.inputs)[batch.mask]
                torch.testing.assert_close(answer(batch)["logits"][batch.mask], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", LAYOUTS)
def test_prompts_and_padding_take_no_bytes(how, tmp_path):
    data = dataset(**how)
    reader = CacheReader(filled(tmp_path / "s", data).where)
    assert int(reader.keys.positions.sum()) == data.labeled_tokens
    everything = sum(len(TOKENIZER(row["prompt"] + row["completion"])["input_ids"]) for row in ROWS)
    assert data.labeled_tokens < everything / 2 + len(ROWS) * 2


def test_the_marks_of_a_packed_text_see_its_prompt():
    """Packed rows have no attention mask, and the labels leave the prompt out."""
    batch = dataset(packing=True).take(torch.arange(1))
    ids = batch.inputs["input_ids"].clone()
    assert not bool(batch.mask[0, 1])
    ids[0, 1] = 9 if int(ids[0, 1]) != 9 else 8
    other = batch._replace(inputs={**batch.inputs, "input_ids": ids})
    assert marks_differ(input_marks(other), input_marks(batch)).tolist() == [True]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("encoding", [None, "float32", {"name": "top-k", "k": 5, "bits": 32}])
def test_shuffled_texts_get_outputs_for_tokens_and_never_for_padding(side, encoding, tmp_path):
    """The control must not depend on padding: a text may be longer than the one whose outputs it gets."""
    data, network = dataset(padding_side=side), Causal()
    teacher = network if encoding is None else filled(tmp_path, data, encoding=encoding)
    batch = data.take(torch.arange(len(ROWS)))
    with ShuffledTeacher(teacher).open(TeacherContext(loader=ShuffledLoader(data, batch_size=5))) as answer:
        outputs = answer(batch)
    logits = outputs.partial["logits"].spread() if outputs.partial else outputs["logits"]
    own = network(**batch.inputs).detach()
    if outputs.partial:
        logits, own = logits.topk(5).indices, own.topk(5).indices
    for row in range(len(ROWS)):
        theirs = own[(row + 1) % len(ROWS)][batch.mask[(row + 1) % len(ROWS)]]
        given = logits[row][batch.mask[row]]
        torch.testing.assert_close(given, theirs[torch.arange(len(given)) % len(theirs)], rtol=1e-5, atol=1e-6)


# --- inputs beside outputs, and the tokenizer ------------------------------------------------------------------------


def kept(folder, data, *, part=None) -> CachedTeacher:
    teacher = CachedTeacher(Causal(), folder, encoding="float32", inputs=True)
    list(fill_cache(teacher, ShuffledLoader(data, batch_size=2, shuffle=False), part=part))
    return teacher


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("rows", [None, [1, 0]])
def test_a_cache_with_inputs_is_a_training_set_by_itself(how, rows, tmp_path):
    data = dataset(**how)
    data = data if rows is None else data.select(torch.tensor(rows))
    teacher = kept(tmp_path / "s", data)
    again = open_cached_texts(tmp_path / "s")
    assert again.fingerprint == data.fingerprint
    assert hash_tokenizer(again.tokenizer) == hash_tokenizer(TOKENIZER)
    assert torch.equal(again.ids, data.ids)
    one, other = again.take(torch.arange(len(data))), data.take(torch.arange(len(data)))
    assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.mask, other.mask)
    loader = ShuffledLoader(again, batch_size=1, seed=3)
    with CachedTeacher(None, teacher.where).open(TeacherContext(loader=loader)) as answer:
        for batch in loader.batches(0, 0):
            expected = Causal()(**batch.inputs).detach()[batch.mask]
            torch.testing.assert_close(answer(batch)["logits"][batch.mask], expected, rtol=1e-5, atol=1e-6)


def test_inputs_are_added_to_a_cache_without_them(tmp_path):
    filled(tmp_path / "s", dataset())
    with pytest.raises(DataError, match="inputs=True"):
        open_cached_texts(tmp_path / "s")
    kept(tmp_path / "s", dataset())
    assert open_cached_texts(tmp_path / "s").fingerprint == dataset().fingerprint


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_one_of_several_parts_brings_the_inputs(order, tmp_path):
    for number in order:
        kept(tmp_path / "s", dataset(), part=CachePart(number, 2))
    assert open_cached_texts(tmp_path / "s").fingerprint == dataset().fingerprint
    assert CacheReader(tmp_path / "s").verify() == []


@pytest.mark.parametrize("name", ["tokens.safetensors", "tokenizer/tokenizer.json"])
def test_damaged_inputs_are_refused(name, tmp_path):
    kept(tmp_path / "s", dataset())
    path = tmp_path / "s" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=name):
        open_cached_texts(tmp_path / "s")
    assert len(CacheReader(tmp_path / "s").verify()) == 1
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        open_cached_texts(tmp_path / "s")
    kept(tmp_path / "s", dataset())
    assert open_cached_texts(tmp_path / "s").fingerprint == dataset().fingerprint


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", "a/b/c", ".hidden", "a\\b"])
def test_a_strangers_manifest_names_no_file_outside_of_the_cache(name, tmp_path):
    filled(tmp_path / "s", dataset())
    location = Location(tmp_path / "s")
    manifest = find_manifest(location)
    with pytest.raises(DataError):
        Manifest.from_bytes(manifest.with_files({name: "0" * 64}).to_bytes(), name="s")


def test_pictures_have_no_inputs_to_keep(tmp_path):
    loader = ShuffledLoader(ArrayDataset(torch.zeros(4, 2)), batch_size=2)
    with pytest.raises(LimbeckError, match="ArrayDataset"):
        list(fill_cache(CachedTeacher(nn.Linear(2, 3), tmp_path, inputs=True), loader))


def test_trap_18_another_tokenizer_is_refused_with_both_names(tmp_path):
    """The numbers of the tokens may agree, and their meaning differ."""
    filled(tmp_path / "s", dataset())
    other = train_tokenizer(["h g f e d c b a"], vocabulary=30)
    other.backend_tokenizer.normalizer = None
    other.name_or_path, data = "theirs", TokenDataset(ROWS, tokenizer=other, add_eos_token=False, max_length=16)
    with pytest.raises(LimbeckError, match=r"tokenizer \w+ \(\w{8}\), and this run has theirs"):
        CachedTeacher(Causal(), tmp_path / "s", encoding="float32").open(
            TeacherContext(loader=ShuffledLoader(data, batch_size=2))
        )


def test_the_hash_of_a_tokenizer_does_not_depend_on_its_last_call():
    before = hash_tokenizer(TOKENIZER)
    TOKENIZER(["a b", "a"], padding=True, truncation=True, max_length=2)
    assert hash_tokenizer(TOKENIZER) == before


def test_trap_22_the_cache_carries_what_its_numbers_mean(tmp_path):
    """Tokens, vocabulary, tokenizer, temperatures, top-k rule, rest, dtype and teacher; nothing is typed again."""
    data = dataset()
    spec = {"name": "top-k", "k": 5, "bits": 12, "temperatures": [2.0]}
    teacher = CachedTeacher(Causal(), tmp_path / "s", encoding=spec, inputs=True)
    list(fill_cache(teacher, ShuffledLoader(data, batch_size=2, shuffle=False)))
    manifest = find_manifest(Location(tmp_path / "s"))
    column = manifest.origin.outputs["logits"]
    assert manifest.origin.data == data.fingerprint
    assert column["classes"] == VOCABULARY
    assert manifest.about["tokenizer"]["sha256"] == hash_tokenizer(TOKENIZER)
    assert column["encoding"] == spec
    assert manifest.origin.precision == "float32"
    assert manifest.origin.teacher == teacher.inner.fingerprint
    loader = ShuffledLoader(open_cached_texts(tmp_path / "s"), batch_size=2, seed=7)  # by example, in another order
    with CachedTeacher(None, tmp_path / "s").open(TeacherContext(loader=loader)) as answer:
        for batch in loader.batches(3, 0):
            partial = answer(batch).partial["logits"][batch.mask]
            own = Causal()(**batch.inputs).detach()[batch.mask]
            for temperature in (1.0, 2.0):
                total = partial.coarse(temperature).div(temperature).logsumexp(-1) + partial.top / temperature
                torch.testing.assert_close(total, (own / temperature).logsumexp(-1), rtol=1e-3, atol=1e-3)


def test_trap_23_no_batch_of_logits_is_kept_alive(tmp_path):
    data = dataset()
    teacher = CachedTeacher(Causal(), tmp_path / "s", encoding="float32")
    loader = ShuffledLoader(data, batch_size=1, seed=1)
    alive = []
    for _ in range(2):  # while it is filled, and from the disk
        with teacher.open(TeacherContext(loader=loader)) as answer:
            for batch in loader.batches(0, 0):
                logits = answer(batch)["logits"]
                alive.append(weakref.ref(logits.untyped_storage()))
                del logits
                assert sum(one() is not None for one in alive) == 0


# --- a mask for each loss ---------------------------------------------------------------------------------------------


def text_losses(teacher, data, **how):
    """Losses of a stage whose divergence reads answers, and whose hidden states read prompts too."""
    hidden = Loss(logit_squared_error, student="embed", teacher="embed", where="text", centered=False)
    student = Causal()
    torch.nn.init.normal_(student.embed.weight, generator=torch.Generator().manual_seed(3))
    stage = Stage(Loss(kl_divergence) + hidden, teacher=teacher, epochs=2)
    loader = ShuffledLoader(data, batch_size=2, seed=1)
    return [report.loss for report in distill(student, stage, loader, log_every=1, accelerator="cpu", **how)]


@pytest.mark.parametrize("how", LAYOUTS)
def test_losses_that_read_prompts_get_the_outputs_for_prompts(how, tmp_path):
    data = dataset(**how)
    live = text_losses(Causal(), data)
    for _ in range(2):
        cached = CachedTeacher(Causal(), tmp_path / "s", encoding="float32")
        assert text_losses(cached, data) == pytest.approx(live, rel=1e-3)
    counted = data.take(torch.arange(len(data))).extra["masks"]["text"]
    assert int(CacheReader(tmp_path / "s").keys.positions.sum()) == int(counted.sum())


def test_a_cache_with_prompts_serves_losses_without_and_not_the_other_way(tmp_path):
    data = dataset()
    hidden = {"addresses": ["embed"], "encoding": "float32"}
    loader = ShuffledLoader(data, batch_size=2, shuffle=False)
    both = CachedTeacher(Causal(), tmp_path / "both", masks=["text"], **hidden)
    list(fill_cache(both, loader))
    answers = stored_answers(both, data, batch_size=3)
    assert answers.keys() == stored_answers(filled(tmp_path / "one", data), data, batch_size=3).keys()
    assert text_losses(both, data) == pytest.approx(text_losses(Causal(), data), rel=1e-3)
    few = CachedTeacher(Causal(), tmp_path / "few", **hidden)
    list(fill_cache(few, loader))
    with pytest.raises(LimbeckError, match="text"):
        text_losses(few, data)
    assert verify_cache(both, loader, sample=5).same


def test_the_shuffled_teacher_of_prompts_gives_no_padding_either():
    data, network = dataset(), Causal()
    batch = data.take(torch.arange(len(ROWS)))
    text = batch.extra["masks"]["text"]
    context = TeacherContext(requires=frozenset({"embed"}), masks=frozenset({"text"}))
    with ShuffledTeacher(network).open(context) as answer:
        given = answer(batch)["embed"]
    padding = network.embed(torch.tensor(TOKENIZER.pad_token_id)).detach()
    assert not bool((given[text] == padding).all(-1).any())


def test_no_flipped_bit_of_a_cache_of_texts_is_read_as_good(tmp_path):
    data = dataset()
    teacher = kept(tmp_path / "s", data)
    good = stored_answers(teacher, data, batch_size=5)
    files = sorted(path for path in (tmp_path / "s").rglob("*") if path.is_file())
    draw, refused = torch.Generator().manual_seed(0), 0
    for number in range(60):
        path = files[number % len(files)]
        before = path.read_bytes()
        flipped = bytearray(before)
        flipped[int(torch.randint(len(flipped), (), generator=draw))] ^= 1 << number % 8
        path.write_bytes(flipped)
        try:
            again = open_cached_texts(tmp_path / "s")
            found = stored_answers(teacher, again, batch_size=5)
            assert all(torch.equal(found[key], good[key]) for key in good)
        except LimbeckError:
            refused += 1
        path.write_bytes(before)
    assert refused == 60
