"""Annotations as tools write them: encodings, words for flags, sizes; and everything broken in one message."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from test_voc_reader import CAT, box_xml, refusal, write_image, write_split

from transfer.datasets.boxes.voc import read_voc, read_voc_sets
from transfer.runtime.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images `a` with a cat and `b` with nothing; split `train`."""
    root = tmp_path / "Animals"
    write_image(root, "a", box_xml(*CAT))
    write_image(root, "b")
    write_split(root, "train", "a\nb\n")
    return root


# -- flags -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "difficult"),
    [
        *(
            (word, False)
            for word in ("0", "0.0", "Unspecified", "unspecified", "False", "false", "no", "No", "", " 0 ")
        ),
        *((word, True) for word in ("1", "1.0", "True", "true", "TRUE", "yes", "Yes", "\n1\n")),
    ],
)
def test_words_for_flags(root: Path, text: str, difficult: bool) -> None:
    extra = (
        f"<truncated>perhaps</truncated><occluded>?</occluded><difficult>{text}</difficult>"  # the first two: unread
    )
    write_image(root, "a", box_xml(*CAT, extra) + box_xml(*CAT, "<difficult/>") + box_xml(*CAT))
    assert read_voc([(root, "train")], "animals").images[0].difficult.tolist() == [difficult, False, False]


@pytest.mark.parametrize("text", ["maybe", "2", "-1", "0.5", "nan", "1e", "0 1"])
def test_other_words_are_refused(root: Path, text: str) -> None:
    write_image(root, "b", box_xml(*CAT, f"<difficult>{text}</difficult>"))
    error = refusal(root)
    assert "difficult of object 1 (cat)" in error.what
    assert "b.xml" in error.what
    assert repr(text) in error.found


# -- XML ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
        ("utf-16", "utf-16-be"),
        ("utf-16", "utf-16-le"),
        ("utf-16", "utf-8"),  # .NET's StringWriter declares it, the file is written as UTF-8
        ("utf-8", "utf-32"),
        ("GBK", "gbk"),
        ("shift_jis", "shift_jis"),
        ("windows-1251", "cp1251"),
    ],
)
def test_encodings(root: Path, declared: str, encoding: str) -> None:
    label = {"gbk": "猫", "shift_jis": "ねこ"}.get(encoding, "кот")
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    text = f"{head}<annotation>{box_xml(label, *CAT[1:])}</annotation>"
    (root / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    dataset = read_voc([(root, "train")], "animals")
    assert dataset.classes == (label,)
    assert dataset.images[0].boxes.tolist() == [[10, 20, 60, 70]]


@pytest.mark.parametrize(
    "data", ["<annotation>ü".encode("latin-1"), b'<?xml version="1.0" encoding="hex"?><annotation/>']
)
def test_bytes_of_no_known_encoding_are_refused(root: Path, data: bytes) -> None:
    (root / "Annotations" / "a.xml").write_bytes(data)
    assert "a.xml" in refusal(root).what


@pytest.mark.parametrize("namespace", ['xmlns="urn:voc"', 'xmlns:v="urn:voc" xmlns="urn:x"'])
def test_namespaces_do_not_matter(root: Path, namespace: str) -> None:
    text = f"<annotation {namespace}><!-- by hand -->{box_xml(*CAT)}</annotation>"
    (root / "Annotations" / "a.xml").write_text(text, encoding="utf-8")
    assert read_voc([(root, "train")], "animals").box_counts() == {"cat": 1}
    prefixed = (
        text.replace("<", "<v:").replace("<v:/", "</v:").replace("<v:!--", "<!--").replace(namespace, 'xmlns:v="u"')
    )
    (root / "Annotations" / "a.xml").write_text(prefixed, encoding="utf-8")
    assert read_voc([(root, "train")], "animals").box_counts() == {"cat": 1}


@pytest.mark.parametrize("size", [(100, 0), (0, 80), (0, 0), ("", 80), ("100.0", "80.0")])
def test_sizes_that_leave_something_out(root: Path, size: tuple[object, object]) -> None:
    text = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>{box_xml(*CAT)}"
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{text}</annotation>", encoding="utf-8")
    assert read_voc([(root, "train")], "animals").images[0].width == 100


@pytest.mark.parametrize("size", [(99, 0), (0, 79), (80, 100), (-100, -80)])
def test_sizes_that_contradict_the_image(root: Path, size: tuple[int, int]) -> None:
    text = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>{box_xml(*CAT)}"
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{text}</annotation>", encoding="utf-8")
    assert "100 × 80" in refusal(root).found


ROTATED = "<robndbox><cx>50</cx><cy>40</cy><w>9</w><h>9</h><angle>0.5</angle></robndbox>"
POLYGON = "<polygon><x1>1</x1><y1>1</y1><x2>9</x2><y2>9</y2></polygon>"
NESTED = "<objects>" + box_xml(*CAT) + "</objects>"
TWO_BOXES = box_xml(*CAT).replace("</object>", "<bndbox><xmin>1</xmin></bndbox></object>")


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        (f"<object><type>robndbox</type><name>cat</name>{ROTATED}</object>", "<robndbox>"),
        (f"<object><name>cat</name>{POLYGON}</object>", "<polygon>"),
        (NESTED, "not directly below <annotation>"),
        (NESTED.replace("objects", "Object").replace("<object>", "<x>").replace("</object>", "</x>"), "in capitals"),
        (TWO_BOXES, "2 times <bndbox>"),
        (box_xml("cat", 1, "1_0", 5, 50), "'1_0'"),
        (box_xml("cat", 1, "1,5", 5, 50), "'1,5'"),
    ],
)
def test_objects_that_cannot_be_read_are_refused(root: Path, objects: str, said: str) -> None:
    write_image(root, "b", objects)
    error = refusal(root)
    assert said in error.what + error.found
    assert "b.xml" in error.what


