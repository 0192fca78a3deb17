"""The JSON of a COCO instances file: its three lists, with ids that are whole, unique and lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError

Json = dict[str, Any]
Pairs = list[tuple[str, Any]]

FORMAT = (
    "a COCO instances file holds `images` (id, file_name, width, height), `categories` (id, name) and `annotations`\n"
    "(id, image_id, category_id, bbox as x, y, width, height; for masks segmentation), as cocodataset.org describes"
)
# One and several of each list, for messages.
NOUNS = {
    "images": ("image", "images"),
    "categories": ("category", "categories"),
    "annotations": ("annotation", "annotations"),
}
# The key under which annotations refer to the list.
REFERENCES = {"images": "image_id", "categories": "category_id"}
# Keys of which JSON's rule, the last of two counts, would lose objects unsaid.
READ = frozenset(["images", "annotations", "categories", "id", "image_id", "category_id", "bbox", "segmentation"])
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:|[A-Za-z]:[\\/]")  # of the web, data in it, a Windows drive


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images`.

    Attributes:
        source_id: its id there.
        name: the file's name without suffix, with its folders below the images folder if it has any.
        file_name: as the file has it, "./" left out.
        width, height: pixels.
    """

    source_id: int
    name: str
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoRecords:
    """What one file says.

    Attributes:
        path: the file.
        categories: id → name, ascending.
        images: sorted by name.
        objects: annotations by image id.
        notes: what was read although it is not written as the format says.
    """

    path: Path
    categories: dict[int, str]
    images: tuple[CocoImage, ...]
    objects: dict[int, list[Json]]
    notes: tuple[str, ...]


def read_records(path: Path, masks: bool, like: Mapping[int, str] | None = None) -> CocoRecords:
    """Categories, images and annotations of one file; polygons are float64 arrays, so that a list of numbers never
    stays in memory.

    Whole numbers may be written as text or with a point, in all entries alike; Roboflow's root category is left out.

    Args:
        path: the JSON file, in UTF-8, UTF-16 or UTF-32.
        masks: keep segmentations.
        like: categories of the file to train on, id → name: a root category that it has is one here too.

    Raises:
        DataError: the file is no COCO instances file, or an id is not whole, not unique, or names nothing.
    """
    notes: list[str] = []
    document = _load(path, _with_arrays if masks else _without_segmentation, notes)
    if not isinstance(document, dict):
        raise _no_object(document, path)
    keys = sorted(document)
    categories, images, annotations = (
        _entries(document, key, keys, path) for key in ("categories", "images", "annotations")
    )
    del document
    if not categories:
        raise DataError(f"`categories` in {path} is empty", todo=FORMAT)
    _whole(categories, "id", "categories", path, notes)
    _demand_unique([entry["id"] for entry in categories], "category id", path)
    named = _images(images, path, notes)
    for key in ("id", "image_id", "category_id"):
        _whole(annotations, key, "annotations", path, notes)
    classes = _categories(categories, annotations, like, path, notes)
    return CocoRecords(path, classes, named, _by_image(annotations, classes, named, path), tuple(notes))


# -- JSON --------------------------------------------------------------------------------------------------------


def _load(path: Path, hook: Callable[[Pairs], Json], notes: list[str]) -> Any:
    try:
        with open(path, "rb") as start:
            encoding = json.detect_encoding(start.read(4))
        with open(path, encoding="utf-8-sig" if encoding == "utf-8" else encoding) as file:
            document = json.load(file, object_pairs_hook=hook)
    except OSError as error:
        raise DataError(f"cannot read {path}", found=str(error), todo="name an existing COCO JSON file") from error
    except UnicodeDecodeError as error:
        todo = "save it as UTF-8; what Windows wrote is often in its own code: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        raise DataError(f"{path} is not JSON", found=str(error), todo=todo) from error
    except _TwiceError as error:
        raise DataError(f"{path} contradicts itself", found=str(error), todo="leave each key in there once") from error
    except (ValueError, RecursionError) as error:  # the former: no JSON, or a number with thousands of digits
        found = str(error) if path.stat().st_size else "the file is empty (0 bytes)"
        raise DataError(
            f"{path} is not JSON", found=found, todo="copy or export this file again; a cut copy ends like this"
        ) from error
    if not encoding.startswith("utf-8"):
        notes.append(f"{path.name} is in {encoding.upper()}, JSON is written in UTF-8")
    return document


