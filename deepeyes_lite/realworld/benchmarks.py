"""V* Bench, HR-Bench and their like, asked so that the figure means something.

The public DeepEyes evaluator did not shuffle the options of V* Bench, so the right answer was always A:
89.0 and 91.6 unshuffled, 84.3 and 85.9 shuffled, for the same weights (DeepEyes PR #66). Here options
are shuffled by a seed, the listed order is asked beside it, and so are the controls without tool and
with blank crops. Everything that was answered is kept, question by question, and a killed run goes on.
"""

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import xxhash
from datasets import Dataset

from deepeyes_lite import DATA
from deepeyes_lite.boxes import iou
from deepeyes_lite.evaluation import average, interval, paired, share
from deepeyes_lite.files import atomic_write, measure, read_log
from deepeyes_lite.options import LETTERS, fixed_places, with_options, without_options
from deepeyes_lite.policies import Policy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import REMARKS, Trajectory
from deepeyes_lite.verifiers import Judge, verdict

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
    out, answers = Path(out), {}
    cells = CELLS if policy.tools else CELLS_WITHOUT_TOOL
    if not any(dataset["options"]):
        cells = dict.fromkeys(("listed", tool) for _, tool in cells)
    for order, tool in cells:

        def work(start: int, stop: int, its_seed: int, order=order, tool=tool) -> list[dict]:
            questions = (asked(dataset[i], order, seed) for i in range(start, stop))
            rows = [row for row in questions for _ in range(k)]
            episodes = rollout(
                rows, policy, tool, its_seed, batch_size, progress=False, judge=judge
            )
            return [_line(rows[i], episodes[i : i + k]) for i in range(0, len(rows), k)]

        identity = {"order": order, "tool": tool, "k": k, "seed": seed}
        record, cell = out / f"{order}-{tool}.jsonl", f"{order}, tool {tool}"
        ids, chunk = list(dataset["id"]), max(1, batch_size // k)
        answers[cell] = measure(ids, work, chunk, identity, record, progress, cell)
    first = next(iter(answers))
    report = {
        "sources": sorted(set(dataset["source"])),
        "questions": len(dataset),
        "k": k,
        "seed": seed,
        "cells": {cell: summarise(lines) for cell, lines in answers.items()},
        "paired_accuracy": {
            f"{first} minus {cell}": _paired(lines, answers[first])
            for cell, lines in answers.items()
            if cell != first
        },
    }
    with atomic_write(out / "benchmark.json") as tmp:
        tmp.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def asked(row: dict, order: str, seed: int) -> dict:
    """The row as it is asked: its options shuffled, by a seed and its id, or as listed.

    Options about other options ("All of the above", "Both A and B") stay, and so do those that they name.

    >>> row = {"id": "1", "question": "Red?\\nA. yes\\nB. no", "answer": "A", "options": ["yes", "no"]}
    >>> {asked(row, "shuffled", seed)["answer"] for seed in range(9)} == {"A", "B"}
    True
    """
    options = row["options"]
    if order == "listed" or not options:
        return row
    places, fixed = list(range(len(options))), fixed_places(options)
    free = [place for place in places if place not in fixed]
    random.Random(f"{seed} {row['id']}").shuffle(free)
    free = iter(free)
    places = [place if place in fixed else next(free) for place in places]
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
                **{name: getattr(episode, name) for name in ("answer", "correct", "well_formed")},
                "attempts": sum(turn.text.count("<tool_call>") for turn in episode.turns),
                "boxes_px": episode.boxes_px,
                "ious": [max(iou(box, t) for t in targets) for box in episode.boxes_px if targets],
                "turns": [turn.text for turn in episode.turns],
                "remarks": episode.remarks,
            }
            for episode in episodes
        ],
    }


# --- figures ------------------------------------------------------------------------------------


Part = Callable[
    [dict], tuple[float, float]
]  # of an episode: what is summed, and what it is divided by


