"""tiny-eyes from scratch: native skills, but no habit of using them.

tiny-eyes stands in for what Qwen2.5-VL brings to DeepEyes. Two stages, because a joint start leaves
letters and boxes at chance for over a thousand steps:

1. *tower*: the vision tower alone, with dense labels. Each merged visual token predicts colour, shape,
   letter and whole-image box of the object under it.
2. *joint*: the whole model on a mixture of captions, single-turn grounding, crop reading, direct
   reading and *clumsy* tool episodes. The dense labels stay on as an auxiliary loss.

A clumsy episode's box is drawn before anyone looks at whether the detail is in it, and no episode is
chosen for its success. Every batch is a function of (seed, stage, step), so that a killed run resumes
exactly.
"""

import csv
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Box, clamp, px_to_1000
from deepeyes_lite.tinyworld.model import (
    MERGE,
    PATCH,
    build_model,
    build_processor,
    patchify,
    train_tokenizer,
)
from deepeyes_lite.tinyworld.scenes import (
    COLORS,
    LETTERS,
    SHAPES,
    Scene,
    SceneObject,
    World,
    draw_scene,
)
from deepeyes_lite.tools import zoom

WORLD = World()
CELLS = WORLD.view // PATCH // MERGE  # merged visual tokens a side
READABLE_PX = 8  # least font size, in pixels of a view, at which a letter is taken to be readable
GOOD_SHARE = 0.25  # share of clumsy boxes that are drawn around the target, unsteadily
LEGIBLE_TARGETS = 0.85  # share of legible targets when a question is asked about the view
THOUGHTS = {"look": "I can see it.", "zoom": "I need to zoom in.", "crop": "I can read it."}


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own optimizer and learning-rate cycle.

    Attributes:
        name: key of the batches; a name that starts with "tower" trains the vision tower alone.
        steps: optimizer steps.
        scenes: scenes a step. Tower: each as its view and three crops. Joint: with three short samples
            and a long one.
        learning_rate: the highest, after the warm-up.
        final: share of it at the end.
        margin: greatest margin around an object in a crop, in pixels of the scene.
    """

    name: str
    steps: int
    scenes: int
    learning_rate: float
    final: float = 0.03
    margin: int = 24


# The tower has two cycles: colours, shapes and boxes come in the first, letters in the second, with
# closer crops. 1000 steps down to 3/13 are the first 1000 of 1300.
PLAN = (
    Stage("tower", 1000, 16, 2e-3, final=3 / 13, margin=40),
    Stage("tower letters", 1000, 16, 2e-3),
    Stage("joint", 2400, 12, 1e-3),
)
QUICK = tuple(replace(stage, steps=12, scenes=4) for stage in PLAN)  # a smoke run
CHECKPOINT_EVERY = 200


# --- images: a window of the scene, reduced or enlarged to a view -------------------------------


def to_view(image: Image.Image) -> np.ndarray:
    """The (side, side, 3) uint8 view of a scene or crop, as the image processor would make it."""
    return np.asarray(image.resize((WORLD.view, WORLD.view), Image.Resampling.BICUBIC))


def readable(thing: SceneObject, window_px: Box) -> bool:
    """Whether a view of the window shows the object's letter: inside, and large enough."""
    x, y = thing.letter_xy
    reach = 0.45 * thing.letter_px
    x1, y1, x2, y2 = window_px
    inside = x1 <= x - reach and x + reach <= x2 and y1 <= y - reach and y + reach <= y2
    return inside and thing.letter_px * WORLD.view / (x2 - x1) >= READABLE_PX


def around(thing: SceneObject, rng: random.Random, margin: int, shake: int) -> Box:
    """A box around the object: a random margin up to ``margin``, each side off by ``shake`` px."""
    m = rng.uniform(0, margin)
    x1, y1, x2, y2 = thing.box_px
    box = [v + rng.uniform(-shake, shake) for v in (x1 - m, y1 - m, x2 + m, y2 + m)]
    return clamp(tuple(box), (WORLD.canvas, WORLD.canvas))


def anywhere(rng: random.Random) -> Box:
    """A box of any place and size: the clumsy guess."""
    w, h = rng.uniform(56, 176), rng.uniform(56, 176)
    x, y = rng.uniform(0, WORLD.canvas - w), rng.uniform(0, WORLD.canvas - h)
    return (x, y, x + w, y + h)


def speak(box_px: Box) -> list[int]:
    """``box_px`` as the model says it: ``box_1000`` in steps of 10."""
    return [round(v / 10) * 10 for v in px_to_1000(box_px, (WORLD.canvas, WORLD.canvas))]


