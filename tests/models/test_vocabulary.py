"""Vocabularies of two models are compared by token string."""

from __future__ import annotations

import pytest
import torch

from limbeck.data import train_tokenizer
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.models import align_vocabularies, count_outputs
from vocabularies import TEXTS, renumber, train_bytes


@pytest.fixture(scope="module")
def tokenizer():
    return train_bytes()


def align(student, teacher, *, student_size=None, teacher_size=None, **more):
    sizes = (student_size or len(student), teacher_size or len(teacher))
    return align_vocabularies(student, teacher, student_size=sizes[0], teacher_size=sizes[1], **more)


def check_strings(alignment, student, teacher):
    """Truth: a shared token is the same string in both, no string is missing, and none appears twice."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    mine = student.convert_ids_to_tokens(alignment.student_ids.tolist())
    assert mine == teacher.convert_ids_to_tokens(alignment.teacher_ids.tolist())
    assert sorted(mine) == sorted(ours.keys() & theirs.keys())
    assert alignment.student_ids.diff().gt(0).all()
    back = alignment.from_teacher[alignment.teacher_ids]
    assert torch.equal(back, torch.arange(alignment.shared))
    assert torch.equal(alignment.from_student[alignment.student_ids], alignment.teacher_ids)
    assert int((alignment.from_student < 0).sum()) == alignment.student_size - alignment.shared


def test_equal_tokenizers_have_nothing_to_align(tokenizer):
    alignment = align(tokenizer, train_bytes())
    assert alignment.is_identity
    assert alignment.notes == ()
    # Unused outputs in both, at the same places, are no difference.
    assert align(tokenizer, tokenizer, student_size=304, teacher_size=304).is_identity


@pytest.mark.parametrize("sizes", [(300, 320), (320, 300), (290, 320), (320, 290)])
def test_trap_17_padded_rows_are_trimmed_to_the_tokens(tokenizer, sizes):
    alignment = align(tokenizer, tokenizer, student_size=sizes[0], teacher_size=sizes[1])
    assert alignment.shared == len(tokenizer) == 290
    assert alignment.same_ids
    assert not alignment.is_identity
    check_strings(alignment, tokenizer, tokenizer)
    assert "Outputs without a token" in alignment.notes[0]


def test_a_teacher_with_further_tokens(tokenizer):
    teacher = train_bytes()
    teacher.add_special_tokens({"additional_special_tokens": ["<|tool|>", "<|call|>"]})
    alignment = align(tokenizer, teacher)
    assert alignment.covers_student
    assert not alignment.covers_teacher
    check_strings(alignment, tokenizer, teacher)
    assert alignment.names == {}


def test_a_student_with_a_padding_token_of_its_own(tokenizer):
    student = train_bytes()
    student.add_special_tokens({"pad_token": "[PAD]"})
    alignment = align(student, tokenizer)
    assert alignment.names == {290: "[PAD]"}
    assert "[PAD]" in " ".join(alignment.notes)
    check_strings(alignment, student, tokenizer)


def test_trap_18_equal_sizes_with_other_ids_are_matched_by_string(tokenizer):
    teacher = renumber(tokenizer)
    alignment = align(tokenizer, teacher)
    assert alignment.shared == alignment.student_size == alignment.teacher_size
    assert not alignment.same_ids
    assert not alignment.is_identity
    check_strings(alignment, tokenizer, teacher)
    assert align(tokenizer, tokenizer).fingerprint != alignment.fingerprint


def test_trap_18_a_smaller_teacher_with_other_ids_is_no_prefix(tokenizer):
    student = train_bytes()
    student.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    teacher = renumber(tokenizer, shift=100)
    alignment = align(student, teacher)
    assert alignment.teacher_size < alignment.student_size
    assert not alignment.same_ids
    check_strings(alignment, student, teacher)


def test_trap_19_other_merges_are_refused_with_what_works_instead(tokenizer):
    other = train_bytes(["some other words, numbers 1 2 3 4 and numbers"], vocabulary=290)
    for student, teacher in ((tokenizer, other), (other, tokenizer)):
        with pytest.raises(LimbeckError, match="same family"):
            align(student, teacher)


def test_trap_19_more_merges_of_the_same_words_are_refused(tokenizer):
    longer = train_bytes(vocabulary=330)
    assert tokenizer.get_vocab().keys() < longer.get_vocab().keys()
    with pytest.raises(LimbeckError, match="same family"):
        align(tokenizer, longer, texts=TEXTS)


def test_trap_19_the_same_tokens_cut_in_another_way_are_refused(tokenizer):
    import tokenizers

    digits = renumber(tokenizer, shift=0)
    inner = digits.backend_tokenizer
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert digits.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(LimbeckError, match="other tokens"):
        align(tokenizer, digits)


def test_trap_19_a_token_at_the_start_of_one_side_is_said():
    both = ("<|end|>", "<|start|>")
    student, teacher = train_bytes(special=both), train_bytes(special=both, bos="<|start|>")
    (note,) = align(student, teacher).notes
    assert "<|start|>" in note


def test_words_that_are_unknown_to_one_show_in_the_texts_of_the_data():
    student = train_tokenizer(["a b c"], vocabulary=40)
    teacher = train_tokenizer(["a b c d"], vocabulary=40)
    with pytest.raises(LimbeckError):
        align(student, teacher, texts=["d a b"])


def test_tokens_beyond_the_outputs_have_no_logit(tokenizer):
    teacher = train_bytes()
    teacher.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    student = train_bytes()
    student.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    alignment = align(student, teacher, teacher_size=290)  # the teacher was not resized for the new token
    assert alignment.shared == 290
    assert alignment.names == {290: "<|tool|>"}


def test_a_tokenizer_that_is_not_the_models_is_seen_by_its_size(tokenizer):
    with pytest.raises(LimbeckError, match="290 of the student's 50,257 outputs"):
        align(tokenizer, tokenizer, student_size=50_257, teacher_size=50_304)


def test_without_tokenizers_equal_sizes_pass_with_a_note(tokenizer):
    for student, teacher in ((None, None), (tokenizer, None), (None, tokenizer)):
        alignment = align(student, teacher, student_size=290, teacher_size=290)
        assert alignment.is_identity
        assert len(alignment.notes) == 1
        with pytest.raises(LimbeckError, match="save_pretrained"):
            align(student, teacher, student_size=290, teacher_size=291)


@pytest.mark.parametrize("size", [0, -1, True])
def test_wrong_sizes_are_refused(tokenizer, size):
    with pytest.raises(ArgumentError):
        align_vocabularies(tokenizer, tokenizer, student_size=size, teacher_size=290)


def test_outputs_of_a_model_are_counted():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=33, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    assert count_outputs(transformers.GPT2LMHeadModel(config)) == 33
    assert count_outputs(torch.nn.Linear(2, 3)) is None
