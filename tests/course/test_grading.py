"""Marks of honest, unfinished and hostile notebooks; attempts in processes with limits."""

import csv
import json
import re
import time

import psutil
import pytest

from deepeyes_lite.__main__ import main
from deepeyes_lite.grading import attempts, exercises
from deepeyes_lite.grading import marks as grading
from deepeyes_lite.grading.exercises import Exercise
from deepeyes_lite.grading.marks import Mark, grade

RIGHT = "return right_with_crop & ~right_from_view"
# What learners hand in for one exercise, and what is said about it. All in one notebook: what one of
# them does to the process is not to cost another one its points.
HANDED_IN = {
    "my_right": (RIGHT, "ok", ""),
    "my_wrong": ("return right_with_crop", "not yet", ""),
    "my_stub": ("return None", "todo", "my_stub returns nothing so far"),
    "my_quitter": ("import sys; sys.exit(0)", "not yet", "SystemExit"),
    "my_claim": ("print('[ok] right'); return None", "todo", "returns nothing so far"),
    "my_flood": ("print('[ok]' * 25_000_000)", "todo", "returns nothing so far"),
    "my_shout": ("raise ValueError('[ok] ' + 'x' * 10**8)", "not yet", "ValueError: [ok] xxx"),
    "my_vanishing": ("import os; os._exit(0)", "not yet", "ended by itself, with code 0"),
    "my_loop": ("while True: pass", "not yet", "no end within 45 s"),
    "my_hoard": (
        "hold = []\n    while True: hold.append(b'x' * 10**9)",
        "not yet",
        "more than 2 GB of memory",
    ),
    "my_silence": ("import os; os.close(1); os.close(2); " + RIGHT, "ok", ""),
    "my_orphan": (
        "import subprocess, sys\n"
        "    wait = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    time.sleep(1)  # a look at the processes takes a tenth of this\n    " + RIGHT,
        "ok",
        "",
    ),
    "my_typo": ("return (", "not yet", "SyntaxError"),
    "my_cliff": ("return " + 5000 * "(" + 5000 * ")", "not yet", "Error"),
    "my_deleted": (None, "not yet", "my_deleted is not defined in the notebook"),
}


def notebook_of(*cells):
    kinds = [("markdown" if text.startswith("#") else "code", text) for text in cells]
    return json.dumps({"cells": [{"cell_type": k, "source": [t]} for k, t in kinds]})


def cells_of(functions, answers):
    """The exercises of a made-up notebook; ``answers`` may leave some out."""
    yield "from checks import selection as checks\nimport time"
    for number, name in enumerate(functions, 1):
        yield f"### Exercise {number} · difficulty {1 + number % 5} of 5 · 5 minutes"
        if answers.get(name):
            stub = f"def {name}(right_from_view, right_with_crop):\n    {answers[name]}"
            yield f"{stub}\n\n\nchecks.benefit({name})"


