"""Sizes of image files out of their headers, nothing decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from transfer.errors import DataError

READERS = 8  # threads: they hide the latency of network disks; parsing itself is serial


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the stored pixels: boxes are drawn on those, and no engine here turns them by EXIF.

    Raises:
        DataError: no image can be read there.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the image {path}", found=str(error), todo="replace this file") from error


def other_sizes(files: Sequence[tuple[Path, int, int]]) -> list[str]:
    """One line for each (path, width, height) whose file has another size.

    Raises:
        DataError: no image can be read there.
    """
    shares = [files[start::READERS] for start in range(READERS)]
    with ThreadPoolExecutor(READERS) as pool:
        return sorted(line for lines in pool.map(_other_sizes, shares) for line in lines)


def _other_sizes(files: Iterable[tuple[Path, int, int]]) -> list[str]:
    sizes = ((path, image_size(path), (width, height)) for path, width, height in files)
    return [f"{path.name}: {f[0]} × {f[1]}, annotated {a[0]} × {a[1]}" for path, f, a in sizes if f != a]
