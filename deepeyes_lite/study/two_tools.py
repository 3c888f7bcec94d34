"""Two tools, and when to call which: a warm start, GRPO, and what was called on which kind of question.

tiny-eyes has no word for a second tool, and a tool that is never called cannot be learned from reward. So
there is a warm start: a few new words, and supervised episodes whose tool is drawn *before* anyone looks
at the scene (`traces`). They teach how a call is written, and nothing about when it helps: GRPO has to find
that out.
"""

import csv
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageOps

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Box
from deepeyes_lite.config import RunConfig
from deepeyes_lite.evaluation import interval, share
from deepeyes_lite.files import atomic_write, check_or_write_config
from deepeyes_lite.models import load, load_processor
from deepeyes_lite.policies import LocalPolicy, ScriptedPolicy
from deepeyes_lite.realworld.cold_start import sft_on_traces
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study.low_contrast import CONTRAST, HELPS, KINDS, questions
from deepeyes_lite.study.run import archive
from deepeyes_lite.tinyworld.pretraining.lessons import (
    THOUGHTS,
    anywhere,
    around,
    decode_box,
    encode_box,
)
from deepeyes_lite.tinyworld.questions import label_of
from deepeyes_lite.tools import ZOOM, ZoomTool, zoom
from deepeyes_lite.training import base_of, load_trained, read_config, train
from deepeyes_lite.trajectories import Trajectory

# --- the tool -------------------------------------------------------------------------------------


class ZoomAndContrast(ZoomTool):
    """The zoom, and a second tool beside it; ``RunConfig.environment`` names the class."""

    def image_contrast_tool(self, image: int = 0) -> list:
        """Stretch the contrast of an image, so that what is faint stands out.

        Args:
            image: Which image: 0 is the original, 1 the first answer of a tool, and so on.

        Returns:
            The image, from black to white.
        """
        return self._changed(image, stretched)


def stretched(image: Image.Image) -> Image.Image:
    """The image with its darkest tone black and its brightest white; its colours keep their hue.

    >>> fog = Image.linear_gradient("L").point(lambda v: 100 + v // 32).convert("RGB")
    >>> fog.getextrema()[0], stretched(fog).getextrema()[0]
    ((100, 107), (0, 255))
    """
    return ImageOps.autocontrast(image.convert("RGB"), preserve_tone=True)


# --- the warm start: words for a call, and the habit of calling -------------------------------------

INIT_NOISE = 1.0  # of a new word, see `learn_words`
AIMED_FRACTION = 0.6  # see `traces`; in tiny-eyes' last lessons it is 0.2
WARM_STEPS, WARM_BATCH, WARM_RATE = 20, 16, 5e-4
NONE = "none"  # no tool
THOUGHT = "I need more contrast."
# The new words, each one token, and the known word that it starts beside: what it is used like.
WORDS = {
    f" {CONTRAST}.": "\n",
    THOUGHT: THOUGHTS["zoom"],
    json.dumps(
        {"name": CONTRAST, "arguments": {}}
    ): f'{{"name": "{ZOOM}", "arguments": {{"bbox_2d": ',
}


def learn_words(model, tokenizer, words: dict[str, str], init_noise: float = INIT_NOISE) -> None:
    """Give model and tokenizer new words, each a token that starts beside a known one.

    Args:
        model: a transformers model; its embeddings grow.
        tokenizer: of the model.
        words: new word to known word.
        init_noise: how far a new word starts from the known one, as a share of that one's length, in a
            random direction. Exact copies (0) are as likely everywhere, and stay so: LoRA leaves embeddings
            as they are, so the difference of the two rows is all that a policy can tell them apart by.

    Raises:
        ValueError: for a known word that is not one token.
    """

    def ids(word: str) -> list[int]:
        return tokenizer(word, add_special_tokens=False)["input_ids"]

    for known in words.values():
        if len(ids(known)) != 1:
            raise ValueError(f"{known!r} is {len(ids(known))} tokens of this tokenizer, not one")
    new = [word for word in words if len(ids(word)) != 1]
    tokenizer.add_tokens(new)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight  # (V, D)
        for word in new:
            row = rows[ids(words[word])[0]].clone()
            noise = torch.randn(row.shape, generator=generator)
            step = init_noise * row.norm() * torch.nn.functional.normalize(noise, dim=0)
            rows[tokenizer.convert_tokens_to_ids(word)] = row + step


