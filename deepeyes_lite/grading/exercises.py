"""The exercises of a notebook: where they are, what an attempt is, what its check says about it."""

import ast
import importlib
import io
import json
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "notebooks"
LARGEST = 200e6  # bytes of a notebook that is read
SPOKEN = 2000  # characters kept of what a check says: it may repeat what an attempt gave

_MODULE = re.compile(r"^from checks import (\w+) as checks$", re.MULTILINE)
_CHECK = re.compile(r"^checks\.(\w+)\((my_\w+)((?:, \w+)*)\)$", re.MULTILINE)
_HEADING = re.compile(
    r"^### Exercise (\d+)(?:: [^·\n]+)? · difficulty ([1-5]) of 5 · (\d+) minutes$", re.MULTILINE
)
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Exercise:
    """One exercise, as the course's own notebook has it.

    Attributes:
        notebook: its stem.
        number: in its notebook, from 1.
        difficulty: 1 to 5.
        minutes: that a learner should need.
        function: the name of the stub, ``my_…``.
        module: the module of ``checks``.
        check: its function.
        more: names of what the check gets beside the attempt; `given` makes them.
    """

    notebook: str
    number: int
    difficulty: int
    minutes: int
    function: str
    module: str
    check: str
    more: tuple[str, ...] = ()


def sources(notebook: Path, kind: str) -> list[str]:
    """The text of all ``code`` or ``markdown`` cells; a ValueError says why there is none."""
    if notebook.stat().st_size > LARGEST:
        raise ValueError(f"larger than {LARGEST / 1e6:.0f} MB, clear its outputs: {notebook.name}")
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a notebook ({type(error).__name__}): {notebook.name}") from None


def exercises(notebook: Path) -> list[Exercise]:
    """All exercises of one of the course's notebooks, in order.

    Raises:
        ValueError: a check without a heading above it that says number, difficulty and minutes.
    """
    calls = [call for source in sources(notebook, "code") for call in _CHECK.findall(source)]
    headings = [h for source in sources(notebook, "markdown") for h in _HEADING.findall(source)]
    if len(calls) != len(headings):
        raise ValueError(
            f"{notebook.name}: {len(calls)} checks, but {len(headings)} headings such as "
            "'### Exercise 1 · difficulty 2 of 5 · 10 minutes'"
        )
    if not calls:
        return []
    (module,) = set(_MODULE.findall("\n".join(sources(notebook, "code"))))
    return [
        Exercise(
            notebook.stem, *map(int, heading), function, module, check, tuple(more.split(", ")[1:])
        )
        for heading, (check, function, more) in zip(headings, calls)
    ]


def course_notebook(path: Path) -> Path:
    """The course's notebook that a learner's file is a copy of.

    By the file's name, which has the original's in it (``jane-05_grpo_lora.ipynb``), else by the
    checks that it imports.
    """
    for original in sorted(COURSE.glob("*.ipynb")):
        if original.stem in path.stem:
            return original
    imported = set(_MODULE.findall("\n".join(sources(path, "code"))))
    for original in sorted(COURSE.glob("*.ipynb")):
        if imported & {exercise.module for exercise in exercises(original)}:
            return original
    raise ValueError(
        f"which notebook of the course is {path.name}? Let its name contain the original's, "
        "such as 05_grpo_lora"
    )


def attempt_of(cells: list[str], function: str):
    """The last ``function`` of a notebook, with what stands above it; the rest is not run.

    Run are imports, definitions and constants (a literal value, or a name in capitals), and in the
    function's own cell all assignments. What fails among them is left out: it may hang on results
    that the notebook has computed, which a function should take as its arguments.

    >>> cells = ["TWO = 2\\nprint('not run')", "def my_double(x):\\n    return TWO * x"]
    >>> attempt_of(cells, "my_double")(4)
    8

    Raises:
        NameError: there is no such function.
        SyntaxError: it stands in a cell that is no Python.
    """
    trees, home, broken = [], None, None
    for i, cell in enumerate(cells):
        try:
            trees.append(_parse(cell))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            trees.append([])
            if re.search(rf"^def {function}\b", cell, re.MULTILINE):
                home, broken = i, error
        if any(function in _bound(node) for node in trees[i]):
            home, broken = i, None
    if broken or home is None:
        raise broken or NameError(f"{function} is not defined in the notebook")
    names = {"__name__": "__main__"}
    for i, tree in enumerate(trees[: home + 1]):
        for node in tree:
            if _defines(node, at_home=i == home):
                code = compile(ast.Module([node], []), f"<code cell {i + 1}>", "exec")
                with suppress(*([] if function in _bound(node) else [Exception])):
                    exec(code, names)
    return names[function]


def _parse(cell: str) -> list[ast.stmt]:
    try:
        return ast.parse(cell).body
    except SyntaxError:  # IPython's lines are not Python's
        lines = [line for line in cell.splitlines() if not re.match(r"\s*[%!]|.*\?$", line)]
        return ast.parse("\n".join(lines)).body


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _defines(node: ast.stmt, at_home: bool) -> bool:
    if isinstance(node, _DEFINITIONS):
        return True
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    if at_home or any(name.isupper() for name in _bound(node)):
        return True
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return False
    return True


@lru_cache
def given(name: str):
    """What a check gets beside the attempt."""
    if name == "processor":
        from deepeyes_lite.models import load

        return load(ROOT / "data" / "tiny-eyes")[1]
    raise ValueError(f"no exercise is given {name!r} so far; exercises.given has to make it")


def judge(exercise: Exercise, attempt) -> str:
    """What the check says about an attempt, and only the check: what the attempt prints is not in it."""
    check = getattr(importlib.import_module(f"checks.{exercise.module}"), exercise.check)
    more = [given(name) for name in exercise.more]
    said = _Brief()
    judges = [m for name, m in sys.modules.items() if name.startswith("checks")]
    for module in judges:
        module.print = partial(print, file=said)
    try:
        check(attempt, *more)
    finally:
        for module in judges:
            del module.print
    return said.getvalue()


class _Brief(io.StringIO):
    """Keeps the beginning of what is written."""

    def write(self, text: str) -> int:
        return super().write(text[: max(0, SPOKEN - self.tell())])
