"""Small folders in the layouts of the official classification sets: two or three classes of tiny images.

Each writer takes the data root and returns what a reader must find: split → [(image name below the set's own folder,
name of its class)], in the order in which the set's files list them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

Found = dict[str, list[tuple[str, str]]]


def picture(path: Path, number: int) -> None:
    """An 8×8 image; equal numbers give equal bytes, different ones different bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG" if path.suffix == ".png" else "JPEG")


def write_pictures(root: Path, found: Found) -> Found:
    """The files of all splits."""
    for number, name in enumerate(name for rows in found.values() for name, _ in rows):
        picture(root / name, number)
    return found


def write_text(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_folders(
    root: Path, classes: Sequence[str], train: int = 3, test: int = 2, names: str = "train test"
) -> Found:
    first, second = names.split()
    rows = {"train": (first, train), "test": (second, test)}
    found = {
        split: [(f"{folder}/{label}/{label}_{i}.JPEG", label) for label in classes for i in range(count)]
        for split, (folder, count) in rows.items()
    }
    return write_pictures(root, found)


WNIDS = ("n01440764", "n01443537", "n15075141")


def write_imagenet(root: Path) -> Found:
    """With both of SimCLR's lists, of the first and of the first two training images of each class."""
    base = root / "imagenet"
    found = write_folders(base, WNIDS, names="train val")
    for percent, count in ((1, 1), (10, 2)):
        names = [f"{wnid}_{i}.JPEG" for i in range(count) for wnid in reversed(WNIDS)]
        write_text(base / "imagenet_subsets" / f"{percent}percent.txt", names)
    return found


def write_places205(root: Path) -> Found:
    base, classes = root / "places205", ("a/abbey", "a/apartment_building/outdoor", "b/bar")
    found: Found = {}
    for split, file, count in (("train", "train", 3), ("test", "val", 2)):
        rows = [(f"{label}/gsun_{split}{i}.jpg", label) for label in reversed(classes) for i in range(count)]
        lines = [f"{name} {classes.index(label)}" for name, label in rows]
        write_text(base / "trainvalsplit_places205" / f"{file}_places205.csv", lines)
        found[split] = rows
    write_pictures(base / "data/vision/torralba/deeplearning/images256", found)
    return found


def inat_categories() -> list[dict[str, object]]:
    """Not in the order of their ids."""
    return [
        {"id": 2, "name": "Canis lupus", "supercategory": "Mammalia"},
        {"id": 0, "name": "Apis mellifera", "supercategory": "Insecta"},
        {"id": 1, "name": "Apis cerana", "supercategory": "Insecta"},
    ]


def write_inat18(root: Path) -> Found:
    base, found = root / "inat2018", Found()
    for split, file, count in (("train", "train2018", 3), ("test", "val2018", 1)):
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        rows = []
        for category in inat_categories():
            for i in range(count):
                key, name = len(images) + 100, f"train_val2018/x/{category['id']}/{split}{i}.jpg"
                images.append({"id": key, "file_name": name, "width": 8, "height": 8})
                annotations.append({"id": key, "image_id": key, "category_id": category["id"]})
                rows.append((name, str(category["name"])))
        document = {"images": images, "annotations": annotations[::-1], "categories": inat_categories()}
        base.mkdir(exist_ok=True)
        (base / f"{file}.json").write_text(json.dumps(document), encoding="utf-8")
        found[split] = rows
    return write_pictures(base, found)


VOC_NAMES = {"trainval": ("000001", "000002", "000003"), "test": ("000004", "000005")}
# Objects of each image: (class, difficult).
VOC_OBJECTS = {
    "000001": [("cat", 0), ("cat", 1), ("dog", 1)],
    "000002": [("dog", 0)],
    "000003": [],
    "000004": [("cat", 1)],
    "000005": [("dog", 0), ("cat", 0)],
}
# The labels that follow: columns cat, dog.
VOC_LABELS = {"trainval": [[1, 0], [-1, 1], [-1, -1]], "test": [[0, -1], [1, 1]]}


def write_voc_labels(base: Path, lists: bool = True) -> None:
    """A VOC folder of classes cat and dog, annotations with or without the lists by class."""
    for number, (name, objects) in enumerate(VOC_OBJECTS.items()):
        picture(base / "JPEGImages" / f"{name}.jpg", number)
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>8</xmax><ymax>8</ymax></bndbox>"
        nodes = "".join(
            f"<object><name>{label}</name><difficult>{difficult}</difficult>{box}</object>"
            for label, difficult in objects
        )
        write_text(base / "Annotations" / f"{name}.xml", [f"<annotation>{nodes}</annotation>"])
    for split, names in VOC_NAMES.items():
        write_text(base / "ImageSets/Main" / f"{split}.txt", names)
        for column, label in enumerate(("cat", "dog") if lists else ()):
            rows = [f"{name} {row[column]:2d}" for name, row in zip(names, VOC_LABELS[split], strict=True)]
            write_text(base / "ImageSets/Main" / f"{label}_{split}.txt", rows)


def write_cub200(root: Path) -> Found:
    base, classes = root / "CUB_200_2011", ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    write_text(base / "classes.txt", [f"{number} {name}" for number, name in enumerate(classes, 1)])
    rows = [(f"{label}/bird {i}.jpg", label, i % 2) for label in classes for i in range(5)]
    write_text(base / "images.txt", [f"{number} {name}" for number, (name, _, _) in enumerate(rows, 1)])
    labels = [f"{number} {classes.index(label) + 1}" for number, (_, label, _) in enumerate(rows, 1)]
    write_text(base / "image_class_labels.txt", labels)
    write_text(base / "train_test_split.txt", [f"{number} {flag}" for number, (_, _, flag) in enumerate(rows, 1)])
    found = {
        "train": [(name, label) for name, label, flag in rows if flag],
        "test": [(name, label) for name, label, flag in rows if not flag],
    }
    write_pictures(base / "images", found)
    return found


def write_birdsnap(root: Path) -> Found:
    """One training image of four could not be fetched."""
    base = root / "birdsnap"
    species = [("1", "Blue Jay", "Cyanocitta cristata", "Blue_Jay"), ("2", "Ovenbird", "Seiurus", "Ovenbird")]
    write_text(base / "species.txt", ["id\tcommon\tscientific\tdir", *("\t".join(row) for row in species)])
    rows = [(f"{folder}/{i}.jpg", key, name) for key, name, _, folder in species for i in range(3)]
    write_text(
        base / "images.txt",
        ["url\tmd5\tpath\tspecies_id\tbb_x1", *(f"http://x/{name}\tabc\t{name}\t{key}\t5" for name, key, _ in rows)],
    )
    testing = [name for name, _, _ in rows if name.endswith("2.jpg")]
    write_text(base / "test_images.txt", ["path", *testing])
    found = {
        "train": [(name, label) for name, _, label in rows if name not in testing][:-1],
        "test": [(name, label) for name, _, label in rows if name in testing],
    }
    write_pictures(base / "download/images", found)
    return found


def write_aircraft(root: Path) -> Found:
    base = root / "fgvc-aircraft-2013b"
    variants = {"707-320": ("Boeing 707", "Boeing"), "737-200": ("Boeing 737", "Boeing"), "A300B4": ("A300", "Airbus")}
    levels = {"variant": list(variants)}
    levels["family"] = ["Boeing 737", "Boeing 707", "A300"]
    levels["manufacturer"] = ["Boeing", "Airbus"]
    files = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
    found: Found = {}
    for level, names in levels.items():
        write_text(base / "data" / files[level], names)
    for number, split in enumerate(("train", "val", "test")):
        rows = [(f"{number}{i}{j}", variant) for i, variant in enumerate(variants) for j in range(2)]
        write_text(base / f"data/images_variant_{split}.txt", [f"{name} {variant}" for name, variant in rows])
        for place, level in enumerate(("family", "manufacturer")):
            lines = [f"{name} {variants[variant][place]}" for name, variant in rows]
            write_text(base / f"data/images_{level}_{split}.txt", lines)
        found[split] = [(f"data/images/{name}.jpg", variant) for name, variant in rows]
    return write_pictures(base, found)


def write_pets(root: Path) -> Found:
    base, breeds = root / "oxford-iiit-pet", (("Abyssinian", 1), ("american_bulldog", 2), ("Bengal", 1))
    found: Found = {}
    for split, start in (("trainval", 1), ("test", 100)):
        rows = [(f"{breed}_{start + i}", n, kind) for n, (breed, kind) in enumerate(breeds, 1) for i in range(2)]
        write_text(base / f"annotations/{split}.txt", [f"{name} {n} {kind} 1" for name, n, kind in rows])
        titles = {1: "Abyssinian", 2: "American Bulldog", 3: "Bengal"}
        found["train" if split == "trainval" else split] = [(f"images/{name}.jpg", titles[n]) for name, n, _ in rows]
    return write_pictures(base, found)


def write_flowers(root: Path) -> Found:
    base, found = root / "flowers-102", Found()
    classes = {1: "pink primrose", 2: "hard-leaved pocket orchid", 3: "canterbury bells"}
    labels = [3, 1, 2, 1, 2, 3, 1, 2, 3]
    ids = {"trnid": [3, 1, 2], "valid": [6, 4, 5], "tstid": [7, 8, 9]}
    base.mkdir()
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    scipy.io.savemat(base / "setid.mat", {key: np.array([value], dtype=np.uint16) for key, value in ids.items()})
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        found[split] = [(f"jpg/image_{i:05d}.jpg", classes[labels[i - 1]]) for i in ids[key]]
    return write_pictures(base, found)


def write_dtd(root: Path) -> Found:
    base, found = root / "dtd/dtd", Found()
    for split in ("train", "val", "test"):
        rows = [(f"{label}/{label}_{split}{i}.jpg", label) for label in ("banded", "blotchy") for i in range(2)]
        write_text(base / "labels" / f"{split}1.txt", [name for name, _ in rows])
        found[split] = rows
    write_pictures(base / "images", found)
    return found


def write_food(root: Path) -> Found:
    base, found = root / "food-101", Found()
    for split in ("train", "test"):
        listed = {label: [f"{label}/{split}{i}" for i in range(2)] for label in ("waffles", "apple_pie")}
        (base / "meta").mkdir(parents=True, exist_ok=True)
        (base / "meta" / f"{split}.json").write_text(json.dumps(listed), encoding="utf-8")
        found[split] = [(f"{name}.jpg", label) for label, names in listed.items() for name in names]
    write_pictures(base / "images", found)
    return found


def write_cars(root: Path) -> Found:
    base, classes, found = root / "stanford_cars", ["AM General Hummer", "Acura RL"], Found()
    (base / "devkit").mkdir(parents=True)
    scipy.io.savemat(base / "devkit/cars_meta.mat", {"class_names": np.array([classes], dtype=object)})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(f"{i:05d}.jpg", i % 2 + 1) for i in range(1, 5)]
        table = np.array([rows], dtype=object)
        entries = np.zeros((1, len(rows)), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
        entries["bbox_x1"], entries["class"], entries["fname"] = 1, table[..., 1], table[..., 0]
        scipy.io.savemat(base / file, {"annotations": entries})
        found[split] = [(f"cars_{split}/{name}", classes[number - 1]) for name, number in rows]
    return write_pictures(base, found)


def write_sun397(root: Path) -> Found:
    base, classes, found = root / "SUN397", ("a/abbey", "a/apse/indoor", "z/zoo"), Found()
    write_text(base / "ClassName.txt", [f"/{name}" for name in classes])
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        found[split] = [(f"{label}/sun_{split}{i}.jpg", label) for label in classes for i in range(2)]
        write_text(base / file, [f"/{name}" for name, _ in found[split]])
    return write_pictures(base, found)


def write_caltech(root: Path) -> dict[str, int]:
    """Classes and how many images each has."""
    counts = {"BACKGROUND_Google": 33, "Faces": 31, "ant": 40}
    for label, count in counts.items():
        for number in range(1, count + 1):
            picture(root / "caltech101/101_ObjectCategories" / label / f"image_{number:04d}.jpg", number)
    return counts


def write_cifar(root: Path, classes: int) -> dict[str, tuple[np.ndarray, list[int]]]:
    """CIFAR-10 (five files) or CIFAR-100: split → pixels [n, 32, 32, 3] and labels."""
    generator, key = np.random.default_rng(classes), "labels" if classes == 10 else "fine_labels"
    base = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    base.mkdir()
    files = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    if classes == 100:
        files = {"train": ["train"], "test": ["test"]}
    found = {}
    for split, names in files.items():
        pixels = [generator.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8) for _ in names]
        labels = [generator.integers(0, classes, 20).tolist() for _ in names]
        for name, image, label in zip(names, pixels, labels, strict=True):
            rows = image.transpose(0, 3, 1, 2).reshape(20, -1)  # stored channel by channel
            (base / name).write_bytes(pickle.dumps({"data": rows, key: label}))
        found[split] = np.concatenate(pixels), np.concatenate(labels).tolist()
    words = [f"class {number}" for number in range(classes)]
    meta = {"label_names": words} if classes == 10 else {"fine_label_names": words}
    (base / ("batches.meta" if classes == 10 else "meta")).write_bytes(pickle.dumps(meta))
    return found


def without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares the files of CIFAR and Flowers with their published MD5; ours have another."""
    from torchvision.datasets import CIFAR10, CIFAR100, Flowers102

    for kind in (CIFAR10, CIFAR100):
        for part in ("train_list", "test_list"):
            monkeypatch.setattr(kind, part, [[name, None] for name, _ in getattr(kind, part)])
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": None})
    files = {key: (name, None) for key, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)


# Catalogue name → writer of those sets whose readers give back names and classes in the order of the lists.
WRITERS: dict[str, Callable[[Path], Found]] = {
    "imagenet": write_imagenet,
    "places205": write_places205,
    "inat18": write_inat18,
    "cub200": write_cub200,
    "birdsnap": write_birdsnap,
    "aircraft": write_aircraft,
    "pets": write_pets,
    "flowers102": write_flowers,
    "dtd": write_dtd,
    "food101": write_food,
    "cars196": write_cars,
    "sun397": write_sun397,
}
