"""RewardLab, driven in Python."""

import pytest
import torch

from deepeyes_lite import rewards
from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.viz.plots import png
from deepeyes_lite.viz.widgets import RewardLab
from deepeyes_lite.viz.widgets.reward_lab import OWN
from episodes import hostile, made, shown


@pytest.fixture
def group():
    """Eight episodes of one scene: four right, zooms 0, 1, 2, 0, …"""
    return made(8, scenes=1)


@pytest.fixture
def lab(group):
    return RewardLab(group)


def test_a_variant_sets_the_dials_and_pays_as_in_training(lab, group):
    rate = sum(t.called for t in group) / 8
    for name, weights in VARIANTS.items():
        lab.variant.value = name
        assert lab.weights == weights
        for t, parts in zip(group, lab.parts):
            args = (t.correct, t.well_formed, len(t.boxes_px), t.best_iou or 0.0, rate)
            assert sum(parts.values()) == rewards.reward(weights, *args)
        paid = torch.tensor([sum(p.values()) for p in lab.parts])
        expected = (paid - paid.mean()) / (paid.std() + 1e-4)  # as TRL does it
        assert lab.advantages == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_dial_makes_weights_of_ones_own(lab):
    lab.dials["excess_calls"].value = 0.25
    assert lab.variant.value == OWN and lab.weights["excess_calls"] == 0.25
    assert lab.weights["tool_bonus"] == 1.2  # the others stay
    bars, _ = lab.picture().axes
    assert [bar.get_height() for bar in bars.patches[:8]] == pytest.approx(lab.advantages)
    labels = [tick.get_text() for tick in bars.get_xticklabels()]
    assert labels[:2] == ["1\nright", "2\nwrong"]  # not by colour alone
    assert "calls beyond the first -0.25" in shown(lab)
    lab.variant.value = "none"
    assert lab.weights == VARIANTS["none"]


def test_the_point_moves_with_the_chances(lab):
    lab.chances["p_zoom"].value, lab.chances["p_direct"].value = 0.4, 0.5
    for variant, bonus, fate in (
        ("conditional", 1.2, "grows"),
        ("none", 0.0, "dies"),
        ("unconditional", 1.0, "grows"),  # 0.4 for every zoom, of which 0.4 are right
    ):
        lab.variant.value = variant
        assert lab.point == pytest.approx((0.2, bonus)) and lab.verdict in lab.alt
        assert lab.verdict.endswith(f"zooming {fate}.")
    lab.chances["p_zoom"].value = 0.0
    assert lab.point == (float("inf"), float("inf")) and png(lab.picture(), 30)


def test_groups_can_be_chosen():
    lab = RewardLab(made(12, scenes=6) + made(1, scenes=1))
    assert [len(group) for group in lab.groups.values()] == [3, 2, 2, 2, 2, 2]
    lab.group.value = "test-3"
    assert len(lab.advantages) == 2
    assert lab.groups["test-3"][0].sample["question"] in shown(lab)
    with pytest.raises(ValueError, match="an advantage needs a group"):
        RewardLab(made(6))


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_hostile_group_is_text():
    lab = RewardLab(hostile() + hostile())
    for _, name in lab.group.options:
        lab.group.value = name
        assert len(shown(lab)) < 5000 and lab.alt.encode() and len(lab.alt) < 1000
