"""Readers of the official classification sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from official_layouts import (
    VOC_LABELS,
    VOC_NAMES,
    WNIDS,
    WRITERS,
    inat_categories,
    picture,
    without_checksums,
    write_birdsnap,
    write_caltech,
    write_cifar,
    write_cub200,
    write_folders,
    write_imagenet,
    write_inat18,
    write_pets,
    write_places205,
    write_sun397,
    write_text,
    write_voc_labels,
)

from transfer.datasets.labels import imagenet, torchvision_sets
from transfer.datasets.labels.catalogue import CATALOGUE
from transfer.datasets.labels.imagenet import read_imagenet
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages
from transfer.datasets.labels.voc_labels import read_voc_labels
from transfer.runtime.errors import DataError


def rows(split: LabelledImages) -> list[tuple[str, str]]:
    return [(split.images.name(i), split.classes[split.labels[i]]) for i in range(len(split))]


def read(name: str, root: Path) -> ImageSplits:
    return CATALOGUE[name].read(root, False)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        act()
    assert caught.value.todo, "says nothing about what to do"
    return str(caught.value)


# -- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_names_labels_and_splits_are_those_of_the_layout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_checksums(monkeypatch)
    expected = WRITERS[name](tmp_path)
    found = read(name, tmp_path)
    parts = {"train": found.train, "val": found.val, "test": found.test}
    for split, part in parts.items():
        assert (part is None) == (split not in expected)
        if part is not None:
            assert rows(part) == expected[split]
            assert part.images.read(len(part) - 1).size == (8, 8)
            assert part.images.size(0) == len(part.images.content(0))
            assert part.name.startswith(name.removesuffix("18")[:4])


# ImageNet has no list, and of Birdsnap images may be missing.
@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"imagenet", "birdsnap"}))
def test_a_missing_image_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_checksums(monkeypatch)
    expected = WRITERS[name](tmp_path)
    victim = expected["test"][-1][0]
    next(path for path in tmp_path.rglob(Path(victim).name) if path.as_posix().endswith(victim)).unlink()
    message = refusal(lambda: read(name, tmp_path))
    assert "1 of" in message
    assert victim in message


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_keeps_pixels_and_labels(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_checksums(monkeypatch)
    expected = write_cifar(tmp_path, classes)
    found = read(f"cifar{classes}", tmp_path)
    for split, part in (("train", found.train), ("test", found.test)):
        pixels, labels = expected[split]
        assert part.labels.tolist() == labels
        assert np.array_equal(np.asarray(part.images.read(7)), pixels[7])
        assert part.images.content(7) == pixels[7].tobytes()
        assert part.images.size(7) == 32 * 32 * 3
        assert part.images.name(7) == f"{split}/00007"
    assert found.train.classes[3] == "class 3"
    assert found.train.fingerprint() != found.test.fingerprint()


def test_cifar_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, 10)
    assert "corrupted" in refusal(lambda: read("cifar10", tmp_path))


def test_caltech_draws_thirty_of_each_class_always_the_same(tmp_path: Path) -> None:
    counts = write_caltech(tmp_path)
    found, again = read("caltech101", tmp_path), read("caltech101", tmp_path)
    assert found.train.classes == tuple(counts)
    assert found.train.counts().tolist() == [30, 30, 30]
    assert found.test.counts().tolist() == [count - 30 for count in counts.values()]
    assert {name for name, _ in rows(found.train)}.isdisjoint(name for name, _ in rows(found.test))
    assert found.fingerprints() == again.fingerprints()
    assert "no official split" in found.test.notes[0]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a split of the small Caltech-101, one file with carriage returns as the original has them."""
    write_caltech(tmp_path)
    folder = tmp_path / "caltech101" / "caltech101-splits"
    folder.mkdir()
    lines = {
        "train": ["BACKGROUND_Google/image_0003.jpg 0", "Faces/image_0001.jpg 1", "ant/image_0002.jpg 2"],
        "test": ["Faces/image_0002.jpg 1", "ant/image_0001.jpg 2"],
    }
    digests = {}
    for split, names in lines.items():
        end = "\r\n" if split == "train" else "\n"
        (folder / f"{split}.txt").write_bytes("".join(name + end for name in names).encode())
        digests[split] = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    monkeypatch.setattr(torchvision_sets, "CALTECH_SPLITS", digests)
    return folder


