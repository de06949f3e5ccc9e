"""How are models judged: by their predictions, and by what they cost?"""

from __future__ import annotations

from limbeck.measure.calibration import Reliability, brier, confidence, ece, entropy, mce, reliability
from limbeck.measure.changes import ClassChange, class_changes
from limbeck.measure.cost import Cost, answer_latency, cost_of, latency
from limbeck.measure.deviations import Deviations, deviations
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
from limbeck.measure.measures import MEASURES, accuracy, evaluate, nll, top5
from limbeck.measure.multi_label import MULTI_LABEL_MEASURES, MultiLabel
from limbeck.measure.predictions import Predictions, predict, predict_with_teacher
from limbeck.measure.regression import REGRESSION_MEASURES, Estimates

__all__ = [
    "MEASURES",
    "MULTI_LABEL_MEASURES",
    "REGRESSION_MEASURES",
    "ClassChange",
    "Cost",
    "Deviations",
    "Estimates",
    "Group",
    "Measure",
    "MeasureFunction",
    "MultiLabel",
    "Predictions",
    "Reliability",
    "accuracy",
    "agreement",
    "agreement_where_teacher_wrong",
    "answer_latency",
    "brier",
    "class_accuracy",
    "class_changes",
    "confidence",
    "confidence_deviation",
    "confidence_slope",
    "confusion_matrix",
    "cost_of",
    "deviations",
    "ece",
    "entropy",
    "evaluate",
    "group_accuracy",
    "keep_tensors",
    "kept_tensors",
    "kl_to_teacher",
    "latency",
    "mce",
    "measure",
    "nll",
    "predict",
    "predict_with_teacher",
    "relative_calibration",
    "reliability",
    "reverse_kl_to_teacher",
    "top5",
    "worst_class_accuracy",
    "worst_group",
]
