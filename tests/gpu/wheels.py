"""Bring to a machine with a GPU, and without a network, what `make gpu` needs beside PyTorch.

    make gpu-wheels                                                    for Python 3.12
    .venv/bin/python tests/gpu/wheels.py collect --python 3.13         for another one
    .venv/bin/python tests/gpu/wheels.py collect --have torch torchvision

`collect` walks the requirements of the project as they are installed here, leaves out what the machine has (`--have`,
with all that these need themselves), and downloads the wheels of the rest into `.wheels`, a folder that git ignores.
It ends with status 1 if they are larger than `LIMIT`. `check` unpacks them beside themselves and names what cannot be
imported. A wheel of Detectron2 for that Python is taken from the folder $DETECTRON2_WHEELS.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".wheels"
SITE = WHEELS / "site"
LIMIT = 60  # MiB
ENGINES = ("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection")
# A machine for computing has these; with them left out the rest is small. SciPy and OpenCV alone would fill the limit.
SCIENTIFIC = (
    *("torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "opencv-python-headless"),
    *("timm", "tensorboard", "safetensors", "tqdm", "tabulate", "pyyaml", "rich", "packaging", "pytest"),
)
IMPORTED = (  # must be importable
    *(
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "pandas",
        "matplotlib",
        "timm",
        "tyro",
        "sklearn",
        "PIL",
        "cv2",
        "yaml",
    ),
    *("faster_coco_eval", "pycocotools", "tensorboard", "safetensors", "tqdm", "tabulate", "pytest", "shapely"),
    *("addict", "yapf", "mmengine", "terminaltables", "termcolor", "six", "rich"),
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def normal(name: str) -> str:
    """PEP 503's spelling."""
    return name.lower().replace("_", "-").replace(".", "-")


def needs(names: Sequence[str]) -> set[str]:
    """The packages and all that they need, as installed here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    todo = [(normal(name), "") for name in names]
    while todo:
        name, extra = todo.pop()
        if name in found and not extra:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(normal(requirement.name), each) for each in ("", *requirement.extras)]
    return found


def asked_for() -> Iterator[str]:
    """What `pyproject.toml` names: the project's own, MMDetection's, and pytest."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]
    detectron2 = extra["detectron2"] if _detectron2_wheel() else []
    for line in (*project["dependencies"], *extra["mmdet"], *detectron2, "pytest"):
        yield Requirement(line).name


def _detectron2_wheel() -> list[Path]:
    folder = os.environ.get("DETECTRON2_WHEELS")
    return sorted(Path(folder).glob("detectron2-*.whl")) if folder else []


def collect(python: str, have: Sequence[str]) -> int:
    """Fill `.wheels`; 1 if the wheels are too large together."""
    wanted = sorted((needs(list(asked_for())) | set(ENGINES)) - needs(have))
    WHEELS.mkdir(exist_ok=True)
    for old in WHEELS.glob("*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    known = ["-c", str(ROOT / "constraints.txt"), "--no-deps"]
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for name in wanted:
        words = [*pip, "download", name, *known, *target, "-d", str(WHEELS)]
        words += [word for platform in PLATFORMS for word in ("--platform", platform)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            # no wheel: a source without compiled code
            subprocess.run([*pip, "wheel", name, *known, "-w", str(WHEELS)], check=True)
    for path in _detectron2_wheel():
        if f"-cp{python.replace('.', '')}-" in path.name:
            (WHEELS / path.name).write_bytes(path.read_bytes())
    sizes = {path.name: path.stat().st_size / 2**20 for path in WHEELS.glob("*.whl")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size:7.2f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total:7.2f} MiB  {len(sizes)} wheels for Python {python} in {WHEELS.name}; {LIMIT} MiB may be carried")
    return int(total > LIMIT)


def check() -> int:
    """Unpack the wheels, once; 1 and one message if something cannot be imported."""
    wheels = sorted(WHEELS.glob("*.whl"))
    if wheels and not SITE.exists():
        words = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(SITE)]
        subprocess.run([sys.executable, "-m", "pip", *words, *map(str, wheels)], check=True)
    sys.path.insert(0, str(SITE))
    missing = []
    for module in IMPORTED:
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append(f"{module} ({error})")
    if missing:
        print(
            f"error: {sys.executable} lacks {', '.join(missing)}\n"
            "type  make gpu-wheels  in a copy of this checkout that reaches a package index, bring its .wheels here, "
            "and type  make gpu PYTHON=…  with the Python that has PyTorch",
            file=sys.stderr,
        )
    return int(bool(missing))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["collect", "check"])
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU")
    parser.add_argument("--have", nargs="+", default=list(SCIENTIFIC), metavar="PACKAGE", help="what it has")
    options = parser.parse_args()
    return collect(options.python, options.have) if options.what == "collect" else check()


if __name__ == "__main__":
    sys.exit(main())
