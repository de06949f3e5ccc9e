"""Benchmark of images: `ResizedCrop` beside torchvision's, and decoding beside a busy device."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.interleave import paired_quartiles, paired_ratio
from benchmarks.workload import check_counts
from limbeck.batch import Batch
from limbeck.data import Flip, ImageFolder, ResizedCrop, ShuffledLoader
from limbeck.errors import LimbeckError


@dataclass(frozen=True)
class ImageSizes:
    """The sizes of the benchmark; the defaults are those of the figures in the documentation.

    Attributes:
        images: Number of images in one timed pass of the crop.
        height: Height of these images in pixels.
        width: Width of these images in pixels.
        crop: Height and width of the crops.
        rounds: Number of timed passes of each library.
        files: Number of images in the folder.
        side: Height and width of these images.
        batch_size: Number of images in a batch.
        pause: Time of the simulated device for a batch, in milliseconds.
    """

    images: int = 64
    height: int = 256
    width: int = 256
    crop: int = 224
    rounds: int = 15
    files: int = 5_000
    side: int = 64
    batch_size: int = 64
    pause: int = 60

    def __post_init__(self) -> None:
        check_counts(self)


def bench_images(
    *,
    sizes: ImageSizes | None = None,
    torchvision_python: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare random resized crops with torchvision's, and time the loading of an image folder for a busy device.

    The crops are of bytes, image by image with torchvision and batch by batch with limbeck, with one thread each, in
    turn; torchvision runs in a separate process. The device is simulated by a pause; the measurement is the share of
    the total time in which it waits for the loader. The same folder is read by PyTorch's DataLoader with two worker
    processes.

    Args:
        sizes: The sizes.
        torchvision_python: A Python interpreter with torchvision; by default this one.
        say: Gets messages about the progress.

    Returns:
        ``resized_crop_over_torchvision``: the median over rounds of limbeck's processor time over torchvision's; None
        without torchvision, with the reason in ``torchvision``. ``resized_crop_quartiles``,
        ``resized_crop_milliseconds`` per image.
        ``same_bits``: the fraction of batches that are bitwise equal with any number of threads, and after resuming in
        the middle of an epoch. ``waiting``: the share of the time that a busy device waits for the folder, from 0 to 1;
        ``waiting_no_workers`` and ``waiting_data_loader`` likewise; ``num_workers``. And ``torch``.

    Raises:
        LimbeckError: If Pillow is not installed, or a size is below 1.
    """
    chosen = sizes or ImageSizes()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        say(f"{chosen.rounds} x {chosen.images} crops of {chosen.height}x{chosen.width} to {chosen.crop} pixels")
        result = _crops(chosen, torchvision_python or sys.executable)
        with tempfile.TemporaryDirectory() as place:
            say(f"A folder of {chosen.files} pictures beside a device that takes {chosen.pause} ms a batch")
            result |= _folder(chosen, _pictures(Path(place), chosen))
    finally:
        torch.set_num_threads(before)
    return result | {"torch": torch.__version__}


def _crops(sizes: ImageSizes, python: str) -> dict[str, Any]:
    images = torch.randint(0, 256, (sizes.images, 3, sizes.height, sizes.width), dtype=torch.uint8)
    crop, ids, own, others = ResizedCrop(sizes.crop), torch.arange(sizes.images), list[float](), list[float]()
    with _torchvision(sizes, python) as (version, peer):
        for number in range(sizes.rounds + 1):
            began = time.process_time()
            crop(images, ids, torch.full_like(ids, number))
            own.append(time.process_time() - began)
            if peer is not None:
                others.append(next(peer))
    own, others = own[1:], others[1:]
    figures: dict[str, Any] = {"resized_crop_over_torchvision": None, "torchvision": version}
    figures["resized_crop_milliseconds"] = round(1000 * float(np.median(own)) / sizes.images, 3)
    if others:
        figures["resized_crop_over_torchvision"] = round(paired_ratio(own, others), 3)
        figures["resized_crop_quartiles"] = [round(one, 3) for one in paired_quartiles(own, others)]
        figures["torchvision_milliseconds"] = round(1000 * float(np.median(others)) / sizes.images, 3)
    return figures