class _TwiceError(ValueError):
    """A key that one object of the JSON has twice."""


def _record(pairs: Pairs) -> Json:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1 and key in READ]
        if twice:
            raise _TwiceError(f"one object has the key `{twice[0]}` more than once: {str(pairs)[:200]}")
    return record


def _without_segmentation(pairs: Pairs) -> Json:
    record = _record(pairs)
    record.pop("segmentation", None)
    return record


def _with_arrays(pairs: Pairs) -> Json:
    record = _record(pairs)
    if isinstance(record.get("segmentation"), list):
        record["segmentation"] = [_array(polygon) for polygon in record["segmentation"]]
    elif "counts" in record:
        record["counts"] = _array(record["counts"])
    return record


def _array(values: Any) -> Any:
    """A list of numbers as an array; anything else as it is, to be refused where its annotation is known."""
    if not isinstance(values, list):
        return values
    try:
        array = np.array(values)
    except (ValueError, OverflowError):  # lists of unequal lengths; huge integers
        return values
    return array if array.dtype.kind in "iuf" else values


def _no_object(document: Any, path: Path) -> DataError:
    if isinstance(document, list) and document and isinstance(document[0], dict) and "score" in document[0]:
        return DataError(
            f"{path} is a list of detections, no annotations",
            found=f"list at the top, with {counted(len(document), 'score', 'scores')}",
            todo=f"give the instances file here; detections are scored by: python -m transfer score {path}",
        )
    return DataError(f"{path} is no COCO file", found=f"{type(document).__name__} at the top", todo=FORMAT)


def _entries(document: Json, key: str, keys: list[str], path: Path) -> list[Json]:
    """The list of dicts under `key`, taken out of `document`."""
    if key not in document:
        found = f"the keys {few(keys, 12)}" if keys else "no keys"
        if key == "annotations" and "images" in keys:
            raise DataError(
                f"{path} has no `annotations`: it names images without their objects, as COCO's image_info files do",
                found=found,
                todo="give the file that has them (COCO's are called instances_….json); images without a single "
                "annotation can be neither trained on nor scored",
            )
        raise DataError(f"{path} has no `{key}`", found=found, todo=FORMAT)
    entries = document.pop(key)
    if not isinstance(entries, list):
        raise DataError(f"`{key}` in {path} is no list", found=type(entries).__name__, todo=FORMAT)
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{key}[{place}] in {path} is no object", found=repr(entry)[:80], todo=FORMAT)
    return entries


# -- whole numbers -----------------------------------------------------------------------------------------------


def _whole(entries: list[Json], key: str, section: str, path: Path, notes: list[str], least: int = 0) -> None:
    """Makes the values under `key` whole numbers from `least`.

    Numbers with a point (640.0) are the same numbers. Text is taken for them where it is one in every entry: of `1` and
    `"1"` in one list nothing says whether they are the same.
    """
    values = [entry.get(key) for entry in entries]
    if all(type(value) is int and value >= least for value in values):
        return
    if all(isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) for value in values):
        numbers: list[int | None] = [int(value) for value in values]  # type: ignore[arg-type]  # text, as just seen
        how = "as text"
    else:
        numbers = [_number(value) for value in values]
        how = "with a decimal point"
    wrong = [place for place, number in enumerate(numbers) if number is None or number < least]
    if wrong:
        raise _not_whole(entries, wrong, key, section, path, least)
    for entry, number in zip(entries, numbers, strict=True):
        entry[key] = number
    odd = [value for value in values if type(value) is not int]
    whose = counted(len(odd), *NOUNS[section])
    notes.append(f"`{key}` of {whose} is written {how} and was read as whole numbers: {few([repr(v) for v in odd])}")


