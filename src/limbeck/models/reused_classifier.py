"""`ReusedClassifier`: a student's body, a projector, and a teacher's classifier; `reuse_classifier` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS_INPUT
from limbeck.functional.feature_maps import pool_to, to_positions
from limbeck.model_call import find_output_layer, logits_of


class ReusedClassifier(nn.Module):
    """A student's body, a projector to the teacher's features, their mean over positions, the teacher's classifier.

    Args:
        body: The student; its output layer is replaced.
        at: The address of the body's features: a module, or ``logits:in``, the input of its output layer.
        size: Height and width of the teacher's features, to which larger maps are averaged; None for rows.
        projector: A module from the features to those of the teacher.
        classifier: The teacher's output layer. It does not learn.
    """

    def __init__(
        self, body: nn.Module, at: str, size: tuple[int, int] | None, projector: nn.Module, classifier: nn.Module
    ) -> None:
        super().__init__()
        self.body, self.at, self.size = body, at, size
        self.projector, self.classifier = projector, classifier.requires_grad_(False)

    def forward(self, *inputs: Any, **named: Any) -> Float[Tensor, "batch classes"]:
        """The logits."""
        features = self.read_features(*inputs, **named)
        if self.size is not None:
            features = pool_to(features, (min(features.shape[2], self.size[0]), min(features.shape[3], self.size[1])))
        logits: Tensor = self.classifier(to_positions(self.projector(features)).mean(1))
        return logits

    def read_features(self, *inputs: Any, **named: Any) -> Tensor:
        """The body's features."""
        if self.at == LOGITS_INPUT:  # the output layer was replaced by the identity
            return logits_of(self.body(*inputs, **named))
        read: list[Tensor] = []
        # Only during the call: a lasting hook would be lost when the model is saved.
        handle = self.body.get_submodule(self.at).register_forward_hook(
            lambda module, given, output: read.append(output)
        )
        try:
            self.body(*inputs, **named)
        finally:
            handle.remove()
        return read[-1]


def make_projector(width: int, out: int, reduction: int, *, maps: bool) -> nn.Sequential:
    """Make three convolutions with BatchNorm and ReLU: 1x1, 3x3 on ``out / reduction`` channels, and 1x1.

    Args:
        width: The student's channels.
        out: The teacher's channels.
        reduction: r, the factor by which the middle is narrower than the teacher.
        maps: Whether there are pixels; for rows all three are linear layers.
    """
    mid = max(1, out // reduction)
    layers: list[nn.Module] = []
    for before, after, side in ((width, mid, 1), (mid, mid, 3), (mid, out, 1)):
        if maps:
            layers += [nn.Conv2d(before, after, side, padding=side // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        else:
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def reuse_classifier(
    model: nn.Module,
    *,
    width: int,
    teacher_width: int,
    classes: int,
    reduction: int,
    at: str = LOGITS_INPUT,
    size: Sequence[int] | None = None,
    bias: bool = True,
) -> ReusedClassifier:
    """Put a new projector and a classifier of a teacher's size behind the body of a model, as `simkd` does.

    The classifier's numbers are not set: load them, or copy a teacher's.

    Args:
        model: The model; its output layer is replaced by the identity.
        width: The number of its features at `at`.
        teacher_width: The number of the teacher's features, which the classifier reads.
        classes: The number of the teacher's logits.
        reduction: r, the factor by which the middle of the projector is narrower than the teacher's features.
        at: The address of the model's features: a module, or ``logits:in``, the input of its output layer.
        size: Height and width of the teacher's maps; None for rows.
        bias: Whether the classifier has a bias.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        >>> reuse_classifier(net, width=8, teacher_width=16, classes=3, reduction=2).classifier
        Linear(in_features=16, out_features=3, bias=True)
    """
    body = _drop_output_layer(model)
    projector = make_projector(width, teacher_width, reduction, maps=size is not None)
    # Without initial numbers: they would be drawn in vain, and change what is drawn after them.
    classifier = nn.utils.skip_init(nn.Linear, teacher_width, classes, bias=bias)
    return ReusedClassifier(body, at, None if size is None else (size[0], size[1]), projector, classifier)


def _drop_output_layer(body: nn.Module) -> nn.Module:
    """The student with the identity in place of its own output layer, which is not shipped."""
    found = find_output_layer(body)
    if found is None:
        return body
    parent, _, name = found[0].rpartition(".")
    if not name:  # the model is the layer
        return nn.Identity()
    setattr(body.get_submodule(parent), name, nn.Identity())
    return body
