"""`fuse_networks`: the weights of several networks averaged, after their units were matched by optimal transport."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Inputs
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.model_call import call, logits_of
from limbeck.optional_imports import import_optional

GROUNDS = ("weights", "activations")
"""What the distance of two units is measured by."""
_MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


class _Layer(NamedTuple):
    """A layer that mixes units, and the normalizations after it, by their names in the network."""

    name: str
    norms: tuple[str, ...]


def check_same_architecture(networks: Sequence[nn.Module]) -> None:
    """Check that networks have the same modules and shapes, and that all values are finite.

    Raises:
        LimbeckError: If there is none, one differs from the first, or one has diverged.
    """
    if not networks:
        raise LimbeckError("Fusing needs at least one network.")
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.state_dict().items()} for one in networks]
    for number, own in enumerate(shapes):
        if own != shapes[0]:
            other = next(name for name in {**own, **shapes[0]} if own.get(name) != shapes[0].get(name))
            raise LimbeckError(
                f"Networks of different architectures cannot be fused: {other!r} has the shape "
                f"{own.get(other, 'of no tensor')} in network {number} and {shapes[0].get(other, 'of no tensor')} in "
                "network 0. Average their answers instead: Ensemble(a, b), or teacher: {ensemble: [...]}."
            )
    for number, network in enumerate(networks):
        for name, tensor in network.state_dict().items():
            if not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
                raise LimbeckError(f"{name!r} of network {number} has values that are not finite: it has diverged.")


def fuse_networks(
    networks: Sequence[nn.Module],
    inputs: Inputs,
    *,
    weights: Sequence[float | int] | None = None,
    ground: str = "weights",
    regularization: float = 0.0,
) -> nn.Module:
    r"""Fuse networks of one architecture into one: match the units of each with those of the first, then average.

    Layer by layer, with :math:`T_{l-1}` the matching of the layer before (the identity for inputs):

    1. :math:`\hat W_A = W_A T_{l-1}`, in the order of the first network's units.
    2. The cost of two units is the Euclidean distance of their rows in :math:`\hat W_A` and :math:`W_B` (with biases),
       or of their outputs for `inputs` before the activation.
    3. T is the optimal transport between uniform distributions of the units, divided by 1/n, so that rows and columns
       sum to 1. Without regularization it is a permutation.
    4. :math:`W_A` becomes :math:`T^\top \hat W_A`, and so do bias and normalization. The units of the last layer are
       classes and stay.

    A network and copies of it with other orders of the hidden units give exactly that network. The inputs are only
    used to find the order of the layers, to check that they form a chain, and for activations.

    Args:
        networks: The networks, chains of linear layers or convolutions with normalizations, activations and pooling
            between them. The result has the units of the first, in its order.
        inputs: A few examples, as the networks take them.
        weights: The weight of each network in the average, at least 0, scaled to sum to 1; equal by default.
        ground: ``weights`` or ``activations``: what the distance of two units is measured by.
        regularization: The weight of the entropy of T (Sinkhorn), at least 0. Above 0 it needs the extra ``fusion``
            (POT), and a unit is matched with several.

    Returns:
        A new network; none of the given ones is changed.

    Raises:
        LimbeckError: If the architectures differ, or the network is no chain: residual connections, grouped
            convolutions, attention.
        ArgumentError: If `weights` or `regularization` are out of range.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> order = torch.randperm(8)
        >>> other = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> _ = other.load_state_dict({
        ...     "0.weight": net[0].weight[order], "0.bias": net[0].bias[order],
        ...     "2.weight": net[2].weight[:, order], "2.bias": net[2].bias})
        >>> torch.equal(fuse_networks([net, other], torch.zeros(2, 4))[0].weight, net[0].weight)
        True

    Source: Singh and Jaggi, Model Fusion via Optimal Transport, 2019, arXiv:1910.05653.
    """
    check_same_architecture(networks)
    shares = _check_options(len(networks), weights, ground, regularization)
    chain = find_chain(networks[0], inputs)
    reference = _read_state(networks[0])
    outputs = [_read_outputs(one, chain, inputs) for one in networks] if ground == "activations" else None
    aligned = [reference]
    for number in range(1, len(networks)):
        pair = None if outputs is None else (outputs[number], outputs[0])
        aligned.append(_align(_read_state(networks[number]), reference, chain, pair, regularization))
    fused = copy.deepcopy(networks[0])
    state = fused.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            mean = sum(share * one[name] for share, one in zip(shares, aligned, strict=True))
            tensor.copy_(torch.as_tensor(mean))
    return fused


def _check_options(
    count: int, weights: Sequence[float | int] | None, ground: str, regularization: float
) -> list[float]:
    """Check the arguments, and return the share of each network."""
    if ground not in GROUNDS:
        raise unknown_name_error("ground", ground, GROUNDS, argument="ground")
    if not (0 <= regularization < float("inf")):
        raise ArgumentError(
            f"regularization is a finite number of at least 0; got {regularization!r}.", argument="regularization"
        )
    own = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(own) != count or not all(0 <= weight < float("inf") for weight in own) or not sum(own) > 0:
        raise ArgumentError(
            f"weights is a number of at least 0 for each of the {count} networks, and not all are 0; got "
            f"{list(weights or ())}.", argument="weights",
        )  # fmt: skip
    return [weight / sum(own) for weight in own]


def find_chain(network: nn.Module, inputs: Inputs) -> list[_Layer]:
    """Find the layers of a network in the order in which they are called, and check that they form a chain.

    The check is a trial: the hidden units of a copy get another order, which must not change its outputs.

    Raises:
        LimbeckError: If a layer is of another kind, is called twice, or the outputs change.
    """
    called: list[str] = []
    names = {
        module: name for name, module in network.named_modules()
        if next(iter([*module.parameters(recurse=False), *module.buffers(recurse=False)]), None) is not None
    }  # fmt: skip
    for module, name in names.items():
        if not isinstance(module, (*_MIXING, *_NORMS)) or (isinstance(module, _MIXING[1:]) and module.groups != 1):
            raise _not_a_chain(f"the {type(module).__name__} {name!r} cannot be matched unit by unit")
        if isinstance(module, _MIXING) and "weight" not in dict(module.named_parameters()):
            raise _not_a_chain(f"the weight of {name!r} is computed from others (a mask, weight or spectral norm)")
    handles = [module.register_forward_pre_hook(_append(called, name)) for module, name in names.items()]
    try:
        _run(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if len(called) != len(names) or len(set(called)) != len(called):
        raise _not_a_chain("a layer is called twice, or not at all")
    chain: list[_Layer] = []
    for name in called:
        if isinstance(network.get_submodule(name), _MIXING):
            chain.append(_Layer(name, ()))
        elif chain:
            chain[-1] = chain[-1]._replace(norms=(*chain[-1].norms, name))
    if not chain:
        raise _not_a_chain("it has no linear layer or convolution")
    _check_order_is_free(network, chain, inputs)
    return chain


def _append(called: list[str], name: str) -> Callable[..., None]:
    return lambda module, given: called.append(name)


def _not_a_chain(why: str) -> LimbeckError:
    return LimbeckError(
        f"Only a chain of linear layers and convolutions can be fused, and of this network {why}. Average the answers "
        "of the networks instead: Ensemble(a, b), or teacher: {ensemble: [...]}."
    )


def _run(network: nn.Module, inputs: Inputs) -> Tensor:
    """The outputs in eval mode; every module keeps its mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            return logits_of(call(network, inputs))
    finally:
        for module, training in modes.items():
            module.training = training


