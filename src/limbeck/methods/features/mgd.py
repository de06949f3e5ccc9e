"""MGD: from features with random holes the student generates those of the teacher (masked generative distillation)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Batch, Progress
from limbeck.errors import ArgumentError
from limbeck.functional.connectors import Pointwise, as_maps, channels
from limbeck.functional.feature_maps import pool_to
from limbeck.losses import LossContext
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.support import check_weight
from limbeck.random_seeds import counter_uniform, draw_seed
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="mgd",
    title="Masked Generative Distillation",
    authors="Yang, Li, Shao, Shi, Yuan and Yuan",
    year=2022,
    arxiv="2205.01529",
    venue="ECCV 2022",
    claim="A small generator restores the teacher's whole feature map from the student's, of which random pixels are "
    "masked. The student's features then hold what their neighbors need.",
    when="For networks with maps, at the last map before pooling; the paper also uses it for detection and "
    "segmentation. The weight is for a sum over all values: smaller maps need a larger one.",
    bibtex="""@inproceedings{yang2022masked,
  title = {Masked Generative Distillation},
  author = {Yang, Zhendong and Li, Zhe and Shao, Mingqi and Shi, Dachuan and Yuan, Zehuan and Yuan, Chun},
  booktitle = {European Conference on Computer Vision},
  year = {2022},
  eprint = {2205.01529},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="few",
    example={"at": "layer2", "student_at": "layer2"},
    ranges={"weight": SearchRange(1e-6, 0.01, log=True), "mask_ratio": SearchRange(0.1, 0.9)},
    trials=("cnn", "resnet"),
    tasks=("classification", "multi_label", "regression", "segmentation"),
)


class MaskedGeneration(FeatureTerm):
    """The squared error of the teacher's maps that are generated from masked ones of the student, summed over values.

    The masks are a function of a seed, the id of the example and the step, so that they depend neither on how a batch
    is split nor on the process. The seed is drawn when the stage begins, so it is another one in a run with another
    seed. Examples without ids get masks of the global random generator.
    """

    name = "masked_generation"
    seed: Tensor

    def __init__(self, pairs: Sequence[tuple[str, str]], *, mask_ratio: float, mask_channels: bool) -> None:
        super().__init__(pairs)
        self.mask_ratio, self.mask_channels = mask_ratio, mask_channels
        self.connectors, self.generators = nn.ModuleList(), nn.ModuleList()

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create a 1x1 convolution and a generator of two 3x3 convolutions for each pair."""
        self.connectors, self.generators = nn.ModuleList(), nn.ModuleList()
        for mine, its in zip(ours, theirs, strict=True):
            width = channels(its)
            self.connectors.append(Pointwise([channels(as_maps(mine)), width]))
            self.generators.append(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            )
        # After the layers: their weights are those of earlier versions.
        self.register_buffer("seed", draw_seed())

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The sum over the pairs of layers."""
        values = []
        for number, (mine, its, connector, generator) in enumerate(
            zip(ours, theirs, self.connectors, self.generators, strict=True)
        ):
            mine, its = as_maps(mine), as_maps(its)
            size = (min(mine.shape[2], its.shape[2]), min(mine.shape[3], its.shape[3]))
            connected, its = connector(pool_to(mine, size)), pool_to(its, size)
            kept = self._draw_mask(connected, batch, progress, number)
            values.append((generator(connected * kept) - its).square().flatten(1).sum(1))
        return torch.stack(values).sum(0)

    def _draw_mask(self, maps: Tensor, batch: Batch, progress: Progress, number: int) -> Tensor:
        """1 where a value is kept, 0 where it is masked; a mask of pixels is the same for all channels."""
        shape = (maps.shape[1], 1, 1) if self.mask_channels else (1, *maps.shape[2:])
        draws = math.prod(shape)
        if batch.id is None:
            uniform = torch.rand(len(maps), draws, device=maps.device)
        else:
            step = torch.full_like(batch.id, progress.step)
            uniform = counter_uniform(batch.id, step, seed=int(self.seed), draws=draws, stream=f"mgd {number}")
        return (uniform >= self.mask_ratio).to(maps).reshape(len(maps), *shape)

    def __repr__(self) -> str:
        masks = f"mask_ratio={self.mask_ratio}, mask_channels={self.mask_channels}"
        return f"MaskedGeneration({list(self.pairs)}, {masks})"


@validates_arguments
def mgd(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 7e-5,
    mask_ratio: float = 0.5,
    mask_channels: bool = False,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and generate the teacher's maps: :math:`L_{task} + \alpha \sum (T - G(f(S) \cdot M))^2`.

    M masks each pixel with probability :math:`\lambda`, newly at every step. f is a learned 1x1 convolution and G a
    generator, a 3x3 convolution, a ReLU and a 3x3 convolution; both are dropped after training.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers with maps, one name or a list.
        student_at: The student's layers, in the same order.
        weight: Alpha, at least 0; in the paper 7e-5 for classification. The error is a sum over all values of a map.
        mask_ratio: Lambda, the share of masked pixels, from 0 to below 1; 0.5 in the paper for classification.
        mask_channels: Whether to mask whole channels in place of pixels, as the authors' code for classification does.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, `weight` is negative, or `mask_ratio` is out of range.

    Example:
        >>> recipe = mgd(nn.Linear(4, 3), at="layer2", student_at="layer2")
        >>> [sorted(stage.objective.named_leaves()) for stage in recipe.stages()]
        [['cross_entropy', 'masked_generation']]

    Source: Yang et al., 2022, arXiv:2205.01529, section 3.
    """
    check_weight(weight=weight)
    if not 0 <= mask_ratio < 1:
        raise ArgumentError(
            f"mask_ratio is a number from 0 to below 1; got {mask_ratio!r}. With 1 nothing would be left.",
            argument="mask_ratio",
        )
    generation = MaskedGeneration(pair_layers(at, student_at), mask_ratio=mask_ratio, mask_channels=mask_channels)
    objective = CARD.get_task(task).supervised_loss() + weight * generation
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="mgd"))
