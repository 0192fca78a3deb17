"""Data sets by the hundred, from a generator that knows what is in them: the right objects of the right pictures, or a
refusal that names the file; never a traceback of another kind, never another picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import made_sets
import numpy as np
import pytest
from made_sets import Made, Picture
from numbered_pictures import drawn, number_of, stored_box, stored_pixels

from detection.data import DetectionData, DetectionSplits, load_splits
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.datasets.boxes.pixels import read_pixels
from transfer.datasets.labels.labelled import LabelledImages
from transfer.datasets.labels.own_images import read_csv, read_image_folder
from transfer.runtime.errors import DataError

QUICK, ALL = 50, 1000

Told = list[tuple[Any, ...]]


def outcome(made: Made) -> str:
    """What became of a set: "read" or "refused"; anything that must not be is an assertion error.

    A set without fault is read. One whose frame of boxes cannot be told from the sizes may ask for --exif instead. One
    with a fault is refused, by the reader or by that of the pixels, in words that name what is at fault.
    """
    try:
        read = detection(made) if made.kind != "labels" else classification(made)
    except DataError as error:
        text = str(error)
        if made.fault:
            assert any(name in text for name in made.blamed), f"the refusal does not name {made.blamed}: {text}"
            return "refused"
        assert made.may_ask, f"refused without a fault: {text}"
        assert "--exif" in text
        assert any(picture.stem in text for picture in made.pictures if picture.orientation > 1), text
        return "refused"
    assert not made.fault, f"read in spite of its fault: {made.fault}, {made.blamed}"
    for split, found in read.items():
        own = {picture.number: expected(made, picture) for picture in made.pictures if picture.split == split}
        assert found == own
    return "read"


def expected(made: Made, picture: Picture) -> Any:
    if made.kind == "labels":
        return picture.label
    return picture.size, sorted(thing.told() for thing in picture.things)


def detection(made: Made) -> dict[str, dict[int, Any]]:
    """Split → number in the pixels → size and objects."""
    more = {"exif": made.frame} if made.frame else {}
    names = list(dict.fromkeys(picture.split for picture in made.pictures))
    options = made.options
    if made.seed % 2:  # the layout is to be recognised
        options = {"dataset": made.root, "train": names[0], "test": names[1]}
    splits = load_splits(DetectionData(**options, **more), nothing_official, masks=False)
    assert splits.train.classes == splits.test.classes == made.classes
    return {name: objects_by_number(side) for name, side in zip(names, (splits.train, splits.test), strict=True)}


def nothing_official(options: DetectionData, masks: bool) -> DetectionSplits:
    raise AssertionError("the set is one of its own")


def objects_by_number(dataset: DetectionDataset) -> dict[int, Any]:
    found = {}
    for image in dataset.images:
        number = number_of(read_pixels(image))
        assert number is not None, f"{image.name} is turned or no picture of this set"
        assert number not in found, f"{image.name} is another picture too"
        found[number] = (image.width, image.height), sorted(objects(dataset, image))
    return found


def objects(dataset: DetectionDataset, image: DetectionImage) -> Told:
    columns = image.labels.tolist(), image.boxes.tolist(), image.difficult.tolist(), image.crowd.tolist()
    return [(dataset.classes[label], tuple(box), *flags) for label, box, *flags in zip(*columns, strict=True)]


def classification(made: Made) -> dict[str, dict[int, Any]]:
    """Split → number in the pixels → class."""
    splits = read_csv(made.options["csv"]) if "csv" in made.options else read_image_folder(made.options["root"])
    assert splits.train.classes == splits.test.classes == made.classes
    names = list(dict.fromkeys(picture.split for picture in made.pictures))
    return {name: labels_by_number(side) for name, side in zip(names, (splits.train, splits.test), strict=True)}


def labels_by_number(split: LabelledImages) -> dict[int, str]:
    numbers = [number_of(np.asarray(split.images.read(index))) for index in range(len(split))]
    assert None not in numbers
    assert len(set(numbers)) == len(numbers)
    return {
        number: split.classes[label]
        for number, label in zip(numbers, split.labels.tolist(), strict=True)
        if number is not None
    }


@pytest.mark.parametrize("seed", range(QUICK))
def test_a_made_set(tmp_path: Path, seed: int) -> None:
    outcome(made_sets.make(seed, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(QUICK, ALL))
def test_another_made_set(tmp_path: Path, seed: int) -> None:
    outcome(made_sets.make(seed, tmp_path))


# -- the generator itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pixels_and_boxes_are_what_exif_says(orientation: int) -> None:
    seen = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    stored = stored_pixels(seen, orientation)
    x1, y1, x2, y2 = 2, 1, 5, 3
    a1, b1, a2, b2 = stored_box((x1, y1, x2, y2), (9, 6), orientation)
    assert sorted(stored[b1:b2, a1:a2].ravel()) == sorted(seen[y1:y2, x1:x2].ravel())
    picture = made_sets.Picture(1, "train", "a", ".png", (9, 6), orientation, stored=True)
    assert picture.annotated_size == stored.shape[::-1]


@pytest.mark.slow
def test_every_fault_is_there_and_most_sets_have_none(tmp_path: Path) -> None:
    made = []
    for seed in range(ALL):
        (tmp_path / str(seed)).mkdir()
        made.append(made_sets.make(seed, tmp_path / str(seed)))
    faults = {one.fault for one in made}
    assert faults == {"", *made_sets.DETECTION_FAULTS, *made_sets.VOC_FAULTS, *made_sets.COCO_FAULTS} | {
        *made_sets.LABEL_FAULTS,
        *made_sets.CSV_FAULTS,
    }
    assert sum(not one.fault and not one.may_ask for one in made) > ALL / 2


def test_equal_seeds_give_equal_sets(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = (made_sets.make(3, tmp_path / name) for name in ("one", "two"))
    assert first.pictures == second.pictures
    files = [
        sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")) for name in ("one", "two")
    ]
    assert files[0] == files[1]
    contents = [
        [(tmp_path / name / path).read_bytes() for path in files[0] if (tmp_path / name / path).is_file()]
        for name in ("one", "two")
    ]
    assert contents[0] == contents[1]


def test_a_turned_picture_has_no_number() -> None:
    pixels = np.repeat(drawn(77, (40, 27))[..., None], 3, axis=2)
    assert number_of(pixels) == 77
    assert [number_of(turned) for turned in (pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1], np.rot90(pixels))] == [
        None
    ] * 4
    assert dataclasses.asdict(made_sets.Thing("a", (0, 0, 1, 1)))["crowd"] is False