def _check_order_is_free(network: nn.Module, chain: Sequence[_Layer], inputs: Inputs) -> None:
    """Try another order of the hidden units, which may change rounding only."""
    state, draw = _read_state(network), torch.Generator().manual_seed(0)
    # One order for all layers of a width would suit residual connections too.
    counts = [len(state[_key(layer.name, "weight")]) for layer in chain[:-1]]
    plans = [torch.eye(count, dtype=torch.float64)[torch.randperm(count, generator=draw)] for count in counts]
    other = copy.deepcopy(network)
    try:
        moved = _move(state, chain, plans)
    except RuntimeError as error:
        raise _not_a_chain(f"two layers do not follow each other ({error})") from error
    for name, tensor in other.state_dict().items():
        tensor.copy_(moved[name])
    before, after = _run(network, inputs), _run(other, inputs)
    scale = float(before.abs().amax().clamp_min(1e-6)) if before.numel() else 1.0
    if not torch.allclose(before, after, rtol=0, atol=1e-3 * scale):
        raise _not_a_chain("the order of the hidden units matters: it has residual connections, or groups of units")


def _read_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors in float64, on the CPU; whole numbers as they are."""
    return {
        name: tensor.detach().double().cpu() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in network.state_dict().items()
    }


def _read_outputs(network: nn.Module, chain: Sequence[_Layer], inputs: Inputs) -> dict[str, Float[Tensor, "units n"]]:
    """What each unit of each layer gives for the inputs, before the activation."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            units = output.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)
            outputs[name] = units.flatten(1).double().cpu()

        return hook

    handles = [network.get_submodule(layer.name).register_forward_hook(keep(layer.name)) for layer in chain]
    try:
        _run(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _align(
    state: Mapping[str, Tensor], reference: Mapping[str, Tensor], chain: Sequence[_Layer],
    outputs: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None, regularization: float,
) -> dict[str, Tensor]:  # fmt: skip
    """Bring the units of a network into the order of the reference."""
    plans: list[Tensor] = []
    for number, layer in enumerate(chain[:-1]):
        if outputs is None:
            moved = _move(state, chain[: number + 1], plans)
            mine, its = (_rows(one, layer.name) for one in (moved, reference))
        else:
            mine, its = outputs[0][layer.name], outputs[1][layer.name]
        plans.append(match_units(torch.cdist(mine, its), regularization=regularization))
    return _move(state, chain, plans)


def _rows(state: Mapping[str, Tensor], name: str) -> Float[Tensor, "units weights"]:
    weight = state[_key(name, "weight")].flatten(1)
    bias = state.get(_key(name, "bias"))
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)


