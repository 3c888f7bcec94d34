"""Every exercise of every notebook: a stub that is left open, a folded solution that passes."""

import ast
import importlib
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
STUB = r"def (my_\w+)\([^\n]*\n(?:    \"\"\".*?\"\"\"\n)?    # your code.*?return None"
SOLUTION = r"<summary>Solution[^\n]*\n\n```python\n(.*?)```\n.*?</details>"
CHECK = r"^checks\.(\w+)\((my_\w+)((?:, \w+)*)\)$"


def sources(notebook, kind):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def names_of(notebook):
    """What a solution may use: the notebook's imports and its constants."""
    names = {}
    for source in sources(notebook, "code"):
        lines = [line for line in source.splitlines() if not line.startswith("%")]
        for node in ast.parse("\n".join(lines)).body:
            constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), names)
            elif constant:
                with suppress(NameError):  # one that hangs on what the notebook has computed
                    exec(ast.unparse(node), names)
    return names


def exercises():
    """(notebook, check, function, further arguments) of every exercise."""
    return [
        (notebook, check, function, more)
        for notebook in NOTEBOOKS
        for source in sources(notebook, "code")
        for check, function, more in re.findall(CHECK, source, re.MULTILINE)
    ]


EXERCISES = exercises()
ALL = pytest.mark.parametrize(
    ("notebook", "check", "function", "more"),
    EXERCISES,
    ids=[f"{notebook.stem[:2]}-{function}" for notebook, _, function, _ in EXERCISES],
)


def verdict(notebook, check, attempt, more, processor, capsys):
    """What the check of the notebook prints about an attempt."""
    (module,) = {
        found
        for source in sources(notebook, "code")
        for found in re.findall(r"from deepeyes_lite\.checks import (\w+) as checks", source)
    }
    judge = getattr(importlib.import_module(f"deepeyes_lite.checks.{module}"), check)
    extra = [{"processor": processor}[name] for name in more.split(", ")[1:]]
    capsys.readouterr()
    assert judge(attempt, *extra) is None
    return capsys.readouterr().out


def function_of(notebook, sources, pattern, function):
    (source,) = (
        match[0] if pattern is STUB else match[1]
        for source in sources
        for match in re.finditer(pattern, source, re.DOTALL)
        if f"def {function}(" in match[0]
    )
    names = names_of(notebook)
    exec(source, names)
    return names[function]


@ALL
def test_the_stub_is_left_open(notebook, check, function, more, processor, capsys):
    stub = function_of(notebook, sources(notebook, "code"), STUB, function)
    said = verdict(notebook, check, stub, more, processor, capsys)
    assert said == f"[todo] {function} returns nothing so far\n"


@ALL
def test_the_folded_solution_passes(notebook, check, function, more, processor, capsys):
    solution = function_of(notebook, sources(notebook, "markdown"), SOLUTION, function)
    assert verdict(notebook, check, solution, more, processor, capsys).startswith("[ok] ")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_stub_and_every_solution_has_its_check(notebook):
    checked = [function for place, _, function, _ in EXERCISES if place == notebook]
    stubs = re.findall(STUB, "\n".join(sources(notebook, "code")), re.DOTALL)
    solutions = re.findall(SOLUTION, "\n".join(sources(notebook, "markdown")), re.DOTALL)
    solved = [re.search(r"^def (my_\w+)\(", text, re.MULTILINE)[1] for text in solutions]
    assert stubs == solved == checked
