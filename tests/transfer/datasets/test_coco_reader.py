"""The COCO reader: what it reads, and what it mends and says. What it refuses is in `test_coco_broken.py`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from coco_files import CocoFolder, annotation, uncompressed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.datasets.boxes.coco import read_coco
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.datasets.toy import CLASSES, ToySizes, make_toy
from transfer.runtime.errors import DataError


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


# -- what it reads -----------------------------------------------------------------------------------------------


def test_images_by_name_and_classes_by_id(coco: CocoFolder) -> None:
    dataset = coco.read()
    assert dataset.classes == ("zebra", "owl", "bee")
    assert dataset.category_ids == (2, 5, 9)
    assert [(image.image_id, image.name, image.source_id) for image in dataset.images] == [
        (1, "a", 0),
        (2, "b", 7),
        (3, "c", 3),
    ]
    first, second, third = dataset.images
    assert first.labels.tolist() == [2]
    assert second.labels.tolist() == [1, 0], "not in the order of the file"
    assert (second.width, second.height, second.path) == (100, 80, coco.images / "b.jpg")
    np.testing.assert_array_equal(second.boxes, [[10, 10, 30, 20]] * 2)
    assert second.boxes.dtype == np.float32
    assert second.areas.tolist() == [200.0, 200.0]
    assert (third.boxes.shape, third.masks) == ((0, 4), ())
    assert dataset.notes == ()
    assert dataset.has_masks


def test_ids_of_the_file_come_back_in_results(coco: CocoFolder) -> None:
    dataset = coco.read()
    ones = np.ones((3, 4), np.float32)
    rows = Detections(np.array([1, 2, 3]), np.array([0, 1, 2]), ones, ones[:, 0]).to_coco(dataset)
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(0, 2), (7, 5), (3, 9)]


@pytest.mark.parametrize("form", ["polygon", "list", "string", "png"])
def test_every_form_of_a_segmentation_is_the_same_mask(coco: CocoFolder, form: str) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    pixels = np.zeros((80, 100), bool)
    pixels[10:20, 10:30] = True
    if form == "list":
        coco.first["segmentation"] = uncompressed(pixels)
    elif form == "string":
        encoded = mask_api.encode(np.asfortranarray(pixels, np.uint8))
        coco.first["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    elif form == "png":
        (coco.folder / "masks").mkdir()
        Image.fromarray(pixels.astype(np.uint8) * 7).save(coco.folder / "masks" / "11.png")
        coco.first["segmentation"] = "masks/11.png"
    masks = coco.read().images[1].masks
    assert masks is not None
    np.testing.assert_array_equal(masks[0].pixels(), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_pngs_of_every_mode_with_one_channel(coco: CocoFolder, mode: str) -> None:
    pixels = np.zeros((80, 100), np.uint8)
    pixels[:5, :7] = 3
    if mode == "P":  # index 3 drawn black: what counts is the index
        picture = Image.fromarray(pixels)
        picture.putpalette([0] * 768)
    else:
        kinds = {"1": np.bool_, "L": np.uint8, "I;16": np.uint16}
        picture = Image.fromarray(pixels.astype(kinds[mode]))
    picture.save(coco.folder / "m.png")
    coco.first["segmentation"] = "m.png"
    masks = coco.read().images[1].masks
    assert masks is not None
    assert masks[0].pixels().sum() == 35


def test_without_masks_segmentations_are_not_looked_at(coco: CocoFolder) -> None:
    coco.first["segmentation"] = {"nonsense": ["x"]}
    del coco.document["annotations"][1]["segmentation"]
    dataset = coco.read(masks=False)
    assert not dataset.has_masks
    assert all(image.masks is None for image in dataset.images)
    assert sum(dataset.box_counts().values()) == 3


def test_crowds(coco: CocoFolder) -> None:
    runs = uncompressed(np.arange(8000).reshape(80, 100) % 3 == 0)
    coco.document["annotations"].append(annotation(20, 7, 2, iscrowd=1, segmentation=runs))
    coco.document["annotations"].append(annotation(21, 3, 2, iscrowd=1, segmentation=[[0, 0, 9, 0, 9, 9]]))
    dataset = coco.read()
    assert dataset.images[1].crowd.tolist() == [False, False, True]
    assert [image.name for image in dataset.for_training().images] == ["a", "b"]
    (polygons,) = dataset.notes
    assert polygons.startswith("1 crowd with polygons instead of run lengths: annotation 21")


def test_folders_below_the_images_folder(coco: CocoFolder) -> None:
    coco.document["images"][0]["file_name"] = "deep/er/b.v2.jpg"
    coco.document["images"][1]["file_name"] = "./a.jpg"
    coco.image("deep/er/b.v2.jpg", 100, 80)
    assert [image.name for image in coco.read().images] == ["a", "c", "deep/er/b.v2"]


def test_missing_flags_and_byte_order_marks(coco: CocoFolder) -> None:
    for entry in coco.document["annotations"]:
        del entry["iscrowd"]
    coco.path.write_text("\ufeff" + json.dumps(coco.document), encoding="utf-8")
    assert not read_coco(coco.path, coco.images, "test", masks=True).images[1].crowd.any()


def test_missing_areas_are_the_masks_or_the_boxes(coco: CocoFolder) -> None:
    coco.first.update({"segmentation": [[10, 10, 30, 10, 30, 20]], "area": None})
    del coco.document["annotations"][1]["area"]
    with_masks, without = coco.read(), coco.read(masks=False)
    mask = with_masks.images[1].masks[0]
    assert 90 < with_masks.images[1].areas[0] < 110, "half of the box"
    assert with_masks.images[1].areas[0] == mask.pixels().sum()
    assert without.images[1].areas[0] == 200
    assert with_masks.notes == ("2 objects have no `area`, those of the masks were taken: annotation 4, annotation 11",)
    assert "those of the boxes" in without.notes[0]


def test_the_same_categories_pass(coco: CocoFolder) -> None:
    first = coco.read()
    coco.document["categories"].reverse()
    assert coco.read(classes_like=first).classes == first.classes


def test_a_file_with_an_official_name_and_another_count_says_so(coco: CocoFolder) -> None:
    coco.path = coco.folder / "instances_val2017.json"
    assert coco.read().notes == ("instances_val2017.json has 3 images here, the official file has 5,000",)


def test_fingerprint_knows_polygons_areas_and_crowds(coco: CocoFolder) -> None:
    def fingerprint() -> object:
        return coco.read().fingerprint()["sha256"]

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    coco.first["segmentation"] = [[10, 10, 30, 10, 30, 20, 10, 20.5]]
    seen.append(fingerprint())
    coco.first["area"] = 201
    seen.append(fingerprint())
    coco.first["iscrowd"] = 1
    seen.append(fingerprint())
    assert len(set(seen)) == 4


# -- what it mends -----------------------------------------------------------------------------------------------


def test_boxes_without_area_are_dropped(coco: CocoFolder) -> None:
    """Two of COCO's own training set are like this one (cocodataset/cocoapi, issue 355)."""
    flat = [[296.65, 388.33, 296.65, 388.33, 297.68, 388.33, 297.68, 388.33]]
    coco.first.update({"bbox": [296.65, 388.33, 1.03, 0.0], "segmentation": flat, "area": 0.0})
    dataset = coco.read()
    assert len(dataset.images[1].boxes) == 1
    assert dataset.notes == ("1 box without area dropped: annotation 11 (296.65, 388.33, 1.03, 0)",)


