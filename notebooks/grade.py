"""Marks for learners' notebooks: ``python notebooks/grade.py class --csv marks.csv``.

A learner's notebook runs from top to bottom in a process with limits, but for its check cells. Cells of our
own then judge the functions that the course's notebook asks for, and write their verdicts into a file: what
the notebook prints counts for nothing. This keeps mistakes from harming the grader. It is no sandbox: the
code runs with the rights of whoever grades, may read and write their files and use their network, and could
forge its verdict. Read what you do not trust, or grade in a container.
"""

import argparse
import csv
import ctypes
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil

COURSE = Path(__file__).resolve().parent
PATHS = os.pathsep.join(map(str, (COURSE.parent, COURSE)))  # where deepeyes_lite and checks are
LARGEST = 50e6  # bytes of a notebook that is read
START, WHOLE = (
    600,
    20,
)  # seconds for the libraries; cells at their limit that a notebook may take as long as
HEADING = r"^### Exercise (\d+)(?:: [^·\n]+)? · difficulty ([1-5]) of 5 · (\d+) minutes$"
CHECK = re.compile(r"^checks\.(\w+)\((my_\w+)((?:, \w+)*)\)$", re.MULTILINE)
IMPORT = re.compile(r"^from checks import (\w+) as checks$", re.MULTILINE)
SECRET = re.compile("token|key|secret|passw|credential", re.IGNORECASE)
COLUMNS = ["file", "module", "exercise", "function", "difficulty", "verdict", "points", "message"]
RUN = """import sys, nbclient, nbformat
nbclient.execute(nbformat.read(sys.argv[1], 4), kernel_name="python3", allow_errors=True,
    interrupt_on_timeout=True, timeout_func=lambda cell: cell.metadata["seconds"])"""
READY = """
import os, sys
def {tell}(verdict, message):
    import json
    with open({file!r}, "a", encoding="utf-8") as file:
        file.write(json.dumps([verdict, message[:1000]]) + "\\n")
sys.stdout = sys.stderr = open(os.devnull, "w")  # a flood of output
{tell}("ready", repr(get_ipython().run_cell({imports!r}).error_in_exec or ""))"""
JUDGE = """
try:
    import checks.{module}
    {tell}(*checks.{module}.{check}.judge({function}{more}))
except KeyboardInterrupt:
    {tell}("not yet", "no end within {seconds:g} s")
except BaseException as error:  # sys.exit() too
    {tell}("not yet", f"{{type(error).__name__}}: {{error}}")"""

# As the course's notebook asks it; ``more`` is what the check gets beside the attempt.
Exercise = namedtuple("Exercise", "number difficulty minutes module check function more")


def sources(notebook: Path, kind: str) -> list[str]:
    """The text of all ``code`` or ``markdown`` cells; a ValueError says why there is none."""
    if not notebook.is_file() or notebook.stat().st_size > LARGEST:  # a pipe may never end
        raise ValueError(f"no file of at most {LARGEST / 1e6:.0f} MB: {notebook.name}")
    try:
        with notebook.open("rb") as file:  # the size of a file in /proc is 0
            cells = json.loads(file.read(int(LARGEST)))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a notebook ({type(error).__name__}): {notebook.name}") from None


def exercises(notebook: Path) -> list[Exercise]:
    """All exercises of a notebook of the course; a ValueError where a check has no heading."""
    code, text = ("\n".join(sources(notebook, kind)) for kind in ("code", "markdown"))
    headings = re.findall(HEADING, text, re.MULTILINE)
    pairs = zip(headings, CHECK.findall(code), strict=True)
    return [Exercise(*map(int, heading), *IMPORT.findall(code), *check) for heading, check in pairs]


def started(others: set) -> list[psutil.Process]:
    """All processes that this one has started or adopted, but the ones before and what they started."""
    children = [child for child in psutil.Process().children() if child not in others]
    family = list(children)
    for child in children:
        with suppress(psutil.Error):
            family += child.children(recursive=True)
    return family


