"""Data sets by a seed, in the forms that people have them, with what must be read out of them.

Nothing of the project's readers is used here: annotations are written as text, pictures carry their own number in
their pixels (`numbered_pictures`).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from numbered_pictures import FORMATS, TURNABLE, Box, save, stored_box


@dataclass
class Thing:
    """One object. Attributes: name; box (x1, y1, x2, y2) from 0, exclusive ends, on the picture as seen; its flags."""

    name: str
    box: Box
    difficult: bool = False
    crowd: bool = False

    def told(self) -> tuple[str, Box, bool, bool]:
        """What a reader must say about it."""
        return self.name, self.box, self.difficult, self.crowd


@dataclass
class Picture:
    """One image.

    Attributes:
        number: what its pixels say, 0 … 255.
        split: the split that it belongs to.
        stem: its path below the folder of images, without ending.
        ending: of the file.
        size: (width, height) as seen.
        orientation: EXIF's, 1 … 8.
        stored: whether boxes and annotated size are on the pixels as they are stored.
        things: its objects.
        label: its class, in sets for classification.
    """

    number: int
    split: str
    stem: str
    ending: str
    size: tuple[int, int]
    orientation: int = 1
    stored: bool = False
    things: list[Thing] = field(default_factory=list)
    label: str = ""

    @property
    def file(self) -> str:
        return self.stem + self.ending

    @property
    def annotated_size(self) -> tuple[int, int]:
        width, height = self.size
        return (height, width) if self.stored and self.orientation >= 5 else (width, height)

    @property
    def frame_unknown(self) -> bool:
        """Whether width and height do not tell what the boxes were drawn on."""
        return self.orientation > 1 and (self.orientation < 5 or self.size[0] == self.size[1])


@dataclass
class Made:
    """A data set on disk.

    Attributes:
        seed: what it was made from.
        kind: "voc", "coco" or "labels".
        layout: a word for messages.
        options: of `DetectionData`, or of the reader of labelled images.
        root: the folder of the whole set.
        pictures: all of them.
        classes: names in the order of the labels.
        fault: "" or what is wrong with it on purpose.
        blamed: names of which the refusal must say one.
        may_ask: it may be refused with a question about EXIF, because a frame cannot be told from the sizes.
        frame: the frame of all boxes, if it is to be said to the reader: "seen" or "stored".
    """

    seed: int
    kind: str
    layout: str
    options: dict[str, Any]
    root: Path
    pictures: list[Picture]
    classes: tuple[str, ...]
    fault: str = ""
    blamed: tuple[str, ...] = ()
    may_ask: bool = False
    frame: str = ""


def make(seed: int, folder: Path) -> Made:
    """Write data set number `seed` into `folder`, an empty one."""
    return _Maker(seed, folder).made()


# -- drawing a set -----------------------------------------------------------------------------------------------

STEMS = (
    *("IMG", "IMG {n}", "IMG {n} 1", "{n}", "{n:06}", "a.b.{n}", "été_{n}", "犬 {n}", "DSC{n:05}", "x_jpg.rf.{n}f0a"),
    *(
        "it's #{n}%",
        "a+b ({n})",
        "-1 {n}",
        "Ünïcode {n} 0",
        "UPPER {n}",
        "semi;colon,{n}",
        "&<{n}>",
        "$HOME {n}",
        "{n} 1",
    ),
)
FOLDERS = ("", "", "", "sub/", "a b/c.d/", "2007/", "kör/")
NAMES = ("ant", "bee", "Käfer", "dog 2", "tv/monitor", "猫", "R&D", "person")
TRUE_WORDS = ("1", "1", "1", "true", "True", "yes", "YES", "1.0", " 1 ")
FALSE_WORDS: tuple[str | None, ...] = ("0", "0", "0", None, "", "Unspecified", "False", "false", "no", "0.0")
DETECTION_FAULTS = (
    *("image missing", "image cut", "image empty", "image is text", "wrong size", "annotation cut", "nan box"),
    *("box outside", "odd flag", "one image twice"),
)
VOC_FAULTS = ("annotation missing", "object without name", "list names a stranger", "listed in both")
COCO_FAULTS = (
    "image ids twice",
    "annotation ids twice",
    "unknown category",
    "unknown image",
    "negative box",
    "no images",
)
LABEL_FAULTS = ("image cut", "image empty", "image is text", "class in test only")
CSV_FAULTS = ("image missing", "no label", "one image twice")
SHARE_OF_FAULTS = 0.35


def _save(picture: Picture, path: Path, draw: random.Random, frames: bool = True) -> None:
    save(picture.number, picture.size, picture.orientation, path, draw, frames)


def _can_be(text: str, encoding: str) -> bool:
    return text.encode(encoding, "ignore").decode(encoding, "ignore") == text


class _Maker:
    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder
        self.draw = random.Random(zlib.crc32(f"data set {seed}".encode()))
        self.kind = self.draw.choice(("voc", "voc", "coco", "coco", "labels"))
        self.names = self.draw.sample(NAMES, self.draw.randint(2 if self.kind == "labels" else 1, 3))
        self.splits = self.draw.choice((("train", "test"), ("train", "valid"), ("trainval", "test")))
        if self.kind == "labels":
            self.names = [name.replace("/", "_") for name in self.names]
            self.splits = ("train", self.splits[1])
        self.turned = self.draw.random() < 0.35
        self.stored = self.turned and self.draw.random() < 0.5
        self.pictures: list[Picture] = []
        self.fault, self.blamed = "", ("",)
        self.size_given = True

    def made(self) -> Made:
        self._pictures()
        faulty = self.draw.random() < SHARE_OF_FAULTS
        layout, options = {"voc": self._voc, "coco": self._coco, "labels": self._labels}[self.kind](faulty)
        unknown = [p for p in self.pictures if p.frame_unknown or (p.orientation > 1 and not self.size_given)]
        detection = self.kind != "labels"
        frame = ""
        if detection and unknown and (self.fault or self.draw.random() < 0.5):
            frame = "stored" if self.stored else "seen"
        may_ask = bool(detection and unknown and not frame)
        blamed = self.blamed if self.fault else ()
        (root,) = self.folder.iterdir()
        classes = tuple(self.names if self.kind == "coco" else sorted(self.names))
        return Made(
            self.seed, self.kind, layout, options, root, self.pictures, classes, self.fault, blamed, may_ask, frame
        )

    def _pictures(self) -> None:
        """Every split has each class once at least, in its first picture."""
        draw = self.draw
        numbers = iter(draw.sample(range(256), 20))
        stems: set[str] = set()
        folders = draw.choice((("",), FOLDERS))
        for split in self.splits:
            for place in range(draw.randint(2, 4)):
                number = next(numbers)
                stem = draw.choice(folders) + draw.choice(STEMS).format(n=draw.choice((number, place)))
                while stem in stems:
                    stem += draw.choice(" _.-") + str(draw.randint(0, 9))
                stems.add(stem)
                ending = draw.choice(
                    (".jpg", ".jpg", ".png", ".JPG", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".PNG")
                )
                long, short = draw.randint(28, 48), draw.randint(20, 27)
                size = draw.choice(((long, short), (short, long), (long, long)) if self.turned else ((long, short),))
                orientation = 1
                if self.turned and FORMATS[ending.lower()] in TURNABLE and draw.random() < 0.7:
                    orientation = draw.randint(1, 8)
                picture = Picture(number, split, stem, ending, size, orientation, self.stored)
                picture.things = [self._thing(name, size, plain=True) for name in self.names] if place == 0 else []
                for _ in range(draw.randint(0, 3)):
                    picture.things.append(self._thing(draw.choice(self.names), size, plain=False))
                self.pictures.append(picture)

    def _thing(self, name: str, size: tuple[int, int], plain: bool) -> Thing:
        draw, (width, height) = self.draw, size
        x1, y1 = draw.randint(0, width - 4), draw.randint(0, height - 4)
        box = x1, y1, draw.randint(x1 + 3, width), draw.randint(y1 + 3, height)
        flag = not plain and draw.random() < 0.3
        return Thing(name, box, difficult=flag and self.kind == "voc", crowd=flag and self.kind == "coco")

    def _annotated(self, picture: Picture, thing: Thing) -> Box:
        return stored_box(thing.box, picture.size, picture.orientation) if picture.stored else thing.box

    def _damage(self, picture: Picture, path: Path) -> None:
        """The faults that lie in the file of an image."""
        content = path.read_bytes()
        if self.fault == "image missing":
            path.unlink()
        elif self.fault == "image cut":
            path.write_bytes(content[: len(content) // 2])
        elif self.fault == "image empty":
            path.write_bytes(b"")
        elif self.fault == "image is text":
            path.write_bytes(b"404: not found\n" * 3)
        self.blamed = (picture.file, picture.stem, picture.file.replace("/", "\\"))

    def _litter(self, folder: Path) -> None:
        """Files that operating systems and people leave among images."""
        draw = self.draw
        folder.mkdir(parents=True, exist_ok=True)
        for name in draw.sample((".DS_Store", "Thumbs.db", "README.txt", "._IMG.jpg", ".hidden.png", "notes.csv"), 2):
            (folder / name).write_bytes(b"\0\5\26\7 not an image")

    def _shuffled(self, values: list[Any]) -> list[Any]:
        return self.draw.sample(values, len(values))

    # -- VOC -----------------------------------------------------------------------------------------------------

    def _voc(self, faulty: bool) -> tuple[str, dict[str, Any]]:
        draw = self.draw
        beside = draw.random() < 0.4
        root = self.folder / draw.choice(("set", "VOC 2007", "my.set", "données"))
        self.size_given = draw.random() < 0.8
        if faulty:
            faults = DETECTION_FAULTS + VOC_FAULTS
            unfit = ("one image twice", "list names a stranger", "listed in both") if beside else ()
            self.fault = draw.choice([name for name in faults if name not in unfit])
            if self.fault == "wrong size":
                self.size_given = True
        victim = draw.choice([picture for picture in self.pictures if picture.things])
        if beside:
            for picture in self.pictures:
                picture.stem = picture.stem.replace("/", "_")
            self._untwin()
        # Another image of the same name: <filename> says which one was annotated.
        twins = [p for p in self.pictures if draw.random() < 0.3] if not self.fault and draw.random() < 0.2 else []
        for picture in self.pictures:
            images, annotations = (
                (root / picture.split, root / picture.split) if beside else (root / "JPEGImages", root / "Annotations")
            )
            _save(picture, images / picture.file, draw, not self.fault)
            if picture in twins:
                _save(dataclasses.replace(picture, number=255 - picture.number), images / f"{picture.stem}.ppm", draw)
            xml = annotations / f"{picture.stem}.xml"
            xml.parent.mkdir(parents=True, exist_ok=True)
            content = self._xml(picture, self.fault if picture is victim else "", picture in twins)
            xml.write_bytes(content)
            if picture is victim and self.fault:
                if self.fault.startswith("image "):
                    self._damage(picture, images / picture.file)
                else:
                    self.blamed = (xml.name, picture.stem)
                if self.fault == "annotation missing":
                    xml.unlink()
                if self.fault == "annotation cut":
                    xml.write_bytes(content[: 2 * len(content) // 3])
        self._litter(root / self.splits[0] if beside else root / "JPEGImages")
        if not beside:
            self._lists(root, victim)
            if draw.random() < 0.3:  # an image that no list names
                _save(Picture(255, "", "not listed", ".png", (30, 20)), root / "JPEGImages" / "not listed.png", draw)
        train, test = self.splits
        return "VOC, XML beside images" if beside else "VOC", {"voc_root": root, "train": train, "test": test}

    def _untwin(self) -> None:
        seen: set[str] = set()
        for picture in self.pictures:
            while picture.stem in seen:
                picture.stem += "_"
            seen.add(picture.stem)

    def _lists(self, root: Path, victim: Picture) -> None:
        draw = self.draw
        folder = root / "ImageSets" / "Main"
        folder.mkdir(parents=True)
        stems = {picture.stem for picture in self.pictures}
        flags = {
            picture.stem: f"{draw.choice((' ', '  '))}{draw.choice(('1', '-1', '0'))}" for picture in self.pictures
        }
        # What exists as it is written is that image: flags go where no name ends like that.
        flagged = draw.random() < 0.3 and not any(stem + flag in stems for stem, flag in flags.items())
        with_ending = not flagged and draw.random() < 0.2
        for split in self.splits:
            own = [picture for picture in self.pictures if picture.split == split]
            lines = [(p.file if with_ending else p.stem) + (flags[p.stem] if flagged else "") for p in own]
            if self.fault == "list names a stranger" and victim.split == split:
                lines.append("no such picture" + (" 1" if flagged else ""))
                self.blamed = ("no such picture",)
            if self.fault == "one image twice" and victim.split == split:
                lines.append(lines[own.index(victim)])
            if self.fault == "listed in both" and victim.split != split:
                lines.append(victim.stem + (" 1" if flagged else ""))
            ends = draw.choice(("\n", "\n", "\r\n"))
            text = ends.join(self._shuffled(lines)) + draw.choice(("", ends, ends + ends))
            (folder / f"{split}.txt").write_bytes(text.encode(draw.choice(("utf-8", "utf-8", "utf-8-sig"))))

    def _xml(self, picture: Picture, fault: str, named: bool) -> bytes:
        draw = self.draw
        nodes = [
            self._object(picture, thing, fault if place == 0 else "") for place, thing in enumerate(picture.things)
        ]
        width, height = picture.annotated_size
        if fault == "wrong size":
            width += 3
        size = draw.choice(("{}", "{}", "{}.0", " {} ")).format
        sides = [f"<width>{size(width)}</width>", f"<height>{size(height)}</height>", "<depth>3</depth>"]
        parts = [f"<size>{''.join(self._shuffled(sides))}</size>"] if self.size_given else []
        if not self.size_given and draw.random() < 0.5:
            parts = ["<size><width>0</width><height>0</height><depth>0</depth></size>"]
        base = escape(picture.file.rpartition("/")[2])
        parts += draw.choice(([], ["<folder>x</folder>"])) + draw.choice(([], [f"<filename>{base}</filename>"])[named:])
        parts += draw.choice(([], [f"<path>C:\\data\\{base}</path>"], ["<segmented>0</segmented>"]))
        text = f"<annotation>{''.join(parts + self._shuffled(nodes))}</annotation>"
        forms = ["plain", "plain", "declared", "mark", "utf-16"]
        forms += [one for one in ("latin-1", "gbk", "shift_jis") if _can_be(text, one)]
        form = draw.choice(forms)
        if form == "plain":
            return text.encode()
        if form == "mark":
            return text.encode("utf-8-sig")
        encoding = "utf-8" if form == "declared" else form
        return f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'.encode(encoding)

    def _object(self, picture: Picture, thing: Thing, fault: str) -> str:
        draw = self.draw
        x1, y1, x2, y2 = self._annotated(picture, thing)
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        number = draw.choice(("{}", "{}", "{}.0", " {}\n")).format
        texts = {tag: number(value) for tag, value in corners.items()}
        if fault == "nan box":
            texts[draw.choice(list(texts))] = draw.choice(("nan", "NaN", "inf", "ten"))
        if fault == "box outside":
            texts["xmax"] = str(picture.annotated_size[0] + 7)
        box = "".join(self._shuffled([f"<{tag}>{text}</{tag}>" for tag, text in texts.items()]))
        flag = draw.choice(TRUE_WORDS if thing.difficult else FALSE_WORDS)
        if fault == "odd flag":
            flag = draw.choice(("maybe", "2", "-1", "0.5"))
        parts = [f"<bndbox>{box}</bndbox>"]
        if fault != "object without name":
            parts.append(f"<name>{escape(thing.name)}</name>")
        if flag is not None:
            parts.append(f"<difficult>{flag}</difficult>")
        if draw.random() < 0.3:
            parts.append("<pose>Unspecified</pose>")
        if draw.random() < 0.3:
            parts.append(f"<truncated>{draw.choice(('0', '1', 'Unspecified'))}</truncated>")
        if draw.random() < 0.15:
            parts.append(f"<part><name>head</name><bndbox>{box}</bndbox></part>")
        return f"<object>{''.join(self._shuffled(parts))}</object>"

    # -- COCO ----------------------------------------------------------------------------------------------------

    def _coco(self, faulty: bool) -> tuple[str, dict[str, Any]]:
        draw = self.draw
        layout = draw.choice(("annotations and one folder of images", "annotations and folders", "folder per split"))
        root = self.folder / draw.choice(("set", "my coco", "données.v2"))
        self.fault = draw.choice(DETECTION_FAULTS + COCO_FAULTS) if faulty else ""
        victim = draw.choice([picture for picture in self.pictures if picture.things])
        folders = []
        for split in self.splits:
            shared = "" if layout == "annotations and one folder of images" else split
            folders.append(root / split if layout == "folder per split" else root / "images" / shared)
        documents = self._documents(victim, folders)
        places = []
        for split, images, document in zip(self.splits, folders, documents, strict=True):
            per_split = layout == "folder per split"
            file = (
                root / split / "_annotations.coco.json" if per_split else root / f"annotations/instances_{split}.json"
            )
            for picture in self.pictures:
                if picture.split == split:
                    _save(picture, images / picture.file, draw, not self.fault)
            self._litter(images)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(document, ensure_ascii=draw.random() < 0.5, indent=draw.choice((None, 1)))
            content = text.encode(draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")))
            file.write_bytes(content)
            places.append((file, images))
            if victim.split == split and self.fault:
                if self.fault.startswith("image ") and self.fault != "image ids twice":
                    self._damage(victim, images / victim.file)
                else:
                    # Of a wrong size and of one image twice the image may be named instead of the JSON.
                    self.blamed = (file.name, victim.file) if "image" in self.fault else (file.name,)
                if self.fault == "wrong size":
                    self.blamed = (victim.file, victim.file.rpartition("/")[2])
                if self.fault == "annotation cut":
                    file.write_bytes(content[: len(content) // 2 // 2 * 2])
        (train_json, train_images), (test_json, test_images) = places
        options = {"train_json": train_json, "train_images": train_images, "test_json": test_json}
        return f"COCO, {layout}", options | {"test_images": test_images}

    def _documents(self, victim: Picture, folders: list[Path]) -> list[dict[str, Any]]:
        """One for each split; the forms of ids and numbers are the same in both."""
        draw = self.draw
        form = {key: draw.choice(("int", "int", "int", "text", "point")) for key in ("image", "category", "annotation")}
        size_form = draw.choice(("int", "int", "point"))
        start = {key: draw.choice((0, 1, 1, 5, 10**15)) for key in form}
        categories = [start["category"] + number * draw.choice((1, 3)) for number in range(len(self.names))]
        categories = (
            sorted(set(categories)) if len(set(categories)) == len(categories) else list(range(len(self.names)))
        )
        number_of_class = dict(zip(self.names, categories, strict=True))  # both in rising order of the ids
        roboflow = 0 not in categories and draw.random() < 0.2

        def written(value: int, how: str) -> int | float | str:
            return str(value) if how == "text" else float(value) if how == "point" else value

        documents = []
        backslashes, prefixed = draw.random() < 0.25, draw.random() < 0.15
        for split, folder in zip(self.splits, folders, strict=True):
            own = self._shuffled([picture for picture in self.pictures if picture.split == split])
            ids = draw.sample(range(start["image"], start["image"] + 30), len(own))
            images, annotations = [], []
            for number, picture in zip(ids, own, strict=True):
                width, height = picture.annotated_size
                if self.fault == "wrong size" and picture is victim:
                    width += 3
                name = (
                    f"{folder.name}/{picture.file}" if prefixed and folder.name in ("images", split) else picture.file
                )
                name = name.replace("/", "\\") if backslashes else name
                entry = {
                    "id": written(number, form["image"]),
                    "file_name": name,
                    "width": written(width, size_form),
                    "height": written(height, size_form),
                }
                images.append(dict(self._shuffled(list(entry.items()))) | draw.choice(({}, {"license": 1})))
                for place, thing in enumerate(picture.things):
                    fault = self.fault if picture is victim and place == 0 else ""
                    annotations.append(self._annotation(picture, thing, fault))
                    annotations[-1]["image_id"] = written(number, form["image"])
                    annotations[-1]["category_id"] = written(number_of_class[thing.name], form["category"])
            annotations = self._shuffled(annotations)
            for number, annotation in enumerate(annotations, start["annotation"]):
                annotation["id"] = written(number, form["annotation"])
            if victim.split == split:
                self._spoil(images, annotations, own.index(victim), written, form)
            kinds = [{"id": written(n, form["category"]), "name": name} for name, n in number_of_class.items()]
            draw.shuffle(kinds)
            if roboflow:
                kinds = [kind | {"supercategory": "things"} for kind in kinds]
                kinds.insert(0, {"id": written(0, form["category"]), "name": "things", "supercategory": "none"})
            parts = {"info": {}, "licenses": [], "categories": kinds, "images": images, "annotations": annotations}
            if self.fault == "no images" and victim.split == split:
                del parts["images"]
            documents.append(dict(self._shuffled(list(parts.items()))))
        return documents

    def _annotation(self, picture: Picture, thing: Thing, fault: str) -> dict[str, Any]:
        draw = self.draw
        x1, y1, x2, y2 = self._annotated(picture, thing)
        box: list[float] = [x1, y1, x2 - x1, y2 - y1]
        if draw.random() < 0.3:
            box = [float(value) for value in box]
        entry: dict[str, Any] = {"bbox": box, "area": (x2 - x1) * (y2 - y1), "iscrowd": int(thing.crowd)}
        if not thing.crowd and draw.random() < 0.2:
            del entry["iscrowd"]
        if draw.random() < 0.2:
            del entry["area"]
        if draw.random() < 0.3:
            entry["segmentation"] = [[x1, y1, x2, y1, x2, y2]]
        if fault == "nan box":
            box[draw.randrange(4)] = draw.choice((float("nan"), float("inf")))
        if fault == "box outside":
            box[2] = picture.annotated_size[0] + 7
        if fault == "negative box":
            box[3] = -box[3]
        if fault == "odd flag":
            entry["iscrowd"] = draw.choice((2, -1, "maybe"))
        return entry

    def _spoil(
        self, images: list[Any], annotations: list[Any], victim: int, written: Any, form: dict[str, str]
    ) -> None:
        """The faults that lie in how the entries of a COCO file go together."""
        other = (victim + 1) % len(images)
        if self.fault == "image ids twice":
            images[other]["id"] = images[victim]["id"]
        if self.fault == "one image twice":
            images[other]["file_name"] = images[victim]["file_name"]
            images[other]["width"], images[other]["height"] = images[victim]["width"], images[victim]["height"]
        if self.fault == "annotation ids twice":
            annotations.append(dict(annotations[0]))
        if self.fault == "unknown category":
            annotations[0]["category_id"] = written(77, form["category"])
        if self.fault == "unknown image":
            annotations[0]["image_id"] = written(777, form["image"])

    # -- classification ------------------------------------------------------------------------------------------

    def _labels(self, faulty: bool) -> tuple[str, dict[str, Any]]:
        draw = self.draw
        table = draw.random() < 0.5
        root = self.folder / draw.choice(("set", "my photos", "données"))
        if faulty:
            self.fault = draw.choice(LABEL_FAULTS + (CSV_FAULTS if table else ()))
        rows = []
        victim = draw.choice([p for p in self.pictures if p.split == self.splits[1]])
        for split in self.splits:
            own = [picture for picture in self.pictures if picture.split == split]
            for place in range(max(0, len(self.names) - len(own))):  # each class needs a picture
                number = max(p.number for p in self.pictures) + 1 if max(p.number for p in self.pictures) < 255 else 0
                number = (
                    next(n for n in range(256) if n not in {p.number for p in self.pictures}) if number == 0 else number
                )
                own.append(Picture(number, split, f"more {place}", ".png", (40, 24)))
                self.pictures.append(own[-1])
            for place, picture in enumerate(own):
                picture.label = self.names[place % len(self.names)]
        if self.fault == "class in test only":
            victim.label = "newcomer"
        for picture in self.pictures:
            picture.stem = f"{picture.split}/{picture.label}/{picture.stem}"
            path = root / picture.file
            _save(picture, path, draw, not self.fault)
            if picture is victim and self.fault.startswith("image "):
                self._damage(picture, path)
            entry = {"path": picture.file, "label": picture.label, "split": picture.split}
            rows.append(entry)
            if picture is victim and self.fault in ("no label", "one image twice"):
                rows.append(dict(entry))
                if self.fault == "no label":
                    rows.pop()
                    rows[-1]["label"] = draw.choice(("", "  "))
        if self.fault == "class in test only":
            self.blamed = ("newcomer",)
        options: dict[str, Any] = {"root": root}
        if table:
            options = {"csv": root / draw.choice(("labels.csv", "meine Liste.csv"))}
            self._table(options["csv"], self._shuffled(rows))
            if self.fault in ("no label", "one image twice"):
                self.blamed = (options["csv"].name,)
        return "CSV" if table else "folders by class", options

    def _table(self, path: Path, rows: list[dict[str, str]]) -> None:
        draw = self.draw
        columns = self._shuffled(["path", "label", "split"]) + draw.choice(([], ["remark"]))
        encoding = draw.choice(("utf-8", "utf-8-sig"))
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator=draw.choice(("\n", "\r\n")), restval="")
            writer.writeheader()
            writer.writerows(rows)
