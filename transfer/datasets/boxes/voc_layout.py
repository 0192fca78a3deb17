"""Which files belong to a split of a VOC data set, in the layouts that people have.

- The development kit's: `ROOT/ImageSets/Main/<split>.txt` with one image name a line, `ROOT/JPEGImages/<name>.jpg`,
  `ROOT/Annotations/<name>.xml`. Names may hold folders.
- A folder for each split, XML beside images (LabelImg; Roboflow's export "Pascal VOC"): `ROOT/<split>/<name>.jpg` and
  `.xml`, or the kit's two folders in it: `ROOT/<split>/JPEGImages/` and `Annotations/`, or it in them:
  `ROOT/JPEGImages/<split>/` and `ROOT/Annotations/<split>/`. Read where there is no `ImageSets/Main`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transfer.datasets.boxes.voc_xml import only_text, read_tree
from transfer.datasets.image_files import walk
from transfer.datasets.images import ENDINGS, is_image_name
from transfer.datasets.wording import counted, few, raise_together
from transfer.runtime.errors import DataError

Part = tuple[Path, str]  # (root of one VOC folder, split)

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", Path("ImageSets", "Main")
INSTANCES, SEGMENTS = "InstanceMasks", "SegmentationObject"
MASK_FOLDERS = (INSTANCES, SEGMENTS, "SegmentationClass")
FLAGGED = re.compile(r"(.*\S)\s+(-1|0|1)")  # VOC's lists for one class: a name, and whether the image shows the class

LAYOUT = (
    "a VOC folder holds Annotations/*.xml, ImageSets/Main/<split>.txt and JPEGImages/*.jpg,\n"
    "or a folder for each split with XML beside the images\n"
    "--data-root DIR names the folder in which VOC2007 and VOC2012 lie, --voc-root DIR any one folder in such a layout"
)


@dataclass(frozen=True)
class SplitImage:
    """One image of a split.

    Attributes:
        name: unique in the data set: "VOC2007/000005", or with the split's folder "Cards/train/IMG_1".
        root: the folder that folders with masks lie in.
        stem: path of image and annotation without ending, as masks are named.
        xml, image: the files.
        twins: images of the same name with other endings, that <filename> in the XML does not mean.
    """

    name: str
    root: Path
    stem: str
    xml: Path
    image: Path
    twins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files:
    """What lies below a folder of images and one of annotations: path without ending → paths with it."""

    image_folder: Path
    annotation_folder: Path
    images: dict[str, list[str]]
    annotations: dict[str, list[str]]

    def paired(self) -> bool:
        """Whether there is an image with its annotation."""
        return not self.images.keys().isdisjoint(self.annotations)


@dataclass(frozen=True)
class Listed:
    """One line of a split's list.

    Attributes:
        stem: the image's path without ending; the line itself where there is no such image.
        file: path with ending, if the list gives it so.
        there: whether there is an image or an annotation of this name.
    """

    stem: str
    file: str | None = None
    there: bool = True


def entries_of(parts: Sequence[Part]) -> list[list[SplitImage]]:
    """The images of each part; every missing file is found here, before anything is read.

    Raises:
        DataError: no such folder or split, missing files, several files of one name, or an image that comes twice.
    """
    problems: list[DataError] = []
    found = [_entries_of(absolute(root), split, problems) for root, split in parts]
    where = ", ".join(f"{root} {split}" for root, split in parts)
    raise_together(problems, f"faults in the files of {where}")
    seen = Counter(entry.name for entries in found for entry in entries)
    twice = [name for name, times in seen.items() if times > 1]
    if twice:
        raise DataError(
            f"{counted(len(twice), 'image is', 'images are')} listed more than once",
            found=f"{few(twice)}\nin {where}",
            todo="list every image once; folders read together need different names and splits without overlap",
        )
    return found


def voc_splits(root: Path) -> list[str]:
    """Names of the splits in a VOC folder, sorted; [] if it is in none of the layouts.

    Lists of one class (`aeroplane_train.txt` beside `train.txt`, with flags) are no splits, though they can be read.

    Raises:
        DataError: a folder cannot be listed.
    """
    root = absolute(root)
    if has_lists(root):
        stems = {path.stem for path in _lists_in(root)}
        return sorted(path.stem for path in _lists_in(root) if not _of_one_class(path, stems))
    if (root / LISTS).is_dir():
        return []
    folders = [child for place in (root, root / IMAGES) if place.is_dir() for child in place.iterdir()]
    names = {child.name for child in folders if child.is_dir() and not child.name.startswith(".")}
    return sorted(name for name in names if any(place.files.paired() for place in _split_folders(root, name)))


def absolute(root: Path) -> Path:
    """The folder with its own name, however it is written; links stay."""
    # Not `Path.absolute`, which keeps ".." as the folder's name.
    return Path(os.path.abspath(root))


def has_lists(root: Path) -> bool:
    """Whether a folder is in the development kit's layout."""
    return all((root / folder).is_dir() for folder in (LISTS, ANNOTATIONS, IMAGES))


