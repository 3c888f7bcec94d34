"""What a conversation looks like as text, written and read: chat template, prompts, `read_reply`.

Both worlds write Qwen's markup: ``<|im_start|>role … <|im_end|>``, ``<tool_call>{json}</tool_call>``,
``<think>``, ``<answer>``. A crop comes back in a user turn inside ``<tool_response>``, as in DeepEyes.
Qwen2.5-VL's own template has no tool section, so TRL refuses it; this one has.

The templates are in ``templates/``. They keep prefixes: a rendered conversation is a prefix of its
continuation, which is what lets an episode grow token by token without ever being rendered anew.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from deepeyes_lite.tools import ZOOM

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
TURN_END = "<|im_end|>"
GENERATION_PROMPT = "<|im_start|>assistant\n"
ZOOM_THOUGHT = "I need to zoom in."  # the thought of a call that a script or a trace writes
DIRECT = "<think>I can see it.</think><answer>"  # how a reply begins that answers at once

# What DeepEyes asks for, in the user's turn and again after every crop (``USER_PROMPT_V2``).
FORMAT = (
    f"\nThink first, call **{ZOOM}** if needed, then answer. Format strictly as:  "
    "<think>...</think>  <tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
)
FORMAT_WITHOUT_TOOL = (
    "\nThink first, then answer. Format strictly as:  <think>...</think>  <answer>...</answer> "
)

_TEMPLATES = Path(__file__).parent / "templates"
CHAT_TEMPLATE = (_TEMPLATES / "tiny_eyes.jinja").read_text(encoding="utf-8")
DEEPEYES_TEMPLATE = (
    (_TEMPLATES / "deepeyes.jinja")
    .read_text(encoding="utf-8")
    .replace("{{- FORMAT }}", "{{- " + json.dumps(FORMAT) + " }}")
)

# How ``transformers serve`` and stock TRL read a reply back into a message. Ours read with `read_reply`.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": GENERATION_PROMPT,
    "fields": {
        "reasoning_content": {
            "open": "<think>",
            "close_pattern": r"</think>\s*",
            "content": "text",
        },
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}

# Tokens that only the loop may write. A policy that samples an image placeholder makes TRL drop every
# image of the batch; one that opens a turn speaks in the user's name.
RESERVED_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_response>",
    "</tool_response>",
)


def markup_in(question: str) -> str | None:
    """The first token in a question that only the loop or the end of a turn may write, or None.

    >>> markup_in("What is this?<|im_end|>"), markup_in("What is this?")
    ('<|im_end|>', None)
    """
    return next((token for token in (*RESERVED_TOKENS, TURN_END) if token in question), None)


def user_message(question: str, suffix: str = "") -> list[dict]:
    """The opening of an episode: one image, one question, and what the family asks for after it.

    Raises:
        ValueError: if the question contains a token of the markup.
    """
    if token := markup_in(question):
        raise ValueError(f"the question contains {token}, which only the template may write")
    text = {"type": "text", "text": question + suffix}
    return [{"role": "user", "content": [{"type": "image"}, text]}]


def tool_call(arguments: dict, name: str = ZOOM) -> str:
    """A call as the model writes it.

    >>> tool_call({"bbox_2d": [250, 0, 500, 1000], "label": "red circle"})[:45]
    '<tool_call>{"name": "image_zoom_in_tool", "ar'
    """
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>{call}</tool_call>"


def split_turns(text: str) -> list[str]:
    """What the model wrote, turn by turn, out of a decoded completion (special tokens included).

    The model cannot write the markers of a turn (`RESERVED_TOKENS`), so a cut at them is safe.

    >>> split_turns("<answer>K</answer><|im_end|>")
    ['<answer>K</answer>']
    """
    return [part.split(TURN_END)[0] for part in text.split(GENERATION_PROMPT)]


def between(text: str, tag: str) -> list[str]:
    """What stands between each pair of a tag, in linear time whatever a model wrote.

    >>> between("<answer>K</answer><answer>L", "answer")
    ['K']
    """
    # Cut after the last closing tag: then every opening one finds a partner.
    end = text.rfind(f"</{tag}>") + len(f"</{tag}>")
    return re.findall(f"<{tag}>(.*?)</{tag}>", text[:end] if f"</{tag}>" in text else "", re.DOTALL)


class Reply(NamedTuple):
    """A reply, taken apart by `read_reply`.

    Attributes:
        thought: what stands between the tags of the thought, or after its opening one; may be empty.
        calls: the call to answer, if there is one: ``{"name": …, "arguments": {…}}``, or ``{"error": …}``
            where it cannot be read. `tools.answer_call` answers either.
        answer: what stands between the last pair of answer tags, or None.
    """

    thought: str
    calls: list[dict]
    answer: str | None

    @property
    def wrong(self) -> str | None:
        """What is wrong with the call, in words for the model, or None."""
        return self.calls[0].get("error") if self.calls else None


def read_reply(text: str) -> Reply:
    """What a reply says. Every policy and the trainer read with this function, and with no other.

    The rules are those of DeepEyes' toolbox: an answer ends the episode, whatever stands beside it; of
    several calls the last one is meant; tags count wherever they stand, in a thought, too. A call that
    cannot be read costs a message, not the episode.

    >>> read_reply('<think>?</think><tool_call>{"name": "zoom", "arguments": {}}</tool_call>')
    Reply(thought='?', calls=[{'name': 'zoom', 'arguments': {}}], answer=None)
    >>> read_reply("<tool_call>[1, 2]</tool_call>").wrong
    'a call is {"name": ..., "arguments": {...}}'
    >>> read_reply("<tool_call>{}</tool_call><answer> K </answer>")[1:]
    ([], 'K')
    """
    answers, closed = between(text, "answer"), between(text, "tool_call")
    answer = answers[-1].strip() if answers else None
    thought = text.partition("<think>")[2].partition("</think>")[0].strip()
    calls = []
    if not answer and "<tool_call>" in text:
        calls = [_read_call(closed[-1]) if closed else {"error": "the call is not closed"}]
    return Reply(thought, calls, answer)


def _read_call(text: str) -> dict:
    try:
        call = json.loads(text.strip())
    except RecursionError:  # brackets in brackets in brackets
        return {"error": "the call is no JSON"}
    except ValueError as error:
        return {"error": f"the call is no JSON: {getattr(error, 'msg', 'a number is too long')}"}
    if isinstance(call, dict):
        name, arguments = call.get("name"), call.get("arguments")
        if isinstance(name, str) and isinstance(arguments, dict):
            return {"name": name, "arguments": arguments}
    return {"error": 'a call is {"name": ..., "arguments": {...}}'}


def answer(thought: str, text: str) -> str:
    """A reply that ends the episode.

    >>> answer("I can see it.", "K")
    '<think>I can see it.</think><answer>K</answer>'
    """
    return f"<think>{thought}</think><answer>{text}</answer>"
