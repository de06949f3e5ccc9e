"""`BranchedNetwork`: a network with branches on its hidden layers, which learn beside it and are dropped afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.functional.connectors import Pointwise, as_maps
from limbeck.functional.feature_maps import pool_to
from limbeck.model_call import Adaptor, logits_of


@final
class BranchedNetwork(nn.Module):
    """A network, and branches that read outputs of its layers. Its output is that of the network.

    A branch is called with the features and the inputs of the network, and its output is at ``branches.0``,
    ``branches.1``, ...; the network itself is at ``network``.

    Args:
        network: The network. It is not copied.
        addresses: For each branch, the name of the module whose output it reads.
        branches: The branches.
        detach: Whether the branches leave the network alone: no gradient flows from them into it.

    Example:
        >>> branch = GuidedModule(8, 4, 3)
        >>> branched = BranchedNetwork(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)), ["0"], [branch])
        >>> branched(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, network: nn.Module, addresses: Sequence[str], branches: Sequence[nn.Module], *, detach: bool = False
    ) -> None:
        super().__init__()
        self.network, self.addresses, self.detach = network, tuple(addresses), detach
        self.branches = nn.ModuleList(branches)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The output of the network; the branches are called after it."""
        features: dict[str, Tensor] = {}

        def read(address: str, module: nn.Module, given: Any, output: Tensor) -> None:
            features[address] = output.detach() if self.detach else output

        # Only during the call: a lasting hook would be lost when the model is saved or copied.
        handles = [
            self.network.get_submodule(address).register_forward_hook(partial(read, address))
            for address in self.addresses
        ]
        try:
            output = self.network(*inputs, **named)
        finally:
            for handle in handles:
                handle.remove()
        for address, branch in zip(self.addresses, self.branches, strict=True):
            branch(features[address], *inputs, **named)
        return output


@final
class StudentBranch(nn.Module):
    """The later layers of a student on features of its teacher: a learned map, then the student from a layer on.

    The student is run on the network's inputs, and the output of its layer is replaced. The layers before it are run
    without gradients, and have no effect.

    Args:
        student: The student; it is not copied.
        at: The name of its layer whose output is replaced.
        adaptor: Function from its output to logits, or None.
        theirs: The shape of the teacher's features of one example.
        ours: The shape of the student's features of one example.

    Raises:
        LimbeckError: If the teacher's features cannot take the place of the student's.

    Example:
        >>> student = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
        >>> StudentBranch(student, "0", None, theirs=(8,), ours=(4,))(torch.ones(2, 8), torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, student: nn.Module, at: str, adaptor: Adaptor | None, *, theirs: tuple[int, ...], ours: tuple[int, ...]
    ) -> None:
        super().__init__()
        _check_fits(at, theirs, ours)
        self.student, self.at, self.adaptor = student, at, adaptor
        maps = len(ours) == 3
        self.size = (ours[1], ours[2]) if maps else None
        channel = 0 if maps else -1
        self.connector = Pointwise([theirs[channel], ours[channel]], norm=True, last_activation=True)

    def forward(self, features: Tensor, *inputs: Any, **named: Any) -> Float[Tensor, "batch classes"]:
        """The logits of the branch."""
        smaller = features if self.size is None else pool_to(features, self.size)
        connected, with_gradients = self.connector(smaller), torch.is_grad_enabled()

        def replace(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            torch.set_grad_enabled(with_gradients)
            return connected.to(output.dtype)

        handle = self.student.get_submodule(self.at).register_forward_hook(replace)
        try:
            with torch.no_grad():  # until the layer is reached; restored at the end of the block
                return logits_of(self.student(*inputs, **named), self.adaptor)
        finally:
            handle.remove()


def _check_fits(at: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> None:
    """Check that features of the teacher can be mapped to those of the student."""
    same_kind = len(theirs) == len(ours) and len(ours) in (1, 2, 3)
    positions = theirs[:1] == ours[:1] if len(ours) == 2 else True
    shrinks = all(a >= b for a, b in zip(theirs[1:], ours[1:], strict=False)) if len(ours) == 3 else True
    if same_kind and positions and shrinks:
        return
    raise LimbeckError(
        f"No branch fits the student's layer {at!r}: its output is {list(ours)} for each example, and the teacher's "
        f"layer gives {list(theirs)}. Both must be rows [features], tokens [positions, features] with as many "
        "positions, or maps [channels, height, width], where the teacher's are at least as large. Name another layer "
        "of the teacher (at=) or of the student (student_at=)."
    )


@final
class GuidedModule(nn.Module):
    """A small classifier on features: three convolutions (1x1, 3x3, 1x1) with BatchNorm and ReLU, a mean, a linear map.

    Its maps are at ``body``. Rows of features count as maps of one pixel.

    Args:
        channels: The channels of the features.
        width: The channels of its maps.
        classes: The number of logits.

    Example:
        >>> GuidedModule(8, 4, 3)(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, side in ((channels, 1), (width, 3), (width, 1)):
            layers += [nn.Conv2d(before, width, side, padding=side // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, features: Tensor, *inputs: Any, **named: Any) -> Float[Tensor, "batch classes"]:
        """The logits; the inputs of the network are not used."""
        maps = self.body(as_maps(features.to(self.classifier.weight.dtype)))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits
