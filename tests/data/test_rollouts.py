"""Prompts and rows of written texts, and the loader's own laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("transformers")

from engine.rollout_stories import WRITING, Own, loader, rollouts, tokenizer
from limbeck.batch import IGNORED, Batch
from limbeck.data import (
    PromptDataset,
    Replay,
    RolloutLoader,
    Rollouts,
    ShuffledLoader,
    TokenDataset,
    TokenPairDataset,
    as_loader,
    shard_batch,
)
from limbeck.data.rollout_texts import RolloutText, TextBuffer, find_prompts, make_batch
from limbeck.data.rollouts import _gather_texts
from limbeck.engine import distill
from limbeck.errors import ArgumentError, DataError, LimbeckError, TextTooLongError
from limbeck.functional import reverse_kl
from limbeck.generation import GenerationConfig
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.testing import check_loader

ROWS = [{"prompt": "a b c", "completion": " d"}, {"prompt": "b", "completion": " c d e"}]
PAIRS = [{"source": "a b c", "target": "d"}, {"source": "b", "target": "c d e"}]


def text_of(prompt, new, *, finished=False, id=0, born=0):
    new = torch.tensor(new)
    return RolloutText(torch.tensor(prompt), new, -torch.arange(1.0, len(new) + 1), finished, id, 3, born)


def written(batch, texts, pad=0, number=5):
    return make_batch(batch, texts, pad=pad, number=number, written_by="student")


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_prompt_is_all_before_the_first_label(side):
    data = TokenDataset(ROWS, tokenizer=tokenizer(), padding_side=side)
    prompts = find_prompts(data.take(torch.arange(2)))
    expected = [tokenizer()(row["prompt"], add_special_tokens=False).input_ids for row in ROWS]
    # The token in front of the whole text is part of the prompt.
    assert [prompt.tolist()[1:] for prompt in prompts] == expected
    assert all(int(prompt[0]) == tokenizer().cls_token_id for prompt in prompts)


def test_prompts_of_a_chat_end_before_the_first_answer():
    made = tokenizer()
    made.chat_template = (
        "{% for m in messages %}{{ 'q' if m.role == 'user' else 'a' }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}a {% endif %}"
    )
    chat = [{"role": "user", "content": "b c"}, {"role": "assistant", "content": "d"},
            {"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]  # fmt: skip
    try:
        data = TokenDataset([{"messages": chat}], tokenizer=made)
        (prompt,) = find_prompts(data.take(torch.arange(1)))
    finally:
        made.chat_template = None
    assert made.decode(prompt).split() == ["q", "b", "c", "a"]


def test_a_row_without_labels_is_a_prompt():
    ids = torch.tensor([[5, 6, 7], [8, 0, 0]])
    batch = Batch({"input_ids": ids, "attention_mask": (ids > 0).long()}, labels=torch.full_like(ids, IGNORED))
    assert [prompt.tolist() for prompt in find_prompts(batch)] == [[5, 6, 7], [8]]
    made = RolloutLoader(as_loader([batch], batch_size=2), rollouts())
    made.bind({"student": Own()})
    assert made.complete(made.peek()).labels.ne(IGNORED).any()
    given = RolloutLoader(as_loader([batch], batch_size=2), rollouts(1e-9))
    given.bind({"student": Own()})
    with pytest.raises(DataError, match="share"):
        given.complete(given.peek())


def test_prompts_without_answers_are_those_of_texts_with_answers():
    alone = PromptDataset([*ROWS, "a b"], tokenizer=tokenizer())
    given = TokenDataset(ROWS, tokenizer=tokenizer())
    expected = find_prompts(given.take(torch.arange(2)))
    assert [prompt.tolist() for prompt in find_prompts(alone.take(torch.arange(2)))] == [p.tolist() for p in expected]
    assert alone.fingerprint != PromptDataset(ROWS, tokenizer=tokenizer()).fingerprint
    student = Own()
    step = Stage(Loss(reverse_kl), teacher=Own(7), steps=2, loader=rollouts())
    assert distill(student, step, alone, batch_size=3).finish().history[-1].generation["finished"] >= 0
    with pytest.raises(DataError, match="share"):
        distill(student, replace(step, loader=rollouts(0.1), steps=30), alone, batch_size=3).finish()
    for rows in ([], [3], [""], [{"text": "a"}], [{"messages": [{"role": "user", "content": "a"}]}]):
        with pytest.raises(DataError):
            PromptDataset(rows, tokenizer=tokenizer())
    with pytest.raises(TextTooLongError):
        PromptDataset(["a b c"], tokenizer=tokenizer(), max_length=2)


def shards(made, batch, world, monkeypatch):
    """What each rank makes of a batch."""
    parts = []
    for number in range(world):
        monkeypatch.setattr("limbeck.data.rollouts.rank", lambda number=number: number)
        parts.append(made.complete(shard_batch(batch, number, world), used=False))
    return parts


@pytest.mark.parametrize("world", [2, 3, 7])
def test_the_texts_do_not_depend_on_the_number_of_ranks(world, monkeypatch):
    made = RolloutLoader(loader(), rollouts())
    made.bind({"student": Own().double()})
    batch = made.peek()
    whole = made.complete(batch)
    for number, part in enumerate(shards(made, batch, world, monkeypatch)):
        rows = list(range(number, batch.size, world))
        assert bool(part.mask.any()) == bool(rows)  # a rank without rows takes part, and nothing counts
        for i, row in enumerate(rows):
            assert part.labels[i][part.mask[i]].tolist() == whole.labels[row][whole.mask[row]].tolist()


def test_all_ranks_keep_the_same_texts_for_replay(monkeypatch):
    texts = [text_of([1], [number], id=number) for number in range(5)]
    parts = [list(zip(range(r, 5, 2), texts[r::2], strict=True)) for r in range(2)]
    monkeypatch.setattr("limbeck.data.rollouts.all_gather_objects", lambda own: parts)
    gathered = _gather_texts(texts[1::2], torch.tensor([1, 3]), padding=False)
    assert [text.id for text in gathered] == [0, 1, 2, 3, 4]


def test_trap_12_prompts_are_masked_and_the_first_end_token_is_kept_though_it_is_the_padding():
    end = 3
    batch = TokenDataset(ROWS, tokenizer=tokenizer(), padding_side="left").take(torch.arange(2))
    made = written(batch, [text_of([2, end, 7], [8, end], finished=True), text_of([2], [9, 9, 4, 5], id=1)], pad=end)
    assert made.inputs["input_ids"].tolist() == [[2, end, 7, 8], [2, 9, 9, 4]]
    assert made.labels.tolist() == [[IGNORED, IGNORED, 8, end], [9, 9, 4, 5]]
    assert made.mask.tolist() == [[False, False, True, True], [True] * 4]
    batch = TokenDataset(ROWS, tokenizer=tokenizer()).take(torch.tensor([0, 1, 0]))
    made = written(
        batch,
        [text_of([2, 7], [end], finished=True), text_of([2], [9, end], finished=True), text_of([5, 6, 7], [8, 8])],
        pad=end,
    )
    assert made.inputs["input_ids"].tolist() == [[2, 7, end, end], [2, 9, end, end], [5, 6, 7, 8]]
    assert made.inputs["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert made.inputs["position_ids"].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 2, 3]]
    assert made.labels.tolist() == [
        [IGNORED, end, IGNORED, IGNORED],
        [9, end, IGNORED, IGNORED],
        [IGNORED, IGNORED, 8, 8],
    ]


def test_a_text_that_was_cut_off_has_no_end_token():
    batch = TokenDataset(ROWS, tokenizer=tokenizer()).take(torch.arange(2))
    made = written(batch, [text_of([2, 4], [5, 6])])
    assert made.labels.tolist() == [[IGNORED, 5, 6]]
    assert made.extra["finished"].tolist() == [False]


def test_a_written_batch_has_what_losses_read():
    batch = TokenDataset(ROWS, tokenizer=tokenizer()).take(torch.tensor([1]))
    batch = batch._replace(extra={**batch.extra, "answer": ["42"]})
    made = written(batch, [text_of([2, 4], [5, 6], id=1, born=2)])
    assert made.extra["behavior_logprobs"].tolist() == [[0.0, -1.0, -2.0]]
    assert (made.extra["age"].tolist(), made.view.tolist(), made.id.tolist()) == ([3], [3], [1])
    assert (made.extra["written_by"], made.extra["answer"]) == ("student", ["42"])
    assert not made.extra["masks"]["given"].any()
    assert made.extra["text_number"].tolist() == [[1, 1, 1]]
    assert "label_bytes" not in made.extra


@pytest.mark.parametrize("start", [None, 2])
def test_rows_of_encoder_decoders(start):
    data = TokenPairDataset(PAIRS, tokenizer=tokenizer(), decoder_start_token_id=start)
    batch = data.take(torch.arange(2))
    prompts = find_prompts(batch)
    assert [tokenizer().decode(prompt, skip_special_tokens=True).strip() for prompt in prompts] == ["a b c", "b"]
    made = written(batch, [text_of([2, 4, 3], [5], finished=True), text_of([2], [6, 7], id=1)])
    assert made.inputs["input_ids"].tolist() == [[2, 4, 3], [2, 0, 0]]
    assert made.labels.tolist() == [[5, IGNORED], [6, 7]]
    if start is None:
        assert made.inputs["labels"].equal(made.labels)
    else:
        assert made.inputs["decoder_input_ids"].tolist() == [[2, 0], [2, 6]]


def test_packed_rows_and_other_inputs_are_refused():
    packed = TokenDataset(ROWS, tokenizer=tokenizer(), max_length=64, packing=True).take(torch.arange(1))
    with pytest.raises(DataError, match="packing"):
        find_prompts(packed)
    batch = TokenDataset(ROWS, tokenizer=tokenizer()).take(torch.arange(1))
    with pytest.raises(DataError, match="pixel_values"):
        find_prompts(batch._replace(inputs={**batch.inputs, "pixel_values": torch.zeros(1, 3)}))
    with pytest.raises(DataError, match="input_ids"):
        find_prompts(Batch(torch.zeros(2, 3)))


def test_replayed_texts_are_first_in_first_out_and_survive_a_checkpoint():
    buffer = TextBuffer(3)
    buffer.add([text_of([1, 2], [number], id=number, born=number) for number in range(5)])
    drawn = buffer.draw(torch.arange(200), number=7, epoch=1, seed=0)
    assert {text.id for text in drawn} == {2, 3, 4}
    other = TextBuffer(3)
    other.load_state_dict(buffer.state_dict())
    again = other.draw(torch.arange(200), number=7, epoch=1, seed=0)
    assert [(text.id, text.prompt.tolist(), text.text.tolist(), text.born) for text in drawn] == [
        (text.id, text.prompt.tolist(), text.text.tolist(), text.born) for text in again
    ]
    assert [text.id for text in buffer.draw(torch.arange(50, 60), number=7, epoch=1, seed=0)] == [
        text.id for text in drawn[50:60]
    ]
    precise = TextBuffer(1)
    precise.add([text_of([1], [2])._replace(logprobs=torch.tensor([-1 / 3], dtype=torch.float64))])
    other.load_state_dict(precise.state_dict())
    (text,) = other.draw(torch.arange(1), number=7, epoch=1, seed=0)
    assert (text.logprobs.dtype, text.logprobs.item()) == (torch.float64, -1 / 3)
    assert len(TextBuffer(2)) == 0
    empty = TextBuffer(2)
    empty.load_state_dict(TextBuffer(2).state_dict())
    assert len(empty) == 0


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_laws_of_loaders_hold(share):
    check_loader(RolloutLoader(loader(), rollouts(share, replay=True)), models={"student": Own()})


def test_batches_of_a_data_loader_of_hugging_face_are_continued():
    def collate(rows):
        made = tokenizer()([row["prompt"] + row["completion"] for row in rows], padding=True, return_tensors="pt")
        labels = made.input_ids.masked_fill(made.attention_mask == 0, IGNORED)
        labels[:, :3] = IGNORED
        return {"input_ids": made.input_ids, "attention_mask": made.attention_mask, "labels": labels}

    batches = torch.utils.data.DataLoader(ROWS * 3, batch_size=2, collate_fn=collate)
    made = RolloutLoader(as_loader(batches, batch_size=2), Rollouts(generation=WRITING))
    made.bind({"student": Own()})
    first = made.complete(made.peek())
    seen = [made.complete(batch) for batch in made]
    assert torch.equal(first.labels, seen[0].labels)
    assert len(seen) == 3
    # Rows without ids are known by their places, so the same prompt gets other texts.
    assert len({tuple(row.tolist()) for batch in seen for row in batch.labels[:, -4:]}) > 2


def test_several_end_tokens_and_the_tokenizer_s_own():
    given = ShuffledLoader(TokenDataset(ROWS, tokenizer=tokenizer()), batch_size=2)
    own = RolloutLoader(given, Rollouts(generation=WRITING))
    assert own.generation.end_tokens == (tokenizer().eos_token_id,)
    several = RolloutLoader(given, Rollouts(generation=GenerationConfig(eos_token_id=[7, 9])))
    assert several.generation.end_tokens == (7, 9)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Rollouts(share=1.5), "share"),
        (lambda: Rollouts(share=float("nan")), "share"),
        (lambda: Replay(capacity=-1), "capacity"),
        (lambda: Replay(share=2.0), "share"),
    ],
)
def test_settings_out_of_range_are_refused(make, argument):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert caught.value.argument == argument


def test_a_prompt_that_is_too_long_is_one_error():
    import transformers

    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=3, vocab_size=30, eos_token_id=3)
    )
    made = RolloutLoader(loader(), rollouts())
    made.bind({"student": model})
    with pytest.raises(LimbeckError, match="reads at most 3"):
        made.complete(made.peek())


def test_what_is_no_loader_is_refused_and_a_dataloader_is_taken():
    data = TokenDataset(ROWS, tokenizer=tokenizer())
    for share in (0.0, 1.0):
        with pytest.raises(DataError, match="TokenDataset"):
            Rollouts(share=share)(data)
        with pytest.raises(DataError, match="TokenDataset"):
            Rollouts(share=share)(DataLoader(data, batch_size=2))
    batches = DataLoader(range(4), batch_size=2, collate_fn=lambda rows: data.take(torch.tensor(rows) % len(data)))
    assert len(Rollouts()(batches)) == 2
