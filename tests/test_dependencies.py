"""What is imported is declared, what is declared is pinned, and conda's file names the same packages as pip's."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pretrain", "transfer", "detection", "segmentation", "finegrained", "results")
# Where the import and the package are not called alike.
PACKAGE_OF = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faster_coco_eval": "faster-coco-eval",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
CONDA_NAME = {"torch": "pytorch", "opencv-python-headless": "opencv"}
# Installed beside the extras without what they say they need: `MM` in the Makefile.
MMDET = {"mmengine": "onedl-mmengine", "mmcv": "onedl-mmcv", "mmdet": "onedl-mmdetection"}
# On no package index; conda has it.
NOT_PACKAGED = "detectron2"
ALSO_IN_CONDA = {"python", "pip", "make", NOT_PACKAGED}

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
TABLE = tomllib.loads(PROJECT)["project"]
EXTRAS: dict[str, list[str]] = TABLE["optional-dependencies"]
DECLARED = [
    Requirement(text) for text in (*TABLE["dependencies"], *(each for extra in EXTRAS.values() for each in extra))
]
NAMES = {canonicalize_name(each.name) for each in DECLARED}
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = {
    canonicalize_name(name): version for name, _, version in (line.partition("==") for line in CONSTRAINTS) if version
}


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """(package as imported, file), by statement or by `import_module("…")`; the project's own rooms are left out."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                names = [str(each.value) for each in node.args if isinstance(each, ast.Constant)]
            for name in names:
                top = name.partition(".")[0]
                if top not in ROOMS and top not in sys.stdlib_module_names:
                    yield top, path.relative_to(ROOT).as_posix()


IMPORTED = {top: file for room in ROOMS for top, file in imports(room)}


def test_every_import_is_declared() -> None:
    beside = {NOT_PACKAGED, *MMDET}
    missing = {
        top: file
        for top, file in IMPORTED.items()
        if top not in beside and canonicalize_name(PACKAGE_OF.get(top, top)) not in NAMES
    }
    assert not missing
    assert {"torch", "sklearn", "pyarrow"} <= IMPORTED.keys()  # the search finds all three kinds


def test_every_dependency_is_imported_or_says_why_it_is_there() -> None:
    """A reason is a comment in the dependency's line, or above the list of an extra for all in it."""
    used = {canonicalize_name(PACKAGE_OF.get(top, top)) for top in IMPORTED}
    lines = PROJECT.splitlines()
    explained = {
        canonicalize_name(Requirement(text).name)
        for extra, texts in EXTRAS.items()
        for text in texts
        if lines[lines.index(next(line for line in lines if line.startswith(f"{extra} = ["))) - 1].startswith("#")
    }
    explained |= {
        canonicalize_name(Requirement(found[1]).name)
        for line in lines
        if (found := re.match(r'\s+"([^"]+)",\s+# \w', line))
    }
    assert NAMES - used - explained == set()


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)], prereleases=True)


def test_the_three_of_mmdetection_are_pinned_and_installed_by_both_ways() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    names = " ".join(MMDET.values())
    assert set(MMDET.values()) <= PINS.keys()
    assert re.search(rf"^MM +:= {names}$", makefile, re.MULTILINE)
    assert re.search(rf"^# +pip install --no-deps -c constraints.txt {names}$", conda, re.MULTILINE)


def test_conda_names_the_same() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    flat = [name for each in listed for name in (each["pip"] if isinstance(each, dict) else [each])]
    assert len(flat) == len(set(flat))
    found = {re.split("[=<>]", name)[0] for name in flat}
    assert found == {CONDA_NAME.get(name, name) for name in NAMES} | ALSO_IN_CONDA
