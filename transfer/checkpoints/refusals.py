"""What is said of files that would run code, and of files that are not whole."""

from __future__ import annotations

from pathlib import Path

from transfer.runtime.errors import CheckpointError

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
        ("torch.nn.modules.", "torchvision.models.", "timm.models.", "models.", "lightly_train.", "__main__."),
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


def damaged(path: Path, kind: str, error: Exception) -> CheckpointError:
    """The refusal of a file that begins like `kind` and failed with `error`."""
    text = str(error).partition("Check the documentation of torch.load")[0]  # torch's advice is not for this reader
    reason = text.strip().splitlines()
    return CheckpointError(
        f"{path} begins like {'an' if kind.startswith('array') else 'a'} {kind}, but is cut off or damaged",
        found=f"{type(error).__name__}: {reason[-1][:300] if reason else 'no more data'}",
        todo="download or copy it again, and compare its size and sha256 with the original's",
    )
