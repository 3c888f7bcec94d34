"""What the policy does on the same six scenes, every few steps of its training.

Curves say that a policy got better; these episodes show at what. They change nothing in the run: the
generators of random numbers, the weights and the mode of the model are as they were afterwards.
"""

from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from PIL import Image
from transformers import TrainerCallback

from deepeyes_lite.files import atomic_write
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.trajectories import Trajectory, read_jsonl, write_jsonl

SCENES = 6
EVERY = 5  # steps


def scenes(config: dict) -> Dataset:
    """The six scenes of a run: validation scenes of its world, or the first of its own data set.

    Args:
        config: what ``config.json`` of the run holds.
    """
    if config["data"]:
        dataset = load_from_disk(config["data"])
        return dataset.select(range(min(SCENES, len(dataset))))
    return tiny_world("validation", SCENES, World(legible_share=config["legible_share"]))


class Snapshots(TrainerCallback):
    """Rolls out the policy before the first step, every ``EVERY`` steps and after the last.

    Leaves ``0000.jsonl``, ``0005.jsonl``, … in a folder: each is whole, and a run that goes on after a
    kill writes the same ones again.
    """

    def __init__(self, samples: Dataset, processor, tools: bool, folder: Path, length: int = 0):
        """Args: the scenes; the model's processor; whether the arm offers the tool; the folder; as
        many tokens as the run allows a turn, 0 for the family's."""
        self.samples, self.processor, self.tools, self.folder = samples, processor, tools, folder
        self.length = length

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self._record(state, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % EVERY == 0 or state.global_step == state.max_steps:
            self._record(state, model)

    def _record(self, state, model) -> None:
        if not state.is_world_process_zero:
            return
        training = model.training
        with torch.random.fork_rng():
            policy = LocalPolicy(
                model, self.processor, self.tools, max_new_tokens=self.length or None
            )
            tool = "on" if self.tools else "off"
            # The same draws at every step, so that what differs is the policy.
            found = rollout(self.samples, policy, tool=tool, seed=0, progress=False)
        model.train(training)
        with atomic_write(self.folder / f"{state.global_step:04}.jsonl") as tmp:
            write_jsonl(found, tmp)


def read_snapshots(
    folder: str | Path, images: dict[str, Image.Image] | None = None
) -> dict[int, list[Trajectory]]:
    """The episodes of a run by step; empty if the run recorded none.

    Args:
        folder: ``snapshots`` of a run.
        images: as for `read_jsonl`.
    """
    paths = sorted(Path(folder).glob("*.jsonl"))
    return {int(path.stem): read_jsonl(path, images) for path in paths}