def test_caltech_by_the_published_split(tmp_path: Path, published: Path) -> None:
    found = read("caltech101", tmp_path)
    assert [name.rpartition("101_ObjectCategories/")[2] for name, _ in rows(found.train)] == [
        "BACKGROUND_Google/image_0003.jpg",
        "Faces/image_0001.jpg",
        "ant/image_0002.jpg",
    ]
    assert found.test.counts().tolist() == [0, 1, 1]
    assert not any("drawn with seed 0" in note for note in found.test.notes)


def test_caltech_by_another_split_is_refused(tmp_path: Path, published: Path) -> None:
    with (published / "test.txt").open("a", encoding="utf-8") as file:
        file.write("ant/image_0005.jpg 2\n")
    said = refusal(lambda: read("caltech101", tmp_path))
    assert "test.txt is not the published split" in said
    assert "caltech101-splits/ of linusericsson/ssl-transfer" in said


def test_caltech_refuses_classes_that_leave_nothing_to_test(tmp_path: Path) -> None:
    write_caltech(tmp_path)
    for number in range(2, 12):
        (tmp_path / "caltech101/101_ObjectCategories/ant" / f"image_{number:04d}.jpg").unlink()
    assert "ant" in refusal(lambda: read("caltech101", tmp_path))


def test_levels_of_aircraft_and_pets(tmp_path: Path) -> None:
    WRITERS["aircraft"](tmp_path)
    WRITERS["pets"](tmp_path)
    aircraft, pets = read("aircraft", tmp_path).train, read("pets", tmp_path).test
    assert aircraft.classes == ("707-320", "737-200", "A300B4")
    families, makers = aircraft.levels["family"], aircraft.levels["manufacturer"]
    assert [families.classes[n] for n in families.parent] == ["Boeing 707", "Boeing 737", "A300"]
    assert [makers.classes[n] for n in makers.parent] == ["Boeing", "Boeing", "Airbus"]
    species = pets.levels["species"]
    assert [species.classes[n] for n in species.parent] == ["Cat", "Dog", "Cat"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(["000 Boeing 707"], "in no list"), ([f"00{i} Boeing 707" for i in range(4)], "manufacturer")],
)
def test_aircraft_refuses_levels_that_do_not_fit(lines: list[str], expected: str, tmp_path: Path) -> None:
    WRITERS["aircraft"](tmp_path)
    level = "family" if len(lines) == 1 else "manufacturer"
    maker = [line.replace("Boeing 707", "Boeing") for line in lines]
    write_text(tmp_path / f"fgvc-aircraft-2013b/data/images_{level}_train.txt", lines if level == "family" else maker)
    assert expected in refusal(lambda: read("aircraft", tmp_path))


def test_pets_with_a_gap_in_the_class_numbers_are_refused(tmp_path: Path) -> None:
    write_pets(tmp_path)
    file = tmp_path / "oxford-iiit-pet/annotations/test.txt"
    file.write_text(file.read_text(encoding="utf-8").replace(" 3 1 1", " 5 1 1"), encoding="utf-8")
    with pytest.raises(DataError, match="no classes"):
        read("pets", tmp_path)


def test_sun397_partitions_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    expected = write_sun397(tmp_path)
    (tmp_path / "SUN397/Partitions").mkdir()
    for file in ("Training_01.txt", "Testing_01.txt"):
        (tmp_path / "SUN397" / file).rename(tmp_path / "SUN397/Partitions" / file)
    assert rows(read("sun397", tmp_path).test) == expected["test"]
    (tmp_path / "SUN397/Partitions/Testing_01.txt").unlink()
    assert "Partitions.zip" in refusal(lambda: read("sun397", tmp_path))


