"""Smaller models of larger ones: identities, hand-built copies, zeroed channels, singular values, replay, limits."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import limbeck as lb
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.models import build, count_parameters, get_shrink_report, shrink, shrinking, size_in_bytes, transform_model
from limbeck.models.block_stacks import find_block_stacks, list_depths
from limbeck.models.channel_pruning import ChannelGroups, prune_channels, zero_channels
from limbeck.models.folder import describe_structure
from limbeck.models.low_rank import factorize_layers
from limbeck.models.model_transforms import keep_layers, transforms_of
from limbeck.models.narrow_copies import narrow_resnet
from limbeck.optional_imports import MissingPackageError


class Encoder(nn.Module):
    """A small transformer of PyTorch's own layers."""

    def __init__(self, layers=4, width=16):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
        self.embed = nn.Linear(5, width)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)
        for block in self.encoder.layers:  # PyTorch copies one layer
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=0.2)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


class Residual(nn.Module):
    """A residual network whose shortcut is a convolution, with a depthwise layer and a concatenation."""

    def __init__(self, width=8):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.second = nn.Conv2d(2 * width, width, 1)
        self.head = nn.Linear(2 * width, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = F.silu(self.second(F.relu(self.depthwise(F.relu(self.first(x))))))
        return self.head(torch.cat([x + y, y], 1).mean((2, 3)))


def with_statistics(model, example, seed=0):
    """The model with statistics and scales of BatchNorm that are not those of a new one."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor in (part.weight, part.bias, part.running_mean):
                    tensor.uniform_(0.5, 1.5)
                part.running_var.uniform_(0.5, 1.5)
        model.train()(example)
    return model.eval()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def outputs(model, example):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(example)


def test_full_size_is_the_model_bit_for_bit():
    x = torch.randn(2, 6, 5)
    teacher = Encoder().eval()
    copied = shrink(teacher, size=1.0, example=x)
    assert copied is not teacher
    assert torch.equal(outputs(copied, x), outputs(teacher, x))
    whole = copy.deepcopy(teacher)
    keep_layers(whole, at="encoder.layers", layers=range(4))
    assert torch.equal(outputs(whole, x), outputs(teacher, x))


def test_layers_are_those_of_a_model_built_by_hand():
    x = torch.randn(2, 6, 5)
    teacher = Encoder().eval()
    student = shrink(teacher, size=0.55, example=x)
    report = get_shrink_report(student)
    assert (report.by, report.what) == ("layers", "blocks 0, 2 of 4 in encoder.layers")
    assert report.size == count_parameters(student) / count_parameters(teacher)
    by_hand = Encoder(layers=2)
    own = {name: value for name, value in teacher.state_dict().items() if ".layers." not in name}
    for mine, theirs in ((0, 0), (1, 2)):
        prefix = f"encoder.layers.{theirs}."
        own |= {
            name.replace(prefix, f"encoder.layers.{mine}."): value
            for name, value in teacher.state_dict().items() if name.startswith(prefix)
        }  # fmt: skip
    by_hand.load_state_dict(own)
    assert torch.equal(outputs(student, x), outputs(by_hand, x))
    # The student is its own, and learns even if the teacher was frozen.
    teacher.requires_grad_(False)
    again = shrink(teacher, size=0.55, example=x)
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert again.training
    assert not {id(p) for p in again.parameters()} & {id(p) for p in teacher.parameters()}


def test_layers_of_residual_stages_are_those_of_equal_shape():
    teacher = build("resnet20", channels=3, classes=5, width=4)
    stacks = {stack.path: (stack.blocks, stack.fewest) for stack in find_block_stacks(teacher)}
    assert stacks == {"layer1": ((0, 1, 2), 1), "layer2": ((1, 2), 0), "layer3": ((1, 2), 0)}
    assert list_depths(find_block_stacks(teacher))[-1] == [1, 0, 0]
    student = shrink(teacher, size=0.3, by="layers")
    by_hand = build("resnet8", channels=3, classes=5, width=4)
    by_hand.load_state_dict(student.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(outputs(student, x), outputs(by_hand, x))


def test_experts_inside_of_a_layer_are_no_stack():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return x + sum(expert(x) for expert in self.experts)

    model = nn.Sequential(nn.Sequential(Experts(), Experts()), nn.Linear(4, 2))
    assert [stack.path for stack in find_block_stacks(model)] == ["0"]


def test_a_model_that_is_a_stack_itself(tmp_path):
    def make():
        return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(4)), nn.Linear(4, 2))

    teacher, x = make(), torch.randn(3, 4)
    student = shrink(teacher, size=0.5, by="layers")
    assert torch.equal(student(x), nn.Sequential(teacher[0], teacher[2], teacher[4])(x))
    opened = lb.load(lb.save(student, tmp_path / "student"), build=make)
    assert torch.equal(opened(x), student(x))


def zeroed_resnet(teacher, student):
    """The teacher with zeros in place of all channels that the student lacks, found by comparing weights."""
    zeroed = copy.deepcopy(teacher)
    with torch.no_grad():
        for (name, mine), (_, theirs) in zip(student.named_parameters(), zeroed.named_parameters(), strict=True):
            if theirs.ndim == 4:
                rows = [
                    any(torch.equal(torch.isin(small, wide).all(), torch.tensor(True)) for small in mine)
                    for wide in theirs
                ]
                columns = [
                    any(bool(torch.isin(small, wide).all()) for small in mine.transpose(0, 1))
                    for wide in theirs.transpose(0, 1)
                ]
                theirs[~torch.tensor(rows)] = 0
                theirs[:, ~torch.tensor(columns)] = 0
            elif name.endswith("classifier.weight"):
                theirs[:, ~torch.isin(theirs, mine).all(0)] = 0
            elif "norm" in name or name.startswith("stem"):
                theirs[~torch.isin(theirs, mine)] = 0
    return zeroed


@pytest.mark.parametrize("width", [1, 2, 3])
def test_channels_of_a_resnet_give_the_outputs_of_the_zeroed_one(width):
    x = torch.randn(3, 3, 8, 8)
    teacher = with_statistics(build("resnet14", channels=3, classes=5, width=4), x)
    student = narrow_resnet(teacher, width).eval()
    assert student.spec.arguments["width"] == width
    zeroed = zeroed_resnet(teacher, student).eval()
    torch.testing.assert_close(outputs(student, x), outputs(zeroed, x), atol=1e-4, rtol=1e-4)
    # The strongest channel of the first stage stays.
    strength = sum(
        weight.detach().flatten(1).pow(2).sum(1)
        for weight in (teacher.stem[0].weight, *(block.conv2.weight for block in teacher.layer1))
    )
    strongest = teacher.stem[0].weight[int(strength.argmax())]
    assert any(torch.equal(row, strongest) for row in student.stem[0].weight)


def test_shrink_of_a_resnet_is_a_reference_network(tmp_path):
    teacher = build("resnet20", channels=3, classes=10)
    student = shrink(teacher, size="4x", example=torch.randn(1, 3, 8, 8))
    assert get_shrink_report(student).by == "channels"
    assert student.spec.arguments["width"] == 8
    assert abs(get_shrink_report(student).size - 0.25) < 0.01
    opened = lb.load(lb.save(student, tmp_path / "student"))
    assert type(opened) is type(teacher)


@pytest.fixture
def residual():
    pytest.importorskip("torch_pruning")
    x = torch.randn(3, 3, 6, 6)
    return with_statistics(Residual(), x), x


def test_channels_of_any_network_give_the_outputs_of_the_zeroed_one(residual, tmp_path):
    teacher, x = residual
    groups = ChannelGroups(teacher, x)
    plan = groups.plan(0.5)
    pruned, zeroed = copy.deepcopy(teacher), copy.deepcopy(teacher)
    prune_channels(pruned, **plan.arguments)
    zero_channels(zeroed, plan.keep)
    torch.testing.assert_close(outputs(pruned, x), outputs(zeroed, x), atol=1e-5, rtol=1e-5)
    assert pruned.stem.out_channels == 4
    assert pruned.depthwise.groups == 8
    assert not groups.plan(1.0).keep
    assert groups.count_parameters(0.5) == count_parameters(pruned)
    # The strongest filters stay: of a layer whose channels nothing else shares, by the norm of all its weights.
    student = shrink(teacher, size=0.3, by="channels", example=x)
    assert abs(get_shrink_report(student).size - 0.3) < 0.06
    opened = lb.load(lb.save(student, tmp_path / "student"), build=Residual)
    assert torch.equal(outputs(opened, x), outputs(student, x))
    assert describe_structure(opened) == describe_structure(student)
    assert describe_structure(opened)["transforms"][0]["function"] == "prune_channels"
    # Another choice of as many channels is the same structure, so a run can save both one after the other.
    other = shrink(with_statistics(Residual(), x), size=0.3, by="channels", example=x)
    assert transforms_of(other) != transforms_of(student)
    lb.save(other, tmp_path / "student")
    assert torch.equal(outputs(lb.load(tmp_path / "student", build=Residual), x), outputs(other, x))
    again = copy.deepcopy(teacher)
    [record] = transforms_of(student)[1]
    again = transform_model(again, record["function"], record["arguments"], origin={})
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), student.state_dict().values(), strict=True)
    )


def test_channels_of_attention_heads_and_of_layer_norm_stay():
    pytest.importorskip("torch_pruning")
    from limbeck.testing.tiny_transformer import TinyBert

    model = TinyBert(layers=1, width=8)
    ids = {"input_ids": torch.randint(1, 12, (2, 6))}
    groups = ChannelGroups(model, ids)
    assert groups.roots == ["bert.encoder.layer.0.intermediate"]


def test_full_rank_is_equal_and_a_low_rank_is_the_nearest_matrix():
    model = nn.Sequential(nn.Embedding(40, 12, padding_idx=0), nn.Linear(12, 20), nn.Linear(20, 2, bias=False))
    full = copy.deepcopy(model)
    factorize_layers(full, ranks={"0": 12, "1": 12, "2": 2})
    ids = torch.arange(40)
    torch.testing.assert_close(full(ids), model(ids), atol=1e-6, rtol=1e-6)
    assert torch.equal(full[0](torch.tensor([0])), torch.zeros(1, 12))
    low = copy.deepcopy(model).double()
    factorize_layers(low, ranks={"1": 3})
    difference = low[1][1].weight @ low[1][0].weight - model[1].weight.double()
    sigma = torch.linalg.svdvals(model[1].weight.double())
    torch.testing.assert_close(difference.norm(), sigma[3:].norm())
    with pytest.raises(ArgumentError) as error:
        factorize_layers(copy.deepcopy(model), ranks={"1": 13})
    assert "13" in str(error.value)


def test_low_rank_leaves_out_tied_weights_outputs_and_layers_that_are_not_called(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.inner, self.unused = nn.Linear(16, 16), nn.Linear(16, 16)
            self.out = nn.Linear(16, 50, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(torch.relu(self.inner(self.embed(ids))))

    teacher = Tied()
    student = shrink(teacher, size=0.9, by="low_rank", example=torch.arange(4)[None])
    ranks = transforms_of(student)[1][0]["arguments"]["ranks"]
    assert list(ranks) == ["inner"]
    opened = lb.load(lb.save(student, tmp_path / "s"), build=Tied)
    assert torch.equal(outputs(opened, torch.arange(4)[None]), outputs(student, torch.arange(4)[None]))


def test_auto_adds_low_rank_where_layers_do_not_reach_the_size():
    x = torch.randint(0, 400, (2, 6))
    teacher = nn.Sequential(nn.Embedding(400, 16), Encoder(layers=4))
    teacher[1].embed = nn.Linear(16, 16)
    student = shrink(teacher, size=0.25, example=x)
    report = get_shrink_report(student)
    assert report.by == "layers and low_rank"
    assert abs(math.log(report.size / 0.25)) < math.log(1.15)
    assert outputs(student, x).shape == (2, 3)


def test_narrow_models_are_of_the_same_kind():
    teacher = build("mlp", inputs=6, classes=3, hidden=[32, 16], dropout=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student = shrink(teacher, size=0.5, by="narrow")
    assert student.spec.name == "mlp"
    assert student.spec.arguments["dropout"] == 0.1
    first, second = student.spec.arguments["hidden"]
    assert second == round(first / 2)
    assert abs(get_shrink_report(student).size - 0.5) < 0.05
    with pytest.raises(LimbeckError, match="Encoder"):
        shrink(Encoder(), size=0.5, by="narrow")


@pytest.mark.parametrize("size", [0, -0.5, 1.5, "0x", "0.5x", "4%x", "25xx", "many", True, float("nan")])
def test_wrong_sizes_are_refused(size):
    with pytest.raises(ArgumentError, match="size"):
        shrink(Encoder(), size=size)


def test_what_cannot_be_made_is_refused():
    x = torch.randn(2, 6, 5)
    with pytest.raises(ArgumentError, match="latency"):
        shrink(Encoder(), size=0.5, latency="2ms", example=x)
    with pytest.raises(LimbeckError, match="layers"):
        shrink(Encoder(), size=0.5, by="layer")
    with pytest.raises(LimbeckError, match="like blocks"):
        shrink(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), size=0.5, by="layers")
    with pytest.raises(ArgumentError) as error:
        shrink(Encoder(), size=0.01, by="layers")
    least = count_parameters(Encoder(layers=1)) / count_parameters(Encoder())
    assert f"{least:.3g}" in str(error.value)
    assert float(error.value.example) == pytest.approx(least, abs=0.001)
    with pytest.raises(ArgumentError, match="example"):
        shrink(Encoder(), size=0.5, by="low_rank")


def test_a_ratio_that_leaves_no_channel_is_refused(residual):
    teacher, x = residual
    with pytest.raises(ArgumentError, match="no channel"):
        shrink(teacher, size=0.001, by="channels", example=x)


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingPackageError) as error:
        shrink(Residual(), size=0.5, example=torch.randn(1, 3, 6, 6))
    assert error.value.extra == "shrink"


def test_a_limit_of_bytes_is_kept_by_the_largest_model():
    teacher = build("resnet20", channels=3, classes=5, width=8)
    student = shrink(teacher, bytes="100kB", by="channels", example=torch.randn(1, 3, 8, 8))
    wider = narrow_resnet(teacher, student.spec.arguments["width"] + 1)
    assert size_in_bytes(student) <= 100_000 < size_in_bytes(wider)
    with pytest.raises(ArgumentError) as error:
        shrink(teacher, bytes=10, by="channels", example=torch.randn(1, 3, 8, 8))
    assert error.value.argument == "bytes"
    with pytest.raises(ArgumentError, match="teacher itself"):
        shrink(teacher, bytes="1GB", example=torch.randn(1, 3, 8, 8))


def test_a_limit_of_time_is_kept_and_the_best_is_named(monkeypatch):
    # A time that is the number of parameters in thousands: real times differ from call to call.
    monkeypatch.setattr(shrinking, "median_milliseconds", lambda model, *_, **__: count_parameters(model) / 1e3)
    teacher, x = build("resnet8", channels=3, classes=5, width=8), torch.randn(2, 3, 8, 8)
    student = shrink(teacher, latency="6ms", by="channels", example=x)
    assert (
        count_parameters(student)
        <= 6_000
        < count_parameters(narrow_resnet(teacher, student.spec.arguments["width"] + 1))
    )
    report = get_shrink_report(student)
    again = shrink(teacher, size=report.share, by="channels", example=x)
    assert count_parameters(again) == count_parameters(student)
    with pytest.raises(ArgumentError) as error:
        shrink(teacher, latency="0.1ms", by="channels", example=x)
    least = count_parameters(narrow_resnet(teacher, 1)) / 1e3
    assert f"{least:.3g}" in str(error.value)


class Shared(nn.Module):
    """Blocks that are one module, called several times."""

    def __init__(self, own=0):
        super().__init__()
        block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        others = [nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(own)]
        self.blocks = nn.ModuleList([block] * 4 + others)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_parameters_of_shared_blocks_are_counted_once():
    with pytest.raises(LimbeckError, match="share"):
        shrink(Shared(), size=0.5, by="layers")
    student = shrink(Shared(own=2), size=0.7, by="layers")
    assert get_shrink_report(student).parameters == count_parameters(student) == 84
    assert len(student.blocks) < 6


def test_no_model_is_left_without_parameters():
    student = shrink(nn.Sequential(nn.Flatten(), *(nn.Linear(8, 8) for _ in range(3))), size=0.4, by="layers")
    assert count_parameters(student) == 72


def test_weights_without_an_order_and_modules_that_cannot_be_copied_are_refused():
    x = torch.randn(2, 6)
    broken = Shared(own=2)
    with torch.no_grad():
        broken.blocks[4][0].weight[0, 0] = math.nan
    for by in ("layers", "channels", "low_rank", "auto"):
        with pytest.raises(LimbeckError, match=r"blocks\.4\.0\.weight"):
            shrink(broken, size=0.5, by=by, example=x)
    with pytest.warns(FutureWarning):
        hooked = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(6, 40)), nn.ReLU(), nn.Linear(40, 3))
    with pytest.raises(LimbeckError, match="parametrizations"):
        shrink(hooked, size=0.5, example=x)


def test_low_rank_leaves_out_weights_that_are_computed_and_norms_that_are_bounded():
    hooked = nn.Sequential(
        torch.nn.utils.spectral_norm(nn.Linear(6, 40)), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 3)
    )
    student = shrink(hooked, size=0.5, by="low_rank", example=torch.randn(2, 6))
    assert list(transforms_of(student)[1][0]["arguments"]["ranks"]) == ["2"]
    bounded = nn.Sequential(nn.Embedding(50, 12, max_norm=1.0), nn.Flatten(), nn.Linear(24, 40), nn.Linear(40, 3))
    student = shrink(bounded, size=0.8, by="low_rank", example=torch.zeros(2, 2, dtype=torch.int64))
    assert list(transforms_of(student)[1][0]["arguments"]["ranks"]) == ["2"]


def test_a_missing_example_is_named_for_limits_too(residual):
    for limit in ({"bytes": "1kB"}, {"size": 0.3}):
        with pytest.raises(ArgumentError) as error:
            shrink(residual[0], by="channels", **limit)
        assert error.value.argument == "example"
