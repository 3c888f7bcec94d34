"""A short run whose rollouts do not depend on the number of processes: ``two_processes.py CONFIG OUT``.

Sampling differs from process to process, so here the likeliest tokens are taken, and the rollouts of a
group differ in where they are cut off.
"""

import json
import sys

from deepeyes_lite import training
from deepeyes_lite.fast import ZoomTrainer
from deepeyes_lite.training import History, RunConfig

_reward, _turn, _sampling = History.reward, ZoomTrainer._generate_single_turn, training.sampling


def reward(self, completion_ids, **columns):
    _reward(self, completion_ids, **columns)
    return [float(sum(ids) % 7) for ids in completion_ids]


def turn(self, *args, has_tool_images=False, **kwargs):
    ids, logprobs = _turn(self, *args, has_tool_images=has_tool_images, **kwargs)
    if not has_tool_images:
        group = self.num_generations
        ids = [row[: max(1, len(row) - i % group)] for i, row in enumerate(ids)]
    return ids, logprobs


if __name__ == "__main__":
    History.reward, ZoomTrainer._generate_single_turn = reward, turn
    training.sampling = lambda *args: {**_sampling(*args), "do_sample": False}
    training.precision = lambda: ("fp32", "a test")
    training.train(RunConfig(**json.loads(sys.argv[1])), sys.argv[2])
