"""The Detectron2 engine: native config, model, trainer and augmentations; the project's data, checks and numbers.

Importing this package does not import Detectron2; its other modules do, and are imported when a run begins.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from contextlib import AbstractContextManager

from detection.engines.detector import DetectionJob, Detector
from detection.engines.engine import DetectionEngine

HOW_TO_GET_IT = (
    "`conda install -c conda-forge detectron2`, or build it as its own page says "
    "(https://detectron2.readthedocs.io/en/latest/tutorials/install.html), or install a wheel that you have "
    "(`.ci/run` takes one from the folder $DETECTRON2_WHEELS)"
)


class Detectron2Engine(DetectionEngine):
    """Trains and predicts with Detectron2, on one process or on several, see `DetectionEngine`."""

    name = "detectron2"

    def missing(self) -> str | None:
        """None if Detectron2 can be imported, otherwise one sentence: what is wrong and how to get it."""
        if importlib.util.find_spec("detectron2") is None:
            return f"Detectron2 is not installed; it is on no package index: {HOW_TO_GET_IT}"
        try:
            importlib.import_module("detectron2.engine")
        # An old Detectron2 beside a new Pillow or numpy fails with errors of these kinds.
        except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
            return f"Detectron2 is installed but cannot be imported ({error}); install it anew: {HOW_TO_GET_IT}"
        return None

    def cannot_build(self, arch: str) -> str | None:
        """None: depth, width and groups of every ResNet can be said in `MODEL.RESNETS`, and every trunk is ours."""
        return None

    def versions(self) -> dict[str, str]:
        """Versions of Detectron2 and of what decides its numbers; needs them installed."""
        library = importlib.import_module("detectron2")  # may be on the path without being installed
        packages = ("fvcore", "torch", "torchvision", "pillow")
        return {"detectron2": str(library.__version__)} | {name: importlib.metadata.version(name) for name in packages}

    def build(self, job: DetectionJob) -> Detector:
        """See `DetectionEngine`."""
        detector: Detector = importlib.import_module("detection.engines.detectron2.detector").Detectron2Detector(job)
        return detector

    def quiet(self) -> AbstractContextManager[None]:
        """See `DetectionEngine`."""
        quiet: AbstractContextManager[None] = importlib.import_module("detection.engines.detectron2.logs").quiet()
        return quiet


ENGINE = Detectron2Engine()

__all__ = ["ENGINE", "Detectron2Engine"]
