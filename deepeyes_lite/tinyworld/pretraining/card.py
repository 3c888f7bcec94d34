"""The measured half of tiny-eyes' model card: ``python -m deepeyes_lite card FOLDER``.

Native skills are read off greedily and without the tool in the prompt; the rollout setting is sampled
at temperature 1 with the tool, as training does it.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from deepeyes_lite.boxes import Box, px_from_1000
from deepeyes_lite.evaluation import average, interval, share, summarise
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy, OracleZoomPolicy, Policy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.questions import KINDS, label_of
from deepeyes_lite.tools import check_box, zoom
from deepeyes_lite.trajectories import Trajectory

MARK = "<!-- measured -->"  # the table in the model's README stands between two of these
MARGIN = 8  # px of the scene around the target in a crop that is to be read


def measure(folder: str | Path, n: int = 600) -> dict:
    """All figures of the card on ``n`` held-out scenes (split "validation"), with counts and intervals.

    Returns:
        crop_reading, grounding_iou, view_reading_legible, view_reading_illegible; ``rollout``: the figures
        of `evaluation.summarise`; ``kinds``: for each kind of question the accuracy from the view, with
        the oracle zoom (both greedy), and in the rollout setting, on a third of the scenes.
    """
    model, processor = load(folder)
    rows = list(tiny_world("validation", n))
    skill = LocalPolicy(model, processor, tools=False, temperature=0.0)
    crops = rollout([{**row, "image": target_crop(row)} for row in rows], skill)
    overlaps = [t.best_iou or 0.0 for t in grounding(rows, skill)]
    view = rollout(rows, skill)
    episodes = rollout(rows, LocalPolicy(model, processor), tool="on", seed=0)
    halves = {half: [t for t in view if t.sample["legible"] == half] for half in (0, 1)}
    kinds = {}
    for kind in KINDS:
        asked = list(tiny_world("validation", max(2, n // 3), kind=kind))
        for name, policy, tool in (
            ("view", skill, "off"),
            ("shown", OracleZoomPolicy(skill, label_of), "on"),
            ("rollout", LocalPolicy(model, processor), "on"),
        ):
            correct = [t.correct for t in rollout(asked, policy, tool=tool)]
            kinds.setdefault(kind, {})[name] = share(sum(correct), len(correct))
    return {
        "scenes": n,
        "split": "validation",
        "crop_reading": share(sum(t.correct for t in crops), n),
        "grounding_iou": average(overlaps),
        "view_reading_legible": share(sum(t.correct for t in halves[1]), len(halves[1])),
        "view_reading_illegible": share(sum(t.correct for t in halves[0]), len(halves[0])),
        "rollout": summarise(episodes),
        "kinds": kinds,
    }


def grounding(rows: Iterable[dict], policy: Policy) -> list[Trajectory]:
    """Asks, in a single turn, where the target of each question is.

    Returns:
        Episodes; the box that the answer names counts as a call's, so that ``best_iou`` is its IoU (None
        where it names none). ``correct`` is IoU > 0.5, as usual in grounding.
    """
    questions = [{**row, "question": f"Where is the {label_of(row)}?"} for row in rows]
    episodes = rollout(questions, policy, tool="off")
    for episode in episodes:
        episode.turns[-1].boxes_px = pointed_boxes(episode)
        episode.correct = (episode.best_iou or 0.0) > 0.5
    return episodes


def write_card(folder: str | Path, n: int = 600) -> dict:
    """Measure; write ``card.json`` into the model's folder and the table into its README."""
    folder = Path(folder)
    figures = measure(folder, n)
    (folder / "card.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    readme = folder / "README.md"
    if readme.exists() and MARK in readme.read_text(encoding="utf-8"):
        before, _, after = readme.read_text(encoding="utf-8").split(MARK)
        text = f"{before}{MARK}\n{table(figures)}\n{MARK}{after}"
        readme.write_text(text, encoding="utf-8")
    return figures


def table(figures: dict) -> str:
    """The figures as a Markdown table: value, 95 % interval, count."""
    rollouts = figures["rollout"]
    rows = [
        ("reads the letter in the target's crop", figures["crop_reading"]),
        ("points at a named object, mean IoU", figures["grounding_iou"]),
        ("reads a legible letter from the view", figures["view_reading_legible"]),
        ("reads an illegible letter from the view", figures["view_reading_illegible"]),
        ("rollout: valid format", rollouts["format"]),
        ("rollout: call rate", rollouts["call_rate"]),
        ("rollout: mean IoU of the boxes in calls", rollouts["call_iou"]),
    ]
    for name, label in (("accuracy", "accuracy"), ("p_zoom", "p_zoom"), ("p_direct", "p_direct")):
        for half in ("", "_legible", "_illegible"):
            rows.append((f"rollout: {label}{half.replace('_', ', ')}", rollouts[name + half]))
    lines = ["| | value | 95 % interval | n |", "|---|---:|---|---:|"]
    for label, figure in rows:
        value, low, high = (f"{figure[key]:.3f}" for key in ("mean", "low", "high"))
        lines.append(f"| {label} | {value} | {low} – {high} | {figure['n']} |")
    lines += ["", "| accuracy by kind | from the view | oracle zoom | rollout | n |"]
    lines += ["|---|---|---|---|---:|"]
    for kind, shares in figures["kinds"].items():
        cells = " | ".join(interval(shares[name]) for name in ("view", "shown", "rollout"))
        lines.append(f"| {kind} | {cells} | {shares['view']['n']} |")
    return "\n".join(lines)


def target_crop(row: dict):
    x1, y1, x2, y2 = row["boxes_px"][0]
    return zoom(row["image"], (x1 - MARGIN, y1 - MARGIN, x2 + MARGIN, y2 + MARGIN))[0]


def pointed_boxes(episode: Trajectory) -> list[Box]:
    """The box that the answer names, in pixels of the image; empty where it names none."""
    try:
        box_1000 = check_box(json.loads(episode.answer or ""))
    except (ValueError, RecursionError):  # a ToolError is a ValueError
        return []
    return [px_from_1000(box_1000, episode.images[0].size)]
