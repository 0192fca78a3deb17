"""Two published examples of AP, typed as tables; `published/SOURCE.txt` says where they stand and what they score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

# Object-Detection-Metrics, samples/sample_2: image → boxes (x, y, width, height) and detections (score, the same),
# one class "object", images of 200 × 200.
SAMPLE_BOXES = {
    1: [(25, 16, 38, 56), (129, 123, 41, 62)],
    2: [(123, 11, 43, 55), (38, 132, 59, 45)],
    3: [(16, 14, 35, 48), (123, 30, 49, 44), (99, 139, 47, 47)],
    4: [(53, 42, 40, 52), (154, 43, 31, 34)],
    5: [(59, 31, 44, 51), (48, 128, 34, 52)],
    6: [(36, 89, 52, 76), (62, 58, 44, 67)],
    7: [(28, 31, 55, 63), (58, 67, 50, 58)],
}
SAMPLE_FOUND = [
    *((1, 0.88, 5, 67, 31, 48), (1, 0.70, 119, 111, 40, 67), (1, 0.80, 124, 9, 49, 67)),
    *((2, 0.71, 64, 111, 64, 58), (2, 0.54, 26, 140, 60, 47), (2, 0.74, 19, 18, 43, 35)),
    *((3, 0.18, 109, 15, 77, 39), (3, 0.67, 86, 63, 46, 45), (3, 0.38, 160, 62, 36, 53)),
    *((3, 0.91, 105, 131, 47, 47), (3, 0.44, 18, 148, 40, 44)),
    *((4, 0.35, 83, 28, 28, 26), (4, 0.78, 28, 68, 42, 67), (4, 0.45, 87, 89, 25, 39), (4, 0.14, 10, 155, 60, 26)),
    *((5, 0.62, 50, 38, 28, 46), (5, 0.44, 95, 11, 53, 28), (5, 0.95, 29, 131, 72, 29), (5, 0.23, 29, 163, 72, 29)),
    *((6, 0.45, 43, 48, 74, 38), (6, 0.84, 17, 155, 29, 35), (6, 0.43, 95, 110, 25, 42)),
    *((7, 0.48, 16, 20, 101, 88), (7, 0.95, 33, 116, 37, 49)),
]

# review_object_detection_metrics, toyexample: image → (width, height), cats (xmin, ymin, xmax, ymax) as in its VOC
# XML, and detections (score, corners) as in dets_classname_abs_xyx2y2.
CATS: dict[str, tuple[tuple[int, int], list[tuple[int, ...]], list[tuple[float, ...]]]] = {
    "2007_000549": ((375, 500), [(1, 49, 341, 499)], [(0.94, 12, 44, 344, 481)]),
    "2007_000733": ((450, 435), [], [(0.85, 220, 344, 400, 431)]),
    "2007_003525": ((500, 375), [(160, 1, 448, 375)], [(0.95, 166, 0, 477, 365)]),
    "2007_004856": ((368, 500), [(28, 1, 335, 496)], [(0.92, 49, 7, 318, 500)]),
    "2007_005460": ((500, 402), [(40, 4, 484, 370)], [(0.95, 6, 55, 495, 402)]),
    "2007_005688": ((500, 334), [(170, 44, 459, 251), (72, 123, 387, 334)], [(0.81, 65, 74, 370, 331)]),
    "2007_009346": (
        (500, 375),
        [(60, 123, 220, 305), (243, 105, 437, 317)],
        [(0.86, 67, 117, 229, 304), (0.76, 281, 109, 444, 320)],
    ),
    "2008_002045": (
        (500, 366),
        [(1, 16, 352, 272), (130, 139, 500, 366)],
        [(0.89, 7, 9, 349, 265), (0.82, 151, 123, 503, 375)],
    ),
    "2008_006599": ((300, 283), [(34, 1, 281, 283)], [(0.99, 29, 0, 268, 287)]),
    "2010_004175": ((400, 300), [(1, 39, 248, 300)], [(0.98, 47, 43, 226, 298)]),
}


def write_sample(folder: Path) -> list[str]:
    """The first example in COCO layout, `found.json` beside it; returns the options that name the data set."""
    (folder / "images").mkdir()
    document: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "object"}],
    }
    for number, boxes in SAMPLE_BOXES.items():
        Image.new("L", (200, 200)).save(folder / "images" / f"{number:05}.png")
        document["images"].append({"id": number, "file_name": f"{number:05}.png", "width": 200, "height": 200})
        for box in boxes:
            own = {"id": len(document["annotations"]) + 1, "image_id": number, "category_id": 1, "bbox": list(box)}
            document["annotations"].append(own | {"area": box[2] * box[3], "iscrowd": 0})
    found = [
        {"image_id": number, "category_id": 1, "bbox": box, "score": score} for number, score, *box in SAMPLE_FOUND
    ]
    (folder / "truth.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return ["--test-json", str(folder / "truth.json"), "--test-images", str(folder / "images")]


def write_cats(folder: Path) -> list[str]:
    """The second in VOC layout; its detections have corners as VOC counts them: the pixels at both are part of it."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / "cats" / name).mkdir(parents=True)
    found: list[dict[str, Any]] = []
    for name, (size, cats, detections) in CATS.items():
        Image.new("L", size).save(folder / "cats/JPEGImages" / f"{name}.jpg")
        corners = [zip(("xmin", "ymin", "xmax", "ymax"), cat, strict=True) for cat in cats]
        boxes = ["".join(f"<{tag}>{value}</{tag}>" for tag, value in corner) for corner in corners]
        objects = "".join(f"<object><name>cat</name><bndbox>{box}</bndbox></object>" for box in boxes)
        xml = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"
        (folder / "cats/Annotations" / f"{name}.xml").write_text(xml, encoding="utf-8")
        for score, x1, y1, x2, y2 in detections:
            own = {"image_id": name, "category_id": "cat", "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            found.append(own)
    (folder / "cats/ImageSets/Main/test.txt").write_text("\n".join(CATS) + "\n", encoding="utf-8")
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return ["--voc-root", str(folder / "cats"), "--test", "test"]
