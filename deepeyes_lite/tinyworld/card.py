"""The measured half of tiny-eyes' model card: ``python -m deepeyes_lite card``.

Native skills are read off greedily and without the tool in the prompt; the rollout setting is sampled
at temperature 1 with the tool, as training does it.
"""

import json
from pathlib import Path

from deepeyes_lite.boxes import iou, px_from_1000
from deepeyes_lite.data import tiny_world
from deepeyes_lite.evaluation import average, share, summarise
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.model import load
from deepeyes_lite.tools import check_box, zoom

MARK = "<!-- measured -->"  # the table in the model's README stands between two of these
MARGIN = 8  # px of the scene around the target in a crop that is to be read


def measure(folder: str | Path, n: int = 600) -> dict:
    """All figures of the card on ``n`` held-out scenes (split "validation"), with counts and intervals.

    Returns:
        crop_reading, grounding_iou, view_reading_legible, view_reading_illegible, and ``rollout``: the
        figures of `evaluation.summarise`.
    """
    model, processor = load(folder)
    rows = list(tiny_world("validation", n))
    skill = LocalPolicy(model, processor, tools=False, temperature=0.0)
    crops = rollout([{**row, "image": _target_crop(row)} for row in rows], skill)
    questions = [{**row, "question": f"Where is the {_name(row)}?"} for row in rows]
    found = [_pointed_iou(t) for t in rollout(questions, skill)]
    view = rollout(rows, skill)
    episodes = rollout(rows, LocalPolicy(model, processor), tool="on", seed=0)
    halves = {half: [t for t in view if t.sample["legible"] == half] for half in (0, 1)}
    return {
        "scenes": n,
        "split": "validation",
        "crop_reading": share(sum(t.correct for t in crops), n),
        "grounding_iou": average(found),
        "view_reading_legible": share(sum(t.correct for t in halves[1]), len(halves[1])),
        "view_reading_illegible": share(sum(t.correct for t in halves[0]), len(halves[0])),
        "rollout": summarise(episodes),
    }


def write_card(folder: str | Path, n: int = 600) -> dict:
    """Measure; write ``card.json`` into the model's folder and the table into its README."""
    folder = Path(folder)
    figures = measure(folder, n)
    (folder / "card.json").write_text(json.dumps(figures, indent=2) + "\n")
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
    return "\n".join(lines)


def _name(row: dict) -> str:
    """The object a question of kind ``read`` asks about."""
    return row["question"].removeprefix("What letter is on the ").removesuffix("?")


def _target_crop(row: dict):
    x1, y1, x2, y2 = row["boxes_px"][0]
    return zoom(row["image"], (x1 - MARGIN, y1 - MARGIN, x2 + MARGIN, y2 + MARGIN))[0]


def _pointed_iou(trajectory) -> float:
    """IoU of the box that the answer names with the target; 0 where it names none."""
    try:
        box_1000 = check_box(json.loads(trajectory.answer or ""))
    except (ValueError, RecursionError):  # a ToolError is a ValueError
        return 0.0
    box_px = px_from_1000(box_1000, trajectory.images[0].size)
    return iou(box_px, trajectory.sample["boxes_px"][0])
