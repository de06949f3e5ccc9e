"""Layers of any module are read without a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.model_call import logits_of
from limbeck.tap import Address, FrozenParameters, Tapped


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


class Branching(nn.Module):
    """Inputs of several kinds, modules with several outputs, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.block = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
        self.unused = nn.Linear(3, 3)
        self.top = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, _ = self.pair(x, 2 * x)
        return self.top(self.block(first))


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a - b


class Keyed(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"hidden": 2 * x, "logits": 3 * x, "text": "no tensor"}


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Returning(nn.Module):
    def __init__(self, inner: nn.Module, wrap: Any) -> None:
        super().__init__()
        self.inner = inner
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.inner(x))


@pytest.fixture
def model() -> Branching:
    return Branching()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 3)


# What is shown is what the address held.


def test_a_tapped_model_gives_the_same_logits(model, x):
    with Tapped(model, ["block.0"]) as tapped:
        assert torch.equal(tapped(x)["logits"], model(x))


def test_output_input_and_elements(model, x):
    with Tapped(model, ["pair:0", "pair:1", "pair", "pair:in:0", "pair:in:1", "top:in", "block"]) as tapped:
        shown = tapped(x)
    assert torch.equal(shown["pair:0"], 3 * x)
    assert torch.equal(shown["pair"], 3 * x)
    assert torch.equal(shown["pair:1"], -x)
    assert torch.equal(shown["pair:in:0"], x)
    assert torch.equal(shown["pair:in:1"], 2 * x)
    assert torch.equal(shown["top:in"], shown["block"])


def test_a_later_change_in_place_does_not_reach_what_was_read(model, x):
    before = model.block[0](3 * x)
    assert bool((before < 0).any())
    with Tapped(model, ["block.0", "block.1"]) as tapped:
        for _ in range(3):
            shown = tapped(x)
            assert torch.equal(shown["block.0"], before)
            assert torch.equal(shown["block.1"], before.relu())


def test_the_input_of_a_module_that_changes_it_in_place(model, x):
    with Tapped(model, ["block.1:in"]) as tapped:
        for _ in range(2):
            assert torch.equal(tapped(x)["block.1:in"], model.block[0](3 * x))


def test_gradients_flow_through_what_was_read_from_a_copy(model, x):
    with Tapped(model, ["block.0"]) as tapped:
        tapped(x)["block.0"].sum().backward()
    assert torch.allclose(model.block[0].weight.grad, (3 * x).sum(0).expand(4, 3))


def test_a_module_called_twice_shows_its_last_call(x):
    shared = nn.Linear(3, 3)
    with Tapped(nn.Sequential(shared, shared), ["0"]) as tapped:
        assert torch.equal(tapped(x)["0"], shared(shared(x)))


def test_nested_paths():
    deep = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(3, 5)), nn.ReLU()), nn.Linear(5, 2))
    with Tapped(deep, ["0.0.0", "0.0", "0"]) as tapped:
        shown = tapped(torch.randn(2, 3))
    assert torch.equal(shown["0.0"], shown["0.0.0"])
    assert torch.equal(shown["0"], shown["0.0"].relu())


@pytest.mark.parametrize("call", [lambda m, x: (x,), lambda m, x: {"x": x}, lambda m, x: x])
def test_inputs_as_tensor_tuple_or_mapping(model, x, call):
    with Tapped(model, []) as tapped:
        assert torch.equal(tapped(call(model, x))["logits"], model(x))


# Outputs of every kind.


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: (z, "more"),
        lambda z: {"loss": None, "logits": z},
        lambda z: Output(z, z),
    ],
    ids=["tensor", "tuple", "dict", "dataclass"],
)
def test_logits_are_detected(wrap, x):
    inner = nn.Linear(3, 2)
    with Tapped(Returning(inner, wrap)) as tapped:
        assert torch.equal(tapped(x)["logits"], inner(x))


def test_elements_of_mappings_and_objects(x):
    with Tapped(nn.Sequential(Keyed(), Returning(nn.Identity(), lambda d: d["logits"])), ["0:hidden"]) as tapped:
        assert torch.equal(tapped(x)["0:hidden"], 2 * x)
    whole = nn.Sequential(
        Returning(nn.Identity(), lambda z: Output(z, -z)), Returning(nn.Identity(), lambda o: o.logits)
    )
    with Tapped(whole, ["0:hidden"]) as tapped:
        assert torch.equal(tapped(x)["0:hidden"], -x)


def test_an_adaptor_finds_logits_in_anything(x):
    with Tapped(Returning(nn.Identity(), lambda z: {"scores": z}), adaptor=lambda out: out["scores"]) as tapped:
        assert torch.equal(tapped(x)["logits"], x)


def test_no_logits_is_one_sentence_that_names_the_keys():
    with pytest.raises(MissingOutputError, match=r"dict with \['a', 'b'\].*adaptor="):
        logits_of({"b": torch.zeros(1), "a": 1})
    with pytest.raises(MissingOutputError, match=r"NoneType"):
        logits_of(None)


# What goes wrong is said, with the nearest right name.


