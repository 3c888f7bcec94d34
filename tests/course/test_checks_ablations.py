"""The checks of notebook 06: each typical mistake is named."""

import pytest
import torch

from checks import ablations as checks

CHECKS = {"my_curiosity": checks.curiosity, "my_effect": checks.effect, "my_line": checks.line}


def curious(
    paid="used", cut=True, shrinks=True, bonus=0.5, free=1, cost=0.05, once=False, right=0.8
):
    """An attempt at exercise 1; the defaults are right."""

    def attempt(correct, calls, group_call_rate):
        lack = 0.3 - group_call_rate
        lack = lack.clamp(min=0) if cut else lack
        lack = lack if shrinks else (lack > 0).float()
        who = {"used": calls > 0, "all": True, "right": (calls > 0) & correct}[paid]
        beyond = (calls - free).clamp(min=0)
        beyond = (beyond > 0) if once else beyond
        return right * correct + bonus * lack * who - cost * beyond

    return attempt


def resampled(sign=1, seeds=True, scenes=True, by=("seeds", "scenes"), pair=True, often=True):
    """An attempt at exercise 2; the defaults are right."""

    def attempt(a, b, seed_counts, scene_counts):
        difference = sign * (a - b if pair else a)
        n_seeds, n_scenes = a.shape
        if not often:
            seed_counts, scene_counts = (seed_counts > 0).double(), (scene_counts > 0).double()
        seed_counts = seed_counts if seeds else torch.ones_like(seed_counts)
        scene_counts = scene_counts if scenes else torch.ones_like(scene_counts)
        total = ((seed_counts @ difference) * scene_counts).sum(1)
        return total / (n_seeds if "seeds" in by else 1) / (n_scenes if "scenes" in by else 1)

    return attempt


def line(zoom="calls", direct="answers", finish=lambda ratio: 0.8 * (ratio - 1)):
    """An attempt at exercise 3; the defaults are right."""

    def attempt(share, call_rate, p_zoom, p_direct):
        weights = {
            "calls": share * call_rate,
            "answers": share * (1 - call_rate),
            "share": share,
            "bare calls": call_rate,
            "bare answers": 1 - call_rate,
        }
        pooled = [
            (weights[w] * p).sum() / weights[w].sum()
            for w, p in ((zoom, p_zoom), (direct, p_direct))
        ]
        return finish(pooled[1] / pooled[0])

    return attempt


MISTAKES = [
    ("my_curiosity", curious(paid="all"), "without a call get the bonus"),
    ("my_curiosity", curious(cut=False), "is punished"),
    ("my_curiosity", curious(paid="right"), "right answers only"),
    ("my_curiosity", curious(shrinks=False), "does not shrink"),
    ("my_curiosity", curious(bonus=0), "there is no bonus"),
    ("my_curiosity", curious(free=0), "the first call costs"),
    ("my_curiosity", curious(once=True), "every call beyond"),
    ("my_curiosity", curious(cost=0), "cost nothing"),
    ("my_curiosity", curious(cost=-0.05), "are rewarded"),
    ("my_curiosity", curious(right=1), "0.8, not 1"),
    ("my_curiosity", lambda *_: torch.zeros(6), "expected ["),
    ("my_effect", resampled(sign=-1), "sign is turned"),
    ("my_effect", resampled(scenes=False), "only seeds"),
    ("my_effect", resampled(seeds=False), "only scenes"),
    ("my_effect", resampled(seeds=False, scenes=False), "nothing is resampled"),
    ("my_effect", resampled(by=()), "a sum"),
    ("my_effect", resampled(by=("scenes",)), "divided by the scenes only"),
    ("my_effect", resampled(by=("seeds",)), "divided by the seeds only"),
    ("my_effect", resampled(pair=False), "a alone"),
    ("my_effect", resampled(often=False), "counts twice"),
    ("my_effect", lambda a, b, *_: (a - b) @ a, "(R, seeds) @ (seeds, scenes)"),
    ("my_line", line("bare calls", "bare answers"), "their shares differ"),
    ("my_line", line(zoom="share"), "p_zoom is over episodes"),
    ("my_line", line(direct="share"), "p_direct is over episodes"),
    ("my_line", line("share", "share"), "neither is weighed"),
    ("my_line", line(direct="calls"), "both are weighed by who zooms"),
    ("my_line", line(finish=lambda ratio: 0.8 * (1 / ratio - 1)), "upside down"),
    ("my_line", line(finish=lambda ratio: ratio), "this is the ratio"),
    ("my_line", line(finish=lambda ratio: ratio - 1), "times a = 0.8"),
    ("my_line", line(finish=lambda ratio: 0.8 * ratio), "take 1 off"),
    ("my_line", lambda s, c, z, d: (0.8 * (d / z - 1)).mean(), "pool them first"),
]


@pytest.mark.parametrize(
    ("name", "attempt", "message"), MISTAKES, ids=[f"{n}-{m[:20]}" for n, _, m in MISTAKES]
)
def test_mistake_is_named(name, attempt, message, capsys):
    CHECKS[name](attempt)
    out = capsys.readouterr().out
    assert out.startswith("[not yet] ") and message in out, out


def test_the_right_variants_of_this_file_pass(capsys):
    checks.curiosity(curious())
    checks.effect(resampled())
    checks.line(line())
    assert capsys.readouterr().out.count("[ok] ") == 3
