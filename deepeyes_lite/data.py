"""Samples in one schema, whatever their source.

A sample is an image, a question and its answer; where they are known also the target boxes. The
columns are always those of ``FEATURES``, so that everything downstream knows one kind of dataset.
"""

import io
import json
import reprlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from datasets import Image as ImageFeature
from datasets.arrow_writer import ArrowWriter
from PIL import ExifTags, Image, ImageOps

from deepeyes_lite.boxes import Size

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
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow hands EPS to Ghostscript
MAX_FILE_BYTES = 256_000_000
MAX_PIXELS = 64_000_000
MIN_SIDE = 28  # px; Qwen-VL processors refuse an image with a smaller side,
MAX_ASPECT = 200  # and one that is more than this many times longer than wide
ROWS_AT_ONCE = 8  # a column of bytes ends at 2 GB, and a file of an image at 256 MB


class BadRow(ValueError):
    """A row or an image that cannot be used; the message says why, in one sentence."""


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


class CheckedImage(ImageFeature):
    """The column ``image`` of a data set from disk: its images come in through `read_image`."""

    def decode_example(self, value: dict, token_per_repo_id=None) -> Image.Image:
        return read_image(value["bytes"])[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageFeature)  # the same column, whoever decodes it


def load(folder: str | Path) -> Dataset:
    """A dataset that the command `data` or `select` wrote; its folder may be somebody else's.

    Raises:
        FileNotFoundError: if the folder holds no dataset.
        ValueError: if it is not in our schema, or wants files or images from outside the folder.
        BadRow: later, for an image that `read_image` refuses.
    """
    root = Path(folder).resolve()
    state = root / "state.json"
    parts = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    for part in parts.get("_data_files", []):
        if not (root / part["filename"]).resolve().is_relative_to(root):
            raise ValueError(f"{folder}: its part {part['filename']!r} lies outside the folder")
    dataset = load_from_disk(str(folder))
    for name in DEFAULTS.keys() - set(dataset.column_names):  # of a version that had fewer columns
        values = [DEFAULTS[name]] * len(dataset)
        dataset = dataset.add_column(name, values, feature=FEATURES[name])
    if missing := set(FEATURES) - set(dataset.column_names):
        raise ValueError(f"{folder} lacks the columns {sorted(missing)}; make it with `data`")
    images = dataset.data.column("image")
    if paths := sum(part.field("bytes").null_count for part in images.chunks):
        raise ValueError(
            f"{folder}: {paths} images are not in the data set, only named by a path, and no path is "
            "followed; make it with `data`, or name your pictures with --folder"
        )
    return dataset.cast_column("image", CheckedImage())


def read_image(source: str | Path | bytes, name: str = "") -> tuple[Image.Image, bytes, Size]:
    """An image from outside, checked: the one door for every picture that was not drawn here.

    Args:
        source: a file, or the bytes of one.
        name: what a message calls it; without a name, that of the file.

    Returns:
        The image, upright and in RGB, white below transparent parts, sides under 28 px enlarged; its
        bytes for a dataset, which are the file's own if nothing had to change, because a photo takes
        many times the memory as PNG; and the size of the upright original, in px, for its boxes.

    Raises:
        BadRow: for what is no regular file, is damaged or too large, or is in none of ``FORMATS``.
    """
    from_file = not isinstance(source, bytes)
    name = reprlib.repr(name or (Path(source).name if from_file else "image"))
    try:
        if from_file:
            if not Path(source).is_file():  # a pipe or a device would be read for ever
                raise BadRow(f"{name} is no regular file")
            with open(source, "rb") as file:
                source = file.read(MAX_FILE_BYTES + 1)
        if len(source) > MAX_FILE_BYTES:
            raise BadRow(f"{name} is larger than {MAX_FILE_BYTES // 10**6} MB; reduce it")
        image = Image.open(io.BytesIO(source), formats=FORMATS)
        width, height = size = image.size  # from the header; no pixel is decoded yet
        if (
            width * height > MAX_PIXELS
            or max(size) > MAX_ASPECT * min(size)
            or image.mode in ("I", "F")  # 32 bits, whose range nobody knows
        ):
            raise BadRow(
                f"{name} has {width} x {height} px of mode {image.mode}; an image has 8 bits a channel, at "
                f"most {MAX_PIXELS // 10**6} million pixels, and no side over {MAX_ASPECT} times the other"
            )
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image = ImageOps.exif_transpose(image) if turned else image
    except BadRow:
        raise
    except Exception:  # on a broken file Pillow's readers raise whatever they stumble over
        raise BadRow(f"{name} is damaged, too large, or no image ({', '.join(FORMATS)})") from None
    size = image.size
    if image.mode.startswith("I;16"):  # convert would clip at 255
        values, hidden = np.asarray(image), image.info.get("transparency", -1)
        used = int(values.max()).bit_length()  # of a camera's 12 bits in a file of 16
        bits = next(bits for bits in (8, 10, 12, 14, 16) if bits >= used)
        grey = np.where(values == hidden, 255, values >> (bits - 8))
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.mode == "RGB" and _bits(image, source) == 16:
        # Pillow has read the upper half of each.
        if 0 < max(high for _, high in image.getextrema()) < 16:
            raise BadRow(f"{name} holds 12 bits in a file of 16; save it with 8 bits a channel")
        if hidden := image.info.get("transparency"):
            image.info["transparency"] = tuple(value >> 8 for value in hidden)
    if image.has_transparency_data:  # what lies under full transparency is often black
        image = Image.alpha_composite(Image.new("RGBA", size, "white"), image.convert("RGBA"))
    if image.mode == "RGB" and not turned and min(size) >= MIN_SIDE:
        return image, source, size
    scale = max(1, MIN_SIDE / min(size))
    image = image.convert("RGB").resize([max(MIN_SIDE, round(side * scale)) for side in size])
    image.info.clear()  # a colour profile of the old mode is wrong for the new one
    return image, encode(image, "PNG"), size


def _bits(image: Image.Image, source: bytes) -> int:
    """Bits a channel in the file of an image, where that may be 16; else 8."""
    if image.format == "PNG":
        return source[24]
    return max(image.tag_v2.get(258, (8,))) if image.format == "TIFF" else 8


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
