"""`generate_texts`: provenance, resuming after a kill at any byte, filters that raise, and data for training."""

from __future__ import annotations

import hashlib
import json

import pytest

from limbeck.data.language_files import read_corpus
from limbeck.data.options import DataOptions
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.generated_texts import GeneratedText, TextPrompt, Writing, generate_texts, read_prompts

PROMPTS = [{"id": f"q{n}", "prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(5)]


class Teacher:
    """Answers sums; every third sample is wrong. It counts its calls, and stops after some."""

    batch_size = 16

    def __init__(self, *, calls: int | None = None, **source):
        self.source = {"teacher": "exact", "temperature": 0.8, **source}
        self.written, self.calls = [], calls

    def write(self, prompts, samples):
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
        self.written += [(prompt.id, sample) for prompt, sample in zip(prompts, samples, strict=True)]
        return [(n, self._write(*one)) for n, one in enumerate(zip(prompts, samples, strict=True))]

    def _write(self, prompt, sample):
        text = prompt.prompt if isinstance(prompt.prompt, str) else prompt.prompt[-1]["content"]
        number = int(text.split()[0]) + 1 + (sample == 2)
        cut = "length" if sample == 1 else "stop"
        return Writing(f" {number}", cut, (number, 0), -0.5 * sample, 2)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_says_where_it_comes_from(tmp_path):
    out = tmp_path / "texts.jsonl"
    summary = generate_texts(Teacher(), PROMPTS, out, samples=3, filters=["exact_answer"], batch_size=4)
    rows = lines(out)
    assert rows[1] == {
        "prompt": "0 + 1 =",
        "id": "q0",
        "sample": 1,
        "completion": " 1",
        "stop_reason": "length",
        "token_ids": [1, 0],
        "logprob": -0.5,
        "reference": "1",
        "source": rows[1]["source"],
    }
    assert {"teacher", "temperature", "prompts_sha256", "filters", "filters_sha256"} == set(rows[1]["source"])
    assert summary.as_json() | {"tokens_per_second": 0, "seconds": 0} == {
        "out": str(out),
        "all_texts": str(tmp_path / "texts.all" / "texts.jsonl"),
        "prompts": 5,
        "prompts_kept": 5,
        "texts": 15,
        "earlier": 0,
        "kept": 10,
        "refused": {"exact_answer: wrong answer": 5},
        "cut_off": 5,
        "tokens": 30,
        "tokens_per_second": 0,
        "seconds": 0,
    }
    assert len(lines(out)) == 10


def test_the_output_is_data_for_training(tmp_path):
    out = tmp_path / "texts.jsonl"
    generate_texts(Teacher(), PROMPTS, out, samples=1)
    corpus = read_corpus(out, DataOptions())
    assert corpus.rows[0] == {"prompt": "0 + 1 =", "completion": " 1"}
    chats = [{"messages": [{"role": "user", "content": "3 + 1 ="}, {"role": "assistant", "content": "?"}]}]
    generate_texts(Teacher(), chats, tmp_path / "chats.jsonl", samples=1)
    (chat,) = read_corpus(tmp_path / "chats.jsonl", DataOptions()).rows
    assert chat == {"messages": [{"role": "user", "content": "3 + 1 ="}, {"role": "assistant", "content": " 4"}]}


def test_a_kill_at_any_byte_loses_one_batch_and_changes_nothing(tmp_path):
    whole = tmp_path / "whole.jsonl"
    generate_texts(Teacher(), PROMPTS, whole, samples=3, filters=["finished"], batch_size=4)
    wanted, everything = whole.read_bytes(), (tmp_path / "whole.all" / "texts.jsonl").read_bytes()
    ends = [0]
    for line in everything.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    for cut in sorted({*range(0, len(everything), 97), *ends, *(end - 1 for end in ends[1:])}):
        out = tmp_path / str(cut) / "texts.jsonl"
        store = out.parent / "texts.all"
        store.mkdir(parents=True)
        (store / "source.json").write_bytes((tmp_path / "whole.all" / "source.json").read_bytes())
        (store / "texts.jsonl").write_bytes(everything[:cut])
        teacher = Teacher()
        summary = generate_texts(teacher, PROMPTS, out, samples=3, filters=["finished"], batch_size=4)
        assert out.read_bytes() == wanted
        assert (store / "texts.jsonl").read_bytes() == everything
        whole_lines = sum(end <= cut for end in ends[1:])
        assert (summary.earlier, len(teacher.written)) == (whole_lines, 15 - whole_lines)


def test_an_interrupted_call_continues(tmp_path):
    out = tmp_path / "texts.jsonl"
    with pytest.raises(KeyboardInterrupt):
        generate_texts(Teacher(calls=2), PROMPTS, out, samples=3, batch_size=4)
    assert not out.exists()
    teacher = Teacher()
    assert generate_texts(teacher, PROMPTS, out, samples=3, batch_size=4).earlier == 8
    assert len(teacher.written) == 7
    again = Teacher(calls=0)
    before = out.read_bytes()
    summary = generate_texts(again, PROMPTS, out, samples=3, batch_size=4)
    assert (summary.earlier, summary.tokens_per_second) == (15, None)
    assert out.read_bytes() == before


def test_a_prompt_that_fails_loses_no_other_text(tmp_path):
    class Failing(Teacher):
        def write(self, prompts, samples):
            yield from list(super().write(prompts, samples))[::-2]
            raise DataError("the server is gone")

    with pytest.raises(DataError, match="gone"):
        generate_texts(Failing(), PROMPTS, tmp_path / "t.jsonl", samples=2)
    teacher = Teacher()
    assert generate_texts(teacher, PROMPTS, tmp_path / "t.jsonl", samples=2).earlier == 5
    assert len(teacher.written) == 5


def test_more_samples_more_prompts_and_other_filters_cost_what_is_new(tmp_path):
    out = tmp_path / "texts.jsonl"
    generate_texts(Teacher(), PROMPTS[:3], out, samples=2)
    more = Teacher()
    generate_texts(more, PROMPTS, out, samples=3)
    assert len(set(more.written)) == len(more.written) == 15 - 6
    assert generate_texts(Teacher(calls=0), PROMPTS, out, samples=3, filters=["exact_answer"]).kept == 10
    assert generate_texts(Teacher(calls=0), PROMPTS[:1], out, samples=1).kept == 1


def test_two_sources_are_not_mixed(tmp_path):
    out = tmp_path / "texts.jsonl"
    generate_texts(Teacher(), PROMPTS, out, samples=1)
    before = out.read_bytes()
    with pytest.raises(DataError, match=r"temperature = 0\.8, not 0\.5"):
        generate_texts(Teacher(temperature=0.5), PROMPTS, out, samples=1)
    with pytest.raises(DataError, match="'q0'"):
        generate_texts(Teacher(), [{**PROMPTS[0], "prompt": "9 + 1 ="}], out, samples=1)
    (tmp_path / "texts.all" / "source.json").unlink()
    with pytest.raises(DataError, match="not known"):
        generate_texts(Teacher(), PROMPTS, out, samples=1)
    assert out.read_bytes() == before


def test_a_damaged_line_is_found(tmp_path):
    out = tmp_path / "texts.jsonl"
    generate_texts(Teacher(), PROMPTS, out, samples=1)
    file = tmp_path / "texts.all" / "texts.jsonl"
    file.write_text(file.read_text().replace(" 1", " 7", 1))
    with pytest.raises(DataError, match="1 of its lines"):
        generate_texts(Teacher(), PROMPTS, out, samples=1)


def test_a_filter_that_raises_loses_nothing(tmp_path):
    out = tmp_path / "texts.jsonl"

    def check(text):
        return 1 / (text.id != "q2")

    with pytest.raises(LimbeckError, match=r"check.*'q0'.*returned 1\.0.*texts\.all"):
        generate_texts(Teacher(), PROMPTS, out, samples=2, filters=[check])
    calls = []

    def late(text):
        calls.append(text.id)
        return 1 / (text.id != "q2") > 0

    with pytest.raises(LimbeckError, match=r"late.*'q2'.*ZeroDivisionError"):
        generate_texts(Teacher(), PROMPTS, out, samples=2, filters=[late], batch_size=2)
    assert not out.exists()
    teacher = Teacher()
    assert generate_texts(teacher, PROMPTS, out, samples=2, filters=["exact_answer"]).kept == 10
    assert not {"q0", "q1", "q2"} & {id for id, _ in teacher.written}


def test_a_prompt_without_answer_is_refused_before_anything_is_paid(tmp_path):
    teacher = Teacher()
    with pytest.raises(DataError, match="exact_answer"):
        generate_texts(teacher, [{"prompt": "1 + 1 ="}], tmp_path / "t.jsonl", filters=["exact_answer"])
    assert not teacher.written


def test_an_empty_text_is_never_kept(tmp_path):
    class Silent(Teacher):
        def _write(self, prompt, sample):
            return Writing(" ", "stop")

    summary = generate_texts(Silent(), PROMPTS, tmp_path / "t.jsonl", samples=1)
    assert (summary.kept, dict(summary.refused), summary.tokens) == (0, {"empty": 5}, None)


def test_a_teacher_that_leaves_out_a_text_is_named(tmp_path):
    """Not asked for ever."""

    class Lazy(Teacher):
        def write(self, prompts, samples):
            return super().write(prompts, samples)[:-1]

    with pytest.raises(LimbeckError, match="q4"):
        generate_texts(Lazy(), PROMPTS, tmp_path / "texts.jsonl", samples=1)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": True}, {"batch_size": 0}])
def test_numbers_are_at_least_one(wrong, tmp_path):
    with pytest.raises(ArgumentError) as caught:
        generate_texts(Teacher(), PROMPTS, tmp_path / "t.jsonl", **wrong)
    assert caught.value.argument == next(iter(wrong))


def test_the_output_is_a_file(tmp_path):
    with pytest.raises(DataError, match=r"texts\.jsonl"):
        generate_texts(Teacher(), PROMPTS, tmp_path)


def test_the_progress_is_reported(tmp_path):
    seen = []
    generate_texts(Teacher(), PROMPTS, tmp_path / "t.jsonl", samples=2, batch_size=4, callback=seen.append)
    assert [(one.texts, one.total) for one in seen] == [(4, 10), (8, 10), (10, 10)]
    assert all(one.tokens_per_second > 0 for one in seen)


class Forms:
    """Files of prompts."""

    def __init__(self, folder):
        self.folder = folder

    def read(self, text, name="p.jsonl", **options):
        (self.folder / name).write_text(text)
        return read_prompts(self.folder / name, **options)


def test_prompts_of_files(tmp_path):
    read = Forms(tmp_path).read
    assert read("one\n\ntwo \r\n", "p.txt") == [TextPrompt(0, "one"), TextPrompt(1, "two ")]
    assert read('{"prompt": "a", "completion": "b"}') == [TextPrompt(0, "a", "b")]
    assert read('{"q": "a", "gold": 3, "id": "x"}', prompt="q", answer="gold") == [TextPrompt("x", "a", "3")]
    assert read('{"prompt": "a", "answer": {"total": "3"}}')[0].reference == '{"total": "3"}'
    chat = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    assert read(chat)[0].prompt == [{"role": "user", "content": "a"}]
    assert read_prompts([TextPrompt(3, "a"), "b"]) == [TextPrompt(3, "a"), TextPrompt(1, "b")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n", "no prompts"),
        ("{", "line 1"),
        ("3", "line 1.*int"),
        ('{"text": "a"}', "line 1.*'prompt'.*'text'"),
        ('{"prompt": ""}', "line 1"),
        ('{"prompt": "a", "id": 1.5}', "line 1.*1.5"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}', "0 and 1"),
        ('{"messages": []}', "line 1.*messages"),
        ('{"messages": [{"role": "assistant", "content": "b"}]}', "line 1.*no question"),
    ],
)
def test_wrong_prompts(text, words, tmp_path):
    with pytest.raises(DataError, match=words):
        Forms(tmp_path).read(text)
    with pytest.raises(DataError, match=r"none\.jsonl"):
        read_prompts(tmp_path / "none.jsonl")


def test_a_named_column_of_answers_has_to_be_there(tmp_path):
    with pytest.raises(DataError, match="'gold'"):
        read_prompts([{"prompt": "a", "answer": "b"}], answer="gold")


def test_texts_have_the_fields_that_a_filter_reads(tmp_path):
    seen = []
    generate_texts(Teacher(), PROMPTS[:1], tmp_path / "t.jsonl", samples=1, filters=[lambda t: not seen.append(t)])
    assert seen == [GeneratedText("q0", 0, "0 + 1 =", " 1", "1", "stop", (1, 0), -0.0)]


def test_a_hash_of_the_prompts_is_in_each_line(tmp_path):
    hashes = []
    for prompts in (PROMPTS[:2], PROMPTS[:3]):
        out = tmp_path / f"{hashlib.sha256(str(prompts).encode()).hexdigest()[:8]}.jsonl"
        generate_texts(Teacher(), prompts, out, samples=1)
        hashes.append(lines(out)[0]["source"]["prompts_sha256"])
    assert hashes[0] != hashes[1]
