"""A training run in a process of its own, to be killed: ``killed_run.py CONFIG OUT``."""

import json
import sys

from deepeyes_lite.training import History, RunConfig, train

_real = History.reward


def varied_reward(self, completion_ids, **columns):
    """Random weights never answer, and equal rewards teach nothing: score the tokens instead."""
    _real(self, completion_ids, **columns)
    return [float(sum(ids) % 7) for ids in completion_ids]


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    if config.pop("varied"):
        History.reward = varied_reward
    train(RunConfig(**config), sys.argv[2])
