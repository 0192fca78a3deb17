"""Annotations turn as their pictures do: the laws of turning, and which frame the readers take boxes to be in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_pictures import Box, stored_box, stored_pixels
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from detection.data import COCO, DetectionData, load_splits, load_test
from transfer.datasets.boxes.coco import read_coco
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.boxes.orientation import ExifFrame
from transfer.datasets.boxes.pixels import read_pixels
from transfer.datasets.boxes.turning import turn_boxes, turn_mask
from transfer.datasets.boxes.voc import read_voc
from transfer.datasets.labels.voc_labels import read_voc_labels
from transfer.runtime.errors import DataError

Layout = Literal["voc", "coco"]
ORIENTATIONS = range(1, 9)
BACK = {6: 8, 8: 6}  # turned clockwise and counterclockwise; every other orientation undoes itself


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def seen(pixels: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """A mask turned by Pillow's own reading of EXIF."""
    image = Image.fromarray(pixels.astype(np.uint8) * 255)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image)) > 0


# -- the laws ----------------------------------------------------------------------------------------------------


sides = st.integers(1, 40)
orientations = st.sampled_from(ORIENTATIONS)


@st.composite
def boxed(draw: st.DrawFn) -> tuple[tuple[int, int], Box, int]:
    """(width, height) of a picture, a box of whole pixels on it, an orientation."""
    width, height = draw(sides), draw(sides)
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (
        (width, height),
        (x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))),
        draw(orientations),
    )


def filled(size: tuple[int, int], box: Box) -> NDArray[np.bool_]:
    pixels = np.zeros(size[::-1], np.bool_)
    pixels[box[1] : box[3], box[0] : box[2]] = True
    return pixels


def rectangle(box: Box) -> NDArray[np.float64]:
    x1, y1, x2, y2 = box
    return np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64)


@given(boxed())
def test_boxes_and_masks_turn_as_their_pixels_do(case: tuple[tuple[int, int], Box, int]) -> None:
    (width, height), box, orientation = case
    drawn = seen(filled((width, height), box), orientation)
    x1, y1, x2, y2 = turn_boxes(np.array([box], np.float32), width, height, orientation)[0].astype(int).tolist()
    assert np.array_equal(filled((drawn.shape[1], drawn.shape[0]), (x1, y1, x2, y2)), drawn)
    for mask in (Mask.from_pixels(filled((width, height), box)), Mask(height, width, (rectangle(box),))):
        turned = turn_mask(mask, orientation)
        assert (turned.height, turned.width) == drawn.shape
        assert np.array_equal(turned.pixels(), drawn)


@given(st.integers(1, 12), st.integers(1, 12), orientations, st.data())
def test_run_lengths_turn_as_their_pixels_do(width: int, height: int, orientation: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    pixels = np.array(bits, np.bool_).reshape(height, width)
    assert np.array_equal(turn_mask(Mask.from_pixels(pixels), orientation).pixels(), seen(pixels, orientation))


coordinates = st.floats(0, 40, allow_subnormal=False)


@given(st.floats(8, 42), st.floats(8, 32), st.floats(4, 7), st.integers(5, 9), st.floats(0, 6), orientations)
def test_polygons_turn_as_their_drawing_does_but_for_its_rim(
    x: float, y: float, radius: float, corners: int, first: float, orientation: int
) -> None:
    """Drawing rounds, and not alike in every direction."""
    angles = first + np.arange(corners) * 2 * np.pi / corners
    polygon = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).reshape(-1)
    mask = Mask(40, 50, (polygon,))
    expected = seen(mask.pixels(), orientation)
    picture = Image.fromarray(expected.astype(np.uint8))
    inner, outer = (
        np.asarray(picture.filter(brush(3))) > 0 for brush in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    turned = turn_mask(mask, orientation).pixels()
    assert inner.sum() > 9
    assert (turned >= inner).all()
    assert (turned <= outer).all()


@given(st.lists(st.tuples(*[coordinates] * 4), max_size=4), orientations)
def test_there_and_back_is_the_same_and_areas_are_kept(rows: list[tuple[float, ...]], orientation: int) -> None:
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows], np.float32).reshape(-1, 4)
    width, height = 50, 40
    turned = turn_boxes(boxes, width, height, orientation)
    size = (height, width) if orientation >= 5 else (width, height)
    back = turn_boxes(turned, *size, BACK.get(orientation, orientation))
    np.testing.assert_allclose(back, boxes, atol=1e-4)
    before, after = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, turned))
    np.testing.assert_allclose(after, before, atol=1e-2)
    assert (turned[:, 2:] >= turned[:, :2]).all()
    for polygon in rows:
        mask = Mask(height, width, (np.array([*polygon, 1.0, 2.0]),))
        again = turn_mask(turn_mask(mask, orientation), BACK.get(orientation, orientation))
        np.testing.assert_allclose(again.polygons[0], mask.polygons[0], atol=1e-9)


