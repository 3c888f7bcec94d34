"""A short run whose rollouts do not depend on the number of processes: ``two_processes.py CONFIG OUT``.

Sampling differs from process to process, so here the likeliest tokens are taken, and the rollouts of a
group differ in where they are cut off.
"""

import json
import os
import sys

import torch.distributed as dist

from deepeyes_lite import training
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import RunConfig, ZoomTrainer, train
from killed_run import varied

_turn, _sampling = ZoomTrainer._generate_single_turn, training.sampling


def turn(self, *args, has_tool_images=False, **kwargs):
    ids, logprobs = _turn(self, *args, has_tool_images=has_tool_images, **kwargs)
    if not has_tool_images:
        group = self.num_generations
        ids = [row[: max(1, len(row) - i % group)] for i, row in enumerate(ids)]
    return ids, logprobs


if __name__ == "__main__":
    ZoomTrainer._generate_single_turn = turn
    training.sampling = lambda *args: {**_sampling(*args), "do_sample": False}
    config = RunConfig(**json.loads(sys.argv[1]))
    train(config, sys.argv[2], training_questions(config), rewards={varied: 1.0})
    world = dist.get_world_size() if dist.is_initialized() else 1
    print(f"process {os.environ.get('RANK', 0)} of {world}", flush=True)