def traces(rows: list[dict], processor, aimed_fraction: float = AIMED_FRACTION) -> list[Trajectory]:
    """Clumsy episodes: no tool, the zoom or the contrast tool, whatever the scene.

    An answer is learned only where the episode shows it.

    Args:
        rows: samples of `questions`.
        processor: of the model.
        aimed_fraction: share of zooms whose box is drawn around the target, unsteadily; the others are
            anywhere.
    """
    scripts, shown = {}, {}
    for row in rows:
        rng = random.Random(f"trace {row['id']}")
        (target_px,), side = row["boxes_px"], row["image"].width
        tool, whole_px = rng.choice([NONE, ZOOM, CONTRAST]), (0.0, 0.0, side, side)
        if tool == ZOOM:
            aimed = rng.random() < aimed_fraction
            box_px = around(target_px, rng, 24, 12, side) if aimed else anywhere(rng, whole_px)
            box_1000 = encode_box(box_px, whole_px)
            call = prompts.tool_call({"bbox_2d": box_1000, "label": label_of(row)})
            crop_px = zoom(row["image"], decode_box(box_1000, whole_px))[1]
            shown[row["id"]] = row["kind"] != "faint" and _shows(crop_px, target_px)
        else:
            call = prompts.tool_call({}, CONTRAST)
            shown[row["id"]] = row["kind"] in (("plain",) if tool == NONE else ("plain", "faint"))
        thought = THOUGHTS["zoom"] if tool == ZOOM else THOUGHT
        calls = [] if tool == NONE else [f"<think>{thought}</think>{call}"]
        answer = prompts.answer(THOUGHTS["crop" if calls else "look"], row["answer"])
        scripts[row["id"]] = [*calls, answer]
    episodes = rollout(rows, ScriptedPolicy(processor, scripts, ZoomAndContrast), progress=False)
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


