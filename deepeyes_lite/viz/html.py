"""One episode in words and as HTML: picture with boxes, turns, reward in parts, tokens; a page of it all.

Everything here may be somebody else's text. It goes through `excerpt` or `line`, which bound it, and the
one Jinja environment escapes it. A page needs nothing beside it and runs no script but ours.
"""

import base64
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image, ImageOps

from deepeyes_lite.boxes import Box
from deepeyes_lite.rewards import Outcome, reward_parts
from deepeyes_lite.tools import ToolError, check_box
from deepeyes_lite.trajectories import Trajectory, Turn
from deepeyes_lite.viz import BLUE, GREEN, ORANGE

VIEW = (96, 96)  # px: what tiny-eyes sees of a scene or of a crop
MAX_CHARS = 2000  # of one turn
MAX_TOKENS = 400  # of one strip
MAX_SIDE = 640  # px of a picture on a page
VERBS = {"think": "thinks", "tool_call": "calls", "answer": "answers", "": "writes"}
PARTS = {  # what readers see for the name of a reward function
    "accuracy_reward": "accuracy",
    "format_reward": "format",
    "tool_bonus": "bonus, right and zoomed",
    "call_bonus": "bonus, zoomed",
    "iou_reward": "bonus, IoU of the box",
    "curiosity_bonus": "curiosity",
    "excess_calls": "calls beyond the first",
    "call_cost": "price of calls",
    "need_gated_bonus": "bonus, right, zoomed and needed",
}


# --- somebody else's text and boxes ---------------------------------------------------------------


def excerpt(text: object, limit: int = MAX_CHARS) -> str:
    """Somebody else's text, cut and counted, without control characters; a template escapes it.

    >>> excerpt("KKKK", 2)
    'KK … (4 characters in all)'
    """
    text = str(text)
    kept = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text[:limit])
    return kept + (f" … ({len(text):,} characters in all)" if len(text) > limit else "")


def line(text: object, limit: int = 200) -> str:
    """Somebody else's text as one short line, for a label or a description, where markup is no danger.

    >>> line("K" * 30, 5), line("a\\nb")
    ('KKKKK…', 'a b')
    """
    text = str(text)
    text = text if len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else " " for c in text)


def checked(trajectory: Trajectory) -> Trajectory:
    """An episode out of somebody else's file: what is no box, no text or no token id is left out."""
    sample = trajectory.sample if isinstance(trajectory.sample, dict) else {}
    ids, mask = _listed(trajectory.completion_ids), _listed(trajectory.loss_mask)
    valid = all(isinstance(n, int) and 0 <= n < 2**31 for n in [*ids, *mask])
    return replace(
        trajectory,
        sample={**sample, "boxes_px": _boxes(sample.get("boxes_px"))},
        completion_ids=ids if valid else [],
        loss_mask=mask if valid else [],
        turns=[
            Turn(
                str(turn.text),
                _boxes(turn.boxes_px),
                [str(error) for error in _listed(turn.errors)],
                _boxes(turn.crops_px),
            )
            for turn in trajectory.turns
        ],
        answer=None if trajectory.answer is None else str(trajectory.answer),
        correct=bool(trajectory.correct),
        well_formed=bool(trajectory.well_formed),
    )


def _listed(values: object) -> list:
    return values if isinstance(values, list) else []


def _boxes(values: object) -> list[Box]:
    boxes = []
    for value in _listed(values):
        with suppress(ToolError):
            boxes.append(check_box(value))
    return boxes


# --- in words -------------------------------------------------------------------------------------


def answer_text(trajectory: Trajectory, limit: int = 40) -> str:
    """The answer, and whether it is right; plain text that is not escaped yet.

    >>> answer_text(Trajectory({"answer": "K"}, answer="K", correct=True))
    'K (right)'
    >>> answer_text(Trajectory({"answer": "K"})), answer_text(Trajectory({}, answer="L"))
    ('no answer (wrong, it is K)', 'L')
    """
    answer, truth = trajectory.answer, str(trajectory.sample.get("answer") or "")
    wrong = f" (wrong, it is {line(truth, limit)})" if truth else ""
    text = "no answer" if answer is None else line(answer, limit)
    return text + (" (right)" if trajectory.correct else wrong)


def zoom_text(trajectory: Trajectory) -> str:
    """How often an episode zoomed, and the best IoU of a zoom."""
    zooms, iou = len(trajectory.boxes_px), trajectory.best_iou
    return f"{zooms} zoom{'' if zooms == 1 else 's'}" + (
        "" if iou is None else f", best IoU {iou:.2f}"
    )


def verdict(trajectory: Trajectory) -> str:
    """How an episode ended: answer, zooms, best IoU; plain text that is not escaped yet."""
    prefix = "" if trajectory.answer is None else "answer "
    return f"{prefix}{answer_text(trajectory)}, {zoom_text(trajectory)}"


def episode_text(trajectory: Trajectory) -> str:
    """One episode for a terminal, turn by turn: what the model wrote, where it zoomed, its answer.

    >>> turns = [Turn("<tool_call>…", [(0, 0, 28, 28)]), Turn("<answer>K</answer>")]
    >>> print(episode_text(Trajectory({"question": "?"}, turns=turns, answer="K")))
    question: ?
    turn 1: <tool_call>…
      zoom 1: (0, 0) to (28, 28) px
    turn 2: <answer>K</answer>
    answer: K
    """
    lines, zooms = [f"question: {trajectory.sample['question']}"], 0
    for number, turn in enumerate(trajectory.turns, 1):
        lines.append(f"turn {number}: {turn.text[:MAX_CHARS]}")
        for zoom in turn.zooms:
            zooms += 1
            lines.append(f"  zoom {zooms}: {zoom_in_words(*zoom)}")
        lines += [f"  {error[:MAX_CHARS]}" for error in turn.errors]
    answer = trajectory.answer
    lines.append("no answer" if answer is None else f"answer: {answer[:MAX_CHARS]}")
    # What a model writes must not steer the terminal.
    return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))