@contextmanager
def _torchvision(sizes: ImageSizes, python: str) -> Iterator[tuple[str, Iterator[float] | None]]:
    """Torchvision's version and an iterator over the seconds of its passes; without it, the reason and None."""
    script = str(Path(__file__).with_name("torchvision_crop.py"))
    numbers = [str(number) for number in (sizes.images, sizes.height, sizes.width, sizes.crop)]
    try:
        # -P: do not import from the script's folder, where modules may have the names of installed ones.
        process = subprocess.Popen(
            [python, "-P", script, *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    except OSError as error:
        raise LimbeckError(f"The interpreter {python!r} cannot be started ({error}).") from error
    with process:
        requests, answers, errors = process.stdin, process.stdout, process.stderr
        if requests is None or answers is None or errors is None:  # for the type checker: these are always pipes
            raise LimbeckError(f"The interpreter {python!r} has no pipes.")
        version = answers.readline().strip()
        if not version:
            last = errors.read().strip().splitlines()[-1:]
            yield f"not measured: {' '.join(last)}", None
            return
        yield version, _passes(requests, answers)
        requests.close()


def _passes(ask: Any, answers: Any) -> Iterator[float]:
    while True:
        ask.write("again\n")
        ask.flush()
        yield float(answers.readline())


def _pictures(place: Path, sizes: ImageSizes) -> ImageFolder:
    try:
        from PIL import Image
    except ImportError as error:
        raise LimbeckError("The benchmark of pictures needs Pillow: pip install 'limbeck[image]'.") from error
    for label in range(10):
        (place / str(label)).mkdir()
    for number in range(sizes.files):
        pixels = np.random.default_rng(number).integers(0, 255, (sizes.side, sizes.side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / str(number % 10) / f"{number}.png")
    return ImageFolder(place)


def _folder(sizes: ImageSizes, folder: ImageFolder) -> dict[str, Any]:
    def make_loader(num_workers: int | None) -> ShuffledLoader:
        return ShuffledLoader(folder, batch_size=sizes.batch_size, augment=Flip(), num_workers=num_workers)

    loader: Any = DataLoader(_Items(folder), batch_size=sizes.batch_size, shuffle=True, num_workers=2)
    return {
        "waiting": round(_waiting(make_loader(None), sizes.pause), 4),
        "waiting_no_workers": round(_waiting(make_loader(0), sizes.pause), 4),
        "waiting_data_loader": round(_waiting(loader, sizes.pause), 4),
        "num_workers": make_loader(None).num_workers,
        "same_bits": _same_bits(make_loader),
    }


class _Items(Dataset[tuple[Tensor, int]]):
    """The folder as a PyTorch dataset."""

    def __init__(self, folder: ImageFolder) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        batch = self.folder.take(torch.tensor([place]))
        return batch.inputs[0], int(self.folder.labels[place])


def _waiting(batches: Iterable[Any], pause: int) -> float:
    """The fraction of an epoch's time in which the device waits."""
    computed, began = 0.0, time.perf_counter()
    for _ in batches:
        start = time.perf_counter()
        time.sleep(pause / 1000)
        computed += time.perf_counter() - start
    return 1 - computed / (time.perf_counter() - began)


def _same_bits(make_loader: Callable[[int | None], ShuffledLoader]) -> float:
    """The fraction of equal batches without threads, with several threads, and after resuming in the middle."""
    half, whole = len(make_loader(0)) // 2, make_loader(3)
    first_half = [batch for batch, _ in zip(whole, range(half), strict=False)]
    rest = make_loader(2)
    rest.load_state_dict({"epoch": 0, "batch": len(first_half)})
    resumed = [*first_half, *rest]
    return sum(_alike(one, other) for one, other in zip(make_loader(0), resumed, strict=True)) / len(resumed)


def _alike(one: Batch, other: Batch) -> bool:
    pairs = [(one.inputs, other.inputs), (one.id, other.id), (one.view, other.view), (one.labels, other.labels)]
    return all(torch.equal(a, b) for a, b in pairs)
