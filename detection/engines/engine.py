"""What an engine is: whether its library is here, and how a detector of it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

from detection.engines.detector import DetectionJob, DetectionOutcome, Detector
from transfer.runtime.errors import EngineError


class DetectionEngine(ABC):
    """A library that trains detectors: `ENGINE` of `detection/engines/<name>`, whose import does not import it."""

    name: str

    @abstractmethod
    def missing(self) -> str | None:
        """None if the engine can run here, otherwise one sentence: what is missing and how to get it."""

    @abstractmethod
    def cannot_build(self, arch: str) -> str | None:
        """None if the engine has a backbone for this architecture, otherwise one sentence that says why not."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Package name → version of what decides this engine's numbers."""

    @abstractmethod
    def build(self, job: DetectionJob) -> Detector:
        """The native detector.

        Raises:
            EngineError: the recipe asks for what the library cannot express.
        """

    def quiet(self) -> AbstractContextManager[None]:
        """Keeps the library's own chatter out of a run's log."""
        return nullcontext()

    def run(self, job: DetectionJob) -> DetectionOutcome:
        """Build, verify, train (or resume), predict; every process of `job.world` gets all detections.

        Raises:
            EngineError: the model does not hold the backbone's weights; nothing was trained.
            TrainingError: the loss stopped being finite, or a checkpoint in the run's folder cannot be used.
            DataError: an image cannot be read.
        """
        missing = self.missing()
        if missing is not None:
            raise EngineError(f"the engine {self.name} cannot run here", found=missing)
        from detection.engines.run import carry_out  # needs torch, which choosing an engine does not

        with self.quiet():
            return carry_out(job, self.build)
