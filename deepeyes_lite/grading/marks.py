"""Marks for learners' notebooks: ``python -m deepeyes_lite grade notebook.ipynb``.

The exercises are those of the course's own notebook, so a deleted or changed check cell counts for
nothing. What an attempt can and cannot do to the grader: see ``attempts.py``.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from deepeyes_lite.files import atomic_write
from deepeyes_lite.grading.attempts import said_about
from deepeyes_lite.grading.exercises import Exercise, course_notebook, exercises, sources

COLUMNS = ["file", "notebook", "exercise", "function"]
COLUMNS += ["difficulty", "verdict", "points", "message"]


@dataclass(frozen=True)
class Mark:
    """What became of one exercise: ``verdict`` is ok, not yet or todo; the message is one short line."""

    exercise: Exercise
    verdict: str
    message: str

    @property
    def points(self) -> int:
        """An exercise is worth its difficulty."""
        return self.exercise.difficulty if self.verdict == "ok" else 0


def notebooks(paths: list[Path]) -> list[Path]:
    """The files among ``paths``, and all notebooks in the folders among them."""
    found = []
    for path in paths:
        inside = sorted(path.rglob("*.ipynb")) if path.is_dir() else [path]
        found += [p for p in inside if ".ipynb_checkpoints" not in p.parts]
    if not found:
        raise ValueError(f"no notebook in {', '.join(map(str, paths))}")
    return found


def grade(path: Path, seconds: float = 60, gigabytes: float = 4) -> list[Mark]:
    """The marks of one learner's notebook, whatever is in it.

    Args:
        path: the file.
        seconds: for each exercise.
        gigabytes: of memory, for the process with all libraries in it.

    Raises:
        ValueError: it cannot be told which of the course's notebooks it is, or that has no exercise.
        OSError: there is no such file.
        RuntimeError: the libraries cannot be imported.
    """
    original = course_notebook(path)
    asked = exercises(original)
    if not asked:
        raise ValueError(f"{original.name} has no exercises")
    try:
        cells = sources(path, "code")
    except ValueError as error:
        return [Mark(exercise, "not yet", line(str(error))) for exercise in asked]
    said = said_about(asked, cells, sources(original, "code"), seconds, gigabytes)
    return [_mark(exercise, text) for exercise, text in zip(asked, said)]


def _mark(exercise: Exercise, said: str) -> Mark:
    verdict, message = re.match(r"(?:\[(ok|not yet|todo)\] )?(.*)", line(said)).groups()
    return Mark(exercise, verdict or "not yet", message or "the check said nothing")


def line(text: str, limit: int = 200) -> str:
    """Somebody else's text as one short line without control characters.

    >>> line("a\\n\\x1b[31m b" + 300 * "c", 9)
    'a [31m b…'
    """
    words = "".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split()
    text = " ".join(words)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def table(path: Path, marks: list[Mark]) -> str:
    """The marks of one notebook for reading."""
    rows = [("exercise", "difficulty", "verdict", "message")]
    for mark in marks:
        e = mark.exercise
        rows.append(
            (f"{e.number} {e.function}", f"{e.difficulty} of 5", f"[{mark.verdict}]", mark.message)
        )
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    text = ["  ".join([*(f"{c:{w}}" for c, w in zip(row, widths)), row[3]]) for row in rows]
    return "\n".join([line(str(path)), *text, f"total: {total(marks)}"])


def total(marks: list[Mark]) -> str:
    """How much of it is solved."""
    solved, points = sum(m.points > 0 for m in marks), sum(m.points for m in marks)
    most = sum(mark.exercise.difficulty for mark in marks)
    return f"{solved} of {len(marks)} exercises, {points} of {most} points"


def write_csv(graded: dict[Path, list[Mark] | str], out: Path) -> None:
    """A line for each exercise of each notebook, for a spreadsheet; an error takes one line.

    Texts that a spreadsheet would take for a formula get an apostrophe.
    """
    formula = ("=", "+", "-", "@")

    def safe(value):
        return f"'{value}" if isinstance(value, str) and value.startswith(formula) else value

    with atomic_write(out) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path, marks in graded.items():
            if isinstance(marks, str):
                rows = [["", "", "", "", "error", 0, marks]]
            else:
                rows = [
                    [m.exercise.notebook, m.exercise.number, m.exercise.function]
                    + [m.exercise.difficulty, m.verdict, m.points, m.message]
                    for m in marks
                ]
            writer.writerows(map(safe, [line(str(path)), *row]) for row in rows)


def main(paths: list[Path], out: Path | None, seconds: float, gigabytes: float) -> int:
    """Grade, print, write; 0 if every exercise of every notebook is solved, else 1."""
    graded: dict[Path, list[Mark] | str] = {}
    for path in notebooks(paths):
        try:
            graded[path] = grade(path, seconds, gigabytes)
            print(table(path, graded[path]), end="\n\n")
        except (ValueError, OSError) as error:
            graded[path] = line(str(error))
            print(f"{line(str(path))}\nnot graded: {graded[path]}", end="\n\n")
    marks = [mark for found in graded.values() if not isinstance(found, str) for mark in found]
    if len(graded) > 1:
        print(f"{len(graded)} notebooks: {total(marks)}")
    if out:
        write_csv(graded, out)
        print(f"marks: {out}")
    failed = any(isinstance(found, str) for found in graded.values())
    return int(failed or any(mark.verdict != "ok" for mark in marks))
