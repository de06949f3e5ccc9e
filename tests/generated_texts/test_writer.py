"""Teachers that write texts: models on this machine and behind a server, and `limbeck generate`."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.cli import main
from limbeck.data import load_data
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.generated_texts import (
    DecodingOptions,
    ModelWriter,
    ServedWriter,
    TextPrompt,
    TextWriter,
    generate_texts,
    open_writer,
)
from limbeck.generated_texts.writer import hash_id
from limbeck.generation import GenerationConfig
from limbeck.teachers.served import client
from limbeck.testing import Answer, serve_model
from served_models import TEXTS, model, tokenizer

PROMPTS = [{"id": f"q{n}", "prompt": text[:12], "answer": "fox"} for n, text in enumerate(TEXTS)]
SHORT = DecodingOptions(GenerationConfig(max_new_tokens=6, temperature=0.8), seed=3)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("teacher")
    model().save_pretrained(place)
    tokenizer().save_pretrained(place)
    return place


def writer(options=SHORT, **settings):
    return ModelWriter(model(), tokenizer(), options=options, **settings)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_text_does_not_depend_on_its_batch(tmp_path):
    written = []
    for size in (4, 16):
        out = tmp_path / f"{size}.jsonl"
        generate_texts(writer(), PROMPTS, out, samples=3, batch_size=size)
        written.append([(row["id"], row["sample"], row["completion"], row["token_ids"]) for row in rows(out)])
    assert written[0] == written[1]
    assert len({text for _, _, text, _ in written[0]}) > 10


def test_tokens_texts_and_log_probabilities_belong_together(tmp_path):
    generate_texts(writer(), PROMPTS, tmp_path / "t.jsonl", samples=2)
    network, read = model(), tokenizer()
    for row in rows(tmp_path / "t.jsonl"):
        prompt = read(row["prompt"])["input_ids"]
        assert row["completion"] == read.decode(row["token_ids"], skip_special_tokens=True)
        assert (row["stop_reason"] == "stop") == (row["token_ids"][-1] == 0)
        assert row["stop_reason"] == "stop" or len(row["token_ids"]) == 6
        logits = network(torch.tensor([prompt + row["token_ids"]])).logits[0, len(prompt) - 1 : -1]
        logprobs = (logits.detach() / 0.8).log_softmax(-1).gather(1, torch.tensor(row["token_ids"])[:, None])
        assert row["logprob"] == pytest.approx(float(logprobs.sum()), abs=1e-4)


def test_the_source_names_all_that_a_text_depends_on():
    sources = [
        writer().source,
        ModelWriter(model(1), tokenizer(), options=SHORT).source,
        *(writer(DecodingOptions(config, seed)).source for config, seed in (
            (GenerationConfig(max_new_tokens=6, temperature=0.7), 3),
            (GenerationConfig(max_new_tokens=7, temperature=0.8), 3),
            (GenerationConfig(max_new_tokens=6, temperature=0.8, top_k=3), 3),
            (GenerationConfig(max_new_tokens=6, temperature=0.8, top_p=0.9), 3),
            (GenerationConfig(max_new_tokens=6, temperature=0.8), 4),
        )),
    ]  # fmt: skip
    assert len({json.dumps(dict(source), sort_keys=True) for source in sources}) == len(sources)
    assert writer().source == writer().source
    assert writer().source["eos_token_id"] == [0]


@pytest.mark.parametrize(("ends", "known"), [([3, 4], (0, 3, 4)), (5, (0, 5)), (None, (0,))])
def test_end_tokens_of_the_models_own_settings_end_a_text(ends, known):
    teacher = model()
    teacher.generation_config.eos_token_id = ends
    for one in (teacher, torch.compile(teacher)):
        assert ModelWriter(one, tokenizer(), options=SHORT).generation.end_tokens == known
    assert ModelWriter(torch.nn.Embedding(264, 264), tokenizer(), options=SHORT).generation.end_tokens == (0,)


def test_a_tokenizer_that_drops_the_first_space_keeps_it_in_a_completion():
    class Dropping:
        """Decodes as tokenizers of Llama do: without the space in front."""

        eos_token_id, chat_template, is_fast = 0, None, False
        get_vocab = staticmethod(lambda: {"<end>": 0, "_a": 1, "_b": 2})

        def __call__(self, text, **options):
            return {"input_ids": [1, 0], "special_tokens_mask": [0, 1]}  # an end token that must not be read

        def decode(self, tokens, **options):
            return "".join(["", " a", " b"][token] for token in tokens.tolist()).lstrip()

    network = torch.nn.Sequential(torch.nn.Embedding(3, 3), torch.nn.Identity())
    network[0].weight.data.copy_(20 * torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0]]))  # a, b, end
    greedy = DecodingOptions(GenerationConfig(max_new_tokens=4, temperature=0.0))
    own = ModelWriter(network, Dropping(), options=greedy)
    ((place, text),) = own.write([TextPrompt(0, "a")], [0])
    assert (place, text.completion, text.stop_reason, text.token_ids) == (0, " b", "stop", (2, 0))


def test_chats_need_a_template():
    chat = DecodingOptions(SHORT.generation, chat=True)
    with pytest.raises(DataError, match=r"q.*chat template"):
        list(writer(chat).write([TextPrompt("q", "the")], [0]))
    read = tokenizer()
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    read.chat_template = turns + "{% if add_generation_prompt %}a: {% endif %}"
    try:
        own = ModelWriter(model(), read, options=chat)
        seen = read.decode(own._encode(TextPrompt("q", "the")))
        assert seen == "user: the\na: "
        asked = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
        assert read.decode(own._encode(TextPrompt("q", asked))) == "system: x\nuser: y\na: "
    finally:
        read.chat_template = None


def test_a_tokenizer_without_end_token_is_refused():
    read = tokenizer()
    end, read.eos_token = read.eos_token, None
    try:
        network = torch.nn.Embedding(5, 5)
        with pytest.raises(LimbeckError, match="end token"):
            ModelWriter(network, read)
    finally:
        read.eos_token = end


def test_ids_are_numbers_of_counters():
    assert hash_id(5) == 5
    assert hash_id("5") != 5
    assert len({hash_id(one) for one in ("a", "b", -1, 2**70, 7)}) == 5
    assert all(0 <= hash_id(one) < 2**63 for one in ("a", -1, 2**70))


def test_texts_of_a_server(tmp_path):
    with serve_model(model(), tokenizer(), api="text") as server:
        one = ServedWriter(server.url, options=SHORT, concurrency=2)
        assert isinstance(one, TextWriter)
        summary = generate_texts(one, PROMPTS, tmp_path / "t.jsonl", samples=2, filters=["length:1-"])
        again = generate_texts(
            ServedWriter(server.url, options=SHORT), PROMPTS, tmp_path / "again.jsonl", samples=2, batch_size=3
        )
        asked = server.count("/v1/completions")
        assert generate_texts(one, PROMPTS, tmp_path / "t.jsonl", samples=2).earlier == 10
        assert server.count("/v1/completions") == asked
    first, second = rows(tmp_path / "t.jsonl"), rows(tmp_path / "again.jsonl")
    assert [row["completion"] for row in first] == [row["completion"] for row in second]
    assert (summary.texts, again.texts) == (10, 10)
    assert summary.tokens > 10
    assert first[0]["source"]["teacher"] == "teacher"
    assert first[0]["logprob"] < 0
    assert "127.0.0.1" not in (tmp_path / "t.jsonl").read_text()


def test_a_server_that_fails_in_between_loses_nothing(tmp_path):
    def intercept(path, body, make):
        failing = path == "/v1/completions" and body.get("prompt") == PROMPTS[3]["prompt"]
        return Answer({"error": {"message": "no"}}, 400) if failing else make()

    with serve_model(model(), tokenizer(), api="text", intercept=intercept) as server:
        with pytest.raises(LimbeckError):
            generate_texts(ServedWriter(server.url, options=SHORT), PROMPTS, tmp_path / "t.jsonl", samples=1)
        paid = server.count("/v1/completions") - 1
        server.intercept = None
        summary = generate_texts(ServedWriter(server.url, options=SHORT), PROMPTS, tmp_path / "t.jsonl", samples=1)
        assert summary.earlier == paid
        assert server.count("/v1/completions") == len(PROMPTS) + 1


def test_wrong_teachers(folder):
    with pytest.raises(ArgumentError) as caught:
        open_writer("http://localhost:1/v1", options=DecodingOptions(GenerationConfig(top_k=3)))
    assert caught.value.argument == "top_k"
    with pytest.raises(ArgumentError) as caught:
        open_writer("http://localhost:1/v1", tokenizer="x")
    assert caught.value.argument == "tokenizer"
    with pytest.raises(ArgumentError) as caught:
        open_writer(f"hf:{folder}", model="x")
    assert caught.value.argument == "model"
    with pytest.raises(LimbeckError, match="--tokenizer"):
        open_writer("mlp")


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main(["generate", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return file


def test_the_command_writes_data_for_distill(folder, prompts, tmp_path, capsys):
    out = tmp_path / "texts.jsonl"
    own = tmp_path / "my.py"
    own.write_text("def fox(text):\n    return 'o' in text.completion or 'no o'\n")
    words = ["--teacher", f"hf:{folder}", "--data", prompts, "--out", out, "--max-new-tokens", 6, "--samples", 3]
    words += ["--filter", "duplicates", "--filter", f"{own}:fox"]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    for word in ("prompts", "kept", "no o", "cut off", "tokens a second", "limbeck distill", "->"):
        assert word in shown
    assert run(*words, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["texts"], summary["earlier"], summary["tokens_per_second"]) == (15, 15, None)
    assert summary["kept"] + sum(summary["refused"].values()) == 15
    assert all("o" in row["completion"] for row in rows(out))
    data = load_data(str(out), tokenizer=str(folder), max_length=32)
    assert data.task == "language_modeling"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples", "2", "--temperature", "0"], "--samples 1"),
        (["--filter", "exact"], "exact_answer"),
        (["--filter", "my.py:none"], "my.py"),
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "2"], "top_p"),
        (["--prompt", "question"], "'question'"),
        (["--answer", "gold"], "'gold'"),
        (["--tokenizer", "nowhere"], "nowhere"),
    ],
)
def test_wrong_words_get_one_sentence(words, said, folder, prompts, tmp_path, capsys):
    assert run("--teacher", f"hf:{folder}", "--data", prompts, "--out", tmp_path / "t.jsonl", *words) == 1
    shown = capsys.readouterr().err.strip().splitlines()
    assert said in shown[-1]
    assert shown[-1].startswith("Error: ")
    assert not (tmp_path / "t.jsonl").exists()