def zoom_in_words(box_px: Box, crop_px: Box) -> str:
    """The box that was asked for and, where it is another one, what was cut.

    >>> zoom_in_words((0, 0, 28, 9), (0, 0, 28, 28))
    '(0, 0) to (28, 9) px, cut: (0, 0) to (28, 28) px'
    """
    box, crop = (
        f"({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f}) px" for x1, y1, x2, y2 in (box_px, crop_px)
    )
    return box if box == crop else f"{box}, cut: {crop}"


# --- as HTML --------------------------------------------------------------------------------------


def data_uri(image: Image.Image, lossless: bool = False) -> str:
    """The picture as a data URI, at most ``MAX_SIDE`` px wide; scenes are noisy, so JPEG by default."""
    buffer, kind = io.BytesIO(), "png" if lossless else "jpeg"
    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(buffer, kind, quality=70)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture(trajectory: Trajectory) -> Markup:
    """The image with the target (green, dashed) and the numbered crops.

    Where the box that was asked for is another one, it is drawn into its crop, dotted.
    """
    return _drawn("picture", trajectory)


def boxes(trajectory: Trajectory) -> Markup:
    """What `picture` draws over the image."""
    return _drawn("boxes", trajectory)


def _drawn(macro: str, trajectory: Trajectory) -> Markup:
    turns = enumerate(trajectory.turns, 1)
    zooms = [(number, *zoom) for number, turn in turns for zoom in turn.zooms]
    image = trajectory.images[0] if trajectory.images else None
    return _macro(macro, image, trajectory.sample.get("boxes_px") or [], zooms)


def turns(trajectory: Trajectory) -> Markup:
    """The turns: thought, call and answer apart, and the crop that came back."""
    return _macro("turns", trajectory)


def _pieces(text: str) -> list[tuple[str, str]]:
    """A turn, cut into thought, call, answer and what stands outside of tags; a verb with each."""
    pieces, tag = [], ""
    for piece in re.split(r"(</?(?:think|tool_call|answer)>)", text[:MAX_CHARS]):
        if re.fullmatch(r"</?(?:think|tool_call|answer)>", piece):
            tag = "" if piece.startswith("</") else piece[1:-1]
        elif piece.strip():
            pieces.append((VERBS[tag], piece.strip()))
    if len(text) > MAX_CHARS:
        pieces.append(("", f"… ({len(text):,} characters in all)"))
    return pieces


def parts(
    weights: dict[str, float], trajectory: Trajectory, group_call_rate: float = 0.0
) -> dict[str, float]:
    """The reward of an episode in its parts, as `reward_parts` gives them."""
    t = trajectory
    figures = t.correct, t.well_formed, len(t.boxes_px), t.best_iou or 0.0, group_call_rate
    return reward_parts(weights, Outcome(*figures))


def reward_table(parts: dict[str, float]) -> Markup:
    """The parts that are not nothing, and their sum."""
    return _macro("reward_table", parts)


def tokens(trajectory: Trajectory, tokenizer=None) -> Markup:
    """The completion token by token, white on blue where ``loss_mask`` is 1; ids without a tokenizer."""
    ids, mask = trajectory.completion_ids, trajectory.loss_mask
    words = [f"#{i}" if tokenizer is None else tokenizer.decode([i]) for i in ids[:MAX_TOKENS]]
    words += [""] * (len(ids) - len(words))
    return _macro("tokens", mask, token_strip(list(zip(words, mask))))


def token_strip(pieces: Sequence[tuple[str, int]]) -> Markup:
    """Tokens coloured by their loss mask; runs of image placeholders are counted, not shown.

    Args:
        pieces: (token as text, mask) pairs; mask 1 is written by the model.
    """
    spans = []
    for (text, mask), run in groupby(pieces[:MAX_TOKENS]):
        count = len(list(run))
        if text == "<|image_pad|>":
            spans.append((f"{text} × {count}", 0))
        elif text:
            spans += [(text[:200].replace("\n", "⏎"), mask)] * count
    return _macro("token_strip", spans, max(0, len(pieces) - MAX_TOKENS))


def episode(name: str, trajectory: Trajectory, tokenizer=None) -> Markup:
    """All of an episode: verdict, a place for its reward, picture and view, turns, tokens.

    Args:
        name: of the policy.
        trajectory: the episode.
        tokenizer: as in `tokens`.
    """
    strip = tokens(trajectory, tokenizer) if trajectory.loss_mask else ""
    return _macro("episode", name, trajectory, strip)


def view(image: Image.Image) -> Image.Image:
    """What tiny-eyes sees of an image."""
    return ImageOps.contain(image, VIEW)


def _macro(name: str, *values) -> Markup:
    return getattr(TEMPLATES.get_template("episode.jinja").module, name)(*values)


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"BLUE": BLUE, "GREEN": GREEN, "ORANGE": ORANGE, "PARTS": PARTS}
TEMPLATES.filters |= {
    "excerpt": excerpt,
    "verdict": verdict,
    "data_uri": data_uri,
    "picture": picture,
    "turns": turns,
    "view": view,
    "pieces": _pieces,
    "zoom_in_words": zoom_in_words,
}
