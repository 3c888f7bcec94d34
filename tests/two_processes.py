"""A short run whose rollouts do not depend on the number of processes: ``two_processes.py CONFIG OUT``.

Sampling differs from process to process, so here the likeliest tokens are taken, and the rollouts of a
group differ in where they are cut off. Every second rollout of the first half of the prompts zooms: of two
processes one has episodes with two images and the other has none.
"""

import json
import os
import sys

import torch.distributed as dist

from deepeyes_lite import training
from deepeyes_lite.prompts import TURN_END, tool_call
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import RunConfig, ZoomTrainer, train
from killed_run import varied

_turn, _sampling = ZoomTrainer._generate_single_turn, training.sampling


def turn(self, *args, has_tool_images=False, **kwargs):
    ids, logprobs = _turn(self, *args, has_tool_images=has_tool_images, **kwargs)
    if not has_tool_images:
        group, tokenizer = self.num_generations, self.processing_class.tokenizer
        ids = [row[: max(1, len(row) - 2 - i % group)] for i, row in enumerate(ids)]
        first = self.accelerator.process_index * len(ids)
        for i in range(1, self.args.generation_batch_size // 2 - first, 2):
            call = tool_call({"bbox_2d": [10 * i, 100, 10 * i + 300, 400]}) + TURN_END
            ids[i] = tokenizer.encode(call, add_special_tokens=False)
    return ids, logprobs


if __name__ == "__main__":
    ZoomTrainer._generate_single_turn = turn
    training.sampling = lambda *args: {**_sampling(*args), "do_sample": False}
    config = RunConfig(**json.loads(sys.argv[1]))
    train(config, sys.argv[2], training_questions(config), rewards={varied: 1.0})
    world = dist.get_world_size() if dist.is_initialized() else 1
    print(f"process {os.environ.get('RANK', 0)} of {world}", flush=True)