def _number(value: Any) -> int | None:
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def _not_whole(entries: list[Json], wrong: list[int], key: str, section: str, path: Path, least: int) -> DataError:
    one = NOUNS[section][0]
    lines = []
    for place in wrong[:5]:
        entry = entries[place]
        name = f"{one} {entry['id']}" if key != "id" and "id" in entry else f"{section}[{place}]"
        value = repr(entry[key])[:80] if key in entry else f"no {key}"
        lines.append(f"{name}: {value} in {repr(entry)[:200]}")
    if len(wrong) > len(lines):
        lines.append(f"and {len(wrong) - len(lines):,} more")
    texts = any(isinstance(entries[place].get(key), str) for place in wrong)
    return DataError(
        f"`{key}` of {counted(len(wrong), *NOUNS[section])} in {path} is no whole number from {least}",
        found="\n".join(lines),
        todo=_numbering(section, path) if key == "id" and texts else FORMAT,
    )


def _numbering(section: str, path: Path) -> str:
    """What to type for ids that are names."""
    steps = [
        "import json, sys; d = json.load(open(sys.argv[1], encoding='utf-8-sig'))",
        f"n = {{str(e['id']): i for i, e in enumerate(d['{section}'], 1)}}",
        f"[e.update(id=n[str(e['id'])]) for e in d['{section}']]",
    ]
    if section in REFERENCES:
        key = REFERENCES[section]
        steps.append(f"[e.update({key}=n[str(e['{key}'])]) for e in d['annotations']]")
    code = "; ".join([*steps, "json.dump(d, sys.stdout)"])
    old, new = (shlex.quote(str(file)) for file in (path, path.with_name(f"{path.stem}_numbered.json")))
    return f'number the {section}; this line writes a new file:\npython -c "{code}" {old} > {new}'


# -- the three lists ---------------------------------------------------------------------------------------------


def _categories(
    entries: list[Json], annotations: list[Json], like: Mapping[int, str] | None, path: Path, notes: list[str]
) -> dict[int, str]:
    nameless = [entry for entry in entries if not isinstance(entry.get("name"), str) or not entry["name"].strip()]
    if nameless:
        whose = f"{counted(len(nameless), *NOUNS['categories'])} in {path} {'has' if len(nameless) == 1 else 'have'}"
        raise DataError(f"{whose} no name", found=few([repr(entry)[:80] for entry in nameless]), todo=FORMAT)
    counts = Counter(entry["category_id"] for entry in annotations)
    root = _root(entries)
    if root is not None and (like is None or like.get(root["id"]) != root["name"]):
        if not counts[root["id"]]:
            entries = [entry for entry in entries if entry is not root]
            notes.append(
                f"the category {root['name']} (id {root['id']}) is the root that Roboflow puts above the classes and "
                "has no objects; it was left out"
            )
        elif like is not None and root["id"] not in like:
            raise DataError(
                f"{path} has objects of a root category that the images to train on have not",
                found=f"{counts[root['id']]:,} of {root['name']} (id {root['id']})",
                todo="give these annotations the `category_id` of their class, or remove them",
            )
    _demand_names(entries, counts, path)
    # The order of Detectron2 (data/datasets/coco.py) and of pycocotools' evaluation: ascending ids.
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: int(entry["id"]))}


def _root(entries: list[Json]) -> Json | None:
    """The category that Roboflow's exports put above all others: alone without a supercategory ("none"), and its id is
    0 or all others name it as theirs. A class that happens to look like this has annotations."""
    tops = [entry for entry in entries if entry.get("supercategory") == "none"]
    if len(tops) != 1 or len(entries) == 1:
        return None
    (top,) = tops
    below = all(entry.get("supercategory") == top["name"] for entry in entries if entry is not top)
    return top if below or top["id"] == 0 else None


def _demand_names(entries: list[Json], counts: Counter[int], path: Path) -> None:
    by_name: dict[str, list[Json]] = {}
    for entry in entries:
        by_name.setdefault(entry["name"], []).append(entry)
    twice = {name: own for name, own in by_name.items() if len(own) > 1}
    if not twice:
        return

    def use(entry: Json) -> str:
        return f"id {entry['id']} with {counted(counts[entry['id']], 'object', 'objects')}"

    first = sorted(next(iter(twice.values())), key=lambda entry: -counts[entry["id"]])
    keep, drop = (entry["id"] for entry in first[:2])
    raise DataError(
        f"{counted(len(twice), 'category name is', 'category names are')} there more than once in {path}",
        found="\n".join(f"{name}: {few([use(entry) for entry in own])}" for name, own in list(twice.items())[:5]),
        todo=f"if they are one class, write `category_id` {keep} instead of {drop} and take {drop} out of "
        "`categories`; if not, give each a name of its own",
    )


