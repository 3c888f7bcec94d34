"""The table of docs/verdicts.md: our rules beside math_verify, lmms-eval and VLMEvalKit on the same answers.

Run ``python tests/verdict_table.py --lmms-eval DIR --vlmevalkit DIR`` with checkouts of the two. Only the
functions that score are taken out of their files, so nothing of theirs has to be installed.
"""

import argparse
import ast
import copy
import json
import logging
import os
import re
import string
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from deepeyes_lite.verifiers import LETTERS, verdict

ANSWERS = Path(__file__).parent / "core" / "answers.jsonl"
KINDS = ("choice", "yes_no", "number", "math", "text")
Scorer = Callable[[dict], bool | None]


def answers() -> list[dict]:
    """Rows with kind, question, options, truth, reply and what a careful person says: right or wrong."""
    return [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]


def ours(row: dict) -> bool | None:
    """The verdict of ``verifiers``."""
    return verdict(row["reply"], {**row, "answer": row["truth"], "verifier": row["kind"]})


def count(scorers: dict[str, Scorer], rows: list[dict]) -> dict[str, Counter]:
    """For each kind: answers, and how many are wrongly accepted, wrongly refused, undecided."""
    counts = {kind: Counter() for kind in KINDS}
    for row in rows:
        if scorer := scorers.get(row["kind"]):
            given, right = scorer(dict(row)), row["verdict"] == "right"
            name = "undecided" if given is None else "agreed"
            name = name if given in (None, right) else "false +" if given else "false -"
            counts[row["kind"]].update(["answers", name])
    return counts


# --- theirs -------------------------------------------------------------------------------------


def functions(path: Path, *names: str, **known) -> list[Callable]:
    """Functions of a file by name, without what the file imports."""
    scope = {"re": re, "os": os, "string": string, "cp": copy, "logger": logging, **known}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.Assign):
            node.decorator_list = []  # a time-out, which a short answer does not need
            future = ast.parse("from __future__ import annotations").body
            module = ast.fix_missing_locations(ast.Module([*future, node], []))
            with suppress(NameError):  # a constant made of something imported
                exec(compile(module, str(path), "exec"), scope)
    return [scope[name] for name in names]


def letter(read: Callable[[dict], object]) -> Scorer:
    """A scorer out of a function that gives a letter, or something false where it finds none."""
    return lambda row: chosen == row["truth"] if (chosen := read(row)) else None


def is_number(text: str) -> bool:
    """Whether the rules of ChartQA read it: `float` does, a percent sign aside."""
    with suppress(ValueError):
        return bool(float(text.removesuffix("%"))) or True
    return False


def lmms_eval(folder: Path) -> dict[str, Scorer]:
    """V*'s letter, POPE's two words, ChartQA's relaxed match; for formulas it calls math_verify."""
    tasks = folder / "lmms_eval" / "tasks"
    (extract,) = functions(tasks / "vstar_bench" / "utils.py", "extract_answer_letter")
    (pope,) = functions(tasks / "pope" / "utils.py", "pope_process_results")
    (relaxed,) = functions(tasks / "chartqa" / "utils.py", "relaxed_correctness")

    def yes_no(row: dict) -> bool | None:
        read = pope({"answer": row["truth"], "question_id": 0}, [row["reply"]])["pope_accuracy"]
        return bool(read["score"]) if read["prediction"] in ("yes", "no") else None

    def number(row: dict) -> bool | None:
        return relaxed(row["reply"], row["truth"]) or (False if is_number(row["reply"]) else None)

    return {
        "choice": letter(lambda row: extract(row["reply"])),
        "yes_no": yes_no,
        "number": number,
        "text": lambda row: relaxed(row["reply"], row["truth"]) or None,
    }