def summarise(lines: list[dict]) -> dict:
    """Figures of one cell, each with a 95 % interval.

    Questions about one image are not independent (HR-Bench asks each four times, POPE eighteen), nor are
    k answers to one question: where an image has more than one answer, images are resampled.

    Args:
        lines: of a record, one a question.

    Returns:
        ``accuracy``, of all and by kind; ``call_rate``, share of episodes with an answered call;
        ``calls_per_episode``; ``valid_calls``, share of attempted calls that were answered;
        ``well_formed``; ``call_iou``, of answered calls with the best of the question's own boxes;
        ``remarks``, how many episodes each of ``trajectories.REMARKS`` is true of; and where every truth is
        yes or no, as in POPE, ``yes_no`` (``DETECTION``), of all and by kind.
    """

    def figure(part: Part, lines: list[dict] = lines, proportion: bool = True) -> dict:
        sums, counts = _by_image(lines, part)
        shares = sums[counts > 0] / counts[counts > 0]
        n = int(counts.sum())
        if (proportion and set(shares) in ({0}, {1})) or (
            set(counts) <= {0, 1} and set(sums) <= {0, 1}
        ):
            # One yes or no for each image; or alike in all, where resampling would see no spread.
            return {**share(int(shares.sum()), len(shares)), "n": n}
        return average(sums, counts=counts)

    def by_kind(part: Part, lines: list[dict] = lines) -> dict[str, dict]:
        kinds = sorted({line["kind"] for line in lines})
        parts = {kind: [line for line in lines if line["kind"] == kind] for kind in kinds}
        return {kind: figure(part, some) for kind, some in ({"all": lines} | parts).items()}

    report = {
        "accuracy": by_kind(_correct),
        "call_rate": figure(lambda episode: (bool(episode["boxes_px"]), 1)),
        "calls_per_episode": figure(
            lambda episode: (len(episode["boxes_px"]), 1), proportion=False
        ),
        "valid_calls": figure(lambda episode: (len(episode["boxes_px"]), episode["attempts"])),
        "well_formed": figure(lambda episode: (episode["well_formed"], 1)),
        "call_iou": figure(lambda episode: (sum(episode["ious"]), len(episode["ious"]))),
        "remarks": Counter(r for x in lines for e in x["episodes"] for r in e.get("remarks", [])),
    }
    if all(line.get("truth") in ("yes", "no") for line in lines):
        said = [{**line, "episodes": [_said(line, e) for e in line["episodes"]]} for line in lines]
        report["yes_no"] = {name: by_kind(part, said) for name, part in DETECTION.items()}
    return report


# Of answers that say yes (said) to a thing that is there (there); POPE's own four figures. F1 weighs what is
# found twice, against all that is said to be there and all that is.
DETECTION: dict[str, Part] = {
    "f1": lambda e: (2 * (e["said"] and e["there"]), e["said"] + e["there"]),
    "precision": lambda e: (e["said"] and e["there"], e["said"]),
    "recall": lambda e: (e["said"] and e["there"], e["there"]),
    "yes_ratio": lambda e: (e["said"], 1),
}


def _said(line: dict, episode: dict) -> dict:
    """An episode with what it says, yes or not, and what is true; a judge's verdict counts."""
    there, question = line["truth"] == "yes", {"question": line["question"], "verifier": "yes_no"}
    said = bool(verdict(episode["answer"], {**question, "answer": "yes"}))
    return {**episode, "there": there, "said": there if episode["correct"] else said and not there}


def _correct(episode: dict) -> tuple[bool, int]:
    return episode["correct"], 1


def _by_image(lines: list[dict], part: Callable[[dict], tuple[float, int]]) -> np.ndarray:
    """Two numbers of an episode, such as correct and 1, summed over each image's episodes: (2, images)."""
    images: dict[str, list[tuple]] = {}
    for line in lines:
        images.setdefault(line["image"], []).extend(map(part, line["episodes"]))
    return np.array([np.sum(parts, axis=0, dtype=float) for parts in images.values()]).T


