"""Two tokenizations of one text: groups of tokens that spell the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import train_byte_level_tokenizer, train_tokenizer
from limbeck.errors import LimbeckError
from limbeck.models import TokenAligner, TokenSpelling, group_tokens
from vocabularies import train_bytes

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = ["the quick brown fox", "Größe, naïve 東京 🙂", "  two  spaces\n\tand an end ", "", "a", "½ é 1234"]
cuts = st.sets(st.integers(1, 11)).map(sorted)


def bounds(inner, size=12):
    return np.array([0, *inner, size])


def brute_force(ours, theirs):
    """The group of each byte-run, one boundary after the other, with sets."""
    common = sorted(set(ours.tolist()) & set(theirs.tolist()))

    def of(bounds):
        return [sum(boundary <= start for boundary in common) - 1 for start in bounds[:-1].tolist()]

    return of(ours), of(theirs)


@settings(max_examples=200, deadline=None)
@given(cuts, cuts)
def test_groups_are_those_of_brute_force_and_partition_the_bytes(one, other):
    ours, theirs = bounds(one), bounds(other)
    groups = group_tokens(ours, theirs)
    assert tuple(part.tolist() for part in groups) == brute_force(ours, theirs)
    for number in range(int(groups[0].max()) + 1):
        spans = [
            (int(edge[:-1][part == number].min()), int(edge[1:][part == number].max()))
            for edge, part in zip((ours, theirs), groups, strict=True)
        ]
        assert spans[0] == spans[1]  # the same bytes on both sides
        inner = [set(edge[1:][part == number].tolist()) for edge, part in zip((ours, theirs), groups, strict=True)]
        assert inner[0] & inner[1] == {spans[0][1]}  # and no smaller group
    assert sum(np.diff(ours)[groups[0] >= 0]) == 12


@settings(max_examples=50, deadline=None)
@given(cuts, cuts)
def test_groups_are_symmetric_and_the_same_tokenizer_gives_groups_of_one_token(one, other):
    ours, theirs = bounds(one), bounds(other)
    forward, backward = group_tokens(ours, theirs), group_tokens(theirs, ours)
    assert np.array_equal(forward[0], backward[1])
    assert np.array_equal(forward[1], backward[0])
    assert group_tokens(ours, ours)[0].tolist() == list(range(len(ours) - 1))


@settings(max_examples=50, deadline=None)
@given(cuts, cuts, cuts, cuts)
def test_two_texts_in_a_row_have_the_groups_of_both(a, b, c, d):
    first, second = group_tokens(bounds(a), bounds(b)), group_tokens(bounds(c), bounds(d))
    both = group_tokens(
        np.concatenate([bounds(a), bounds(c)[1:] + 12]), np.concatenate([bounds(b), bounds(d)[1:] + 12])
    )
    for joined, one, other in zip(both, first, second, strict=True):
        assert joined.tolist() == [*one.tolist(), *(other + one.max() + 1).tolist()]


def test_tokens_outside_the_common_boundaries_are_in_no_group():
    ours, theirs = group_tokens(np.array([-1, 2, 4, 9]), np.array([0, 2, 3, 4, 6]))
    assert ours.tolist() == [-1, 0, -1]
    assert theirs.tolist() == [-1, 0, 0, -1]


@pytest.fixture(scope="module")
def pair():
    texts = ["the quick brown fox and the lazy dog", "Größe 東京 naïve 🙂 and the other", "  two  spaces\n"]
    return tuple(train_byte_level_tokenizer(texts, vocabulary=size) for size in (270, 320))


def spell(spelling, ids):
    return b"".join(spelling.spell(id) or b"<special>" for id in ids)


@pytest.mark.parametrize("text", TEXTS)
def test_each_group_spells_the_same_bytes_with_both_tokenizers(pair, text):
    aligner = TokenAligner(*pair)
    ids = pair[0](text)["input_ids"]
    (aligned,) = aligner.align([ids])
    assert aligned.teacher_ids.tolist() == pair[1](text)["input_ids"]
    covered = b""
    for first, count, its_first, its_count in zip(*(column.tolist() for column in aligned.groups), strict=True):
        ours = spell(aligner.student, ids[first : first + count])
        assert ours == spell(aligner.teacher, aligned.teacher_ids.tolist()[its_first : its_first + its_count])
        covered += ours
    assert covered == text.encode()


def test_the_same_tokenizer_in_both_gives_single_tokens_and_the_same_ids(pair):
    ids = pair[0](TEXTS[1])["input_ids"]
    (aligned,) = TokenAligner(pair[0], pair[0]).align([ids])
    assert aligned.teacher_ids.tolist() == ids
    assert set(aligned.groups.count.tolist()) == set(aligned.groups.teacher_count.tolist()) == {1}


def test_a_window_that_cuts_a_character_leaves_out_its_bytes(pair):
    ids = pair[0]("東京", add_special_tokens=False)["input_ids"]
    aligner = TokenAligner(*pair)
    assert len(ids) > 2  # several tokens for a character
    for cut in range(1, len(ids)):
        for part in (ids[:cut], ids[cut:]):
            (aligned,) = aligner.align([part])
            spelled = [
                spell(aligner.student, part[first : first + count])
                for first, count in zip(aligned.groups.first.tolist(), aligned.groups.count.tolist(), strict=True)
            ]
            b"".join(spelled).decode()  # whole characters only


def test_an_invalid_byte_ends_what_is_aligned(pair):
    bad = next(id for id in range(len(pair[0])) if TokenSpelling(pair[0], who="student").spell(id) == b"\xff")
    ids = [*pair[0]("the fox")["input_ids"], bad, *pair[0](" the dog")["input_ids"]]
    (aligned,) = TokenAligner(*pair).align([ids])
    last = aligned.groups.first[-1] + aligned.groups.count[-1]
    assert last == len(pair[0]("the fox")["input_ids"])
    assert pair[1].decode(aligned.teacher_ids.tolist()) == "the fox"


@pytest.mark.parametrize(("bos", "its_bos"), [(None, "<s>"), ("<s>", None), ("<s>", "<begin>"), (None, None)])
def test_trap_19_a_begin_token_on_one_side_shifts_nothing(bos, its_bos):
    ours = train_bytes(vocabulary=270, special=("<|end|>", *([bos] if bos else [])), bos=bos)
    theirs = train_bytes(vocabulary=290, special=("<eos>", *([its_bos] if its_bos else [])), bos=its_bos)
    text = "the quick brown fox"
    ids = [*ours(text)["input_ids"], ours.eos_token_id]
    aligner = TokenAligner(ours, theirs)
    (aligned,) = aligner.align([ids])
    assert aligned.teacher_ids.tolist() == [*theirs(text)["input_ids"], theirs.eos_token_id]
    first = int(bos is not None), int(its_bos is not None)
    assert (aligned.groups.first[0], aligned.groups.teacher_first[0]) == first
    # The end tokens are a group, although their strings and ids differ.
    last = [int(column[-1]) for column in aligned.groups]
    assert last == [len(ids) - 1, 1, len(aligned.teacher_ids) - 1, 1]


def test_chat_markers_are_matched_by_their_string_or_left_out():
    ours = train_bytes(vocabulary=270, special=("<|end|>", "<|user|>", "<|only|>"))
    theirs = train_bytes(vocabulary=290, special=("<eos>", "<|user|>"))
    ids = [ours.convert_tokens_to_ids(token) for token in ("<|user|>", "<|only|>")]
    ids = [ids[0], *ours("the fox")["input_ids"], ids[1], *ours("the dog")["input_ids"], ours.eos_token_id]
    (aligned,) = TokenAligner(ours, theirs).align([ids])
    mark = theirs.convert_tokens_to_ids("<|user|>")
    parts = [theirs(text)["input_ids"] for text in ("the fox", "the dog")]
    assert aligned.teacher_ids.tolist() == [mark, *parts[0], *parts[1], theirs.eos_token_id]
    inside = {
        place for first, count in zip(*(c.tolist() for c in aligned.groups[:2]), strict=True)
        for place in range(first, first + count)
    }  # fmt: skip
    assert set(range(len(ids))) - inside == {1 + len(ours("the fox")["input_ids"])}  # the marker that it lacks


def test_the_string_of_a_special_token_within_a_text_stays_text(pair):
    ids = pair[0]("say <|endoftext|> now", split_special_tokens=True)["input_ids"]
    (aligned,) = TokenAligner(*pair).align([ids])
    assert pair[1].eos_token_id not in aligned.teacher_ids.tolist()
    assert aligned.groups.count.sum() == len(ids)


def make_sentence_piece(scheme="always", vocabulary=320):
    """Byte-pair encoding with marks of spaces and byte tokens, as in Llama 2."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = tokenizers.decoders.Sequence([
        tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(),
        tokenizers.decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    inner.train_from_iterator(["the quick brown fox and the lazy dog", "  two  spaces"], trainer)
    rules = json.loads(inner.to_str())
    rules["added_tokens"] = [token for token in rules["added_tokens"] if not token["content"].startswith("<0x")]
    inner = tokenizers.Tokenizer.from_str(json.dumps(rules))
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@pytest.mark.parametrize("text", ["the quick brown fox", "Größe 東京 🙂", "two\nlines  and  spaces", "x"])
@pytest.mark.parametrize("swap", [False, True])
def test_a_space_in_front_that_sentence_piece_adds_is_no_text(pair, text, swap):
    both = (make_sentence_piece(), pair[1])
    student, teacher = both[::-1] if swap else both
    ids = student(text)["input_ids"]
    aligner = TokenAligner(student, teacher)
    (aligned,) = aligner.align([ids])
    assert aligned.teacher_ids.tolist() == teacher(text)["input_ids"]
    assert not aligned.changed
    assert int(aligned.groups.count.sum()) == len(ids) - (not swap)  # all but the begin token
    assert int(aligned.groups.teacher_count.sum()) == len(aligned.teacher_ids) - swap


