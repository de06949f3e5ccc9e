"""The losses of other toolkits are ours up to the stated differences; optional: pip install -e '.[peers]'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.peer_losses import PEER_LOSSES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "peers.md"


@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
@pytest.mark.parametrize("name", PEER_LOSSES)
def test_a_loss_of_another_toolkit_is_ours_up_to_the_stated_difference(name):
    loss = PEER_LOSSES[name]
    try:
        theirs = loss.load()
    except ImportError as error:
        pytest.skip(f"{loss.package} is not installed ({error}): pip install -e '.[peers]'")
    student, teacher, labels = loss.draw(loss.small, dtype=torch.float64)
    value = theirs(student, teacher, labels)
    expected = loss.expect(loss.ours(student, teacher, labels), student, teacher, labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    slopes = [torch.autograd.grad(one, student)[0] for one in (value, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)
    if not loss.difference:
        torch.testing.assert_close(value, loss.ours(student, teacher, labels), rtol=1e-6, atol=1e-9)


def test_the_page_names_every_difference():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for loss in PEER_LOSSES.values():
        assert loss.name in text, f"docs/peers.md has no row for {loss.package} {loss.name}"
        assert (loss.difference or "the same value and gradient") in text, loss.difference
