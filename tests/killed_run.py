"""A training run in a process of its own, to be killed: ``killed_run.py CONFIG OUT``."""

import json
import sys

from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import RunConfig, train


def varied(outcomes, completion_ids, **_):
    """Random weights never answer, and equal rewards teach nothing: score the tokens as well."""
    return [float(sum(ids) % 7) for ids in completion_ids]


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    rewards = {varied: 1.0} if config.pop("varied") else {}
    config = RunConfig(**config)
    train(config, sys.argv[2], training_questions(config), rewards=rewards)
