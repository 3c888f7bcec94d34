"""Our rewards under the name that verl calls, for training on many machines.

Needs neither datasets nor transformers, so that it runs in an environment with other versions of them.
``docs/deviations.md`` lists where this reward deviates from DeepEyes', and why.
"""

import re

from deepeyes_lite import verifiers
from deepeyes_lite.options import split_options
from deepeyes_lite.prompts import split_turns
from deepeyes_lite.rewards import reward, variant

# The public reward is chosen by data_source: these three, each one of the set's parquet files. The
# third has its own reward (``compute_score_math`` of the public code) and no tool.
VISUAL, MATH = ("vstar", "chart"), "thinklite_eureka"
MATH_REWARD = {"accuracy_reward": 1.2, "format_reward": 0.4}
# What verl puts between two turns, with or without the special tokens.
_OBSERVATION = re.compile(
    r"(?:<\|im_end\|>)?\s*(?:<\|im_start\|>|\n)user\n\s*"
    r"(<tool_response>|Error).*?(?:<\|im_end\|>)?\s*(?:<\|im_start\|>)?assistant\n",
    re.DOTALL,
)


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

    Rules instead of a 72B judge (`verifiers`). An answered call is an observation that opens with
    ``<tool_response>``; verl does not keep a policy from writing one itself, so look at its episodes.

    Args:
        data_source: as `to_verl` writes it.
        solution_str: the decoded response, observations included.
        ground_truth: the answer.
        extra_info: its ``question`` holds the options, where there are any.
        variant_name: a key of ``rewards.VARIANTS``; by ``custom_reward_function.reward_kwargs``.

    >>> compute_score("vstar", "<think>!</think><answer>red</answer>", "red")
    0.8
    """
    question = str((extra_info or {}).get("question") or "")
    options = split_options(question)[1]
    sample = {"question": question, "answer": ground_truth, "options": options}
    split = str((extra_info or {}).get("split"))
    sample["verifier"] = verifier_of(data_source, ground_truth, options, split)
    if data_source == MATH:
        # The answer is in the last box after the thought; no box is a format error.
        _, box, boxed = solution_str.rpartition("</think>")[2].rpartition(r"\boxed{")
        formed = bool(box) and solution_str.count("<think>") == solution_str.count("</think>")
        correct = verifiers.check_answer(box + boxed if box else None, sample)
        return float(reward(MATH_REWARD, correct, formed, calls=0))
    calls = sum(match[1] != "Error" for match in _OBSERVATION.finditer(solution_str))
    turns = split_turns(_OBSERVATION.sub("<|im_start|>assistant\n", solution_str))
    correct = verifiers.check_answer(verifiers.extract_answer(turns[-1]), sample)
    return float(reward(variant(variant_name), correct, verifiers.well_formed(turns), calls))