# --- stage 1: dense labels ----------------------------------------------------------------------


@dataclass
class DenseLabels:
    """Labels of the merged visual tokens of one view, row by row; -100 is "no label"."""

    color: np.ndarray = field(default_factory=lambda: np.zeros(CELLS * CELLS, np.int64))
    shape: np.ndarray = field(default_factory=lambda: np.zeros(CELLS * CELLS, np.int64))
    letter: np.ndarray = field(default_factory=lambda: np.full(CELLS * CELLS, -100, np.int64))
    box: np.ndarray = field(default_factory=lambda: np.zeros((CELLS * CELLS, 4), np.float32))


def dense_labels(scene: Scene, window_px: Box) -> DenseLabels:
    """Colour, shape (0 is background), letter and box (in cells) of the object under each token."""
    labels = DenseLabels()
    best = np.zeros(CELLS * CELLS)
    x0, y0, side = window_px[0], window_px[1], window_px[2] - window_px[0]
    for thing in scene.objects:
        x1, y1, x2, y2 = ((v - o) * CELLS / side for v, o in zip(thing.box_px, (x0, y0, x0, y0)))
        letter = LETTERS.index(thing.letter) if readable(thing, window_px) else -100
        letter_x, letter_y = ((v - o) * CELLS / side for v, o in zip(thing.letter_xy, (x0, y0)))
        for row in range(max(0, math.floor(y1)), min(CELLS, math.ceil(y2))):
            for col in range(max(0, math.floor(x1)), min(CELLS, math.ceil(x2))):
                overlap = (min(x2, col + 1) - max(x1, col)) * (min(y2, row + 1) - max(y1, row))
                cell = row * CELLS + col
                if overlap <= max(0.15, best[cell]):
                    continue
                best[cell] = overlap
                labels.color[cell] = list(COLORS).index(thing.color) + 1
                labels.shape[cell] = list(SHAPES).index(thing.shape) + 1
                labels.box[cell] = [x1, y1, x2, y2]
                near = abs(col + 0.5 - letter_x) <= 1 and abs(row + 0.5 - letter_y) <= 1
                labels.letter[cell] = letter if near else -100
    return labels


class DenseHeads(nn.Module):
    """Linear read-outs of the merged visual tokens; used in training only, never shipped."""

    def __init__(self, width: int):
        super().__init__()
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.letter = nn.Linear(width, len(LETTERS))
        self.box = nn.Linear(width, 4)

    def forward(self, tokens: torch.Tensor, labels: dict) -> tuple[torch.Tensor, dict]:
        """Loss and read-out accuracies; ``tokens`` is (images * CELLS * CELLS, width)."""
        guess = {name: getattr(self, name)(tokens) for name in ("color", "shape", "letter")}
        on_object = labels["color"] > 0
        boxes = self.box(tokens)[on_object]
        target = labels["box"][on_object]
        loss = sum(F.cross_entropy(guess[name], labels[name]) for name in guess)
        # Boxes in units of a view: 4 * v - 2 spreads them over about [-2, 2].
        loss = loss + 2 * F.smooth_l1_loss(boxes, 4 * target / CELLS - 2)

        def accuracy(name: str, where: torch.Tensor) -> float:
            return (guess[name].argmax(-1) == labels[name])[where].float().mean().item()

        error = ((boxes + 2) / 4 - target / CELLS).abs().mean().item()
        return loss, {
            "color": accuracy("color", on_object),
            "letter": accuracy("letter", labels["letter"] >= 0),
            "box_error": error,
        }


# --- stage 2: samples as text -------------------------------------------------------------------


@dataclass
class Sample:
    """One training conversation: ``parts`` are (text, weight of its tokens in the loss)."""

    views: list[int]  # indices into the step's images, in order of their placeholders
    parts: list[tuple[str, float]]


def _prompt(question: str, tools: bool) -> str:
    system = f"<|im_start|>system\nTools: {prompts.ZOOM}.{prompts.TURN_END}\n" if tools else ""
    user = f"<|im_start|>user\n{prompts.IMAGE}{question}{prompts.TURN_END}\n"
    return system + user + prompts.GENERATION_PROMPT


def _reply(thought: str, text: str, weight: float = 3.0) -> list[tuple[str, float]]:
    """A reply whose answer weighs more than its frame, in which there is nothing to learn for long."""
    before, after = prompts.answer(thought, "\0").split("\0")
    return [(before, 1.0), (text, weight), (after + prompts.TURN_END, 1.0)]


