"""Two tools, and when to call which: a world in which some questions need one, some the other, some none.

Small letters need the zoom. A *faint* scene has all its tones squeezed into a few grey levels, as in fog or
an underexposed photo: its letters are large, but only `extra_tools.ContrastTool` brings them back, and a
crop is as faint as the scene. Plain scenes need no tool.

tiny-eyes has no word for a second tool, and a tool that is never called cannot be learned from reward. So
there is a warm start: a few new words, and supervised episodes whose tool is drawn *before* anyone looks
at the scene. They teach how a call is written, and nothing about when it helps: GRPO has to find that out.
"""

import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedTokenizerBase

from deepeyes_lite import prompts, tool_use
from deepeyes_lite.boxes import Box
from deepeyes_lite.data import build, tiny_world
from deepeyes_lite.evaluation import interval, share
from deepeyes_lite.files import whole
from deepeyes_lite.images import encode
from deepeyes_lite.loading import load
from deepeyes_lite.policies import LocalPolicy, ScriptedPolicy
from deepeyes_lite.presets import RunConfig
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.lessons import THOUGHTS, anywhere, around, heard, speak
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.tool_use import NONE, chosen
from deepeyes_lite.tools import ZOOM, zoom
from deepeyes_lite.training import base_of, load_trained, read_config, train
from deepeyes_lite.trajectories import Trajectory

CONTRAST = "image_contrast_tool"
KINDS = ("plain", "small", "faint", "small and faint")
TRAINED = KINDS[:3]  # the last one needs both tools; it is only asked
HELPS = {"small": ZOOM, "faint": CONTRAST, "small and faint": f"{CONTRAST} + {ZOOM}"}
LEVELS = 14  # grey levels of 256 that a faint scene has left
THOUGHT = "I need more contrast."
# The new words, each one token, and the known word that it starts as a copy of: what it is used like.
WORDS = {
    f" {CONTRAST}.": "\n",
    THOUGHT: THOUGHTS["zoom"],
    json.dumps(
        {"name": CONTRAST, "arguments": {}}
    ): f'{{"name": "{ZOOM}", "arguments": {{"bbox_2d": ',
}
WARM_STEPS, WARM_BATCH, WARM_RATE = 20, 16, 5e-4


# --- the questions ------------------------------------------------------------------------------


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


# --- the warm start -----------------------------------------------------------------------------


def learn_words(model, tokenizer: PreTrainedTokenizerBase, words: dict[str, str]) -> None:
    """Give model and tokenizer new words, each a token that starts as a copy of a known one.

    Args:
        model: a transformers model; its embeddings grow.
        tokenizer: of the model.
        words: new word to known word.

    Raises:
        ValueError: for a known word that is not one token.
    """
    known = {
        word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words.values()
    }
    if split := [word for word, ids in known.items() if len(ids) != 1]:
        raise ValueError(
            f"{split[0]!r} is {len(known[split[0]])} tokens of this tokenizer, not one"
        )
    new = [
        word for word in words if len(tokenizer(word, add_special_tokens=False)["input_ids"]) != 1
    ]
    tokenizer.add_tokens(new)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        for word in new:
            rows[tokenizer.convert_tokens_to_ids(word)] = rows[known[words[word]][0]]


def traces(rows: list[dict], processor) -> list[Trajectory]:
    """Clumsy episodes: no tool, the zoom or the contrast tool, whatever the scene.

    An answer is learned only where the episode shows it.
    """
    scripts, shown = {}, {}
    for row in rows:
        rng = random.Random(f"trace {row['id']}")
        (target_px,), side = row["boxes_px"], row["image"].width
        tool, whole_px = rng.choice([NONE, ZOOM, CONTRAST]), (0.0, 0.0, side, side)
        if tool == ZOOM:
            aimed = rng.random() < 0.2  # as in tiny-eyes' last lessons
            box_px = around(target_px, rng, 24, 12, side) if aimed else anywhere(rng, whole_px)
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


