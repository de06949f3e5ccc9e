"""Names, files and folders become the right dataset and preprocessing."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from limbeck.data import Identity, NormalizeImages, ShuffledLoader, load_data
from limbeck.errors import DataError, LimbeckError, UnknownNameError

RNG = np.random.default_rng(0)


def _pictures(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def _parts(shape, classes=10, train=30, test=20):
    labels = lambda n: np.arange(n) % classes  # noqa: E731
    return {
        "x_train": _pictures(train, *shape),
        "y_train": labels(train),
        "x_test": _pictures(test, *shape),
        "y_test": labels(test),
    }


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, without LIMBECK_DATA and without a hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    return tmp_path


def test_digits_are_797_and_1000_in_the_shares_of_the_whole():
    data = load_data("digits")
    assert (len(data.train), len(data.test)) == (797, 1000)
    assert data.class_names == tuple("0123456789")
    counts = data.test.labels.bincount()
    assert int(counts.min()) >= 95
    assert int(counts.max()) <= 104
    images = data.train.take(torch.arange(797))
    assert (images.inputs.dtype, int(images.inputs.max())) == (torch.uint8, 16)
    read = data.preprocess(images)
    assert read.shape == (797, 1, 8, 8)
    assert abs(float(read.mean())) < 1e-3
    assert abs(float(read.std()) - 1) < 1e-3
    assert data.preprocess.scale == 1 / 16


def test_digits_are_the_same_ones_on_every_call():
    one, two = load_data("digits"), load_data({"name": "digits"})
    assert one.fingerprint == two.fingerprint
    assert one.train.fingerprint != one.test.fingerprint
    rows = lambda part: {tuple(r) for r in part.take(torch.arange(len(part))).inputs.flatten(1).tolist()}  # noqa: E731
    assert not rows(one.train) & rows(one.test)


@pytest.mark.parametrize(
    ("name", "shape", "read"),
    [("mnist", (28, 28), (1, 28, 28)), ("fashion_mnist", (28, 28), (1, 28, 28)), ("cifar10", (32, 32, 3), (3, 32, 32))],
)
@pytest.mark.parametrize("place", ["environment", "data", "folder"])
def test_published_sets_are_found_in_their_places(elsewhere, monkeypatch, name, shape, read, place):
    folder = elsewhere / {"environment": "env", "data": "data", "folder": "mine"}[place]
    folder.mkdir()
    np.savez(folder / f"{name}.npz", **_parts(shape))
    if place == "environment":
        monkeypatch.setenv("LIMBECK_DATA", str(folder))
    data = load_data(name, **({"folder": folder} if place == "folder" else {}))
    assert (len(data.train), len(data.test), len(data.class_names)) == (30, 20, 10)
    assert isinstance(data.preprocess, NormalizeImages)
    assert data.preprocess(data.train.take(torch.arange(3))).shape == (3, *read)
    assert f"{name}.npz" in data.note


def test_a_subset_says_that_it_is_one(elsewhere):
    (elsewhere / "data").mkdir()
    np.savez(elsewhere / "data/cifar100_subset.npz", **_parts((32, 32, 3), classes=100, train=200, test=100))
    data = load_data("cifar100")
    assert data.note.startswith("a subset of cifar100")
    assert len(data.class_names) == 100
    np.savez(elsewhere / "data/cifar100.npz", **_parts((32, 32, 3), classes=100, train=300, test=100))
    whole = load_data("cifar100")
    assert len(whole.train) == 300
    assert "subset" not in whole.note


def test_a_missing_set_says_what_to_put_where(elsewhere):
    with pytest.raises(
        DataError, match=r"Put mnist.npz into data/ .*LIMBECK_DATA.*x_train \[60000, 28, 28\].*limbeck\[hf\]"
    ):
        load_data("mnist")


def test_a_file_with_other_images_is_refused(elsewhere):
    (elsewhere / "data").mkdir()
    np.savez(elsewhere / "data/mnist.npz", **_parts((8, 8)))
    with pytest.raises(DataError, match=r"x_train is uint8 \[30, 8, 8\]; expected uint8 \[n, 28, 28\]"):
        load_data("mnist")
    np.savez(elsewhere / "data/mnist.npz", x_train=_pictures(4, 28, 28), y_train=np.arange(4))
    with pytest.raises(DataError, match="must contain x_train, y_train, x_test and y_test"):
        load_data("mnist")


class _Hub(types.ModuleType):
    """What the library asks of `datasets`, over generated pictures."""

    def load_dataset(self, path):
        if path != "uoft-cs/cifar10":
            raise ConnectionError("no network")
        part = lambda n: _Part({"img": list(_pictures(n, 32, 32, 3)), "label": [i % 10 for i in range(n)]})  # noqa: E731
        return {"train": part(12), "test": part(5)}


class _Part(dict):
    features = {"label": types.SimpleNamespace(names=None)}  # noqa: RUF012


def test_the_hub_is_asked_last(elsewhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", _Hub("datasets"))
    data = load_data("cifar10")
    assert (len(data.train), len(data.test)) == (12, 5)
    assert data.preprocess(data.train.take(torch.arange(2))).shape == (2, 3, 32, 32)
    assert "hub" in data.note
    with pytest.raises(DataError, match=r"ylecun/mnist failed: no network"):
        load_data("mnist")


def test_an_npz_by_path(tmp_path):
    np.savez(tmp_path / "a.npz", **_parts((8, 8, 3), classes=3))
    data = load_data(tmp_path / "a.npz")
    assert (len(data.train), len(data.test)) == (30, 20)
    read = data.preprocess(data.train.take(torch.arange(30)))
    assert read.shape == (30, 3, 8, 8)
    torch.testing.assert_close(read.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(read.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_an_npz_without_a_test_part_is_split(tmp_path):
    x, y = RNG.random((50, 4)), np.arange(50) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = load_data(str(tmp_path / "a.npz"))
    assert (len(data.train), len(data.test)) == (40, 10)
    assert "10 examples (20%) were held out" in data.note
    assert isinstance(data.preprocess, Identity)
    assert not set(data.train.ids.tolist()) & set(data.test.ids.tolist())
    assert data.fingerprint == load_data(str(tmp_path / "a.npz")).fingerprint


def _folder(path, names, seed=0):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'limbeck[image]'")
    for place, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.random.default_rng(seed + place).integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(
            path / name
        )


def test_a_folder_of_pictures_with_and_without_a_test_part(tmp_path):
    names = [f"{kind}/{n}.png" for kind in ("cat", "dog") for n in range(5)]
    _folder(tmp_path / "one", names)
    data = load_data(tmp_path / "one")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.preprocess(data.train.take(torch.arange(8))).shape == (8, 3, 4, 6)
    _folder(tmp_path / "two/train", names)
    _folder(tmp_path / "two/test", ["dog/1.png"], seed=50)
    data = load_data({"name": tmp_path / "two", "size": [8, 8], "channels": 1})
    assert (len(data.train), len(data.test)) == (10, 1)
    assert data.test.labels.tolist() == [1]
    assert data.preprocess(data.test.take(torch.tensor([0]))).shape == (1, 1, 8, 8)


def test_an_npz_may_bring_a_development_part_and_what_is_not_read_is_said(tmp_path):
    x, y = RNG.random((50, 4)), np.arange(50) % 2
    more = {"x_val": x[:9], "y_val": y[:9], "soft_train": x, "x_extra": x, "other": y[:3]}
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y, **more)
    data = load_data(tmp_path / "a.npz")
    assert (len(data.train), len(data.development), len(data.test)) == (50, 9, 50)
    assert [part.name for part in data.summary.parts] == ["train", "development", "test"]
    assert "the arrays x_extra, other are not used" in data.note
    np.savez(tmp_path / "b.npz", x=x, y=y)
    assert "not used" not in load_data(tmp_path / "b.npz").note


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_folder_of_files_is_its_parts(tmp_path, suffix):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
    if suffix == ".jsonl":
        pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    row = {".csv": "{},{}\n", ".jsonl": '{{"x": "word {}", "y": "{}"}}\n'}[suffix]
    for part, count in (("train", 40), ("validation", 20), ("test", 10)):
        rows = "".join(row.format(i % 5, "ab"[i % 2]) for i in range(count))
        (tmp_path / f"{part}{suffix}").write_text(("x,y\n" if suffix == ".csv" else "") + rows)
    more = {"text": "x", "vocabulary": 40} if suffix == ".jsonl" else {}
    data = load_data(tmp_path, target="y", **more)
    assert (len(data.train), len(data.development), len(data.test)) == (40, 20, 10)
    assert data.name == str(tmp_path)


def test_tables_with_and_without_a_test_part(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
    rows = [f"{i},{'ab'[i % 2]}" for i in range(40)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y", *rows]))
    data = load_data(tmp_path / "train.csv", target="y")
    assert (len(data.train), len(data.test)) == (32, 8)
    assert data.class_names == ("a", "b")
    assert data.encoding.target == "y"
    data = load_data({"name": str(tmp_path / "train.csv"), "target": "y", "test": str(tmp_path / "test.csv")})
    assert (len(data.train), len(data.test)) == (40, 40)
    assert data.preprocess(data.test.take(torch.arange(2))).shape == (2, 1)


@pytest.mark.parametrize(
    ("name", "options", "kind", "sentence"),
    [
        ("mnits", {}, UnknownNameError, "Did you mean 'mnist'"),
        ("", {}, UnknownNameError, "Unknown dataset"),
        ("digits", {"targt": "y"}, UnknownNameError, "Did you mean 'target'"),
        ("digits", {"target": "y"}, LimbeckError, "target= does not apply to 'digits'"),
        ("rows.csv", {}, LimbeckError, "target= is missing: which column of rows.csv"),
        ("nowhere.npz", {}, DataError, "no file nowhere.npz"),
    ],
)
def test_mistakes_are_named(elsewhere, name, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        load_data(name, **options)


def test_the_real_mnist(real_data):
    if not (real_data / "mnist.npz").is_file():
        pytest.skip("no real data: mnist.npz is not in the folder that LIMBECK_DATA names")
    data = load_data("mnist", folder=real_data)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.labels.bincount().tolist()[:3] == [5923, 6742, 5958]
    source = ShuffledLoader(data.train, batch_size=256, seed=0)
    total, square, ids = 0.0, 0.0, []
    for batch in source:
        read = data.preprocess(batch)
        total, square = total + float(read.double().sum()), square + float(read.double().square().sum())
        ids.append(batch.id)
    count = 60_000 * 784
    assert abs(total / count) < 1e-3
    assert abs(square / count - 1) < 1e-3
    assert torch.equal(torch.cat(ids).sort().values, torch.arange(60_000))


def test_the_real_cifar100_subset(real_data):
    if not (real_data / "cifar100_subset.npz").is_file():
        pytest.skip("no real data: cifar100_subset.npz is not in the folder that LIMBECK_DATA names")
    data = load_data("cifar100", folder=real_data)
    assert (len(data.train), len(data.test), len(data.class_names)) == (16_000, 5_000, 100)
    batch = data.train.take(torch.arange(0, 16_000, 8))
    read = data.preprocess(batch)
    assert float(read.mean((0, 2, 3)).abs().max()) < 0.05
    assert int(batch.extra["coarse"].max()) == 19


# --- groups ---------------------------------------------------------------------------------------------------------


def _file(folder, **more):
    np.savez(folder / "own.npz", **_parts((6, 6)), **more)
    return "own.npz"


@pytest.mark.parametrize("region", [np.arange(20) % 3, np.array(["north", "south"] * 10)])
def test_an_npz_file_says_which_group_each_test_example_belongs_to(elsewhere, region):
    data = load_data({"name": _file(elsewhere, region_test=region), "groups": "region"})
    assert data.groups == "region"
    found = data.test.take(torch.arange(20)).extra["region"]
    assert list(found) == region.tolist()
    assert load_data("own.npz").groups is None


@pytest.mark.parametrize("apart", [True, False])
def test_a_column_of_a_table_says_so_and_stays_a_feature(elsewhere, apart):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
    rows = [f"{i},{('north', 'south', '')[i % 3]},{'ab'[i % 2]}" for i in reversed(range(30))]
    for name in ("own.csv", "test.csv"):
        (elsewhere / name).write_text("\n".join(["age,region,kind", *rows]))
    plain = load_data("own.csv", target="kind", **({"test": "test.csv"} if apart else {}))
    data = load_data("own.csv", target="kind", groups="region", **({"test": "test.csv"} if apart else {}))
    everything = torch.arange(len(data.test))
    shown = data.test.take(everything)
    ages = shown.extra["raw"][:, 0].int().tolist()
    assert shown.extra[data.groups] == [("north", "south", "(missing)")[age % 3] for age in ages]
    assert torch.equal(shown.inputs, plain.test.take(everything).inputs)
    # The training part has the column too, for routes to teachers. Only with such a route answers depend on it.
    train = data.train.take(torch.arange(len(data.train)))
    ages = train.extra["raw"][:, 0].int().tolist()
    assert train.extra["groups"] == [("north", "south", "(missing)")[age % 3] for age in ages]
    assert data.train.fingerprint == plain.train.fingerprint
    data.train.hash_groups()
    assert data.train.fingerprint != plain.train.fingerprint
    # It is also a feature, which the summary says.
    assert any("'data.ignore=[region]'" in note for note in data.summary.notes)
    without = load_data("own.csv", target="kind", groups="region", ignore=["region"])
    assert not any("feature too" in note for note in without.summary.notes)


def test_a_column_of_groups_may_be_in_the_test_table_alone(elsewhere):
    (elsewhere / "own.csv").write_text("\n".join(["age,kind", *(f"{i},{'ab'[i % 2]}" for i in range(30))]))
    rows = (f"{i},{'ab'[i % 2]},{('north', 'south')[i % 3 > 0]}" for i in range(30))
    (elsewhere / "test.csv").write_text("\n".join(["age,kind,region", *rows]))
    data = load_data("own.csv", target="kind", groups="region", test="test.csv")
    assert data.test.take(torch.arange(3)).extra["groups"] == ["north", "south", "south"]
    assert "groups" not in data.train.take(torch.arange(3)).extra
    with pytest.raises(DataError, match="region"):
        load_data("test.csv", target="kind", groups="region", test="own.csv", ignore=["region"])


def test_groups_that_are_not_there_are_said(elsewhere):
    _file(elsewhere, region_test=np.arange(20) % 3, wide_test=np.zeros((20, 2)))
    with pytest.raises(UnknownNameError, match=r"groups in own\.npz 'regoin'\. Did you mean 'region'"):
        load_data("own.npz", groups="regoin")
    with pytest.raises(DataError, match=r"wide_test of own\.npz has \[2\] per row"):
        load_data("own.npz", groups="wide")
    with pytest.raises(LimbeckError, match="groups= does not apply to 'digits'"):
        load_data("digits", groups="region")
