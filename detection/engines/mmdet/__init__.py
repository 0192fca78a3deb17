"""The MMDetection engine. Importing this module imports nothing of OpenMMLab; `ENGINE` does so when it is asked to."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from importlib import import_module

import torch
import torchvision

from detection.engines import mmcv_ops
from detection.engines.detector import DetectionJob, Detector
from detection.engines.engine import DetectionEngine
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.resnet import architecture


class MMDetection(DetectionEngine):
    """Detectors of MMDetection 3."""

    name = "mmdet"

    def missing(self) -> str | None:
        """None if MMDetection can be imported, otherwise one sentence: which import failed and what to type."""
        for module in ("cv2", "mmengine", "mmcv", "mmdet.models"):
            try:
                if module == "mmdet.models":
                    # mmdet decides at import time whether mmcv has kernels.
                    mmcv_ops.install()
                _import_quietly(module)
            # mmdet asserts that it was given an mmcv of the right version.
            except (ImportError, AssertionError, AttributeError, OSError, RuntimeError, ValueError) as error:
                if "libGL" in str(error) or "libgthread" in str(error):
                    return (
                        f"OpenCV cannot be loaded ({error}): servers without a display need "
                        "`pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless`"
                    )
                return f"MMDetection is not usable here: `import {module}` failed ({error}); `make setup` installs it"
        return None

    def cannot_build(self, arch: str) -> str | None:
        """One sentence for the `wide_resnet`s: mmdet takes a width inside the blocks for grouped convolutions only."""
        if family_of(arch).name != "resnet":
            return None
        known = architecture(arch)
        if known.groups == 1 and known.group_width != 64:
            return (
                f"MMDetection cannot build a {arch}: its ResNets have one width inside and outside of the blocks "
                "(mmdet/models/backbones/resnext.py ignores base_width where groups is 1)"
            )
        return None

    def versions(self) -> dict[str, str]:
        """Package → version of what decides this engine's numbers, and whose kernels run."""
        stand_in = mmcv_ops.install()
        found = {name: str(import_module(name).__version__) for name in ("mmdet", "mmcv", "mmengine")}
        kernels = f"torchvision {torchvision.__version__}" if stand_in else f"mmcv {found['mmcv']}, compiled"
        return found | {
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "mmcv kernels": kernels,
        }

    def build(self, job: DetectionJob) -> Detector:
        """See `DetectionEngine`."""
        mmcv_ops.install()
        _import_quietly("mmdet.models")
        import cv2

        from detection.engines.mmdet.detector import MMDetector

        cv2.setNumThreads(0)  # as mmengine's Runner does: its pool is not counted by --threads and bears no fork

        return MMDetector(job)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """See `DetectionEngine`."""
        with warnings.catch_warnings():
            # Two old ways of writing in mmdet, which PyTorch deprecates in every run.
            warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
            warnings.filterwarnings("ignore", message="indexing with dtype torch.uint8", category=UserWarning)
            yield


def _import_quietly(module: str) -> None:
    """Import `module` without what it prints about optional packages that nobody here asks for."""
    with contextlib.redirect_stdout(io.StringIO()):
        import_module(module)


ENGINE = MMDetection()