def warm_start(to: str | Path, base: str = RunConfig.model, steps: int = WARM_STEPS) -> Path:
    """tiny-eyes with words for the second tool, and the habit of calling either at random.

    Args:
        to: folder of the model; what is there already is not made again.
        base: folder of tiny-eyes.
        steps: of SFT on `traces`, the vision tower left as it is.
    """
    from trl import SFTConfig, SFTTrainer

    from deepeyes_lite.realworld.cold_start import collator

    to = Path(to)
    if to.exists():
        return to
    model, processor = load(base, extra_tool="contrast")
    learn_words(model, processor.tokenizer, WORDS)
    model.model.visual.requires_grad_(False)
    with whole(to) as aside:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(aside),
                max_steps=steps,
                per_device_train_batch_size=WARM_BATCH,
                learning_rate=WARM_RATE,
                warmup_steps=5,
                max_length=None,
                remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                save_strategy="no",
                logging_steps=10,
                report_to=[],
                use_cpu=True,
                bf16=False,
                dataloader_pin_memory=False,
                gradient_checkpointing=False,
            ),
            # Far from the scenes of tiny-eyes' own lessons.
            train_dataset=questions("pretrain", -(-steps * WARM_BATCH // 3), start=9_500_000),
            data_collator=collator(processor, traces),
            processing_class=processor,
        )
        trainer.train()
        model.save_pretrained(aside)
        del processor.extra_tool
        processor.save_pretrained(aside)
    return to


# --- the run ------------------------------------------------------------------------------------

RECORD = ("config.json", "history.csv", tool_use.FILE, "evaluation.json")


def run(
    out: str | Path,
    records: str | Path | None = None,
    seed: int = 0,
    arm: str = "conditional",
    steps: int = 40,
    samples: int = 60,
) -> dict:
    """Warm start, GRPO with both tools, evaluation; a run that was killed goes on.

    Args:
        out: folder; the warm start and the questions in it are shared by its runs.
        records: folder in which the record of the run is kept, too.
        seed: of the run.
        arm: of the reward.
        steps: of GRPO.
        samples: questions of each kind in the evaluation.

    Returns:
        What ``evaluation.json`` holds, see `evaluate`.
    """
    out = Path(out)
    base, data = warm_start(out / "warm-start"), out / "questions"
    if not data.exists():
        with whole(data) as aside:
            questions("train", 100).save_to_disk(aside)
    config = RunConfig(
        arm=arm, steps=steps, seed=seed, model=str(base), data=str(data), extra_tool="contrast"
    )
    folder = train(config, out / f"{arm}-{seed}")
    report = evaluate(folder, samples)
    if records:
        with whole(Path(records) / folder.name) as aside:
            aside.mkdir(parents=True)
            for name in RECORD:
                shutil.copy(folder / name, aside / name)
    return report


def evaluate(folder: str | Path, samples: int = 60, seed: int = 0) -> dict:
    """Ask a finished run, and the warm start that it came from, the same held-out questions of all kinds.

    Returns:
        What ``evaluation.json`` then holds: ``samples`` of each kind, and `by_kind` under each condition.
    """
    path = Path(folder) / "evaluation.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    asked = questions("test", samples, KINDS)
    models = {"warm start": base_of(read_config(folder)), "trained": load_trained(folder)}
    found = {
        name: by_kind(rollout(asked, LocalPolicy(*model), seed=seed))
        for name, model in models.items()
    }
    policy = LocalPolicy(*models["trained"])
    found["trained, tools off"] = by_kind(rollout(asked, policy, tool="off", seed=seed))
    report = {"samples": samples, "seed": seed, "conditions": found}
    with whole(path) as aside:
        aside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def by_kind(episodes: list[Trajectory]) -> dict[str, dict]:
    """For each kind of question the accuracy, and how many episodes called which tool."""
    kinds = {}
    for kind in dict.fromkeys(t.sample["kind"] for t in episodes):
        some = [t for t in episodes if t.sample["kind"] == kind]
        calls = Counter(chosen([turn.text for turn in t.turns]) for t in some)
        kinds[kind] = {
            "accuracy": share(sum(t.correct for t in some), len(some)),
            "chosen": dict(calls.most_common()),
        }
    return kinds


def table(report: dict) -> str:
    """An evaluation as text: accuracy, and the share of episodes that call each tool, by kind."""
    tools = {NONE: "none", ZOOM: "zoom", CONTRAST: "contrast", f"{CONTRAST} + {ZOOM}": "both"}
    lines = [f"{'':22}{'':18}{'accuracy':>18}" + "".join(f"{t:>10}" for t in tools.values())]
    for condition, kinds in report["conditions"].items():
        for kind, found in kinds.items():
            n = found["accuracy"]["n"]
            shares = "".join(f"{found['chosen'].get(tool, 0) / n:>10.0%}" for tool in tools)
            lines.append(f"{condition:22}{kind:18}{interval(found['accuracy']):>18}{shares}")
    return "\n".join(
        [*lines, f"{report['samples']} held-out questions of each kind; 95 % intervals"]
    )


def curve(records: list[list[dict]], kind: str, tool: str) -> tuple[list[int], list[float]]:
    """Steps, and the share of the episodes of a kind that called a tool and no other, all runs together.

    Args:
        records: of several runs, the rows of `tool_use.read`.
        kind: of question.
        tool: its name, or "none".
    """
    called, asked = Counter(), Counter()
    for row in (row for rows in records for row in rows if row["kind"] == kind):
        asked[row["step"]] += row["episodes"]
        called[row["step"]] += row["episodes"] * (row["tool"] == tool)
    return sorted(asked), [called[step] / asked[step] for step in sorted(asked)]


def verdict(reports: list[dict]) -> str:
    """Which tool was learned for which kind, in words.

    A kind counts as learned in a run if the share of episodes that call the tool that helps is surely higher
    after training than after the warm start: the two 95 % intervals do not touch.
    """
    lines = []
    for kind, tool in HELPS.items():
        learned = 0
        for number, report in enumerate(reports):
            before, after = (report["conditions"][name] for name in ("warm start", "trained"))
            early, late = helped(before, kind), helped(after, kind)
            learned += late["low"] > early["high"]
            lines.append(f"{kind:16} run {number}: {interval(early)} -> {interval(late)}")
        lines.append(f"{kind}: {tool}, learned in {learned} of {len(reports)} runs")
    return "\n".join(lines)


def helped(kinds: dict, kind: str) -> dict:
    """Share of the questions of a kind on which the tool that helps was called, and no other."""
    return share(kinds[kind]["chosen"].get(HELPS[kind], 0), kinds[kind]["accuracy"]["n"])