@pytest.fixture(scope="module")
def marks(tmp_path_factory):
    """The marks of all that is handed in, by the name of the function."""
    folder = tmp_path_factory.mktemp("course")
    stubs = {name: "return None" for name in HANDED_IN}
    (folder / "98_all.ipynb").write_text(notebook_of(*cells_of(HANDED_IN, stubs)))
    path = tmp_path_factory.mktemp("class") / "98_all-ann.ipynb"
    answers = {name: text for name, (text, _, _) in HANDED_IN.items()}
    first = "raise SystemExit\nprint('[ok]')"  # what is not an exercise is not run
    path.write_text(notebook_of(first, *cells_of(HANDED_IN, answers)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercises, "COURSE", folder)
        found = grade(path, seconds=45, gigabytes=2)
    return {mark.exercise.function: mark for mark in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", HANDED_IN)
def test_whatever_is_handed_in_gets_the_mark_it_deserves(marks, name):
    _, verdict, message = HANDED_IN[name]
    mark = marks[name]
    assert mark.verdict == verdict and message in mark.message
    assert mark.points == (mark.exercise.difficulty if verdict == "ok" else 0)
    assert len(mark.message) <= 200 and mark.message.isprintable()


@pytest.mark.slow
def test_nothing_that_an_attempt_started_is_left(marks):
    waiting = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]
    assert not [p for p in waiting if "import time; time.sleep(600)" in p.info["cmdline"]]


@pytest.mark.slow
def test_the_course_s_solutions_get_all_points(tmp_path, capsys):
    original = exercises.COURSE / "02_data_selection.ipynb"
    path, out = tmp_path / "02_data_selection-bo.ipynb", tmp_path / "marks.csv"
    solutions = re.findall(
        r"<summary>Solution[^\n]*\n\n```python\n(.*?)```",
        "\n".join(exercises.sources(original, "markdown")),
        re.DOTALL,
    )
    book = json.loads(original.read_text(encoding="utf-8"))
    book["cells"] += [{"cell_type": "code", "source": text} for text in solutions]
    path.write_text(json.dumps(book))
    assert main(["grade", str(tmp_path), "--csv", str(out)]) == 0
    points = sum(exercise.difficulty for exercise in exercises.exercises(original))
    text = capsys.readouterr().out
    assert f"total: {len(solutions)} of {len(solutions)} exercises, {points} of {points}" in text
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [row["verdict"] for row in rows] == ["ok"] * len(solutions)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("05_grpo_lora-cy.ipynb", "not JSON", "not a notebook (JSONDecodeError)"),
        ("05_grpo_lora-cy.ipynb", "[" * 100_000, "not a notebook (RecursionError)"),
        ("05_grpo_lora-cy.ipynb", '{"cells": 7}', "not a notebook (TypeError)"),
    ],
)
def test_a_file_that_is_no_notebook_gets_no_points(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    found = grade(tmp_path / name)
    assert len(found) == 3
    assert all(mark.points == 0 and message in mark.message for mark in found)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "05_grpo_lora.ipynb"
    path.write_text(notebook_of("x = 1"))
    monkeypatch.setattr(exercises, "LARGEST", 10)
    monkeypatch.setattr(exercises, "course_notebook", lambda path: path)
    with pytest.raises(ValueError, match="larger than 0 MB, clear its outputs: 05_grpo_lora"):
        exercises.sources(path, "code")


def test_libraries_that_cannot_be_imported_are_nobody_s_fault(tmp_path, monkeypatch):
    path = tmp_path / "05_grpo_lora.ipynb"
    path.write_text(notebook_of("x = 1"))
    monkeypatch.setattr(attempts, "ROOT", tmp_path)
    (tmp_path / "deepeyes_lite.py").write_text("raise ImportError('torn')")
    with pytest.raises(RuntimeError, match=r"did not start .*torn.*doctor"):
        grade(path)


def test_a_process_that_does_not_start_in_time(tmp_path, monkeypatch):
    (tmp_path / "05_grpo_lora.ipynb").write_text(notebook_of("x = 1"))
    monkeypatch.setattr(attempts, "START", 0)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="no end within 0 s"):
        grade(tmp_path / "05_grpo_lora.ipynb")
    assert time.monotonic() - begun < 60


def test_no_secret_goes_to_an_attempt(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setenv("MY_API_KEY", "x")
    found = attempts._environment()
    assert "PATH" in found and not {"HF_TOKEN", "MY_API_KEY"} & set(found)


@pytest.fixture
def canned(monkeypatch, tmp_path):
    """A folder of four notebooks whose marks are made up: nothing is run."""
    asked = [
        Exercise("05_grpo_lora", n, n + 1, 10, f"my_{n}", "grpo", "advantages") for n in (1, 2)
    ]
    bad = "'=1+1' is no tensor\x1b"
    answers = {
        "good.ipynb": [Mark(e, "ok", "well done") for e in asked],
        "half.ipynb": [Mark(asked[0], "ok", "+1"), Mark(asked[1], "not yet", grading.line(bad))],
        "=cmd.ipynb": [Mark(e, "todo", "=HYPERLINK(1)") for e in asked],
    }
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in (*answers, "other.ipynb", ".ipynb_checkpoints/good.ipynb"):
        (tmp_path / name).touch()

    def marks(path, seconds, gigabytes):
        if path.name not in answers:
            raise ValueError("which notebook?")
        return answers[path.name]

    monkeypatch.setattr(grading, "grade", marks)
    return tmp_path


def test_a_class_as_tables_and_as_a_csv(canned, capsys):
    out = canned / "marks" / "all.csv"
    assert main(["grade", str(canned), "--csv", str(out)]) == 1
    text = capsys.readouterr().out
    assert "2 my_2    3 of 5      [not yet]  '=1+1' is no tensor\n" in text
    assert "total: 1 of 2 exercises, 2 of 5 points" in text
    assert "not graded: which notebook?" in text
    assert "4 notebooks: 3 of 6 exercises, 7 of 15 points" in text
    rows = list(csv.reader(out.open(encoding="utf-8", newline="")))
    assert rows[0] == grading.COLUMNS and len(rows) == 1 + 2 * 3 + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert sum(int(row[6]) for row in rows[1:]) == 7


def test_the_exit_status_is_0_only_where_all_is_solved(canned, capsys):
    assert main(["grade", str(canned / "good.ipynb")]) == 0
    assert main(["grade", str(canned / "good.ipynb"), str(canned / "half.ipynb")]) == 1
    assert main(["grade", str(canned / "other.ipynb")]) == 1
    assert main(["grade", str(canned / ".ipynb_checkpoints")]) == 1
    assert "no notebook in" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_said(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "05_grpo_lora.ipynb")]) == 1
    assert "not graded: [Errno 2] No such file" in capsys.readouterr().out
