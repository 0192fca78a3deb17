"""Pickles without code: every name that a pickle may import is answered by something inert of our own.

A pickle is a program. Python's own reader runs it, so opening a stranger's file is running a stranger's code. Here a
pickle may name numpy's arrays and a few containers, and nothing else; even for these it never gets the real class, but
a stand-in that only keeps bytes and shapes. What is not in the tables below is refused by name, before it is called.

The same tables serve both readers: `load_plain_pickle` (Detectron2, Caffe2 and JAX files) and, through
`torch.serialization.safe_globals`, `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch

from transfer.runtime.errors import CheckpointError


class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle asked for something that is not admitted. `name` is what it wanted to import."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"the pickle wants to import {name}")


class Inert:
    """Stands in the place of an argparse or omegaconf object: takes whatever it is given and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> Inert:  # noqa: D102 - what it takes is what it ignores
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __repr__(self) -> str:
        return "(settings of the training run; not read)"


class PickledDtype:
    """What a pickle says about a numpy dtype, for example ('f4', '<')."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = code if isinstance(code, str) else "", "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        """The dtype, if it is a plain number or a string; object and structured dtypes could hide anything."""
        if not re.fullmatch(r"[biufcSU]\d{1,4}", self.code):
            raise pickle.UnpicklingError(f"an array of dtype {self.code!r}, which does not hold plain numbers")
        return np.dtype(self.order + self.code)


class PickledArray:
    """A numpy array as it lies in the pickle: its bytes are not copied before somebody asks for the tensor."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __init__(self, *_: object) -> None:
        self.raw: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.shape, self.dtype, self.fortran, self.raw = state[-4:]

    def tensor(self) -> torch.Tensor | None:
        """A tensor with memory of its own, in native byte order; None for an array of strings.

        Raises:
            pickle.UnpicklingError: shape, dtype and number of bytes do not fit together.
        """
        if self.raw is None or not isinstance(self.dtype, PickledDtype):
            raise pickle.UnpicklingError("an array without contents")
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw  # Python 2 wrote bytes as str
        dtype = self.dtype.numpy()
        if not isinstance(self.shape, (tuple, list)) or not all(isinstance(size, int) for size in self.shape):
            raise pickle.UnpicklingError("an array whose shape is not made of whole numbers")
        if not isinstance(raw, (bytes, bytearray)) or math.prod(self.shape) * dtype.itemsize != len(raw):
            raise pickle.UnpicklingError(f"an array of shape {self.shape} and {dtype} does not have that many bytes")
        if dtype.kind in "SU":
            return None
        flat = np.frombuffer(raw, dtype=dtype)
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))


class _Call:
    """An admitted function. A pickle may set attributes of whatever it holds (BUILD), so this has none to set."""

    __slots__ = ("_function",)
    _function: Callable[..., object]

    def __init__(self, function: Callable[..., object]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"a pickle that changes {name} of a function")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a pickle that changes a function")


def _reconstruct(kind: object, *_: object) -> PickledArray:
    if kind is not PickledArray:
        raise pickle.UnpicklingError("numpy's _reconstruct called for something that is not an array")
    return PickledArray()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str, *_: object) -> PickledArray:
    array = PickledArray()
    array.__setstate__((shape, dtype, order == "F", raw))
    return array


def _rebuilt(_: object, arguments: Any, state: Any, *__: object) -> PickledArray:
    # What dill and jax write for an array: the three parts of its __reduce__, to be put together by their reader.
    array = _reconstruct(*arguments)
    array.__setstate__(state)
    return array


class PickledNamedTuple:
    """Stands in the place of a named tuple's class. What a pickle makes of it are plain dicts.

    A pickle makes an object by `kind.__new__(kind, *values)`, and `kind` is an instance here, so this returns a dict.
    """

    __slots__ = ("fields",)
    fields: tuple[str, ...]

    def __new__(cls, *values: object) -> Any:  # noqa: D102 - see above
        kind: Any = cls
        return dict(zip(kind.fields, values, strict=True))


def _named_tuple(_: object, fields: Any, *__: object) -> PickledNamedTuple:
    if not isinstance(fields, (tuple, list)) or not all(isinstance(field, str) for field in fields):
        raise pickle.UnpicklingError("a named tuple whose fields are no names")
    kind: PickledNamedTuple = object.__new__(PickledNamedTuple)
    kind.fields = tuple(fields)
    return kind


