"""Is the answer right? Rules only: exact, cheap, and nothing to talk a judge into.

DeepEyes asks a 72B judge for its visual questions and gives answers of 1,000 characters or more no
reward, because a long answer can talk the judge round (public code, ``vl_agent.py``).
"""

import re

MAX_ANSWER_CHARS = 1000

_CLOSE = "</answer>"
_ANSWER = re.compile(rf"<answer>(.*?){_CLOSE}", re.DOTALL)
_TAGS = ("think", "tool_call", "answer")


def extract_answer(text: str) -> str | None:
    """What stands between the last pair of answer tags, or None.

    >>> extract_answer("<think>I can read it.</think><answer> K </answer>")
    'K'
    >>> extract_answer("It is K.") is None
    True
    """
    # Cut after the last closing tag: then every opening one finds a partner, in linear time.
    found = _ANSWER.findall(text[: text.rfind(_CLOSE) + len(_CLOSE)] if _CLOSE in text else "")
    return found[-1].strip() if found else None


def normalise(text: str) -> str:
    """Lower case, inner white space single, outer punctuation gone.

    >>> normalise("  The  Letter K. ")
    'the letter k'
    """
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'()[]")


def is_correct(answer: str | None, truth: str) -> bool:
    """Whether the answer is the truth, after `normalise`; an answer too long is wrong unread.

    >>> is_correct("k.", "K"), is_correct("Letter K", "K"), is_correct(None, "K")
    (True, False, False)
    """
    if answer is None or len(answer) >= MAX_ANSWER_CHARS:
        return False
    return normalise(answer) == normalise(truth) != ""


def well_formed(turns: list[str]) -> bool:
    """Whether every turn keeps the format: calls first, one answer in the last turn, tags in pairs.

    Args:
        turns: what the model wrote, turn by turn.

    >>> well_formed(["<think>?</think><tool_call>{}</tool_call>", "<think>!</think><answer>K</answer>"])
    True
    >>> well_formed(["<answer>K</answer><answer>L</answer>"])
    False
    """
    if not turns:
        return False
    for turn in turns:
        for tag in _TAGS:
            opened, closed = turn.count(f"<{tag}>"), turn.count(f"</{tag}>")
            if opened != closed or opened > 1 or turn.find(f"</{tag}>") < turn.find(f"<{tag}>"):
                return False
    *calls, last = turns
    answers_early = any("<answer>" in turn or "<tool_call>" not in turn for turn in calls)
    return not answers_early and "<answer>" in last and "<tool_call>" not in last
