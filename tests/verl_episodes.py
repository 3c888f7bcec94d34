"""Seven episodes as verl's tool loop plays them, under four chat templates: what its reward manager decodes.

`test_verl.py` rewards these texts without verl; tests/engines/job_verl.py plays the same turns through
verl's own loop and compares its texts with these.
"""

import json
import re
from importlib.resources import files

from transformers.utils.chat_template_utils import render_jinja_template

from deepeyes_lite import prompts
from deepeyes_lite.tools import ZOOM

IMAGE = [{"type": "image"}]
THINK = "<think>?</think>"


def call(name: str = ZOOM, **arguments) -> str:
    return prompts.tool_call(arguments, name)


BOX = call(bbox_2d=[100, 100, 400, 400], label="x")
ANSWER = prompts.answer("!", "TRUTH")
EMPTY = "Error: bbox_2d is empty or outside the image; give x1 < x2 and y1 < y2"
UNKNOWN = f"Unknown function 'rotate'. Available tools: ['{ZOOM}']"
NO_SUCH = "Error: missing a required argument: 'bbox_2d'"
# name -> what the model writes, what the tool answers between, the reward of variant "conditional"
EPISODES = {
    "zoom": ([THINK + BOX, ANSWER], [IMAGE], 2.0),
    "no call": ([ANSWER], [], 0.8),
    "unknown tool": ([THINK + call("rotate"), ANSWER], [UNKNOWN], 0.8),
    "empty box": ([THINK + call(bbox_2d=[400, 400, 400, 400]), ANSWER], [EMPTY], 0.8),
    "argument that does not exist": ([THINK + call(box=1), ANSWER], [NO_SUCH], 0.8),
    "two calls in a turn": ([THINK + BOX + BOX, ANSWER], [IMAGE], 1.8),
    "zoom, wrong answer": ([THINK + BOX, prompts.answer("!", "@")], [IMAGE], 0.0),
}


def templates() -> dict[str, str]:
    """tiny-eyes', DeepEyes' as Qwen2.5-VL gets it here, and the two models' own, which TRL ships.

    verl-recipe's template for DeepEyes writes tool responses as Qwen3-VL's own does.
    """
    trl = files("trl") / "chat_templates"
    return {
        "tiny-eyes": prompts.CHAT_TEMPLATE,
        "DeepEyes": prompts.DEEPEYES_TEMPLATE,
        "Qwen3-VL": (trl / "qwen3_vl.jinja").read_text(encoding="utf-8"),
        "Qwen2.5-VL": (trl / "qwen2_5_vl.jinja").read_text(encoding="utf-8"),
    }


def decoded(template: str, turns: list[str], observations: list, special: bool = False) -> str:
    """The response of an episode: the model's turns as written, and what the template puts between them.

    Args:
        template: one of `templates`.
        turns: what the model writes.
        observations: what the tool answers, content blocks or a text.
        special: whether special tokens are kept; verl's reward manager skips them.
    """
    question = [{"role": "user", "content": "?"}]
    text = turns[0] + prompts.TURN_END
    for turn, observation in zip(turns[1:], observations, strict=True):
        conversation = [*question, {"role": "assistant", "content": "@@"}]
        conversation.append({"role": "tool", "content": observation})
        (rendered,), _ = render_jinja_template(
            [conversation], chat_template=template, add_generation_prompt=True
        )
        text += rendered.split("@@" + prompts.TURN_END)[1] + turn + prompts.TURN_END
    return text if special else re.sub(r"<\|\w+\|>", "", text)


def with_truth(turns: list[str], truth: str) -> list[str]:
    return [json.loads(json.dumps(turn).replace("TRUTH", truth)) for turn in turns]
