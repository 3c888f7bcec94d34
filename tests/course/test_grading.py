"""Marks of honest, unfinished and hostile notebooks, which run in processes with limits."""

import csv
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

import grade
from grade import Exercise, main

RIGHT = "return right_with_crop & ~right_from_view"
# What learners hand in for one exercise, and what is said about it. All in one notebook: what one of
# them does to the process is not to cost another one its points.
HANDED_IN = {
    "my_right": (RIGHT, "ok", "what the view does not answer"),
    "my_wrong": ("return right_with_crop", "not yet", "it needs no zoom"),
    "my_stub": ("return None", "todo", "my_stub returns nothing so far"),
    "my_quitter": ("import sys; sys.exit(0)", "not yet", "SystemExit"),
    "my_claim": ("print('[ok] right'); return None", "todo", "returns nothing so far"),
    "my_flood": ("print('[ok]' * 25_000_000)", "todo", "returns nothing so far"),
    "my_shout": ("raise ValueError('[ok] ' + 'x' * 10**8)", "not yet", "ValueError: [ok] xxx"),
    "my_vanishing": ("import os; os._exit(0)", "not yet", "the process ended by itself"),
    "my_loop": ("while True: pass", "not yet", "no end within 20 s"),
    "my_hoard": ("x = []\n    while True: x.append(b'x' * 10**9)", "not yet", "more than 2 GB"),
    "my_silence": ("import os; os.close(1); os.close(2); " + RIGHT, "ok", ""),
    "my_orphan": (
        "import subprocess, sys\n"
        "    wait = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    time.sleep(1)  # a look at the processes takes a tenth of this\n    " + RIGHT,
        "ok",
        "",
    ),
    "my_typo": ("return (", "not yet", "my_typo' is not defined"),
    "my_deleted": (None, "not yet", "my_deleted' is not defined"),
    "my_secret": ("import os; return os.environ['HF_TOKEN']", "not yet", "KeyError: 'HF_TOKEN'"),
}


def notebook_of(*cells):
    """Cells as the text of a notebook; a text that begins with ``#`` is prose."""
    kinds = [("markdown" if text.startswith("#") else "code", text) for text in cells]
    return json.dumps({"cells": [{"cell_type": k, "source": [t]} for k, t in kinds]})


def cells_of(answers):
    """Cells of a made-up notebook of the course, with answers to its exercises."""
    yield "from checks import selection as checks\nimport time"
    for number, (name, answer) in enumerate(answers.items(), 1):
        yield f"### Exercise {number} · difficulty {1 + number % 5} of 5 · 5 minutes"
        if answer:
            stub = f"def {name}(right_from_view, right_with_crop):\n    {answer}"
            yield f"{stub}\n\n\nchecks.benefit({name})"


@pytest.mark.slow
def test_whatever_is_handed_in_gets_the_mark_it_deserves(tmp_path, monkeypatch):
    course, path = tmp_path / "course", tmp_path / "98_all-ann.ipynb"
    course.mkdir()
    stubs = notebook_of(*cells_of(dict.fromkeys(HANDED_IN, "return None")))
    (course / "98_all.ipynb").write_text(stubs, encoding="utf-8")
    answers = {name: text for name, (text, _, _) in HANDED_IN.items()}
    first = "print('[ok]')\nraise SystemExit"
    path.write_text(notebook_of(first, *cells_of(answers)), encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setattr(grade, "COURSE", course)
    marks = grade.grade(path, seconds=20, gigabytes=2)
    assert {exercise.function for exercise in marks} == HANDED_IN.keys()
    for exercise, (verdict, message) in marks.items():
        _, wanted, part = HANDED_IN[exercise.function]
        assert verdict == wanted and part in message and len(message) <= 1000, exercise
    waiting = [p.info["cmdline"] or () for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in waiting if "import time; time.sleep(600)" in command]


def test_what_is_no_notebook_is_not_read(tmp_path):
    path = tmp_path / "05_grpo_lora-cy.ipynb"
    for text in ("not JSON", "[" * 100_000, '{"cells": 7}', b"\xff\xfe\x00\xd8"):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match="not a notebook"):
            grade.grade(path)
    path.write_text(notebook_of("x = 1"), encoding="utf-8")
    with pytest.raises(ValueError, match="Keep the original's name in other.ipynb"):
        grade.grade(path.rename(tmp_path / "other.ipynb"))
    os.truncate(tmp_path / "other.ipynb", 60_000_000)
    os.mkfifo(path)
    for refused in (path, tmp_path / "other.ipynb", tmp_path / "absent.ipynb", tmp_path):
        with pytest.raises(ValueError, match="no file of at most 50 MB"):
            grade.grade(refused)


