"""One image out of somebody else's file: bounded, upright, RGB.

No image is decoded before its size is known; what a processor would refuse later is refused or mended
here.
"""

import io
import reprlib
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from deepeyes_lite.boxes import Size
from deepeyes_lite.data import encode

# The formats that are safe to open: Pillow hands an EPS file, for one, to an external interpreter.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 256_000_000
MIN_SIDE = 28  # px; Qwen-VL processors refuse an image with a smaller side …
MAX_ASPECT = 200  # … and one that is longer than this many times its width
_TOO_LARGE = f"{{}} is larger than {MAX_FILE_BYTES // 10**6} MB; reduce it"


class BadImage(ValueError):
    """An image that cannot be used; the message says why and what to do."""


def read_image_file(path: Path) -> tuple[bytes, Size, Size]:
    """`read_image` of a file, which is not read if it is too large."""
    name = reprlib.repr(path.name)
    try:
        too_large = path.stat().st_size > MAX_FILE_BYTES
        data = b"" if too_large else path.read_bytes()
    except OSError as error:
        raise BadImage(f"{name} cannot be read: {error.strerror}") from None
    if too_large:
        raise BadImage(_TOO_LARGE.format(name))
    return read_image(data, path.name)


def read_photo(path: str | Path) -> Image.Image:
    """One picture of one's own, checked as those of a folder are: upright, RGB, whole.

    Raises:
        ValueError: with the reason, for a file that is no such picture.
    """
    if not Path(path).is_file():  # a pipe or a device would be read for ever
        raise ValueError(f"no file {reprlib.repr(str(path))}")
    data, *_ = read_image_file(Path(path))
    return Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")


def read_image(data: bytes, name: str) -> tuple[bytes, Size, Size]:
    """An image as it is stored.

    The file's own bytes are kept where they hold an upright RGB image, since photographs would take
    twenty times the memory uncompressed. Transparent parts become white, and sides under 28 px are
    enlarged.

    Args:
        data: an image file.
        name: what a message calls it.

    Returns:
        The encoded image, the size of the upright original, and the size as stored.

    Raises:
        BadImage: for a file that is damaged, too large or of a format that is not in ``FORMATS``.
    """
    name = reprlib.repr(name)
    if len(data) > MAX_FILE_BYTES:
        raise BadImage(_TOO_LARGE.format(name))
    too_many = f"over {MAX_PIXELS // 10**6} million pixels; reduce it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our bounds are lower, our messages are errors
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BadImage(f"{name} has {too_many}") from None
    except Exception:  # on a broken file Pillow's readers raise whatever they stumble over
        raise BadImage(f"{name} is not an image ({', '.join(FORMATS)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"{name} has {width} x {height} px, {too_many}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(
            f"{name} has {width} x {height} px; no side may be over {MAX_ASPECT} times the other"
        )
    if image.mode in ("I", "F"):
        raise BadImage(f"{name} has 32 bits a channel and no known range; save it with 8 bits")
    try:
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
    except Exception:
        raise BadImage(f"{name} is damaged or cut off; save it again") from None
    if image.mode == "RGB" and not turned and min(image.size) >= MIN_SIDE:
        return data, image.size, image.size
    stored = _enlarge(_to_rgb(upright))
    return encode(stored, "PNG"), upright.size, stored.size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data:  # what lies under full transparency is often black
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(rgba)
    image = image.convert("RGB")
    image.info.clear()  # a colour profile of the old mode is wrong for the new one
    return image


def _enlarge(image: Image.Image) -> Image.Image:
    scale = MIN_SIDE / min(image.size)
    if scale <= 1:
        return image
    return image.resize([max(MIN_SIDE, round(side * scale)) for side in image.size])
