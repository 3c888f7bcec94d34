"""Two tools: which is chosen when? A world where some questions need one, some the other, some none.

Small letters need the zoom. In a *faint* scene, all tones are squeezed into a few grey levels, as in fog or
an underexposed photo: its letters are large, but only `extra_tools.ContrastTool` brings them back. A crop
of a faint scene is as faint as the scene.

A base that never calls a tool cannot learn from reward when to call it. So there is a warm start: supervised
episodes that call no tool, the zoom or the contrast tool, drawn *before* anyone looks at the scene. They
teach how the call is written and nothing about when it helps; GRPO has to find that out.
"""

import random

import numpy as np
from datasets import Dataset
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.data import FEATURES, build, tiny_world
from deepeyes_lite.images import encode
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.lessons import THOUGHTS, anywhere, around, heard, speak
from deepeyes_lite.tinyworld.scenes import LETTERS, World
from deepeyes_lite.tools import ZOOM, zoom
from deepeyes_lite.trajectories import Trajectory

KINDS = ("plain", "small", "faint", "small and faint")
CONTRAST = "image_contrast_tool"
LEVELS = 14  # grey levels that are left of 256 in a faint scene


def faint(image: Image.Image, levels: int = LEVELS) -> Image.Image:
    """The image with its tones squeezed into ``levels`` grey levels around the middle, rounded for good.

    >>> faint(Image.linear_gradient("L").convert("RGB")).getextrema()[0]
    (121, 134)
    """
    tones = np.asarray(image, np.float32) / 255
    return Image.fromarray(np.round(128 + (levels - 1) * (tones - 0.5)).astype(np.uint8))


def questions(split: str, n: int, kinds=KINDS[:3], start: int = 0) -> Dataset:
    """``n`` questions for each kind, taking turns."""
    parts = {}
    for kind in kinds:
        world = World(legible_share=0.0 if "small" in kind else 1.0)
        parts[kind] = tiny_world(split, n, world, start + n * KINDS.index(kind))

    def rows():
        for i in range(n):
            for kind, part in parts.items():
                row = part[i]
                image = faint(row["image"]) if "faint" in kind else row["image"]
                yield {**row, "kind": kind, "legible": int(kind == "plain"), "image": {"bytes": encode(image, "BMP"), "path": None}}

    return build(rows())


THINK_CONTRAST = "I need contrast."
TRUSTING=0.6
AIMED=0.2

def traces(rows: list[dict], processor) -> list[Trajectory]:
    scripts = {}
    for row in rows:
        rng = random.Random(f"trace {row['id']} {row['kind']}")
        tool = rng.choice(["", ZOOM, CONTRAST])
        side = row["image"].width
        whole = (0.0, 0.0, side, side)
        (target,) = row["boxes_px"]
        turns = []
        known = row["kind"] == "plain"
        if tool == ZOOM:
            box = around(target, rng, 24, 12, side) if rng.random() < AIMED else anywhere(rng, whole)
            said = speak(box, whole)
            window = zoom(row["image"], heard(said, whole))[1]
            shown = window[0]<=target[0]+8 and window[1]<=target[1]+8 and window[2]>=target[2]-8 and window[3]>=target[3]-8 and window[2]-window[0] <= 130
            if row["kind"] == "plain" and not shown and rng.random() < TRUSTING:
                known = False
            if row["kind"] == "small":
                known = shown
            name = row["question"].split("the ")[1].rstrip("?")
            turns.append(f"<think>{THOUGHTS['zoom']}</think>" + prompts.tool_call({"bbox_2d": said, "label": name}))
        elif tool == CONTRAST:
            known = row["kind"] in ("plain", "faint")
            turns.append(f"<think>{THINK_CONTRAST}</think>" + prompts.tool_call({}, CONTRAST))
        answer = row["answer"] if known else rng.choice(LETTERS)
        scripts[row["id"]] = [*turns, prompts.answer(THOUGHTS["crop" if tool else "look"], answer)]
    return rollout(rows, ScriptedPolicy(processor, scripts), progress=False)
