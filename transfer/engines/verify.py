"""Weights that silently did not arrive: the most expensive mistake of this field, made impossible here.

After an engine has built its model, `verify` compares every backbone tensor inside it with the Backbone, and the
output of every stage with torchvision's for the same raw image. Training starts only after both have passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.architectures import STAGES, is_optional
from transfer.backbone import Backbone
from transfer.detector import Verification
from transfer.errors import EngineError

STAGE_TOLERANCE = 1e-4

# engine's tensor, and the part of the engine's model it was found in ("backbone", "roi_heads.res5", …)
Placed = tuple[torch.Tensor, str]


def probe_image(height: int = 96, width: int = 160) -> NDArray[np.uint8]:
    """A fixed RGB image [height, width, 3] with structure at several scales and three different planes.

    The sides are multiples of 32, so no engine pads it.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [np.sin(x / (7 + 3 * k)) * np.cos(y / (5 + 2 * k)) + 0.3 * np.sin(x * y / 900 + k) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 0.2, (height, width, 3))
    image = np.stack(planes, axis=-1) + noise
    image = (image - image.min()) / (image.max() - image.min())
    image[..., 2] **= 2  # planes of different mean: a swapped channel order cannot hide
    return np.asarray(np.round(image * 255), dtype=np.uint8)


@torch.no_grad()
def torchvision_stages(backbone: Backbone, image: NDArray[np.uint8], model: Any = None) -> dict[str, torch.Tensor]:
    """Stage name → output [1, C, H, W] of torchvision's ResNet in eval mode for an RGB uint8 image [H, W, 3].

    `model` saves building it again: what `backbone.as_torchvision()` returned.
    """
    spec = backbone.input
    pixels = image if spec.channels == "RGB" else image[..., ::-1]
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() * (spec.value_range / 255.0)
    x = (x - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
    model = model or backbone.as_torchvision()
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    outputs = {}
    for stage in STAGES:
        x = getattr(model, stage)(x)
        outputs[stage] = x
    return outputs


def verify(
    backbone: Backbone,
    engine: str,
    placed: Mapping[str, Placed],
    stages: Callable[[NDArray[np.uint8]], Mapping[str, torch.Tensor]],
) -> Verification:
    """Compare what is inside the engine's model with the Backbone.

    Args:
        backbone: what should be there.
        engine: its name, for messages.
        placed: torchvision name → (tensor inside the engine's model, part of the model it sits in).
        stages: maps an RGB uint8 image [H, W, 3] to the engine's stage outputs (eval mode, through the engine's own
            channel order and normalisation), each [1, C, H', W'], for all of `STAGES`.

    Raises:
        EngineError: a tensor is absent or differs, or a stage output is further than `STAGE_TOLERANCE` away.
    """
    wanted = {name: tensor for name, tensor in backbone.state.items() if not is_optional(name)}
    absent = [name for name in wanted if name not in placed]
    differing = [
        f"{name} in {placed[name][1]}"
        for name, tensor in wanted.items()
        if name in placed and not _same(placed[name][0], tensor)
    ]
    if absent or differing:
        raise EngineError(
            f"{engine} did not take over the weights of {backbone.source.path}: nothing was trained",
            found=f"{len(wanted) - len(absent) - len(differing)} of {len(wanted)} tensors arrived; "
            + _some("absent", absent)
            + _some("different", differing),
            todo="this is a fault of the conversion, not of the checkpoint: please report it with "
            "the output of `python -m transfer inspect FILE`",
        )
    errors = _stage_errors(backbone, engine, stages)
    return Verification(
        tensors=len(wanted),
        expected=len(wanted),
        by_part=dict(Counter(placed[name][1] for name in wanted)),
        stage_error=errors,
    )


def _stage_errors(
    backbone: Backbone, engine: str, stages: Callable[[NDArray[np.uint8]], Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    image = probe_image()
    reference = torchvision_stages(backbone, image)
    with torch.no_grad():
        computed = stages(image)
    errors: dict[str, float] = {}
    for stage in STAGES:
        ours, theirs = reference[stage], computed[stage].float().cpu()
        if ours.shape != theirs.shape:
            raise EngineError(
                f"{engine}: {stage} has another shape than torchvision's",
                found=f"{tuple(theirs.shape)} instead of {tuple(ours.shape)} for a {image.shape} image",
            )
        scale = max(1.0, float(ours.abs().max()))
        errors[stage] = float((ours - theirs).abs().max()) / scale
    # `not <=` also catches NaN.
    bad = {stage: error for stage, error in errors.items() if not error <= STAGE_TOLERANCE}
    if bad:
        raise EngineError(
            f"{engine} computes something else than torchvision with the same weights: nothing was trained",
            found=", ".join(f"{stage} differs by {error:.2g}" for stage, error in bad.items()),
            todo="channel order, normalisation or the position of the stride do not match this checkpoint",
        )
    return errors


def _same(inside: torch.Tensor, wanted: torch.Tensor) -> bool:
    inside = inside.detach().cpu()
    return inside.shape == wanted.shape and bool(torch.equal(inside.to(wanted.dtype), wanted))


def _some(label: str, names: list[str]) -> str:
    return f"\n{len(names)} {label}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}" if names else ""
