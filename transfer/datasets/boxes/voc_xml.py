"""One VOC annotation file → its tree, whatever the encoding and the namespace."""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from transfer.runtime.errors import DataError

ROOT_TAG = "annotation"
# The longer first: UTF-32's little-endian mark begins like UTF-16's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DECLARED = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def read_tree(path: Path) -> ET.Element:
    """The <annotation> element of a file, its tags without namespaces.

    The encoding is the byte-order mark's, else the declared one, else UTF-8 (XML 1.0, appendix F).

    Raises:
        DataError: the file cannot be read, is no XML, or is another kind of XML.
    """
    try:
        text = _text(path.read_bytes())
        tree = ET.fromstring(text)
    except UnicodeError as error:
        todo = 'save the file as UTF-8, or declare its encoding in the first line: <?xml version="1.0" encoding="…"?>'
        raise DataError(f"broken XML in {path}", found=str(error), todo=todo) from error
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: no such encoding
        raise DataError(f"broken XML in {path}", found=str(error), todo="repair or re-export this file") from error
    except OSError as error:
        raise DataError(f"cannot read {path}", found=str(error), todo="check the file's permissions") from error
    if "xmlns" in text:
        for node in tree.iter():
            node.tag = node.tag.rpartition("}")[2]
    if tree.tag != ROOT_TAG:
        raise DataError(
            f"{path} is no VOC annotation",
            found=f"<{tree.tag}> instead of <{ROOT_TAG}>",
            todo="export the annotations as Pascal VOC XML, or take this file out of the set",
        )
    return tree


def only(node: ET.Element, tag: str, where: str) -> ET.Element | None:
    """The child of this name; None if there is none.

    Raises:
        DataError: there are several, of which one would have to be guessed; `where` says whose they are.
    """
    children = node.findall(tag)
    if len(children) > 1:
        raise DataError(f"{where} has {len(children)} times <{tag}>", todo="leave the right one, or split the object")
    return children[0] if children else None


def only_text(node: ET.Element, tag: str, where: str) -> str:
    """The text of the child of this name without white space at its ends; "" if there is none.

    Raises:
        DataError: as `only`.
    """
    child = only(node, tag, where)
    return (child.text or "").strip() if child is not None else ""


def _text(data: bytes) -> str:
    # Expat alone knows UTF-8, UTF-16 and encodings of one byte; Python's codecs also those of several (GBK, Shift-JIS).
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    if data[:2] in (b"<\0", b"\0<"):
        return data.decode("utf-16-le" if data[1] == 0 else "utf-16-be")
    declared = DECLARED.match(data)
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    # .NET writes "utf-16" into every string and saves it as UTF-8: what could be read as ASCII so far is no UTF-16.
    return data.decode("utf-8" if encoding.startswith(("utf-16", "utf-32", "ucs-")) else encoding)