def vlmevalkit(folder: Path) -> dict[str, Scorer]:
    """`can_infer`, `YOrN_Extraction`, ChartQA's relaxed match and MathVision's `is_equal`."""
    from latex2sympy2_extended import latex2sympy

    place = folder / "vlmeval"
    (infer,) = functions(place / "utils" / "matching_util.py", "can_infer")
    (punctuation,) = functions(place / "smp" / "misc.py", "process_punctuation")
    known = {"process_punctuation": punctuation}
    (extract,) = functions(place / "dataset" / "utils" / "yorn.py", "YOrN_Extraction", **known)
    (relaxed,) = functions(place / "dataset" / "utils" / "vqa_eval.py", "relaxed_correctness")
    known = {"latex2sympy": latex2sympy}
    (is_equal,) = functions(place / "dataset" / "utils" / "mathv.py", "is_equal", **known)

    def yes_no(row: dict) -> bool | None:
        read = extract(row["reply"]).lower()
        return None if read == "unknown" else read == row["truth"]

    def number(row: dict) -> bool | None:
        return relaxed(row["truth"], row["reply"]) or (False if is_number(row["reply"]) else None)

    return {
        "choice": letter(lambda row: infer(row["reply"], dict(zip(LETTERS, row["options"])))),
        "yes_no": yes_no,
        "number": number,
        "math": lambda row: is_equal(row["reply"], row["truth"]) or None,
        "text": lambda row: relaxed(row["truth"], row["reply"]) or None,
    }


def math_verify() -> dict[str, Scorer]:
    """Plainly called: `verify(parse(truth), parse(reply))`, letters by its own reader of strings."""
    from math_verify import StringExtractionConfig, parse, verify

    def formula(row: dict) -> bool | None:
        truth, reply = parse(f"${row['truth']}$"), parse(row["reply"])
        return verify(truth, reply) if truth and reply else None

    def choice(row: dict) -> bool | None:
        read = parse(row["reply"], [StringExtractionConfig(strings=tuple(LETTERS))])
        return verify(parse(row["truth"], [StringExtractionConfig()]), read) if read else None

    return {"choice": choice, "number": formula, "math": formula}


def commit(folder: Path) -> str:
    """The commit of a checkout, or of the file COMMIT in it."""
    if (folder / "COMMIT").exists():
        return (folder / "COMMIT").read_text(encoding="utf-8").strip()[:7]
    command = ["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# --- the table ----------------------------------------------------------------------------------


def lines(name: str, counts: dict[str, Counter]) -> list[str]:
    """Rows of the table for one scorer: kinds that it has a rule for, and all of them."""
    known = {kind: counted for kind, counted in counts.items() if counted}
    total = sum(known.values(), Counter())
    return [
        f"| {name} | {kind} | {c['answers']} | {c['agreed']} | {c['false +']} | {c['false -']} "
        f"| {c['undecided']} |"
        for kind, c in [*known.items(), ("**all**", total)]
    ]


def main() -> None:
    """Print the table; say what could not be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lmms-eval", type=Path)
    parser.add_argument("--vlmevalkit", type=Path)
    given = parser.parse_args()
    made: dict[str, dict[str, Scorer]] = {"deepeyes-lite": dict.fromkeys(KINDS, ours)}
    try:
        made[f"math_verify {version('math-verify')}"] = math_verify()
    except ImportError:
        print("math_verify: not run, for it is not installed")
    for name, folder, make in (
        ("lmms-eval", given.lmms_eval, lmms_eval),
        ("VLMEvalKit", given.vlmevalkit, vlmevalkit),
    ):
        try:
            if folder is None:
                print(f"{name}: not run, for --{name.lower()} names no checkout")
                continue
            made[f"{name} {commit(folder)}"] = make(folder)
        except ImportError as error:
            print(f"{name}: not run ({error})")
    head = ("rule", "kind", "answers", "agreed", "false +", "false -", "undecided")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for name, scorers in made.items():
        print("\n".join(lines(name, count(scorers, answers()))))


if __name__ == "__main__":
    main()
