"""Windows, labels and predictions of the speech experiments."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.errors import DataError, LimbeckError
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder
from limbeck.papers.hinton2015 import regularizer, speech, spoken_digits
from limbeck.papers.hinton2015.spoken_digits import Windows
from limbeck.task_runner import WorkItem, sort_tasks

QUICK = ExperimentScale("quick", (0,))


def write_spoken(path: Path) -> None:
    """Two speakers say ten digits eight times: each digit three tones, one after the other, in noise."""
    draw = np.random.default_rng(0)
    clips, label, speaker, take = [], [], [], []
    for who in range(2):
        for digit in range(10):
            for number in range(8):
                tones = [300 + 110 * ((digit * (2 * part + 1) + 3 * part) % 31) for part in range(3)]
                time = np.arange(int(draw.integers(700, 1000))) / 8000
                wave = np.concatenate([np.sin(2 * math.pi * tone * time) for tone in tones])
                clips.append(np.int16(8000 * wave + draw.normal(0, 200, len(wave))))
                label.append(digit), speaker.append(who), take.append(number)
    bounds = np.cumsum([0, *map(len, clips)])
    u8 = {"label": np.uint8(label), "speaker": np.uint8(speaker), "take": np.uint8(take)}
    np.savez(path, waveform=np.concatenate(clips), offsets=bounds, is_test=np.array(take) < 1, **u8)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    pytest.importorskip(
        "kaldi_native_fbank", reason="kaldi-native-fbank is not installed: pip install 'limbeck[speech]'"
    )
    folder = tmp_path / "data"
    folder.mkdir()
    write_spoken(folder / spoken_digits.FILE)
    monkeypatch.setenv("LIMBECK_DATA", str(folder))
    return folder


# --- windows --------------------------------------------------------------------------------------------------------


def two_clips() -> Windows:
    """40 and 30 frames that hold their own numbers."""
    numbers = torch.arange(70.0)[:, None] + torch.tensor([0.0, 0.5])
    return Windows(numbers, torch.arange(70) % 30, torch.tensor([40, 30]))


def test_the_label_is_that_of_the_21st_of_26_frames():
    batch = two_clips().take(torch.tensor([25]))
    assert batch.inputs.shape == (1, 26, 2)
    assert batch.inputs[0, 20, 0] == 25
    assert batch.inputs[0, :, 0].tolist() == list(range(5, 31))
    assert batch.labels.tolist() == [25]
    assert batch.id.tolist() == [25]


def test_a_window_does_not_reach_into_another_clip():
    first, last = two_clips().take(torch.tensor([40, 39])).inputs[..., 0]
    assert first.tolist() == [40.0] * 21 + [41.0, 42.0, 43.0, 44.0, 45.0]
    assert last.tolist() == list(range(19, 40)) + [39.0] * 5


def test_windows_know_whether_they_are_the_same():
    other = Windows(two_clips().frames, two_clips().labels, torch.tensor([30, 40]))
    assert two_clips().fingerprint == two_clips().fingerprint != other.fingerprint


@pytest.mark.parametrize("lengths", [[40, 29], [70, 0], []])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(DataError, match="there are 70 frames"):
        Windows(torch.zeros(70, 2), torch.zeros(70, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64))


# --- states ---------------------------------------------------------------------------------------------------------


def test_a_flat_start_cuts_clips_into_equal_parts():
    lengths = torch.tensor([7, 3])
    labels = spoken_digits.classes_of(spoken_digits.uniform(lengths), lengths, torch.tensor([0, 9]))
    assert labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 27, 28, 29]


def test_segmentation_finds_where_the_sound_changes():
    cuts = [(3, 12, 5), (9, 4, 7), (6, 6, 8)] * 5
    truth = torch.cat([torch.repeat_interleave(torch.arange(3), torch.tensor(cut)) for cut in cuts])
    lengths, digits = torch.tensor([sum(cut) for cut in cuts]), torch.full((15,), 4)
    sound = torch.eye(3)[truth] * 4 + 0.5 * torch.randn(len(truth), 3)
    labels, gaussians = spoken_digits.segmented(sound, lengths, digits)
    flat = spoken_digits.classes_of(spoken_digits.uniform(lengths), lengths, digits)
    assert (flat != 12 + truth).float().mean() > 0.15
    assert (labels != 12 + truth).float().mean() < 0.02
    assert torch.equal(labels, spoken_digits.aligned(sound, lengths, digits, gaussians))


def test_the_likeliest_way_is_the_best_of_all():
    scores, lengths = torch.randn(4, 9, 3, dtype=torch.float64), torch.tensor([9, 7, 3, 5])
    found = spoken_digits._likeliest(scores, lengths)
    for clip, n in enumerate(lengths.tolist()):
        ways = [[0] * a + [1] * (b - a) + [2] * (n - b) for a in range(1, n - 1) for b in range(a + 1, n)]
        best = max(ways, key=lambda way: sum(float(scores[clip, t, k]) for t, k in enumerate(way)))
        assert found[clip, :n].tolist() == best


def test_densities_are_those_of_normal_distributions():
    gaussians = spoken_digits.Gaussians(torch.randn(30, 5).double(), torch.rand(30, 5).double() + 0.1)
    x = torch.randn(8, 5).double()
    normal = torch.distributions.Normal(gaussians.mean, gaussians.variance.sqrt())
    expected = normal.log_prob(x[:, None]).sum(2) + 2.5 * math.log(2 * math.pi)
    torch.testing.assert_close(gaussians.log_densities(x), expected)


# --- frames ---------------------------------------------------------------------------------------------------------


def test_frames_are_40_coefficients_every_10_ms(data):
    del data
    tone = np.float32(np.sin(2 * math.pi * 1000 * np.arange(4000) / 8000))
    found = spoken_digits.log_mel(tone)
    assert found.shape == (1 + (4000 - 200) // 80, 40)
    higher = spoken_digits.log_mel(np.float32(np.sin(2 * math.pi * 2500 * np.arange(4000) / 8000)))
    assert found.mean(0).argmax() < higher.mean(0).argmax()
    assert np.array_equal(found, spoken_digits.log_mel(tone))


def test_a_slower_clip_is_longer_and_lower(data):
    del data
    tone = np.float32(np.sin(2 * math.pi * 1000 * np.arange(4000) / 8000))
    assert [len(spoken_digits.spoken_faster(tone, tenths)) for tenths in (9, 10, 11)] == [4445, 4000, 3637]
    slow = np.abs(np.fft.rfft(spoken_digits.spoken_faster(tone, 9)))
    assert slow.argmax() * 8000 / 4445 == pytest.approx(900, abs=3)


def test_parts_share_no_clip_and_training_alone_sets_the_scale(data, tmp_path):
    desk = TaskFolder(tmp_path / "out", speech.FRAMES)
    desk.folder.mkdir(parents=True)
    spoken_digits.keep_frames(desk, quick=False)
    train, dev, test = (spoken_digits.read_part(desk.folder, part) for part in spoken_digits.PARTS)
    assert [len(part.digits) for part in (train, dev, test)] == [3 * 40, 100, 20]
    assert train.copies == 3
    clips = spoken_digits.parts_of(spoken_digits.read_spoken(data))
    assert sorted(np.concatenate(list(clips.values()))) == list(range(160))
    torch.testing.assert_close(train.windows.frames.mean(0), torch.zeros(40), atol=1e-3, rtol=0)
    torch.testing.assert_close(train.windows.frames.std(0), torch.ones(40), atol=1e-3, rtol=0)
    assert dev.windows.frames.mean(0).abs().max() > 1e-3
    for part in (train, dev, test):
        assert torch.equal(part.windows.labels // 3, part.digits[part.windows.clip])
    assert (train.windows.lengths[40:80] > train.windows.lengths[:40]).all()


def test_without_the_file_it_explains_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"put fsdd_8k\.npz into .* LIMBECK_DATA") as caught:
        spoken_digits.read_spoken()
    assert str(tmp_path) in str(caught.value)


def test_a_file_of_something_else_is_refused(data):
    held = dict(np.load(data / spoken_digits.FILE))
    for change, told in (
        ({"waveform": held["waveform"].astype(np.float32)}, "expected int16"),
        ({"take": held["take"][:-1]}, "expected int16, and 160 of each"),
        ({"offsets": held["offsets"] * 2}, "within the waveform"),
        ({"label": held["label"] + 1}, "digits from 0 to 9"),
        ({"is_test": held["is_test"] & False}, "for the test part"),
        ({"take": held["take"] % 5}, "for the train part"),
    ):
        np.savez(data / spoken_digits.FILE, **(held | change))
        with pytest.raises(DataError, match=told):
            spoken_digits.parts_of(spoken_digits.read_spoken())
    np.savez(data / spoken_digits.FILE, **{name: array for name, array in held.items() if name != "offsets"})
    with pytest.raises(DataError, match="no array 'offsets'"):
        spoken_digits.read_spoken()


def test_without_the_library_it_explains_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kaldi_native_fbank", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[speech\]'"):
        spoken_digits.log_mel(np.zeros(4000, np.float32))


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_clip_is_the_digit_that_its_frames_find_likeliest_together():
    windows = Windows(torch.zeros(5, 40), torch.zeros(5, dtype=torch.int64), torch.tensor([3, 2]))
    part = spoken_digits.FramePart(windows, torch.tensor([2, 7]))
    p = torch.full((5, 30), 1e-6)
    p[0, 6] = p[1, 12] = p[1, 13] = 0.45  # two frames weakly for one digit, one frame wholly against the other
    p[1, 6], p[2, 7], p[2, 12] = 0.1, 0.9, 1e-9
    p[3:, 0], p[3:, 21], p[3:, 22] = 0.4, 0.3, 0.3  # digit 0's state is likeliest, digit 7's states are together
    assert speech.clip_error(p.log(), part) == 0.0
    assert speech.clip_error(p.log(), part._replace(digits=torch.tensor([4, 7]))) == 50.0
    assert speech.frame_accuracy(p.log(), windows) == pytest.approx(40.0)


def test_three_per_cent_are_whole_clips_at_all_speeds():
    lengths = torch.randint(5, 9, (600,))
    total = int(lengths.sum())
    windows = Windows(torch.zeros(total, 40), torch.zeros(total, dtype=torch.int64), lengths)
    part = spoken_digits.FramePart(windows, (torch.arange(600) % 300) % 10, copies=2)
    found = regularizer.few(part, seed=3)
    chosen = windows.clip[found.ids].unique()
    assert len(chosen) == 18
    assert torch.equal(chosen[:9] + 300, chosen[9:])
    assert len(found) == int(lengths[chosen].sum())
    assert len(part.digits[chosen[:9]].unique()) == 9
    assert not torch.equal(found.ids, regularizer.few(part, seed=4).ids)


# --- both experiments -----------------------------------------------------------------------------------------------


def do(root: Path, task: WorkItem) -> Figures:
    """What the task finds, in its own folder."""
    desk = TaskFolder(root, task.name)
    desk.folder.mkdir(parents=True, exist_ok=True)
    return task.function(desk)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(speech, "_HIDDEN", [16, 16])
    monkeypatch.setattr(speech, "_members", lambda scale: 2)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.usefixtures("data", "small")
def test_both_experiments_from_frames_to_rows(tmp_path):
    planned = [*speech.SPEECH.tasks(QUICK), *regularizer.REGULARIZER.tasks(QUICK)]
    tasks = {task.name: task for task in sort_tasks(planned)}
    assert sum(name.startswith("speech/member") for name in tasks) == 2
    root = tmp_path / "out"
    found = {name: do(root, task) for name, task in tasks.items()}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = {row.name: row for row in speech.SPEECH.rows(QUICK, found)}
    assert rows["2x ensemble, frame accuracy"].values == [found["speech/ensemble/seed-0"]["test_frame_accuracy"]]
    share = rows["share of the ensemble's gain in frame accuracy that one model keeps"]
    assert share.paper == pytest.approx(86.36, abs=0.01)
    assert all(row.paper is None for row in rows.values() if row is not share)
    rows = {row.name: row for row in regularizer.REGULARIZER.rows(QUICK, found)}
    hard, soft = found["regularizer/hard/seed-0"], found["regularizer/soft/seed-0"]
    gain = soft["test_frame_accuracy"] - hard["stopped_test_frame_accuracy"]
    assert rows["gain of soft targets, test"].values == [gain]
    assert hard["stopped_dev_frame_accuracy"] >= hard["dev_frame_accuracy"] > 100 / 30
    assert found["speech/member-0/seed-0"]["train_frame_accuracy"] > 100 / 30


def figures(accuracy: float) -> dict[str, float]:
    return {"test_frame_accuracy": accuracy, "test_clip_error": 1.0}


def test_the_share_is_a_ratio_of_means_over_seeds():
    row = speech._share([figures(80.0), figures(82.0)], [figures(83.0), figures(83.0)], [figures(82.0), figures(83.0)])
    assert row.values == [100.0, 50.0]
    assert row.mean == pytest.approx(100 * (82.5 - 81.0) / (83.0 - 81.0))
    assert row.met is False
    assert speech._share([figures(83.0)], [figures(82.0)], [figures(84.0)]).values == [0.0]


def test_soft_targets_must_win_in_every_seed():
    scale = ExperimentScale("full", (0, 1))
    found = {}
    for seed, gain in ((0, 5.0), (1, -0.5)):
        hard = {"stopped_epoch": 3, "stopped_train_frame_accuracy": 90.0, "stopped_test_frame_accuracy": 50.0}
        found[f"speech/member-0/seed-{seed}"] = {"train_frame_accuracy": 95.0, "test_frame_accuracy": 88.0}
        found[f"regularizer/hard/seed-{seed}"] = hard | {"train_frame_accuracy": 99.0, "test_frame_accuracy": 49.0}
        found[f"regularizer/soft/seed-{seed}"] = {"train_frame_accuracy": 97.0, "test_frame_accuracy": 50.0 + gain}
    least = regularizer.REGULARIZER.rows(scale, found)[-1]
    assert least.values == [-0.5]
    assert least.met is False


def test_a_task_that_was_stopped_comes_to_the_same_answer(data, small, tmp_path):
    del data, small
    tasks = {task.name: task for task in sort_tasks(regularizer.REGULARIZER.tasks(QUICK))}
    hard = tasks["regularizer/hard/seed-0"]
    root = tmp_path / "out"
    do(root, tasks[speech.FRAMES])
    whole = do(root, hard)
    other = tmp_path / "again"
    do(other, tasks[speech.FRAMES])

    kept = speech.soft_targets
    calls = [0]

    def stops(*given):
        calls[0] += 1
        if calls[0] == 7:
            raise RuntimeError("the lights went out")
        return kept(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regularizer, "soft_targets", stops)
        with pytest.raises(RuntimeError, match="lights"):
            do(other, hard)
    assert do(other, hard) == whole