def test_boxes_a_little_outside_are_clipped(coco: CocoFolder) -> None:
    coco.first.update({"bbox": [-0.4, 70, 20, 11], "segmentation": [[-0.4, 70, 20, 70, 20, 81]]})
    dataset = coco.read()
    np.testing.assert_allclose(dataset.images[1].boxes[0], [0, 70, 19.6, 80], rtol=1e-6)
    assert dataset.notes[0].startswith("1 box clipped that reached up to 1 pixel")


def test_rounding_is_not_worth_a_note(coco: CocoFolder) -> None:
    coco.first["bbox"] = [59.03, 10, 40.975, 10]
    dataset = coco.read()
    assert dataset.images[1].boxes[0, 2] == 100
    assert dataset.notes == ()


def test_boxes_and_polygons_far_outside_only_on_demand(coco: CocoFolder) -> None:
    coco.first.update({"bbox": [90, 10, 30, 10], "segmentation": [[90, 10, 120, 10, 120, 20, 90, 20]]})
    coco.document["annotations"][2] |= {"bbox": [150, 10, 30, 10], "segmentation": [[150, 10, 180, 10, 180, 20]]}
    with pytest.raises(DataError, match="box outside") as caught:
        coco.read()
    assert "--clip-boxes" in caught.value.todo
    dataset = coco.read(clip_boxes=True)
    np.testing.assert_array_equal(dataset.images[1].boxes, [[90, 10, 100, 20]])
    masks = dataset.images[1].masks
    assert masks is not None
    assert masks[0].pixels().sum() == 100
    assert [note.split(":")[0] for note in dataset.notes] == [
        "1 box clipped at the border of the image (--clip-boxes)",
        "1 box dropped that lay outside of the image (--clip-boxes)",
        "1 polygon beyond the image, cut off at its border (--clip-boxes)",
    ]


def test_parts_without_three_points_are_dropped(coco: CocoFolder) -> None:
    coco.first["segmentation"] = [[1, 1, 5, 5], *coco.first["segmentation"]]
    dataset = coco.read()
    masks = dataset.images[1].masks
    assert masks is not None
    assert len(masks[0].polygons) == 1
    assert dataset.notes[0].startswith("1 object had parts of fewer than three points")


