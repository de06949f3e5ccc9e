"""A student starts as the chosen layers of the teacher."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

from limbeck.errors import LimbeckError  # noqa: E402
from limbeck.models import layer_list, open_model, shallow  # noqa: E402
from limbeck.models.layers import find_layer_lists  # noqa: E402

SMALL = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 16}
GPT2 = {"vocab_size": 50, "n_embd": 8, "n_layer": 6, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1}
QWEN = {
    **SMALL,
    "num_key_value_heads": 2,
    "use_sliding_window": True,
    "sliding_window": 4,
    "layer_types": ["full_attention", "sliding_attention"] * 3,
}


def made(kind, **settings):
    config = getattr(transformers, f"{kind}Config")(**settings, num_labels=3, pad_token_id=0)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config)


FAMILIES = {
    "Bert": lambda: made("Bert", **SMALL),
    "Roberta": lambda: made("Roberta", **SMALL),
    "DistilBert": lambda: made("DistilBert", vocab_size=50, dim=8, n_layers=6, n_heads=2, hidden_dim=16),
    "GPT2": lambda: made("GPT2", **GPT2),
    "Qwen2": lambda: made("Qwen2", **QWEN),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_its_layers_are_the_teachers_and_it_runs_saves_and_opens(family, tmp_path):
    teacher = FAMILIES[family]().eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = shallow(teacher, [1, 5])
    place, depth = layer_list(teacher)
    assert depth == 6
    for mine, theirs in ((0, 1), (1, 5)):
        pair = student.get_submodule(f"{place}.{mine}"), teacher.get_submodule(f"{place}.{theirs}")
        first, second = (part.state_dict() for part in pair)
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    outside = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith(place)}
    assert outside
    assert all(torch.equal(tensor, before[name]) for name, tensor in outside.items())
    ids = torch.tensor([[3, 4, 5, 6]])
    student.eval()(input_ids=ids).logits.sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    student.save_pretrained(tmp_path)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in opened.state_dict().items())
    assert torch.allclose(opened(input_ids=ids).logits, student(input_ids=ids).logits, atol=1e-6)


LANGUAGE = {
    "GPT2LMHeadModel": {**GPT2, "n_layer": 4},
    "LlamaForCausalLM": {**SMALL, "num_hidden_layers": 4, "num_key_value_heads": 2},
    "GPTNeoForCausalLM": {
        "vocab_size": 50, "hidden_size": 8, "num_layers": 4, "num_heads": 2, "intermediate_size": 8,
        "attention_types": [[["global", "local"], 2]],
    },
    "BartForCausalLM": {
        "vocab_size": 50, "d_model": 8, "decoder_layers": 4, "decoder_attention_heads": 2, "decoder_ffn_dim": 8,
        "pad_token_id": 0,
    },
    "T5ForConditionalGeneration": {
        "vocab_size": 50, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 4, "num_decoder_layers": 2, "num_heads": 2,
        "decoder_start_token_id": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models_lose_layers_on_both_sides_and_open_again(name, tmp_path):
    kind = getattr(transformers, name)
    teacher = kind(kind.config_class(**LANGUAGE[name])).eval()
    student, ids = shallow(teacher, 2).eval(), torch.tensor([[3, 4, 5, 6]])
    more = {"decoder_input_ids": ids} if "Conditional" in name else {}
    theirs, mine = teacher.state_dict(), student.state_dict()
    lists = find_layer_lists(student)
    assert [getattr(student.config, setting) for setting in lists.values()] == [2] * (2 if more else 1)
    assert [getattr(teacher.config, setting) for setting in lists.values()] == [4, 2][: len(lists)]
    for path, setting in lists.items():
        step = getattr(teacher.config, setting) // 2
        for key in student.get_submodule(f"{path}.1").state_dict():
            assert torch.equal(mine[f"{path}.1.{key}"], theirs[f"{path}.{step}.{key}"])
    logits = student(input_ids=ids, **more).logits
    student.save_pretrained(tmp_path)
    torch.testing.assert_close(kind.from_pretrained(tmp_path).eval()(input_ids=ids, **more).logits, logits)


def test_all_layers_make_the_teacher_again():
    teacher = FAMILIES["Bert"]().eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(shallow(teacher, 6).eval()(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_a_number_takes_the_first_of_every_group():
    teacher = FAMILIES["Bert"]()
    student, named = shallow(teacher, 2), shallow(teacher, [0, 3])
    assert all(torch.equal(tensor, named.state_dict()[name]) for name, tensor in student.state_dict().items())


def test_what_belongs_to_each_layer_goes_with_it():
    assert shallow(FAMILIES["Qwen2"](), [1, 2]).config.layer_types == ["sliding_attention", "full_attention"]


def test_embeddings_and_head_may_be_new():
    teacher = FAMILIES["Bert"]()
    theirs = teacher.state_dict()

    def same(student):
        return {name for name, tensor in student.state_dict().items() if torch.equal(tensor, theirs.get(name))}

    words, head = "bert.embeddings.word_embeddings.weight", "classifier.weight"
    whole = {"embeddings": True, "head": True}
    for part, name in (("embeddings", words), ("head", head)):
        kept = same(shallow(teacher, [0, 1, 2, 3, 4, 5], **{**whole, part: False}))
        assert name not in kept
        assert ({words, head} - {name}) <= kept
    assert torch.equal(shallow(FAMILIES["GPT2"](), 2, embeddings=False).transformer.ln_f.weight, torch.ones(8))


def test_bad_input_is_one_sentence():
    teacher = FAMILIES["Bert"]()
    albert = made("Albert", **SMALL, embedding_size=8)
    for layers, model, said in (
        (4, teacher, "4 layers do not divide the teacher's 6: use 1, 2, 3"),
        (0, teacher, "do not divide"),
        ([0, 6], teacher, r"6 does not exist.*0 to 5"),
        ([], teacher, "leaves no layer"),
        (2, torch.nn.Linear(2, 2), "model of transformers"),
        (2, albert, "no list of 6"),
    ):
        with pytest.raises(LimbeckError, match=said):
            shallow(model, layers)


def test_a_kind_of_model_begins_anew_by_its_name():
    settings = {name: value for name, value in SMALL.items() if name != "vocab_size"}
    model = open_model("hf:bert", classes=3, seed=0, pretrained=False, vocab_size=50, **settings)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.classifier.out_features == 3
    assert layer_list(model) == ("bert.encoder.layer", 6)
