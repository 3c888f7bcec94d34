"""Every exercise: its solution passes, a stub stays open, each mistake is told by its own message."""

import ast
import importlib
import math
import pkgutil
import re
from functools import partial

import numpy as np
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

import checks
from checks import rewards, rollout, selection, start
from checks.exercise import Exercise
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout as play
from grade import CHECK, COURSE, exercises, sources

MODULES = [
    importlib.import_module(f"checks.{m.name}") for m in pkgutil.iter_modules(checks.__path__)
]
EXERCISES = {
    (module.__name__.removeprefix("checks."), name): value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, Exercise)
}
NOTEBOOKS = sorted(COURSE.glob("*.ipynb"))
ASKED = {(e.module, e.check): (path, e) for path in NOTEBOOKS for e in exercises(path)}
STUB = r"def (my_\w+)\([^\n]*\n(?:    \"\"\".*?\"\"\"\n)?    # your code.*?return None"
SOLUTION = r"<summary>Solution[^\n]*\n\n```python\n(.*?)```\n.*?</details>"
ALL = pytest.mark.parametrize("key", EXERCISES, ids="-".join)


@pytest.fixture
def judge(request):
    """Judges as the notebook does, with what it hands over beside the attempt."""

    def judged(key, attempt):
        more = ASKED[key][1].more.split(", ")[1:]
        return EXERCISES[key].judge(attempt, *map(request.getfixturevalue, more))

    return judged


def solutions(notebook):
    """The folded solutions, by the name of the function."""
    found = re.findall(SOLUTION, "\n".join(sources(notebook, "markdown")), re.DOTALL)
    return {re.search(r"^def (my_\w+)\(", text, re.MULTILINE)[1]: text for text in found}


def functions_of(notebook, asked):
    """The stub of an exercise and its folded solution, with the imports that they use."""
    (cell,) = [cell for cell in sources(notebook, "code") if f"def {asked.function}(" in cell]
    solution, names = solutions(notebook)[asked.function], {}
    code = TransformerManager().transform_cell("\n".join(sources(notebook, "code")))  # its magics
    for node in ast.walk(ast.parse(code)):
        bound = {n.asname or n.name for n in getattr(node, "names", []) if isinstance(n, ast.alias)}
        if bound & set(re.findall(r"\w+", solution)):
            exec(ast.unparse(node), names)
    for source in (CHECK.sub("", cell), solution):
        exec(source, names)
        yield names[asked.function]


@ALL
def test_a_solution_passes_and_a_stub_stays_open(key, judge):
    exercise = EXERCISES[key]

    def broken(*arguments):
        raise ArithmeticError("torn")

    assert judge(key, exercise.solution) == ("ok", exercise.praise)
    assert judge(key, lambda *_: None) == ("todo", "<lambda> returns nothing so far")
    verdict, message = judge(key, broken)
    assert verdict == "not yet" and "ArithmeticError: torn" in message and exercise.hint in message


@ALL
def test_each_mistake_is_told_by_its_own_message(key, judge):
    exercise = EXERCISES[key]
    for message, mistake in exercise.mistakes.items():
        assert judge(key, mistake) == ("not yet", message)
    for message, case in exercise.cases.items() if isinstance(exercise.cases, dict) else ():

        def wrong_once(*arguments, case=case):
            right = exercise.solution(*arguments)
            if arguments[: len(case)] != case:
                return right
            return not right if isinstance(right, bool) else None if right else ("a", "b")

        verdict, told = judge(key, wrong_once)
        assert verdict == "not yet" and told.startswith(f"{message}\n  wrong_once(")


@ALL
def test_the_notebook_leaves_its_stub_open_and_its_folded_solution_passes(key, judge):
    notebook, asked = ASKED[key]
    stub, solution = functions_of(notebook, asked)
    assert judge(key, stub) == ("todo", f"{asked.function} returns nothing so far")
    assert judge(key, solution)[0] == "ok"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_stub_has_a_check_a_heading_and_a_folded_solution(notebook):
    asked = exercises(notebook)
    stubs = re.findall(STUB, "\n".join(sources(notebook, "code")), re.DOTALL)
    assert stubs == list(solutions(notebook)) == [exercise.function for exercise in asked]
    assert [exercise.number for exercise in asked] == [*range(1, len(asked) + 1)]


def test_every_exercise_is_asked_once():
    assert not EXERCISES.keys() - ASKED.keys()
    assert len(ASKED) == sum(len(exercises(path)) for path in NOTEBOOKS)


class Yes:
    """Equal to everything."""

    def __eq__(self, other):
        return True


def judged(solution, attempt, cases=((2,),), **more):
    return Exercise(list(cases), solution, {}, "well", **more).judge(attempt)