def test_corners_with_decimals(root: Path) -> None:
    write_image(root, "a", box_xml("cat", "10.25", "2e1", " 60.5 ", "+70"))
    assert read_voc([(root, "train")], "animals").images[0].boxes.tolist() == [[9.25, 19, 60.5, 70]]


# -- all in one message ------------------------------------------------------------------------------------------

FAULTS = {
    "p_broken": "<object>",
    "q_unknown": box_xml("unicorn", 1, 1, 9, 9),
    "r_no_box": "<object><name>cat</name></object>",
    "s_word": box_xml("cat", 1, "one", 9, 9),
    "t_outside": box_xml("cat", 1, 1, 500, 9),
}


def test_all_broken_files_are_in_one_message(root: Path) -> None:
    for name, objects in FAULTS.items():
        write_image(root, name, objects)
    write_split(root, "train", "\n".join(["a", "b", *FAULTS]))
    error = refusal(root, classes=("cat", "dog"))
    assert error.what.startswith("5 of 7 images")
    for name in FAULTS:
        assert f"{name}.xml" in error.found
    for said in ("'unicorn'", "<bndbox>", "'one'", "500", "--clip-boxes"):
        assert said in str(error)


def test_of_many_broken_files_each_kind_is_shown(root: Path) -> None:
    names = [f"m{number:02}" for number in range(30)]
    for name in names:
        write_image(root, name, "<object>")
    write_image(root, "z", box_xml("cat", 1, "one", 9, 9))
    Image.new("RGB", (9, 9)).save(root / "JPEGImages" / "b.jpg")
    write_split(root, "train", "\n".join(["a", "b", "z", *names]))
    error = refusal(root)
    assert error.what.startswith("32 of 33 images")
    for said in ("b.xml", "m00.xml", "z.xml", "and 27 more"):
        assert said in error.found


def test_broken_files_of_both_splits_are_in_one_message(root: Path) -> None:
    for name in ("p", "q"):
        write_image(root, name, "<object>")
    write_split(root, "train", "a\np")
    write_split(root, "test", "b\nq")
    with pytest.raises(DataError, match="2 of 4 images") as caught:
        read_voc_sets([("train", [(root, "train")]), ("test", [(root, "test")])])
    assert "p.xml" in caught.value.found
    assert "q.xml" in caught.value.found


def test_all_missing_files_are_in_one_message(root: Path) -> None:
    write_image(root, "c")
    write_image(root, "d")
    (root / "JPEGImages" / "c.jpg").unlink()
    (root / "Annotations" / "d.xml").unlink()
    write_split(root, "train", "a\nb\nc\nd\ne\n")
    found = refusal(root).found
    for said in ("no file for c", "no file for d", "no file for e"):
        assert said in found
