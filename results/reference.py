"""Published numbers, each with the table it was read in. Shown apart from the project's own runs, never among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from results.layout import Block, Footnotes
from transfer.errors import UserError

FOLDER = Path(__file__).resolve().parent / "reference"


@dataclass(frozen=True)
class Published:
    """One CSV file of published numbers; files of different protocols are never joined.

    Attributes:
        file: in `results/reference`.
        title, protocol: what the numbers are.
        columns: column of the file → (heading, benchmark); a task shows a column if the last part of its name is the
            benchmark or begins with it and an underscore.
        words: columns of text, in the file's order.
    """

    file: str
    title: str
    protocol: str
    columns: dict[str, tuple[str, str]]
    words: tuple[str, ...]

    def read(self) -> pd.DataFrame:
        """The file as a frame: words as text, epochs as Int64, numbers in percent with NaN for "not published".

        Raises:
            UserError: other columns, a number outside 0–100, a row without method or source, or a repeated row.
        """
        path = FOLDER / self.file
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise _fault(path, str(error)) from error
        expected = {*self.words, *self.columns}
        if set(frame.columns) != expected:
            raise _fault(path, f"columns {', '.join(frame.columns)} instead of {', '.join(sorted(expected))}")
        for name in self.columns:
            written = frame[name]
            frame[name] = pd.to_numeric(written.where(written != ""), errors="coerce")
            bad = (written != "") & ~frame[name].between(0, 100)
            if bad.any():
                raise _fault(path, f"{name} is {written[bad].iloc[0]!r}, not a percentage")
        for name in ("method", "source"):
            if (frame[name].str.strip() == "").any():
                raise _fault(path, f"a row has no {name}")
        if "epochs" in self.words:
            frame["epochs"] = pd.to_numeric(frame["epochs"].where(frame["epochs"] != "")).astype("Int64")
        keys = [name for name in ("method", "epochs") if name in self.words]
        if frame.duplicated(keys).any():
            raise _fault(path, f"{frame[frame.duplicated(keys)]['method'].iloc[0]} stands there twice")
        return frame

    def block(self, tasks: Sequence[str] = ()) -> Block | None:
        """The table of the columns that belong to `tasks` (all if empty); None if none does."""
        shown = {name: heading for name, (heading, about) in self.columns.items() if _belongs(about, tasks)}
        if not shown:
            return None
        frame = self.read()
        frame = frame[frame[list(shown)].notna().any(axis=1)]
        footnotes, rows = Footnotes(), []
        for line in frame.to_dict("records"):
            marks = [footnotes.mark(f"Protocol: {line['protocol']}.")] if line.get("protocol") else []
            marks.append(footnotes.mark(f"Source: {line['source']}."))
            epochs = [_epochs(line["epochs"])] if "epochs" in self.words else []
            numbers = ["  –" if pd.isna(line[name]) else f"{line[name]:4.1f}" for name in shown]
            rows.append((line["method"], *epochs, *numbers, ", ".join(marks)))
        heading = ("method", *(["epochs"] if "epochs" in self.words else []), *shown.values(), "notes")
        return Block(f"Published: {self.title}", (self.protocol,), heading, tuple(rows), footnotes.items())


def _belongs(benchmark: str, tasks: Sequence[str]) -> bool:
    names = [task.rsplit(".", 1)[-1] for task in tasks]
    return not tasks or any(name == benchmark or name.startswith(benchmark + "_") for name in names)


def _epochs(value: object) -> str:
    return "–" if pd.isna(value) else str(value)


def _fault(path: Path, found: str) -> UserError:
    return UserError(
        f"{path} is not a table of published numbers",
        found=found,
        todo="compare it with the README beside it, or take the file back from git",
    )


_APS = ("AP", "AP50", "AP75")

PUBLISHED = (
    Published(
        "detection_c4.csv",
        "detection with R50-C4",
        "Percent, as published. VOC: Faster R-CNN R50-C4, trainval07+12, test2007, 24k iterations. "
        "COCO: Mask R-CNN R50-C4, 1x. Learning rates differ between sources: see the notes.",
        {f"voc_{ap}": (f"VOC {ap}", "voc") for ap in _APS}
        | {f"coco_box_{ap}": (f"COCO box {ap}", "coco") for ap in _APS}
        | {f"coco_mask_{ap}": (f"COCO mask {ap}", "coco") for ap in _APS},
        ("method", "protocol", "epochs", "source"),
    ),
    Published(
        "detection_fpn.csv",
        "detection in VICReg's table",
        "Percent, as published. VOC: Faster R-CNN R50-C4. COCO: Mask R-CNN R50-FPN, 1x; FPN numbers are not "
        "comparable with C4 numbers.",
        {
            "voc_AP50": ("VOC AP50 (C4)", "voc"),
            "coco_box_AP_fpn": ("COCO box AP (FPN)", "coco"),
            "coco_mask_AP_fpn": ("COCO mask AP (FPN)", "coco"),
        },
        ("method", "source"),
    ),
    Published(
        "imagenet.csv",
        "ImageNet",
        "Percent, as published. Linear: on frozen features. 1 % and 10 %: fine-tuned on SimCLR's splits.",
        {
            "linear_top1": ("linear top-1", "imagenet"),
            "linear_top5": ("linear top-5", "imagenet"),
            "semi1_top1": ("1 % top-1", "imagenet"),
            "semi10_top1": ("10 % top-1", "imagenet"),
            "semi1_top5": ("1 % top-5", "imagenet"),
            "semi10_top5": ("10 % top-5", "imagenet"),
        },
        ("method", "epochs", "source"),
    ),
    Published(
        "linear_transfer.csv",
        "frozen features on other data",
        "Percent, as published. Linear classifiers on Places205 and iNaturalist 2018, linear SVMs on VOC07.",
        {
            "places205_top1": ("Places205 top-1", "places205"),
            "voc07_map": ("VOC07 mAP", "voc07"),
            "inat18_top1": ("iNat18 top-1", "inat18"),
        },
        ("method", "source"),
    ),
)


def blocks(tasks: Sequence[str] = ()) -> list[Block]:
    """Published numbers that belong to `tasks`, one block per file; all files if `tasks` is empty."""
    return [block for published in PUBLISHED if (block := published.block(tasks)) is not None]