def _move(state: Mapping[str, Tensor], chain: Sequence[_Layer], plans: Sequence[Tensor]) -> dict[str, Tensor]:
    """Apply the matching of each layer to what comes out of it, and to what the next layer reads.

    A layer without a plan keeps its units.
    """
    moved = dict(state)
    before: Tensor | None = None
    for layer, plan in itertools.zip_longest(chain, plans[: len(chain)]):
        weight = moved[_key(layer.name, "weight")]
        weight = weight if before is None else _mix_inputs(weight, before)
        moved[_key(layer.name, "weight")] = weight if plan is None else torch.einsum("ab,a...->b...", plan, weight)
        if plan is not None:
            tensors = [_key(layer.name, "bias")]
            tensors += [_key(norm, part) for norm in layer.norms for part in _NORM_TENSORS]
            moved |= {name: plan.T @ moved[name] for name in tensors if name in moved}
        before = plan
    return moved


def _key(name: str, part: str) -> str:
    """The name of a tensor in the state; a network may be a single layer without a name."""
    return f"{name}.{part}".lstrip(".")


_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


def _mix_inputs(weight: Tensor, plan: Tensor) -> Tensor:
    """Apply a matching to the inputs of a layer; those of a flattened map are a block for each channel."""
    width = len(plan)
    if weight.shape[1] == width:
        return torch.einsum("oa...,ab->ob...", weight, plan)
    if weight.ndim != 2 or weight.shape[1] % width:
        raise RuntimeError(f"{weight.shape[1]} inputs after {width} units")
    blocks = weight.unflatten(1, (width, -1))
    return torch.einsum("oak,ab->obk", blocks, plan).flatten(1)


def match_units(cost: Float[Tensor, "mine its"], *, regularization: float = 0.0) -> Float[Tensor, "mine its"]:
    r"""Find the optimal transport between uniform distributions of two layers' units, with columns that sum to 1.

    Without regularization an optimal plan is a permutation, found by the Hungarian algorithm of SciPy; with it, the
    plan minimizes :math:`\sum_{ij} T_{ij} M_{ij} - \epsilon H(T)` (Sinkhorn, by POT).

    Args:
        cost: M, the cost of each pair, with as many rows as columns.
        regularization: Epsilon, in the unit of the cost.

    Raises:
        MissingPackageError: If it needs POT, and that is not installed.

    Example:
        >>> match_units(torch.tensor([[5.0, 0.0], [0.0, 5.0]], dtype=torch.float64))
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)

    Source: Singh and Jaggi, 2019, arXiv:1910.05653, section 4.
    """
    count = len(cost)
    if regularization:
        ot = import_optional("ot", extra="fusion", purpose="Matching with regularization > 0")
        uniform = np.full(count, 1 / count)
        plan = ot.sinkhorn(
            uniform, uniform, cost.numpy(), regularization, method="sinkhorn_log", numItermax=10_000, stopThr=1e-6
        )
        # Sinkhorn stops near the marginals; the correction makes the columns exact.
        return torch.from_numpy(plan / plan.sum(0, keepdims=True))
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost.numpy())
    matching = torch.zeros(count, count, dtype=cost.dtype)
    matching[torch.as_tensor(rows), torch.as_tensor(columns)] = 1.0
    return matching
