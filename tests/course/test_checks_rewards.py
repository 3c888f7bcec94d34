"""The checks of notebook 04: each typical mistake is named."""

import re

import pytest

from checks import rewards as checks
from deepeyes_lite.rewards import VARIANTS, least_bonus, reward
from deepeyes_lite.verifiers import extract_answer, is_correct, well_formed

CHECKS = {
    "my_verifier": checks.verifier,
    "my_form": checks.form,
    "my_reward": checks.bonus,
    "my_least": checks.least,
}


def verifier(
    pick=-1,
    missing="",
    clean=lambda text: text.strip().strip(".").lower(),
    clean_truth=None,
    same=lambda answer, truth: answer == truth,
    limit=1000,
    whole=False,
):
    """An attempt at exercise 1; the defaults are right."""

    def attempt(reply, truth):
        found = [reply] if whole else re.findall("<answer>(.*?)</answer>", reply, re.DOTALL)
        answer = (found or [missing])[pick].strip()
        return len(answer) < limit and same(clean(answer), (clean_truth or clean)(truth))

    return attempt


def form(pairs=True, once=True, order=True, last=True, early=True, tags="think tool_call answer"):
    """An attempt at exercise 2; the defaults are right."""

    def attempt(turns):
        for turn in turns:
            for tag in tags.split():
                opened, closed = turn.count(f"<{tag}>"), turn.count(f"</{tag}>")
                if pairs and opened != closed or once and opened > 1:
                    return False
                if order and turn.find(f"</{tag}>") < turn.find(f"<{tag}>"):
                    return False
        if last and not (turns and "<answer>" in turns[-1] and "<tool_call>" not in turns[-1]):
            return False
        return not early or all("<tool_call>" in t and "<answer>" not in t for t in turns[:-1])

    return attempt


def paid(a=0.8, f=0.2, b=1.2, times=lambda calls: calls > 0, right=True, keeps=0.0):
    """An attempt at exercise 3; the defaults are right."""

    def attempt(correct, well_formed, calls):
        bonus = b * times(calls) * (correct if right else 1)
        return a * correct - f * (not well_formed) + keeps * well_formed + bonus

    return attempt


def least(rule, impossible=float("inf")):
    return lambda p_zoom, p_direct, a: rule(p_zoom, p_direct, a) if p_zoom else impossible


def plain(text):
    return text.strip()


