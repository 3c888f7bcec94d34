"""Faint scenes, questions of which some need one tool and some another, and episodes that show the calls.

Small letters need the zoom. A *faint* scene has all its tones squeezed into a few grey levels, as in fog or
an underexposed photo: its letters are large, but only `extra_tools.ContrastTool` brings them back, and a
crop is as faint as the scene. Plain scenes need no tool.
"""

import json
import random
import re

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedTokenizerBase

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Box
from deepeyes_lite.data import build, encode
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study.tool_use import NONE
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.pretraining.lessons import THOUGHTS, anywhere, around, heard, speak
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.tools import ZOOM, zoom
from deepeyes_lite.trajectories import Trajectory

CONTRAST = "image_contrast_tool"
KINDS = ("plain", "small", "faint", "small and faint")
TRAINED = KINDS[:3]  # the last one needs both tools; it is only asked
HELPS = {"small": ZOOM, "faint": CONTRAST, "small and faint": f"{CONTRAST} + {ZOOM}"}
LEVELS = 14  # grey levels of 256 that a faint scene has left
THOUGHT = "I need more contrast."
AIMED = 0.6  # see `traces`; in tiny-eyes' last lessons it is 0.2
APART = 1.0  # of a new word from the known one, see `learn_words`
# The new words, each one token, and the known word that it starts beside: what it is used like.
WORDS = {
    f" {CONTRAST}.": "\n",
    THOUGHT: THOUGHTS["zoom"],
    json.dumps(
        {"name": CONTRAST, "arguments": {}}
    ): f'{{"name": "{ZOOM}", "arguments": {{"bbox_2d": ',
}


def faint(image: Image.Image, levels: int = LEVELS) -> Image.Image:
    """The image with its tones squeezed into ``levels`` grey levels around the middle, rounded for good.

    >>> faint(Image.linear_gradient("L").convert("RGB")).getextrema()[0]
    (122, 134)
    """
    tones = np.asarray(image.convert("RGB"), np.float32) / 255
    return Image.fromarray(np.round(128 + (levels - 1) * (tones - 0.5)).astype(np.uint8))


def questions(split: str, n: int, kinds: tuple[str, ...] = TRAINED, start: int = 0) -> Dataset:
    """``n`` questions of each kind, taking turns; each has a scene of its own.

    Args:
        split: of `data.tiny_world`.
        n: questions of a kind.
        kinds: of ``KINDS``.
        start: index of the first scene.
    """

    def rows():
        for i in range(n):
            for k, kind in enumerate(kinds):
                world = World(legible_share=0.0 if "small" in kind else 1.0)
                row = tiny_world(split, 1, world, start + i * len(kinds) + k)[0]
                image = faint(row["image"]) if "faint" in kind else row["image"]
                picture = {"bytes": encode(image, "BMP"), "path": None}
                yield {**row, "image": picture, "kind": kind, "legible": int(kind == "plain")}

    return build(rows())


def learn_words(
    model, tokenizer: PreTrainedTokenizerBase, words: dict[str, str], apart: float = APART
) -> None:
    """Give model and tokenizer new words, each a token that starts beside a known one.

    Args:
        model: a transformers model; its embeddings grow.
        tokenizer: of the model.
        words: new word to known word.
        apart: how far a new word starts from the known one, as a share of that one's length, in a random
            direction. Exact copies (0) are as likely everywhere, and stay so: LoRA leaves embeddings as
            they are, so the difference of the two rows is all that a policy can tell them apart by.

    Raises:
        ValueError: for a known word that is not one token.
    """
    known = {
        like: tokenizer(like, add_special_tokens=False)["input_ids"] for like in words.values()
    }
    if split := [like for like, ids in known.items() if len(ids) != 1]:
        raise ValueError(
            f"{split[0]!r} is {len(known[split[0]])} tokens of this tokenizer, not one"
        )
    new = [w for w in words if len(tokenizer(w, add_special_tokens=False)["input_ids"]) != 1]
    tokenizer.add_tokens(new)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        for word in new:
            row = rows[known[words[word]][0]].clone()
            direction = torch.nn.functional.normalize(
                torch.randn(row.shape, generator=generator), dim=0
            )
            rows[tokenizer.convert_tokens_to_ids(word)] = row + apart * row.norm() * direction


def traces(rows: list[dict], processor, aimed: float = AIMED) -> list[Trajectory]:
    """Clumsy episodes: no tool, the zoom or the contrast tool, whatever the scene.

    An answer is learned only where the episode shows it.

    Args:
        rows: samples of `questions`.
        processor: of the model.
        aimed: share of zooms whose box is drawn around the target, unsteadily; the others are anywhere.
    """
    scripts, shown = {}, {}
    for row in rows:
        rng = random.Random(f"trace {row['id']}")
        (target_px,), side = row["boxes_px"], row["image"].width
        tool, whole_px = rng.choice([NONE, ZOOM, CONTRAST]), (0.0, 0.0, side, side)
        if tool == ZOOM:
            well = rng.random() < aimed
            box_px = around(target_px, rng, 24, 12, side) if well else anywhere(rng, whole_px)
            said = speak(box_px, whole_px)
            name = re.search(r"the (\w+ \w+)", row["question"])[1]
            call = THOUGHTS["zoom"], prompts.tool_call({"bbox_2d": said, "label": name})
            crop_px = zoom(row["image"], heard(said, whole_px))[1]
            shown[row["id"]] = row["kind"] != "faint" and _shows(crop_px, target_px)
        else:
            call = THOUGHT, prompts.tool_call({}, CONTRAST)
            shown[row["id"]] = row["kind"] in (("plain",) if tool == NONE else ("plain", "faint"))
        calls = [] if tool == NONE else ["<think>{}</think>{}".format(*call)]
        last = prompts.answer(THOUGHTS["crop" if calls else "look"], row["answer"])
        scripts[row["id"]] = [*calls, last]
    episodes = rollout(rows, ScriptedPolicy(processor, scripts), progress=False)
    for episode in episodes:
        if not shown[episode.sample["id"]]:
            own = len(processor.tokenizer(episode.turns[-1].text + prompts.TURN_END)["input_ids"])
            episode.loss_mask[-own:] = [0] * own
    return episodes


def _shows(crop_px: Box, target_px: Box) -> bool:
    """Whether a crop shows the middle of its target large enough to be read."""
    x, y = (target_px[0] + target_px[2]) / 2, (target_px[1] + target_px[3]) / 2
    inside = crop_px[0] + 8 < x < crop_px[2] - 8 and crop_px[1] + 8 < y < crop_px[3] - 8
    return inside and crop_px[2] - crop_px[0] < 130
