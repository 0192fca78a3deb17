"""Images of every kind become the expected 8-bit RGB; damaged ones an error that names them."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from transfer.datasets.images import ENDINGS, is_image_name, read_image
from transfer.runtime.errors import DataError

GREY = np.array([[0, 100, 255], [7, 8, 9]], dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(data, "x")
    assert image.mode == "RGB"
    return np.asarray(image)


def threefold(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def png(header: tuple[int, int, int, int], rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: (width, height, bit depth, colour type) and unfiltered rows with their filter bytes."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)),
        *extra,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_grey_and_one_bit() -> None:
    assert np.array_equal(pixels(encoded(Image.fromarray(GREY), "PNG")), threefold(GREY))
    bits = Image.fromarray(GREY > 50)
    assert bits.mode == "1"
    assert np.array_equal(pixels(encoded(bits, "PNG")), threefold(np.where(GREY > 50, 255, 0)))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped(mode: str) -> None:
    colours = np.arange(6 * len(mode), dtype=np.uint8).reshape(2, 3, len(mode)) * 9
    colours[..., -1] = [[0, 128, 255], [0, 0, 1]]
    expected = threefold(colours[..., 0]) if mode == "LA" else colours[..., :3]
    assert np.array_equal(pixels(encoded(Image.fromarray(colours, mode), "PNG")), expected)


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palette(transparency: int | bytes | None) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    options = {} if transparency is None else {"transparency": transparency}
    expected = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert pixels(encoded(image, "PNG", **options)).tolist() == expected


def test_sixteen_bits_keep_their_upper_byte() -> None:
    deep = np.array([[0, 255, 256], [0x8000, 0xABCD, 0xFFFF]], dtype=np.uint16)
    expected = threefold(np.array([[0, 0, 1], [0x80, 0xAB, 0xFF]], dtype=np.uint8))
    by_hand = png((3, 2, 16, 0), b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep))
    transparent = png((3, 2, 16, 0), b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep), (b"tRNS", b"\0\1"))
    pgm = b"P5 3 2 65535\n" + deep.astype(">u2").tobytes()
    for data in (
        by_hand,
        transparent,
        pgm,
        encoded(Image.fromarray(deep), "TIFF"),
        encoded(Image.fromarray(deep), "PNG"),
    ):
        assert np.array_equal(pixels(data), expected)


def test_sixteen_bit_grey_is_as_bright_as_sixteen_bit_colour() -> None:
    values = np.array([0, 300, 0xABCD, 0xFFFF], dtype=">u2")
    grey = pixels(png((4, 1, 16, 0), b"\0" + values.tobytes()))
    colour = pixels(png((4, 1, 16, 2), b"\0" + np.repeat(values, 3).tobytes()))
    assert np.array_equal(grey, colour)


@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_sixteen_bit_tiff_of_either_byte_order(order: bytes) -> None:
    end = "<" if order == b"II" else ">"
    tags = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 4)]
    entries = b"".join(struct.pack(f"{end}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    strip = struct.pack(f"{end}HH", 0x1234, 0xFEDC)
    data = order + struct.pack(f"{end}HI", 42, 12) + strip + struct.pack(f"{end}H", len(tags)) + entries + bytes(4)
    assert pixels(data)[..., 0].tolist() == [[0x12, 0xFE]]


@pytest.mark.parametrize("values", [[-1, 5], [0, 70_000]])
def test_beyond_sixteen_bits_is_refused(values: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")
    with pytest.raises(DataError, match="one") as caught:
        read_image(data, "one.tif")
    assert str(values[1]) in caught.value.found


def test_cmyk_jpeg_is_not_inverted() -> None:
    for ink, seen in [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((255, 255, 255, 0), 0)]:
        data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
        assert abs(pixels(data).astype(int) - seen).max() <= 3
    red = pixels(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red[..., 0].min() > 240
    assert red[..., 1:].max() < 15


def test_ycck_jpeg_is_not_inverted() -> None:
    """CMYK components saved as they are, then relabelled as YCCK (the Adobe marker's transform: 0 → 2).

    Adobe stores inks inverted and YCCK holds the inverse of that, so (Y, Cb, Cr) = (0, 128, 128) is no ink and Y = 255
    is full ink of C, M and Y; Pillow inverts what is saved here: 255 - 255, 255 - 127, 255 - 127.
    """
    for luma, black, seen in [(255, 128, 127), (255, 0, 255), (0, 0, 0), (155, 0, 155)]:
        stored = Image.merge("CMYK", [Image.new("L", (16, 16), level) for level in (luma, 127, 127, black)])
        data = bytearray(encoded(stored, "JPEG", quality=95))
        place = data.index(b"Adobe") + 11
        assert data[place] == 0
        data[place] = 2
        assert abs(pixels(bytes(data)).astype(int) - seen).max() <= 4


def test_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[0, 0].tolist() == [255, 0, 0], kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind: str, orientation: int) -> None:
    """Stored so that undoing the orientation gives `upright`; EXIF 2.32: where row 0 and column 0 are to be seen."""
    upright = np.kron(np.array([[255, 0, 0], [0, 128, 0]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    stored = {
        1: upright,  # row 0 top, column 0 left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.T,  # left, top
        6: np.rot90(upright, 1),  # right, top: to be turned clockwise
        7: np.rot90(upright, 2).T,  # right, bottom
        8: np.rot90(upright, -1),  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    seen = pixels(encoded(Image.fromarray(np.ascontiguousarray(threefold(stored))), kind, exif=exif, **options))
    assert seen.shape == (32, 48, 3)
    assert abs(seen[..., 0].astype(int) - upright).max() <= 4


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0"]
)
def test_broken_exif_counts_as_none(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = read_image(encoded(Image.fromarray(GREY), "JPEG", exif=exif), "x")
    assert image.size == (3, 2)


def test_draft_mode_is_not_used() -> None:
    """A JPEG is decoded in full, whatever the size that is wanted of it later."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(pixels(data), np.asarray(image.convert("RGB")))


def test_path_and_bytes_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    assert read_image(path, "a") == read_image(path.read_bytes(), "a")


REFUSED = {
    "empty": (b"", "empty"),
    "html": (b"<html>404</html>", "<html>404"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PS-Adobe"),
    "float": (encoded(Image.new("F", (2, 2)), "TIFF"), "floating"),
    "bomb": (png((60_000, 60_000, 8, 0), b""), "decompression bomb"),
    "cut": (encoded(Image.effect_noise((64, 64), 80), "JPEG")[:1000], "truncated"),
    "cut png": (encoded(Image.effect_noise((64, 64), 80), "PNG")[:1000], ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_image_and_the_reason(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(DataError, match=r"photos/a\.jpg") as caught:
        read_image(data, "photos/a.jpg")
    assert reason.lower() in caught.value.found.lower()
    assert caught.value.found


def test_a_missing_file_or_a_folder_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path, Path("a\0.png")):
        with pytest.raises(DataError, match="cannot read"):
            read_image(path, "x")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jpg", True), ("b/A.JPEG", True), ("a.tif", True), ("a.txt", False), ("jpg", False), ("b/._a.jpg", False)],
)
def test_image_names(name: str, expected: bool) -> None:
    assert is_image_name(name) is expected


def test_endings_are_torchvisions() -> None:
    assert set(ENDINGS) == set(IMG_EXTENSIONS)


def wholes() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM"]
    whole = {kind: encoded(noise, kind, **({} if kind in ("BMP", "PPM") else {"exif": exif})) for kind in kinds}
    whole["GIF"] = encoded(noise.quantize(16), "GIF", save_all=True, append_images=[noise.quantize(8)])
    whole["LZW"] = encoded(noise, "TIFF", compression="tiff_lzw")
    whole["JP2"] = encoded(noise, "JPEG2000")
    whole["DEEP"] = encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG")
    return whole


WHOLE = wholes()


def outcome(data: bytes) -> tuple[Image.Image | None, DataError | None]:
    try:
        return read_image(data, "some.jpg"), None
    except DataError as error:
        return None, error


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_damaged_file_is_an_image_or_an_error(kind: str, data: st.DataObject) -> None:
    broken = bytearray(WHOLE[kind])
    # Headers are where parsers stumble, so half of the changes fall there.
    places = st.one_of(st.integers(0, min(200, len(broken) - 1)), st.integers(0, len(broken) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        broken[place] = value
    broken = broken[: data.draw(st.one_of(st.just(len(broken)), st.integers(0, len(broken))))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image, error = outcome(bytes(broken))
    if error is not None:
        assert "some.jpg" in error.what
        assert error.found
    else:
        assert image is not None
        assert image.mode == "RGB"
        assert min(image.size) >= 1