def test_tokenizers_that_lose_text_are_refused_by_name(pair):
    lower = train_tokenizer(["a fine film"], vocabulary=60)
    for student, teacher, who in ((lower, pair[0], "student"), (pair[0], lower, "teacher")):
        with pytest.raises(LimbeckError, match=f"{who}'s tokenizer") as caught:
            TokenAligner(student, teacher)
        assert "The quick brown" in str(caught.value)


def test_a_text_that_the_teacher_writes_in_another_way_is_left_out(pair):
    inner = tokenizers.Tokenizer.from_str(pair[1].backend_tokenizer.to_str())
    inner.normalizer = tokenizers.normalizers.NFC()
    composing = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    aligner = TokenAligner(pair[0], composing)
    plain, decomposed = (pair[0](text)["input_ids"] for text in ("the fox", "the e\u0301 fox"))
    aligned = aligner.align([plain, decomposed])
    assert [text.changed for text in aligned] == [False, True]
    assert len(aligned[1].groups.count) == 0


def test_a_text_that_comes_again_is_not_tokenized_again(pair, monkeypatch):
    aligner = TokenAligner(*pair)
    ids = pair[0]("the quick brown fox")["input_ids"]
    calls = []
    encode = aligner.teacher.encode
    monkeypatch.setattr(aligner.teacher, "encode", lambda texts: calls.append(len(texts)) or encode(texts))
    first, again = aligner.align([ids, ids]), aligner.align([ids])
    assert calls == [1, 0]
    assert first[0] is first[1] is again[0]
    monkeypatch.setattr("limbeck.models.token_alignment._ALIGNED_BYTES", 1)
    aligner.align([pair[0](str(number))["input_ids"] for number in range(5)])
    assert len(aligner._known) == 1