MISTAKES = [
    ("my_verifier", lambda reply, truth: False, "a right answer was rejected"),
    ("my_verifier", lambda reply, truth: True, "a wrong answer was accepted"),
    ("my_verifier", lambda reply, truth: truth in reply, "the thinking was read, too"),
    ("my_verifier", verifier(same=lambda a, t: t in a), "several answers in one"),
    ("my_verifier", verifier(same=lambda a, t: a in t), "an empty answer was accepted"),
    ("my_verifier", verifier(clean=plain), "case, white space"),
    ("my_verifier", verifier(clean=lambda text: text.strip().lower()), "a full stop after it"),
    ("my_verifier", verifier(clean_truth=plain), "is the truth treated as"),
    ("my_verifier", verifier(clean_truth=str.lower), "treat the truth as you treat the answer"),
    ("my_verifier", verifier(pick=0), "the first answer was taken"),
    ("my_verifier", verifier(missing="k"), "no answer tags here"),
    (
        "my_verifier",
        lambda r, t: verifier()(r if "</answer>" in r else r + "</answer>", t),
        "never closed",
    ),
    ("my_verifier", verifier(limit=10**6), "wrong unread"),
    ("my_verifier", lambda r, t: len(r) < 1000 and verifier()(r, t), "without the white space"),
    ("my_verifier", lambda r, t: re.search("<answer>(.*)</answer>", r)[1] == t, "TypeError"),
    (
        "my_verifier",
        lambda r, t: verifier()(r, t) if "</answer>" in r else None,
        "give True or False",
    ),
    ("my_form", form(last=False), "an empty reply has as many"),
    ("my_form", form(early=False), "a turn before the last holds an answer and no call"),
    ("my_form", form(pairs=False), "closed and never opened"),
    ("my_form", form(order=False), "the closing one comes first"),
    ("my_form", form(once=False), "two answers in one turn"),
    ("my_form", lambda turns: "<answer>" in turns[-1], "IndexError"),
    (
        "my_form",
        lambda turns: form(last=False)(turns) and "<answer>" in "".join(turns[-1:]),
        "nobody waited for its crop",
    ),
    ("my_form", lambda t: form(early=False)(t) and "<answer>" not in "".join(t[:-1]), "no call"),
    (
        "my_form",
        lambda t: form(early=False)(t) and all("<tool_call>" in turn for turn in t[:-1]),
        "an answer beside its call",
    ),
    ("my_form", lambda t: form()(t) and len(t) < 3, "any number of calls"),
    ("my_form", lambda t: form()(t) and len(t) < 2, "a call, then an answer"),
    ("my_form", lambda t: form()(t) and "<think>" in t[-1], "thinking is not asked for"),
    ("my_form", lambda t: bool(t) and "<answer>" in t[-1], "opened and never closed"),
    ("my_form", lambda t: t != [] and "<tool_call>" not in t[-1], "an empty reply"),
    ("my_reward", paid(right=False), "went to wrong answers"),
    ("my_reward", paid(b=0.0), "there is no bonus"),
    ("my_reward", paid(times=int), "paid for every call"),
    ("my_reward", paid(times=lambda calls: 1), "paid for every right answer"),
    ("my_reward", lambda c, f, n: paid()(c, f, n) - 0.8 * (c and n > 0), "stands in for accuracy"),
    ("my_reward", paid(f=0.0, keeps=0.2), "the format is paid for"),
    ("my_reward", paid(f=0.0, keeps=-0.2), "the sign of the format"),
    ("my_reward", paid(f=0.0), "the format is left out"),
    ("my_reward", lambda c, f, n: paid()(c, f, n) if f else 0, "not the whole reward"),
    ("my_reward", lambda c, f, n: paid(b=1.2 * f)(c, f, n), "not the bonus"),
    ("my_reward", paid(a=1.0), "worth 0.8, not 1"),
    ("my_reward", paid(b=1.0), "expected ["),
    ("my_reward", lambda c, f, n: paid()(c, f, n) if n else None, "returns nothing"),
    ("my_least", least(lambda z, d, a: a * (z / d - 1), -0.8), "upside down"),
    ("my_least", least(lambda z, d, a: a * d / z), "the 1 is missing"),
    ("my_least", least(lambda z, d, a: d / z - 1), "weight a is missing"),
    ("my_least", least(lambda z, d, a: 0.8 * (d / z - 1)), "a is fixed at 0.8"),
    ("my_least", lambda z, d, a: a * (d - z), "paid whatever the answer"),
    ("my_least", least(lambda z, d, a: max(0.0, a * (d / z - 1))), "cut off at 0"),
    ("my_least", least(lambda z, d, a: a * (1 - d / z), -float("inf")), "sign is turned round"),
    ("my_least", least(least_bonus, 0.0), "infinity, not 0"),
    ("my_least", least(least_bonus, float("nan")), "infinity, not NaN"),
    ("my_least", lambda z, d, a: a * (d / z - 1), "p_zoom may be 0"),
    ("my_least", lambda z, d, a: "b", "ValueError"),
]


@pytest.mark.parametrize(
    ("name", "attempt", "message"), MISTAKES, ids=lambda value: str(value)[:28]
)
def test_mistake_is_named(name, attempt, message, capsys):
    CHECKS[name](attempt)
    out = capsys.readouterr().out
    assert out.startswith("[not yet] ") and message in out, out


def test_the_packages_own_functions_pass(capsys):
    checks.verifier(lambda reply, truth: is_correct(extract_answer(reply), truth))
    checks.form(well_formed)
    checks.bonus(
        lambda correct, formed, calls: reward(VARIANTS["conditional"], correct, formed, calls)
    )
    checks.least(least_bonus)
    assert capsys.readouterr().out.count("[ok] ") == 4


def test_the_right_variants_of_this_file_pass(capsys):
    checks.verifier(verifier())
    checks.form(form())
    checks.bonus(paid())
    checks.least(least(least_bonus))
    assert capsys.readouterr().out.count("[ok] ") == 4


def test_an_attempt_may_spoil_its_arguments(capsys):
    checks.form(
        lambda turns: well_formed(turns) if turns.append("") is None and turns.pop() == "" else 0
    )
    assert capsys.readouterr().out.startswith("[ok] ")
