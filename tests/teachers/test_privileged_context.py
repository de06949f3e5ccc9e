"""A teacher with a privileged context: its outputs are those of the longer text, at the student's positions."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from limbeck.batch import Batch, Outputs
from limbeck.data import ShuffledLoader, TokenDataset, train_tokenizer
from limbeck.engine import distill
from limbeck.errors import ArgumentError, DataError, UnknownNameError
from limbeck.functional import kl_divergence
from limbeck.functional.output_layer import HiddenLogits, OutputLayer
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import FunctionSession, PrivilegedContextTeacher, TeacherContext
from limbeck.teachers.wrapper import take_places
from limbeck.testing import check_teacher
from limbeck.testing.trials import TinyLanguageModel

MODEL = TinyLanguageModel(width=8, seed=3).eval()
PROMPTS, COMPLETIONS = [[1, 2], [3, 4, 5]], [[6, 7, 0], [8, 0]]
HINTS = [[9, 9, 1], [2]]


def batch(**extra):
    """Rows of prompt and completion, padded on the right."""
    width = 5
    rows = [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    ids = torch.zeros(2, width, dtype=torch.int64)
    labels = torch.full((2, width), -100)
    for i, (row, prompt) in enumerate(zip(rows, PROMPTS, strict=True)):
        ids[i, : len(row) - 1] = torch.tensor(row[:-1])
        labels[i, len(prompt) - 1 : len(row) - 1] = torch.tensor(row[len(prompt) :])
    there = torch.arange(width) < torch.tensor([len(row) - 1 for row in rows])[:, None]
    inputs = {"input_ids": ids, "attention_mask": there.long()}
    return Batch(inputs, id=torch.tensor([10, 20]), labels=labels, mask=labels >= 0, extra=extra)


def logits_of(front, completion):
    """The logits of each token of a completion behind a prompt, by one call on the text alone."""
    with torch.no_grad():
        return MODEL(torch.tensor([front + completion]))[0, len(front) - 1 : len(front) - 1 + len(completion)]


def ask(teacher, given):
    with teacher.open(TeacherContext()) as session:
        return session(given)["logits"]


@pytest.mark.parametrize("place", ["before", "after", "instead"])
def test_the_outputs_are_those_of_the_longer_text(place):
    given = batch()
    logits = ask(PrivilegedContextTeacher(MODEL, {10: HINTS[0], 20: HINTS[1]}, place=place), given)
    for row in range(2):
        hint, prompt = HINTS[row], PROMPTS[row]
        front = {"before": hint + prompt, "after": prompt + hint, "instead": hint}[place]
        torch.testing.assert_close(logits[row][given.mask[row]], logits_of(front, COMPLETIONS[row]))


def test_texts_are_read_with_the_tokenizer_of_the_loader():
    words = train_tokenizer(["a b c d e f"], vocabulary=30)
    rows = [{"prompt": "a b", "completion": " c"}, {"prompt": "b", "completion": " c d"}]
    loader = ShuffledLoader(TokenDataset(rows, tokenizer=words, add_eos_token=False), batch_size=2, shuffle=False)
    model, given = TinyLanguageModel(width=4, vocabulary=len(words)).eval(), loader.peek()
    by_text, by_id = (
        PrivilegedContextTeacher(model, contexts, by="text_number")
        for contexts in (["e f", ""], [words("e f", add_special_tokens=False)["input_ids"], []])
    )
    with by_text.open(TeacherContext(loader=loader)) as session, by_id.open(TeacherContext()) as other:
        assert session.query(given).inputs["input_ids"].shape[1] == given.inputs["input_ids"].shape[1] + 2
        assert torch.equal(session(given)["logits"], other(given)["logits"])


def test_without_a_context_it_is_the_teacher_itself():
    given = batch(nothing=[[], torch.tensor([], dtype=torch.int64)])
    with torch.no_grad():
        plain = MODEL(**given.inputs)
    torch.testing.assert_close(ask(PrivilegedContextTeacher(MODEL, "nothing"), given)[given.mask], plain[given.mask])


def test_contexts_are_a_column_a_sequence_a_mapping_or_a_function():
    given = batch(hint=HINTS, text_number=torch.tensor([[1] * 5, [0] * 4 + [-1]]))
    column = ask(PrivilegedContextTeacher(MODEL, "hint"), given)
    for context, by in (
        ({10: HINTS[0], 20: HINTS[1]}, "id"),
        ([HINTS[1], HINTS[0]], "text_number"),
        (lambda batch: [torch.tensor(hint) for hint in HINTS], "id"),
    ):
        assert torch.equal(ask(PrivilegedContextTeacher(MODEL, context, by=by), given), column)


def test_left_padding_and_bare_ids_give_the_same():
    given = batch(hint=HINTS)
    right = ask(PrivilegedContextTeacher(MODEL, "hint"), given)
    ids, mask = given.inputs["input_ids"], given.inputs["attention_mask"]
    order = torch.stack([torch.cat([(row == 0).nonzero(), row.nonzero()]).flatten() for row in mask])
    left = Batch(
        {"input_ids": ids.gather(1, order), "attention_mask": mask.gather(1, order)},
        labels=given.labels.gather(1, order), mask=given.mask.gather(1, order), extra=given.extra,
    )  # fmt: skip
    torch.testing.assert_close(ask(PrivilegedContextTeacher(MODEL, "hint"), left)[left.mask], right[given.mask])
    bare = given._replace(inputs=ids)
    torch.testing.assert_close(ask(PrivilegedContextTeacher(MODEL, "hint"), bare)[given.mask], right[given.mask])


def test_it_keeps_the_laws_of_teachers():
    check_teacher(PrivilegedContextTeacher(MODEL, {10: [1], 20: [2, 3]}), batch())


def test_another_context_has_another_fingerprint():
    teachers = [
        PrivilegedContextTeacher(MODEL, [[1]]),
        PrivilegedContextTeacher(MODEL, [[2]]),
        PrivilegedContextTeacher(MODEL, [[1]], place="after"),
        PrivilegedContextTeacher(MODEL, {0: [1]}, by="text_number"),
        PrivilegedContextTeacher(MODEL, "hint"),
    ]
    assert len({teacher.fingerprint for teacher in teachers}) == 5
    assert teachers[0].fingerprint == PrivilegedContextTeacher(MODEL, [torch.tensor([1])]).fingerprint


def test_a_student_teaches_itself_by_its_name():
    model = TinyLanguageModel(width=6)
    stage = Stage(Loss(kl_divergence), teacher=PrivilegedContextTeacher("student", "hint"), steps=2)
    run = distill(model, stage, [batch(hint=HINTS)], log_every=1).finish()
    assert all(report.loss > 0 for report in run.history)
    assert model.training


def test_hidden_states_of_a_teacher_are_placed_too():
    torch.manual_seed(0)
    hidden, places = torch.randn(2, 4, 3), torch.tensor([[3, 1], [0, 2]])
    logits = HiddenLogits(hidden, OutputLayer(torch.randn(5, 3)))
    chosen = take_places(logits, places, 4)
    torch.testing.assert_close(chosen.to_dense(), take_places(logits.to_dense(), places, 4))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"place": "behind"}, UnknownNameError), ({"by": "ids"}, UnknownNameError), ({"context": 3}, ArgumentError)],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused(arguments, error):
    with pytest.raises(error):
        PrivilegedContextTeacher(MODEL, **{"context": "hint", **arguments})


def test_batches_that_do_not_fit_get_one_sentence_each():
    given = batch(hint=HINTS)
    packed = given._replace(extra={**given.extra, "text_number": torch.tensor([[0, 0, 1, 1, 1]] * 2)})
    for context, other, error in (
        ("hints", given, UnknownNameError),
        ([[1]], given, DataError),
        ("hint", given._replace(labels=None), DataError),
        (["text", "text"], given._replace(id=torch.arange(2)), DataError),  # and no tokenizer
        ("hint", given._replace(mask=None), DataError),
        ("hint", packed, DataError),
        ("hint", given._replace(extra={"hint": [[1], [0.5]]}), DataError),
        ("hint", given._replace(extra={"hint": [[1]]}), DataError),
    ):
        with pytest.raises(error):
            ask(PrivilegedContextTeacher(MODEL, context), other)
    with pytest.raises(DataError):  # nothing is left in front of the completion
        ask(PrivilegedContextTeacher(MODEL, lambda batch: [[], []], place="instead"), given)
    for name, allowed in (("text", False), ("kept", True)):
        masks = {"text": given.inputs["attention_mask"].bool(), "kept": given.mask & (given.labels > 0)}
        some = given._replace(extra={**given.extra, "masks": masks})
        context = TeacherContext(masks=frozenset({name}))
        expected = nullcontext() if allowed else pytest.raises(DataError, match="text")
        with PrivilegedContextTeacher(MODEL, "hint").open(context) as session, expected:
            session(some)


def test_sessions_that_answer_ahead_get_the_longer_rows():
    given, seen = batch(hint=HINTS), []

    class Recording(FunctionSession):
        @property
        def ahead(self):
            return 2

    teacher = PrivilegedContextTeacher(MODEL, "hint")
    teacher.teachers = (_Given(Recording(lambda b: seen.append(b) or Outputs(logits=MODEL(**b.inputs)))),)
    with torch.no_grad(), teacher.open(TeacherContext()) as session:
        assert session.ahead == 2
        future = session.submit(given)
        assert seen[0].inputs["input_ids"].shape == (2, 7)
        assert future.result()["logits"].shape == (2, 5, 11)


class _Given:
    """A teacher with one session."""

    names = frozenset()
    capabilities = PrivilegedContextTeacher(MODEL, "hint").capabilities

    def __init__(self, session):
        self.session = session

    def open(self, context):
        return self.session
