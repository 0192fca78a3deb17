"""Shared by the tests of whole COCO runs: the smallest detector of every family, on the toy set."""

import json
import shutil
from pathlib import Path

TINY = [
    *("--device", "cpu"),
    *("--detector.train-sizes", "64", "--detector.test-size", "64", "--detector.max-size", "96"),
    *("--detector.precise-bn", "2", "--detector.warmup-iterations", "2"),
]
# On its canvas of 128 pixels; random:vit_64x12_patch16_64 is a small one.
TINY_VITDET = ["--device", "cpu", "--detector.warmup-iterations", "2", "--detector.fpn-channels", "32"]
REGIONS = [
    *("--detector.roi-batch", "16", "--detector.rpn-post-nms-train", "50", "--detector.rpn-post-nms-test", "20"),
]


def tiny(
    coco: Path,
    runs: Path,
    *more: str,
    iterations: int = 4,
    regions: bool = True,
    c4: bool = False,
    vitdet: bool = False,
) -> list[str]:
    """Options of a tiny run on the toy set at `coco`; the presets have pyramids, C4 is the protocol's own detector."""
    return [
        *(("--detector.batch", "2") if c4 else ("--preset", "smoke")),
        *(TINY_VITDET if vitdet else TINY),
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