def _images(entries: list[Json], path: Path, notes: list[str]) -> tuple[CocoImage, ...]:
    if not entries:
        raise DataError(f"`images` in {path} is empty", todo=FORMAT)
    _whole(entries, "id", "images", path, notes)
    _demand_file_names(entries, path)
    for side in ("width", "height"):
        _whole(entries, side, "images", path, notes, least=1)
    _demand_unique([entry["id"] for entry in entries], "image id", path)
    images = []
    for entry in entries:
        name = PurePosixPath(entry["file_name"])
        images.append(CocoImage(entry["id"], str(name.with_suffix("")), str(name), entry["width"], entry["height"]))
    return sorted_by_name(images, path)


def sorted_by_name(images: Iterable[CocoImage], path: Path) -> tuple[CocoImage, ...]:
    """The images in the order of their names, which differ.

    Raises:
        DataError: two have one name.
    """
    images = tuple(sorted(images, key=lambda image: image.name))
    if len({image.name for image in images}) < len(images):
        twice: dict[str, list[int]] = {}
        for image in images:
            twice.setdefault(image.name, []).append(image.source_id)
        found = [f"{name} (ids {few([str(i) for i in ids])})" for name, ids in twice.items() if len(ids) > 1]
        raise _twice("image name (file_name without suffix)", found, path)
    return images


def _demand_file_names(entries: list[Json], path: Path) -> None:
    wrong = [entry for entry in entries if not _is_below(entry.get("file_name"))]
    if not wrong:
        return
    texts = [
        (entry["id"], repr(entry["file_name"])[:80] if "file_name" in entry else "no file_name") for entry in wrong
    ]
    todo = "write names relative to the images folder, without `..` and not from the root of a disk"
    if any("://" in text for _, text in texts):
        todo = "download these images first, then write the names of the files, relative to the images folder"
    raise DataError(
        f"{counted(len(wrong), *NOUNS['images'])} in {path} {'has' if len(wrong) == 1 else 'have'} no file below the "
        "images folder",
        found="file_name of " + few([f"image {number}: {text}" for number, text in texts]),
        todo=todo,
    )


def _is_below(text: Any) -> bool:
    """Whether it can be the name of a file below a folder, with slashes or with backslashes."""
    if not isinstance(text, str) or "\0" in text or text.endswith(("/", "\\")) or ADDRESS.match(text):
        return False
    name, other = PurePosixPath(text), PurePosixPath(text.replace("\\", "/"))
    return bool(name.name and other.name) and not other.is_absolute() and ".." not in other.parts


def _by_image(
    entries: list[Json], categories: dict[int, str], images: Iterable[CocoImage], path: Path
) -> dict[int, list[Json]]:
    grouped: dict[int, list[Json]] = {image.source_id: [] for image in images}
    _demand_unique([entry["id"] for entry in entries], "annotation id", path)
    strangers: dict[str, list[str]] = {"image": [], "category": []}
    for entry in entries:
        image, category = entry["image_id"], entry["category_id"]
        if category not in categories:
            strangers["category"].append(f"category_id {category} in annotation {entry['id']}")
        elif image not in grouped:
            strangers["image"].append(f"image_id {image} in annotation {entry['id']}")
        else:
            grouped[image].append(entry)
    for kind, found in strangers.items():
        if found:
            count = counted(len(found), "annotation", "annotations")
            raise DataError(
                f"{count} in {path} of an unknown {kind}",
                found=few(found),
                todo=f"complete the list of {'images' if kind == 'image' else 'categories'}, or remove the annotations",
            )
    return grouped


def _demand_unique(values: Sequence[int], what: str, path: Path) -> None:
    if len(set(values)) == len(values):
        return
    raise _twice(what, [str(value) for value, times in Counter(values).items() if times > 1], path)


def _twice(what: str, found: list[str], path: Path) -> DataError:
    return DataError(
        f"{counted(len(found), what + ' is', what + 's are')} there more than once in {path}",
        found=few(found, 10),
        todo="number and name every entry of its own; files joined by hand need new ids",
    )
