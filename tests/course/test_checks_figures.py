"""What no mistake of an exercise can hold: the figures that it tells, and other right ways that pass."""

import math
import random

import numpy as np

from checks import evaluation, own_tool, single_gpu, trajectories
from deepeyes_lite.config import PRESETS
from deepeyes_lite.models import completion_length, ready
from deepeyes_lite.realworld.gpu import cache_gb, episode_tokens, weights_gb
from shapes import processor_of


def test_the_figures_it_tells_are_the_presets():
    config = PRESETS["24GB"]
    processor = ready(processor_of(config.model), config.max_pixels)
    room = completion_length(processor, config.max_calls, config.max_new_tokens)
    assert f"{room:,} tokens" in single_gpu.room.praise
    assert episode_tokens(config) == single_gpu.memory.cases[0][2]
    assert episode_tokens(PRESETS["80GB"]) == single_gpu.memory.cases[1][2]
    assert f"{weights_gb(config):.1f} GB of weights" in single_gpu.memory.praise
    assert f"{cache_gb(config):.1f} GB of cache" in single_gpu.memory.praise
    share = trajectories.misread_share
    kept = [kind for kind in share.cases[0][0] if kind not in trajectories.WITHOUT]
    assert share.praise.startswith(f"{kept.count('misread')} of {len(kept)}")


def test_other_right_ways_pass():
    def as_tuples(options, seed):
        shuffled, letter = evaluation.mixed()(options, seed)
        return tuple(shuffled), letter

    for exercise, attempt in [
        (evaluation.shuffle, as_tuples),
        (evaluation.paired, lambda a, b: (np.mean(b - a), np.std(b - a) / math.sqrt(len(a)))),
        (own_tool.draw, lambda sample, rng: random.choice(own_tool.TOOLS)),
    ]:
        assert exercise.judge(attempt) == ("ok", exercise.praise)