def test_a_file_without_a_size_is_read_to_a_bound(tmp_path, monkeypatch):
    path = tmp_path / "05_grpo_lora-di.ipynb"
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="no file of at most"):
        grade.grade(path)
    path.unlink()
    path.write_text(notebook_of("x = 1") + " " * 1000, encoding="utf-8")
    monkeypatch.setattr(grade, "LARGEST", 50)
    monkeypatch.setattr(
        grade.Path, "stat", lambda self, **_: SimpleNamespace(st_size=0, st_mode=0o100644)
    )
    with pytest.raises(ValueError, match="not a notebook"):
        grade.grade(path)


ORPHANS = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(611)
        os._exit(0)
time.sleep(0.5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no other system adopts")
def test_what_detaches_itself_ends_with_the_notebook():
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process = subprocess.Popen([sys.executable, "-c", ORPHANS])
    assert grade.watch(process, 60, 4e9) == "the process ended by itself"
    assert other.poll() is None
    other.kill()
    other.wait()
    left = [p.info["cmdline"] or () for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in left if ORPHANS in command]


def test_a_forged_line_costs_no_other_mark():
    for text in (b"", b"7", b"[1, 2]", b'["ok"]', b"[" * 100_000, b"\xff", b'["ok", "a", "b"]'):
        assert grade.read_entry(text) is None
    assert grade.read_entry(b'["ok", "well done"]') == ["ok", "well done"]


@pytest.mark.slow
def test_imports_that_fail_are_nobody_s_fault(tmp_path, monkeypatch):
    torn = "from checks import selection as checks\nimport torn_library"
    exercise = "### Exercise 1 · difficulty 1 of 5 · 5 minutes", "checks.benefit(my_keep)"
    (tmp_path / "98_all.ipynb").write_text(notebook_of(torn, *exercise), encoding="utf-8")
    monkeypatch.setattr(grade, "COURSE", tmp_path)
    with pytest.raises(RuntimeError, match="the course's imports fail: .*'torn_library'"):
        grade.grade(tmp_path / "98_all.ipynb")


@pytest.fixture
def marked(monkeypatch, tmp_path):
    """A folder of four notebooks whose marks are made up: nothing is run."""
    asked = [Exercise(n, n + 1, 10, "grpo", "advantages", f"my_{n}", "") for n in (1, 2)]
    answers = {
        "good.ipynb": [["ok", "well done"], ["ok", "well done"]],
        "half.ipynb": [["ok", "+1"], ["not yet", "'=1+1' is no tensor\x1b"]],
        "=cmd.ipynb": [["todo", "=HYPERLINK(1)"], ["todo", "@x"]],
    }
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in (*answers, "other.ipynb", ".ipynb_checkpoints/good.ipynb"):
        (tmp_path / name).touch()

    def grades(path, seconds, gigabytes):
        if path.name not in answers:
            raise MemoryError("which notebook?")
        return dict(zip(asked, answers[path.name]))

    monkeypatch.setattr(grade, "grade", grades)
    return tmp_path


def test_a_class_as_tables_and_as_a_csv(marked, capsys, monkeypatch):
    monkeypatch.chdir(marked)
    assert main([".", "--csv", "all.csv"]) == 1
    text = capsys.readouterr().out
    assert "  2 my_2             0 of 3  [not yet]  '=1+1' is no tensor\n" in text
    assert "[error]  which notebook?" in text
    assert "total: 3 of 7 exercises, 7 of 15 points" in text
    with open("all.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == grade.COLUMNS and len(rows) == 1 + 2 * 3 + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert sum(int(row[6]) for row in rows[1:]) == 7


def test_the_exit_status_is_0_only_where_all_is_solved(marked):
    assert main([str(marked / "good.ipynb")]) == 0
    assert main([str(marked / "good.ipynb"), str(marked / "half.ipynb")]) == 1
    assert main([str(marked / "other.ipynb")]) == 1
    assert main([str(marked / ".ipynb_checkpoints")]) == 1