@settings(max_examples=60, deadline=None)
@given(box=st.tuples(*[st.integers(-20, 130)] * 2, *[st.integers(0, 130)] * 2))
def test_whatever_is_kept_lies_inside_and_is_never_lost_unsaid(
    tmp_path_factory: pytest.TempPathFactory, box: tuple[int, int, int, int]
) -> None:
    coco = CocoFolder(tmp_path_factory.mktemp("set"))
    coco.document["annotations"] = [annotation(1, 7, 2, bbox=list(box), area=box[2] * box[3])]
    dataset = coco.read(masks=False, clip_boxes=True)
    boxes = dataset.images[1].boxes
    x, y, width, height = box
    if x >= 0 and y >= 0 and 0 < width <= 100 - x and 0 < height <= 80 - y:
        np.testing.assert_array_equal(boxes, [[x, y, x + width, y + height]])
        assert dataset.notes == ()
    else:
        assert len(dataset.notes) == 1
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [100, 80]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


# -- toy and real images -----------------------------------------------------------------------------------------


def agrees_with_pycocotools(dataset: DetectionDataset, path: Path) -> None:
    """Boxes, classes, areas, crowds and drawn masks, image by image, in the file's order."""
    coco_tools = pytest.importorskip("pycocotools.coco")
    coco = coco_tools.COCO(str(path))
    assert list(dataset.category_ids) == sorted(coco.getCatIds())
    assert [coco.cats[number]["name"] for number in dataset.category_ids] == list(dataset.classes)
    assert sorted(image.source_id for image in dataset.images) == sorted(coco.getImgIds())
    for image in dataset.images:
        theirs = coco.imgToAnns[image.source_id]
        assert len(theirs) == len(image.labels)
        assert image.masks is not None
        for index, entry in enumerate(theirs):
            x, y, width, height = entry["bbox"]
            np.testing.assert_allclose(image.boxes[index], [x, y, x + width, y + height], rtol=1e-6, atol=0.02)
            assert dataset.category_ids[image.labels[index]] == entry["category_id"]
            assert (image.areas[index], image.crowd[index]) == (entry["area"], bool(entry["iscrowd"]))
            np.testing.assert_array_equal(image.masks[index].pixels(), coco.annToMask(entry))


def test_toy_images_come_back(tmp_path: Path) -> None:
    sizes = ToySizes(coco_train=4, coco_val=3, voc_train=1, voc_val=1, voc_test=1, per_class_train=1, per_class_val=1)
    make_toy(tmp_path / "toy", sizes=sizes)
    root = tmp_path / "toy" / "coco"
    for split, images in (("train", 4), ("val", 3)):
        path = root / "annotations" / f"instances_{split}2017.json"
        dataset = read_coco(path, root / f"{split}2017", split, masks=True)
        assert (len(dataset), dataset.classes) == (images, CLASSES)
        assert sum(int(image.crowd.sum()) for image in dataset.images) == 1
        agrees_with_pycocotools(dataset, path)
        for image in dataset.images:
            assert image.masks is not None
            assert image.areas.tolist() == [mask.pixels().sum() for mask in image.masks]


@pytest.fixture(scope="module")
def real(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    with tarfile.open(test_data / "coco_free" / "coco2017_free.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.slow
@pytest.mark.data
def test_real_images_have_the_counts_of_their_source(real: Path) -> None:
    read = {}
    for split, expected in (("train", (45, 498, 60, 6)), ("val", (47, 469, 60, 7))):
        path = real / "annotations" / f"instances_{split}2017_free.json"
        dataset = read[split] = read_coco(
            path, real / f"{split}2017", split, masks=True, classes_like=read.get("train")
        )
        counts = dataset.box_counts()
        crowds = sum(int(image.crowd.sum()) for image in dataset.images)
        used = sum(count > 0 for count in counts.values())
        assert (len(dataset), sum(counts.values()), used, crowds) == expected
        assert len(dataset.classes) == 80
        assert dataset.category_ids[-1] == 90
        assert dataset.notes == ()
        agrees_with_pycocotools(dataset, path)
        for image in dataset.images:
            assert image.masks is not None
            for mask, area, crowd in zip(image.masks, image.areas, image.crowd, strict=True):
                assert crowd or abs(mask.pixels().sum() - area) <= 0.2 * area


@pytest.mark.data
@pytest.mark.detectron2
def test_real_boxes_are_those_that_detectron2_reads(real: Path) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data.datasets.coco import load_coco_json
    from detectron2.structures import BoxMode

    path = real / "annotations" / "instances_train2017_free.json"
    ours = read_coco(path, real / "train2017", "train", masks=True)
    theirs = {row["image_id"]: row for row in load_coco_json(str(path), str(real / "train2017"))}
    classes = {number: label for label, number in enumerate(ours.category_ids)}
    assert len(theirs) == len(ours)
    for image in ours.images:
        row = theirs[image.source_id]
        assert (image.width, image.height, str(image.path)) == (row["width"], row["height"], row["file_name"])
        items = row["annotations"]
        boxes = [BoxMode.convert(item["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for item in items]
        np.testing.assert_allclose(image.boxes, boxes, rtol=1e-6, atol=0.02)
        assert image.labels.tolist() == [classes[item["category_id"]] for item in items]
        assert image.crowd.tolist() == [bool(item["iscrowd"]) for item in items]
        assert image.masks is not None
        for mask, item in zip(image.masks, items, strict=True):
            if mask.polygons:
                assert mask.to_coco() == item["segmentation"]
