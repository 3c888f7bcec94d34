"""What the policy does on the same six scenes, every few steps of its training.

Curves say that a policy got better; these episodes show at what. They change nothing in the run: the
generators of random numbers, the weights and the mode of the model are as they were afterwards.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback

from deepeyes_lite.data import load
from deepeyes_lite.files import atomic_write
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rewards import WITHOUT_TOOL
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.trajectories import Trajectory, read_jsonl, write_jsonl
from deepeyes_lite.viz import html

SCENES = 6
EVERY = 5  # steps


class Snapshots(TrainerCallback):
    """Rolls out the policy before the first step, every ``EVERY`` steps and after the last.

    Leaves ``0000.jsonl``, ``0005.jsonl``, … in a folder: each is complete, and a run that goes on after a
    kill writes the same ones again. The processor is the one that the trainer hands to its callbacks.
    """

    def __init__(
        self, samples: Dataset, folder: str | Path, tools: bool = True, max_new_tokens: int = 0
    ):
        """A callback for a trainer that need not exist yet.

        Args:
            samples: the scenes, a data set in our schema.
            folder: where the episodes go.
            tools: whether prompts offer the tool.
            max_new_tokens: tokens of a turn, as many as the run allows; 0 for the family's.
        """
        self.samples, self.folder, self.tools = samples, Path(folder), tools
        self.max_new_tokens = max_new_tokens or None

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        if state.global_step == 0:
            self._record(state, model, processing_class)

    def on_step_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        if state.global_step % EVERY == 0 or state.global_step == state.max_steps:
            self._record(state, model, processing_class)

    def _record(self, state, model, processor) -> None:
        if not state.is_world_process_zero:
            return
        training = model.training
        with torch.random.fork_rng():
            policy = LocalPolicy(model, processor, self.tools, max_new_tokens=self.max_new_tokens)
            # The same draws at every step, so that what differs is the policy.
            tool = "on" if self.tools else "off"
            episodes = rollout(self.samples, policy, tool=tool, seed=0, progress=False)
        model.train(training)
        with atomic_write(self.folder / f"{state.global_step:04}.jsonl") as tmp:
            write_jsonl(episodes, tmp)


def snapshots_of(config, out: str | Path) -> Snapshots:
    """The callback for a run: its scenes, its prompts and its turns, into its folder.

    Args:
        config: the run's ``RunConfig``.
        out: the run's folder.
    """
    tools = config.reward not in WITHOUT_TOOL
    return Snapshots(scenes(config), Path(out) / "snapshots", tools, config.max_new_tokens)


def scenes(config) -> Dataset:
    """The six scenes of a run: validation scenes of its world, or the first of its own data set.

    Args:
        config: the run's ``RunConfig``, or what its ``config.json`` holds.
    """
    config = config if isinstance(config, dict) else asdict(config)
    if config["data"]:
        dataset = load(config["data"])
        return dataset.select(range(min(SCENES, len(dataset))))
    return tiny_world("validation", SCENES, World(legible_share=config["legible_share"]))


def read_snapshots(
    folder: str | Path, images: dict[str, Image.Image] | None = None
) -> dict[int, list[Trajectory]]:
    """The episodes of a run by step; empty if the run recorded none.

    Args:
        folder: ``snapshots`` of a run.
        images: as for `read_jsonl`.
    """
    paths = sorted(Path(folder).glob("*.jsonl"))
    return {int(path.stem): [*map(html.checked, read_jsonl(path, images))] for path in paths}


def read_run(folder: str | Path) -> tuple[list[dict], dict[int, list[Trajectory]]]:
    """The history of a run, and its snapshots with their images by step.

    Args:
        folder: of a run or of its record; it needs ``config.json`` and ``history.csv``.

    Raises:
        FileNotFoundError: if one of the two is missing.
        ValueError: if the history holds no step yet.
    """
    from deepeyes_lite.training import read_history  # needs trl, and a callback does not

    folder = Path(folder)
    for name in ("config.json", "history.csv"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"no {name} in {folder}; start a run with `train --out {folder}`"
            )
    history = read_history(folder / "history.csv")
    if not history:
        raise ValueError(f"{folder / 'history.csv'} has no steps yet")
    if not (folder / "snapshots").exists():
        return history, {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    images = {row["id"]: row["image"] for row in scenes(config)}
    return history, read_snapshots(folder / "snapshots", images)
