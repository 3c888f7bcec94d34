"""Data sets of the tiny world, in the schema of `data.py`: the same arguments give the same samples."""

import random
from dataclasses import replace

from datasets import Dataset

from deepeyes_lite.config import RunConfig
from deepeyes_lite.data import build, encode, load
from deepeyes_lite.tinyworld.questions import CORRUPTIONS, KINDS, NEEDS
from deepeyes_lite.tinyworld.scenes import SPLIT_LENGTH, SPLIT_STARTS, World, draw_scene


def tiny_world(
    split: str,
    n: int,
    world: World = World(),
    start: int = 0,
    kind: str = "read",
    corrupted: dict[str, float] | None = None,
) -> Dataset:
    """Draw ``n`` samples of the tiny world; the same arguments give the same samples.

    Args:
        split: a key of ``SPLIT_STARTS``.
        n: number of samples.
        world: the dials.
        start: index of the first scene in the split; sample i shows scene ``start + i``.
        kind: a key of ``KINDS``; the dials of ``NEEDS`` are turned for it.
        corrupted: shares of rows that are corrupted on purpose, by a key of ``CORRUPTIONS``, so that a
            filter has something to find; their ``source`` says so.

    Returns:
        A dataset of ``n`` rows with the columns of ``FEATURES``.

    Raises:
        ValueError: for an unknown split, kind or corruption, or scenes that the split does not have.

    >>> sample = tiny_world("test", 1)[0]
    >>> sample["id"], sample["image"].size, len(sample["boxes_px"])
    ('test-0', (384, 384), 1)
    """
    if split not in SPLIT_STARTS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLIT_STARTS)}")
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r} of question; there are {', '.join(KINDS)}")
    corrupted = corrupted or {}
    if unknown := set(corrupted) - set(CORRUPTIONS):
        raise ValueError(
            f"unknown corruption {unknown.pop()!r}; there are {', '.join(CORRUPTIONS)}"
        )
    if not all(share >= 0 for share in corrupted.values()) or sum(corrupted.values()) > 1:
        raise ValueError(
            f"shares of corrupted rows must be 0 or more and 1 in all, got {corrupted}"
        )
    if n < 1 or start < 0 or start + n > SPLIT_LENGTH:
        raise ValueError(
            f"scenes {start} to {start + n - 1} of {split!r} (n = {n}) do not exist; "
            f"n is at least 1 and indices go from 0 to {SPLIT_LENGTH - 1}"
        )

    world = replace(world, **NEEDS.get(kind, {}))

    def sample(index: int) -> dict:
        scene = draw_scene(split, index, world)
        question = KINDS[kind](scene, random.Random(f"question {split} {index}"))
        source, rng = "tiny-world", random.Random(f"spoil {split} {index}")
        how = rng.choices([*corrupted, None], [*corrupted.values(), 1 - sum(corrupted.values())])[0]
        if how:
            question, source = CORRUPTIONS[how](question, scene, rng), f"tiny-world, planted: {how}"
        return {
            "id": f"{split}-{index}",
            # Every rollout decodes its image, and a noisy PNG takes ten times as long to decode.
            "image": {"bytes": encode(scene.image, "BMP"), "path": None},
            "question": question.text,
            "answer": question.answer,
            "boxes_px": [list(box) for box in question.boxes_px],
            "kind": question.kind,
            "legible": int(question.legible),
            "source": source,
        }

    return build(sample(index) for index in range(start, start + n))


def held_out(n: int = 300, legible_share: float = 0.5, kind: str = "read") -> Dataset:
    """The held-out scenes: the same for every run and seed."""
    return tiny_world("test", n, World(legible_share=legible_share), kind=kind)


def training_questions(config: RunConfig) -> Dataset:
    """The questions of a run: the data set that it names, or fresh scenes for its seed."""
    if config.data:
        return load(config.data)
    n = min(config.steps * config.prompts_per_step, 1000)
    world = World(legible_share=config.legible_share)
    return tiny_world("train", n, world, start=config.seed * 1000)
