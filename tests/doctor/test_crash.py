"""A bug in a check is reported as a crash of the check, and not as a fault of the job."""

from __future__ import annotations

import logging

import pytest
from torch import nn

from limbeck.doctor import run_checks
from limbeck.errors import LimbeckError
from patients import findings, student


def broken(context):
    raise AttributeError("no attribute 'lables'")


@pytest.mark.parametrize(("table", "name"), [("OF_JOB", "inputs"), ("OF_STAGE", "gradient")])
def test_a_bug_in_a_check_is_a_crash_with_its_traceback_in_the_log(monkeypatch, caplog, table, name):
    monkeypatch.setattr(run_checks, table, {name: broken})
    with caplog.at_level(logging.DEBUG, logger="limbeck"):
        found = findings()
    assert found[name].state == "crash"
    assert "AttributeError: no attribute 'lables'" in found[name].sentence
    assert {one.state for one in found.values() if one.name != name} == {"ok"}
    (record,) = caplog.records
    assert record.exc_info[0] is AttributeError


def test_a_bug_in_the_steps_is_a_crash(monkeypatch):
    monkeypatch.setattr(run_checks, "size_in_bytes", None)
    one = findings()["further steps"]
    assert one.state == "crash"
    assert "TypeError" in one.sentence


def test_what_the_job_raises_itself_is_wrong(monkeypatch):
    class FailsLater(nn.Module):
        """A student that fails at its fifth call."""

        def __init__(self):
            super().__init__()
            self.inner, self.calls = student(), 0

        def forward(self, inputs):
            self.calls += 1
            if self.calls > 4:
                raise KeyError("fifth")
            return self.inner(inputs)

    monkeypatch.setattr(run_checks, "OF_STAGE", {})
    one = findings(trainer=FailsLater)["further steps"]
    assert (one.state, "KeyError" in one.sentence) == ("wrong", True)

    def refused(context):
        raise LimbeckError("no such layer")

    monkeypatch.setattr(run_checks, "OF_JOB", {"inputs": refused})
    assert findings()["inputs"].state == "wrong"
