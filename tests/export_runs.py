"""Helpers: finished runs for the tests of exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import limbeck as lb
from small_jobs import Typed, blobs, forked, small_job

OWN = '''
import copy
import torch
from torch import nn
import limbeck as lb
from limbeck.functional import cross_entropy


class Net(nn.Module):
    """A network of a person's own that returns a dict."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.out = nn.Linear(12, classes)

    def forward(self, x):
        return {"logits": self.out(self.body(x)), "features": self.body(x)}


class Branching(Net):
    """Its way depends on the values that it sees."""

    def forward(self, x):
        if x.sum() > 0:
            x = x * 2
        return self.out(self.body(x))


def build(classes):
    return Net(classes)


def branching(classes):
    return Branching(classes)


class Fixed(nn.Module):
    """A body, a projector that was learnt, and the teacher's own last layer: what SimKD ships."""

    def __init__(self, body, projector, last):
        super().__init__()
        self.body, self.projector, self.last = body, projector, copy.deepcopy(last).requires_grad_(False)

    def forward(self, x):
        return self.last(self.projector(self.body(x)))


def borrowed(teacher):
    """Learn a projector in front of the teacher's classifier, and ship body, projector and classifier."""

    def head(models):
        last = teacher.model.classifier
        return Fixed(models["student"].body, nn.Linear(12, last.in_features), last)

    return lb.Recipe(
        lb.Stage(lb.Loss(cross_entropy), trains="whole", teacher=teacher), makes={"whole": head}, ship="whole"
    )
'''


def finished(folder: Path, **changes: Any) -> Path:
    """The folder of a small job that was done, one seed and no controls."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = changes.pop("classes", 5)
    test = changes.pop("test", 60)
    data = blobs(folder / "blobs.npz", classes=classes, test=test)
    (folder / "own.py").write_text(OWN)
    asked = small_job(data, **{"seeds": 1, "arms": ["teacher", "distilled"], "out": str(folder / "run"), **changes})
    lb.run_job(lb.make_job(asked))
    return folder / "run"


def front(found: Any) -> tuple[dict[str, Any], str]:
    """The first lines of an export's card, and the whole of it."""
    folder = found.path if found.path.is_dir() else found.path.parent
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1]), text


_ALONE = """
import runpy, sys
for name in [*sys.modules]:
    if name.partition(".")[0] == "limbeck":
        sys.modules[name] = None
sys.modules["limbeck"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def read_alone(folder: Path, *words: Any, fresh: bool = False) -> Typed:
    """How an export's read.py ends in a process that cannot import limbeck; `fresh` as for `forked`."""
    done = forked("-c", _ALONE, folder / "read.py", *words, cwd=folder, fresh=fresh)
    assert done.code == 0, done.err
    return done
