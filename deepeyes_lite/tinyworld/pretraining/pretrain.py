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
import random
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from deepeyes_lite.files import atomic_write
from deepeyes_lite.tinyworld.model import (
    MERGE,
    build_model,
    build_processor,
    patchify,
    train_tokenizer,
)
from deepeyes_lite.tinyworld.pretraining.lessons import (
    CELLS,
    FORMS,
    GLYPHS,
    Images,
    around,
    corpus,
    draw,
    encode,
    letter_box,
    long_sample,
    short_sample,
)
from deepeyes_lite.tinyworld.scenes import COLORS


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own optimizer and learning-rate cycle.

    Attributes:
        name: key of the batches; a name that starts with "tower" trains the vision tower alone, one that
            starts with "language" everything else.
        steps: optimizer steps.
        scenes: scenes a step. Tower: each as its view and three crops. Joint: with three short samples
            and a long one.
        learning_rate: the highest, after the warm-up; it goes down to 3 %.
        closeups: further crops a scene, of a small letter, for the dense labels alone.
        grounding: share of single-turn grounding in the short samples.
        crops: share of crop reading in the short samples; the rest is answering from the view.
        captions: share of captions in the long ones; the others are clumsy tool episodes.
        aimed_fraction: share of clumsy boxes that are drawn around the target, unsteadily.
        crop_bias: share of clumsy episodes whose answer is a random one although the view shows the
            detail, because the crops do not: the crop is trusted more than the view.
    """

    name: str
    steps: int
    scenes: int
    learning_rate: float
    closeups: int = 0
    grounding: float = 0.3
    crops: float = 0.3
    captions: float = 0.4
    aimed_fraction: float = 0.4
    crop_bias: float = 0.0


CLUMSY = {"crops": 0.2, "captions": 0.65, "aimed_fraction": 0.2}
# Letters come in the tower alone, and only with many close crops of small ones; places bind to names
# only where grounding and captions are most of what is taught.
PLAN = (
    Stage("tower", 2400, 10, 2e-3, closeups=3),
    Stage("tower, again", 2000, 10, 1.5e-3, closeups=3),
    Stage("tower, close letters", 1200, 10, 1.5e-3, closeups=3),
    Stage("joint, places", 1600, 12, 1e-3, closeups=1, grounding=0.6, crops=0.2, captions=0.8),
    Stage("joint", 2400, 12, 1e-3, closeups=1),
    Stage("joint, clumsy habits", 400, 12, 5e-4, **CLUMSY),
    Stage("language, trusts its crops", 500, 12, 5e-4, **CLUMSY, crop_bias=0.6),
)
QUICK = tuple(replace(stage, steps=12, scenes=4) for stage in PLAN)  # a smoke run
CHECKPOINT_EVERY = 200


class DenseHeads(nn.Module):
    """Linear read-outs of the merged visual tokens; used in training only, never shipped."""

    def __init__(self, width: int):
        super().__init__()
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.shape = nn.Linear(width, len(FORMS) + 1)
        self.letter = nn.Linear(width, len(GLYPHS))
        self.box = nn.Linear(width, 4)

    def forward(self, tokens: torch.Tensor, labels: dict) -> tuple[torch.Tensor, dict]:
        """Loss and read-out accuracies; ``tokens`` is (images * CELLS * CELLS, width)."""
        guess = {name: getattr(self, name)(tokens) for name in ("color", "shape", "letter")}
        on_object = labels["color"] > 0
        boxes = self.box(tokens)[on_object]
        target = labels["box"][on_object]
        # A small batch may have no label of a kind; the mean over none is not a number.
        loss = sum(
            F.cross_entropy(guess[name], labels[name], reduction="sum")
            / (labels[name] >= 0).sum().clamp(min=1)
            for name in guess
        )
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
            scene = draw(index)
            view = images.add(scene)
            things = [*scene.objects, *scene.distractors, *scene.bars]
            canvas = scene.image.width
            if tower:
                for _ in range(3):
                    images.add(scene, around(rng.choice(things).box_px, rng, 40, 12, canvas))
            else:
                for _ in range(3):
                    shares = stage.grounding, stage.crops
                    short.append(short_sample(scene, view, images, rng, *shares))
                shares = stage.captions, stage.aimed_fraction, stage.crop_bias
                long.append(long_sample(scene, view, images, rng, *shares))
            small = [thing for thing in things if thing.letter and not thing.legible]
            for _ in range(stage.closeups if small else 0):
                images.add(scene, around(letter_box(rng.choice(small)), rng, 24, 12, canvas))
        pixel_values, grid = patchify(np.stack(images.views))
        dense = {
            name: torch.from_numpy(np.concatenate([getattr(x, name) for x in images.labels]))
            for name in ("color", "shape", "letter", "box")
        }
        batch = {"pixel_values": pixel_values, "grid": grid, "dense": dense}
        if not tower:
            batch["texts"] = [encode(short, self.tokenizer), encode(long, self.tokenizer)]
        return batch


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


def text_loss(
    model, text: dict, vision, image_token: int, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
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
    wanted = targets[ids[:, 1:].flatten()[keep]]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1)[keep], wanted, reduction="none")
    return (losses * weights[keep]).sum(), weights.sum()


def schedule(stage: Stage, step: int) -> float:
    """Share of the learning rate: a short warm-up, then down to 3 %."""
    warm = min(1.0, (step + 1) / min(100, max(1, stage.steps // 10)))
    done = step / stage.steps
    if stage.name.startswith("tower"):
        return warm * (1 - 0.97 * done)
    return warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))


def coordinate_targets(tokenizer, width: float = 15.0) -> torch.Tensor:
    """What to predict for each token: itself, or for a coordinate a bell around its value.

    Neighbouring coordinates mean almost the same place, which a one-hot target does not say.

    Args:
        tokenizer: of tiny-eyes; "250" and ", 250" are tokens.
        width: standard deviation of the bell, in thousandths of the image.

    Returns:
        (vocabulary, vocabulary) rows of probabilities.
    """
    targets = torch.eye(len(tokenizer))
    values = torch.arange(0, 1001, 10)
    for prefix in ("", ", "):
        ids = [tokenizer(f"{prefix}{value}")["input_ids"] for value in values.tolist()]
        known = [(ids[0], value) for ids, value in zip(ids, values.tolist()) if len(ids) == 1]
        index = torch.tensor([token for token, _ in known])
        place = torch.tensor([float(value) for _, value in known])
        bell = torch.exp(-0.5 * ((place[:, None] - place[None]) / width) ** 2)
        targets[index[:, None], index[None]] = bell / bell.sum(1, keepdim=True)
    return targets


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
    path = out / "checkpoint.pt"
    torch.set_flush_denormal(True)  # x86 computes with denormals many times slower
    identity = {"seed": seed, "plan": [asdict(stage) for stage in plan]}
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["identity"] != identity:
            raise ValueError(
                f"{path} belongs to another plan, {state['identity']}; use another folder"
            )
        # One made anew after a change of the corpus would number the same tokens otherwise.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    else:
        state = {"identity": identity, "order": 0, "step": 0, "rows": []}
        tokenizer = train_tokenizer(corpus(2000, seed))
        tokenizer.save_pretrained(out)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, seed)
    heads = DenseHeads(model.config.text_config.hidden_size)
    if "model" in state:
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
    for order in range(state["order"], len(plan)):
        batches = Steps(plan[order], order, seed, tokenizer)
        run_stage(batches, model, heads, processor.image_token_id, state, out)
    # bfloat16 halves the file; an epsilon of fp32 is not what a policy is made of.
    copy = build_model(tokenizer).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def run_stage(
    batches: Steps, model: nn.Module, heads: DenseHeads, image_token: int, state: dict, out: Path
) -> None:
    """Train one stage, from the step that the state names.

    Args:
        batches: of the stage.
        model: tiny-eyes; it learns in place.
        heads: its read-outs; they learn in place.
        image_token: id of the image's placeholder.
        state: what the checkpoint holds; it is kept up to date.
        out: folder of the checkpoint and the log.

    Raises:
        FloatingPointError: on a non-finite loss.
    """
    stage, visual = batches.stage, model.model.visual
    tower = stage.name.startswith("tower")
    language = stage.name.startswith("language")
    vision = [*visual.parameters(), *heads.parameters()]
    for parameter in vision:
        parameter.requires_grad_(not language)
    groups = [] if language else [{"params": vision, "rate": 1.0 if tower else 0.5}]
    if not tower:
        seen = {id(p) for p in vision}
        groups.append({"params": [p for p in model.parameters() if id(p) not in seen], "rate": 1.0})
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    if state["step"]:
        optimizer.load_state_dict(state["optimizer"])
    targets = coordinate_targets(batches.tokenizer)
    model.train()
    start, began = state["step"], time.time()
    todo = range(start, stage.steps)
    loader = DataLoader(batches, batch_size=None, sampler=todo, num_workers=1, prefetch_factor=4)
    bar = tqdm(loader, desc=stage.name, initial=start, total=stage.steps, mininterval=5)
    for step, batch in enumerate(bar, start):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * group["rate"] * schedule(stage, step)
        output = visual(batch["pixel_values"], batch["grid"])
        loss, figures = heads(output.pooler_output, batch["dense"])
        if not tower:
            parts = [
                text_loss(model, text, output, image_token, targets) for text in batch["texts"]
            ]
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
        last = step + 1 == stage.steps
        if step % 20 == 0 or last:
            row = {"stage": stage.name, "step": step, "loss": loss.item(), **figures}
            state["rows"].append({**row, "seconds": time.time() - began})
            bar.set_postfix({k: f"{v:.3f}" for k, v in figures.items()})
        if (step + 1) % CHECKPOINT_EVERY == 0 or last:
            # The next stage starts afresh from the last weights.
            state |= {"order": state["order"] + last, "step": 0 if last else step + 1}
            state |= {"model": model.state_dict(), "heads": heads.state_dict()}
            state["optimizer"] = None if last else optimizer.state_dict()
            save(state, out)


LOG_COLUMNS = ["stage", "step", "loss", "color", "letter", "box_error", "short", "long", "seconds"]


def save(state: dict, out: Path) -> None:
    """Write the log, then the checkpoint that it belongs to: a kill between the two costs nothing."""
    with (
        atomic_write(out / "pretrain.csv") as tmp,
        tmp.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, LOG_COLUMNS)
        writer.writeheader()
        for row in state["rows"]:
            writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    with atomic_write(out / "checkpoint.pt") as tmp:
        torch.save(state, tmp)
