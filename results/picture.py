"""A picture of the report, taken by a headless Chromium, that says of which records it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from transfer.runtime.errors import UserError
from transfer.runtime.files import write_atomically

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEY = "records"  # of the text in the picture
COLOURS = 128


def found() -> str | None:
    """The browser, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def take(page: Path, out: Path, records: str, width: int = 1440, height: int = 900) -> None:
    """Write what a window of this size shows of `page` first, as a PNG of few colours.

    Args:
        page: the report.
        out: the picture.
        records: hash of the records that the report is of; `records_in` gives it back.
        width, height: in pixels.

    Raises:
        UserError: there is no Chromium here, or it takes no picture.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    program = found()
    if program is None:
        raise UserError(
            f"{out} is not renewed: there is no Chromium here", found="none of " + ", ".join(NAMES),
            todo="apt-get install chromium, then type the same command again",
        )  # fmt: skip
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        taken = Path(folder) / "page.png"
        command = [
            program, "--headless=new", "--hide-scrollbars", "--force-device-scale-factor=1", "--disable-gpu",
            f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={taken}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # root cannot have one
            page.resolve().as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, timeout=120)
        if not taken.is_file():
            raise UserError(f"{program} took no picture", found=done.stderr.strip()[-300:], todo="try it by hand")
        with Image.open(taken) as opened:
            picture = opened.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    said = PngInfo()
    said.add_text(KEY, records)
    write_atomically(out, lambda file: picture.save(file, "PNG", optimize=True, pnginfo=said))


def records_in(picture: Path) -> str:
    """The hash that `take` was given; "" if the picture names none."""
    from PIL import Image

    with Image.open(picture) as opened:
        opened.load()
        return str(opened.info.get(KEY, ""))
