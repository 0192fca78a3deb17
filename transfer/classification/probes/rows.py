"""What every probe of frozen features asks of its rows and labels, and how scores become class ids."""

from __future__ import annotations

import torch
from torch import Tensor

from transfer.runtime.errors import UserError


def first_largest(scores: Tensor) -> Tensor:
    """Place of each row's largest score; the first of equals, which `argmax` does not promise."""
    best: Tensor = scores == scores.amax(1, keepdim=True)
    return best.to(torch.uint8).argmax(1)


def checked_rows(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    classes: int,
    names: tuple[str, str] = ("train", "test"),
) -> Tensor:
    """The labels, int64 on the device of the train features, once everything is seen to fit.

    Raises:
        UserError: shapes that do not fit, no train rows, features not finite, labels that are no classes.
    """
    shapes = [list(part.shape) for part in (train_features, train_labels, test_features)]
    (n, *width), counted, (_, *test_width) = shapes
    if counted == [n] == [0]:
        raise UserError(
            f"there are no {names[0]} rows",
            found="features {}, labels {}".format(*shapes),
            todo="give at least one: look at how the split was read",
        )
    if len(width) != 1 or counted != [n] or test_width != width:
        raise UserError(
            "features and labels do not fit together",
            found="{0} features {2}, {0} labels {3}, {1} features {4}".format(*names, *shapes),
            todo="give [n, d], [n] and [m, d]",
        )
    for name, features in zip(names, (train_features, test_features), strict=True):
        bad = int((~features.float().isfinite()).any(1).sum())
        if bad:
            raise UserError(
                f"{name} features are not finite",
                found=f"NaN, infinity or a value beyond float32 in {bad} of {len(features)} rows",
                todo="look at the network they come from: its weights, its normalisation statistics, its precision",
            )
    low, high = int(train_labels.min()), int(train_labels.max())
    if train_labels.is_floating_point() or low < 0 or high >= classes:
        raise UserError(
            f"{names[0]} labels are no class ids",
            found=f"{train_labels.dtype}, {low} … {high}",
            todo=f"give integers in 0 … {classes - 1}",
        )
    return train_labels.to(train_features.device, torch.int64)