def warm_start(
    to: str | Path,
    base: str = RunConfig.model,
    init_noise: float = INIT_NOISE,
    aimed_fraction: float = AIMED_FRACTION,
) -> Path:
    """tiny-eyes with words for the second tool, and the habit of calling either at random.

    Args:
        to: folder of the model; what is there already is not made again.
        base: name of tiny-eyes, see `models.load`.
        init_noise: how far the new words start from known ones, see `learn_words`.
        aimed_fraction: share of zooms that are aimed, see `traces`.
    """
    to = Path(to)
    if to.exists():
        return to
    model, processor = load(base)
    learn_words(model, processor.tokenizer, WORDS, init_noise)
    model.model.visual.requires_grad_(False)
    # Far from the scenes of tiny-eyes' own lessons.
    rows = questions("pretrain", -(-WARM_STEPS * WARM_BATCH // 3), start=9_500_000)
    sft_on_traces(
        model,
        processor,
        rows,
        partial(traces, aimed_fraction=aimed_fraction),
        WARM_STEPS,
        per_device_train_batch_size=WARM_BATCH,
        gradient_accumulation_steps=1,
        learning_rate=WARM_RATE,
        warmup_steps=5,
    )
    with atomic_write(to) as tmp:
        model.save_pretrained(tmp)
        processor.save_pretrained(tmp)
    return to


# --- which tool is called on which kind of question ---------------------------------------------------

TOOLS = "tools.csv"  # in a run's folder
COLUMNS = ["step", "kind", "tool", "episodes", "correct"]
_CALL = re.compile(r'<tool_call>\s*\{"name": "(\w{1,64})"')


def chosen(turns: Sequence[str]) -> str:
    """The tool that an episode calls: its name, "none", or several in the order of the alphabet.

    Args:
        turns: what the model wrote, turn by turn; calls that were refused count, too.

    >>> chosen(['<tool_call>{"name": "image_zoom_in_tool", "arguments": {}}</tool_call>', "K"])
    'image_zoom_in_tool'
    >>> chosen(["<answer>K</answer>"])
    'none'
    """
    return " + ".join(sorted({name for turn in turns for name in _CALL.findall(turn)})) or NONE


def tool_counter(tokenizer, path: Path) -> Callable:
    """A reward function that only watches: at every step it adds rows of ``COLUMNS`` to a CSV file.

    Args:
        tokenizer: of the model.
        path: of the file.
    """

    def count_tools(outcomes, completion_ids, kind, trainer_state, **_) -> list[float]:
        step = trainer_state.global_step + 1
        texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=False)
        keys = [(k, chosen(prompts.split_turns(text))) for k, text in zip(kind, texts)]
        correct = Counter(key for key, outcome in zip(keys, outcomes) if outcome.correct)
        # After a kill, steps since the checkpoint are done again.
        rows = [row for row in read_tools(path) if row["step"] < step] if path.exists() else []
        for key, n in sorted(Counter(keys).items()):
            rows.append(dict(zip(COLUMNS, (step, *key, n, correct[key]))))
        with atomic_write(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        return [0.0] * len(outcomes)

    return count_tools


def read_tools(path: str | Path) -> list[dict]:
    """The rows of a run's ``tools.csv``."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row | {n: int(row[n]) for n in ("step", "episodes", "correct")} for row in rows]


# --- runs -----------------------------------------------------------------------------------------


def run(
    out: str | Path,
    records: str | Path | None = None,
    seed: int = 0,
    reward: str = RunConfig.reward,
    steps: int = 40,
    samples: int = 30,
    init_noise: float = INIT_NOISE,
    aimed_fraction: float = AIMED_FRACTION,
) -> dict:
    """Warm start, GRPO with both tools, evaluation; a run that was killed goes on.

    Args:
        out: folder; the warm start and the questions in it are shared by its runs.
        records: folder in which the record of the run is kept, too.
        seed: of the run.
        reward: reward variant.
        steps: of GRPO.
        samples: questions of each kind in the evaluation.
        init_noise: how far the new words start from known ones, see `learn_words`.
        aimed_fraction: share of zooms in the warm start that are aimed, see `traces`.

    Returns:
        What ``evaluation.json`` holds, see `evaluate`.

    Raises:
        ValueError: if the folder holds runs from another warm start.
    """
    out = Path(out)
    warm = {"init_noise": init_noise, "aimed_fraction": aimed_fraction}
    check_or_write_config(out, warm)
    base, data = warm_start(out / "warm-start", **warm), out / "questions"
    if not data.exists():
        with atomic_write(data) as tmp:
            questions("train", 100).save_to_disk(tmp)
    config = RunConfig(
        reward=reward,
        steps=steps,
        seed=seed,
        model=str(base),
        data=str(data),
        environment="deepeyes_lite.study.two_tools.ZoomAndContrast",
    )
    folder = out / f"{reward}-{seed}"
    counter = tool_counter(load_processor(base).tokenizer, folder / TOOLS)
    report = evaluate(train(config, folder, rewards={counter: 0.0}), samples)
    if records:
        files = ("config.json", "history.csv", TOOLS, "evaluation.json")
        archive(folder, Path(records) / folder.name, files, "two-tools")
    return report


def evaluate(folder: str | Path, samples: int = 30) -> dict:
    """Ask a finished run, and the warm start that it came from, the same held-out questions of all kinds.

    Args:
        folder: of the run.
        samples: questions of each kind.

    Returns:
        What ``evaluation.json`` then holds: ``samples`` of each kind, and `by_kind` under each condition.
    """
    path = Path(folder) / "evaluation.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    asked = questions("test", samples, KINDS)
    warm = LocalPolicy(*base_of(read_config(folder)), environment=ZoomAndContrast)
    trained = LocalPolicy(*load_trained(folder), environment=ZoomAndContrast)
    conditions = {
        "warm start": by_kind(rollout(asked, warm, seed=0)),
        "trained": by_kind(rollout(asked, trained, seed=0)),
        "trained, tools off": by_kind(rollout(asked, trained, tool="off", seed=0)),
    }
    report = {"samples": samples, "seed": 0, "conditions": conditions}
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def by_kind(episodes: list[Trajectory]) -> dict[str, dict]:
    """For each kind of question the accuracy, and how many episodes called which tool."""
    kinds = {}
    for kind in dict.fromkeys(t.sample["kind"] for t in episodes):
        asked = [t for t in episodes if t.sample["kind"] == kind]
        calls = Counter(chosen([turn.text for turn in t.turns]) for t in asked)
        accuracy = share(sum(t.correct for t in asked), len(asked))
        kinds[kind] = {"accuracy": accuracy, "chosen": dict(calls.most_common())}
    return kinds


def called(kinds: dict, kind: str, tool: str) -> dict:
    """Share of the questions of a kind on which a tool was called, and no other; see `by_kind`."""
    return share(kinds[kind]["chosen"].get(tool, 0), kinds[kind]["accuracy"]["n"])


def table(report: dict) -> str:
    """An evaluation as text: accuracy, and the share of episodes that call each tool, by kind."""
    tools = {NONE: "none", ZOOM: "zoom", CONTRAST: "contrast", f"{CONTRAST} + {ZOOM}": "both"}
    lines = [f"{'':22}{'':18}{'accuracy':>18}" + "".join(f"{t:>10}" for t in tools.values())]
    for condition, kinds in report["conditions"].items():
        for kind, figures in kinds.items():
            shares = "".join(f"{called(kinds, kind, tool)['mean']:>10.0%}" for tool in tools)
            lines.append(f"{condition:22}{kind:18}{interval(figures['accuracy']):>18}{shares}")
    lines.append(f"{report['samples']} held-out questions of each kind; 95 % intervals")
    return "\n".join(lines)


def curve(records: list[list[dict]], kind: str, tool: str) -> tuple[list[int], list[float]]:
    """Steps, and the share of the episodes of a kind that called a tool and no other, all runs together.

    Args:
        records: of several runs, the rows of `read_tools`.
        kind: of question.
        tool: its name, or "none".
    """
    calls, asked = Counter(), Counter()
    for rows in records:
        for row in rows:
            if row["kind"] == kind:
                asked[row["step"]] += row["episodes"]
                calls[row["step"]] += row["episodes"] * (row["tool"] == tool)
    return sorted(asked), [calls[step] / asked[step] for step in sorted(asked)]


def verdict(reports: list[dict]) -> str:
    """Whether trained policies tell the kinds apart, in words.

    They do in a run if the tool that helps one kind is called more often on it than on the kind that needs
    the other tool, so that the two 95 % intervals do not touch.
    """
    lines = []
    for kind, other in (("small", "faint"), ("faint", "small")):
        apart = 0
        for number, report in enumerate(reports):
            kinds = report["conditions"]["trained"]
            here, there = (called(kinds, name, HELPS[kind]) for name in (kind, other))
            apart += here["low"] > there["high"]
            shares = f"on {interval(here)} of {kind}, {interval(there)} of {other}"
            lines.append(f"run {number}: {shares}")
        runs = f"{apart} of {len(reports)} runs"
        lines.append(f"{HELPS[kind]}: chosen for {kind} questions in {runs}")
    return "\n".join(lines)