def _paired(a: list[dict], b: list[dict]) -> dict:
    """Accuracy of ``b`` minus that of ``a``, image by image; both are about the same questions."""
    return paired(*(np.divide(*_by_image(lines, _correct)) for lines in (a, b)))


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
        (_, ours), (_, theirs) = read_log(path), read_log(other)
        questions = [[(line["id"], line["question"]) for line in x] for x in (ours, theirs)]
        if questions[0] != questions[1]:
            raise ValueError(f"{path} and {other} were not asked the same; do their seeds differ?")
        differences[path.stem.replace("-", ", tool ")] = _paired(theirs, ours)
    if not differences:
        raise ValueError(f"{out} and {against} have no record in common; run `benchmark` into both")
    return differences


# --- tables -------------------------------------------------------------------------------------


def table(report: dict) -> str:
    """A report as text; below it, apart, what others published."""
    cells, sources = report["cells"], report["sources"]
    kinds = list(next(iter(cells.values()))["accuracy"])
    width = max(18, *(len(kind) + 2 for kind in kinds))
    rates = {"call_rate": 11, "calls_per_episode": 7, "valid_calls": 7, "call_iou": 6}
    head = "".join(f"{kind:>{width}}" for kind in kinds)
    lines = [f"{'':20}{head}{'call rate':>11}{'calls':>7}{'valid':>7}{'IoU':>6}"]
    for name, figures in cells.items():
        line = "".join(f"{interval(figures['accuracy'][kind]):>{width}}" for kind in kinds)
        for key, columns in rates.items():
            mean = f"{figures[key]['mean']:.2f}" if figures[key]["n"] else "-"
            line += f"{mean:>{columns}}"
        lines.append(f"{name:20}{line}")
    for name, figures in cells.items():
        for key, by_kind in figures.get("yes_no", {}).items():
            label = f"{name[:30]}, {key.replace('_', ' ')}"
            lines.append(
                f"{label:20}" + "".join(f"{interval(by_kind[kind]):>{width}}" for kind in kinds)
            )
    caption = f"{report['questions']} questions of {', '.join(sources)}"
    caption += f"; Avg@{report['k']}" if report["k"] > 1 else ""
    caption += f"; accuracy with 95 % intervals; options shuffled with seed {report['seed']}"
    lines.append(caption)
    for name, figures in cells.items():
        lines += [f"{name}: {n} {REMARKS[r]}" for r, n in figures.get("remarks", {}).items()]
    lines += differences_table(report["paired_accuracy"])
    theirs = [
        f"{row['benchmark']:12} {row['model']:18} {row['percent']:>24}  "
        f"{row['protocol']}; {row['source']} [{row['mark']}]"
        for row in published(sources)
    ]
    if theirs:
        head = "Published by others. Their protocols are not ours: compare within a protocol only."
        lines += ["", head, *theirs, "[P] read there, [S] from a summary of the paper."]
    return "\n".join(lines)


def published(benchmarks: Iterable[str]) -> list[dict[str, str]]:
    """The rows of ``data/published.csv`` about these benchmarks: figures of others, none is ours.

    The same weights score from 83 to 91.6 on V* Bench, depending on who asks and how; so a figure is worth
    its protocol, and a row of ours may stand beside one of these only if the protocols are the same.

    Args:
        benchmarks: names as in the column ``source`` of our schema.
    """
    with (DATA / "published.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["benchmark"] in benchmarks]


def differences_table(differences: dict[str, dict]) -> list[str]:
    """One line for each paired difference, in percentage points."""
    return [
        f"{name}: {100 * d['mean']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}] points, "
        f"p = {d['p']:.3f} (paired, {d['n']} images)"
        for name, d in differences.items()
    ]
