"""How are models judged: by their predictions, and by what they cost?"""

from __future__ import annotations

from limbeck.measure.calibration import Reliability, brier, confidence, ece, entropy, mce, reliability
from limbeck.measure.changes import ClassChange, class_changes
from limbeck.measure.cka import LayerCKA, layer_cka, linear_cka
from limbeck.measure.compute import macs, peak_bytes
from limbeck.measure.corruptions import CORRUPTIONS, corrupt
from limbeck.measure.cost import Cost, answer_latency, cost_of, latency
from limbeck.measure.cost_in_full import CostInFull, Latency, cost_in_full, disk_bytes, latencies
from limbeck.measure.deviations import Deviations, deviations
from limbeck.measure.difference import (
    Difference,
    compare_accuracies,
    compare_scores,
    interval_parts,
    paired_difference,
)
from limbeck.measure.faithful import ConfidenceGap, confidence_gap
from limbeck.measure.fidelity import (
    agreement,
    agreement_where_teacher_wrong,
    confidence_deviation,
    confidence_slope,
    kl_to_teacher,
    relative_calibration,
    reverse_kl_to_teacher,
)
from limbeck.measure.groups import (
    Group,
    class_accuracy,
    confusion_matrix,
    group_accuracy,
    worst_class_accuracy,
    worst_group,
)
from limbeck.measure.kept import keep_tensors, kept_tensors
from limbeck.measure.measurement import Measure, MeasureFunction, measure
from limbeck.measure.measures import MEASURES, accuracy, correctness, evaluate, nll, top5
from limbeck.measure.multi_label import MULTI_LABEL_MEASURES, MultiLabel
from limbeck.measure.own import evaluate_metrics, open_metrics
from limbeck.measure.predictions import Predictions, predict, predict_with_teacher
from limbeck.measure.regression import REGRESSION_MEASURES, Estimates
from limbeck.measure.robustness import Robustness, robustness

__all__ = [
    "CORRUPTIONS",
    "MEASURES",
    "MULTI_LABEL_MEASURES",
    "REGRESSION_MEASURES",
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
    "Measure",
    "MeasureFunction",
    "MultiLabel",
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
    "deviations",
    "disk_bytes",
    "ece",
    "entropy",
    "evaluate",
    "evaluate_metrics",
    "group_accuracy",
    "interval_parts",
    "keep_tensors",
    "kept_tensors",
    "kl_to_teacher",
    "latencies",
    "latency",
    "layer_cka",
    "linear_cka",
    "macs",
    "mce",
    "measure",
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
    "top5",
    "worst_class_accuracy",
    "worst_group",
]
