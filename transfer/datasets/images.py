"""One image file → 8-bit RGB, or an error that names it.

Only the formats below are tried, and none that runs another program (EPS would start Ghostscript). Embedded colour
profiles are not applied, as in torchvision's ImageFolder. Unlike there, the EXIF orientation is: a photograph taken
upright is seen upright, as Detectron2 and MMDetection show it to the tasks that follow.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from transfer.errors import DataError

# Of the names that are taken for images, in lower case: torchvision.datasets.folder.IMG_EXTENSIONS (without its import,
# which takes seconds in every worker that is spawned).
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
# What Pillow raises on damaged files: besides OSError, whatever its parsers stumble over.
FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, EOFError,
    RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF 2.32, tag Orientation


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden ones (a leading dot, as macOS leaves them) are not."""
    base = name.rpartition("/")[2]
    return base.lower().endswith(ENDINGS) and not base.startswith(".")


def read_image(file: Path | bytes, name: str) -> Image.Image:
    """The image as 8-bit RGB, upright.

    Grey, 1-bit, palette, CMYK and YCCK are converted as Pillow's convert("RGB") does: alpha and transparent colours are
    dropped (what lies under a transparent pixel becomes visible), CMYK without a profile. Of 16-bit grey the upper byte
    is kept, as Pillow does for 16-bit colour; convert("RGB") would clip it to white. Of several frames it is the first.
    An EXIF block that cannot be read counts as none.

    Args:
        file: where it lies, or its contents.
        name: for the message.

    Raises:
        DataError: not a whole image, of a format or pixel type that has no 8-bit RGB, or with more than
            2 · Image.MAX_IMAGE_PIXELS pixels.
    """
    try:
        data = file if isinstance(file, bytes) else file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise _unreadable(name, str(error)) from error
    if not data:
        raise _unreadable(name, "an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return _upright(_eight_bits(image, name), _orientation(image))
    except UnidentifiedImageError as error:
        found = f"none of the formats {', '.join(FORMATS)}, or a damaged header; it begins with {data[:16]!r}"
        raise _unreadable(name, found) from error
    except FAULTS as error:
        raise _unreadable(name, str(error) or type(error).__name__) from error


def _unreadable(name: str, found: str) -> DataError:
    return DataError(f"cannot read the image {name}", found=found, todo="replace it or take it out of the set")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    # Transparency is dropped with the alpha channel; left here, Pillow would warn of it for every palette image.
    image.info.pop("transparency", None)
    if image.mode != "I" and not image.mode.startswith("I;16"):
        if image.mode == "F":
            raise _unreadable(name, "floating-point pixels, which have no range that would map to 0…255")
        return image.convert("RGB")
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 0xFFFF:
        raise _unreadable(name, f"pixels from {low} to {high}, beyond 16 bits without sign")
    return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    """EXIF orientation, 1 to 8; Pillow has already turned a TIFF upright and taken the tag away."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except FAULTS:
        return None
    return value if isinstance(value, int) else None


def _upright(image: Image.Image, orientation: int | None) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
