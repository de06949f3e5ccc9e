"""Models of timm: made smaller, and refused in a job before anything is trained.

timm needs torchvision, which not every machine has. Without timm a small module with its documented functions stands in
(`create_model`, `is_model`, `list_models`, `get_pretrained_cfg`); with it, the same tests run on timm itself.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import LimbeckError
from limbeck.job import make_job
from limbeck.models import get_shrink_report, open_model, shrink

NAME = "vit_tiny_patch16_224"
SIZES = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 4, "num_heads": 2}
TEACHER = {"model": f"timm:{NAME}", "pretrained": False, "check": False}  # one epoch: it may be no better than chance


class Attention(nn.Module):
    """Attention with one head."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)


class Block(nn.Module):
    """Attention, and two linear layers."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StandIn(nn.Module):
    """A vision transformer with the arguments of timm's."""

    def __init__(self, *, num_classes=1000, in_chans=3, img_size=224, patch_size=16, embed_dim=192, depth=12,
                 num_heads=3):  # fmt: skip
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError("dim should be divisible by num_heads")
        self.patch_embed = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.pos_embed = nn.Embedding((img_size // patch_size) ** 2, embed_dim)
        self.blocks = nn.Sequential(*(Block(embed_dim) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(embed_dim), nn.Linear(embed_dim, num_classes)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).mT + self.pos_embed.weight
        return self.head(self.norm(self.blocks(x)).mean(1))


def create_model(model_name, pretrained=False, checkpoint_path=None, **kwargs):
    """As timm's: arguments that are None are left out, and the others go to the class."""
    if pretrained:
        raise RuntimeError(f"No pretrained weights exist for {model_name}. Use `pretrained=False`.")
    return StandIn(**{name: value for name, value in kwargs.items() if value is not None})


@pytest.fixture(autouse=True)
def timm(monkeypatch):
    try:
        return importlib.import_module("timm")
    except ImportError:
        module = ModuleType("timm")
        module.list_models = lambda: [NAME, "resnet18"]
        module.is_model = lambda name: name.split(".")[0] in module.list_models()
        module.get_pretrained_cfg = lambda name: SimpleNamespace(num_classes=1000)
        module.create_model = create_model
        # torch-pruning looks at two classes of timm, if it is imported while timm is there.
        module.models = SimpleNamespace(
            vision_transformer=SimpleNamespace(Attention=Attention),
            swin_transformer=SimpleNamespace(WindowAttention=type("WindowAttention", (nn.Module,), {})),
        )
        monkeypatch.setitem(sys.modules, "timm", module)
        return module


def make(**changes):
    return make_job({
        "data": "digits", "train_examples": 96, "teacher": {**TEACHER, **SIZES},
        "student": {"from": "teacher", "size": 0.6}, "budget": {"epochs": 1, "batch_size": 32},
        "arms": ["teacher", "distilled"], "seeds": 1, **changes,
    })  # fmt: skip


@pytest.mark.parametrize(("by", "size"), [("layers", 0.6), ("low_rank", 0.6)])
def test_a_model_of_timm_is_made_smaller(by, size):
    teacher = open_model(f"timm:{NAME}", input_shape=(1, 8, 8), classes=10, pretrained=False, **SIZES).eval()
    example = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student = shrink(teacher, size=size, by=by, example=example)
    assert 0.5 < get_shrink_report(student).size < 0.7
    assert student(example).shape == (3, 10)


def test_sizes_that_do_not_fit_are_one_sentence_before_training(tmp_path):
    with pytest.raises(LimbeckError, match=r"embed_dim=13"):
        lb.run_job(make(out=str(tmp_path / "run"), teacher={**TEACHER, **SIZES, "embed_dim": 13}))  # fmt: skip
    with pytest.raises(LimbeckError, match="vit_tiny_patch16_224"):
        lb.run_job(make(out=str(tmp_path / "run"), teacher={"model": "timm:vit_tiny_patch16_242"}))
