"""Arrays become datasets without copies; invalid ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import ArrayDataset
from limbeck.errors import DataError

IMAGES = torch.randint(0, 256, (10, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 3


def test_take_gathers_rows_of_every_column():
    data = ArrayDataset(
        IMAGES,
        LABELS,
        mask=torch.arange(10) > 3,
        extra={"raw": np.arange(20.0).reshape(10, 2), "text": [f"t{i}" for i in range(10)]},
        class_names=["a", "b", "c"],
    )
    batch = data.take(torch.tensor([7, 2]))
    assert torch.equal(batch.inputs, IMAGES[[7, 2]])
    assert batch.inputs.dtype == torch.uint8
    assert batch.id.tolist() == [7, 2]
    assert batch.view is None
    assert batch.labels.tolist() == [1, 2]
    assert batch.labels.dtype == torch.int64
    assert batch.mask.tolist() == [True, False]
    assert batch.extra["raw"].tolist() == [[14.0, 15.0], [4.0, 5.0]]
    assert batch.extra["text"] == ["t7", "t2"]
    assert len(data) == 10
    assert data.class_names == ("a", "b", "c")


def test_tuples_and_mappings_of_inputs_stay_what_they_are():
    pair = ArrayDataset((IMAGES, LABELS.float())).take(torch.tensor([1]))
    assert [tuple(part.shape) for part in pair.inputs] == [(1, 4, 4), (1,)]
    named = ArrayDataset({"image": IMAGES, "n": LABELS}).take(torch.tensor([1, 5]))
    assert named.inputs["n"].tolist() == [1, 2]


def test_arrays_are_not_copied():
    array = np.zeros((6, 3), np.uint8)
    data = ArrayDataset(array)
    array[4] = 9
    assert data.take(torch.tensor([4])).inputs.tolist() == [[9, 9, 9]]


def test_a_memory_map_stays_one_and_does_not_warn(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    found = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = ArrayDataset(found)
    assert data.take(torch.tensor([5])).inputs.tolist() == [[10.0, 11.0]]
    assert data._inputs.data_ptr() == found.ctypes.data


@pytest.mark.parametrize("array", [np.arange(8.0)[::-1], np.arange(8, dtype=">i4"), np.arange(8, dtype=np.uint16)])
def test_unusual_arrays_keep_their_values(array):
    found = ArrayDataset(array).take(torch.tensor([0, 7])).inputs
    assert found.tolist() == [array[0], array[7]]


def test_labels_become_int64():
    for labels in (LABELS.numpy().astype(np.uint8), LABELS.double(), LABELS.tolist(), LABELS.to(torch.int16)):
        found = ArrayDataset(IMAGES, labels).labels
        assert found.dtype == torch.int64
        assert torch.equal(found, LABELS)
    assert ArrayDataset(IMAGES, torch.full((10,), -100)).labels.tolist() == [-100] * 10
    assert ArrayDataset(IMAGES, torch.zeros(10)).labels.tolist() == [0] * 10
    assert ArrayDataset(IMAGES).labels is None


def test_the_fingerprint_is_the_content():
    base = ArrayDataset(IMAGES, LABELS).fingerprint
    assert len(base) == 64
    assert base == ArrayDataset(IMAGES.numpy(), LABELS.numpy().astype(np.uint8)).fingerprint
    changed = IMAGES.clone()
    changed[9, 3, 3] ^= 1
    others = [
        ArrayDataset(changed, LABELS),
        ArrayDataset(IMAGES),
        ArrayDataset(IMAGES.view(10, 16), LABELS),
        ArrayDataset(IMAGES.to(torch.int16), LABELS),
        ArrayDataset(IMAGES, LABELS, mask=torch.ones(10)),
        ArrayDataset(IMAGES, LABELS, class_names="abc"),
        ArrayDataset(IMAGES, LABELS, extra={"t": list("abcdefghij")}),
        ArrayDataset((IMAGES,), LABELS),
    ]
    assert len({base, *(data.fingerprint for data in others)}) == 9


def test_the_fingerprint_reads_the_bytes_once():
    array = np.zeros((3, 2))
    data = ArrayDataset(array)
    before = data.fingerprint
    array[0, 0] = 1
    assert data.fingerprint == before
    assert ArrayDataset(array).fingerprint != before


def test_the_fingerprint_of_strided_and_narrow_floats_is_that_of_their_rows():
    wide = torch.randn(6, 4, 5)
    assert ArrayDataset(wide.transpose(1, 2)).fingerprint == ArrayDataset(wide.transpose(1, 2).contiguous()).fingerprint
    assert len(ArrayDataset(wide.bfloat16()).fingerprint) == 64


NAN = np.zeros((5, 2))
NAN[3, 1], NAN[4, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ArrayDataset(torch.zeros(0, 3)), "no examples"),
        (lambda: ArrayDataset(()), "inputs is empty"),
        (lambda: ArrayDataset(torch.tensor(3.0)), "single number"),
        (lambda: ArrayDataset([[1.0]]), "inputs is a list"),
        (lambda: ArrayDataset(IMAGES, LABELS[:9]), "inputs has 10, labels has 9"),
        (lambda: ArrayDataset((IMAGES, LABELS[:4])), r"inputs\[0\] has 10, inputs\[1\] has 4"),
        (lambda: ArrayDataset(IMAGES, extra={"raw": [1]}), "raw.* has 1"),
        (lambda: ArrayDataset(NAN), "NaN or infinity in 2 of 5 rows, first in row 3"),
        (lambda: ArrayDataset({"a": NAN}), r"inputs\['a'\] contains NaN"),
        (lambda: ArrayDataset(torch.tensor([1.0, float("nan")])), "1 of 2 rows, first in row 1"),
        (lambda: ArrayDataset(np.array([{}, None])), "Python objects"),
        (lambda: ArrayDataset(np.array(["a"])), "text"),
        (lambda: ArrayDataset(IMAGES, extra={"o": np.array([None] * 10)}), "Python objects"),
        (lambda: ArrayDataset(IMAGES, extra={"o": "abcdefghij"}), "is a str"),
        (lambda: ArrayDataset(IMAGES, LABELS + 0.5), "row 0 has 0.5"),
        (lambda: ArrayDataset(IMAGES, LABELS + 0.5), r'extra=\{"targets": y\}'),
        (lambda: ArrayDataset(IMAGES, (LABELS + 0.5)[:, None]), r'shape \[10, 1\].*extra=\{"targets": y\}'),
        (lambda: ArrayDataset(IMAGES, LABELS * float("nan")), "row 0 has nan"),
        (lambda: ArrayDataset(IMAGES, LABELS - 1), "row 0 has -1"),
        (lambda: ArrayDataset(IMAGES, LABELS, class_names=["a", "b"]), "at most 1, but row 2 has 2"),
        (lambda: ArrayDataset(IMAGES, np.array(["cat"] * 10)), "labels contains text"),
        (lambda: ArrayDataset(torch.eye(3).to_sparse()), "to_dense"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(make, sentence):
    with pytest.raises(DataError, match=sentence):
        make()


def test_a_bad_value_far_into_a_large_column_is_detected(monkeypatch):
    monkeypatch.setattr("limbeck.data.dataset._CHUNK", 8)
    column = torch.zeros(100, 3)
    column[61, 2] = float("inf")
    with pytest.raises(DataError, match="1 of 100 rows, first in row 61"):
        ArrayDataset(column)


def test_the_inputs_are_handed_out_as_they_are_kept():
    x = torch.arange(6, dtype=torch.uint8).reshape(3, 2)
    assert torch.equal(ArrayDataset(x).inputs, x)
    assert torch.equal(ArrayDataset({"a": x}).inputs["a"], x)
