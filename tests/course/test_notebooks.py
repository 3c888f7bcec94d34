"""What every notebook of the course keeps to, read off the file; nothing is run.

A rule takes a notebook and its path and gives complaints. Each rule is tried on every notebook, and on
a copy that breaks it: a rule that cannot complain says nothing.
"""

import ast
import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "notebooks"


def read(path: Path):
    """As it is: nbformat's own reader mends what we look for."""
    return nbformat.from_dict(json.loads(path.read_text(encoding="utf-8")))


BOOKS = {path: read(path) for path in sorted(COURSE.glob("*.ipynb"))}
PROSE = [
    *sorted(ROOT.glob("*.md")),
    *sorted(COURSE.glob("*.md")),
    ROOT / "data/tiny-eyes/README.md",
]

GLANCE = ["You will be able to", "Time", "Hardware", "Run time", "Needs", "Rooms used"]
CELLS = range(30, 51)
# The map of the course and the reading of trained behaviour may do without exercises, and are shorter.
CELLS_WITHOUT_EXERCISES = range(15, 51)
CODE_LINES, BYTES, CHECKED, ALT_WORDS = 200, 500_000, 3, 3
# Deterministic by construction: nbval compares every output, but for the time that the run took and for
# what belongs to the reader, such as a score of their own.
STRICT, EXCUSED = {"01_why_zoom"}, 3
PLACES = re.compile(r"(?<![\w.:/])(/(?:root|work|home|tmp|Users|mnt|opt)\b|[A-Z]:\\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
SAYING = {"print", "display", "plots.show"}  # calls that leave an output, and those of `checks`


def text_of(cell) -> str:
    return "".join(cell.source)


def prose(nb) -> str:
    """The text of all markdown cells, without fenced code."""
    return "\n\n".join(FENCE.sub("", text_of(c)) for c in nb.cells if c.cell_type == "markdown")


def code(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def lines_of_code(nb) -> int:
    """Neither empty lines nor comments."""
    lines = [line.strip() for cell in code(nb) for line in text_of(cell).splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def headings(nb) -> list[tuple[int, str]]:
    return [(len(m[1]), m[2]) for m in re.finditer(r"^(#+) +(.+?)\s*$", prose(nb), re.MULTILINE)]


def size(nb, path):
    exercises = "\nchecks." in "\n".join(map(text_of, code(nb)))
    wanted = CELLS if exercises else CELLS_WITHOUT_EXERCISES
    if len(nb.cells) not in wanted:
        yield f"{len(nb.cells)} cells, not {wanted.start} to {wanted.stop - 1}"
    if lines_of_code(nb) > CODE_LINES:
        yield f"{lines_of_code(nb)} lines of code, more than {CODE_LINES}"
    if len(json.dumps(nb, ensure_ascii=False).encode()) > BYTES:
        yield f"more than {BYTES} bytes"


def valid(nb, path):
    ids = [cell.get("id") for cell in nb.cells]
    if len(set(ids)) < len(ids):
        yield "two cells have one id"
    try:
        nbformat.validate(copy.deepcopy(nb))
    except nbformat.ValidationError as error:
        yield f"not valid: {error.message}"
    if "widgets" in nb.metadata:
        yield "widget state: `make refresh` takes it out"


def order_of_headings(nb, path):
    levels = [level for level, _ in headings(nb)]
    if levels.count(1) != 1 or levels[0] != 1 or not text_of(nb.cells[0]).startswith("# "):
        yield "one heading of level 1, at the top"
    for (before, _), (level, title) in zip(headings(nb), headings(nb)[1:]):
        if level > before + 1:
            yield f"a level is skipped before {title!r}"


def pattern(nb, path):
    rows = re.findall(r"^\| ([^|]*?) *\|", text_of(nb.cells[0]), re.MULTILINE)
    if rows[:1] != ["At a glance"]:
        yield "no table '| At a glance | |' in the first cell"
    yield from (f"no line {row!r} in the table" for row in GLANCE if row not in rows)
    titles = [title for level, title in headings(nb) if level == 2]
    for wanted in ("Recap", "What differs from the paper", "Quick question"):
        if wanted not in titles:
            yield f"no heading '## {wanted}'"


def minutes(nb, path):
    """At most 45, and enough for the exercises and for reading, at 150 words a minute."""
    row = re.search(r"^\| Time \|\D*(\d+) minutes", text_of(nb.cells[0]), re.MULTILINE)
    told = int(row[1]) if row else 0
    asked = sum(
        int(m) for m in re.findall(r"^### Exercise .* (\d+) minutes", prose(nb), re.MULTILINE)
    )
    needed = asked + len(prose(nb).split()) / 150
    if not needed - 3 <= told <= 45:
        yield f"{told} minutes: 45 at most, and exercises and reading take {needed:.0f}"


def quick_questions(nb, path):
    """Three options or more; the folded answer names the right one first, then says why the others fail."""
    for part in re.split(r"^## ", prose(nb), flags=re.MULTILINE)[1:]:
        if not part.startswith("Quick question"):
            continue
        question, _, answer = part.partition("<details>")
        options = re.findall(r"^(\d)\. |\(([a-h])\) ", question, re.MULTILINE)
        labels = [a or b for a, b in options]
        if len(labels) < 3:
            yield f"a quick question with {len(labels)} options"
        if not re.search(r"<summary>Answer</summary>\s+\*\*\(?\w\b.*</details>", answer, re.DOTALL):
            yield "a quick question without a folded answer that begins with the right option"
        yield from (
            f"the answer says nothing about option {label}"
            for label in labels
            if not re.search(rf"\b{label}\b", answer)
        )


def alternative_texts(nb, path):
    """Of every image, in the text, in HTML and among the outputs."""
    found = [(m[1], "an image in the text") for m in re.finditer(r"!\[(.*?)\]\(", prose(nb), re.S)]
    pieces = [prose(nb)]
    for number, cell in enumerate(code(nb), 1):
        for output in cell.outputs:
            data = output.get("data", {})
            pieces.append(
                "".join(data.get("text/html", "")) + "".join(data.get("text/markdown", ""))
            )
            for kind in (k for k in data if k.startswith("image/")):
                alt = output.metadata.get(kind, {}).get("alt", "")
                found.append((alt, f"a figure of code cell {number}"))
    for tag in re.findall(r"<img\b[^>]*>", "".join(pieces)):
        alt = re.search(r"\balt=(['\"])(.*?)\1", tag, re.DOTALL)
        found.append((alt[2] if alt else "", "an <img>"))
    for alt, where in found:
        if len(re.findall(r"\w+", alt)) < ALT_WORDS:
            yield f"{where} has no alt text, or less than {ALT_WORDS} words: {alt!r}"


def places(nb, path):
    """No path of the machine on which it was made, in the text, in the code or in the outputs."""
    texts = [text_of(cell) for cell in nb.cells]
    for cell in code(nb):
        for output in cell.outputs:
            texts.append("".join(output.get("text", "")) + "".join(output.get("traceback", "")))
            texts += [
                "".join(value)
                for kind, value in output.get("data", {}).items()
                if kind.startswith("text/")
            ]
    for text in texts:
        # An image within HTML is base64, in which everything occurs.
        text = re.sub(r"base64,[\w+/=]+", "", text)
        yield from (
            f"a path of one machine: {text[m.start() :][:40]!r}" for m in PLACES.finditer(text)
        )


def outputs(nb, path):
    """Run from top to bottom, without an error, and kept."""
    counts = [cell.execution_count for cell in code(nb)]
    if counts != [*range(1, len(counts) + 1)]:
        yield f"execution counts out of order or missing: {counts}"
    for number, cell in enumerate(code(nb), 1):
        kinds = {o.output_type + (":" + o.name if "name" in o else "") for o in cell.outputs}
        if {"error", "stream:stderr"} & kinds:
            yield f"code cell {number} shows an error or warning"
        if says_something(cell) and not cell.outputs:
            yield f"code cell {number} has lost its output"
        for output in cell.outputs:
            kinds = set(output.get("data", {}))
            if any("widget" in kind for kind in kinds) and not kinds & {"image/png", "text/html"}:
                yield f"the widget of code cell {number} has no static picture beside it"


def says_something(cell) -> bool:
    """Whether a statement of the cell's own level prints or shows."""
    python = re.sub(r"^\s*[!%].*", "", text_of(cell), flags=re.MULTILINE)
    for node in ast.parse(python).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = ast.unparse(node.value.func)
            if name in SAYING or name.startswith("checks."):
                return True
    return False


def compared(nb, path):
    tagged = [c for c in code(nb) if "nbval-check-output" in c.metadata.get("tags", [])]
    numbers = [c for c in tagged if re.search(r"\d", str(c.outputs))]
    if len(numbers) < CHECKED:
        yield f"{len(numbers)} cells with numbers are compared by nbval, less than {CHECKED}"


def strict(nb, path):
    """In a strict notebook no output goes unnoticed; see ``STRICT``."""
    if path.stem not in STRICT:
        return
    excused = 0
    for number, cell in enumerate(code(nb), 1):
        tags = cell.metadata.get("tags", [])
        excused += "nbval-ignore-output" in tags
        if cell.outputs and not {"nbval-check-output", "nbval-ignore-output"} & set(tags):
            yield f"the output of code cell {number} is neither compared nor excused"
    if excused > EXCUSED:
        yield f"{excused} cells are excused from comparing, more than {EXCUSED}"


def no_installing(nb, path):
    """One environment for all: a cell that installs breaks in every notebook at once."""
    for cell in code(nb):
        if re.search(r"^\s*[!%].*\b(pip|conda|apt)\b", text_of(cell), re.MULTILINE):
            yield "a cell installs packages"


def links(nb, path):
    yield from broken_links(prose(nb), path)


def broken_links(text: str, path: Path):
    """Files that are not there, and headings that are not in them."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            yield f"a link to nowhere: {target}"
        elif anchor and anchor.lower() not in anchors(file):
            yield f"a link to no heading of {file.name}: {anchor}"


def anchors(file: Path) -> set[str]:
    """As GitHub makes them of headings; JupyterLab keeps capitals and punctuation."""
    if file.suffix == ".ipynb":
        titles = [title for _, title in headings(read(file))]
    else:
        text = FENCE.sub("", file.read_text(encoding="utf-8"))
        titles = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    titles = [title.lower().replace(" ", "-") for title in titles]
    return {*titles, *(re.sub(r"[^\w-]", "", title) for title in titles)}


RULES = [
    size,
    valid,
    order_of_headings,
    pattern,
    minutes,
    quick_questions,
    alternative_texts,
    places,
    outputs,
    compared,
    strict,
    no_installing,
    links,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_rule(path, rule):
    assert list(rule(BOOKS[path], path)) == []


def cell_with(nb, words):
    return next(cell for cell in nb.cells if words in text_of(cell))


def replaced(old, new):
    def spoil(nb):
        cell = cell_with(nb, old)
        cell.source = text_of(cell).replace(old, new, 1)

    return spoil


def added(text):
    return lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell(text))


def with_output(**data):
    def spoil(nb):
        code(nb)[-1].outputs.append(nbformat.v4.new_output("display_data", data, **{}))

    return spoil


def figure(nb):
    cells = (o for c in code(nb) for o in c.outputs if "image/png" in o.get("data", {}))
    return next(cells)


def uncounted(nb):
    code(nb)[2].execution_count = None


def emptied(nb):
    cell_with(nb, "checks.").outputs = []


def failed(nb):
    code(nb)[1].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]))


def twice(nb):
    nb.cells[3].id = nb.cells[4].id


def untagged(nb):
    for cell in nb.cells:
        cell.metadata.pop("tags", None)


BROKEN = {
    "too few cells": (lambda nb: nb.cells.__delitem__(slice(25, None)), "25 cells, not 30 to 50"),
    "too much code": (replaced("import time", "x = 1\n" * 200), "lines of code, more than 200"),
    "too large": (added("x" * BYTES), "more than 500000 bytes"),
    "an id twice": (twice, "two cells have one id"),
    "no id": (lambda nb: nb.cells[0].update(id="!"), "not valid"),
    "widget state": (lambda nb: nb.metadata.update(widgets={}), "widget state"),
    "two titles": (added("# Another"), "one heading of level 1"),
    "a level skipped": (added("## A\n\n#### B"), "a level is skipped before 'B'"),
    "no table": (replaced("| At a glance |", "| Overview |"), "no table"),
    "too long": (replaced("| Time | 45", "| Time | 60"), "60 minutes: 45 at most"),
    "no time to read": (replaced("| Time | 45", "| Time | 30"), "30 minutes: 45 at most"),
    "no time": (replaced("| Time |", "| Length |"), "no line 'Time'"),
    "no recap": (replaced("## Recap", "## End"), "no heading '## Recap'"),
    "no comparison": (replaced("## What differs from the paper", "## On it"), "from the paper"),
    "no question": (replaced("## Quick question", "## Question"), "'## Quick question'"),
    "two options": (added("## Quick question\n\n(a) yes (b) no"), "with 2 options"),
    "no answer": (added("## Quick question\n\n(a) 1 (b) 2 (c) 3"), "without a folded answer"),
    "an option forgotten": (
        added(
            "## Quick question\n\n(a) 1 (b) 2 (c) 3\n\n<details><summary>Answer</summary>\n\n"
            "**(b)**. Not (a).\n</details>"
        ),
        "says nothing about option c",
    ),
    "an image without words": (added("![](figures/03_episode.svg)"), "an image in the text"),
    "a figure without words": (lambda nb: figure(nb).metadata.clear(), "a figure of code cell"),
    "an img without words": (added('<img src="a.png">'), "an <img>"),
    "an img in an output": (with_output(**{"text/html": "<img alt=''>"}), "an <img>"),
    "a path in the text": (added("See `/home/ann/data`."), "a path of one machine: '/home/ann"),
    "a path of Windows": (with_output(**{"text/plain": "C:\\Users\\ann"}), "one machine: 'C:"),
    "a path in an output": (with_output(**{"text/html": "<p>/tmp/x</p>"}), "machine: '/tmp/x"),
    "a count missing": (uncounted, "execution counts out of order"),
    "an output lost": (emptied, "has lost its output"),
    "an error": (failed, "shows an error"),
    "a widget alone": (
        with_output(**{"application/vnd.jupyter.widget-view+json": {}, "text/plain": "W"}),
        "has no static picture",
    ),
    "nothing compared": (untagged, "0 cells with numbers are compared"),
    "an installation": (replaced("import time", "%pip install trl"), "a cell installs packages"),
    "a file not there": (added("[next](99_end.ipynb)"), "a link to nowhere: 99_end.ipynb"),
    "a heading not there": (added("[up](#nowhere)"), "a link to no heading of 03_imcot"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_complains_where_it_is_broken(name):
    spoil, complaint = BROKEN[name]
    path = COURSE / "03_imcot_rollout.ipynb"
    nb = copy.deepcopy(BOOKS[path])
    spoil(nb)
    complaints = [text for rule in RULES for text in rule(nb, path)]
    assert any(complaint in text for text in complaints), complaints


def test_a_strict_notebook_compares_everything():
    path = COURSE / "01_why_zoom.ipynb"
    nb = copy.deepcopy(BOOKS[path])
    assert list(strict(nb, path)) == []
    cell = cell_with(nb, "checks.")
    cell.metadata.tags = []
    (complaint,) = strict(nb, path)
    assert "is neither compared nor excused" in complaint
    for cell in code(nb):
        cell.metadata.tags = ["nbval-ignore-output"]
    (complaint,) = strict(nb, path)
    assert f"excused from comparing, more than {EXCUSED}" in complaint


def test_links_that_are_right():
    text = "[a](#Recap) [b](05_grpo_lora.ipynb#what-differs-from-the-paper) [c](#11-calls-that-go-wrong)"
    assert list(broken_links(text, COURSE / "03_imcot_rollout.ipynb")) == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_the_other_documents(path):
    assert list(broken_links(FENCE.sub("", path.read_text(encoding="utf-8")), path)) == []


def test_the_minutes_of_the_teacher_s_plans():
    """Each plan begins at 0, has no gap, and is as long as it says."""
    text = (COURSE / "TEACHING.md").read_text(encoding="utf-8")
    plans = {"A class of 90 minutes": 90, "Half a day": 240}
    for title, minutes in plans.items():
        rows = re.findall(
            r"^\| (\d+)–(\d+) \|", text.split(f"## {title}\n")[1].split("\n## ")[0], re.M
        )
        starts, ends = ([int(row[k]) for row in rows] for k in (0, 1))
        assert starts == [0, *ends[:-1]] and ends[-1] == minutes, title


def test_every_figure_is_used():
    used = set(re.findall(r"\]\(figures/([^)]+)\)", "".join(map(prose, BOOKS.values()))))
    assert {path.name for path in (COURSE / "figures").iterdir()} == used


def misspelt(folder: Path) -> str:
    """What codespell finds; it takes British spelling and American spelling alike."""
    command = [sys.executable, "-m", "codespell_lib", "."]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode in (0, 65), result.stderr
    return result.stdout


def test_spelling(tmp_path):
    for path, nb in BOOKS.items():
        comments = re.findall(r"# .*", "\n".join(map(text_of, code(nb))))
        words = "\n".join([prose(nb), *comments])
        (tmp_path / f"{path.stem}.md").write_text(words, encoding="utf-8")
    for path in PROSE:
        words = path.read_text(encoding="utf-8")
        (tmp_path / path.name).write_text(words, encoding="utf-8")
    for path in (ROOT / "deepeyes_lite").rglob("*.py"):
        words = path.read_text(encoding="utf-8")
        (tmp_path / path.name).write_text(words, encoding="utf-8")
    assert misspelt(tmp_path) == ""


def test_a_misspelt_word_is_found(tmp_path):
    (tmp_path / "a.md").write_text("The colour of the recieved crop is normalised.")
    assert "recieved ==> received" in misspelt(tmp_path)
    assert "colour" not in misspelt(tmp_path)
