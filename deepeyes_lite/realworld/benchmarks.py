"""V* Bench, HR-Bench and their like, asked so that the figure means something.

The public DeepEyes evaluator did not shuffle the options of V* Bench, so the right answer was always A:
89.0 and 91.6 unshuffled, 84.3 and 85.9 shuffled, for the same weights (DeepEyes PR #66). Here options
are shuffled by a seed, the listed order is asked beside it, and so are the controls without tool and
with blank crops. Everything that was answered is kept, question by question, and a killed run goes on.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash
from datasets import Dataset

from deepeyes_lite.boxes import iou
from deepeyes_lite.evaluation import interval, paired, share
from deepeyes_lite.files import atomic_write, measure, read_log
from deepeyes_lite.policies import Policy
from deepeyes_lite.realworld import published
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.verifiers import LETTERS, Judge, with_options, without_options

# Order of the options, and how the tool answers. "listed" is the order of the file.
CELLS = [("shuffled", "on"), ("listed", "on"), ("shuffled", "off"), ("shuffled", "blank")]
# A policy whose prompts offer no tool, such as the baseline of the paper.
CELLS_WITHOUT_TOOL = [("shuffled", "off"), ("listed", "off")]


def benchmark(
    dataset: Dataset,
    policy: Policy,
    out: str | Path,
    k: int = 1,
    seed: int = 0,
    judge: Judge | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> dict:
    """Ask a policy every question of a benchmark, in every cell of ``CELLS``.

    Leaves a record for each cell (``shuffled-on.jsonl``, …: one line a question, with what was asked and
    all that was answered) and ``benchmark.json``. A killed benchmark goes on from its records.

    Args:
        dataset: in our schema, as `public.write` makes it.
        policy: who answers. For k = 1 at temperature 0, for Avg@k above it.
        out: folder of the records.
        k: episodes of each question; accuracy is their mean (Avg@k).
        seed: of the order of the options, and of the sampling. The order of a question depends on it and
            on the question's id alone, so two policies are asked the same.
        judge: asked where the rules cannot tell whether an answer is right.
        batch_size: episodes side by side. An image of HR-Bench 8K takes 100 MB.
        progress: whether to show bars.

    Returns:
        What ``benchmark.json`` holds: the figures of each cell (`summarise`) and paired differences.

    Raises:
        ValueError: for k below 1, a set without questions, or records of another benchmark.
    """
    if k < 1 or not len(dataset):
        raise ValueError(f"k is at least 1 and so are questions; got {k} and {len(dataset)}")
    out, chunk = Path(out), max(1, batch_size // k)
    found = {}
    for order, tool in _cells(dataset, policy):

        def work(start: int, stop: int, its_seed: int, order=order, tool=tool) -> list[dict]:
            rows = [asked(dataset[i], order, seed) for i in range(start, stop)]
            repeated = [row for row in rows for _ in range(k)]
            episodes = rollout(
                repeated, policy, tool, its_seed, batch_size, progress=False, judge=judge
            )
            return [_line(row, episodes[i * k : (i + 1) * k]) for i, row in enumerate(rows)]

        found[order, tool] = measure(
            list(dataset["id"]),
            work,
            chunk,
            {"order": order, "tool": tool, "k": k, "seed": seed},
            out / f"{order}-{tool}.jsonl",
            progress,
            f"{order}, tool {tool}",
        )
    first = next(iter(found))
    report = {
        "sources": sorted(set(dataset["source"])),
        "questions": len(dataset),
        "k": k,
        "seed": seed,
        "cells": {_name(cell): summarise(lines) for cell, lines in found.items()},
        "paired_accuracy": {
            f"{_name(first)} minus {_name(cell)}": difference(lines, found[first])
            for cell, lines in found.items()
            if cell != first
        },
    }
    with atomic_write(out / "benchmark.json") as tmp:
        tmp.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _cells(dataset: Dataset, policy: Policy) -> list[tuple[str, str]]:
    cells = CELLS if policy.tools else CELLS_WITHOUT_TOOL
    if any(dataset["options"]):
        return cells
    return [("listed", tool) for tool in dict.fromkeys(tool for _, tool in cells)]


def _name(cell: tuple[str, str]) -> str:
    return f"{cell[0]}, tool {cell[1]}"


def asked(row: dict, order: str, seed: int) -> dict:
    """The row as it is asked: its options shuffled, by a seed and its id, or as listed.

    >>> row = {"id": "1", "question": "Red?\\nA. yes\\nB. no", "answer": "A", "options": ["yes", "no"]}
    >>> {asked(row, "shuffled", seed)["answer"] for seed in range(9)} == {"A", "B"}
    True
    """
    options = row["options"]
    if order == "listed" or not options:
        return row
    places = list(range(len(options)))
    random.Random(f"{seed} {row['id']}").shuffle(places)
    options = [options[place] for place in places]
    question = with_options(without_options(row["question"], row["options"]), options)
    answer = row["answer"]
    if answer in list(LETTERS[: len(options)]):
        answer = LETTERS[places.index(LETTERS.index(answer))]
    return {**row, "question": question, "options": options, "answer": answer}


def _line(row: dict, episodes: list[Trajectory]) -> dict:
    targets = row["boxes_px"]
    return {
        "kind": row["kind"],
        "image": xxhash.xxh64(row["image"].tobytes()).hexdigest(),
        "question": row["question"],
        "truth": row["answer"],
        "episodes": [
            {
                "answer": t.answer,
                "correct": t.correct,
                "well_formed": t.well_formed,
                "attempts": sum(turn.text.count("<tool_call>") for turn in t.turns),
                "boxes_px": t.boxes_px,
                "ious": [max(iou(box, target) for target in targets) for box in t.boxes_px]
                if targets
                else [],
                "turns": [turn.text for turn in t.turns],
            }
            for t in episodes
        ],
    }


# --- figures ------------------------------------------------------------------------------------


def summarise(lines: list[dict], seed: int = 0) -> dict:
    """Figures of one cell, each with a 95 % interval.

    Questions about one image are not independent (HR-Bench asks each four times, POPE eighteen), nor are
    k answers to one question: where an image has more than one answer, images are resampled.

    Returns:
        ``accuracy``, of all and by kind; ``call_rate``, share of episodes with an answered call;
        ``calls_per_episode``; ``valid_calls``, share of attempted calls that were answered;
        ``well_formed``; ``call_iou``, of answered calls with the best of the question's own boxes.
    """

    def one(figure: Callable[[dict], float]) -> dict:
        return _ratio(lines, lambda e: (figure(e), 1), seed)

    kinds = sorted({line["kind"] for line in lines})
    of_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in kinds}
    return {
        "accuracy": {
            "all": one(lambda e: e["correct"]),
            **{k: _ratio(its, lambda e: (e["correct"], 1), seed) for k, its in of_kind.items()},
        },
        "call_rate": one(lambda e: bool(e["boxes_px"])),
        "calls_per_episode": one(lambda e: len(e["boxes_px"])),
        "valid_calls": _ratio(lines, lambda e: (len(e["boxes_px"]), e["attempts"]), seed),
        "well_formed": one(lambda e: e["well_formed"]),
        "call_iou": _ratio(lines, lambda e: (sum(e["ious"]), len(e["ious"])), seed),
    }


def _ratio(lines: list[dict], part: Callable[[dict], tuple[float, int]], seed: int) -> dict:
    """A ratio of sums over episodes: Wilson's interval where each image has one yes or no at most, else
    a bootstrap over images (2,000 resamples)."""
    images: dict[str, list[float]] = {}
    for line in lines:
        sums = images.setdefault(line["image"], [0.0, 0.0])
        for episode in line["episodes"]:
            for i, value in enumerate(part(episode)):
                sums[i] += value
    sums = np.array(list(images.values())).reshape(-1, 2)
    above, below = sums.sum(0)
    if not below or (sums[:, 1].max() <= 1 and set(sums[:, 0]) <= {0.0, 1.0}):
        return share(int(above), int(below))
    draws = np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))
    drawn = sums[draws].sum(1)
    drawn = drawn[drawn[:, 1] > 0]
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return {"mean": above / below, "low": float(low), "high": float(high), "n": int(below)}


def difference(a: list[dict], b: list[dict]) -> dict:
    """Accuracy of ``b`` minus that of ``a``, image by image, with interval and sign-flip p.

    Raises:
        ValueError: if they are not about the same questions.
    """
    if [line["id"] for line in a] != [line["id"] for line in b]:
        raise ValueError("a paired test needs the same questions in the same order")
    return paired(*(_by_image(lines) for lines in (a, b)))


def _by_image(lines: list[dict]) -> list[float]:
    images: dict[str, list[bool]] = {}
    for line in lines:
        images.setdefault(line["image"], []).extend(e["correct"] for e in line["episodes"])
    return [float(np.mean(correct)) for correct in images.values()]


def compare(out: str | Path, against: str | Path) -> dict[str, dict]:
    """Paired differences of accuracy between two runs, ``out`` minus ``against``, cell by cell.

    Raises:
        ValueError: if they share no cell, or were not asked the same.
    """
    differences = {}
    for path in sorted(Path(out).glob("*-*.jsonl")):
        other = Path(against) / path.name
        if not other.exists():
            continue
        (_, b), (_, a) = read_log(path), read_log(other)
        if [line["question"] for line in a] != [line["question"] for line in b]:
            raise ValueError(
                f"{path} and {other} were not asked the same; is the seed another one?"
            )
        differences[path.stem.replace("-", ", tool ")] = difference(a, b)
    if not differences:
        raise ValueError(f"{out} and {against} have no record in common; run `benchmark` into both")
    return differences


# --- tables -------------------------------------------------------------------------------------


def table(report: dict) -> str:
    """A report as text; below it, apart, what others published."""
    cells = report["cells"]
    kinds = list(next(iter(cells.values()))["accuracy"])
    width = max(18, *(len(kind) + 2 for kind in kinds))
    head = "".join(f"{kind:>{width}}" for kind in kinds)
    lines = [f"{'':20}{head}{'call rate':>11}{'calls':>7}{'valid':>7}{'IoU':>6}"]
    for name, figures in cells.items():
        shown = "".join(f"{interval(figures['accuracy'][kind]):>{width}}" for kind in kinds)
        rates = [
            f"{figures[key]['mean']:.2f}" if figures[key]["n"] else "-"
            for key in ("call_rate", "calls_per_episode", "valid_calls", "call_iou")
        ]
        lines.append(
            f"{name:20}{shown}" + "".join(f"{r:>{n}}" for r, n in zip(rates, (11, 7, 7, 6)))
        )
    many = f"; Avg@{report['k']}" if report["k"] > 1 else ""
    lines.append(
        f"{report['questions']} questions of {', '.join(report['sources'])}{many}; "
        f"accuracy with 95 % intervals; options shuffled with seed {report['seed']}"
    )
    lines += differences_table(report["paired_accuracy"])
    theirs = published.table(set(report["sources"]))
    return "\n".join(lines) + (f"\n\n{theirs}" if theirs else "")


def differences_table(differences: dict[str, dict]) -> list[str]:
    """One line for each paired difference, in percentage points."""
    return [
        f"{name}: {100 * d['mean']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}] points, "
        f"p = {d['p']:.3f} (paired, {d['n']} images)"
        for name, d in differences.items()
    ]
