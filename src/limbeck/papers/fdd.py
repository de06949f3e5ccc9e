"""Zhu et al., 2024, arXiv:2411.14698: harder variants of solved problems, and similar ones of the others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from limbeck.generated_texts import GeneratedText, ProgramError, RightProgram, filter_texts, run_program
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import RESULT, ExperimentScale, Figures, Row, TaskFolder
from limbeck.papers.small_texts import ask, make_student, make_tokenizer, share, train
from limbeck.task_runner import WorkItem

NAMES = ("Ann", "Ben", "Cat", "Dan")
THINGS = ("pens", "cups", "eggs", "nuts")
STEPS = {
    "+": ("gets {n}", "finds {n}"),
    "-": ("loses {n}", "drops {n}"),
    "*": ("times {n}",),
}
"""What can happen to a number of things, by the operation of a program."""
HARDEST = 4
"""The largest number of steps of a problem that is asked. The first problems have one or two."""
FIRST = 300
"""The number of problems before the first round; each round adds as many."""
ARMS = {
    "feedback": "harder variants of solved problems, similar ones of the others",
    "harder alone": "harder variants of solved problems",
    "similar alone": "similar variants of problems that were not solved",
    "random": "similar variants of random problems",
    "all difficulties": "random problems of all difficulties of the test: knows what the test asks",
}


class Problem(NamedTuple):
    """A word problem.

    Attributes:
        start: The number at the beginning.
        steps: The operations with their numbers.
        words: Which of several words each step has; the last two are the name and the thing.
    """

    start: int
    steps: tuple[tuple[str, int], ...]
    words: tuple[int, ...]

    @property
    def difficulty(self) -> int:
        """The number of steps."""
        return len(self.steps)

    @property
    def text(self) -> str:
        """The problem in words."""
        name, thing = NAMES[self.words[-2] % len(NAMES)], THINGS[self.words[-1] % len(THINGS)]
        told = [
            STEPS[kind][word % len(STEPS[kind])].format(n=number)
            for (kind, number), word in zip(self.steps, self.words, strict=False)
        ]
        return f"{name} has {self.start} {thing}; " + "; ".join(told) + "?"

    @property
    def program(self) -> str:
        """The rationale: a program with one line for each step."""
        lines = [f"a={self.start}", *(f"a{kind}={number}" for kind, number in self.steps)]
        return "\n".join(lines)

    @property
    def answer(self) -> str:
        """The right answer."""
        return str(run_program(self.program))


def draw_problem(difficulty: int, rng: random.Random) -> Problem:
    """Draw a problem with a number of steps."""
    steps = tuple((rng.choice(list(STEPS)), rng.randrange(2, 10)) for _ in range(difficulty))
    return Problem(rng.randrange(2, 10), steps, tuple(rng.randrange(12) for _ in range(difficulty + 2)))


def evolve(problem: Problem, rng: random.Random) -> Problem:
    """Write a harder variant of a problem: the same with one step more."""
    at = rng.randrange(problem.difficulty + 1)
    step = (rng.choice(list(STEPS)), rng.randrange(2, 10))
    steps = (*problem.steps[:at], step, *problem.steps[at:])
    return Problem(problem.start, steps, (*problem.words[:at], rng.randrange(12), *problem.words[at:]))


def vary(problem: Problem, rng: random.Random) -> Problem:
    """Write a similar problem: other numbers, names and words, with as many steps."""
    return draw_problem(problem.difficulty, rng)


def partition(problems: Sequence[Problem], solved: Callable[[Problem], bool]) -> tuple[list[Problem], list[Problem]]:
    """Part problems into the easy ones, which the student solves, and the hard ones."""
    easy, hard = list[Problem](), list[Problem]()
    for problem in problems:
        (easy if solved(problem) else hard).append(problem)
    return easy, hard


def find_solved(student: Any, tokenizer: Any, problems: Sequence[Problem]) -> list[bool]:
    """Run the programs that a student writes, and compare with the right answers."""
    longest = 5 * (HARDEST + 3)
    programs = ask(student, tokenizer, [problem.text for problem in problems], max_new_tokens=longest).texts
    return [is_right(texts[0], problem) for texts, problem in zip(programs, problems, strict=True)]


def is_right(program: str, problem: Problem) -> bool:
    """Whether a program has the right result."""
    try:
        return str(run_program(program)) == problem.answer
    except ProgramError:
        return False


def write_new(
    arm: str, problems: Sequence[Problem], solved: Sequence[bool], count: int, rng: random.Random
) -> list[Problem]:
    """Write the new problems of a round, and keep those whose program has the right result.

    The exact generator stands for the language model of the paper, so the filter refuses nothing; it is what a user of
    a model would run.
    """
    by_problem = dict(zip(problems, solved, strict=True))
    easy, hard = partition(list(by_problem), by_problem.__getitem__)
    if arm == "all difficulties":
        new = [draw_problem(rng.randrange(1, HARDEST + 1), rng) for _ in range(count)]
    else:
        pools = {
            "feedback": [*((problem, evolve) for problem in easy), *((problem, vary) for problem in hard)],
            "harder alone": [(problem, evolve) for problem in easy],
            "similar alone": [(problem, vary) for problem in hard],
        }
        # Where nothing is solved, or everything, there are similar variants of random problems.
        pool = pools.get(arm) or [(problem, vary) for problem in problems]
        chosen = [pool[rng.randrange(len(pool))] for _ in range(count)]
        new = [change(problem, rng) for problem, change in chosen]
    return [problem for problem in new if _passes(problem)]


def _passes(problem: Problem) -> bool:
    text = GeneratedText(0, 0, problem.text, problem.program, problem.answer)
    return bool(filter_texts([text], [RightProgram()])[0])


def _first_problems(seed: int) -> list[Problem]:
    rng = random.Random(1000 + seed)
    return [draw_problem(rng.choice((1, 2)), rng) for _ in range(FIRST)]


def _train(tokenizer: Any, problems: Sequence[Problem], seed: int, **how: int) -> Any:
    student = make_student(tokenizer, seed=seed, positions=96)
    train(student, tokenizer, [(one.text, one.program) for one in problems], seed=seed, **how)
    return student


def begin(desk: TaskFolder, *, seed: int, steps: int, batch_size: int, test: int) -> Figures:
    """Train the first student, which all arms share, and find the problems that it solves."""
    del desk
    tokenizer, problems = _tokenizer(), _first_problems(seed)
    student = _train(tokenizer, problems, seed, steps=steps, batch_size=batch_size)
    return {**_score(student, tokenizer, test), "solved": find_solved(student, tokenizer, problems)}


def study(desk: TaskFolder, *, arm: str, seed: int, steps: int, batch_size: int, rounds: int, test: int) -> Figures:
    """Run the rounds of an arm, with a new student in each, and ask the last one for new problems."""
    tokenizer, problems = _tokenizer(), _first_problems(seed)
    first = json.loads((desk.of(_first(seed)) / RESULT).read_text(encoding="utf-8"))
    solved, student = list[bool](first["figures"]["solved"]), None
    for number in range(rounds):
        if student is not None:
            solved = find_solved(student, tokenizer, problems)
        new = write_new(arm, problems, solved, FIRST, random.Random(f"{seed} {number} {arm}"))
        problems = [*problems, *new]
        student = _train(tokenizer, problems, seed, steps=steps, batch_size=batch_size)
    return {
        **_score(student, tokenizer, test),
        "difficulty": sum(one.difficulty for one in problems[FIRST:]) / len(problems[FIRST:]),
        "problems": len(problems),
    }


def _score(student: Any, tokenizer: Any, test: int) -> dict[str, Any]:
    """Right answers to new problems by difficulty, and their mean."""
    fixed, figures = random.Random(1), {}
    for difficulty in range(1, HARDEST + 1):
        asked = [draw_problem(difficulty, fixed) for _ in range(test // HARDEST)]
        figures[f"steps {difficulty}"] = share(find_solved(student, tokenizer, asked))
    return {"accuracy": sum(figures.values()) / HARDEST, **figures}


def _tokenizer() -> Any:
    """A tokenizer whose tokens are words; the texts for it are the same for every arm."""
    rng = random.Random(0)
    problems = [draw_problem(4, rng) for _ in range(200)]
    return make_tokenizer("\n".join(f"{one.text} a=1 a+=1 a-=1 a*=1" for one in problems), 300)


def _first(seed: int) -> str:
    return f"feedback/first/seed-{seed}"


def _sizes(scale: ExperimentScale) -> dict[str, Any]:
    sizes = {"steps": scale.pick(150, 400), "batch_size": scale.pick(32, 64), "rounds": scale.pick(1, 3)}
    return {**sizes, "test": scale.pick(120, 1000)}


def _first_tasks(scale: ExperimentScale) -> list[WorkItem]:
    sizes = {key: value for key, value in _sizes(scale).items() if key != "rounds"}
    return [WorkItem(_first(seed), partial(begin, seed=seed, **sizes), (), scale.pick(4, 20)) for seed in scale.seeds]


RIGHT = Figure("accuracy", "right answers", "%")
FIGURES = (
    RIGHT,
    *(Figure(f"steps {n}", f"{n} step{'s' * (n > 1)}", "%") for n in range(1, HARDEST + 1)),
    Figure("difficulty", "mean steps of new problems", "steps"),
    Figure("problems", "problems", ""),
)
CLAIMS = tuple(Claim.of_difference("feedback", arm, RIGHT) for arm in ("harder alone", "similar alone", "random"))


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    start = [results[_first(seed)] for seed in scale.seeds]
    solved = [share(one["solved"]) for one in start]
    return [
        Row("before the first round: right answers", [one["accuracy"] for one in start], "%", lower_is_better=False),
        Row("  of the problems that it learned", solved, "%", lower_is_better=False),
    ]


STUDY = ClaimStudy(
    "feedback", "Do problems that follow the student's results teach more than as many others?", ARMS, study, FIGURES,
    CLAIMS, {"quick": 4, "full": 60}, settings=_sizes, shared=_first_tasks, requires=lambda seed: (_first(seed),),
    rows=_rows,
)  # fmt: skip
TITLE = (
    "Zhu, Li, Ma and Wang, Improving Mathematical Reasoning Capabilities of Small Language Models via Feedback-Driven "
    "Distillation, 2024, arXiv:2411.14698"
)
CLAIM = "New problems that follow the student's results teach it more than as many others."
EXPERIMENTS = (STUDY.experiment(),)
