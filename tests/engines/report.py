"""What the jobs share: where their files are, and how a line gets into the table of docs/engines.md."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".engines" / "work"
MARK = "engines: "  # before a line for the table


def report(check: str, result: str) -> None:
    """A line of the table; run.py reads it."""
    print(MARK + json.dumps([check, result]), flush=True)


def versions(*names: str) -> str:
    """The versions of packages, and of Python."""
    return ", ".join([*(f"{n} {version(n)}" for n in names), f"Python {sys.version.split()[0]}"])
