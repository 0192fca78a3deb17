"""`python -m transfer score`: published examples, pycocotools on random sets, the forms of ids, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import padilla_samples
import pytest
from coco_files import CocoFolder
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.score.command import score_command
from transfer.__main__ import main
from transfer.runtime.errors import UserError


def measured(folder: Path, options: list[str], *more: str) -> dict[str, Any]:
    """The JSON that the command keeps of `found.json`."""
    score_command([str(folder / "found.json"), *options, *more, "--json", str(folder / "kept.json")])
    kept: dict[str, Any] = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    return kept


def mean(kept: dict[str, Any], measure: str) -> dict[str, float]:
    values: dict[str, float] = kept["measures"][measure]["mean"]
    return values


# -- published ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["detectron2", "devkit"])
def test_the_sample_of_object_detection_metrics(tmp_path: Path, rule: str) -> None:
    options = padilla_samples.write_sample(tmp_path)
    wanted = ["--iou", "0.1", "0.3", "0.5", "0.75", "--pixels", "inclusive", "--voc", rule]
    kept = measured(tmp_path, options, *wanted)
    eleven, area = mean(kept, "voc_11point"), mean(kept, "voc_area")
    names = ("AP10", "AP30", "AP50", "AP75")
    assert [eleven[name] for name in names] == pytest.approx([33.33333333, 26.83982683, 3.03030303, 0], abs=1e-8)
    assert [area[name] for name in names] == pytest.approx([33.71980676, 24.56866804, 2.22222222, 0], abs=1e-8)


def test_without_the_pixel_more_the_sample_scores_otherwise(tmp_path: Path) -> None:
    kept = measured(tmp_path, padilla_samples.write_sample(tmp_path), "--iou", "0.3")
    assert round(mean(kept, "voc_area")["AP30"], 2) == 22.54


@pytest.mark.parametrize("rule", ["detectron2", "devkit"])
def test_the_toy_cats(tmp_path: Path, rule: str) -> None:
    kept = measured(tmp_path, padilla_samples.write_cats(tmp_path), "--pixels", "inclusive", "--voc", rule)
    shown = [
        round(mean(kept, measure)[name], 2) for name in ("AP50", "AP75") for measure in ("voc_11point", "voc_area")
    ]
    assert shown == [88.64, 89.58, 49.24, 50.97]


def test_cats_in_coco_form_without_the_last_pixel_are_the_same_cats(tmp_path: Path) -> None:
    options = padilla_samples.write_cats(tmp_path)
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    for row in rows:  # from 0, the end behind the last pixel
        x, y, width, height = row["bbox"]
        row["bbox"] = [x - 1, y - 1, width + 1, height + 1]
    (tmp_path / "found.json").write_text(json.dumps(rows), encoding="utf-8")
    assert round(mean(measured(tmp_path, options), "voc_area")["AP75"], 2) == 50.97


@pytest.mark.parametrize(
    "options", [["--dataset", "cats"], ["--dataset", "cats", "--test", "test"], ["--voc-root", "cats"]]
)
def test_the_layout_and_the_split_to_score_on_are_recognised(tmp_path: Path, options: list[str]) -> None:
    padilla_samples.write_cats(tmp_path)
    options = [str(tmp_path / "cats") if word == "cats" else word for word in options]
    kept = measured(tmp_path, options, "--pixels", "inclusive")
    assert round(mean(kept, "voc_area")["AP50"], 2) == 89.58


def test_a_coco_folder_is_recognised_without_a_split_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    padilla_samples.write_sample(tmp_path / "set")
    (tmp_path / "set" / "found.json").rename(tmp_path / "found.json")
    (tmp_path / "set" / "truth.json").rename(tmp_path / "set" / "test.json")
    kept = measured(tmp_path, ["--dataset", str(tmp_path / "set")], "--pixels", "inclusive", "--iou", "0.3")
    assert round(mean(kept, "voc_area")["AP30"], 2) == 24.57


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    padilla_samples.write_cats(tmp_path)
    with pytest.raises(UserError, match=r"no split 'val'(.|\n)*splits there: test"):
        measured(tmp_path, ["--dataset", str(tmp_path / "cats"), "--test", "val"])


# -- pycocotools -------------------------------------------------------------------------------------------------


def random_set(folder: Path, seed: int) -> list[str]:
    """Truth with crowds, ids and names in no order, RLE masks; detections near to it and elsewhere."""
    rng = np.random.default_rng(seed)
    size = (40, 56)
    (folder / "images").mkdir(parents=True)
    image_ids, categories = rng.choice(10_000, 6, replace=False).tolist(), rng.choice(90, 4, replace=False).tolist()

    def rectangle(x: float, y: float, w: float, h: float) -> tuple[list[float], dict[str, Any]]:
        pixels = np.zeros(size, np.uint8, order="F")
        pixels[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = 1
        runs = coco_mask.encode(pixels)
        return [x, y, w, h], {"size": list(size), "counts": runs["counts"].decode()}

    images, truth, found = [], [], []
    for position, image in enumerate(image_ids):
        name = f"{rng.integers(100_000)}_{position}.png"
        Image.new("L", size[::-1]).save(folder / "images" / name)
        images.append({"id": image, "file_name": name, "width": size[1], "height": size[0]})
        for number in range(rng.integers(0, 9)):
            x, y = rng.integers(0, 30), rng.integers(0, 20)
            box, runs = rectangle(int(x), int(y), int(rng.integers(3, 25)), int(rng.integers(3, 19)))
            own = {"id": len(truth) + 1, "image_id": image, "category_id": int(rng.choice(categories[:3]))}
            area = int(coco_mask.area(runs)) * int(rng.choice([1, 4, 30]))
            truth.append(own | {"bbox": box, "segmentation": runs, "area": area, "iscrowd": int(number == 4)})
            for _ in range(rng.integers(0, 3)):
                near = [float(value) for value in np.maximum(np.array(box) + rng.normal(0, 2, 4), 1.0)]
                box_found, runs_found = rectangle(*near)
                category = own["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
                answer = {"image_id": image, "category_id": category, "bbox": box_found, "segmentation": runs_found}
                found.append(answer | {"score": float(rng.integers(0, 1000)) / 1000})
    rng.shuffle(found)
    document = {"images": images, "annotations": truth}
    document["categories"] = [{"id": number, "name": f"kind {number}"} for number in categories]
    (folder / "truth.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return ["--test-json", str(folder / "truth.json"), "--test-images", str(folder / "images")]


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools_boxes_and_masks_at_any_iou(tmp_path: Path, seed: int) -> None:
    kept = measured(tmp_path, random_set(tmp_path, seed), "--iou", "0.3", "0.62", "0.75")
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(tmp_path / "truth.json"))
            found = truth.loadRes(json.loads((tmp_path / "found.json").read_text(encoding="utf-8")))
            evaluator = COCOeval(truth, found, kind)
            evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
            loose = COCOeval(truth, found, kind)
            loose.params.iouThrs = np.array([0.3, 0.62])
            loose.evaluate(), loose.accumulate()
        stats, precision = evaluator.stats, evaluator.eval["precision"]
        names = {"AP": stats[0], "AP75": stats[2], "APs": stats[3], "APm": stats[4], "APl": stats[5], "AR100": stats[8]}
        for place, name in enumerate(("AP30", "AP62")):
            values = loose.eval["precision"][place, :, :, 0, -1]
            names[name] = values[values > -1].mean()
        for name, value in names.items():
            ours = mean(kept, f"coco_{kind}")[name]
            assert (ours is None) == (value < 0)
            assert ours is None or ours == pytest.approx(100 * value, abs=1e-9)
        for label, category in enumerate(evaluator.params.catIds):
            values = precision[:, :, label, 0, -1]
            ours = kept["measures"][f"coco_{kind}"]["per_class"][f"kind {category}"]["AP"]
            assert ours == (None if values.max() < 0 else pytest.approx(100 * values.mean(), abs=1e-9))


def test_masks_without_boxes_have_the_boxes_around_them(tmp_path: Path) -> None:
    options = random_set(tmp_path, 0)
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    for row in rows:
        del row["bbox"]
    (tmp_path / "found.json").write_text(json.dumps(rows), encoding="utf-8")
    kept = measured(tmp_path, options)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluator = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    assert mean(kept, "coco_bbox")["AP"] == pytest.approx(100 * evaluator.stats[0], abs=1e-9)
    assert any("those around the masks" in note for note in kept["notes"])


# -- ids ---------------------------------------------------------------------------------------------------------


def write_voc(folder: Path, names: list[str]) -> list[str]:
    """One box of class "ant" (every second image: "bee") in each image, at a place of its own."""
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / "own" / part).mkdir(parents=True)
    for place, name in enumerate(names):
        Image.new("L", (100, 40)).save(folder / "own/JPEGImages" / f"{name}.jpg")
        x1 = 10 * place + 1
        box = f"<xmin>{x1}</xmin><ymin>1</ymin><xmax>{x1 + 9}</xmax><ymax>20</ymax>"
        thing = f"<object><name>{('ant', 'bee')[place % 2]}</name><bndbox>{box}</bndbox></object>"
        (folder / "own/Annotations" / f"{name}.xml").write_text(f"<annotation>{thing}</annotation>", encoding="utf-8")
    (folder / "own/ImageSets/Main/test.txt").write_text("\n".join(names), encoding="utf-8")
    return ["--voc-root", str(folder / "own"), "--test", "test"]


def perfect(folder: Path, images: list[Any], classes: list[Any]) -> None:
    """A detection that covers the one box of each image, `images` and `classes` being what the list calls them."""
    rows = [
        {"image_id": image, "category_id": name, "bbox": [10 * place, 0, 10, 20], "score": 0.9}
        for place, (image, name) in enumerate(zip(images, classes, strict=True))
    ]
    (folder / "found.json").write_text(json.dumps(rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("images", "classes", "more"),
    [
        (["a_002", "a_003", "a_007"], ["ant", "bee", "ant"], []),
        (["a_002.jpg", "a_003.jpg", "a_007.jpg"], [1, 2, 1], []),
        (["own/a_002", "own/a_003", "own/a_007"], [2, 1, 2], ["--classes", "bee", "ant"]),
        ([1, 2, 3], ["ant", "bee", "ant"], []),  # positions: there is no image with the number 1
        ([2, 3, 7], [1.0, 2.0, 1.0], []),  # numbers in the names: there is no position 7
    ],
)
def test_every_form_of_ids_of_a_voc_set(tmp_path: Path, images: list[Any], classes: list[Any], more: list[str]) -> None:
    options = write_voc(tmp_path, ["a_002", "a_003", "a_007"])
    perfect(tmp_path, images, classes)
    kept = measured(tmp_path, options, *more)
    assert mean(kept, "voc_11point") == pytest.approx({"AP50": 100, "AP75": 100, "AP": 100})


def test_numbers_that_are_positions_and_names_alike_are_refused(tmp_path: Path) -> None:
    options = write_voc(tmp_path, ["000002", "000003", "000004"])
    perfect(tmp_path, [2, 3, 3], ["ant", "bee", "ant"])
    with pytest.raises(UserError, match="two ways") as error:
        measured(tmp_path, options)
    assert "2 is one thing as positions among the sorted names" in str(error.value)


def test_the_order_of_class_numbers_is_said(tmp_path: Path) -> None:
    options = write_voc(tmp_path, ["a", "b"])
    perfect(tmp_path, ["a", "b"], [1, 2])
    assert "category_id was read as positions in 1 ant, 2 bee; --classes gives another order" in "".join(
        measured(tmp_path, options)["notes"]
    )


def test_classes_of_the_detector_that_the_test_has_no_object_of(tmp_path: Path) -> None:
    options = write_voc(tmp_path, ["a", "b"])
    perfect(tmp_path, ["a", "b", "a"], [1, 3, 2])
    kept = measured(tmp_path, options, "--classes", "ant", "cow", "bee")
    assert kept["measures"]["voc_11point"]["mean"]["AP50"] == pytest.approx(100)
    assert any("1 detection left out" in note and "cow" in note for note in kept["notes"])


@pytest.mark.parametrize("ids", [[7, 0, 3], ["7", "0", "3"], ["b.jpg", "a.jpg", "c.jpg"], ["b", "a", "c"], [7.0, 0, 3]])
@pytest.mark.parametrize("categories", [[5, 9], ["owl", "bee"]])
def test_every_form_of_ids_of_a_coco_set(tmp_path: Path, ids: list[Any], categories: list[Any]) -> None:
    made = CocoFolder(tmp_path)
    made.path.write_text(json.dumps(made.document), encoding="utf-8")
    rows = [
        {"image_id": ids[0], "category_id": categories[0], "bbox": [10, 10, 20, 10], "score": 1},
        {"image_id": ids[1], "category_id": categories[1], "bbox": [10, 10, 20, 10], "score": 0.5},
        {"image_id": ids[2], "category_id": categories[1], "bbox": [10, 10, 20, 10], "score": 0.1},
    ]
    (tmp_path / "found.json").write_text(json.dumps(rows), encoding="utf-8")
    options = ["--test-json", str(tmp_path / "instances.json"), "--test-images", str(tmp_path / "images")]
    by_class = measured(tmp_path, options)["measures"]["coco_bbox"]["per_class"]
    assert [by_class[name]["AP50"] for name in ("zebra", "owl", "bee")] == pytest.approx([0, 100, 100])


# -- refused -----------------------------------------------------------------------------------------------------

GOOD = {"image_id": 7, "category_id": 5, "bbox": [10, 10, 20, 10], "score": 0.5}
RUNS = {"size": [80, 100], "counts": [810, 10, 7180]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [GOOD, GOOD | {"image_id": 99}, GOOD | {"image_id": 99}],
            "2 of 3 detections .* name 1 image .*\n.*image_id 99",
        ),
        ([GOOD | {"image_id": "z.jpg"}], "'z.jpg'(.|\n)*3 images: 0 .a.jpg."),
        ([GOOD | {"image_id": True}], "image_id that is no id"),
        ([GOOD | {"category_id": 6}], "name 1 class .*\n.*category_id 6\n.*2 zebra, 5 owl, 9 bee"),
        ([GOOD, GOOD | {"score": float("nan")}], "1 of 2 detections .* score that is no number\n.*number 2"),
        ([GOOD | {"score": "0.5"}], "score that is no number"),
        ([GOOD | {"bbox": [1, 2, 3]}], "malformed bbox"),
        ([GOOD | {"bbox": [1, 2, float("inf"), 3]}], "malformed bbox"),
        ([GOOD | {"bbox": [30, 30, -5, 3]}], "negative size(.|\n)*two corners"),
        ([{key: value for key, value in GOOD.items() if key != "score"}], "have no score"),
        ([{key: value for key, value in GOOD.items() if key != "bbox"}], "have no bbox"),
        ([GOOD | {"segmentation": RUNS}, GOOD], "1 of 2 detections .* no segmentation"),
        ([GOOD | {"segmentation": RUNS | {"size": [100, 80]}}], "another size than their image(.|\n)*.80, 100."),
        ([GOOD | {"segmentation": RUNS | {"counts": [810, 10, 7181]}}], "add up to 8001"),
        ([GOOD | {"segmentation": RUNS | {"counts": "0P"}}], "does not decode to the size of its image"),
        ([GOOD | {"segmentation": [[1, 1, 5, 1, 5, 5]]}], "no run lengths"),
        ([[1, 2]], "are no objects"),
        ({"annotations": [GOOD]}, "no result list(.|\n)*lies under annotations"),
        ("text", "no result list"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path: Path, rows: Any, said: str) -> None:
    made = CocoFolder(tmp_path)
    made.path.write_text(json.dumps(made.document), encoding="utf-8")
    (tmp_path / "found.json").write_text(json.dumps(rows), encoding="utf-8")
    options = ["--test-json", str(tmp_path / "instances.json"), "--test-images", str(tmp_path / "images")]
    with pytest.raises(UserError, match=said) as error:
        measured(tmp_path, options)
    assert "to do:" in str(error.value)
    assert not (tmp_path / "kept.json").exists()


@pytest.mark.parametrize(("content", "said"), [(b"[{", "no JSON"), (b"\xff\xfe[", "no JSON"), (None, "cannot read")])
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "found.json").write_bytes(content)
    with pytest.raises(UserError, match=said):
        measured(tmp_path, [])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--test", "test"],
        ["--dataset", "DIR", "--voc-root", "DIR"],
        ["--dataset", "DIR"],
        ["--test-json", "FILE"],
        ["--voc-root", "DIR", "--test", "t", "--test-json", "FILE", "--test-images", "DIR"],
        ["--test-json", "FILE", "--test-images", "DIR", "--iou", "50"],
    ],
)
def test_options_that_name_no_data_set(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "found.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"names the data|no data set|do not go together|is no folder|--iou 50"):
        measured(tmp_path, options)


# -- said --------------------------------------------------------------------------------------------------------


def test_an_empty_list_is_0_and_said(tmp_path: Path) -> None:
    options = padilla_samples.write_sample(tmp_path)
    (tmp_path / "found.json").write_text("[]", encoding="utf-8")
    kept = measured(tmp_path, options)
    assert [mean(kept, name)["AP50"] for name in kept["measures"]] == [0, 0, 0]
    assert "the list is empty: every AP is 0" in kept["notes"]


def test_corners_instead_of_widths_are_noticed(tmp_path: Path) -> None:
    options = padilla_samples.write_sample(tmp_path)
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    for row in rows:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x, y, x + width, y + height]
    (tmp_path / "found.json").write_text(json.dumps(rows), encoding="utf-8")
    assert any("is bbox two corners there?" in note for note in measured(tmp_path, options)["notes"])


def test_both_rules_are_shown_where_they_differ(tmp_path: Path) -> None:
    options = write_voc(tmp_path, ["a"])
    row = {"image_id": "a", "category_id": "ant", "bbox": [0, 0, 10, 10], "score": 0.9}  # half of the box
    (tmp_path / "found.json").write_text(json.dumps([row]), encoding="utf-8")
    assert mean(measured(tmp_path, options, "--voc", "devkit"), "voc_area")["AP50"] == pytest.approx(100)
    kept = measured(tmp_path, options)
    assert mean(kept, "voc_area")["AP50"] == 0
    assert any("--voc devkit" in note and "AP50 100.00 instead of 0.00" in note for note in kept["notes"])


def test_the_table_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = padilla_samples.write_sample(tmp_path)
    assert main(["score", str(tmp_path / "found.json"), *options, "--iou", "0.3", "--pixels", "inclusive"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("object")] == [
        ["object", "15", "24", "26.84", "0.61"],
        ["object", "15", "24", "24.57", "0.44"],
        ["object", "15", "24", "24.82", "0.46", "–", "0.46", "–", "1.33"],
    ]


# -- pictures that are turned ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("pixels", ["exclusive", "inclusive"])
def test_detections_turn_with_annotations_on_stored_pixels(tmp_path: Path, orientation: int, pixels: str) -> None:
    options = random_set(tmp_path, 5)
    plain = measured(tmp_path, options, "--pixels", pixels)["measures"]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (tmp_path / "images").iterdir():
        Image.open(path).save(path, exif=exif)
    turned = measured(tmp_path, options, "--pixels", pixels, "--exif", "stored")["measures"]
    for name, measure in plain.items():
        assert turned[name]["mean"] == pytest.approx(measure["mean"])