def adopt() -> None:
    """On Linux, be the parent of what a notebook detaches; elsewhere such a process outlives its notebook."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def watch(process: subprocess.Popen, seconds: float, memory: float) -> str:
    """Wait for the end, or make it; why it ended. What the process has started ends with it, see `adopt`."""
    others = set(psutil.Process().children()) - {psutil.Process(process.pid)}
    reason, start = "", time.monotonic()
    adopt()
    try:
        while process.poll() is None and not reason:
            time.sleep(0.1)
            size = 0
            for member in started(others):
                with suppress(psutil.Error):
                    size += member.memory_info().rss
            if size > memory:
                reason = f"more than {memory / 1e9:g} GB of memory"
            elif time.monotonic() - start > seconds:
                reason = f"no end within {seconds:g} s"
    finally:  # at Ctrl-C, too
        for _ in range(100):  # some may be born meanwhile
            family = started(others)
            for member in family:
                with suppress(psutil.Error):
                    member.kill()
            psutil.wait_procs(family, timeout=5)
            if not family:
                break
        process.wait()
    return reason or "the process ended by itself"


def run(cells: list[str], asked: list, seconds: float, memory: float) -> list[list[str]]:
    """Verdict and message of the first exercises, one at least; ``cells[0]`` imports the libraries."""
    env = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
    env |= {"PYTHONPATH": PATHS, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        told, job, work = (Path(folder, x) for x in (secrets.token_hex(), "job.ipynb", "work"))
        work.mkdir()
        told.touch()
        filled = {"tell": f"_{told.name}", "file": str(told), "seconds": seconds}
        steps = [READY.format(**filled, imports=cells[0]), *cells[1:]]
        steps += [JUDGE.format(**filled, **exercise._asdict()) for exercise in asked]
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(step) for step in steps])
        for cell in book.cells:
            cell.metadata.seconds = START if cell is book.cells[0] else seconds
        nbformat.write(book, job)
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        process = subprocess.Popen([sys.executable, "-c", RUN, job], cwd=work, env=env, **quiet)
        reason = watch(process, START + WHOLE * seconds, memory)
        with told.open("rb") as file:
            lines = file.read(int(LARGEST)).splitlines()
    verdicts = [entry for entry in map(read_entry, lines) if entry]
    if verdicts[:1] != [["ready", "''"]]:
        raise RuntimeError(f"the course's imports fail: {verdicts[0][1] if verdicts else reason}")
    return [*verdicts[1:], ["not yet", reason]][: len(asked)]


def read_entry(text: bytes) -> list[str] | None:
    """Verdict and message in a line of what was told; None for a line that a notebook has forged badly."""
    with suppress(ValueError, RecursionError):
        entry = json.loads(text)
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry):
            return entry
    return None


def grade(path: Path, seconds: float = 60, gigabytes: float = 4) -> dict[Exercise, list[str]]:
    """Verdict and message for each exercise that a learner's notebook was given.

    Args:
        path: the file; its name contains that of the course's notebook.
        seconds: for each cell.
        gigabytes: of memory, with all libraries in it.

    Raises:
        ValueError: the file is no notebook, or none with exercises.
        RuntimeError: the libraries cannot be imported.
    """
    cells, verdicts = [CHECK.sub("", cell) for cell in sources(path, "code")], []
    original = next((p for p in sorted(COURSE.glob("*.ipynb")) if p.stem in path.stem), None)
    asked = exercises(original) if original else []
    if not asked:
        raise ValueError(f"which notebook of the course? Keep the original's name in {path.name}")
    imports = next(cell for cell in sources(original, "code") if IMPORT.search(cell))
    while len(verdicts) < len(asked):  # what ends the process costs one exercise only
        verdicts += run([imports, *cells], asked[len(verdicts) :], seconds, gigabytes * 1e9)
    return dict(zip(asked, verdicts))


def line(text: str, limit: int = 200) -> str:
    """Somebody else's text as one short line, and none that a spreadsheet takes for a formula.

    >>> line("a\\n\\x1b[31m b" + 300 * "c", 9), line("=1+1")
    ('a [31m b…', "'=1+1")
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def main(argv: list[str] | None = None) -> int:
    """Print and write the marks; 0 if every exercise of every notebook is solved, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+", metavar="notebook", help="or a folder")
    parser.add_argument("--csv", type=Path, help="file to write, a line for each exercise")
    parser.add_argument("--seconds", type=float, default=60, help="for each cell")
    parser.add_argument("--memory", type=float, default=4, help="gigabytes for each notebook")
    args, rows = parser.parse_args(argv), []
    if missing := [str(path) for path in args.paths if not path.exists()]:
        parser.error(f"there is no file or folder {', '.join(missing)}")
    found = (sorted(top.rglob("*.ipynb")) if top.is_dir() else [top] for top in args.paths)
    for path in [p for inside in found for p in inside if ".ipynb_checkpoints" not in p.parts]:
        try:
            marks = grade(path, args.seconds, args.memory)
        except Exception as error:  # whatever it is, the others get their marks
            marks = {Exercise("", 0, 0, "", "", "", ""): ["error", str(error)]}
        print(f"\n{line(str(path))}")
        for task, (verdict, message) in marks.items():
            points = task.difficulty * (verdict == "ok")
            rows.append([line(str(path)), task.module, task.number, task.function])
            rows[-1] += [task.difficulty, verdict, points, line(message)]
            print("{2:>3} {3:16} {6} of {4}  [{5}]  {7}".format(*rows[-1]))
    solved = sum(row[5] == "ok" for row in rows)
    points, most = (sum(row[k] for row in rows) for k in (6, 4))
    print(f"\ntotal: {solved} of {len(rows)} exercises, {points} of {most} points")
    if args.csv:
        with args.csv.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    return int(solved < len(rows) or not rows)


if __name__ == "__main__":
    sys.exit(main())
