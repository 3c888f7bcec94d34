"""Samples in one schema, whatever their source.

A sample is an image, a question and its answer; where they are known also the target boxes. The
columns are always those of ``FEATURES``, so that everything downstream knows one kind of dataset.
"""

import io
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from datasets import Image as ImageFeature
from datasets.arrow_writer import ArrowWriter
from PIL import Image

FEATURES = Features(
    {
        "id": Value("string"),
        "image": ImageFeature(),
        "question": Value("string"),
        "answer": Value("string"),
        "boxes_px": List(List(Value("float64"), length=4)),  # empty where unknown
        "kind": Value("string"),
        "legible": Value("int8"),  # 1: the view shows the detail, 0: only a crop does, -1: unknown
        "need": Value("int8"),  # least number of crops that show the details, -1: unknown
        "source": Value("string"),
        "options": List(Value("string")),  # of multiple choice, in the order shown; else empty
        "verifier": Value("string"),  # how an answer is checked: a key of verifiers.VERIFIERS
    }
)
DEFAULTS = {"need": -1, "options": [], "verifier": "text"}
ROWS_AT_ONCE = 8  # a column of bytes ends at 2 GB, and a file of an image at 256 MB


def build(samples: Iterable[dict], path: str | Path | None = None) -> Dataset:
    """A dataset of samples with the columns of ``FEATURES``.

    Args:
        samples: dicts with these columns; those in ``DEFAULTS`` may be missing, others are left out.
        path: an Arrow file to write, for samples that do not fit into memory; the dataset reads from
            it. Without it the dataset is in memory.
    """
    samples = ({**DEFAULTS, **sample} for sample in samples)
    rows = ({name: sample[name] for name in FEATURES} for sample in samples)
    if path is None:  # a few rows at a time: decoded and encoded images do not pile up
        batches = iter(lambda: list(islice(rows, ROWS_AT_ONCE)), [])
        parts = [Dataset.from_list(batch, features=FEATURES) for batch in batches]
        empty = Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
        return concatenate_datasets(parts or [empty])
    with ArrowWriter(path=str(path), features=FEATURES, writer_batch_size=ROWS_AT_ONCE) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    return Dataset.from_file(str(path))


def load(folder: str | Path) -> Dataset:
    """A dataset that the command `data` or `select` wrote.

    Raises:
        FileNotFoundError: if the folder holds no dataset.
        ValueError: if it is not in our schema.
    """
    dataset = load_from_disk(str(folder))
    for name in DEFAULTS.keys() - set(dataset.column_names):  # of a version that had fewer columns
        values = [DEFAULTS[name]] * len(dataset)
        dataset = dataset.add_column(name, values, feature=FEATURES[name])
    if missing := set(FEATURES) - set(dataset.column_names):
        raise ValueError(f"{folder} lacks the columns {sorted(missing)}; make it with `data`")
    return dataset


def encode(image: Image.Image, format: str) -> bytes:
    """An image as the bytes of a file, as the column ``image`` stores it.

    Args:
        image: any image that the format can hold.
        format: Pillow's name of the file format, "PNG" or "BMP".

    >>> encode(Image.new("RGB", (8, 8)), "PNG")[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()
