"""Which engine runs, and why: said aloud, never guessed silently."""

from __future__ import annotations

import importlib

from transfer.detector import DetectionEngine
from transfer.errors import EngineError


def load_engine(name: str) -> DetectionEngine:
    """The engine object of `transfer/engines/<name>`; does not import the engine's libraries yet."""
    engine: DetectionEngine = importlib.import_module(f"transfer.engines.{name}").ENGINE
    return engine


def choose_engine(wanted: str, known: tuple[str, ...]) -> tuple[str, str]:
    """(name of the engine to use, why it was taken).

    Args:
        wanted: a name, or "auto" for the first of `known` that can run here.
        known: engines of the task, preferred first.

    Raises:
        EngineError: the wanted engine, or every one, is missing; the message says how to get it.
    """
    if wanted != "auto":
        if wanted not in known:
            raise EngineError(f"this task has no engine {wanted!r}", todo=f"choose one of auto, {', '.join(known)}")
        missing = load_engine(wanted).missing()
        if missing:
            others = [name for name in known if name != wanted and load_engine(name).missing() is None]
            hint = f"; or use --engine {others[0]}, which can run here" if others else ""
            raise EngineError(f"the engine {wanted} cannot run here", found=missing, todo="install it" + hint)
        return wanted, "asked for"
    reasons: list[str] = []
    for name in known:
        missing = load_engine(name).missing()
        if missing is None:
            return name, "; ".join(reasons) or f"preferred of {', '.join(known)}"
        reasons.append(f"{name} is not usable: {missing}")
    raise EngineError("no engine of this task can run here", found="\n".join(reasons), todo="install one of them")
