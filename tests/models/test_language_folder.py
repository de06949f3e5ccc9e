"""A language model's folder: stock transformers opens it with its tokenizer, its end tokens and its tied weights."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")

from limbeck.data import TokenDataset, hash_tokenizer, train_tokenizer  # noqa: E402
from limbeck.engine import distill  # noqa: E402
from limbeck.errors import DataError  # noqa: E402
from limbeck.export import to_hf  # noqa: E402
from limbeck.functional import cross_entropy, kl_divergence  # noqa: E402
from limbeck.losses import Loss  # noqa: E402
from limbeck.models import count_parameters, fingerprint, load, open_model, save, seeded, set_token_ids  # noqa: E402
from limbeck.recipe import Optimizer, Recipe, Stage, TransformModel  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]

TEXTS = ["a b c d e f g", "c d e f", "b c d e f g a b", "d e", "e f g a b c"] * 3
SMALL = {
    "gpt2": {"n_layer": 1, "n_embd": 8, "n_head": 2},
    "llama": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16},
    "gemma2": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16,
               "num_key_value_heads": 1, "head_dim": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(["a b c d e f g"], vocabulary=30)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return tokenizer


def small(name, tokenizer, seed=0, **more):
    return open_model(
        f"hf:{name}", head="language_modeling", tokenizer=tokenizer, seed=seed, pretrained=False,
        **{**SMALL[name], **more},
    )  # fmt: skip


def tokens(tokenizer):
    return TokenDataset(TEXTS, tokenizer=tokenizer, max_length=12)


def written(model, **options):
    ids = torch.tensor([[3, 7, 8]])
    return model.eval().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, **options)


@pytest.mark.parametrize("name", SMALL)
def test_stock_transformers_opens_the_student_of_a_run(name, tokenizer, tmp_path):
    student, teacher = small(name, tokenizer), small(name, tokenizer, seed=1)
    objective = 0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence)
    run = distill(
        student, Stage(objective, teacher=teacher, steps=3), tokens(tokenizer), out=tmp_path / "run", accelerator="cpu"
    )
    run.finish()
    folder = tmp_path / "run" / "student"
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    assert fingerprint(stock) == fingerprint(student) == fingerprint(load(folder))
    assert hash_tokenizer(reader) == hash_tokenizer(tokenizer)
    assert reader.chat_template == tokenizer.chat_template
    assert torch.equal(written(stock, do_sample=False), written(student, do_sample=False))
    tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    assert tied is (name != "llama")
    assert count_parameters(load(folder)) == count_parameters(student)


def test_what_generate_reads_comes_back(tokenizer, tmp_path):
    model = small("gpt2", tokenizer)
    model.generation_config.eos_token_id = [3, 5]
    model.generation_config.max_new_tokens = 4
    save(model, tmp_path / "s")
    again, stock = load(tmp_path / "s"), transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    for one in (again, stock):
        assert one.generation_config.eos_token_id == [3, 5]
        assert one.generation_config.max_new_tokens == 4
    to_hf(load(tmp_path / "s"), tmp_path / "hf")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert stock.generation_config.eos_token_id == [3, 5]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_file_is_named(text, tokenizer, tmp_path):
    save(small("gpt2", tokenizer), tmp_path / "s")
    (tmp_path / "s" / "generation_config.json").write_text(text)
    with pytest.raises(DataError, match="generation_config"):
        load(tmp_path / "s")


def test_no_code_is_run_that_a_file_names(tokenizer, tmp_path):
    save(small("gpt2", tokenizer), tmp_path / "s")
    file = tmp_path / "s" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModel": "evil.Evil"}}))
    assert not hasattr(load(tmp_path / "s").generation_config, "auto_map")


def test_equal_models_give_equal_files_with_a_tokenizer(tokenizer, tmp_path):
    for name in ("one", "two", "one"):
        save(small("gpt2", tokenizer), tmp_path / name, tokenizer=tokenizer)
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir() if file.is_file()}
        for name in ("one", "two")
    )
    assert one == two
    assert {"generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(one)


def lora(model):
    with seeded(0):
        return peft.get_peft_model(
            model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True)
        )


@pytest.mark.parametrize("how", ["given", "by a stage"])
def test_a_student_with_lora_opens_in_peft_and_merged(how, tokenizer, tmp_path, monkeypatch):
    """Only the adapter learns, and the optimizer holds nothing else."""
    base, teacher = small("gpt2", tokenizer), small("gpt2", tokenizer, seed=1)
    base.save_pretrained(tmp_path / "base")
    start = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    stage = Stage(Loss(kl_divergence), teacher=teacher, steps=4, optimizer=Optimizer("adam", lr=0.05))
    settings = {"r": 2, "task_type": "CAUSAL_LM", "target_modules": ["c_attn"], "fan_in_fan_out": True}
    recipe = Recipe(stage) if how == "given" else Recipe(TransformModel("student", "lora", **settings)) >> stage
    student = lora(start) if how == "given" else start
    make, optimizers = Optimizer.make, []
    monkeypatch.setattr(
        Optimizer, "make", lambda *given, **more: optimizers.append(make(*given, **more)) or optimizers[-1]
    )
    run = distill(student, recipe, tokens(tokenizer), out=tmp_path / "run", accelerator="cpu")
    run.finish()
    trained = run.student
    changed = {
        name for name, value in trained.named_parameters()
        if "lora" not in name and not torch.equal(value, dict(lora(base).named_parameters())[name])
    }  # fmt: skip
    assert not changed
    learning = {name for name, value in trained.named_parameters() if value.requires_grad}
    assert learning
    assert all("lora" in name for name in learning)
    held = [id(value) for group in optimizers[0].param_groups for value in group["params"]]
    assert set(held) == {id(value) for value in trained.parameters() if value.requires_grad}

    folder, ids = tmp_path / "run" / "student", torch.tensor([[3, 7, 8, 9]])
    expected = trained.eval()(ids).logits
    merged = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.AutoPeftModelForCausalLM.from_pretrained(folder / "adapter").eval()
    onto_base = peft.PeftModel.from_pretrained(small("gpt2", tokenizer), folder / "adapter").eval()
    for again in (merged, load(folder), adapted, onto_base):
        torch.testing.assert_close(again(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, base.eval()(ids).logits, atol=1e-4)
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert transformers.AutoTokenizer.from_pretrained(folder).eos_token == tokenizer.eos_token
    assert torch.equal(written(merged, do_sample=False), written(trained, do_sample=False))


@pytest.mark.parametrize("way", ["distill", "save", "hf"])
def test_a_student_with_another_end_token_stops_at_that_of_its_texts(way, tokenizer, tmp_path):
    with seeded(0):
        student = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **SMALL["llama"]))
    end = tokenizer.eos_token_id
    assert student.generation_config.eos_token_id != end, "the default of LlamaConfig is 2"
    if way == "distill":
        stage = Stage(Loss(cross_entropy), steps=2)
        run = distill(student, stage, tokens(tokenizer), out=tmp_path / "run", accelerator="cpu")
        run.finish()
        assert run.student.generation_config.eos_token_id == end
        folder = tmp_path / "run" / "student"
    elif way == "save":
        folder = save(student, tmp_path / "s", tokenizer=tokenizer)
    else:
        folder = to_hf(student, tmp_path / "hf", tokenizer=tokenizer)
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
    names = ("eos_token_id", "pad_token_id", "bos_token_id")
    wanted = [getattr(tokenizer, name) for name in names]
    assert [getattr(stock.config, name) for name in names] == wanted
    assert [getattr(stock.generation_config, name) for name in names] == wanted
    head = stock.get_output_embeddings().weight.data
    hidden = stock.model(torch.tensor([[3, 7, 8]])).last_hidden_state[0, -1].detach()
    head[end] = 1e3 * hidden  # the end is now the most likely next token
    assert written(stock, do_sample=False).tolist() == [[3, 7, 8, end]]


def test_further_end_tokens_of_a_student_stay(tokenizer):
    model = small("gpt2", tokenizer)
    model.generation_config.eos_token_id = [5, 6]
    model.config.pad_token_id = 1
    set_token_ids(model, tokenizer)
    assert model.generation_config.eos_token_id == [5, 6, tokenizer.eos_token_id]
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert set_token_ids(model, None) is model
    assert set_token_ids(model, object()) is model


def test_a_padding_token_outside_of_the_vocabulary_is_left_out(tokenizer, tmp_path):
    with seeded(0):
        config = transformers.LlamaConfig(vocab_size=tokenizer.eos_token_id + 1, **SMALL["llama"])
        model = transformers.LlamaForCausalLM(config)
    more = train_tokenizer(["a b c d e f g"], vocabulary=30)
    more.eos_token, more.pad_token = tokenizer.eos_token, "g"
    assert more.pad_token_id >= config.vocab_size
    folder = save(model, tmp_path / "s", tokenizer=more)
    assert transformers.AutoModelForCausalLM.from_pretrained(folder).config.pad_token_id is None
