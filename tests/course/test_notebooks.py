"""What every notebook of the course keeps to, read off the file; nothing is run.

A rule takes a notebook and its path and yields complaints.
"""

import ast
import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4.rwbase import rejoin_lines

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "notebooks"
DOCUMENTS = [path for folder in (ROOT, COURSE, ROOT / "docs") for path in folder.glob("*.md")]
DOCUMENTS.append(ROOT / "data/tiny-eyes/README.md")

GLANCE = ["You will be able to", "Time", "Hardware", "Run time", "Needs", "Files used"]
# The map of the course and the reading of trained behaviour may do without exercises, and are shorter.
CELLS, CELLS_WITHOUT_EXERCISES = range(30, 51), range(15, 51)
# A widget carries its data, 0.3 to 0.8 MB, so that it lives without a kernel.
CODE_LINES, BYTES, COMPARED, ALT_WORDS = 200, 1_500_000, 3, 3
# Deterministic by construction: nbval compares every output, but for the time that the run took and for
# what belongs to the reader, such as a score of their own.
STRICT, EXCUSED = {"01_why_zoom"}, 3
PLACES = re.compile(r"(?<![\w.:/])(/(?:root|work|home|tmp|Users|mnt|opt)\b|[A-Z]:\\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
PRINTING = {"print", "display", "plots.show"}  # calls that leave an output, as those of `checks` do


def read(path: Path):
    """As the file is: nbformat's own reader mends what the rules look for."""
    return rejoin_lines(nbformat.from_dict(json.loads(path.read_text(encoding="utf-8"))))


BOOKS = {path: read(path) for path in sorted(COURSE.glob("*.ipynb"))}


def prose(nb) -> str:
    """The text of all markdown cells, without fenced code."""
    return "\n\n".join(FENCE.sub("", c.source) for c in nb.cells if c.cell_type == "markdown")


def plain(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def code(nb) -> list:
    """The notebook's own code cells: all but the one for Colab, which shows nothing elsewhere."""
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell is not nb.cells[1]]


def tagged(nb, tag: str) -> list:
    return [cell for cell in code(nb) if tag in cell.metadata.get("tags", [])]


def headings(text: str) -> list[tuple[int, str]]:
    return [(len(m[1]), m[2]) for m in re.finditer(r"^(#+) +(.+?)\s*$", text, re.MULTILINE)]


def size(nb, path):
    exercises = any("checks." in cell.source for cell in code(nb))
    cells = CELLS if exercises else CELLS_WITHOUT_EXERCISES
    if len(nb.cells) - 1 not in cells:  # the cell for Colab is not the reader's
        yield f"{len(nb.cells) - 1} cells, not {cells.start} to {cells.stop - 1}"
    lines = [line.strip() for cell in code(nb) for line in cell.source.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) > CODE_LINES:
        yield f"{len(lines)} lines of code, more than {CODE_LINES}"
    if len(json.dumps(nb, ensure_ascii=False).encode()) > BYTES:
        yield f"more than {BYTES} bytes"


def valid(nb, path):
    if len({cell.get("id") for cell in nb.cells}) < len(nb.cells):
        yield "two cells have one id"
    try:
        nbformat.validate(copy.deepcopy(nb))
    except nbformat.ValidationError as error:
        yield f"not valid: {error.message}"
    if "widgets" in nb.metadata:
        yield "widget state: `make refresh` takes it out"


def pattern(nb, path):
    """One title with the table below it, no level of headings skipped, the parts of every notebook."""
    levels = [level for level, _ in headings(prose(nb))]
    if levels.count(1) != 1 or not nb.cells[0].source.startswith("# "):
        yield "one heading of level 1, at the top"
    if any(after > before + 1 for before, after in zip(levels, levels[1:])):
        yield "a level of headings is skipped"
    rows = re.findall(r"^\| ([^|]*?) *\|", nb.cells[0].source, re.MULTILINE)
    for row in ["At a glance", *GLANCE]:
        if not any(re.fullmatch(row, there) for there in rows):
            yield f"no line {row!r} in the table of the first cell"
    for title in ("Recap", "What differs from the paper", "Quick question"):
        if (2, title) not in headings(prose(nb)):
            yield f"no heading '## {title}'"


def minutes(nb, path):
    """At most 45, and enough for the exercises and for reading, at 150 words a minute."""
    row = re.search(r"^\| Time \|\D*(\d+) minutes", nb.cells[0].source, re.MULTILINE)
    exercises = re.findall(r"^### Exercise .* (\d+) minutes", prose(nb), re.MULTILINE)
    needed = sum(map(int, exercises)) + len(prose(nb).split()) / 150
    if not row or not needed - 3 <= int(row[1]) <= 45:
        yield f"time: 45 minutes at most, and exercises and reading take {needed:.0f}"


def quick_questions(nb, path):
    """Three options or more; the folded answer begins with the right one and says why the others fail."""
    for part in re.split(r"^## (?=Quick question)", prose(nb), flags=re.MULTILINE)[1:]:
        question, _, answer = re.split(r"^## ", part, flags=re.MULTILINE)[0].partition("<details>")
        options = re.findall(r"^(\d)\. |\(([a-h])\) ", question, re.MULTILINE)
        labels = ["".join(option) for option in options]
        if len(labels) < 3:
            yield f"a quick question with {len(labels)} options"
        if not re.search(r"<summary>Answer</summary>\s+\*\*\(?\w\b.*</details>", answer, re.DOTALL):
            yield "a quick question without a folded answer that begins with the right option"
        silent = [label for label in labels if not re.search(rf"\b{label}\b", answer)]
        yield from (f"the answer says nothing about option {label}" for label in silent)


def alternative_texts(nb, path):
    """Of every image, in the text, in HTML and among the outputs."""
    alts = re.findall(r"!\[(.*?)\]\(", prose(nb), re.DOTALL)
    html = [prose(nb)]
    for output in (output for cell in code(nb) for output in cell.outputs):
        data = output.get("data", {})
        html += [data.get("text/html", ""), data.get("text/markdown", "")]
        alts += [output.metadata.get(k, {}).get("alt", "") for k in data if k.startswith("image/")]
    for tag in re.findall(r"<img\b[^>]*>", "".join(html)):
        alt = re.search(r"\balt=(['\"])(.*?)\1", tag, re.DOTALL)
        alts.append(alt[2] if alt else "")
    for alt in alts:
        if len(re.findall(r"\w+", alt)) < ALT_WORDS:
            yield f"an image without alt text, or with less than {ALT_WORDS} words: {alt!r}"


def places(nb, path):
    """No path of the machine on which it was made, in text, code or outputs; nothing is installed."""
    texts = [cell.source for cell in nb.cells]
    for output in (output for cell in code(nb) for output in cell.outputs):
        texts += [output.get("text", ""), "".join(output.get("traceback", ""))]
        data = output.get("data", {}).items()
        texts += [str(value) for kind, value in data if kind.startswith("text/")]
    # An image within HTML is base64, in which everything occurs.
    text = re.sub(r"base64,[\w+/=]+", "", "\n".join(texts))
    yield from (f"a path of one machine: {text[m.start() :][:40]!r}" for m in PLACES.finditer(text))
    if any(re.search(r"^\s*[!%].*\b(pip|conda|apt)\b", c.source, re.MULTILINE) for c in code(nb)):
        yield "a cell installs packages"


def outputs(nb, path):
    """Run from top to bottom, without an error, and kept."""
    counts = [cell.execution_count for cell in code(nb)]
    first = 1 + bool(nb.cells[1].execution_count)
    if counts != [*range(first, first + len(counts))]:
        yield f"execution counts out of order or missing: {counts}"
    for number, cell in enumerate(code(nb), 1):
        if any(o.output_type == "error" or o.get("name") == "stderr" for o in cell.outputs):
            yield f"code cell {number} shows an error or a warning"
        if prints(cell) and not cell.outputs:
            yield f"code cell {number} has lost its output"
        for kinds in (set(output.get("data", {})) for output in cell.outputs):
            if "widget" in str(kinds) and not kinds & {"image/png", "text/html"}:
                yield f"the widget of code cell {number} has no static picture beside it"


def prints(cell) -> bool:
    """Whether a statement of the cell's own level prints or shows."""
    for node in ast.parse(re.sub(r"^\s*[!%].*", "", cell.source, flags=re.MULTILINE)).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = ast.unparse(node.value.func)
            if name in PRINTING or name.startswith("checks."):
                return True
    return False


def compared(nb, path):
    """Some numbers are compared by nbval; in a strict notebook no output goes unnoticed, see ``STRICT``."""
    checked, excused = tagged(nb, "nbval-check-output"), tagged(nb, "nbval-ignore-output")
    numbers = [cell for cell in checked if re.search(r"\d", str(cell.outputs))]
    if len(numbers) < COMPARED:
        yield f"{len(numbers)} cells with numbers are compared by nbval, less than {COMPARED}"
    if path.stem in STRICT:
        loose = [c for c in code(nb) if c.outputs and c not in checked and c not in excused]
        if loose or len(excused) > EXCUSED:
            yield f"{len(loose)} outputs neither compared nor excused, {len(excused)} excused"


def colab(nb, path):
    """The second cell is the guarded, folded one for Colab, the same everywhere."""
    first = BOOKS[COURSE / "00_start_here.ipynb"].cells[1]
    cell, folded = nb.cells[1], {"cellView": "form", "jupyter": {"source_hidden": True}}
    if cell.source != first.source or cell.metadata != {**folded, "tags": ["setup"]}:
        yield "the second cell is not the one for Colab, as in 00_start_here.ipynb"


def links(text, path: Path):
    """To files that are there, and to headings that are in them; of a notebook, or of a text."""
    text = text if isinstance(text, str) else prose(text)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            yield f"a link to nowhere: {target}"
        elif anchor and anchor.lower() not in anchors(file):
            yield f"a link to no heading of {file.name}: {anchor}"


def anchors(file: Path) -> set[str]:
    """As GitHub makes them of headings; JupyterLab keeps capitals and punctuation."""
    text = prose(read(file)) if file.suffix == ".ipynb" else plain(file)
    titles = {title.lower().replace(" ", "-") for _, title in headings(text)}
    return titles | {re.sub(r"[^\w-]", "", title) for title in titles}


RULES = [size, valid, pattern, minutes, quick_questions, alternative_texts, places, outputs]
RULES += [compared, colab, links]


def complaints(nb, path: Path) -> str:
    return "\n".join(f"{rule.__name__}: {text}" for rule in RULES for text in rule(nb, path))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_to_the_rules(path):
    assert complaints(BOOKS[path], path) == ""


def test_the_cell_for_colab_installs_there_and_does_nothing_elsewhere(monkeypatch):
    source = BOOKS[COURSE / "00_start_here.ipynb"].cells[1].source
    code, calls = TransformerManager().transform_cell(source), []
    monkeypatch.setattr(sys, "path", [*sys.path])
    shell = SimpleNamespace(
        system=calls.append, run_line_magic=lambda name, line: calls.append(f"%{name} {line}")
    )
    space = {"get_ipython": lambda: shell}
    exec(code, space)
    assert not space["IN_COLAB"] and not calls
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(code, space)
    assert any("git clone" in call for call in calls) and sys.path[0] == "/content/deepeyes-lite"
    assert '%pip install -q -e "./deepeyes-lite[notebooks]"' in calls


def test_a_rule_complains_where_it_is_broken():
    """A rule that cannot complain says nothing."""
    path = COURSE / "03_imcot_rollout.ipynb"
    nb = copy.deepcopy(BOOKS[path])
    nb.cells[0].source = nb.cells[0].source.replace("| Time | 45", "| Time | 60")
    nb.cells[0].source += "\n\n# Another\n\n![](a.png) [up](#nowhere) `/home/ann/data`"
    nb.cells[1].metadata.tags = []
    code(nb)[0].source = "%pip install trl\n" + "x = 1\n" * 200
    code(nb)[2].execution_count = None
    code(nb)[3].outputs = [nbformat.v4.new_output("stream", name="stderr", text="Warning")]
    for cell in nb.cells:
        cell.metadata.pop("tags", None)
    for complaint in [
        "lines of code, more than 200",
        "one heading of level 1",
        "time: 45 minutes at most",
        "an image without alt text",
        "a link to no heading of 03_imcot_rollout.ipynb: nowhere",
        "a path of one machine: '/home/ann/data",
        "execution counts out of order",
        "code cell 4 shows an error or a warning",
        "0 cells with numbers are compared by nbval",
        "a cell installs packages",
        "the second cell is not the one for Colab",
    ]:
        assert complaint in complaints(nb, path)


def test_links_of_the_other_documents_and_use_of_every_figure():
    for path in DOCUMENTS:
        assert not [*links(plain(path), path)], path
    used = set(re.findall(r"\]\(figures/([^)]+)\)", "".join(map(prose, BOOKS.values()))))
    assert {path.name for path in (COURSE / "figures").iterdir()} == used


def test_the_minutes_of_the_teacher_s_plans():
    """Each plan begins at 0, has no gap, and is as long as it says."""
    text = (COURSE / "TEACHING.md").read_text(encoding="utf-8")
    for title, minutes in {"A class of 90 minutes": 90, "Half a day": 240}.items():
        plan = text.split(f"## {title}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (\d+)–(\d+) \|", plan, re.MULTILINE)
        starts, ends = [int(row[0]) for row in rows], [int(row[1]) for row in rows]
        assert starts == [0, *ends[:-1]] and ends[-1] == minutes, title


def misspelt(*paths: Path) -> str:
    """What codespell finds; it takes British spelling and American spelling alike."""
    # "2nd" and LaTeX's "ans" stand in patterns.
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list=nd,ans", *paths]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode in (0, 65), result.stderr
    return result.stdout


def test_spelling(tmp_path):
    for path, nb in BOOKS.items():
        comments = re.findall(r"# .*", "\n".join(cell.source for cell in code(nb)))
        words = "\n".join([prose(nb), *comments])
        (tmp_path / f"{path.stem}.md").write_text(words, encoding="utf-8")
    assert misspelt(tmp_path, ROOT / "deepeyes_lite", *DOCUMENTS) == ""
    (tmp_path / "a.md").write_text("The colour of the recieved crop is normalised.")
    assert "recieved ==> received" in misspelt(tmp_path) and "colour" not in misspelt(tmp_path)