def _mapping(contents: Any, *_: object) -> dict[object, object]:
    if not isinstance(contents, dict):
        raise pickle.UnpicklingError(f"a mapping made from a {type(contents).__name__}")
    return contents


def _scalar(dtype: PickledDtype, raw: Any) -> object:
    array = _from_buffer(raw, dtype, (), "C").tensor()
    return None if array is None else array.item()


def _encode(text: str, encoding: str = "latin1", *_: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("_codecs.encode called for something else than bytes written as latin1")
    return text.encode("latin1")


def _bytes(value: object = b"", *_: object) -> bytearray:
    # bytes(n) and bytearray(n) would reserve n bytes for nine bytes of pickle.
    if isinstance(value, str):
        return bytearray(value.encode("latin1"))
    if not isinstance(value, (bytes, bytearray, list)):
        raise pickle.UnpicklingError(f"bytes made from a {type(value).__name__}")
    return bytearray(value)


def _empty_dict(*_: object) -> dict[object, object]:
    return {}


NUMPY: Mapping[str, object] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": PickledDtype,
    **{
        f"numpy.{core}.{name}": _Call(function)
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}

PLAIN: Mapping[str, object] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _Call(_empty_dict),
    "_codecs.encode": _Call(_encode),
    **{
        f"{module}.{name}": value
        for module in ("builtins", "__builtin__")
        for name, value in (
            ("set", set),
            ("frozenset", frozenset),
            ("bytes", _Call(_bytes)),
            ("bytearray", _Call(_bytes)),
        )
    },
}

# What dill writes for the state of a JAX experiment (DeepMind's BYOL). dill files arrays and classes of named tuples
# under functions of its own; haiku's mappings are immutable dicts; a jax array is a numpy array and a little more
# (google-deepmind/deepmind-research: byol/utils/checkpointing.py; uqfoundation/dill: dill/_dill.py;
# google-deepmind/dm-haiku: haiku/_src/data_structures.py; jax-ml/jax: jax/_src/array.py, and jax/_src/device_array.py
# of 2022; before that, jax pickled its arrays as numpy's).
JAX: Mapping[str, object] = {
    "dill._dill._create_namedtuple": _Call(_named_tuple),
    "dill._dill._create_array": _Call(_rebuilt),
    "haiku._src.data_structures.FlatMapping": _Call(_mapping),
    "haiku._src.data_structures.frozendict": _Call(_mapping),
    "jax._src.array._reconstruct_array": _Call(_rebuilt),
    "jax._src.device_array.reconstruct_device_array": _Call(_rebuilt),
}

_OMEGACONF = (
    "dictconfig.DictConfig",
    "listconfig.ListConfig",
    "base.ContainerMetadata",
    "base.Metadata",
    *(f"nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path", "Enum")),
    "nodes.InterpolationResultNode",
)


class PlainDict:
    """Stands in the place of a library's own kind of dict: calling it gives an ordinary one."""

    def __new__(cls, *_: object, **__: object) -> dict[object, object]:  # type: ignore[misc]
        """Ignore what it is given: a pickle adds the items afterwards."""
        return {}


class HistoryBuffer(Inert):
    """Stands in the place of mmengine's record of a logged number, in the `message_hub` of its checkpoints."""

    __slots__ = ()


def _statistic(owner: object, *_: object) -> Inert:
    """What `getattr` is answered with: mmengine's HistoryBuffer pickles its own methods as attributes of the class.

    (open-mmlab/mmengine: mmengine/logging/history_buffer.py, `__getstate__`.)
    """
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError("GLOBAL builtins.getattr was called for something else than a HistoryBuffer")
    return Inert()


# Lightning before 1.5 files a callback's state under its class (1.4: trainer/callback_hook.py, on_save_checkpoint).
_LIGHTNING_CALLBACKS = ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping", "timer.Timer")

