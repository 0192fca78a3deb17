"""A look over a pickle's instructions, before it is read, for what would bring its reader down.

A few bytes of pickle nest tuples a hundred thousand deep, or put one into the next twice, sixty times over. Built,
these take no room. But a tuple can be the key of a dict, and then it is hashed, part by part: Python overflows its
stack or does not come back. Nothing else that a pickle may hold here is walked through by the reader itself.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Iterator
from typing import Any

# State dicts hold tuples two deep (a storage's description within a tensor's arguments), settings a few more.
MAX_DEPTH = 100
# A tuple that was written out has no more parts than the pickle has instructions; one that repeats itself has.
FREE_PARTS = 10_000
MAX_NAME = 1000

_MARK = object()
_PLAIN = (1, 0)
_SIZES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def refuse_bombs(file: Any) -> int:
    """Walk over one pickle and build nothing.

    Args:
        file: open at the first byte of the pickle, with `read` and `readline`; afterwards behind its last byte.

    Returns:
        The number of instructions.

    Raises:
        pickle.UnpicklingError: a tuple is too deep or has too many parts, or a name is too long.
        ValueError, EOFError and the other `transfer.checkpoints.unpickle.MALFORMED` kinds: not a whole pickle.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    count = 0
    for count, (code, argument, _) in enumerate(_instructions(file), start=1):
        name = code.name
        if name == "MARK":
            stack.append(_MARK)
        elif name in _SIZES:
            stack.append(_tuple_of(_taken(stack, _SIZES[name]), count))
        elif name == "TUPLE":
            stack.append(_tuple_of(_taken_to_mark(stack), count))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        else:
            _run(code, stack)
        if name in ("GLOBAL", "INST") and len(argument) > MAX_NAME:
            raise pickle.UnpicklingError(f"a name of {len(argument)} characters")
    return count


def _instructions(file: Any) -> Iterator[tuple[Any, Any, Any]]:
    return pickletools.genops(file)


def _run(code: Any, stack: list[Any]) -> None:
    """Any other instruction: what it takes off the stack and puts on it, as pickletools' table says."""
    before = list(code.stack_before)
    if pickletools.markobject in before:
        _taken_to_mark(stack)
        before = before[: before.index(pickletools.markobject)]
    _taken(stack, len(before))
    stack.extend(_PLAIN for _ in code.stack_after)


def _taken(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise pickle.UnpicklingError("an instruction finds too little on the stack")
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken


def _taken_to_mark(stack: list[Any]) -> list[Any]:
    taken: list[Any] = []
    while stack:
        item = stack.pop()
        if item is _MARK:
            return taken
        taken.append(item)
    raise pickle.UnpicklingError("an instruction finds no mark on the stack")


def _tuple_of(items: list[Any], count: int) -> tuple[int, int]:
    """(parts, depth) of a tuple of `items`, after `count` instructions."""
    if any(item is _MARK for item in items):
        raise pickle.UnpicklingError("a tuple that holds a mark")
    parts, depth = 1 + sum(item[0] for item in items), 1 + max((item[1] for item in items), default=0)
    if depth > MAX_DEPTH or parts > FREE_PARTS + 10 * count:
        raise pickle.UnpicklingError(f"a tuple of {parts} parts, {depth} deep, made to exhaust its reader")
    return parts, depth
