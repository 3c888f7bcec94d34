"""One episode as HTML: picture with boxes, turns, reward in parts, tokens; a page of it all; as text.

Everything here may be somebody else's text, so it goes through `excerpt` (or `plots.token_strip`):
escaped, cut, and the rest counted. A page needs nothing beside it and runs no script.
"""

import base64
import html
import io
import re

from PIL import Image

from deepeyes_lite.boxes import Box
from deepeyes_lite.rewards import Outcome, reward_parts
from deepeyes_lite.tools import ToolError, check_box
from deepeyes_lite.trajectories import Trajectory, Turn
from deepeyes_lite.viz.plots import GREEN, ORANGE, plain, token_strip

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.35rem .8rem;border-bottom:1px solid #ccc}
td{text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}
.pair{display:flex;flex-wrap:wrap;gap:.5rem}.pair figure{flex:1 1 30rem;margin:.4rem 0}
details pre{white-space:pre-wrap;background:#f4f4f4;padding:.6rem;overflow-x:auto}
"""
MAX_CHARS = 2000  # of one turn
MAX_SIDE = 1024  # px of a picture on a page
VERBS = {"think": "thinks", "tool_call": "calls", "answer": "answers", "": "writes"}
# Labels of the reward functions.
PARTS = {
    "accuracy_reward": "accuracy",
    "format_reward": "format",
    "tool_bonus": "bonus, right and zoomed",
    "call_bonus": "bonus, zoomed",
    "iou_reward": "bonus, IoU of the box",
    "curiosity_bonus": "curiosity",
    "excess_calls": "calls beyond the first",
}


def excerpt(text: object, limit: int = MAX_CHARS) -> str:
    """Somebody else's text for a page: escaped, without control characters, cut and counted.

    >>> excerpt("<b>K</b>"), excerpt("KKKK", 2)
    ('&lt;b&gt;K&lt;/b&gt;', 'KK … (4 characters in all)')
    """
    text = str(text)
    kept = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text[:limit])
    more = f" … ({len(text):,} characters in all)" if len(text) > limit else ""
    return html.escape(kept) + more


def line(text: object, limit: int = 200) -> str:
    """Somebody else's text as one short line, for a label or a description, where markup is no danger."""
    return plain(str(text), limit).replace(r"\$", "$")


def checked(trajectory: Trajectory) -> Trajectory:
    """An episode out of somebody else's file: what is no box, no text or no token id is left out."""
    sample = dict(trajectory.sample) if isinstance(trajectory.sample, dict) else {}
    sample["boxes_px"] = _boxes(sample.get("boxes_px"))
    turns = [
        Turn(str(turn.text), _boxes(turn.boxes_px), [str(error) for error in turn.errors or []])
        for turn in trajectory.turns
    ]
    ids, mask = trajectory.completion_ids, trajectory.loss_mask
    whole = all(isinstance(n, int) and 0 <= n < 2**31 for n in [*ids, *mask])
    return Trajectory(
        sample=sample,
        images=trajectory.images,
        prompt_ids=trajectory.prompt_ids,
        completion_ids=ids if whole else [],
        loss_mask=mask if whole else [],
        turns=turns,
        answer=None if trajectory.answer is None else str(trajectory.answer),
        correct=bool(trajectory.correct),
        well_formed=bool(trajectory.well_formed),
    )


def _boxes(found: object) -> list[Box]:
    boxes = []
    for box in found if isinstance(found, list) else []:
        try:
            boxes.append(check_box(box))
        except ToolError:
            continue
    return boxes


def data_uri(image: Image.Image, lossless: bool = False) -> str:
    """The picture as a data URI, at most ``MAX_SIDE`` px wide; scenes are noisy, so JPEG by default."""
    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if lossless else "JPEG", quality=92)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def verdict(trajectory: Trajectory) -> str:
    """How an episode ended, in words; plain text that is not escaped yet."""
    said = "no answer" if trajectory.answer is None else f"answer {trajectory.answer[:40]}"
    truth = str(trajectory.sample.get("answer") or "")[:40]
    ending = " (right)" if trajectory.correct else f" (wrong, it is {truth})" if truth else ""
    zooms = len(trajectory.boxes_px)
    overlap = "" if trajectory.best_iou is None else f", best IoU {trajectory.best_iou:.2f}"
    return f"{said}{ending}, {zooms} zoom{'' if zooms == 1 else 's'}{overlap}"


def picture(trajectory: Trajectory, turns: int | None = None, width: int = 420) -> str:
    """The image with the target (green, dashed) and the numbered boxes of the first ``turns`` turns."""
    if not trajectory.images:
        return "<p>The image is not at hand: give the viewer <code>images</code>.</p>"
    image = trajectory.images[0]
    boxes_px = [box for turn in trajectory.turns[:turns] for box in turn.boxes_px]
    targets_px = trajectory.sample.get("boxes_px") or []
    shapes = [_rectangle(box, GREEN, 'stroke-dasharray="7 5"') for box in targets_px]
    size = image.width / 24
    for number, box in enumerate(boxes_px, 1):
        # Above the box and below it in turn, so that the names of nested boxes do not meet.
        above, below = max(box[1] - size / 4, size), min(box[3] + size, image.height - size / 4)
        x, y = box[0] + size / 4, above if number % 2 else below
        shapes.append(_rectangle(box, ORANGE, ""))
        shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" font-weight="bold" fill="white" '
            f'stroke="{ORANGE}" stroke-width="{size / 4:.1f}" paint-order="stroke">zoom {number}</text>'
        )
    alt = (
        f"The image; target boxes: {len(targets_px)}, dashed green; zooms: {len(boxes_px)}, orange."
    )
    return (
        f'<svg viewBox="0 0 {image.width} {image.height}" role="img" aria-label="{alt}" '
        f'style="display:block;width:100%;max-width:{width}px">'
        f'<image href="{data_uri(image)}" width="{image.width}" height="{image.height}"/>'
        f"{''.join(shapes)}</svg>"
    )


