"""Optional extra metrics of a job (`also:`), measured after training."""

from limbeck.compare.extra_metrics.context import MetricContext
from limbeck.compare.extra_metrics.measurement import check_also, measure_extra

__all__ = ["MetricContext", "check_also", "measure_extra"]
