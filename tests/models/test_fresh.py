"""A reinitialized model has new weights, and the original is unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import build, fingerprint, reinitialize


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Module())
        self.inner[1].scale = nn.Parameter(torch.ones(3))


def own():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def shapes(model):
    return {n: (t.shape, t.dtype) for n, t in model.state_dict().items()}


@pytest.mark.parametrize("make", [own, lambda: build("resnet8", channels=1, classes=3, width=4)])
def test_new_weights_same_shapes_and_the_original_untouched(make):
    model = make()
    model(torch.rand(5, 1, 4, 4))
    before = fingerprint(model)
    new = reinitialize(model)
    assert fingerprint(model) == before
    assert shapes(new) == shapes(model)
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in new.parameters()}
    assert not shared
    for (name, a), b in zip(model.named_parameters(), new.parameters(), strict=True):
        if name.endswith("weight") and a.ndim > 1:
            assert not torch.equal(a, b), name
    statistics = {n: t for n, t in new.state_dict().items() if "running_mean" in n}
    assert statistics
    assert all(not t.any() for t in statistics.values())


def test_a_reference_network_is_what_build_makes():
    model = build("resnet8", channels=1, classes=3, width=4, seed=1)
    assert fingerprint(reinitialize(model, seed=7)) == fingerprint(
        build("resnet8", channels=1, classes=3, width=4, seed=7)
    )


def test_a_module_of_the_user_is_what_its_constructor_makes():
    torch.manual_seed(0)
    variances = torch.stack([reinitialize(own())[4].weight.detach().var() for _ in range(20)])
    expected = torch.stack([own()[4].weight.detach().var() for _ in range(20)])
    assert variances.mean().item() == pytest.approx(expected.mean().item(), rel=0.1)


def test_attention_begins_as_its_constructor_does():
    model = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(9.0)
    new = reinitialize(model, seed=0)
    assert not new.in_proj_bias.any()
    assert not new.out_proj.bias.any()
    assert new.in_proj_weight.abs().max() < 1
    assert new.out_proj.weight.abs().max() < 1


def test_shared_parameters_stay_shared():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    new = reinitialize(model)
    assert new[1].weight is new[0].weight
    assert new[0].weight is not model[0].weight


@pytest.mark.parametrize("make", [own, lambda: build("cnn", channels=1, classes=2, widths=[3], size=4)])
def test_dtype_flags_and_modes_are_the_originals(make):
    model = make().double().eval()
    next(model.parameters()).requires_grad_(False)
    new = reinitialize(model)
    assert shapes(new) == shapes(model)
    assert [p.requires_grad for p in new.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not any(m.training for m in new.modules())


def test_seed_decides_and_leaves_the_generator():
    model = own()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = reinitialize(model, seed=1), reinitialize(model, seed=1), reinitialize(model, seed=2)
    assert torch.equal(torch.rand(1), expected)
    assert fingerprint(a) == fingerprint(b) != fingerprint(c)


def test_a_parameter_that_cannot_be_initialized_is_named():
    model = Scaled()
    before = fingerprint(model)
    with pytest.raises(LimbeckError, match=r"'inner\.1\.scale' belongs to a Module.*function that builds the model"):
        reinitialize(model)
    assert fingerprint(model) == before
    model = nn.Linear(2, 2)
    nn.utils.parametrizations.weight_norm(model)
    with pytest.raises(LimbeckError, match="parametrizations"):
        reinitialize(model)


def test_a_model_of_transformers_is_built_from_its_configuration():
    """GPT-2's Conv1D has no reset_parameters."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=8, vocab_size=20)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    before = fingerprint(model)
    new, same, other = (reinitialize(model, seed=seed) for seed in (5, 5, 6))
    assert fingerprint(new) == fingerprint(same)
    assert len({before, fingerprint(new), fingerprint(other)}) == 3
    assert fingerprint(model) == before
    assert new.dtype == model.dtype
    assert not new.training
    assert new.lm_head.weight is new.transformer.wte.weight  # tied, as in the original