def test_numbers_of_every_kind_are_compared_with_a_tolerance():
    for right, given in [
        (0.5, torch.tensor(0.501)),
        ([1, 2], (True, np.float32(2.0))),
        (torch.ones(2, 3, requires_grad=True), np.ones((2, 3)).tolist()),
        (math.inf, float("inf")),
        ([[1], [2, math.nan]], [[1.0], (2, float("nan"))]),
        ({("a", 1): 0.5}, {("a", 1): 0.5001}),
        (("What?", None), ["What?", None]),
        (torch.tensor([True, False]), [1, 0]),
    ]:
        assert judged(lambda _, right=right: right, lambda _, given=given: given) == ("ok", "well")


def test_what_differs_is_told():
    for right, given, message in [
        ([1, 2], [1, 2, 3], "the shape is (3,), not (2,)\ngive two"),
        ([[1], [2]], 1, "the shape is (), not (2, 1)\ngive two"),
        (1, 1.01, "expected 1.0, got 1.01"),
        (1, math.nan, "expected 1.0, got nan"),
        (1, 10**400, "expected 1.0, got 1000"),
        ("12", 12, "expected '12', got 12.0"),
        ({"a": 1}, {"b": 1}, "expected {'a': 1.0}, got {'b': 1.0}"),
        ((1, "a"), Yes(), "expected [1.0, 'a'], got <"),
        ("K", "x" * 1000, " …"),
    ]:
        verdict, told = judged(lambda _: right, lambda _: given, hint="give two")  # noqa: B023
        assert verdict == "not yet" and message in told


def test_a_case_is_named_where_there_are_more_and_no_attempt_spoils_it():
    def my_sum(numbers):
        return numbers.pop() + numbers.pop() if len(numbers) > 1 else None

    cases = [([1, 2],), ([3],)]
    assert judged(sum, my_sum, cases) == ("not yet", "my_sum([3.0]): expected 3.0, got None")
    assert cases == [([1, 2],), ([3],)]
    told = judged(sum, lambda numbers: 3 / (len(numbers) - 1), cases, hint="add")[1]
    assert told == "<lambda>([3.0]): ZeroDivisionError: division by zero\nadd"


def test_messages_that_depend_on_the_value(processor):
    needed = sorted(start.needed())
    readable = sorted(start.EVERYONE - start.needed())
    view = rollout.SCENE.resize((96, 96))
    table = [
        (start.needs_zoom, lambda: [*needed, 7], "numbered from 1 to 6, got ["),
        (start.needs_zoom, lambda: [*needed, readable[0]], "1 of yours can be read in the view"),
        (start.needs_zoom, lambda: needed[:-1], "right so far, but 1 more cannot be read"),
        (start.needs_zoom, lambda: ["two"], "such as [1, 6]"),
        (selection.benefit, lambda v, c: c - 2 * v.astype(int), "True or False for every question"),
        (selection.signal, lambda p, k: p[0], "the shape is (), not (6,)"),
        (selection.rewrite, lambda q, a: q, "give (question, answer) or None, not 'What"),
        (selection.rewrite, lambda q, a: (q, 1), "question and answer are text, got ["),
        (rewards.form, lambda turns: np.ones(2), "give True or False"),
        (rollout.crop, lambda scene, box: box, "return the crop, an image, not a tuple"),
        (rollout.crop, lambda scene, box: scene.crop((0, 0, 0, 1)), "the crop is empty"),
        (rollout.crop, lambda scene, box: view.resize((400, 200)), "the fine pattern is gone"),
        (rollout.crop, lambda scene, box: scene, "your crop is 400 x 200 px from (0, 0), expected"),
        (
            rollout.mask,
            lambda *_: [1, 0] + rollout.MASK[2:],
            "position 1 (id 12) is 0.0, expected 1",
        ),
        (rollout.mask, lambda *_: rollout.MASK[1:], "every id needs a value of its own"),
    ]
    for exercise, attempt, message in table:
        verdict, told = exercise.judge(attempt)
        assert verdict == "not yet" and message in told, told
    returns_nothing = partial(rollout.one_step, after_answer=None)
    assert "my_step returned None" in rollout.step.judge(returns_nothing, processor)[1]


def test_the_step_of_the_exercise_is_the_package_s(processor):
    image = Image.new("RGB", (384, 384), (200, 200, 200))
    row = {"id": "a", "image": image, "question": "What letter is it?", "answer": "K"}
    for name, script in rollout.SCRIPTS.items():
        (episode,) = play([row], ScriptedPolicy(processor, script), progress=False)
        made = rollout.play(rollout.one_step, name, processor)
        assert made["ids"] == episode.completion_ids and made["mask"] == episode.loss_mask
        assert made["images"] == len(episode.images)


def test_the_six_questions_are_a_mixture():
    assert 2 <= len(start.needed()) <= 4 and start.needed() != {1, 2, 3}