@pytest.mark.parametrize(("wrong", "near"), [("blok.0", "block.0"), ("block.2", "block"), ("tops", "top")])
def test_a_wrong_path_names_the_nearest(model, wrong, near):
    with pytest.raises(MissingOutputError, match=rf"{wrong}.*Branching.*Did you mean '{near}"):
        Tapped(model, [wrong])


@pytest.mark.parametrize("empty", ["", ":in"])
def test_the_model_itself_is_no_address(model, empty):
    with pytest.raises(MissingOutputError):
        Tapped(model, [empty])


def test_too_many_parts():
    with pytest.raises(MissingOutputError, match=r"too many parts"):
        Address.parse("a:0:1")
    with pytest.raises(MissingOutputError, match=r"too many parts"):
        Address.parse("a:in:0:1")


def test_a_module_that_is_never_called(model, x):
    with Tapped(model, ["unused"]) as tapped, pytest.raises(MissingOutputError, match=r"'unused' was not called"):
        tapped(x)


def test_an_element_that_is_not_there(model, x):
    with Tapped(model, ["pair:5"]) as tapped, pytest.raises(MissingOutputError, match=r"no element 5 in a tuple"):
        tapped(x)
    # An element of one tensor would be one example of the batch.
    with Tapped(model, ["block:0"]) as tapped, pytest.raises(MissingOutputError, match=r"one tensor, not several"):
        tapped(x)


def test_a_value_that_is_no_tensor(x):
    whole = nn.Sequential(Keyed(), Returning(nn.Identity(), lambda d: d["logits"]))
    with Tapped(whole, ["0"]) as tapped, pytest.raises(MissingOutputError, match=r"gives a dict.*0:0 or 0:name"):
        tapped(x)
    with Tapped(whole, ["0:text"]) as tapped, pytest.raises(MissingOutputError, match=r"gives a str, not a tensor"):
        tapped(x)


def test_reading_outside_a_block_is_refused(model, x):
    tapped = Tapped(model, ["top"])
    with pytest.raises(LimbeckError, match=r"only within"):
        tapped(x)
    with tapped:
        tapped(x)
    with pytest.raises(LimbeckError, match=r"only within"):
        tapped(x)


def test_asking_a_signal_for_what_it_does_not_hold_names_the_nearest(model, x):
    with Tapped(model, ["block.0"]) as tapped:
        shown = tapped(x)
    with pytest.raises(MissingOutputError, match=r"Did you mean 'logits'"):
        shown["logit"]


# No trace.


def test_nothing_is_left_after_the_block(model, x):
    keys, types = list(model.state_dict()), [type(m) for m in model.modules()]
    own = {name: dict(vars(module)) for name, module in model.named_modules()}
    with Tapped(model, ["block.0", "pair:in:0", "top"]) as tapped:
        assert hooks(model) == 3
        assert list(model.state_dict()) == keys
        tapped(x)
    assert hooks(model) == 0
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == types
    assert {name: set(vars(module)) for name, module in model.named_modules()} == {n: set(v) for n, v in own.items()}


def test_nothing_is_left_after_an_exception(model, x):
    with pytest.raises(ZeroDivisionError), Tapped(model, ["block.0"]) as tapped:  # noqa: PT012
        tapped(x)
        raise ZeroDivisionError
    assert hooks(model) == 0


def test_nothing_is_left_after_break(model, x):
    for _ in range(2):
        with Tapped(model, ["block.0"]) as tapped:
            tapped(x)
            break
    assert hooks(model) == 0


def test_a_failed_forward_pass_leaves_the_tap_whole(model, x):
    with Tapped(model, ["block.0"]) as tapped:
        with pytest.raises(RuntimeError):
            tapped(torch.randn(6, 7))
        assert torch.equal(tapped(x)["logits"], model(x))


def test_hooks_of_others_stay(model, x):
    calls = []
    model.top.register_forward_hook(lambda *_: calls.append(1))
    with Tapped(model, ["top"]) as tapped:
        tapped(x)
    assert hooks(model) == 1
    assert calls == [1]


def test_two_taps_on_one_model_do_not_know_of_each_other(model, x):
    with Tapped(model, ["block.0"]) as one:
        with Tapped(model, ["top", "pair:1"]) as other:
            first, second = one(x), other(-x)
            assert set(first) == {"block.0", "logits"}
            assert set(second) == {"top", "pair:1", "logits"}
            assert torch.equal(second["pair:1"], x)
            assert torch.equal(first["logits"], model(x))
        assert hooks(model) == 1
        one(x)
    assert hooks(model) == 0


def test_frozen_gives_every_submodule_its_own_flag_back(model):
    model.train()
    model.block.eval()
    model.top.eval()
    before = [module.training for module in model.modules()]
    for mode in ("eval", "train"):
        with pytest.raises(ZeroDivisionError), FrozenParameters(model, mode=mode):  # noqa: PT012
            assert {module.training for module in model.modules()} == {mode == "train"}
            raise ZeroDivisionError
        assert [module.training for module in model.modules()] == before
