"""Interval bounds: nothing leaves them, and where interval arithmetic is exact they are the extremes."""

from __future__ import annotations

import itertools
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.interval import (
    Bounds,
    IntervalTensor,
    bound_gap,
    check_epsilon,
    confidence_bounds,
    input_box,
    interval_bounds,
)
from limbeck.models import build

DRAW = torch.Generator().manual_seed(0)


class Residual(nn.Module):
    """Sums, slices, padding, products, a norm, in-place and functional activations, and a mean at the end."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.scale = nn.Parameter(torch.randn(4, 1, 1, generator=DRAW))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        y = self.act(self.norm(self.first(x)))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        z = self.second(y) * self.scale + short
        z += 0.5
        gate = torch.sigmoid(z.mean((2, 3), keepdim=True))
        z = torch.cat([1 - z * gate, F.leaky_relu(-z, 0.1) / 3], 1)
        return self.out(torch.flatten(F.adaptive_avg_pool2d(z, 1), 1))


def activations():
    return [
        nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.LeakyReLU(-0.2), nn.PReLU(), nn.ELU(), nn.CELU(), nn.SELU(),
        nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.LogSigmoid(), nn.Softsign(), nn.Hardtanh(), nn.Hardsigmoid(),
        nn.SiLU(), nn.Hardswish(), nn.Dropout(0.5), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(),
        nn.Identity(), nn.ReLU(inplace=True), nn.ELU(-0.5),
    ]  # fmt: skip


def mlp(*middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Linear(8, 3)).double().eval()


def networks():
    torch.manual_seed(0)
    pools = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.MaxPool2d(2, stride=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 3)
    )
    transposed = nn.Sequential(nn.ConvTranspose2d(2, 3, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 144, 3))
    volume = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(50, 3))
    resnet = build("resnet8", channels=2, classes=3, width=2, seed=0)
    cnn = build("cnn", channels=2, classes=3, widths=[3, 4], size=6, seed=0)
    every = {
        "pools": pools, "transposed": transposed, "volume": volume, "residual": Residual(), "resnet": resnet, "cnn": cnn
    }  # fmt: skip
    for net in every.values():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training: both signs of the factor
                nn.init.normal_(module.weight, generator=DRAW)
                module.running_mean.normal_(generator=DRAW)
                module.running_var.uniform_(0.5, 2.0, generator=DRAW)
    return {name: net.double().eval() for name, net in every.items()}


def assert_sound(net, x, epsilon, draws=40):
    low, high = x - epsilon, x + epsilon
    with torch.no_grad():
        bounds = interval_bounds(net, low, high)
        for _ in range(draws):
            # Corners are the worst points of many layers; inner points those of others.
            share = torch.rand(x.shape, generator=DRAW, dtype=x.dtype)
            for inner in (low + share * (high - low), torch.where(share < 0.5, low, high)):
                out = net(inner)
                assert bool((out >= bounds.low - 1e-12).all())
                assert bool((out <= bounds.high + 1e-12).all())
    return bounds


@pytest.mark.parametrize("layer", activations(), ids=repr)
def test_no_point_of_the_box_leaves_the_bounds_of_an_activation(layer):
    assert_sound(mlp(layer), torch.randn(5, 6, generator=DRAW, dtype=torch.float64), 0.7)


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_no_point_of_the_box_leaves_the_bounds_of_a_network(name, epsilon):
    x = torch.randn(3, 2, 6, 6, generator=DRAW, dtype=torch.float64)
    assert_sound(networks()[name], x, epsilon, draws=15)


@pytest.mark.parametrize("name", networks())
def test_at_radius_0_the_bounds_are_the_plain_forward_pass(name):
    net, x = networks()[name], torch.randn(3, 2, 6, 6, generator=DRAW, dtype=torch.float64)
    bounds = interval_bounds(net, x, x.clone())
    torch.testing.assert_close(bounds.low, net(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(bounds.high, net(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", networks())
def test_bounds_grow_with_the_radius(name):
    net, x = networks()[name], torch.randn(3, 2, 6, 6, generator=DRAW, dtype=torch.float64)
    net.requires_grad_(False)
    before = interval_bounds(net, x, x)
    for epsilon in (0.01, 0.1, 0.4):
        bounds = interval_bounds(net, x - epsilon, x + epsilon)
        assert bool((bounds.low <= before.low + 1e-12).all())
        assert bool((bounds.high >= before.high - 1e-12).all())
        assert float((bounds.high - bounds.low).sum()) > float((before.high - before.low).sum())
        before = bounds


def test_of_one_linear_layer_they_are_the_extremes_over_all_corners():
    layer = nn.Linear(4, 3).double()
    low = torch.randn(2, 4, generator=DRAW, dtype=torch.float64)
    high = low + torch.rand(2, 4, generator=DRAW, dtype=torch.float64)
    corners = torch.stack([
        layer(torch.where(torch.tensor(mask), low, high)) for mask in itertools.product([False, True], repeat=4)
    ])  # fmt: skip
    bounds = interval_bounds(layer, low, high)
    torch.testing.assert_close(bounds.low, corners.amin(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(bounds.high, corners.amax(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("function", "turn"), [(F.silu, -1.2784645427610738), (F.hardswish, -1.5)])
def test_the_point_where_an_activation_turns_is_its_least_value(function, turn):
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    bounds = interval_bounds(function, grid[:1], grid[-1:])
    assert float(bounds.low) <= float(function(grid).min())
    assert float(function(torch.tensor(turn, dtype=torch.float64))) == pytest.approx(float(bounds.low), abs=1e-15)


def test_gradients_reach_the_parameters_and_are_those_of_finite_differences():
    net = mlp(nn.ReLU())
    x = torch.randn(2, 6, generator=DRAW, dtype=torch.float64)

    def width(weight):
        bounds = interval_bounds(
            lambda box: torch.func.functional_call(net, {"0.weight": weight}, (box,)), x - 0.1, x + 0.1
        )
        return (bounds.high - bounds.low).sum()

    assert torch.autograd.gradcheck(width, (net[0].weight.detach().clone().requires_grad_(),))


def test_bounds_of_a_probability_are_reached_in_a_corner_of_the_logits():
    low = torch.randn(5, 4, generator=DRAW, dtype=torch.float64) * 3
    high = low + torch.rand(5, 4, generator=DRAW, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 1])
    corners = torch.stack([
        torch.where(torch.tensor(mask), low, high).softmax(-1).gather(1, classes[:, None])[:, 0]
        for mask in itertools.product([False, True], repeat=4)
    ])  # fmt: skip
    bounds = confidence_bounds(Bounds(low, high), classes)
    torch.testing.assert_close(bounds.low, corners.amin(0), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(bounds.high, corners.amax(0), rtol=1e-12, atol=1e-13)
    huge = confidence_bounds(Bounds(1e4 * low, 1e4 * high), classes)
    assert bool(torch.stack(huge).isfinite().all())


def test_the_bound_of_the_gap_holds_on_a_grid_and_is_the_gap_at_a_point():
    student, teacher = mlp(nn.Tanh()), mlp(nn.ReLU())
    x = torch.randn(4, 6, generator=DRAW, dtype=torch.float64)
    classes = teacher(x).argmax(1)

    def gap(at):
        q, p = (net(at).softmax(1).gather(1, classes[:, None])[:, 0] for net in (student, teacher))
        return (q - p).abs()

    bounds = [interval_bounds(net, x, x) for net in (student, teacher)]
    torch.testing.assert_close(bound_gap(*bounds, classes), gap(x), rtol=1e-10, atol=1e-12)
    bounds = [interval_bounds(net, x - 0.2, x + 0.2) for net in (student, teacher)]
    whole = bound_gap(*bounds, classes)
    for step in itertools.product((-0.2, 0.0, 0.2), repeat=6):
        assert bool((gap(x + torch.tensor(step, dtype=torch.float64)) <= whole + 1e-12).all())
    assert bool((whole <= 1).all())


def test_a_change_in_place_is_seen_by_all_who_hold_the_tensor():
    def network(x):
        y = x * 2
        y.mul_(-1.0).add_(1.0)
        F.relu(y, inplace=True)
        return y

    x = torch.randn(3, 4, generator=DRAW, dtype=torch.float64)
    bounds = interval_bounds(network, x - 0.5, x + 0.5)
    torch.testing.assert_close(bounds.low, F.relu(1 - 2 * (x + 0.5)))
    torch.testing.assert_close(bounds.high, F.relu(1 - 2 * (x - 0.5)))


@pytest.mark.parametrize("same", [lambda y: F.dropout(y, 0.5, False), lambda y: y.contiguous()])
def test_what_returns_its_input_is_changed_in_place_with_it(same):
    def network(x):
        y = x * 2
        return F.relu(same(y), inplace=True) + y

    assert_sound(network, torch.randn(3, 4, generator=DRAW, dtype=torch.float64), 0.5, draws=3)


def change_slice(x):
    y = x * 2
    y[:, :2].mul_(-1)
    return y


def change_whole(x):
    y = x * 2
    part = y[:, :2]
    y.mul_(-1)
    return part


def change_reshaped(x):
    y = x * 2
    F.relu(y.flatten(), inplace=True)
    return y + 0


def change_chunk(x):
    y = x * 2
    y.chunk(2, 1)[0].neg_()
    return torch.cat([y, y], 1)


@pytest.mark.parametrize("network", [change_slice, change_whole, change_reshaped, change_chunk])
def test_a_change_in_place_that_another_view_sees_is_refused(network):
    x = torch.randn(3, 4, generator=DRAW, dtype=torch.float64)
    with pytest.raises(LimbeckError, match="in place"):
        interval_bounds(network, x - 0.5, x + 0.5)


def test_a_change_in_place_of_a_view_that_alone_is_used_later_has_bounds():
    def network(x):
        y = F.relu((x * 2).flatten(1)[:, :3], inplace=True)
        return y + y[:, :1]

    assert_sound(network, torch.randn(3, 4, generator=DRAW, dtype=torch.float64), 0.5, draws=3)


@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 0.0), (2.0, 0.0), (1.0, -1.0), (0.5, 1.0), (-1.0, 0.5), (1, 20)])
def test_softplus_with_any_threshold_is_within_its_bounds(beta, threshold):
    layer, grid = nn.Softplus(beta, threshold), torch.linspace(-4, 4, 1001, dtype=torch.float64)
    for low, high in ((-1.0, 1.0), (-0.2, 0.01), (-2.0, -0.5), (0.0, 3.0), (-3.5, 3.5)):
        bounds = interval_bounds(layer, torch.tensor([low]).double(), torch.tensor([high]).double())
        values = layer(grid[(low <= grid) & (grid <= high)])
        assert float(values.min()) >= float(bounds.low) - 1e-12
        assert float(values.max()) <= float(bounds.high) + 1e-12
    point = torch.tensor([threshold / beta]).double()
    assert torch.equal(interval_bounds(layer, point, point).low, layer(point))


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_numbers_of_another_type_keep_their_order(kind):
    x = 3 * torch.randn(3, 4, generator=DRAW, dtype=torch.float64)
    assert_sound(lambda inputs: inputs.to(kind).to(torch.float64), x, 0.7, draws=3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(torch.int64),
        lambda x: x.view(dtype=torch.int64).view(torch.float64),
        lambda x: x.to(torch.uint8).float(),
        lambda x: x.to(torch.zeros(1, dtype=torch.int8)).float(),
    ],
)
def test_a_type_in_which_numbers_have_another_order_is_refused(function):
    x = torch.randn(3, 4, generator=DRAW, dtype=torch.float64)
    with pytest.raises(LimbeckError, match="order"):
        interval_bounds(function, x - 0.5, x + 0.5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: torch.add(input=x, other=w, alpha=-2),
        lambda x, w: torch.mul(input=w, other=x),
        lambda x, w: torch.sub(x, other=x),
        lambda x, w: torch.matmul(input=x, other=w.T),
        lambda x, w: F.linear(input=x, weight=w),
        lambda x, w: F.dropout(input=x, p=0.5, training=False),
        lambda x, w: torch.cat(tensors=[x, w]),
        lambda x, w: F.avg_pool2d(x[None, None], 2, divisor_override=-3),
    ],
)
def test_arguments_may_have_names(function):
    x, w = (torch.randn(3, 3, generator=DRAW, dtype=torch.float64) for _ in range(2))
    assert_sound(lambda inputs: function(inputs, w), x, 0.3, draws=5)


@pytest.mark.slow  # it loads the compiler
def test_a_compiled_network_has_the_bounds_of_the_original():
    net, x = mlp(nn.ReLU()), torch.randn(2, 6, generator=DRAW, dtype=torch.float64)
    compiled = interval_bounds(torch.compile(net, backend="eager"), x - 0.1, x + 0.1)
    assert torch.equal(compiled.low, interval_bounds(net, x - 0.1, x + 0.1).low)


@pytest.mark.parametrize(
    ("net", "word"),
    [
        (nn.LayerNorm(6), "layer_norm"),
        (nn.Softmax(-1), "softmax"),
        (nn.GELU(), "gelu"),
        (nn.TransformerEncoderLayer(6, 2, dropout=0.0, batch_first=True).train(), "multi_head_attention|softmax|rule"),
        (nn.BatchNorm1d(6).train(), "BatchNorm"),
        (nn.BatchNorm1d(6, track_running_stats=False).eval(), "track_running_stats"),
        (nn.Dropout(0.5).train(), "Dropout"),
        (lambda x: x.sum() if x.sum() > 0 else x, "gt"),
        (lambda x: 1 / x, "rdiv|rtruediv|reciprocal"),
        (lambda x: x / x, "division"),
        (lambda x: F.linear(torch.ones(1, 6, dtype=torch.float64), x), "weights"),
        (lambda x: torch.tensor(x.tolist()), "tolist"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: F.max_pool1d(x[None], 2, return_indices=True)[0], "max_pool1d_with_indices"),
        (lambda x: torch.arange(9.0)[(x * 4).to(torch.int64)], "places"),
        (lambda x: torch.index_select(torch.arange(9.0), 0, (x[0] * 4).to(torch.int64)), "places"),
        (lambda x: torch.zeros(2, 6).add_(x), "constant tensor"),
        (lambda x: operator.iadd(torch.zeros(2, 6), x), "constant tensor"),
        (lambda x: torch.mul(x, -2, out=torch.empty(2, 6)), "constant tensor"),
        (lambda x: torch.vmap(lambda row: -row)(x), "without PyTorch's rules"),
    ],
)  # fmt: skip
def test_what_has_no_bounds_is_refused_by_name(net, word):
    x = torch.rand(2, 6, dtype=torch.float64)
    net = net.double() if isinstance(net, nn.Module) else net
    with pytest.raises(LimbeckError, match=word):
        interval_bounds(net, x, x + 0.1)


def test_ends_that_are_no_interval_are_refused():
    x = torch.rand(2, 3)
    for low, high in ((x, x - 1), (x, x.double()), (x, x * torch.nan)):
        with pytest.raises(LimbeckError, match="ends of intervals"):
            interval_bounds(nn.Identity(), low, high)
    for epsilon in (-0.1, float("nan"), float("inf"), "0.1", None, True):
        with pytest.raises(ArgumentError, match="epsilon"):
            check_epsilon(epsilon)


def test_a_box_ends_at_the_range_of_the_inputs():
    pixels = torch.tensor([[0, 100, 255]], dtype=torch.uint8)
    box = input_box(pixels, 0.1)
    assert box.low.tolist() == [[0.0, 74.5, 229.5]]
    assert box.high.tolist() == [[25.5, 125.5, 255.0]]
    wide = input_box(torch.tensor([[-1.0, 0.5]]), 0.25, low=-1.0, high=1.0)
    assert wide.low.tolist() == [[-1.0, 0.0]]
    with pytest.raises(LimbeckError, match="-1"):
        input_box(torch.tensor([[-1.0]]), 0.1)


def test_a_network_that_ignores_its_inputs_is_a_point_and_text_of_an_interval_has_both_ends():
    bounds = interval_bounds(lambda _: torch.ones(2), torch.zeros(2), torch.ones(2))
    assert torch.equal(bounds.low, bounds.high)
    assert repr(IntervalTensor.of(torch.zeros(1), torch.ones(1))).count("tensor(") == 2