SETTINGS: Mapping[str, object] = {
    "argparse.Namespace": Inert,
    **{f"pathlib.{kind}": Inert for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    "pytorch_lightning.utilities.parsing.AttributeDict": PlainDict,
    **{f"pytorch_lightning.callbacks.{name}": Inert for name in _LIGHTNING_CALLBACKS},
    "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
    "builtins.getattr": _Call(_statistic),
    **{f"omegaconf.{name}": Inert for name in _OMEGACONF},
    # what omegaconf's containers mention about the types of their values
    "typing.Any": Inert,
    "collections.defaultdict": _Call(_empty_dict),
    **{f"builtins.{name}": Inert for name in ("dict", "list", "int", "float", "str", "bool", "tuple", "object")},
}


def torch_safe_globals() -> list[Any]:
    """The (stand-in, name) pairs to admit around `torch.load(weights_only=True)`, beside torch's own."""
    return [(stand_in, name) for name, stand_in in (NUMPY | SETTINGS).items()]  # type: ignore[operator]


MAX_LINE = 2**20


class Bounded:
    """A file that never reserves memory for more bytes than it has left."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:  # noqa: D102 - as a file does
        if count > self._left:
            raise EOFError(f"the pickle announces {count} bytes and {self._left} are left")
        data = self._file.read(count)
        self._left -= len(data)
        return data

    def readline(self) -> bytes:  # noqa: D102 - as a file does
        data = self._file.readline(MAX_LINE)
        self._left -= len(data)
        if not data.endswith(b"\n"):
            raise EOFError("the pickle ends within a line")
        return data


# The reader written in Python, not the one in C: a damaged memo index makes the C one reserve gigabytes.
class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        for table in (NUMPY, PLAIN, JAX):
            if wanted in table:
                return table[wanted]
        raise ForbiddenGlobal(wanted)


def load_plain_pickle(file: BinaryIO, size: int) -> Any:
    """Read one pickle of containers, strings, numbers and numpy or jax arrays (as `PickledArray`).

    Args:
        file: open at the first byte of the pickle.
        size: how many bytes the file has.

    Raises:
        ForbiddenGlobal: it wants to import something else; nothing of it was called.
        pickle.UnpicklingError, EOFError and the other `MALFORMED` kinds: not a whole pickle.
    """
    return _PlainUnpickler(Bounded(file, size), encoding="latin1").load()


# A damaged pickle can fail at any instruction, in the way of that instruction. These are those ways.
MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    NameError,
    struct.error,
)


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


# What a pickle wants to import → what its author pickled, and what to do; beginnings of names.
_KNOWN_CODE = (
    (
        ("lib.LinearAverage.", "lib.NCEAverage.", "lib.alias_multinomial."),
        "the memory bank of NPID's original release (lemniscate.pytorch), pickled as a whole module",
        "open it with the code of zhirongw/lemniscate.pytorch and save checkpoint['state_dict'] alone, or take VISSL's "
        "NPID++",
    ),
    (
        ("dotmap.", "src.objectives.localagg."),
        "a training checkpoint of Local Aggregation",
        "saving its weights alone will not help: its network is a pre-activation ResNet, which no engine builds",
    ),
    (
        ("dill._dill.",),
        "objects that dill pickled together with their code",
        "open it in the program that wrote it and save the arrays alone, as plain dicts of numpy arrays",
    ),
    (
        ("torch.distributed.",),
        "one process's share of a network that was trained in shards (FSDP); DINOv2's training writes such "
        "model_*.rank_*.pth",
        "take the whole network: of DINOv2, eval/training_*/teacher_checkpoint.pth in the same folder; otherwise load "
        "all shards in the program that wrote them and save its full state dict",
    ),
    (
        ("lightly_train.",),
        "a checkpoint of lightly-train, which pickles its models whole",
        "export the weights with lightly-train: lightly_train.export(out='weights.pt', checkpoint='last.ckpt', "
        "part='model', format='torch_state_dict')",
    ),
    (
        ("torch.nn.modules.", "torchvision.models.", "timm.models.", "models.", "__main__."),
        "a whole model, pickled with torch.save(model), which needs its code to be opened",
        "open it in the program that wrote it and save model.state_dict() with torch.save",
    ),
)


def unsafe(path: Path, wanted: str) -> CheckpointError:
    """The refusal of a pickle that wants to import `wanted`."""
    for starts, what, todo in _KNOWN_CODE:
        if wanted.startswith(starts):
            return CheckpointError(
                f"{path} is a pickle that wants to import {wanted}; it was refused and not run",
                found=f"by that name {what}",
                todo=todo,
            )
    return CheckpointError(
        f"{path} is a pickle that wants to import {wanted}; it was refused and not run",
        found="a checkpoint of weights needs tensors, numpy arrays and plain containers only",
        todo="if you trust its author, open it in the program that wrote it and save the weights alone: "
        "torch.save({'state_dict': model.state_dict()}, 'weights.pth')",
    )
