"""Shared by the tests of whole COCO runs: the smallest detector of every family, on the toy set."""

import json
import shutil
from pathlib import Path

TINY = [
    *("--device", "cpu"),
    *("--detector.train-sizes", "64", "--detector.test-size", "64", "--detector.max-size", "96"),
    *("--detector.precise-bn", "2", "--detector.warmup-iterations", "2"),
]
# ViTDet on its canvas of 128 pixels
TINY_VITDET = ["--device", "cpu", "--detector.warmup-iterations", "2", "--detector.fpn-channels", "32"]
TINY_MAPS = [*TINY[: TINY.index("--detector.precise-bn")], *TINY_VITDET[2:]]
# Detector → a small backbone of the family that it is built on
BACKBONES = {
    "vitdet": "random:vit_64x12_patch16_64",
    "vit_fpn": "random:vit_64x12_patch16_64",
    "convnext_fpn": "random:convnext_atto",
    "swin_fpn": "random:swin_tiny_window7_224",
}
REGIONS = [
    *("--detector.roi-batch", "16", "--detector.rpn-post-nms-train", "50", "--detector.rpn-post-nms-test", "20"),
]


def tiny(
    coco: Path,
    runs: Path,
    *more: str,
    iterations: int = 4,
    regions: bool = True,
    word: str = "fpn",
) -> list[str]:
    """Options of a tiny run on the toy set at `coco`; the presets have pyramids, C4 is the protocol's own detector."""
    return [
        *(("--detector.batch", "2") if word == "c4" else ("--preset", "smoke")),
        *({"vitdet": TINY_VITDET} | dict.fromkeys(("vit_fpn", "convnext_fpn", "swin_fpn"), TINY_MAPS)).get(word, TINY),
        *(REGIONS if regions else []),
        *("--train-json", str(coco / "annotations" / "instances_train2017.json")),
        *("--train-images", str(coco / "train2017")),
        *("--test-json", str(coco / "annotations" / "instances_val2017.json")),
        *("--test-images", str(coco / "val2017")),
        *("--runs", str(runs)),
        *("--detector.iterations", str(iterations), "--detector.steps", str(max(1, iterations - 1))),
        *more,
    ]


def small_copy(toy: Path, folder: Path, images: int = 4) -> Path:
    """A copy of the toy set in `folder` whose validation file names a few images only."""
    copy = folder / "my coco"  # a space: paths must be quoted everywhere
    shutil.copytree(toy / "coco", copy)
    path = copy / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["images"] = content["images"][:images]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps(content), encoding="utf-8")
    return copy
