"""Samples in one schema, whatever their source.

A sample is an image, a question and its answer; where they are known also the target boxes. The
columns are always those of ``FEATURES``, so that everything downstream knows one kind of dataset.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from datasets import Image as ImageFeature

FEATURES = Features(
    {
        "id": Value("string"),
        "image": ImageFeature(),
        "question": Value("string"),
        "answer": Value("string"),
        "boxes_px": List(List(Value("float64"), length=4)),  # empty where unknown
        "kind": Value("string"),
        "legible": Value("int8"),  # 1: the view shows the detail, 0: only a crop does, -1: unknown
        "source": Value("string"),
        "options": List(Value("string")),  # of multiple choice, in the order shown; else empty
        "verifier": Value("string"),  # how an answer is checked: a key of verifiers.VERIFIERS
    }
)
DEFAULTS = {"options": [], "verifier": "text"}
PART_BYTES = 128_000_000


def build(samples: Iterable[dict]) -> Dataset:
    """A dataset of samples with the columns of ``FEATURES``; those in ``DEFAULTS`` may be missing."""
    return concatenate_datasets(list(_parts(samples)))


def save(samples: Iterable[dict], out: str | Path) -> Dataset:
    """`build` on the disk, for sets that do not fit into memory: written part by part, all or nothing.

    Returns:
        The dataset, which stays on the disk; `load` opens it again.

    Raises:
        FileExistsError: if there is something at ``out`` already.
        ValueError: if there is no sample.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already; choose another folder or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=out.name) as folder:
        parts = []
        for i, part in enumerate(_parts(samples)):
            part.save_to_disk(f"{folder}/{i}")
            parts.append(load_from_disk(f"{folder}/{i}"))
        if not parts:
            raise ValueError("there is no usable row")
        concatenate_datasets(parts).save_to_disk(f"{folder}/all")
        os.replace(f"{folder}/all", out)
    return load_from_disk(out)


def load(folder: str | Path) -> Dataset:
    """A dataset that `save` or `select` wrote.

    Raises:
        FileNotFoundError: if the folder holds no dataset.
        ValueError: if it is not in our schema.
    """
    dataset = load_from_disk(str(folder))
    if missing := set(FEATURES) - set(dataset.column_names):
        raise ValueError(f"{folder} lacks the columns {sorted(missing)}; make it with `data`")
    return dataset


def _parts(samples: Iterable[dict]) -> Iterator[Dataset]:
    # An Arrow byte column ends at 2 GB, so it is built in parts.
    part, size = [], 0
    for sample in samples:
        whole = {**DEFAULTS, **sample}
        part.append({name: whole[name] for name in FEATURES})
        size += len(sample["image"]["bytes"])
        if size > PART_BYTES:
            yield Dataset.from_list(part, features=FEATURES)
            part, size = [], 0
    if part:
        yield Dataset.from_list(part, features=FEATURES)
