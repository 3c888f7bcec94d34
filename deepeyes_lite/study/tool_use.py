"""Which tool was called on which kind of question: counted at every step, where there is a choice."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deepeyes_lite import prompts
from deepeyes_lite.tools import tool_names

FILE = "tools.csv"  # in a run's folder
COLUMNS = ["step", "kind", "tool", "episodes", "correct"]
NONE = "none"
_CALL = re.compile(r'<tool_call>\s*\{"name": "(\w{1,64})"')


def chosen(turns: Sequence[str]) -> str:
    """The tool that an episode calls: its name, "none", or several in the order of the alphabet.

    Args:
        turns: what the model wrote, turn by turn; calls that were refused count, too.

    >>> chosen(['<tool_call>{"name": "image_zoom_in_tool", "arguments": {}}</tool_call>', "K"])
    'image_zoom_in_tool'
    >>> chosen(["<answer>K</answer>"])
    'none'
    """
    return " + ".join(sorted({name for turn in turns for name in _CALL.findall(turn)})) or NONE


def count(environments: list, kinds: list[str], texts: list[str], right: list[bool]) -> list[dict]:
    """Rows of ``COLUMNS`` but the step, for the episodes of a step; none where there is one tool only.

    Args:
        environments: of the episodes.
        kinds: of their questions.
        texts: decoded completions.
        right: whether the answer was right.
    """
    if len(tool_names(type(environments[0]))) < 2:
        return []
    keys = [(kind, chosen(prompts.split_turns(text))) for kind, text in zip(kinds, texts)]
    episodes, correct = Counter(keys), Counter(key for key, ok in zip(keys, right) if ok)
    return [
        {"kind": kind, "tool": tool, "episodes": n, "correct": correct[kind, tool]}
        for (kind, tool), n in sorted(episodes.items())
    ]


def append(step: int, rows: list[dict], path: Path) -> None:
    """Add the rows of a step to a file, with its first line where it is new."""
    if not rows:
        return
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows({"step": step, **row} for row in rows)


def read(path: str | Path) -> list[dict]:
    """Rows of ``COLUMNS``; a step that was done twice, because a kill came between, stands there once."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    rows = {}
    for row in csv.DictReader(lines):
        numbers = {name: int(row[name]) for name in ("step", "episodes", "correct")}
        rows[numbers["step"], row["kind"], row["tool"]] = {**row, **numbers}
    return list(rows.values())
