"""Instance segmentation end to end on toy data: `bash segmentation/run_coco.sh CKPT`."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from coco_runs import BACKBONES, tiny
from faster_coco_eval.core import mask as coco_mask

from transfer.__main__ import main
from transfer.record import read_record

ROOT = Path(__file__).resolve().parents[2]
ENGINES = [
    pytest.param("mmdet"),
    pytest.param("detectron2", marks=pytest.mark.detectron2),
]


# ViT of 12 blocks: with the CLS token in an FPN on its maps; ConvNeXt atto, Swin-T. Of a ResNet-18 100.
TENSORS = {"vitdet": 147, "vit_fpn": 148, "convnext_fpn": 124, "swin_fpn": 169}


def only_record(runs, task):
    (path,) = (runs / "records" / task).glob("*.json")
    return read_record(path)


def script(*arguments, cwd, **environment):
    """`bash segmentation/run_coco.sh …` as a user would type it, from another folder."""
    return subprocess.run(
        ["bash", str(ROOT / "segmentation" / "run_coco.sh"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("word", ["c4", "fpn", *BACKBONES])
def test_from_a_checkpoint_to_a_record_with_boxes_and_masks(engine, word, coco, tmp_path):
    pytest.importorskip(engine)
    runs = tmp_path / "runs"
    score = ("--detector.score-threshold", "0.0", "--detector.max-detections", "20")
    status = main(
        [
            "run",
            f"segmentation.coco_{word}",
            BACKBONES.get(word, "random:resnet18"),
            *tiny(coco, runs, "--engine", engine, *score, word=word),
        ]
    )
    assert status == 0
    record = only_record(runs, f"segmentation.coco_{word}")
    assert record.status == "finished", record.failure
    assert {"box_AP", "box_AP50", "mask_AP", "mask_AP50", "voc_AP50"} <= set(record.metrics)
    assert record.primary_metric == "mask_AP"
    assert record.verification["tensors"] == TENSORS.get(word, 100)
    assert any("leaves out of the checkpoint" in note for note in record.notes) == (word in BACKBONES)
    workdir = runs / "work" / f"segmentation.coco_{word}" / record.run_id
    for picture in ("contact_sheet.png", "misses.png", "curves.png"):
        assert (workdir / picture).stat().st_size > 1000
    assert list((workdir / "tensorboard").iterdir())

    # The file of detections is what any COCO evaluator takes: ids of the annotation file, masks of the images' size.
    truth = json.loads((coco / "annotations" / "instances_val2017.json").read_text(encoding="utf-8"))
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    detections = json.loads((workdir / "detections.json").read_text(encoding="utf-8"))
    assert detections
    for found in detections:
        assert found["category_id"] in {category["id"] for category in truth["categories"]}
        assert found["segmentation"]["size"] == sizes[found["image_id"]]
        pixels = coco_mask.decode(found["segmentation"])
        assert list(pixels.shape) == sizes[found["image_id"]]
        x, y, width, height = found["bbox"]
        rows, columns = np.nonzero(pixels)
        if len(rows):  # a mask lies in its box
            assert rows.min() >= np.floor(y) - 1
            assert rows.max() <= np.ceil(y + height) + 1
            assert columns.min() >= np.floor(x) - 1
            assert columns.max() <= np.ceil(x + width) + 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("word", ["vitdet", "vit_fpn"])
def test_two_processes_train_one_trunk(engine, word, coco, tmp_path):
    pytest.importorskip(engine)
    runs = tmp_path / "runs"
    more = ("--detector.drop-path", "0.2", *(("--detector.norm", "SyncBN") if word == "vit_fpn" else ()))
    arguments = [word, BACKBONES[word], *tiny(coco, runs, "--engine", engine, *more, word=word)]
    done = script(*arguments, cwd=tmp_path, TORCHRUN="2")
    assert done.returncode == 0, done.stderr[-3000:]
    record = only_record(runs, f"segmentation.coco_{word}")
    assert record.status == "finished"
    assert "2 processes" in record.notes


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_make_one_record_through_the_script(engine, coco, tmp_path):
    pytest.importorskip(engine)
    runs = tmp_path / "runs"
    arguments = ["fpn", "random:resnet18", *tiny(coco, runs, "--engine", engine, "--detector.norm", "SyncBN")]
    done = script(*arguments, cwd=tmp_path, TORCHRUN="2")
    assert done.returncode == 0, done.stderr[-3000:]
    record = only_record(runs, "segmentation.coco_fpn")
    assert record.status == "finished"
    assert "2 processes" in record.notes
    assert any(d["what"] == "images normalised together" for d in record.differences)
    again = script(*arguments, cwd=tmp_path, TORCHRUN="2")
    assert again.returncode == 0
    assert "already finished" in again.stderr


@pytest.fixture(scope="module")
def coco_free(test_data, tmp_path_factory):
    """The freely licensed part of COCO 2017, unpacked; of its test objects those of classes that can be trained."""
    folder = tmp_path_factory.mktemp("coco_free")
    with tarfile.open(test_data / "coco_free" / "coco2017_free.tar") as tar:
        tar.extractall(folder, filter="data")
    root = next(folder.rglob("annotations")).parent
    train, test = (root / "annotations" / f"instances_{split}2017_free.json" for split in ("train", "val"))
    trained = {entry["category_id"] for entry in json.loads(train.read_text(encoding="utf-8"))["annotations"]}
    content = json.loads(test.read_text(encoding="utf-8"))
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] in trained]
    test.write_text(json.dumps(content), encoding="utf-8")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_eight_images_of_coco_are_learnt_by_heart(engine, coco_free, tmp_path):
    pytest.importorskip(engine)
    runs = tmp_path / "runs"
    data = [
        *("--train-json", str(coco_free / "annotations" / "instances_train2017_free.json")),
        *("--train-images", str(coco_free / "train2017")),
        *("--test-json", str(coco_free / "annotations" / "instances_val2017_free.json")),
        *("--test-images", str(coco_free / "val2017"), "--runs", str(runs)),
    ]
    options = ["--preset", "overfit", "--engine", engine, "--device", "cpu", *data]
    assert main(["run", "segmentation.coco_fpn", "random:resnet18", *options]) == 0
    record = only_record(runs, "segmentation.coco_fpn")
    assert record.metrics["box_AP50"] >= 80
    assert record.metrics["mask_AP50"] >= 80
    assert any("same 8 images" in note for note in record.notes)


def test_masks_that_are_missing_are_asked_for(coco, tmp_path, capsys):
    path = coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert main(["run", "segmentation.coco_fpn", "random:resnet18", *tiny(coco, tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert "segmentation" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
