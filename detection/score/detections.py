"""What detections must be before any evaluator may give them a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.runtime.errors import EngineError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MASKS_AT_ONCE = 200  # small arrays stay in the processor's cache


def demand_scorable(dataset: DetectionDataset, detections: Detections) -> None:
    """Refuse what would otherwise be scored as if it were a result.

    Raises:
        EngineError: NaN or infinity, images or classes that the data set does not have, masks that are too few.
    """
    finite = np.isfinite(detections.scores) & np.isfinite(detections.boxes).all(axis=1)
    known_image = np.isin(detections.image_ids, [image.image_id for image in dataset.images])
    known_class = (detections.labels >= 0) & (detections.labels < len(dataset.classes))
    for good, problem, todo in (
        (finite, "NaN or infinite boxes or scores", "the training diverged: lower the learning rate and train again"),
        (known_image, "image ids that the data set does not have", f"evaluate on the images of {dataset.name} alone"),
        (known_class, "labels that the data set does not have", f"it has {len(dataset.classes)} classes, from 0"),
    ):
        if not good.all():
            first = int(np.flatnonzero(~good)[0])
            raise EngineError(
                f"detections on {dataset.name} cannot be scored: {problem}",
                found=f"{int((~good).sum())} of {len(good)}, the first: image id {detections.image_ids[first]}, label "
                f"{detections.labels[first]}, box {detections.boxes[first].tolist()}, score {detections.scores[first]}",
                todo=todo,
            )
    if detections.masks is not None and len(detections.masks) != len(detections):
        raise EngineError(
            f"detections on {dataset.name} cannot be scored",
            found=f"{len(detections.masks)} masks for {len(detections)} boxes",
            todo="one mask for each box",
        )


def mask_areas(dataset: DetectionDataset, detections: Detections) -> Ints:
    """Pixels of every detection's mask, int64 [m].

    Every run length is looked at, because the libraries' own loops read beyond the end of a string that is too short
    for its image, or never end.

    Raises:
        EngineError: there are no masks, or one does not decode to the size of its image.
    """
    if detections.masks is None:
        raise EngineError(
            f"the detections on {dataset.name} have no masks, so mask AP is not defined",
            todo="run a detector with masks, or evaluate its boxes",
        )
    pixels = {image.image_id: image.height * image.width for image in dataset.images}
    expected = np.array([pixels[image_id] for image_id in detections.image_ids.tolist()], dtype=np.int64)
    areas = np.zeros(len(detections), np.int64)
    for start in range(0, len(detections), MASKS_AT_ONCE):
        part = slice(start, start + MASKS_AT_ONCE)
        areas[part], broken = _areas_and_broken(detections.masks[part], expected[part])
        if broken.any():
            first = start + int(np.flatnonzero(broken)[0])
            raise EngineError(
                f"detections on {dataset.name} cannot be scored: a mask does not decode to the size of its image",
                found=f"detection {first + 1} of {len(detections)}, image id {detections.image_ids[first]} of "
                f"{expected[first]} pixels, run lengths {detections.masks[first][:40]!r}",
                todo="masks are compressed run lengths in the original image, see transfer.datasets.boxes.masks",
            )
    return areas


def _areas_and_broken(masks: Sequence[bytes], pixels: Ints) -> tuple[Ints, Bools]:
    """(pixels of the object, whether the string is broken or not of an image of that many `pixels`), each [m].

    `transfer.datasets.boxes.coco_masks.run_lengths` says what the characters mean; here many strings are decoded at
    once.
    """
    ends = np.cumsum([len(mask) for mask in masks])
    codes = np.frombuffer(b"".join(masks), np.uint8) - np.uint8(ord("0"))  # what is below "0" becomes large
    sound = np.array([len(mask) > 0 and (mask[-1] - ord("0")) & 32 == 0 for mask in masks])
    sound[np.searchsorted(ends, np.flatnonzero(codes > 63), side="right")] = False
    stops = np.flatnonzero(codes < 32)
    runs_until = np.searchsorted(stops, ends)  # [m], runs of this and all masks before it
    runs = np.diff(runs_until, prepend=0)
    owner = np.repeat(np.arange(len(masks)), runs)
    starts = np.append(0, stops[:-1] + 1)
    digits = stops - starts + 1
    sound[owner[digits > 6]] = False  # 30 bits: more than any image has pixels
    if not sound.all():
        return np.zeros(len(masks), np.int64), ~sound

    shifts = 5 * (np.arange(len(codes), dtype=np.int32) - np.repeat(starts, digits).astype(np.int32))
    lengths = np.add.reduceat((codes & 31).astype(np.int32) << shifts, starts).astype(np.int64)
    lengths -= ((codes[stops] & 16) >> 4).astype(np.int64) << (5 * digits)
    position = np.arange(len(owner)) - np.repeat(runs_until - runs, runs)
    odd = position % 2 == 1
    for chain in (odd, ~odd & (position > 0)):
        lengths[chain] = _running_sums(lengths[chain], owner[chain])
    areas = np.bincount(owner[odd], lengths[odd], minlength=len(masks)).astype(np.int64)
    broken = np.bincount(owner, lengths, minlength=len(masks)) != pixels
    broken[owner[lengths < 0]] = True
    return areas, broken


def _running_sums(values: Ints, owner: Ints) -> Ints:
    """Cumulative sums that begin anew with each owner; equal owners are neighbours."""
    running = np.cumsum(values)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    before = running[starts] - values[starts]
    return np.asarray(running - np.repeat(before, np.diff(np.append(starts, len(values)))))
