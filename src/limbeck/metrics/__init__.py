"""Metrics of predictions, of layers and of cost, and the statistics of their differences."""

from __future__ import annotations

from limbeck.metrics.calibration import Reliability, brier, confidence, ece, entropy, mce, reliability
from limbeck.metrics.cka import LayerCKA, layer_cka, linear_cka
from limbeck.metrics.class_changes import ClassChange, class_changes
from limbeck.metrics.classification import METRICS, accuracy, correctness, evaluate, nll, top5
from limbeck.metrics.compute import macs, peak_bytes
from limbeck.metrics.confidence_deviation import Deviations, deviations
from limbeck.metrics.confidence_gap import ConfidenceGap, confidence_gap
from limbeck.metrics.corruptions import CORRUPTIONS, Robustness, corrupt, robustness
from limbeck.metrics.cost import (
    Cost,
    CostInFull,
    Latency,
    answer_latency,
    cost_in_full,
    cost_of,
    disk_bytes,
    latencies,
    latency,
)
from limbeck.metrics.fidelity import (
    agreement,
    agreement_where_teacher_wrong,
    confidence_deviation,
    confidence_slope,
    kl_to_teacher,
    relative_calibration,
    reverse_kl_to_teacher,
)
from limbeck.metrics.groups import (
    Group,
    class_accuracy,
    confusion_matrix,
    group_accuracy,
    worst_class_accuracy,
    worst_group,
)
from limbeck.metrics.metric import Metric, MetricFunction, metric
from limbeck.metrics.multi_label import MULTI_LABEL_METRICS, MultiLabelPredictions
from limbeck.metrics.predictions import (
    Predictions,
    iterate_logits,
    load_tensors,
    predict,
    predict_with_teacher,
    save_tensors,
)
from limbeck.metrics.regression import REGRESSION_METRICS, Estimates
from limbeck.metrics.segmentation import SEGMENTATION_METRICS, PixelCounts, count_pixels
from limbeck.metrics.statistics import Difference, compare_accuracies, compare_scores, interval_parts, paired_difference
from limbeck.metrics.user_metrics import evaluate_metrics, open_metrics

__all__ = [
    "CORRUPTIONS",
    "METRICS",
    "MULTI_LABEL_METRICS",
    "REGRESSION_METRICS",
    "SEGMENTATION_METRICS",
    "ClassChange",
    "ConfidenceGap",
    "Cost",
    "CostInFull",
    "Deviations",
    "Difference",
    "Estimates",
    "Group",
    "Latency",
    "LayerCKA",
    "Metric",
    "MetricFunction",
    "MultiLabelPredictions",
    "PixelCounts",
    "Predictions",
    "Reliability",
    "Robustness",
    "accuracy",
    "agreement",
    "agreement_where_teacher_wrong",
    "answer_latency",
    "brier",
    "class_accuracy",
    "class_changes",
    "compare_accuracies",
    "compare_scores",
    "confidence",
    "confidence_deviation",
    "confidence_gap",
    "confidence_slope",
    "confusion_matrix",
    "correctness",
    "corrupt",
    "cost_in_full",
    "cost_of",
    "count_pixels",
    "deviations",
    "disk_bytes",
    "ece",
    "entropy",
    "evaluate",
    "evaluate_metrics",
    "group_accuracy",
    "interval_parts",
    "iterate_logits",
    "kl_to_teacher",
    "latencies",
    "latency",
    "layer_cka",
    "linear_cka",
    "load_tensors",
    "macs",
    "mce",
    "metric",
    "nll",
    "open_metrics",
    "paired_difference",
    "peak_bytes",
    "predict",
    "predict_with_teacher",
    "relative_calibration",
    "reliability",
    "reverse_kl_to_teacher",
    "robustness",
    "save_tensors",
    "top5",
    "worst_class_accuracy",
    "worst_group",
]