def _rectangle(box: Box, color: str, dashes: str) -> str:
    x1, y1, x2, y2 = box
    return (
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none" '
        f'stroke="{color}" stroke-width="3" vector-effect="non-scaling-stroke" {dashes}/>'
    )


def turns(trajectory: Trajectory, shown: int | None = None) -> str:
    """The first ``shown`` turns: thought, call and answer apart, and the crop that came back."""
    parts, zooms = [], 0
    for number, turn in enumerate(trajectory.turns[:shown], 1):
        parts.append(f"<h4>Turn {number} of {len(trajectory.turns)}</h4>{_said(turn.text)}")
        for box in turn.boxes_px:
            zooms += 1
            where = ", ".join(f"{value:.0f}" for value in box)
            parts.append(f"<p><b>gets back</b> zoom {zooms}, box_px ({where})</p>")
            if zooms < len(trajectory.images):
                crop = data_uri(trajectory.images[zooms], lossless=True)
                parts.append(f'<img src="{crop}" alt="The crop of zoom {zooms}." width="160">')
        parts += [f"<p><b>is told</b> {excerpt(error, 300)}</p>" for error in turn.errors[:10]]
    return "".join(parts)


def _said(text: str) -> str:
    """A turn, cut into thought, call, answer and what stands outside of tags."""
    rest = f"<p>… ({len(text):,} characters in all)</p>" if len(text) > MAX_CHARS else ""
    found, tag = [], ""
    for piece in re.split(r"(</?(?:think|tool_call|answer)>)", text[:MAX_CHARS]):
        if re.fullmatch(r"</?(?:think|tool_call|answer)>", piece):
            tag = "" if piece.startswith("</") else piece[1:-1]
        elif piece.strip():
            found.append(f"<p><b>{VERBS[tag]}</b> {excerpt(piece.strip())}</p>")
    return "".join(found) + rest


def parts(
    weights: dict[str, float], trajectory: Trajectory, group_call_rate: float = 0.0
) -> dict[str, float]:
    """The reward of an episode in its parts."""
    outcome = Outcome(
        trajectory.correct,
        trajectory.well_formed,
        len(trajectory.boxes_px),
        trajectory.best_iou or 0.0,
        group_call_rate,
    )
    return reward_parts(weights, outcome)


def reward_table(found: dict[str, float]) -> str:
    """The parts that are not nothing, and their sum."""
    rows = [(PARTS[name], value) for name, value in found.items() if value]
    cells = [
        f"<tr><td>{name}</td><td>{value + 0.0:+.2f}</td></tr>"
        for name, value in [*rows, ("<b>reward</b>", sum(found.values()))]
    ]
    return f"<table>{''.join(cells)}</table>"


def tokens(trajectory: Trajectory, tokenizer=None) -> str:
    """The completion token by token, white on blue where ``loss_mask`` is 1.

    Args:
        trajectory: the episode.
        tokenizer: of the model that wrote it; without one, ids are shown.
    """
    ids, mask = trajectory.completion_ids, trajectory.loss_mask
    if not ids:
        return "<p>No tokens are recorded.</p>"
    words = [f"#{i}" if tokenizer is None else tokenizer.decode([i]) for i in ids[:401]]
    words += [""] * (len(ids) - len(words))
    ones = sum(mask)
    return (
        f"<p>{ones} tokens that the model wrote (blue, bold: mask 1, in the loss), {len(ids) - ones} "
        f"that it was given (grey: mask 0).</p>{token_strip(list(zip(words, mask)))}"
    )


def _learned_from(trajectory: Trajectory, weights: dict[str, float], rate: float, tokenizer) -> str:
    return (
        f"<h3>Reward</h3>{reward_table(parts(weights, trajectory, rate))}"
        f"<h3>Loss mask</h3>{tokens(trajectory, tokenizer)}"
    )


def episode_page(
    episodes: dict[str, Trajectory],
    weights: dict[str, float] | None = None,
    rates: dict[str, float] | None = None,
    tokenizer=None,
) -> str:
    """One sample and what each policy made of it, as a page that needs nothing beside it.

    Args:
        episodes: an episode for each policy's name.
        weights: the reward; without it neither reward nor loss mask is shown.
        rates: the group call rate for each name, as in `reward_parts`.
        tokenizer: as in `tokens`.
    """
    first = next(iter(episodes.values()))
    columns = [
        f"<figure><h2>{excerpt(name, 60)}</h2><p>{excerpt(verdict(t), 200)}</p>{picture(t)}{turns(t)}"
        + (_learned_from(t, weights, (rates or {}).get(name, 0.0), tokenizer) if weights else "")
        + "</figure>"
        for name, t in episodes.items()
    ]
    title = excerpt(first.sample.get("question", ""), 200)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>deepeyes-lite episode</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<p>Sample {excerpt(first.sample.get('id', '?'), 80)}. Green, dashed: the target. Orange: "
        f"the zooms.</p><div class=pair>{''.join(columns)}</div></html>"
    )


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
        for x1, y1, x2, y2 in turn.boxes_px:
            zooms += 1
            lines.append(f"  zoom {zooms}: ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f}) px")
        lines += [f"  {error[:MAX_CHARS]}" for error in turn.errors]
    answer = trajectory.answer
    lines.append("no answer" if answer is None else f"answer: {answer[:MAX_CHARS]}")
    # What a model writes must not steer the terminal.
    return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))