class Images:
    """The images of one step, each with its dense labels."""

    def __init__(self) -> None:
        self.views: list[np.ndarray] = []
        self.labels: list[DenseLabels] = []

    def add(self, scene: Scene, box_px: Box | None = None) -> tuple[int, Box]:
        """Add the whole scene, or the tool's crop of a box; returns its index and window."""
        if box_px is None:
            image, window = scene.image, (0.0, 0.0, float(WORLD.canvas), float(WORLD.canvas))
        else:
            image, window = zoom(scene.image, box_px)
        self.views.append(to_view(image))
        self.labels.append(dense_labels(scene, window))
        return len(self.views) - 1, window


def short_sample(scene: Scene, view: int, images: Images, rng: random.Random) -> Sample:
    """Single-turn grounding, reading a crop, or reading from the view."""
    kind = rng.random()
    thing = rng.choice(scene.objects)
    if kind < 0.2:
        box = str(speak(thing.box_px))
        reply = _reply(THOUGHTS["look"], box, weight=1.5)
        return Sample([view], [(_prompt(f"Where is the {thing.name}?", False), 0.0), *reply])
    if kind < 0.35:
        while True:
            crop, window = images.add(scene, around(thing, rng, margin=32, shake=12))
            if readable(thing, window):
                break
            images.views.pop(), images.labels.pop()
        question = _prompt(f"What letter is on the {thing.name}?", False)
        return Sample([crop], [(question, 0.0), *_reply(THOUGHTS["crop"], thing.letter)])
    thing = _asked_about(scene, rng)
    question = _prompt(f"What letter is on the {thing.name}?", tools=rng.random() < 0.7)
    weight = 3.0 if thing.legible else 1.0
    return Sample([view], [(question, 0.0), *_reply(THOUGHTS["look"], thing.letter, weight)])


def long_sample(scene: Scene, view: int, images: Images, rng: random.Random) -> Sample:
    """A caption that lists every object with its box, or a clumsy tool episode."""
    if rng.random() < 0.4:
        order = sorted(scene.objects, key=lambda o: (o.box_px[1] // 96, o.box_px[0]))
        lines = [
            f"{o.name} " + (f'"{o.letter}" ' if o.legible else "") + str(speak(o.box_px))
            for o in order
        ]
        caption = f"<answer>{'; '.join(lines)}</answer>{prompts.TURN_END}"
        return Sample([view], [(_prompt("List the objects.", False), 0.0), (caption, 1.0)])
    thing = _asked_about(scene, rng)
    # The box comes first; whether it shows the detail is looked at afterwards.
    good = rng.random() < GOOD_SHARE
    box = around(thing, rng, margin=24, shake=12) if good else anywhere(rng)
    box_1000 = speak(box)
    crop, window = images.add(scene, tuple(v * WORLD.canvas / 1000 for v in box_1000))
    call = prompts.tool_call({"bbox_2d": box_1000, "label": thing.name})
    observation = (
        f"\n<|im_start|>user\n<tool_response>{prompts.IMAGE}</tool_response>{prompts.TURN_END}\n"
        + prompts.GENERATION_PROMPT
    )
    known = thing.legible or readable(thing, window)
    text = thing.letter if known else rng.choice(LETTERS)
    reply = _reply(THOUGHTS["crop"], text, weight=3.0 if known else 0.0)
    return Sample(
        [view, crop],
        [
            (_prompt(f"What letter is on the {thing.name}?", True), 0.0),
            (f"<think>{THOUGHTS['zoom']}</think>{call}{prompts.TURN_END}", 1.0),
            (observation, 0.0),
            *reply,
        ],
    )


def _asked_about(scene: Scene, rng: random.Random) -> SceneObject:
    """A target for a question about the view: mostly a legible one, whether a call follows or not.

    An unreadable letter teaches nothing; asking about both kinds alike with and without a call keeps
    the habit of calling independent of what is asked.
    """
    wanted = rng.random() < LEGIBLE_TARGETS
    return rng.choice([o for o in scene.objects if o.legible == wanted] or scene.objects)


def encode(samples: list[Sample], tokenizer) -> dict:
    """Right-padded ids, loss weights and the image index of every placeholder, in order."""
    rows = []
    for sample in samples:
        ids, weights = [], []
        for text, weight in sample.parts:
            text = text.replace("<|image_pad|>", "<|image_pad|>" * CELLS * CELLS)
            new = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += new
            weights += [weight] * len(new)
        rows.append((ids, weights))
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]
        ),
        "weights": torch.tensor([w + [0.0] * (longest - len(w)) for _, w in rows]),
        "images": torch.tensor([view for sample in samples for view in sample.views]),
    }


