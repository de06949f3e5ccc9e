"""How are models judged: by their predictions, and by what they cost?"""

from __future__ import annotations

from limbeck.measure.cost import Cost, answer_latency, cost_of, latency
from limbeck.measure.kept import keep_tensors, kept_tensors
from limbeck.measure.measures import (
    MEASURES,
    Measure,
    MeasureFunction,
    accuracy,
    agreement,
    ece,
    evaluate,
    kl_to_teacher,
    measure,
    nll,
    top5,
)
from limbeck.measure.predictions import Predictions, predict, predict_with_teacher

__all__ = [
    "MEASURES",
    "Cost",
    "Measure",
    "MeasureFunction",
    "Predictions",
    "accuracy",
    "agreement",
    "answer_latency",
    "cost_of",
    "ece",
    "evaluate",
    "keep_tensors",
    "kept_tensors",
    "kl_to_teacher",
    "latency",
    "measure",
    "nll",
    "predict",
    "predict_with_teacher",
    "top5",
]
