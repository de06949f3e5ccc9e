"""Benchmarks of limbeck, run by `make bench`."""

from benchmarks.agreement import Apart, check_agreement, distance
from benchmarks.cache import bench_cache
from benchmarks.card_kernels import bench_card_kernels
from benchmarks.coverage import bench_coverage
from benchmarks.engine_loop import engine_blocks
from benchmarks.head import bench_head
from benchmarks.images import ImageSizes, bench_images
from benchmarks.interleave import Times, interleave
from benchmarks.judging import bench_judging
from benchmarks.kernels import bench_kernels
from benchmarks.lm_step import LanguageSizes, bench_lm_step
from benchmarks.loop import bench_loop
from benchmarks.networks import bench_networks
from benchmarks.on_policy import OnPolicySizes, bench_on_policy
from benchmarks.peer_kernels import bench_peer_kernels
from benchmarks.plain_loop import plain_blocks
from benchmarks.several import bench_several
from benchmarks.token_bytes import bench_token_bytes
from benchmarks.tokenizers import TokenizerSizes, bench_tokenizers
from benchmarks.workload import Blocks, Plan, Sizes, Work, make_work

__all__ = [
    "Apart",
    "Blocks",
    "ImageSizes",
    "LanguageSizes",
    "OnPolicySizes",
    "Plan",
    "Sizes",
    "Times",
    "TokenizerSizes",
    "Work",
    "bench_cache",
    "bench_card_kernels",
    "bench_coverage",
    "bench_head",
    "bench_images",
    "bench_judging",
    "bench_kernels",
    "bench_lm_step",
    "bench_loop",
    "bench_networks",
    "bench_on_policy",
    "bench_peer_kernels",
    "bench_several",
    "bench_token_bytes",
    "bench_tokenizers",
    "check_agreement",
    "distance",
    "engine_blocks",
    "interleave",
    "make_work",
    "plain_blocks",
]