def files_in(image_folder: Path, annotation_folder: Path | None) -> Files:
    """All images and annotations below two folders, masks left out.

    Raises:
        DataError: a folder cannot be listed.
    """
    images: dict[str, list[str]] = {}
    annotations: dict[str, list[str]] = {}
    _collect(image_folder, images, annotations)
    if annotation_folder is not None and annotation_folder != image_folder:
        annotations = {}
        _collect(annotation_folder, {}, annotations)
    return Files(image_folder, annotation_folder or image_folder, images, annotations)


def read_list(path: Path, files: Files) -> list[Listed]:
    """The lines of a split's list, blank ones left out.

    A line that names an image as it stands is that image. A last column of 1, 0 or −1 is a flag only where every line
    has it and none names an image with it. Names may have the ending of the image's file, and folders.

    Raises:
        DataError: it cannot be read, has no line, or a name fits two images.
    """
    lines = _lines(path)
    whole = [_find(line, files, path) for line in lines]
    if not any(found.there for found in whole):
        flags = [FLAGGED.fullmatch(line.strip()) for line in lines]
        cut = [_find(flag[1], files, path) for flag in flags if flag is not None]
        # Where the names without it are not there either, the lines are shown as they stand.
        if len(cut) == len(lines) and any(found.there for found in cut):
            return cut
    return whole


def read_flags(path: Path, files: Files) -> list[tuple[Listed, str]]:
    """The lines of a list for one class: an image and "1", "0" or "-1" on each.

    Raises:
        DataError: as `read_list`; a line has no flag, or names an image with what should be its flag.
    """
    todo = "a name and 1, 0 or -1 a line"
    lines = _lines(path)
    flags = [FLAGGED.fullmatch(line.strip()) for line in lines]
    odd = [line.strip() for line, flag in zip(lines, flags, strict=True) if flag is None]
    if odd:
        raise DataError(
            f"{len(odd)} of {len(lines)} lines of {path} do not end in 1, 0 or -1", found=few(odd), todo=todo
        )
    images = [line.strip() for line in lines if _find(line, files, path).there]
    if images:
        raise DataError(
            f"{len(images)} of {len(lines)} lines of {path} name an image together with what should be a flag",
            found=few(images),
            todo=f"{todo}; or rename these images",
        )
    return [(_find(flag[1], files, path), flag[2]) for flag in flags if flag is not None]


def image_of(listed: Listed, files: Files, xml: Path | None) -> str:
    """Path of a listed image below the folder of images: of several files of one name the one that is meant.

    Raises:
        DataError: neither the list nor <filename> in the annotation says which.
    """
    names = files.images[listed.stem]
    if listed.file is not None:
        return listed.file
    if len(names) == 1:
        return names[0]
    # The name may hold a path, of the machine where the image was annotated.
    said = re.split(r"[\\/]", only_text(read_tree(xml), "filename", str(xml)))[-1] if xml is not None else ""
    for name in names:
        if name.rpartition("/")[2] == said:
            return name
    raise DataError(
        f"{len(names)} files could be the image {listed.stem} in {files.image_folder}",
        found=few(names) + (f"; <filename> in {xml} is {said!r}" if xml is not None else ""),
        todo="keep one of them, or name the right one with its ending in the list or in <filename>",
    )


