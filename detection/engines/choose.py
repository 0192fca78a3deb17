"""Which engine runs, and why: said aloud, never guessed silently."""

from __future__ import annotations

import importlib
from collections.abc import Collection

from detection.engines.engine import DetectionEngine
from transfer.runtime.errors import EngineError

ENGINES = ("detectron2", "mmdet")  # preferred first


def load_engine(name: str) -> DetectionEngine:
    """The engine object of `detection/engines/<name>`; does not import the engine's libraries yet."""
    engine: DetectionEngine = importlib.import_module(f"detection.engines.{name}").ENGINE
    return engine


def choose_engine(wanted: str, known: tuple[str, ...], archs: Collection[str] = ()) -> tuple[str, str]:
    """(name of the engine to use, why it was taken).

    Args:
        wanted: a name, or "auto" for the first of `known` that can run here.
        known: engines of the task, preferred first.
        archs: architectures that it must be able to build.

    Raises:
        EngineError: the wanted engine, or every one, is missing or cannot build the backbones; the message says how to
            get one that can.
    """
    if wanted != "auto":
        if wanted not in known:
            raise EngineError(f"this task has no engine {wanted!r}", todo=f"choose one of auto, {', '.join(known)}")
        problem = _problem(wanted, archs)
        if problem:
            missing = load_engine(wanted).missing() is not None
            others = [name for name in known if name != wanted and _problem(name, archs) is None]
            able = [name for name in known if not any(load_engine(name).cannot_build(arch) for arch in archs)]
            hints = ["install it"] if missing else []
            hints += [f"use --engine {name}, which can run here" for name in others[:1]]
            hints += [f"{name} can build it, once it is installed" for name in able if not missing and not others]
            raise EngineError(
                f"the engine {wanted} cannot run here" if missing else f"the engine {wanted} has no such backbone",
                found=problem,
                todo="; or ".join(hints),
            )
        return wanted, "asked for"
    reasons: list[str] = []
    for name in known:
        problem = _problem(name, archs)
        if problem is None:
            return name, "; ".join(reasons) or f"preferred of {', '.join(known)}"
        reasons.append(f"{name} is not usable: {problem}")
    raise EngineError("no engine of this task can run here", found="\n".join(reasons), todo="install one of them")


def _problem(name: str, archs: Collection[str]) -> str | None:
    engine = load_engine(name)
    return engine.missing() or next(filter(None, (engine.cannot_build(arch) for arch in archs)), None)
