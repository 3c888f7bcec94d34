"""Every exercise of every notebook: a stub that is left open, a folded solution that passes."""

import json
import re

import pytest

from deepeyes_lite.grading import exercises as room
from deepeyes_lite.grading.exercises import COURSE, attempt_of, course_notebook, judge, sources

NOTEBOOKS = sorted(COURSE.glob("*.ipynb"))
STUB = r"def (my_\w+)\([^\n]*\n(?:    \"\"\".*?\"\"\"\n)?    # your code.*?return None"
SOLUTION = r"<summary>Solution[^\n]*\n\n```python\n(.*?)```\n.*?</details>"
EXERCISES = [(path, exercise) for path in NOTEBOOKS for exercise in room.exercises(path)]
ALL = pytest.mark.parametrize(
    ("notebook", "exercise"), EXERCISES, ids=[f"{p.stem[:2]}-{e.function}" for p, e in EXERCISES]
)


def solutions(notebook):
    """The folded solutions, by the name of the function."""
    found = re.findall(SOLUTION, "\n".join(sources(notebook, "markdown")), re.DOTALL)
    return {re.search(r"^def (my_\w+)\(", text, re.MULTILINE)[1]: text for text in found}


@ALL
def test_the_stub_is_left_open(notebook, exercise):
    stub = attempt_of(sources(notebook, "code"), exercise.function)
    assert judge(exercise, stub) == f"[todo] {exercise.function} returns nothing so far\n"


@ALL
def test_the_folded_solution_passes(notebook, exercise):
    cells = [*sources(notebook, "code"), solutions(notebook)[exercise.function]]
    assert judge(exercise, attempt_of(cells, exercise.function)).startswith("[ok] ")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_stub_and_every_solution_has_its_check(notebook):
    asked = room.exercises(notebook)
    stubs = re.findall(STUB, "\n".join(sources(notebook, "code")), re.DOTALL)
    assert stubs == list(solutions(notebook)) == [exercise.function for exercise in asked]
    assert [exercise.number for exercise in asked] == [*range(1, len(asked) + 1)]


def test_only_what_a_function_may_need_is_run():
    cells = [
        "import math\nLONG = math.pi\nshort = [1, 2]\ncomputed = math.tau\nraise SystemExit",
        "%matplotlib inline\n!ls\ndef helper(x):\n    return x + len(short)",
        "half = LONG / 2\nwhile True: pass\ndef my_sum(x):\n    return helper(x) + half",
        "def my_other():\n    return computed",
        "helper = None",
    ]
    assert attempt_of(cells, "my_sum")(1) == pytest.approx(3 + 3.14159 / 2, abs=1e-4)
    with pytest.raises(NameError, match="computed"):
        attempt_of(cells, "my_other")()
    assert attempt_of([*cells, "my_sum = lambda x: 7"], "my_sum")(1) == 7
    assert attempt_of(["def my_sum(:", *cells], "my_sum")(1) == attempt_of(cells, "my_sum")(1)


@pytest.mark.parametrize(
    ("cells", "error"),
    [
        ([], NameError),
        (["my_sum(1)"], NameError),
        (["def my_sum(x)\n    return x"], SyntaxError),
        (["def my_sum(x):\n    return x\0"], (SyntaxError, ValueError)),
        (["def my_sum(x):\n    return x", "def my_sum(x:\n    pass"], SyntaxError),
        (["def my_sum(x=1 / 0):\n    return x"], ZeroDivisionError),
    ],
)
def test_no_attempt_raises(cells, error):
    with pytest.raises(error):
        attempt_of(cells, "my_sum")


def notebook_of(*cells):
    """Code cells as the text of a notebook; a text that begins with ``#`` is prose."""
    kinds = [("markdown" if text.startswith("#") else "code", text) for text in cells]
    return json.dumps({"cells": [{"cell_type": k, "source": [t]} for k, t in kinds]})


def test_a_learner_s_file_is_known_by_its_name_or_by_its_checks(tmp_path):
    path = tmp_path / "jane-05_grpo_lora (2).ipynb"
    path.write_text("not even JSON")
    assert course_notebook(path).stem == "05_grpo_lora"
    path = tmp_path / "homework.ipynb"
    path.write_text(notebook_of("from checks import rollout as checks"))
    assert course_notebook(path).stem == "03_imcot_rollout"
    for text in (notebook_of("import math"), "{}", "[]", "[" * 100_000, b"\xff\xfe\x00\xd8"):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match="which notebook of the course|not a notebook"):
            course_notebook(path)


def test_an_exercise_needs_number_difficulty_and_minutes(tmp_path):
    path = tmp_path / "a.ipynb"
    check = "from checks import grpo as checks\n\n\nchecks.token_loss(my_loss)"
    path.write_text(notebook_of("### Exercise 1 · difficulty 6 of 5 · 10 minutes", check))
    with pytest.raises(ValueError, match="1 checks, but 0 headings such as"):
        room.exercises(path)
    path.write_text(notebook_of("### Exercise 1: a name · difficulty 4 of 5 · 10 minutes", check))
    (exercise,) = room.exercises(path)
    assert (exercise.difficulty, exercise.minutes, exercise.function) == (4, 10, "my_loss")


def test_what_an_attempt_prints_is_not_the_check_s(monkeypatch, capsys):
    exercise = next(e for _, e in EXERCISES if e.function == "my_keep")

    def my_keep(*args):
        print("[ok] trust me")

    assert judge(exercise, my_keep) == "[todo] my_keep returns nothing so far\n"
    assert "trust me" in capsys.readouterr().out
    monkeypatch.setattr(room, "SPOKEN", 30)

    def my_keep(*args):
        raise ValueError("x" * 1000)

    assert judge(exercise, my_keep) == "[not yet] ValueError: xxxxxxxx"
