"""The same picture through every path from a file to pixels: the same pixels, or the same refusal."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import GREY, HEIGHT, PICTURES, REFUSED, WIDTH

from detection.pictures import panels as sheet_panels
from detection.recipe import FasterRcnnC4
from pretrain.sources import ImageSource, open_source
from transfer.datasets.boxes.coco import read_coco
from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.images import read_header
from transfer.datasets.labels.own_images import read_csv, read_image_folder
from transfer.runtime.errors import DataError

FILES = {name: data for name, (data, _) in PICTURES.items()}
EXPECTED = {name: pixels for name, (_, pixels) in PICTURES.items()}
Read = Callable[[], NDArray[np.uint8]]
Path_ = Callable[[Path, dict[str, bytes]], Iterator[tuple[str, Read]]]  # files → a reader of each
# A picture goes through the engines' transforms at its own size, so that these change nothing.
AS_IT_IS = FasterRcnnC4(train_sizes=(HEIGHT,), test_size=HEIGHT, max_size=WIDTH, flip=0.0)


def written(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    """Files in order; what is in them decides the format, not their ending."""
    folder.mkdir(parents=True)
    paths = {name: folder / f"{number:03d}.png" for number, name in enumerate(files)}
    for name, path in paths.items():
        path.write_bytes(files[name])
    return paths


def of_source(source: Any, names: Any) -> Iterator[tuple[str, Read]]:
    for number, name in enumerate(names):
        yield name, lambda number=number: np.asarray(source.read(number))


# -- pretraining and classification ------------------------------------------------------------------------------


def folder(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    written(tmp_path / "images", files)
    return of_source(open_source(tmp_path / "images"), files)


def listed(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    paths = written(tmp_path / "images", files)
    lines = "".join(f"images/{path.name}\n" for path in paths.values())
    (tmp_path / "list.txt").write_text(lines, encoding="utf-8")
    return of_source(open_source(tmp_path / "list.txt"), files)


def shards(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    tmp_path.mkdir(exist_ok=True)
    with tarfile.open(tmp_path / "train-0.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for number, data in enumerate(files.values()):
            member = tarfile.TarInfo(f"{number:03d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source: ImageSource = open_source(tmp_path / "train-0.tar")
    return of_source(source, files)


def arrow(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    hub = pytest.importorskip("datasets")
    cells = {"image": [{"bytes": data, "path": None} for data in files.values()]}
    hub.Dataset.from_dict(cells, features=hub.Features({"image": hub.Image()})).save_to_disk(str(tmp_path / "set"))
    return of_source(open_source(tmp_path / "set"), files)


def image_folder(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    for split, label in (("train", "a"), ("train", "b"), ("test", "a")):
        written(tmp_path / split / label, files)
    return of_source(read_image_folder(tmp_path).test.images, files)


def csv(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    paths = written(tmp_path / "images", files)
    rows = [f"images/{path.name},a,test" for path in paths.values()]
    for label in "ab":
        (tmp_path / f"{label}.png").write_bytes(FILES["colour"])
        rows.append(f"{label}.png,{label},train")
    (tmp_path / "set.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return of_source(read_csv(tmp_path / "set.csv").test.images, files)


# -- detection ---------------------------------------------------------------------------------------------------


def detection_images(tmp_path: Path, files: dict[str, bytes]) -> dict[str, DetectionImage]:
    """Read from a COCO file that says the size as seen of every one."""
    paths = written(tmp_path / "images", files)
    entries = [
        {"id": number, "file_name": path.name, "width": WIDTH, "height": HEIGHT}
        for number, path in enumerate(paths.values(), 1)
    ]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 4, 5], "area": 20, "iscrowd": 0}
    document = {"images": entries, "annotations": [box], "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "set.json").write_text(json.dumps(document), encoding="utf-8")
    dataset = read_coco(tmp_path / "set.json", tmp_path / "images", "set", masks=False)
    return dict(zip(files, dataset.images, strict=True))


def planes(item: Any, key: str) -> NDArray[np.uint8]:
    """RGB [height, width, 3] of an engine's BGR [3, height, width]; raises the error that stands in for an item."""
    if isinstance(item, DataError):
        raise item
    return np.asarray(item[key].permute(1, 2, 0))[..., ::-1]


def mmdetection(tmp_path: Path, files: dict[str, bytes], train: bool) -> Iterator[tuple[str, Read]]:
    from detection.engines.mmdet import ENGINE

    if ENGINE.missing():
        pytest.skip(f"MMDetection: {ENGINE.missing()}")
    from detection.engines.mmdet import data

    load = data.training_pipeline(AS_IT_IS) if train else data.test_pipeline(AS_IT_IS)
    for name, image in detection_images(tmp_path, files).items():
        yield name, lambda image=image: planes(load(image), "inputs")


