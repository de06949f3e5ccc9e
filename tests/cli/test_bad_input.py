"""Wrong input: one clear message, a non-zero exit code, nothing lost."""

from __future__ import annotations

import pytest

from small_jobs import blobs, contents, forked, job_file, refused, small_job, typed_here


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["budget.epohs=3"], ["budget.epohs", "'epochs'", "--set budget.epochs="]),
        (["budgte.epochs=3"], ["'budgte'", "'budget'", "--set budget="]),
        (["teacher.train.epoch=3"], ["teacher.train.epoch", "'epochs'", "--set teacher.train.epochs="]),
        (["method.temprature=2"], ["temprature", "'temperature'", "--set method.temperature="]),
        (["method.teacher=mlp"], ["teacher", "hinton"]),
        (["method.temperature=0"], ["temperature", "0", "--set method.temperature="]),
        (["method.temperature=warm"], ["temperature", "'warm'", "--set method.temperature="]),
        (["method.weight=1.5"], ["weight", "1.5"]),
        (["method=hintn"], ["'hintn'", "'hinton'"]),
        (["method=fitnets"], ["hint", "guided", "--set method.hint=..."]),
        (["method=fitnets", "method.hint=layr1", "method.guided=layer1"], ["'layr1'", "'layer1'"]),
        (["method=fitnets", "method.hint=layer1", "method.guided=layer9"], ["'layer9'", "layer1"]),
        (["method=privileged"], ["privileged"]),
        (["student.hiden=[3]"], ["'student.hiden'", "'hidden'", "--set student.hidden="]),
        (["student.hidden=[0]"], ["student", "hidden", "0", "--set student.hidden=[64,32]"]),
        (["student.dropout=1.5"], ["student", "dropout", "1.5", "--set student.dropout=0.1"]),
        (["student=mpl"], ["student", "'mpl'", "'mlp'"]),
        (["teacher.model=cnnn"], ["teacher", "'cnnn'", "'cnn'"]),
        (["teacher.members=0"], ["--set teacher.members=", "0"]),
        (["teacher.mean=harmonic"], ["teacher.mean", "harmonic"]),
        (["budget.epochs=-1"], ["--set budget.epochs=", "-1"]),
        (["budget.epochs=many"], ["budget.epochs", "'many'"]),
        (["budget.lr=0"], ["budget.lr"]),
        (["budget.lr=.nan"], ["budget.lr", "nan"]),
        (["budget.lr=.inf"], ["budget.lr", "inf"]),
        (["budget.warmup=1.5"], ["--set budget.warmup=", "1.5"]),
        (["budget.optimizer=adamv"], ["'adamv'", "'adam", "--set budget.optimizer="]),
        (["budget.options={momentun: 1}", "budget.optimizer=sgd"], ["'momentun'", "'momentum'"]),
        (["budget.decay=cosin"], ["budget.decay", "cosin"]),
        (["budget=5"], ["budget", "5"]),
        (["budget.epochs.more=5"], ["epochs", "more"]),
        (["seeds.x=5"], ["seeds", "x"]),
        (["seeds=0"], ["seeds", "0"]),
        (["development=1"], ["development", "1"]),
        (["train_examples=100000"], ["100000", "--set train_examples=135"]),
        (["arms=[distilled, distiled]"], ["'distiled'", "'distilled'"]),
        (["arms=[teacher]"], ["'distilled'"]),
        (["arms=[distilled, distilled]"], ["'distilled'", "twice"]),
        (["arms=distilled"], ["--set arms=", "'distilled'"]),
        (["strategy=ddpp"], ["ddpp"]),
        (["strategy=5"], ["strategy", "5"]),
        (["precision=33"], ["33"]),
        (["precision=half"], ["half"]),
        (["devices=none"], ["none"]),
        (["devices=2", "workers=2"], ["workers", "devices"]),
        (["workers=0"], ["workers", "0"]),
        (["epochs"], ["key=value", "'epochs'"]),
        (["=5"], ["key=value"]),
        (["student.hidden=[3"], ["student.hidden", "[3"]),
        (["data=digts"], ["'digts'", "'digits'"]),
        (["data={name: digits, targt: y}"], ["'targt'", "'target'"]),
        (["data.target=y"], ["target"]),
        (["data=null"], ["data", "--data"]),
    ],
)
def test_a_wrong_setting(limbeck, here, job, settings, words):
    before = contents(here)
    flags = [word for setting in settings for word in ("--set", setting)]
    refused(limbeck("distill", job, *flags, "--out", "run", "--json"), *words)
    assert contents(here) == before
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [digits\n", ["not YAML", "line 2"]),
        ("data: digits\n\tteacher: mlp\n", ["not YAML", "line 2"]),
        ("- data\n- digits\n", ["list"]),
        ("digits", ["str"]),
        ("", ["NoneType"]),
        ("{}", ["data", "--data"]),
        ("data: digits\nstudent: {model: mlp, hidden: [4]}\n", ["teacher", "--teacher"]),
        ("data: digits\nteacher: mlp\nstudent: {hidden: [4]}\n", ["student.model"]),
        ("data: digits\nteacher: {model: mlp}\nstudent: [mlp]\n", ["student"]),
        ("data: digits\nteacher: mlp\nstudent: mlp\n", ["--set teacher.hidden=[64,32]"]),
        ("data: digits\nteacher: cnn\nstudent: cnn\n", ["teacher", "--set teacher.widths=[64,32]"]),
        ("data: !!python/object/apply:os.system [ls]\n", ["not YAML"]),
        ("1: 2\n", ["'1'"]),
        ("\x00", ["not YAML"]),
    ],
)
def test_a_wrong_job_file(limbeck, here, text, words):
    (here / "wrong.yaml").write_text(text)
    refused(limbeck("distill", "wrong.yaml", "--out", "run"), *words)
    assert not (here / "run").exists()


def test_a_job_file_of_bytes(limbeck, here):
    (here / "wrong.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    refused(limbeck("distill", "wrong.yaml"), "wrong.yaml")


def test_no_job_file(limbeck):
    refused(limbeck("distill", "jbo.yaml"), "jbo.yaml")


def test_nothing_reported_at_all(limbeck):
    refused(limbeck("distill"), "--data")


def test_debug_shows_where_it_came_from(tmp_path):
    blobs(tmp_path / "blobs.npz")
    job_file(tmp_path / "job.yaml", small_job("blobs.npz"))
    plain = typed_here("distill", "job.yaml", "--student", "mpl", cwd=tmp_path)
    assert plain.code == 1
    assert "Traceback" not in plain.err
    assert plain.err.splitlines()[-1].startswith("Error: student: Unknown model 'mpl'. Did you mean 'mlp'?")
    debug = forked("-m", "limbeck", "distill", "job.yaml", "--student", "mpl", "--debug", cwd=tmp_path)
    assert debug.code != 0
    assert "Traceback" in debug.err
    assert "Unknown model 'mpl'" in debug.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distill", "--sudent", "mlp"], "--student"),
        (["distill", "--seeds", "many"], "'--seeds'"),
        (["distill", "--seeds", "0"], "'--seeds'"),
        (["resume"], "See `limbeck resume --help`."),
        (["methods", "--jsn"], "--json"),
    ],
)
def test_a_wrong_command_line(limbeck, words, said):
    ended = limbeck(*words)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert said in ended.err


def test_a_method_that_there_is_not(limbeck):
    refused(limbeck("methods", "hintn"), "'hintn'", "'hinton'")
    refused(limbeck("methods", "hintn", "--json"), "'hinton'")
