"""The layouts of transformers are those of its own models: tinybert and minilm read small ones, made on the spot."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.methods import make
from methods.transformers import losses, text_batch, with_other_padding

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

BERT = {"vocab_size": 12, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 12}
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def model(layout: str, *, layers: int, width: int, seed: int) -> torch.nn.Module:
    """A classifier of transformers with random weights."""
    common = {"num_labels": 3, "attn_implementation": "eager"}
    sizes = {"hidden_size": width, "num_hidden_layers": layers}
    kinds = {
        "bert": ("Bert", {**BERT, **sizes}),
        "roberta": ("Roberta", {**BERT, **sizes, "pad_token_id": 0}),
        "distilbert": (
            "DistilBert",
            {"vocab_size": 12, "dim": width, "n_layers": layers, "n_heads": 2, "hidden_dim": 8},
        ),
        "vit": ("ViT", {**sizes, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 8, "patch_size": 4}),
    }
    name, own = kinds[layout]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**own, **common)
    task = "ImageClassification" if layout == "vit" else "SequenceClassification"
    return getattr(transformers, f"{name}For{task}")(config).eval()


def batch_for(layout: str) -> Batch:
    return Batch(IMAGES, labels=torch.tensor([0, 1, 2, 0])) if layout == "vit" else text_batch()


def recipe_for(name: str, layout: str, teacher: torch.nn.Module):
    heads = {"heads": 2} if name != "qat_attention" else {}
    return make(name, teacher=teacher, student_layers=2, teacher_layers=4, addresses=layout, epochs=1, **heads)


@pytest.mark.parametrize("layout", ["bert", "roberta", "distilbert", "vit"])
@pytest.mark.parametrize("name", ["tinybert", "minilm", "qat_attention"])
def test_the_layers_of_a_layout_exist_and_padding_does_not_count(layout, name):
    student, teacher = model(layout, layers=2, width=4, seed=0), model(layout, layers=4, width=8, seed=1)
    recipe, batch = recipe_for(name, layout, teacher), batch_for(layout)
    found = losses(recipe, student, teacher, batch)
    assert found
    assert all(value > 0 for value in found.values())
    if layout != "vit":
        other = losses(recipe, student, teacher, with_other_padding(batch))
        assert other == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("name", ["tinybert", "minilm"])
def test_a_student_learns_the_layers_of_a_wider_teacher(name):
    student, teacher = model("bert", layers=2, width=4, seed=0), model("bert", layers=4, width=8, seed=1)
    batch = text_batch()
    data, recipe = ArrayDataset(batch.inputs, batch.labels, mask=batch.mask), recipe_for(name, "bert", teacher)
    run = distill(student, recipe, data, batch_size=2, epochs=1, log_every=1, accelerator="cpu").finish()
    assert all(torch.isfinite(torch.tensor(report.loss)) for report in run.history)