def detectron2(tmp_path: Path, files: dict[str, bytes], train: bool) -> Iterator[tuple[str, Read]]:
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg

    from detection.engines.detectron2.data import PredictionImages, TrainMapper

    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (HEIGHT,), HEIGHT
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = WIDTH
    cfg.INPUT.RANDOM_FLIP = "none"
    images = detection_images(tmp_path, files)
    load, test = TrainMapper(cfg, 0.0), PredictionImages(cfg)
    for name, image in images.items():
        yield (
            name,
            lambda image=image: planes((load if train else test)(image), "image"),
        )


def mmdet_training(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    return mmdetection(tmp_path, files, train=True)


def mmdet_test(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    return mmdetection(tmp_path, files, train=False)


def detectron2_training(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    return detectron2(tmp_path, files, train=True)


def detectron2_test(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    return detectron2(tmp_path, files, train=False)


def contact_sheet(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Read]]:
    """The panel on a sheet, whose longest side is here that of the pictures."""
    for name, image in detection_images(tmp_path, files).items():
        yield name, lambda image=image: np.asarray(sheet_panels.draw_pair(image, [], [], ("", "")).left)


PATHS: tuple[Any, ...] = (
    *(folder, listed, shards, arrow, image_folder, csv, mmdet_training, mmdet_test, contact_sheet),
    pytest.param(detectron2_training, marks=pytest.mark.detectron2),
    pytest.param(detectron2_test, marks=pytest.mark.detectron2),
)


@pytest.mark.parametrize("path", PATHS)
def test_the_same_pixels_everywhere(path: Path_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet_panels, "PANEL", WIDTH)
    found = {name: read() for name, read in path(tmp_path, FILES)}
    assert list(found) == list(EXPECTED)
    assert [name for name, pixels in EXPECTED.items() if not np.array_equal(found[name], pixels)] == []


@pytest.mark.parametrize("path", PATHS)
def test_the_same_refusal_everywhere(path: Path_, tmp_path: Path) -> None:
    for number, (name, (data, words)) in enumerate(REFUSED.items()):
        with pytest.raises(DataError) as caught:
            next(iter(path(tmp_path / str(number), {name: data})))[1]()
        error = caught.value
        assert error.what.startswith("cannot read the image "), name
        assert error.found.startswith(words), name
        assert error.todo == "replace it or take it out of the set", name


def test_the_header_tells_the_size_as_seen(tmp_path: Path) -> None:
    for name, path in written(tmp_path / "images", FILES).items():
        header = read_header(path)
        orientation = int(name[-1]) if "orientation" in name else 1
        assert (header.seen, header.orientation) == ((WIDTH, HEIGHT), orientation), name
        assert header.stored == ((HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)), name
        assert header.deep == (name.startswith("16-bit") and "colour" not in name), name


# -- where the engines' own loaders do otherwise: what the text above `transfer/datasets/images.py` says ---------------


def differences(load: Callable[[bytes], NDArray[np.uint8] | None]) -> dict[str, int]:
    """Picture → the largest difference of a value; 256 for another size, or a picture that is not read."""
    found = {}
    for name, data in FILES.items():
        pixels, expected = load(data), EXPECTED[name]
        same_size = pixels is not None and pixels.shape == expected.shape
        found[name] = int(abs(pixels.astype(int) - expected).max()) if same_size else 256
    return {name: value for name, value in found.items() if value}


def test_what_mmcv_reads_otherwise() -> None:
    mmcv = pytest.importorskip("mmcv")

    def load(data: bytes) -> NDArray[np.uint8] | None:
        pixels = mmcv.imfrombytes(data, flag="color")  # LoadImageFromFile's own call
        return None if pixels is None else pixels[..., ::-1]

    found = differences(load)
    for name in [name for name in found if name.split()[0] in ("PNG", "WEBP", "TIFF")]:
        del found[name]  # these formats' orientation: newer releases of OpenCV only apply it
    assert found.pop("CMYK TIFF") <= 2
    assert found.pop("CMYK JPEG") <= 2
    assert list(found) == ["colour with alpha TIFF"]  # multiplied by its alpha


@pytest.mark.detectron2
def test_what_detectron2_reads_otherwise(tmp_path: Path) -> None:
    utils = pytest.importorskip("detectron2.data.detection_utils")
    path = tmp_path / "picture"

    def load(data: bytes) -> NDArray[np.uint8]:
        path.write_bytes(data)
        return np.asarray(utils.read_image(str(path), "RGB"))

    found = differences(load)
    white = [name for name in FILES if name.startswith("16-bit") and "colour" not in name]
    # Pillow turns a TIFF when it is loaded, Detectron2 once more.
    twice = [name for name in FILES if name.startswith("TIFF orientation") and not name.endswith("1")]
    assert set(found) == {*white, *twice}
    assert load(FILES["16-bit grey"])[GREY > 0].min() == 255
