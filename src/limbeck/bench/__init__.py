"""Our speed beside others', measured in one run."""

from limbeck.bench.agreement import Apart, check_agreement, distance
from limbeck.bench.cache import bench_cache
from limbeck.bench.coverage import bench_coverage
from limbeck.bench.engine import engine_blocks
from limbeck.bench.interleave import Times, interleave
from limbeck.bench.judging import bench_judging
from limbeck.bench.kernels import bench_kernels
from limbeck.bench.loop import bench_loop
from limbeck.bench.pictures import PictureSizes, bench_pictures
from limbeck.bench.plain import plain_blocks
from limbeck.bench.work import Blocks, Plan, Sizes, Work, make_work

__all__ = [
    "Apart",
    "Blocks",
    "PictureSizes",
    "Plan",
    "Sizes",
    "Times",
    "Work",
    "bench_cache",
    "bench_coverage",
    "bench_judging",
    "bench_kernels",
    "bench_loop",
    "bench_pictures",
    "check_agreement",
    "distance",
    "engine_blocks",
    "interleave",
    "make_work",
    "plain_blocks",
]
