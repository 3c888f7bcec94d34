"""A pitfall: three controls "without the tool", of which only one says what a policy can do without it.

A policy that has learned to call begins its reply with a call. Where calls are suppressed it has no way on
and often writes no answer, so that its accuracy says how it begins, not what it can read. Asked without the
tool in the prompt, or with the beginning of a direct answer written for it, it shows what it can read.
"""

import json
from pathlib import Path

from peft import PeftModel

from deepeyes_lite.evaluation import interval, summarise
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import held_out

CONTROLS = {
    "suppressed": "calls suppressed",
    "forced": "direct answer forced",
    "off": "no tool in the prompt",
}


def controls(model: str | Path, adapter: str | Path, out: Path, samples: int = 300) -> dict:
    """Ask a base model, and what was trained from it, under each of ``CONTROLS``.

    Args:
        model: the base, see `models.load`.
        adapter: folder of the trained adapter.
        out: JSON file to write.
        samples: held-out scenes.

    Returns:
        What the file holds: ``samples``, and for each model and control the figures of `summarise`.
    """
    rows, figures = held_out(samples), {}
    for who in ("trained", "base"):
        weights, processor = load(model)
        if who == "trained":
            weights = PeftModel.from_pretrained(weights, adapter).merge_and_unload()
        policy = LocalPolicy(weights, processor)
        figures[who] = {tool: summarise(rollout(rows, policy, tool)) for tool in CONTROLS}
    report = {"samples": samples, "seed": 0, "models": figures}
    with atomic_write(out) as tmp:
        tmp.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def table(report: dict) -> str:
    """The report of `controls` as a Markdown table."""
    lines = ["| | legible | illegible | well-formed |", "|---|---|---|---|"]
    for who, by_control in report["models"].items():
        for tool, figures in by_control.items():
            keys = ("accuracy_legible", "accuracy_illegible", "format")
            cells = " | ".join(interval(figures[key]) for key in keys)
            lines.append(f"| {who}, {CONTROLS[tool]} | {cells} |")
    return "\n".join(lines)