# -- sets of pictures on which the one object is the one light rectangle ---------------------------------------------


LIGHT: Box = (3, 2, 11, 7)  # as seen


class Pictures:
    """A set in both layouts; `add` pictures, then `read` it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, list[str]()
        self.entries, self.objects = list[dict[str, object]](), list[dict[str, object]]()
        for sub in ("Annotations", "JPEGImages", "ImageSets/Main", "SegmentationObject"):
            (folder / sub).mkdir(parents=True, exist_ok=True)

    def add(
        self,
        name: str,
        orientation: int,
        frame: ExifFrame,
        size: tuple[int, int] = (30, 20),
        annotated: bool = True,
        objects: bool = True,
        run_lengths: bool = False,
    ) -> None:
        """A picture of `size` as seen; boxes and masks are on `frame`, whose size is said if `annotated`."""
        stored = stored_pixels(np.where(filled(size, LIGHT), 255, 0).astype(np.uint8), orientation)
        exif = {"exif": exif_of(orientation)} if orientation > 1 else {}
        Image.fromarray(stored).save(self.folder / "JPEGImages" / f"{name}.png", **exif)
        lit = stored if frame == "stored" else seen(stored > 0, orientation)
        height, width = lit.shape
        x1, y1, x2, y2 = stored_box(LIGHT, size, orientation) if frame == "stored" else LIGHT
        tag = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>" if annotated else ""
        corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        node = f"<object><name>light</name><bndbox>{corners}</bndbox></object>" if objects else ""
        xml = f"<annotation>{tag}{node}</annotation>"
        (self.folder / "Annotations" / f"{name}.xml").write_text(xml, encoding="utf-8")
        Image.fromarray((lit > 0).astype(np.uint8)).save(self.folder / "SegmentationObject" / f"{name}.png")
        number = len(self.names) + 1
        self.names.append(name)
        self.entries.append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
        mask = Mask.from_pixels(lit > 0).to_coco() if run_lengths else [rectangle((x1, y1, x2, y2)).tolist()]
        box, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
        entry = {"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}
        self.objects += [entry | {"segmentation": mask}] if objects else []
        (self.folder / "ImageSets/Main/all.txt").write_text("\n".join(self.names) + "\n", encoding="utf-8")

    def json(self) -> Path:
        document = {"images": self.entries, "annotations": self.objects, "categories": [{"id": 1, "name": "light"}]}
        (self.folder / "all.json").write_text(json.dumps(document), encoding="utf-8")
        return self.folder / "all.json"

    def read(self, layout: Layout, exif: ExifFrame | None = None, masks: bool = True) -> DetectionDataset:
        if layout == "voc":
            return read_voc([(self.folder, "all")], "all", ("light",), masks=masks, exif=exif)
        return read_coco(self.json(), self.folder / "JPEGImages", "all", masks=masks, exif=exif)


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "set")


def assert_on_the_light(dataset: DetectionDataset) -> None:
    """Every box and mask is exactly where the picture is light, and `areas` are those of the light."""
    for image in dataset.images:
        light = read_pixels(image)[..., 0] > 0
        x1, y1, x2, y2 = image.boxes[0].astype(int).tolist()
        assert np.array_equal(filled((image.width, image.height), (x1, y1, x2, y2)), light), image.name
        assert image.masks is not None
        assert np.array_equal(image.masks[0].pixels(), light), image.name
        assert image.areas.tolist() == [light.sum()]


both = pytest.mark.parametrize("layout", ["voc", "coco"])


@both
@pytest.mark.parametrize("run_lengths", [False, True])
def test_sizes_tell_the_frame_of_the_boxes(layout: Layout, run_lengths: bool, pictures: Pictures) -> None:
    for orientation in (5, 6, 7, 8):
        pictures.add(f"seen{orientation}", orientation, "seen", run_lengths=run_lengths)
        pictures.add(f"stored{orientation}", orientation, "stored", run_lengths=run_lengths)
    pictures.add("upright", 1, "stored", run_lengths=run_lengths)
    dataset = pictures.read(layout)
    assert_on_the_light(dataset)
    assert {(image.width, image.height) for image in dataset.images} == {(30, 20)}
    turned = {image.name.rpartition("/")[2]: (image.turned, image.decoding) for image in dataset.images}
    expected = {f"seen{number}": (1, f"orientation {number}") for number in (5, 6, 7, 8)}
    expected |= {f"stored{number}": (number, f"orientation {number}") for number in (5, 6, 7, 8)}
    assert turned == expected | {"upright": (1, "")}
    said = [note for note in dataset.notes if "EXIF" in note]
    assert [note.split(":")[0] for note in said] == [
        "4 pictures turned by EXIF, boxes with them",
        "4 pictures turned by EXIF, boxes as they are",
    ]
    assert "stored5" in said[0]
    assert "seen5" in said[1]


def undecidable(pictures: Pictures, frame: ExifFrame, sizes: bool) -> list[str]:
    """Orientations 2 to 4, squares, and, with VOC, pictures whose size is not annotated."""
    for orientation in (2, 3, 4):
        pictures.add(f"flat{orientation}", orientation, frame)
    for orientation in (5, 6, 7, 8):
        pictures.add(f"square{orientation}", orientation, frame, size=(20, 20))
        if not sizes:
            pictures.add(f"unsized{orientation}", orientation, frame, annotated=False)
    return list(pictures.names)


@both
def test_what_no_size_tells_is_asked_for_in_one_message(layout: Layout, pictures: Pictures) -> None:
    names = undecidable(pictures, "seen", sizes=layout == "coco")
    pictures.add("told", 6, "stored")
    pictures.add("upright", 1, "seen")
    pictures.add("empty", 3, "seen", objects=False)
    with pytest.raises(DataError) as caught:
        pictures.read(layout)
    message = str(caught.value)
    assert f"{len(names)} pictures" in message
    assert all(name in message for name in names[:3])
    assert "upright" not in message
    assert "empty" not in message
    assert "1 other picture of it: boxes on the pixels as stored" in message
    assert "--exif seen" in caught.value.todo
    assert "--exif stored" in caught.value.todo


@both
@pytest.mark.parametrize("frame", ["seen", "stored"])
def test_exif_says_what_no_size_tells(layout: Layout, frame: ExifFrame, pictures: Pictures) -> None:
    names = undecidable(pictures, frame, sizes=layout == "coco")
    other: ExifFrame = "seen" if frame == "stored" else "stored"
    pictures.add("told", 6, other)  # its size tells, whatever the option says
    dataset = pictures.read(layout, frame)
    assert_on_the_light(dataset)
    assert any(f"{len(names)} pictures turned by EXIF" in note and f"--exif {frame}" in note for note in dataset.notes)


@both
def test_pictures_without_objects_ask_for_nothing(layout: Layout, pictures: Pictures) -> None:
    pictures.add("a", 3, "seen", objects=False)
    pictures.add("b", 1, "seen")
    assert not any("EXIF" in note for note in pictures.read(layout).notes)


@both
def test_a_set_without_orientation_keeps_its_fingerprint(layout: Layout, pictures: Pictures) -> None:
    """The digest of version 1, written out: what it is made over has not changed, so neither have run ids."""
    pictures.add("a", 1, "seen")
    dataset = pictures.read(layout, masks=False)
    path, name = pictures.folder / "JPEGImages" / "a.png", "set/a" if layout == "voc" else "a"
    sha = hashlib.sha256(b"light")
    sha.update(f"\n{name} 30x20 {path.stat().st_size} ".encode())
    sha.update(np.array(LIGHT, "<f4").tobytes() + np.array([0], "<i8").tobytes() + np.array([0], "u1").tobytes())
    assert dataset.fingerprint()["sha256"] == sha.hexdigest()


def test_orientation_and_depth_are_part_of_the_fingerprint(pictures: Pictures) -> None:
    """The same boxes on the same sizes, of other pixels."""
    path, found = pictures.folder / "JPEGImages" / "a.png", set()
    pictures.add("a", 1, "seen")
    for kind in ("plain", "turned", "deep"):
        pixels = np.full((20, 30), 7, np.uint16 if kind == "deep" else np.uint8)
        Image.fromarray(pixels).save(path, **({"exif": exif_of(3)} if kind == "turned" else {}))
        with path.open("ab") as file:
            file.write(bytes(1000 - path.stat().st_size))  # so that the size of the file does not tell
        found.add(str(pictures.read("voc", "seen", masks=False).fingerprint()["sha256"]))
    assert len(found) == 3


# -- out again ---------------------------------------------------------------------------------------------------


def test_detections_are_written_in_the_frame_of_the_file(pictures: Pictures) -> None:
    for orientation in ORIENTATIONS:
        pictures.add(f"{orientation}", orientation, "stored", run_lengths=True)
    dataset = pictures.read("coco", "stored")
    count = len(dataset)
    found = Detections(
        np.array([image.image_id for image in dataset.images]),
        np.zeros(count, np.int64),
        np.concatenate([image.boxes for image in dataset.images]),
        np.ones(count, np.float32),
        tuple(image.masks[0].counts for image in dataset.images if image.masks),
    )
    written = {row["image_id"]: row for row in found.to_coco(dataset)}
    for entry in pictures.objects:
        row = written[entry["image_id"]]
        assert row["bbox"] == entry["bbox"]
        assert row["segmentation"] == entry["segmentation"]


# -- from the command's options ----------------------------------------------------------------------------------


@both
def test_the_option_reaches_the_readers(layout: Layout, pictures: Pictures, tmp_path: Path) -> None:
    other = Pictures(tmp_path / "other")
    for number, each in enumerate((pictures, other)):
        each.add(f"{'ab'[number]}", 3, "stored")
    files = pictures.json(), pictures.folder / "JPEGImages", other.json(), other.folder / "JPEGImages"
    if layout == "voc":
        (pictures.folder / "ImageSets/Main/train.txt").write_text("a\n", encoding="utf-8")
        for part in ("Annotations/b.xml", "JPEGImages/b.png"):
            (other.folder / part).rename(pictures.folder / part)
        (pictures.folder / "ImageSets/Main/test.txt").write_text("b\n", encoding="utf-8")
        (pictures.folder / "ImageSets/Main/all.txt").unlink()
    coco = {"test_json": files[2], "test_images": files[3]}
    alone = DetectionData(voc_root=pictures.folder, test="test") if layout == "voc" else DetectionData(**coco)
    sides = alone if layout == "voc" else replace(alone, train_json=files[0], train_images=files[1])
    sides = replace(sides, test=None)
    for refused in (partial(load_splits, sides, COCO, False), partial(load_test, alone, False)):
        with pytest.raises(DataError, match="EXIF orientation"):
            refused()
    splits = load_splits(replace(sides, exif="stored"), COCO, False)
    for dataset in (splits.train, splits.test, load_test(replace(alone, exif="stored"), False)[0]):
        assert dataset.images[0].boxes.tolist() == [list(map(float, LIGHT))]


def test_a_mask_with_an_orientation_of_its_own_is_refused(pictures: Pictures) -> None:
    pictures.add("a", 6, "stored")
    path = pictures.folder / "SegmentationObject" / "a.png"
    with Image.open(path) as image:
        image.copy().save(path, exif=exif_of(6))
    with pytest.raises(DataError, match="has an EXIF orientation") as caught:
        pictures.read("voc")
    assert "orientation 6" in caught.value.found


def test_labels_of_a_turned_picture_ask_for_nothing(pictures: Pictures) -> None:
    """Where its objects are does not matter to classification."""
    pictures.add("a", 3, "stored")
    pictures.add("b", 6, "seen", annotated=False)
    for split in ("train", "test"):
        (pictures.folder / "ImageSets/Main" / f"{split}.txt").write_text("a\nb\n", encoding="utf-8")
    splits = read_voc_labels(pictures.folder, "train", "test", ("light", "dark"))
    assert splits.test.labels.tolist() == [[1, -1], [1, -1]]