def test_sun397_refuses_a_scene_that_is_no_class(tmp_path: Path) -> None:
    write_sun397(tmp_path)
    write_text(tmp_path / "SUN397/Testing_01.txt", ["/q/quay/sun_1.jpg"])
    assert "q/quay" in refusal(lambda: read("sun397", tmp_path))


# -- ImageNet ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("percent", "count"), [(1, 1), (10, 2)])
def test_subsets_of_imagenet_are_what_the_list_names(percent: int, count: int, tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    found = read(f"imagenet_{percent}", tmp_path)
    wnids = list(reversed(WNIDS))
    assert rows(found.train) == [(f"train/{wnid}/{wnid}_{i}.JPEG", wnid) for i in range(count) for wnid in wnids]
    assert found.train.classes == WNIDS
    assert len(found.test) == 6
    assert "not the published list" in found.train.notes[0]


def test_the_published_list_has_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_imagenet(tmp_path)
    sha = hashlib.sha256((tmp_path / "imagenet/imagenet_subsets/1percent.txt").read_bytes()).hexdigest()
    monkeypatch.setitem(imagenet.SUBSETS, 1, (3, sha))
    assert read_imagenet(tmp_path / "imagenet", 1).train.notes == ()


def test_unsorted_validation_images_are_recognised(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    picture(tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG", 1)
    for name in ("imagenet", "imagenet_1"):
        message = refusal(lambda name=name: read(name, tmp_path))  # type: ignore[misc]
        assert "ILSVRC2012_val_00000001.JPEG" in message
        assert "val/<wnid>/" in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [("n99999999_1.JPEG", "n99999999_1.JPEG"), ("dog.jpg", "dog.jpg"), (f"{WNIDS[0]}_77.JPEG", "are missing")],
)
def test_a_subset_with_other_names_is_refused(line: str, expected: str, tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    write_text(tmp_path / "imagenet/imagenet_subsets/1percent.txt", [f"{WNIDS[0]}_0.JPEG", line])
    assert expected in refusal(lambda: read("imagenet_1", tmp_path))


# -- Places205, iNaturalist, birds -------------------------------------------------------------------------------


def test_places205_as_folders(tmp_path: Path) -> None:
    expected = write_folders(tmp_path / "places205", ("abbey", "bar"), names="train val")
    assert rows(read("places205", tmp_path).test) == expected["test"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [("a/abbey/x.jpg", "no path and class"), ("a/x.jpg 7", "have gaps"), ("a/x.jpg 1e3", "no path and class")],
)
def test_places205_refuses_odd_lines(line: str, expected: str, tmp_path: Path) -> None:
    write_places205(tmp_path)
    with (tmp_path / "places205/trainvalsplit_places205/train_places205.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    assert expected in refusal(lambda: read("places205", tmp_path))


def test_inat18_classes_follow_the_ids_and_levels_the_categories(tmp_path: Path) -> None:
    write_inat18(tmp_path)
    found = read("inat18", tmp_path).train
    assert found.classes == ("Apis mellifera", "Apis cerana", "Canis lupus")
    level = found.levels["supercategory"]
    assert [level.classes[n] for n in level.parent] == ["Insecta", "Insecta", "Mammalia"]
    named = [row | {"name": f"species {row['id']}", "genus": str(row["name"]).split()[0]} for row in inat_categories()]
    (tmp_path / "inat2018/categories.json").write_text(json.dumps(named), encoding="utf-8")
    found = read("inat18", tmp_path).test
    assert found.classes == ("species 0", "species 1", "species 2")
    assert list(found.levels) == ["supercategory", "genus"]
    assert [found.levels["genus"].classes[n] for n in found.levels["genus"].parent] == ["Apis", "Apis", "Canis"]


Document = dict[str, list[dict[str, object]]]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: d["annotations"].pop(), "without an annotation"),
        (lambda d: d["images"].append(dict(d["images"][0])), "image ids"),
        (lambda d: d["categories"].append(dict(d["categories"][0])), "category ids"),
        (lambda d: d["annotations"].append(dict(d["annotations"][0])), "annotated images"),
        (lambda d: d["annotations"][0].update(category_id=77), "categories that are not listed"),
        (lambda d: d["annotations"][0].update(image_id=7), "without an annotation"),
        (lambda d: d["categories"].pop(), "different categories"),
        (lambda d: d.pop("annotations"), "no list of 'annotations'"),
        (lambda d: d["images"][0].pop("file_name"), "no list of 'images'"),
    ],
)
def test_inat18_refuses_what_does_not_fit(spoil: Callable[[Document], object], expected: str, tmp_path: Path) -> None:
    write_inat18(tmp_path)
    file = tmp_path / "inat2018/val2018.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    spoil(document)
    file.write_text(json.dumps(document), encoding="utf-8")
    assert expected in refusal(lambda: read("inat18", tmp_path))


@pytest.mark.parametrize("contents", [b"{", b"[]", b"\xff\xfe"])
def test_inat18_refuses_broken_files(contents: bytes, tmp_path: Path) -> None:
    write_inat18(tmp_path)
    (tmp_path / "inat2018/train2018.json").write_bytes(contents)
    assert "train2018.json" in refusal(lambda: read("inat18", tmp_path))


@pytest.mark.parametrize(
    ("file", "contents", "expected"),
    [
        ("image_class_labels.txt", "1 1\n", "do not name the same images"),
        ("train_test_split.txt", "".join(f"{i} 2\n" for i in range(1, 11)), "not understood"),
        ("image_class_labels.txt", "".join(f"{i} 9\n" for i in range(1, 11)), "not understood"),
        ("images.txt", "1 a.jpg\n1 b.jpg\n", "come twice"),
        ("classes.txt", "1\n", "fewer than 2 fields"),
        ("images.txt", "", "is empty"),
    ],
)
def test_cub_refuses_files_that_do_not_fit(file: str, contents: str, expected: str, tmp_path: Path) -> None:
    write_cub200(tmp_path)
    (tmp_path / "CUB_200_2011" / file).write_text(contents, encoding="utf-8")
    assert expected in refusal(lambda: read("cub200", tmp_path))


def test_birdsnap_says_how_many_images_could_not_be_had(tmp_path: Path) -> None:
    write_birdsnap(tmp_path)
    found = read("birdsnap", tmp_path)
    assert found.train.notes == ("1 of 4 images left out, they could not be had",)
    assert found.test.notes == ()
    write_text(tmp_path / "birdsnap/test_images.txt", ["path", "nowhere.jpg"])
    assert "nowhere.jpg" in refusal(lambda: read("birdsnap", tmp_path))


# -- VOC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lists", [True, False])
def test_voc_labels_from_lists_and_from_annotations_agree(lists: bool, tmp_path: Path) -> None:
    write_voc_labels(tmp_path / "pets", lists=lists)
    found = read_voc_labels(tmp_path / "pets")
    assert found.train.classes == ("cat", "dog")
    assert found.train.multilabel
    assert found.train.labels.dtype == np.int8
    assert found.train.labels.tolist() == VOC_LABELS["trainval"]
    assert found.test.labels.tolist() == VOC_LABELS["test"]
    assert [found.train.images.name(i) for i in range(3)] == [f"{name}.jpg" for name in VOC_NAMES["trainval"]]
    assert found.train.images.read(0).size == (8, 8)
    assert bool(found.train.notes) == (not lists)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [("000004 1\n", "does not list the images"), ("000004 1\n000005 2\n", "do not end in"), ("", "is empty")],
)
def test_voc_lists_that_do_not_fit_are_refused(contents: str, expected: str, tmp_path: Path) -> None:
    write_voc_labels(tmp_path)
    (tmp_path / "ImageSets/Main/dog_test.txt").write_text(contents, encoding="utf-8")
    assert expected in refusal(lambda: read_voc_labels(tmp_path))


def test_voc_images_that_are_missing_are_named(tmp_path: Path) -> None:
    write_voc_labels(tmp_path)
    (tmp_path / "JPEGImages/000005.jpg").unlink()
    assert "000005.jpg" in refusal(lambda: read_voc_labels(tmp_path))
    assert "no VOC data set" in refusal(lambda: read_voc_labels(tmp_path / "elsewhere"))
