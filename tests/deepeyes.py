"""DeepEyes' public loop, toolbox and reward, transcribed: what they do, in our own words.

After Visual-Agent/DeepEyes at 6c5e796, the files that ``docs/deviations.md`` names. A judge that reads an
answer is handed in, for both sides are to be asked about the same text.
"""

import json
import re
from dataclasses import dataclass, field

END, ERROR = "end", "error"
CROP = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
BETWEEN = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def inner(text, tag):
    """The last pair of a tag, or None."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[-1] if found else None


def zoomed(box, size):
    """The part of the image that is cut, or an exception."""
    left, top, right, bottom = box
    left, top = max(0, left), max(0, top)
    right, bottom = min(size[0], right), min(size[1], bottom)
    width, height = right - left, bottom - top
    if not (left < right and bottom > top):
        raise ValueError("no area")
    if max(width, height) / min(width, height) > 100:
        raise ValueError("too narrow")
    if not min(width, height) > 30:
        raise ValueError("too small")
    return left, top, right, bottom


def act(reply, size, cut=False):
    """What a reply brings: ``END``, ``ERROR``, or the box of a crop."""
    if cut or not reply or inner(reply, "answer"):
        return END
    call = inner(reply, "tool_call")
    if not call:
        return END
    try:
        call = json.loads(call.strip())
        name, arguments = call["name"], call["arguments"]
        if name == "image_zoom_in_tool":
            return zoomed([*arguments["bbox_2d"]], size)
        if name == "image_rotate_tool":
            float(arguments["angle"])
            return 0, 0, *size
        raise ValueError("unknown")
    except Exception:
        return ERROR


@dataclass
class Played:
    """An episode: what every reply brought, and the response that the reward is given."""

    acts: list = field(default_factory=list)
    text: str = ""


def play(script, size, max_turns, cut=()):
    """The loop over scripted replies; ``cut`` holds those that the limit of tokens cut off."""
    played = Played()
    for number, reply in enumerate(script[:max_turns]):
        played.text += reply
        last = number == max_turns - 1
        outcome = END if last else act(reply, size, reply in cut)
        played.acts.append(outcome)
        if outcome == END:
            break
        played.text += BETWEEN.format("Error: no" if outcome == ERROR else CROP)
    return played


def score(text, judge):
    """Of a response: whether it is right, whether it breaks the format, whether it zoomed."""
    wrong = text.count("<think>") != text.count("</think>")
    shown = text.count("<|vision_start|><|image_pad|>")
    wrong |= shown != text.count("<|image_pad|><|vision_end|>")
    after = text.split("</think>")[-1]
    wrong |= after.count("<answer>") != after.count("</answer>")
    answer = text.split("<answer>")[-1].split("</answer>")[0].strip()
    right = bool(judge(answer))
    if len(answer) >= 1000:
        right, wrong = False, True
    return right, wrong, shown > 0


def paid(right, wrong, zoomed):
    """The reward."""
    return 0.8 * right - 0.2 * wrong + 1.2 * (right and zoomed)


def score_math(text, judge):
    """The reward of a response to a math question."""
    wrong = text.count("<think>") != text.count("</think>")
    boxes = re.findall(r"\\boxed{([^}]+)}", text.split("</think>")[-1])
    right = bool(boxes) and bool(judge(boxes[-1]))
    return 1.2 * right - 0.4 * (wrong or len(boxes) != 1)
