"""GKD: the maze and its checker, the decoder, the arms, and the table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from limbeck.errors import ArgumentError
from limbeck.functional import kl_divergence
from limbeck.generation import GenerationConfig, generate
from limbeck.generation.writers import find_cache_use
from limbeck.papers import ExperimentScale, TaskFolder
from limbeck.papers import paper as paper_of
from limbeck.papers.gkd import captions, gsm8k, maze_table, students
from limbeck.papers.gkd.maze import LONGEST, PROMPT, Decoder, Maze, WalkDataset
from limbeck.papers.reproduction import Reproduction
from limbeck.report import paper_markdown

TINY = students.MazeScale(3, 12, 20, (6, 1, 16), 4, 20, (1e-2,), (1e-2,), (0.5,))
QUICK, ALONE = ExperimentScale("quick", (0, 1)), ExperimentScale("quick", (0,))


def test_the_maze_is_connected_and_its_walks_are_shortest():
    maze = Maze()
    passages = int(maze.beside.sum()) // 2
    assert (passages, len(maze.test), len(maze.train)) == (48 + 12, 400, 1952)
    assert torch.equal(maze.beside, maze.beside.T)
    distance = torch.where(maze.beside, 1.0, torch.inf).fill_diagonal_(0)
    for between in range(49):  # Floyd and Warshall
        distance = torch.minimum(distance, distance[:, between, None] + distance[between])
    assert torch.equal(distance, maze.distance.float())
    assert int(maze.distance.max()) < LONGEST
    seen = {tuple(pair) for part in (maze.test, maze.train) for pair in part.tolist()}
    assert len(seen) == 49 * 48
    walks = maze.walks(maze.test, ids=torch.arange(400), seed=5)
    for pair, walk in zip(maze.test.tolist(), walks, strict=True):
        assert maze.is_right(pair, walk)
        assert len(walk) == int(maze.distance[pair[0], pair[1]]) + 1


def test_a_walk_is_a_function_of_id_view_and_seed_and_all_shortest_ones_are_drawn():
    maze = Maze(3, extra=3, test=10)
    pair = next(pair for pair in maze.train if len(_shortest(maze, *pair.tolist())) > 1)
    many = pair.repeat(400, 1)
    drawn = maze.walks(many, ids=torch.arange(400), seed=1)
    assert {tuple(walk.tolist()[:-1]) for walk in drawn} == set(_shortest(maze, *pair.tolist()))
    alone = maze.walks(many[7:8], ids=torch.tensor([7]), seed=1)[0]
    assert torch.equal(alone, drawn[7])
    other = maze.walks(many, ids=torch.arange(400), seed=1, view=1)
    assert any(not torch.equal(one, two) for one, two in zip(drawn, other, strict=True))


def _shortest(maze, at, goal):
    """All shortest walks, by brute force."""
    if at == goal:
        return [()]
    nearer = [c for c in range(maze.end) if maze.beside[at, c] and maze.distance[c, goal] < maze.distance[at, goal]]
    return [(cell, *rest) for cell in nearer for rest in _shortest(maze, cell, goal)]


@pytest.mark.parametrize("change", ["jump", "early end", "no end", "wrong goal", "other token", "padding"])
def test_the_checker_refuses(change):
    maze = Maze()
    place = int((maze.distance[maze.train[:, 0], maze.train[:, 1]] == 6).nonzero()[0])
    pair = maze.train[place].tolist()
    walk = maze.walks(maze.train[place : place + 1], ids=torch.tensor([0]), seed=0)[0]
    assert maze.is_right(pair, walk)
    far = next(c for c in range(maze.end) if not maze.beside[walk[1], c] and c != int(walk[1]))
    wrong = {
        "jump": torch.cat([walk[:2], torch.tensor([far]), walk[3:]]),
        "early end": torch.cat([walk[:3], walk[-1:]]),
        "no end": walk[:-1],
        "wrong goal": torch.cat([walk[:-1], walk[-3:-2], walk[-1:]]),
        "other token": torch.cat([walk[:2], torch.tensor([maze.pad]), walk[2:]]),
        "padding": torch.cat([torch.tensor([maze.vocabulary]), walk]),
    }
    assert not maze.is_right(pair, wrong[change])


def test_a_longer_walk_that_goes_back_is_right():
    maze = Maze()
    pair = maze.train[0].tolist()
    walk = maze.walks(maze.train[:1], ids=torch.tensor([0]), seed=0)[0]
    there_and_back = torch.cat([walk[:1], torch.tensor([pair[0]]), walk])
    assert maze.is_right(pair, there_and_back)


@pytest.mark.parametrize("argument", [{"size": 1}, {"test": 0}, {"test": 49 * 48}])
def test_a_maze_without_pairs_is_refused(argument):
    with pytest.raises(ArgumentError) as error:
        Maze(**argument)
    assert error.value.argument == next(iter(argument))


def test_the_labels_are_the_next_tokens_and_the_prompt_has_none():
    maze = Maze()
    walks = maze.walks(maze.train, ids=torch.arange(len(maze.train)), seed=0)
    data = WalkDataset(maze, maze.train, walks)
    batch = data.take(torch.tensor([3, 900, 40]))
    for row, index in enumerate([3, 900, 40]):
        labels = batch.labels[row][batch.mask[row]]
        assert torch.equal(labels, walks[index])
        read = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()]
        assert torch.equal(read, torch.cat([maze.train[index], walks[index][:-1]]))
        assert bool((batch.labels[row][: PROMPT - 1] == -100).all())


def make_decoder():
    torch.manual_seed(0)
    model = Decoder(11, width=16, layers=2, heads=2, positions=20)
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model.eval()


def test_the_decoder_is_causal_and_its_cache_and_left_padding_change_nothing():
    model, ids = make_decoder().double(), torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))
    whole = model(ids).logits
    changed = ids.clone()
    changed[:, 5:] = 0
    torch.testing.assert_close(model(changed).logits[:, :5], whole[:, :5], rtol=0, atol=1e-12)
    cache, parts = None, []
    for part in ids.split([4, 1, 3, 1], 1):
        output = model(part, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.int64), ids], 1)
    mask = torch.ones_like(padded)
    mask[:, :2] = 0
    places = (mask.cumsum(1) - 1).clamp_min(0)
    left = model(padded, attention_mask=mask, position_ids=places).logits[:, 2:]
    torch.testing.assert_close(left, whole, rtol=0, atol=1e-12)
    assert model(ids).past_key_values is None


@pytest.mark.parametrize("given_positions", [False, True])
def test_the_decoder_computes_what_needs_one_token_without_the_padding(given_positions):
    model, ids = make_decoder().double(), torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(9) < torch.tensor([9, 4, 1, 6])[:, None]).long()
    positions = torch.arange(9).expand(4, 9) if given_positions else None
    weights = mask[..., None] * torch.randn(4, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradients, logits, rows, layer = [], [], [], model.layers[0].hidden
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "forward", lambda x, own=layer.forward: rows.append(x.shape[:-1].numel()) or own(x))
        for own in (None, mask):
            model.zero_grad()
            logits.append(model(ids, attention_mask=own, position_ids=positions).logits)
            (logits[-1] * weights).sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert rows == [36, 20]
    torch.testing.assert_close(logits[1], logits[0] * mask[..., None], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_the_decoder_writes_with_its_cache_what_it_writes_without_one():
    model = make_decoder().double()
    with torch.no_grad():
        assert find_cache_use(model, torch.tensor([1, 2, 3])) == (True, True)
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([5, 6])]
    config = GenerationConfig(max_new_tokens=9, eos_token_id=0)
    own = generate(model, prompts, config, seed=3)
    whole = generate(model, prompts, config, seed=3, preprocess=lambda batch: batch.inputs["input_ids"])
    assert torch.equal(own.tokens, whole.tokens)
    torch.testing.assert_close(own.logprobs, whole.logprobs, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All tasks of both mazes at a tiny scale, run in order, and their results."""
    root = tmp_path_factory.mktemp("gkd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maze_table, "QUICK", TINY)
        patch.setattr(students, "LONGEST", 9)  # a maze of nine cells has no longer walks
        results, tasks = {}, {}
        # Two seeds give intervals. Of the other maze one arm is enough to see that the table has the same rows.
        few, many = maze_table.MAZE_FEW.tasks(QUICK), maze_table.MAZE_ALL.tasks(ALONE)
        copies = {task.name for task in many[-len(students.ARMS) :]} - {many[-1].name}
        for task in [*few, *(task for task in many if task.name not in copies)]:
            tasks[task.name] = task
        done = set()
        for task in tasks.values():
            assert set(task.requires) <= done, task.name
            done.add(task.name)
            folder = TaskFolder(root, task.name)
            folder.folder.mkdir(parents=True)
            figures = json.loads(json.dumps(task.function(folder), allow_nan=False))
            results[task.name] = figures
            (folder.folder / "result.json").write_text(json.dumps({"figures": figures}))
        results |= dict.fromkeys(copies, results[many[-1].name])
        yield root, results, tasks


@pytest.mark.slow
def test_every_arm_runs_and_the_table_has_all_of_them(finished):
    _, results, _ = finished
    for experiment, scale in ((maze_table.MAZE_FEW, QUICK), (maze_table.MAZE_ALL, ALONE)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(maze_table, "QUICK", TINY)
            rows = experiment.rows(scale, results)
        named = {row.name for row in rows if row.column == "right, greedy"}
        assert named == {"the teacher", "the start", *students.ARMS}
        assert all(len(row.values) in (1, 2) for row in rows)
        table = {"experiments": {"maze": {"title": "?", "rows": [row.as_json() for row in rows]}}, "skipped": {}}
        text = paper_markdown(table)
        assert "| on-policy JSD |" in text
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(maze_table, "QUICK", TINY)
            claims = experiment.claims(scale, results)
        assert len(claims) == 6
        assert all((claim.low is not None) == (scale is QUICK) for claim in claims)


@pytest.mark.slow
def test_equal_seconds_are_counted_once_and_are_steps(finished):
    _, results, _ = finished
    counts = results["20/seconds"]["steps"]
    assert set(counts) == {"labels", "forward", "stored teacher"}
    for name, arm in students.ARMS.items():
        figures = results[maze_table._task(20, name, 0)]
        assert figures["steps"] == (counts[arm.clock] if arm.seconds else TINY.steps)
    assert counts["labels"] >= TINY.steps


@pytest.mark.slow
def test_an_arm_has_the_same_bits_when_it_is_run_again(finished):
    root, results, tasks = finished
    for name in ("on-policy JSD", "new text of the teacher", "mixture", "the same, teacher stored"):
        task = maze_table._task(20, name, 1)
        again = tasks[task].function(TaskFolder(root, task))
        assert again["scores"] == results[task]["scores"]
        assert again["perplexity"] == results[task]["perplexity"]


@pytest.mark.slow
def test_settings_are_chosen_on_training_pairs_that_the_student_does_not_see(finished):
    _, results, _ = finished
    chosen = results["settings"]
    assert set(chosen) == {
        key for arm in [*(n for n, a in students.ARMS.items() if not a.settings), "share of the mixture"]
        for key in (arm, f"{arm}: right walks")
    }  # fmt: skip
    maze = students.maze_of(TINY)
    seen = {tuple(pair) for pair in maze.train[students.training_pairs(TINY, 20, students.DEVELOPMENT[0])].tolist()}
    test = {tuple(pair) for pair in maze.test.tolist()}
    assert len(seen) == 20
    assert not seen & test


@pytest.mark.slow
def test_a_student_of_the_teacher_s_text_learns_from_the_teacher_s_own_draws(finished):
    root, _, _ = finished
    models = {
        "student": students.make_decoder(TINY, seed=1),
        "teacher": students.load_teacher(TaskFolder(root, "x"), TINY),
    }
    maze = students.maze_of(TINY)
    for text, writer in (("student", "student"), ("teacher again", "teacher")):
        arm = replace(students.ARMS["on-policy forward"], text=text)
        run = students._make_run(arm, models, TINY, 20, 0, rate=1e-3, steps=1, store=root / "no")
        stage = next(iter(run.recipe.stages()))
        assert (stage.loader.writer, stage.loader.share) == (writer, 1.0)
        assert stage.loader.generation.end_tokens == (maze.end,)
        run.finish()
    assert students._LOSSES["forward"] is kl_divergence


def test_experiments_that_cannot_run_here_are_skipped_with_a_sentence(tmp_path, monkeypatch):
    quick, full = ExperimentScale("quick", (0,)), ExperimentScale("full", (0,))
    assert captions.why_skipped(quick)
    assert gsm8k.why_skipped(quick)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "GPU" in gsm8k.why_skipped(full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv(gsm8k.TEACHER, raising=False)
    if not gsm8k.is_installed("transformers"):
        pytest.skip("transformers is not installed (extra hf)")
    assert gsm8k.TEACHER in gsm8k.why_skipped(full)
    run = Reproduction("gkd", only=["captions", "gsm8k"], out=tmp_path / "out")
    table = run.run()
    assert set(table["skipped"]) == {"captions", "gsm8k"}
    assert table["experiments"] == {}
    assert "### gsm8k\n\nSkipped. " in paper_markdown(table)


def test_there_are_five_seeds():
    assert paper_of("gkd").seeds == {"quick": 1, "full": 5}
    assert paper_of("beyer2021").seeds["full"] == 3


@pytest.mark.parametrize(
    ("text", "answer"),
    [("#### 18", "18"), ("a\n#### -1,250", "-1250"), ("#### 2.0", "2"), ("18", None), ("####", None)],
)
def test_the_answer_is_the_number_behind_four_signs(text, answer):
    assert gsm8k.read_answer(text) == answer
