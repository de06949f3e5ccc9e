"""`fuse_networks`: the weights of several networks averaged, after their units were matched by optimal transport."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Inputs
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.models.coupled_units import (
    State,
    UnitGroup,
    find_unit_groups,
    join_name,
    move_inputs,
    move_units,
    read_state,
)
from limbeck.models.unit_trace import run_in_eval
from limbeck.optional_imports import import_optional

GROUNDS = ("weights", "activations")
"""What the distance of two units is measured by."""


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

    Layers whose outputs are added, as in a residual stage, share one T (`find_unit_groups`). Its cost is that of their
    rows side by side. Rows of the first of these layers give a first T; those of the others can be compared when their
    inputs are in order, so all costs are computed a second time, with all T of the first pass.

    A network and copies of it with other orders of the hidden units give exactly that network. The inputs are only
    used to find which units belong together, and for activations.

    Args:
        networks: The networks: linear layers or convolutions with normalizations, activations and pooling between them,
            whose outputs may be added, multiplied, padded or concatenated. The result has the units of the first, in
            its order.
        inputs: A few examples, as the networks take them.
        weights: The weight of each network in the average, at least 0, scaled to sum to 1; equal by default.
        ground: ``weights`` or ``activations``: what the distance of two units is measured by.
        regularization: The weight of the entropy of T (Sinkhorn), at least 0. Above 0 it needs the extra ``fusion``
            (POT), and a unit is matched with several.

    Returns:
        A new network; none of the given ones is changed.

    Raises:
        LimbeckError: If the architectures differ, or the network mixes units in another way: grouped convolutions,
            attention, shuffled channels.
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
    groups = find_unit_groups(networks[0], inputs)
    reference = read_state(networks[0])
    outputs = [_read_outputs(one, groups, inputs) for one in networks] if ground == "activations" else None
    aligned = [reference]
    for number in range(1, len(networks)):
        pair = None if outputs is None else (outputs[number], outputs[0])
        state = read_state(networks[number])
        aligned.append(move_units(state, groups, _match(state, reference, groups, pair, regularization)))
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


def _read_outputs(
    network: nn.Module, groups: Sequence[UnitGroup], inputs: Inputs
) -> dict[str, Float[Tensor, "units n"]]:
    """What each unit of each layer of a group gives for the inputs, before the activation."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            units = output.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)
            outputs[name] = units.flatten(1).double().cpu()

        return hook

    names = {name for group in groups for name in group.outputs}
    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        run_in_eval(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _match(
    state: State, reference: State, groups: Sequence[UnitGroup], outputs: tuple[State, State] | None,
    regularization: float,
) -> dict[int, Tensor]:  # fmt: skip
    """The plan of each group."""
    plans: dict[int, Tensor] = {}
    # Rows of a layer can be compared once its inputs are in order. The first layer of a group is; the others read
    # units that depend on the group itself, so they are compared in a second pass.
    passes = 2 if outputs is None and any(len(group.outputs) > 1 for group in groups) else 1
    for number, group in list(enumerate(groups)) * passes:
        if outputs is None:
            ready = [name for name in group.outputs if _inputs_of(name, groups) <= plans.keys()]
            mine = torch.cat([_rows(state, name, group, groups, plans) for name in ready], 1)
            its = torch.cat([_rows(reference, name, group, groups, {}) for name in ready], 1)
        else:
            mine, its = (torch.cat([one[name][at] for name, at in group.outputs.items()], 1) for one in outputs)
        plans[number] = match_units(torch.cdist(mine, its), regularization=regularization)
    return plans


def _inputs_of(name: str, groups: Sequence[UnitGroup]) -> set[int]:
    """The groups that a layer reads."""
    return {number for number, group in enumerate(groups) if name in group.inputs}


def _rows(
    state: State, name: str, group: UnitGroup, groups: Sequence[UnitGroup], plans: Mapping[int, Tensor]
) -> Float[Tensor, "units weights"]:
    """The weights of the units of a group in one layer, its inputs in order, and their biases."""
    weight = move_inputs(name, state[join_name(name, "weight")], groups, plans).flatten(1)
    bias = state.get(join_name(name, "bias"))
    rows = weight if bias is None else torch.cat([weight, bias[:, None]], 1)
    return rows[group.outputs[name]]


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