class Steps(Dataset):
    """Item ``step`` is the whole batch of that step."""

    def __init__(self, stage: Stage, order: int, seed: int, tokenizer):
        self.stage, self.seed, self.tokenizer = stage, seed, tokenizer
        # Scene indices: stages and seeds never share one (a stage has under 500,000 scenes).
        self.first = 3_000_000 * seed + 500_000 * order

    def __getitem__(self, step: int) -> dict:
        stage = self.stage
        rng = random.Random(f"{self.seed} {stage.name} {step}")
        tower = stage.name.startswith("tower")
        first = self.first + step * stage.scenes
        images, short, long = Images(), [], []
        for index in range(first, first + stage.scenes):
            scene = draw_scene("pretrain", index, WORLD)
            view, _ = images.add(scene)
            if tower:
                for _ in range(3):
                    images.add(
                        scene, around(rng.choice(scene.objects), rng, stage.margin, shake=12)
                    )
            else:
                short += [short_sample(scene, view, images, rng) for _ in range(3)]
                long.append(long_sample(scene, view, images, rng))
        pixel_values, grid = patchify(np.stack(images.views))
        dense = {
            name: torch.from_numpy(np.concatenate([getattr(x, name) for x in images.labels]))
            for name in ("color", "shape", "letter", "box")
        }
        batch = {"pixel_values": pixel_values, "grid": grid, "dense": dense}
        if not tower:
            batch["texts"] = [encode(short, self.tokenizer), encode(long, self.tokenizer)]
        return batch


def corpus(scenes: int, seed: int) -> Iterator[str]:
    """Text for the tokenizer: every kind of sample, and enough coordinates."""
    rng = random.Random(f"{seed} corpus")
    for index in range(scenes):
        # The last scenes of the split, which no stage of the first three seeds reaches.
        scene, images = draw_scene("pretrain", 9_000_000 + index, WORLD), Images()
        for make in (short_sample, long_sample):
            yield "".join(text for text, _ in make(scene, 0, images, rng).parts)
    for _ in range(20_000):
        yield str([rng.randrange(0, 1001, 10) for _ in range(4)])


# --- training -----------------------------------------------------------------------------------


@contextmanager
def vision_output(visual: nn.Module, pooled: torch.Tensor, deepstack: list[torch.Tensor]):
    """Inside, the vision tower answers with these features instead of computing them."""
    output = BaseModelOutputWithDeepstackFeatures(
        pooler_output=pooled, deepstack_features=deepstack
    )
    visual.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del visual.forward


