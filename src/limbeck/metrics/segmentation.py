"""Metrics of segmentation: pixel counts by image and class, mean IoU, pixel accuracy."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from jaxtyping import Int, Integer
from torch import Tensor

from limbeck.metrics.metric import Metric, MetricFunction, Needed, mean_of_all, metric, require_fields, valid_rows


class PixelCounts(NamedTuple):
    """Counts of pixels, which are all that metrics of segmentation need: logits of whole data sets are never held.

    Attributes:
        labels: For each image and class: pixels that are right, pixels that are predicted, and pixels of the class;
            pixels without a label do not count (`count_pixels`).
        log_loss: The sum of ``-log q_y`` over labeled pixels, in nats.
        teacher: The number of pixels on which student and teacher predict the same class, and the number of all pixels.
    """

    labels: Int[Tensor, "n 3 classes"] | None = None
    log_loss: float | None = None
    teacher: tuple[int, int] | None = None


@valid_rows.register
def _(counts: PixelCounts, name: str, requires: tuple[Needed, ...]) -> PixelCounts:
    require_fields(counts, name, requires)
    return counts


def count_pixels(
    predicted: Integer[Tensor, "n height width"],
    labels: Integer[Tensor, "n height width"],
    classes: int,
    *,
    ignored: int,
) -> Int[Tensor, "n 3 classes"]:
    """Count, for each image and class, right pixels, predicted pixels, and pixels of the class.

    Args:
        predicted: The predicted classes.
        labels: The true classes, `ignored` for none; such pixels count nowhere.
        classes: The number of classes.
        ignored: The value of pixels without a label.

    Example:
        >>> count_pixels(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), 2, ignored=255).tolist()
        [[[1, 0], [1, 1], [2, 0]]]
    """
    counts = torch.zeros(len(predicted), 3, classes, dtype=torch.int64)
    for image, (guess, truth) in enumerate(zip(predicted.flatten(1), labels.flatten(1), strict=True)):
        labeled = truth != ignored
        guess, truth = guess[labeled].long(), truth[labeled].long()
        for row, values in enumerate((truth[guess == truth], guess, truth)):
            counts[image, row] = values.bincount(minlength=classes)[:classes]
    return counts


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def miou(counts: PixelCounts) -> Metric:
    """Compute the mean IoU: the mean over classes of intersection / union, both summed over all images.

    Classes that are neither predicted nor true are left out. NaN if no pixel has a label. It is not a mean over pixels.

    Example:
        >>> miou(PixelCounts(torch.tensor([[[1, 0], [1, 1], [2, 0]]]))).value
        0.25

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge, 2010.
    """
    right, predicted, true = cast(Tensor, counts.labels).sum(0).double()
    union = predicted + true - right
    value = float((right / union)[union > 0].mean()) if bool((union > 0).any()) else float("nan")
    return mean_of_all(value, int(true.sum()))


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def pixel_accuracy(counts: PixelCounts) -> Metric:
    """Compute the fraction of labeled pixels that are right.

    Example:
        >>> pixel_accuracy(PixelCounts(torch.tensor([[[1, 0], [1, 1], [2, 0]]]))).value
        0.5
    """
    right, _, true = cast(Tensor, counts.labels).sum(0)
    return Metric(float(right.sum()), int(true.sum()))


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def class_pixel_accuracy(counts: PixelCounts) -> Metric:
    """Compute the mean over classes of the fraction of their pixels that are right.

    Classes without pixels are left out.
    """
    right, _, true = cast(Tensor, counts.labels).sum(0).double()
    return Metric(float((right / true)[true > 0].sum()), int((true > 0).sum()))


@metric(unit="nats", higher_is_better=False, requires=("labels", "log_loss"))
def pixel_nll(counts: PixelCounts) -> Metric:
    """Compute the mean negative log-likelihood of the labeled pixels."""
    return Metric(cast(float, counts.log_loss), int(cast(Tensor, counts.labels)[:, 2].sum()))


@metric(unit="fraction", higher_is_better=True, requires=("teacher",))
def pixel_agreement(counts: PixelCounts) -> Metric:
    """Compute the fraction of all pixels on which student and teacher predict the same class.

    Example:
        >>> pixel_agreement(PixelCounts(teacher=(3, 4))).value
        0.75
    """
    same, pixels = cast(tuple[int, int], counts.teacher)
    return Metric(float(same), pixels)


SEGMENTATION_METRICS: dict[str, MetricFunction] = {
    function.__name__: function for function in (miou, pixel_accuracy, class_pixel_accuracy, pixel_nll, pixel_agreement)
}
"""All metrics of segmentation by name."""
