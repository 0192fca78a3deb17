"""The one way from an image file to pixels, for every task and every picture that is drawn.

What is decided here, and where the engines' own loaders do otherwise:

- The EXIF orientation is applied: a photograph taken upright is seen upright. So do mmcv (OpenCV; of PNG, WebP and TIFF
  not in every release) and Detectron2's `read_image` (which turns a TIFF twice); torchvision's ImageFolder does not.
  Annotations drawn on the pixels as they are stored turn with the picture (`transfer/datasets/boxes/orientation.py`);
  neither engine does that.
- Of 16-bit grey the upper byte is kept, as mmcv does; Pillow's convert("RGB"), and with it Detectron2, clips to white.
- Alpha and transparent colours are dropped, as Detectron2 and mmcv do; OpenCV multiplies those of a TIFF with it.
- CMYK is converted by Pillow's plain formula, as in Detectron2; OpenCV's, and with it mmcv's, differs by rounding.
- Of several frames it is the first.
- Embedded colour profiles are not applied; none of these loaders does.
- A file that ends early is refused; older releases of OpenCV fill what is missing of a JPEG with grey and warn.

Only the formats below are tried, and none that runs another program (EPS would start Ghostscript).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from transfer.runtime.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

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
SIDES_SWAP = (5, 6, 7, 8)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden ones (a leading dot, as macOS leaves them) are not."""
    base = name.rpartition("/")[2]
    return base.lower().endswith(ENDINGS) and not base.startswith(".")


@dataclass(frozen=True)
class Header:
    """What a file's header says.

    Attributes:
        width, height: pixels of the picture as seen, which is what `read_image` gives.
        orientation: EXIF's, 1 to 8; 1 where there is none.
        deep: 16-bit grey, of which `read_image` keeps the upper byte.
    """

    width: int
    height: int
    orientation: int
    deep: bool

    @property
    def seen(self) -> tuple[int, int]:
        """(width, height) of the picture as seen."""
        return self.width, self.height

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) of the pixels as stored."""
        return (self.height, self.width) if self.orientation in SIDES_SWAP else self.seen


def read_header(path: Path) -> Header:
    """Size and orientation; nothing is decoded, but for PNG files with EXIF or XMP behind their pixels.

    Raises:
        DataError: no image can be read there.
    """
    with _faults(str(path)), Image.open(path, formats=FORMATS) as image:
        deep = _is_deep(image)
        if image.format == "PNG" and _metadata_after_pixels(path):
            image.load()
        # Of a TIFF Pillow already gives the size as seen (from 11.2 on); its tags have the stored one.
        width, height = (image.tag_v2[256], image.tag_v2[257]) if hasattr(image, "tag_v2") else image.size
        orientation = _orientation(image)
    if orientation in SIDES_SWAP:
        width, height = height, width
    return Header(width, height, orientation, deep)


def decode(file: Path | bytes, name: str) -> tuple[Image.Image, int]:
    """The first frame in its own mode, upright, and the EXIF orientation by which it was turned (1: not at all).

    Args:
        file: where it lies, or its contents.
        name: for the message.

    Raises:
        DataError: not a whole image, or with more than 2 · Image.MAX_IMAGE_PIXELS pixels.
    """
    with _faults(name):
        data = file if isinstance(file, bytes) else file.read_bytes()
        if not data:
            raise _unreadable(name, "an empty file")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                # Loading turns a TIFF upright and takes its tag away; of a PNG it finds what stands behind the pixels.
                before = _orientation(image) if image.format == "TIFF" else 1
                image.load()
                after = _orientation(image)
                return _upright(image, after), before if before != 1 else after
        except UnidentifiedImageError as error:
            raise _unidentified(name, data[:16]) from error


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
    image, _ = decode(file, name)
    with _faults(name):
        return _eight_bits(image, name)


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Whatever Pillow raises on a damaged file becomes one error that names it."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise _unidentified(name, _beginning(Path(name))) from error
    except FAULTS as error:
        raise _unreadable(name, str(error) or type(error).__name__) from error


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _unidentified(name: str, beginning: bytes) -> DataError:
    if not beginning:
        return _unreadable(name, "an empty file")
    formats = ", ".join(FORMATS)
    return _unreadable(name, f"none of the formats {formats}, or a damaged header; it begins with {beginning!r}")


def _unreadable(name: str, found: str) -> DataError:
    return DataError(f"cannot read the image {name}", found=found, todo="replace it or take it out of the set")


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    # Transparency is dropped with the alpha channel; left here, Pillow would warn of it for every palette image.
    image.info.pop("transparency", None)
    if not _is_deep(image):
        if image.mode == "F":
            raise _unreadable(name, "floating-point pixels, which have no range that would map to 0…255")
        return image.convert("RGB")
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 0xFFFF:
        raise _unreadable(name, f"pixels from {low} to {high}, beyond 16 bits without sign")
    return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or another value.

    The base class's `getexif`: that of PNG files decodes the whole picture first if none stands in front of it.
    """
    try:
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except FAULTS:
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def _metadata_after_pixels(path: Path) -> bool:
    """Whether a PNG has EXIF or text (XMP) chunks behind its first IDAT; from its chunks' heads alone."""
    behind = False
    with open(path, "rb", buffering=0) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            behind = behind or kind == b"IDAT"
            file.seek(length + 4, 1)
    return False


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation != 1 else image


def as_tensor(image: Image.Image) -> Tensor:
    """RGB image → uint8 [3, height, width]."""
    import torch  # what only looks at images starts without it

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