def text_loss(model, text: dict, vision, image_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of token losses, and the sum of weights, of one padded batch.

    Several samples share an image, so the tower runs once per image and its features are handed on.
    """
    tokens = CELLS * CELLS

    def pick(features: torch.Tensor) -> torch.Tensor:
        return features.unflatten(0, (-1, tokens))[text["images"]].flatten(0, 1)

    ids = text["input_ids"]
    grid = torch.tensor([[1, CELLS * MERGE, CELLS * MERGE]] * len(text["images"]))
    deepstack = [pick(features) for features in vision.deepstack_features]
    with vision_output(model.model.visual, pick(vision.pooler_output), deepstack):
        logits = model(
            input_ids=ids,
            attention_mask=text["attention_mask"],
            mm_token_type_ids=(ids == image_token).long(),
            pixel_values=torch.empty(0),
            image_grid_thw=grid,
            use_cache=False,
        ).logits
    weights = text["weights"][:, 1:].flatten()
    keep = weights > 0
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1)[keep], ids[:, 1:].flatten()[keep], reduction="none"
    )
    return (losses * weights[keep]).sum(), weights.sum()


def _schedule(stage: Stage, step: int) -> float:
    """Share of the learning rate: a short warm-up, then down to ``final``."""
    warm = min(1.0, (step + 1) / min(100, max(1, stage.steps // 10)))
    done = step / stage.steps
    if stage.name.startswith("tower"):
        return warm * (1 - (1 - stage.final) * done)
    return warm * (stage.final + (1 - stage.final) * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(out: str | Path, plan: tuple[Stage, ...] = PLAN, seed: int = 0) -> Path:
    """Make tiny-eyes in ``out``; a run that was killed goes on from its last checkpoint.

    Args:
        out: folder for weights, tokenizer, ``pretrain.csv`` and the checkpoint.
        plan: the stages. A checkpoint of another plan or seed is refused.
        seed: of the weights and of every batch.

    Returns:
        ``out``.

    Raises:
        ValueError: if ``out`` holds a checkpoint of another plan.
        FloatingPointError: on a non-finite loss, with the step.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)  # x86 computes with denormals many times slower
    identity = {"seed": seed, "plan": [asdict(stage) for stage in plan]}
    state = _load_checkpoint(out, identity)
    tokenizer = train_tokenizer(corpus(2000, seed))
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, seed)
    heads = DenseHeads(model.config.text_config.hidden_size)
    if state:
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
    for order, stage in enumerate(plan):
        if state and state["order"] > order:
            continue
        resume = state if state and state["order"] == order else None
        steps = Steps(stage, order, seed, tokenizer)
        _run_stage(steps, order, out, model, heads, processor.image_token_id, identity, resume)
    # bfloat16 halves the file; an epsilon of fp32 is not what a policy is made of.
    copy = build_model(tokenizer).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def _run_stage(
    batches: Steps,
    order: int,
    out: Path,
    model: nn.Module,
    heads: DenseHeads,
    image_token: int,
    identity: dict,
    resume: dict | None,
) -> None:
    stage, visual = batches.stage, model.model.visual
    tower = stage.name.startswith("tower")
    vision = [*visual.parameters(), *heads.parameters()]
    groups = [{"params": vision, "rate": 1.0 if tower else 0.5}]
    if not tower:
        seen = {id(p) for p in vision}
        groups.append({"params": [p for p in model.parameters() if id(p) not in seen], "rate": 1.0})
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    start = 0
    if resume and resume["step"]:
        optimizer.load_state_dict(resume["optimizer"])
        start = resume["step"]
    model.train()
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, stage.steps),
        num_workers=1,
        prefetch_factor=4,
    )
    began = time.time()
    bar = tqdm(loader, desc=stage.name, initial=start, total=stage.steps, mininterval=5)
    for step, batch in enumerate(bar, start):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * group["rate"] * _schedule(stage, step)
        output = visual(batch["pixel_values"], batch["grid"])
        loss, figures = heads(output.pooler_output, batch["dense"])
        if not tower:
            parts = [text_loss(model, text, output, image_token) for text in batch["texts"]]
            total = sum(part for part, _ in parts) / sum(weight for _, weight in parts)
            for name, (part, weight) in zip(("short", "long"), parts):
                figures[name] = (part / weight).item()
            loss = total + 0.3 * loss
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} at {stage.name} step {step}; lower learning_rate in the plan"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        done = step + 1
        if step % 20 == 0 or done == stage.steps:
            row = {"stage": stage.name, "step": step, "loss": loss.item(), **figures}
            _log(out, {**row, "seconds": time.time() - began})
            bar.set_postfix({k: f"{v:.3f}" for k, v in figures.items()})
        if done % CHECKPOINT_EVERY == 0 or done == stage.steps:
            last = done == stage.steps  # then the next stage starts afresh from these weights
            state = {
                "identity": identity,
                "order": order + last,
                "step": 0 if last else done,
                "model": model.state_dict(),
                "heads": heads.state_dict(),
                "optimizer": None if last else optimizer.state_dict(),
            }
            # A kill while writing must leave the last checkpoint whole: write aside, then rename.
            torch.save(state, out / "checkpoint.tmp")
            os.replace(out / "checkpoint.tmp", out / "checkpoint.pt")


_LOG_COLUMNS = ["stage", "step", "loss", "color", "letter", "box_error", "short", "long", "seconds"]


def _log(out: Path, row: dict) -> None:
    path = out / "pretrain.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, _LOG_COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


def _load_checkpoint(out: Path, identity: dict) -> dict | None:
    """The checkpoint in ``out``, or None; the log is cut back to it."""
    path, log = out / "checkpoint.pt", out / "pretrain.csv"
    if not path.exists():
        log.unlink(missing_ok=True)
        return None
    state = torch.load(path, weights_only=True)
    if state["identity"] != identity:
        raise ValueError(f"{path} belongs to another plan, {state['identity']}; use another folder")
    if log.exists():
        names = [stage["name"] for stage in identity["plan"]]
        with log.open(newline="") as file:
            rows = list(csv.DictReader(file))
        log.unlink()
        for row in rows:
            if (names.index(row["stage"]), int(row["step"])) < (state["order"], state["step"]):
                _log(out, row)
    return state
