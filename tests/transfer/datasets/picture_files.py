"""One small picture in every pixel type and EXIF orientation, each file with the pixels that it is to be read as.

What is expected comes from the arrays that the files are made of; of lossy files from Pillow's own decoding of the same
file without EXIF.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numbered_pictures import stored_pixels
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 24, 16  # of every picture as seen
UNDONE_BY = {6: 8, 8: 6}  # every other orientation undoes itself

_noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
COLOUR, ALPHA = np.ascontiguousarray(_noise[..., :3]), np.ascontiguousarray(_noise[..., 3])
GREY = np.ascontiguousarray(COLOUR[..., 0])
DEEP = GREY.astype(np.uint16) << 8 | ALPHA  # 16 bits, whose upper byte is GREY
PALETTE = np.random.default_rng(1).integers(0, 256, (8, 3), dtype=np.uint8)
INDICES = GREY % 8


def threefold(grey: NDArray[Any]) -> Pixels:
    """[height, width] → [height, width, 3]."""
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file in the format `kind`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(depth: int, colour_type: int, rows: NDArray[Any], *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG chunk by chunk, its rows unfiltered: Pillow writes no 16-bit colour and no tRNS of every kind."""
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour_type, 0, 0, 0)
    raw = b"".join(
        b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in rows
    )  # [height, width] or [height, width, channels]
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def turned(pixels: NDArray[Any], orientation: int) -> Pixels:
    """[height, width, 3] as seen → as stored."""
    return np.stack([stored_pixels(pixels[..., channel], orientation) for channel in range(3)], axis=2)


def from_ink(inks: NDArray[np.uint8]) -> Pixels:
    """Paper reflects what neither the ink nor the black takes: (255 − ink) · (255 − black) / 255, rounded."""
    inks = inks.astype(np.int64)
    black = 255 - inks[..., 3:]
    return (black - np.rint(inks[..., :3] * black / 255)).astype(np.uint8)


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Pillow's own pixels, in the file's own mode."""
    return np.asarray(Image.open(io.BytesIO(data)))


def _kinds() -> dict[str, tuple[bytes, Pixels]]:
    grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
    palette = Image.fromarray(INDICES, "P")
    palette.putpalette(PALETTE.reshape(-1).tolist())
    with_alpha = Image.fromarray(_noise, "RGBA")
    inks = Image.fromarray(_noise, "CMYK")
    cmyk_jpeg, jpeg, grey_jpeg = encoded(inks, "JPEG"), encoded(colour, "JPEG"), encoded(grey, "JPEG")
    other = Image.fromarray(255 - COLOUR)
    frames: dict[str, Any] = {"save_all": True, "append_images": [other]}
    indexed, animated = PALETTE[INDICES], encoded(palette, "GIF", save_all=True, append_images=[other.quantize(8)])
    deep_colour = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=2)
    deep_alpha = np.concatenate([deep_colour, DEEP[..., None]], axis=2)
    upper = (deep_colour >> 8).astype(np.uint8)
    return {
        "grey PNG": (encoded(grey, "PNG"), threefold(GREY)),
        "grey JPEG": (grey_jpeg, threefold(decoded(grey_jpeg))),
        "grey with a transparent value": (png(8, 0, GREY, (b"tRNS", b"\0\7")), threefold(GREY)),
        "grey with alpha": (png(8, 4, _noise[..., [0, 3]]), threefold(GREY)),
        "1 bit": (encoded(Image.fromarray(GREY > 127), "PNG"), threefold(255 * (GREY > 127))),
        "1 bit TIFF": (
            encoded(Image.fromarray(GREY > 127), "TIFF", compression="group4"),
            threefold(255 * (GREY > 127)),
        ),
        "palette": (encoded(palette, "PNG"), indexed),
        "palette BMP": (encoded(palette, "BMP"), indexed),
        "palette with a transparent colour": (encoded(palette, "PNG", transparency=3), indexed),
        "palette with alpha": (encoded(palette, "PNG", transparency=bytes(range(0, 240, 30))), indexed),
        "colour": (encoded(colour, "PNG"), COLOUR),
        "colour JPEG": (jpeg, decoded(jpeg)),
        "colour with a transparent one": (png(8, 2, COLOUR, (b"tRNS", b"\0\1\0\2\0\3")), COLOUR),
        "colour with alpha": (encoded(with_alpha, "PNG"), COLOUR),
        "colour with alpha WebP": (encoded(with_alpha, "WEBP", lossless=True, exact=True), COLOUR),
        "colour with alpha TIFF": (encoded(with_alpha, "TIFF"), COLOUR),
        "CMYK TIFF": (encoded(inks, "TIFF"), from_ink(_noise)),
        "CMYK JPEG": (cmyk_jpeg, from_ink(decoded(cmyk_jpeg))),
        "16-bit grey": (encoded(Image.fromarray(DEEP), "PNG"), threefold(GREY)),
        "16-bit grey TIFF": (encoded(Image.fromarray(DEEP), "TIFF"), threefold(GREY)),
        "16-bit grey PGM": (b"P5 24 16 65535\n" + DEEP.astype(">u2").tobytes(), threefold(GREY)),
        "16-bit grey with a transparent value": (png(16, 0, DEEP, (b"tRNS", b"\0\7")), threefold(GREY)),
        "16-bit colour": (png(16, 2, deep_colour), upper),
        "16-bit colour with alpha": (png(16, 6, deep_alpha), upper),
        "animated GIF": (animated, indexed),
        "animated WebP": (encoded(colour, "WEBP", lossless=True, **frames), COLOUR),
        "animated PNG": (encoded(colour, "PNG", **frames), COLOUR),
        "two pages": (encoded(colour, "TIFF", **frames), COLOUR),
    }


def _orientations() -> dict[str, tuple[bytes, Pixels]]:
    found = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(turned(COLOUR, orientation))
        deep = Image.fromarray(stored_pixels(DEEP, orientation))
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
            found[f"{kind} orientation {orientation}"] = (encoded(stored, kind, exif=exif, **options), COLOUR)
        found[f"16-bit orientation {orientation}"] = (encoded(deep, "PNG", exif=exif), threefold(GREY))
        plain = decoded(encoded(stored, "JPEG"))
        seen = turned(plain, UNDONE_BY.get(orientation, orientation))
        found[f"JPEG orientation {orientation}"] = (encoded(stored, "JPEG", exif=exif), seen)
    return found


def _refused() -> dict[str, tuple[bytes, str]]:
    """Files, and how what is said of them begins, in Pillow's words."""
    colour = Image.fromarray(COLOUR)
    found = {}
    for kind, words in TRUNCATED.items():
        data = encoded(colour, kind)
        found[f"truncated {kind}"] = (data[: len(data) * 3 // 4], words)
    floats = encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF")
    return found | {"float TIFF": (floats, "floating-point pixels, which have no range that would map to 0…255")}


TRUNCATED = {
    "JPEG": "image file is truncated",
    "PNG": "image file is truncated",
    "TIFF": "image file is truncated",
    "WEBP": "could not create decoder object",
    "BMP": "image file is truncated",
    "GIF": "image file is truncated",
}
PICTURES = _kinds() | _orientations()
REFUSED = _refused()
