"""Our rewards under the name that verl calls, for training on many machines.

Needs neither datasets nor transformers, so that it runs in an environment with other versions of them.
``docs/deviations.md`` lists where this reward deviates from DeepEyes', and why.
"""

import re

from deepeyes_lite import verifiers
from deepeyes_lite.options import split_options
from deepeyes_lite.prompts import FORMAT, TURN_END
from deepeyes_lite.rewards import reward, variant

# The public reward is chosen by data_source: these three, each one of the set's parquet files. The
# third has its own reward (``compute_score_math`` of the public code) and no tool.
VISUAL, MATH = ("vstar", "chart"), "thinklite_eureka"
MATH_REWARD = {"accuracy_reward": 1.2, "format_reward": 0.4}
# What opens a turn, with or without its special token; written by a template, or as text by a policy.
_ROLE = re.compile(r"((?:<\|im_start\|>|\n|(?<=</tool_call>))(user|tool|assistant)\n)")
_IMAGE = re.compile(r"<\|(?:vision_start|image_pad|vision_end)\|>|<image>")
_CAPTION = "Zoomed in on the image"  # beside a crop, of the zoom tool of earlier versions of verl


def verifier_of(data_source: str, answer: str, options: list[str], split: str = "") -> str:
    """Which of ``verifiers.VERIFIERS`` checks a row: the one in ``split`` behind a colon, or the likely one.

    >>> verifier_of("vstar", "12", []), verifier_of("vstar", "12", [], "train:text")
    ('number', 'text')
    """
    named, rule = split.partition(":")[2], verifiers.rule_of(answer, options)
    if named in verifiers.VERIFIERS:
        return named
    return "math" if data_source == MATH and rule != "choice" else rule


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict | None = None,
    variant_name: str = "conditional",
    **_,
) -> float:
    """Our reward under verl's signature, for ``custom_reward_function.path`` and ``.name``.

    Rules instead of a 72B judge (`verifiers`). Answered calls are those that the tool paid: `verl_tool.Zoom`
    gives a crop 1 and a refusal -1. Of a tool that gives nothing, they are those that `crops` finds in the
    text; verl does not keep a policy from writing observations itself, so look at its episodes there.

    Args:
        data_source: as `to_verl` writes it.
        solution_str: the decoded response, observations included.
        ground_truth: the answer.
        extra_info: its ``question`` holds the options, where there are any; ``tool_rewards``, which verl
            adds, what the tool gave each call.
        variant_name: a key of ``rewards.VARIANTS``; by ``custom_reward_function.reward_kwargs``.

    >>> compute_score("vstar", "<think>!</think><answer>red</answer>", "red")
    0.8
    """
    extra_info = extra_info or {}
    question = str(extra_info.get("question") or "")
    options = split_options(question)[1]
    sample = {"question": question, "answer": ground_truth, "options": options}
    split = str(extra_info.get("split"))
    sample["verifier"] = verifier_of(data_source, ground_truth, options, split)
    if data_source == MATH:
        # The answer is in the last box after the thought; no box is a format error.
        _, box, boxed = solution_str.rpartition("</think>")[2].rpartition(r"\boxed{")
        formed = bool(box) and solution_str.count("<think>") == solution_str.count("</think>")
        correct = verifiers.check_answer(box + boxed if box else None, sample)
        return float(reward(MATH_REWARD, correct, formed, calls=0))
    turns, observations = split_response(solution_str)
    calls, paid = crops(observations), extra_info.get("tool_rewards")
    if paid is not None:
        calls = sum(r > 0 for r in paid) if any(paid) else min(calls, len(paid))
    correct = verifiers.check_answer(verifiers.extract_answer(turns[-1]), sample)
    return float(reward(variant(variant_name), correct, verifiers.well_formed(turns), calls))


def split_response(text: str) -> tuple[list[str], list[str]]:
    """A decoded response as what the model wrote, turn by turn, and what its calls were answered with.

    Qwen2.5-VL's own template gives an answer the role tool; the others put it into a user turn, in tags, and
    DeepEyes' fork writes its errors there without.

    >>> split_response("?</tool_call>\\nuser\\n<tool_response></tool_response>\\nassistant\\n!")
    (['?</tool_call>', '!'], ['<tool_response></tool_response>'])
    """
    first, *rest = _ROLE.split(text)
    turns, observations, observing = [first], [], False
    for opening, role, part in zip(rest[::3], rest[1::3], rest[2::3]):
        answers = part.lstrip().startswith(("<tool_response>", "Error"))
        if role == "tool" or (role == "user" and answers):
            observations.append(part)
            observing = True
        elif role == "assistant" and (observing or opening.startswith("<|im_start|>")):
            turns.append(part)
            observing = False
        else:  # a word on a line of its own
            (observations if observing else turns)[-1] += opening + part
    return [turn.split(TURN_END)[0] for turn in turns], observations


def crops(observations: list[str]) -> int:
    """How many calls were answered with an image: decoded, it leaves its special tokens or nothing.

    >>> crops(["<tool_response></tool_response>", "Error: bbox_2d is empty"])
    1
    """
    responses = []
    for text in observations:
        tagged = text.split("<tool_response>")[1:]
        responses += [part.split("</tool_response>")[0] for part in tagged] or [text]
    texts = [
        _IMAGE.sub("", text).replace(FORMAT, "").replace(TURN_END, "").strip() for text in responses
    ]
    return sum(not text or text.startswith(_CAPTION) for text in texts)
