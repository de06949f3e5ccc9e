"""The summary of a dataset says what was read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from limbeck.data import ArrayDataset, ColumnSummary, load_data, silenced, summarize


def test_parts_classes_and_rows_without_a_label_are_counted():
    data = ArrayDataset(torch.zeros(5, 2), [0, 1, 1, -100, 1], class_names=("cat", "dog", "cow"))
    summary = summarize("arrays", {"train": data, "test": ArrayDataset(torch.zeros(2, 2))}, facts={"size": "2 numbers"})
    train, test = summary.parts
    assert (train.rows, train.unlabeled, train.classes) == (5, 1, (1, 3, 0))
    assert (test.rows, test.unlabeled, test.classes) == (2, 2, ())
    assert json.loads(json.dumps(summary.as_dict()))["class_names"] == ["cat", "dog", "cow"]
    said = "\n".join(summary.lines())
    for part in ("5 examples, 1 without a label", "cat (1), dog (3), cow (0)", "2 numbers"):
        assert part in said


def test_many_classes_and_many_columns_are_summed_up():
    labels = [place for place in range(40) for _ in range(place + 1)]
    columns = [ColumnSummary(f"c{place}", "number", missing=3 * (place == 70)) for place in range(100)]
    said = "\n".join(
        summarize("table", {"train": ArrayDataset(torch.zeros(len(labels), 1), labels)}, columns=columns).lines()
    )
    assert "from 1 (0) to 40 (39)" in said
    assert "100 number" in said
    assert "c70" in said
    assert "c69" not in said
    assert len(said.splitlines()) < 10


def test_load_data_fills_it_for_every_kind(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((50, 4), np.float32), y=np.arange(50) % 2)
    for data, kind in ((load_data("digits"), "images"), (load_data(tmp_path / "a.npz"), "arrays")):
        assert data.summary.kind == kind
        assert [part.rows for part in data.summary.parts] == [len(data.train), len(data.test)]
    assert "10 examples (20%) were held out" in "\n".join(data.summary.lines())


def test_silenced_holds_back_limbecks_own_warnings_alone():
    import warnings

    from limbeck.errors import LimbeckWarning

    with silenced():
        warnings.warn("held back", LimbeckWarning, stacklevel=1)
        with pytest.warns(UserWarning, match="shown"):
            warnings.warn("shown", UserWarning, stacklevel=1)
