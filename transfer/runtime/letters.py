"""Names in pictures: letters of any script, or their code points where the font has none.

The font is DejaVu Sans, which matplotlib ships and draws with: Latin, Greek, Cyrillic, Arabic, Hebrew and more, but
no Chinese, Japanese or Korean and few emoji. What it lacks would be an empty box, in which two classes look alike;
instead 猫 is written [U+732B], and the log says so once.
"""

from __future__ import annotations

import itertools
import logging
import unicodedata
from functools import cache
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font for Pillow; `size` in pixels."""
    return ImageFont.truetype(_file(), size)


def drawable(text: str) -> str:
    """`text` in one line, every run of letters that the font lacks and of control characters as [U+732B U+72AC]."""
    letters = _letters()
    parts = []
    for known, run in itertools.groupby(text, lambda letter: _is_known(letter, letters)):
        part = "".join(run)
        if not known:
            _say_once()
            part = f"[{' '.join(f'U+{ord(letter):04X}' for letter in part)}]"
        parts.append(part)
    return "".join(parts)


def plottable(text: str) -> str:
    """`drawable` for matplotlib, which takes what is between two $ for a formula and leaves _names out of legends."""
    return f"{' ' if text.startswith('_') else ''}{drawable(text)}".replace("$", r"\$")


def _is_known(letter: str, letters: frozenset[int]) -> bool:
    return ord(letter) in letters and unicodedata.category(letter) != "Cc"


def _file() -> Path:
    from matplotlib import get_data_path  # half a second, which commands that draw nothing need not wait for

    return Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _letters() -> frozenset[int]:
    """The code points that the font has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_file())).get_charmap())


@cache
def _say_once() -> None:
    logger.warning(
        "the font of the pictures (DejaVu Sans) lacks some letters of these names; "
        "they are written as their code points in Unicode, for example [U+732B]"
    )