# -- one split ---------------------------------------------------------------------------------------------------


def _entries_of(root: Path, split: str, problems: list[DataError]) -> list[SplitImage]:
    if has_lists(root):
        path = _split_file(root, split)
        place = _Place(files_in(root / IMAGES, root / ANNOTATIONS), root.name, root, "", f"the names out of {path}")
        return _entries(read_list(path, place.files), place, split, problems)
    places = [] if (root / LISTS).is_dir() else list(_split_folders(root, split))
    if not places:
        raise _no_split(root, split)
    # Annotations without any image are still taken: what is missing is said then.
    place = next((one for one in places if one.files.paired()), places[0])
    stems = sorted(place.files.images.keys() | place.files.annotations.keys())
    return _entries([Listed(stem) for stem in stems], place, split, problems)


@dataclass(frozen=True)
class _Place:
    """Attributes: files of a split; name, that images' names begin with; masks, the folder of folders with masks;
    prefix, that names of masks begin with; remedy, for what is missing: "take " + this."""

    files: Files
    name: str
    masks: Path
    prefix: str
    remedy: str


def _entries(listed: Sequence[Listed], place: _Place, split: str, problems: list[DataError]) -> list[SplitImage]:
    files = place.files
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for one in listed:
        kinds.setdefault((one.stem in files.images, one.stem in files.annotations), []).append(one.stem)
    missing = [
        _missing(absent, len(listed), split, has_image, has_annotation, place)
        for (has_image, has_annotation), absent in kinds.items()
        if not (has_image and has_annotation)
    ]
    problems += missing
    entries = []
    for one in listed if not missing else []:
        annotations = files.annotations[one.stem]
        xml = files.annotation_folder / annotations[0]
        try:
            if len(annotations) > 1:
                what = f"{one.stem} has several annotations in {files.annotation_folder}"
                raise DataError(what, found=few(annotations), todo="keep one of them")
            image = image_of(one, files, xml)
        except DataError as error:
            problems.append(error)
            continue
        twins = tuple(name for name in files.images[one.stem] if name != image) if one.file is None else ()
        stem = place.prefix + one.stem
        entries.append(
            SplitImage(f"{place.name}/{one.stem}", place.masks, stem, xml, files.image_folder / image, twins)
        )
    return entries


def _missing(
    absent: Sequence[str], total: int, split: str, has_image: bool, has_annotation: bool, place: _Place
) -> DataError:
    """Names of a split that lack an image, an annotation, or both."""
    files = place.files
    lacking = [
        (kind, str(folder), there)
        for has, kind, folder, there in (
            (has_annotation, "annotations", files.annotation_folder, files.annotations),
            (has_image, "images", files.image_folder, files.images),
        )
        if not has
    ]
    kinds = " and ".join(kind for kind, _, _ in lacking)
    folders = " and ".join(dict.fromkeys(folder for _, folder, _ in lacking))
    alike = {stem.lower(): names[0] for _, _, there in lacking for stem, names in there.items()}
    shown = [f"{name} (there is {alike[name.lower()]})" if name.lower() in alike else name for name in absent]
    return DataError(
        f"{len(absent)} of {total} {kinds} of split {split!r} are missing in {folders}",
        found=f"no file for {few(shown)}",
        todo=f"complete the folder or take {place.remedy}\n"
        f"images end in {' '.join(ENDINGS)}; a picture without objects needs an XML too, without <object>",
    )


def _no_split(root: Path, split: str) -> DataError:
    splits = voc_splits(root)
    if not splits:
        return DataError(f"no VOC data set in {root}", found=_what_is_there(root), todo=LAYOUT)
    deeper = [str(root / name) for name in splits if split in voc_splits(root / name)]
    return DataError(
        f"no split {split!r} in {root}",
        found=f"splits there: {few(splits, 20)}" + (f"\nit is in {few(deeper)}" if deeper else ""),
        todo="choose one of these" + (", or name that folder" if deeper else ""),
    )


