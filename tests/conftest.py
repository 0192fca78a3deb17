"""Puts the checkout's root first on the import path: the project is run from its folder, not installed."""

import logging
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# generators that several rooms' tests share
folders = (folder for folder in sorted((ROOT / "tests").glob("**/")) if not (folder / "__init__.py").exists())
sys.path.extend(str(folder) for folder in folders if folder.name != "__pycache__")

# A shell starts background jobs with Ctrl-C ignored, and every process of theirs inherits that: tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from transfer.runtime.logs import ROOMS  # noqa: E402 - found on the path that was set above


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `tests/gpu`; they stand here because pytest reads them before it looks into folders."""
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where the tests of tests/gpu compute")
    parser.addoption("--evidence", type=Path, help="where they keep what they saw; on a GPU tests/gpu/evidence.json")


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory):
    """What is remembered of this machine while a test patches its clock is not for the user's runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _logs_end_with_the_test():
    """A command's `main` logs into the stream of its test, which is closed afterwards, and says how much is logged."""
    before = list(logging.root.handlers)
    for room in ROOMS:  # a fixture of a module may have run one, too
        logging.getLogger(room).setLevel(logging.NOTSET)
    yield
    for handler in list(logging.root.handlers):
        if handler not in before and type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder named by MSBREG_TEST_DATA; its tests skip where it is not set."""
    folder = os.environ.get("MSBREG_TEST_DATA", "")
    if not folder:
        pytest.skip("MSBREG_TEST_DATA is not set: no real image sets to test on")
    if not Path(folder).is_dir():
        pytest.fail(f"MSBREG_TEST_DATA names {folder}, which is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The toy sets, made once; tests that change something copy `toy / "voc"` first."""
    from transfer.datasets.toy import ToySizes, make_toy

    folder = tmp_path_factory.mktemp("toy") / "toy"
    # the classification images that no test looks at take half of the time
    make_toy(folder, seed=0, sizes=ToySizes(voc_test=10, coco_val=8, per_class_train=4, per_class_val=2))
    return folder
