"""The checks of notebook 05: each typical mistake is named."""

import pytest
import torch

from checks import grpo as checks

CHECKS = {
    "my_advantages": checks.advantages,
    "my_token_loss": checks.token_loss,
    "my_batch_loss": checks.batch_loss,
}


def advantages(
    conditional=True, bonus=1.2, centre="group", scale="group", correction=1, eps=1e-4, sign=1
):
    """An attempt at exercise 1; the defaults are right."""

    def attempt(correct, zoomed, generations):
        right, used = correct.float(), zoomed.float()
        rewards = 0.8 * right + bonus * used * (right if conditional else 1)
        groups = rewards.view(-1, generations)
        std = {
            "group": groups.std(1, correction=correction, keepdim=True) + eps,
            "batch": rewards.std() + eps,
            "none": 1.0,
        }
        mean = {"group": groups.mean(1, keepdim=True), "batch": rewards.mean(), "none": 0.0}
        return sign * ((groups - mean[centre]) / std[scale]).flatten()

    return attempt


def token_loss(pick=torch.minimum, sign=-1, ratio=lambda new, old: torch.exp(new - old), low=1.0):
    """An attempt at exercise 2; the defaults are right. ``low`` scales the clip's half width."""

    def attempt(logps, old_logps, advantages, epsilon):
        r = ratio(logps, old_logps)
        clipped = r.clamp(1 - low * epsilon, 1 + low * epsilon)
        return sign * pick(r * advantages[:, None], clipped * advantages[:, None])

    return attempt


MISTAKES = [
    ("my_advantages", advantages(conditional=False), "bonus went to wrong answers"),
    ("my_advantages", advantages(bonus=0.0), "there is no bonus"),
    ("my_advantages", advantages(centre="none", scale="none"), "the rewards themselves"),
    ("my_advantages", advantages(centre="none"), "not centred"),
    ("my_advantages", advantages(scale="none"), "not scaled"),
    ("my_advantages", advantages(correction=0), "population's std"),
    ("my_advantages", advantages(centre="batch", scale="batch"), "mean and std are the whole"),
    ("my_advantages", advantages(scale="batch"), "the std is the whole batch's"),
    ("my_advantages", advantages(sign=-1), "sign is turned round"),
    ("my_advantages", advantages(eps=0.0), "0 / 0"),
    ("my_advantages", lambda c, z, g: advantages()(c, z, g).view(-1, g), "shape is (3, 4)"),
    ("my_token_loss", token_loss(pick=torch.maximum), "max for min"),
    ("my_token_loss", token_loss(sign=1), "sign is turned round"),
    ("my_token_loss", token_loss(pick=lambda plain, clipped: plain), "not clipped"),
    ("my_token_loss", token_loss(pick=lambda plain, clipped: clipped), "clipped without min"),
    ("my_token_loss", token_loss(ratio=lambda new, old: new - old), "not the difference"),
    ("my_token_loss", token_loss(ratio=lambda new, old: torch.exp(old - new)), "upside down"),
    (
        "my_token_loss",
        token_loss(ratio=lambda new, old: torch.exp(new - old).detach()),
        "without a gradient",
    ),
    ("my_token_loss", lambda new, old, a, e: -torch.exp(new - old) * a, "advantages[:, None]"),
    ("my_token_loss", token_loss(low=2.0), "expected ["),
    ("my_batch_loss", lambda x, c, t: (x * c).sum() / c.sum(), "tool_mask is ignored"),
    ("my_batch_loss", lambda x, c, t: (x * t).sum() / t.sum(), "completion_mask is ignored"),
    ("my_batch_loss", lambda x, c, t: x.mean(), "both masks are ignored"),
    (
        "my_batch_loss",
        lambda x, c, t: ((x * c * t).sum(1) / (c * t).sum(1)).mean(),
        "mean per sequence",
    ),
    ("my_batch_loss", lambda x, c, t: (x * c * t).mean(), "not by all places"),
    ("my_batch_loss", lambda x, c, t: (x * c * t).sum() / c.sum(), "observations still count"),
    ("my_batch_loss", lambda x, c, t: (x * c * t).sum(), "a sum"),
    ("my_batch_loss", lambda x, c, t: (x * c * t).sum(1), "shape is (3,)"),
]


@pytest.mark.parametrize(
    ("name", "attempt", "message"), MISTAKES, ids=lambda value: str(value)[:28]
)
def test_mistake_is_named(name, attempt, message, capsys):
    CHECKS[name](attempt)
    out = capsys.readouterr().out
    assert out.startswith("[not yet] ") and message in out, out


def test_the_right_variants_of_this_file_pass(capsys):
    checks.advantages(advantages())
    checks.token_loss(token_loss())
    assert capsys.readouterr().out.count("[ok] ") == 2