def _split_folders(root: Path, split: str) -> Iterator[_Place]:
    """Where a split without a list may lie."""
    own, name = root / split, f"{root.name}/{split}"
    if (own / LISTS).is_dir():
        return  # a data set of its own: `root` is the folder of several
    for image_folder, annotation_folder, masks, prefix in (
        (own, own, own, ""),
        (own / IMAGES, own / ANNOTATIONS, own, ""),
        (root / IMAGES / split, root / ANNOTATIONS / split, root, f"{split}/"),
    ):
        if image_folder.is_dir() and annotation_folder.is_dir():
            files = files_in(image_folder, annotation_folder)
            if files.annotations:
                yield _Place(files, name, masks, prefix, "what has no partner out of it")


def _collect(folder: Path, images: dict[str, list[str]], annotations: dict[str, list[str]]) -> None:
    for path in sorted(walk(folder, wanted=lambda name: is_image_name(name) or _is_annotation(name))):
        if path.partition("/")[0] not in MASK_FOLDERS:
            kind = annotations if _is_annotation(path) else images
            kind.setdefault(os.path.splitext(path)[0], []).append(path)


def _is_annotation(name: str) -> bool:
    return name.lower().endswith(".xml")


# -- lists -------------------------------------------------------------------------------------------------------


def _split_file(root: Path, split: str) -> Path:
    return root / LISTS / f"{split}.txt"


def _lists_in(root: Path) -> list[Path]:
    return sorted(path for path in (root / LISTS).glob("*.txt") if not path.name.startswith("."))


def _of_one_class(path: Path, stems: set[str]) -> bool:
    parts = path.stem.split("_")
    if not any("_".join(parts[cut:]) in stems for cut in range(1, len(parts))):
        return False
    try:
        return all(FLAGGED.fullmatch(line.strip()) for line in _lines(path))
    except DataError:  # what is wrong with it is said to those who read it
        return False


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        splits = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise DataError(
            f"no split {path.stem!r} in {path.parent}",
            found=f"splits there: {few(splits, 20)}" if splits else f"no .txt file in {path.parent}",
            todo=f"choose one of these, or write {path} with one image name a line",
        )
    try:
        # Not `splitlines`, which also cuts at characters that names may hold.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}", found=str(error), todo="one image name a line, UTF-8") from error
    kept = [line for line in lines if line.strip()]
    if not kept:
        raise DataError(f"split {path.stem!r} is empty", found=f"no names in {path}", todo="one image name a line")
    return kept


def _find(line: str, files: Files, path: Path) -> Listed:
    """What a line names: as it stands, without white space at its ends, or with / for Windows' separator."""
    for text in (line, line.strip(), line.strip().replace("\\", "/")):
        stem = os.path.splitext(text)[0]
        with_ending = text in files.images.get(stem, ())
        if with_ending and text in files.images:
            raise DataError(
                f"{text!r} in {path} could be two images",
                found=f"{text} and {few(files.images[text])} in {files.image_folder}",
                todo="rename one of them",
            )
        if with_ending:
            return Listed(stem, text)
        if text in files.images or text in files.annotations:
            return Listed(text)
    return Listed(line.strip(), there=False)


def _what_is_there(root: Path) -> str:
    if not root.exists():
        nearest = next(parent for parent in root.parents if parent.exists())
        return f"the folder does not exist; {nearest} holds {few(sorted(p.name for p in nearest.iterdir()), 12)}"
    if not root.is_dir():
        return "a file, not a folder"
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and (path / LISTS).is_dir()]
    hint = f"\nin VOC layout are: {few([str(path) for path in inside])}" if inside else ""
    return f"it holds {few(sorted(path.name for path in root.iterdir()), 12) or 'nothing'}{hint}"
