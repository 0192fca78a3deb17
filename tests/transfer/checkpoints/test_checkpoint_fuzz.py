"""Damaged and hostile files: every outcome is a `CheckpointError` or a complete `Backbone`, and nothing ever runs.

Zip and gzip files carry checksums, so there a Backbone must moreover equal the original. In the other containers a
flipped bit inside a tensor makes a different number, which nothing in the file can reveal.
"""

from __future__ import annotations

import math
import os
import pickle
import random
from collections import Counter
from functools import cache
from pathlib import Path

import checkpoint_files as files
import numpy as np
import pytest
import torch
from releases import Release, all_releases

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of, is_optional
from transfer.checkpoints.inspect import examine
from transfer.checkpoints.read import read_backbone
from transfer.runtime.errors import CheckpointError

torch.set_num_threads(1)
CHEAP = files.cheap_state("resnet18")
CHECKSUMMED = ("zip", "zip+gzip", "legacy+gzip")
# Releases that are told by the order of their names, and read as something else without it.
ORDER_MATTERS: tuple[str, ...] = ()


@cache
def original(layout: str, container: str, folder: Path) -> bytes:
    path = folder / "original"
    return files.write(all_releases()[layout].build(CHEAP), path, container).read_bytes()


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_near_the_start(data: bytearray, chance: random.Random) -> None:
    """Where the structure lies, in containers that put it first."""
    data[chance.randrange(min(len(data), 4000))] = chance.randrange(256)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def remove_a_piece(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randrange(1, 200)]


def repeat_a_piece(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randrange(1, 200)]


def blank_a_piece(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.randrange(1, 5000))
    data[start:end] = bytes(end - start)


DAMAGES = (flip, flip, flip_near_the_start, cut, remove_a_piece, repeat_a_piece, blank_a_piece)


def is_original(backbone: Backbone) -> bool:
    return all(torch.equal(backbone.state[name], value) for name, value in files.without_fc(CHEAP).items())


def is_complete(backbone: Backbone) -> bool:
    return all(
        name in backbone.state
        and tuple(backbone.state[name].shape) == shape
        and bool(torch.isfinite(backbone.state[name]).all())
        for name, shape in family_of(backbone.arch).shapes(backbone.arch).items()
        if not is_optional(name)
    )


def damage_and_read(layout: str, container: str, cases: range, folder: Path) -> None:
    path = folder / "damaged.pth"
    for case in cases:
        chance = random.Random(f"{layout} {container} {case}")
        data = bytearray(original(layout, container, folder))
        chance.choice(DAMAGES)(data, chance)
        path.write_bytes(data)
        try:
            backbone = read_backbone(path)
        except CheckpointError:
            continue
        assert is_complete(backbone), case
        assert container not in CHECKSUMMED or is_original(backbone), case


CHEAP_KINDS = (
    ("torchvision", "zip"),
    ("moco_v2", "zip"),
    ("msbreg", "zip"),
    ("lincls", "legacy"),
    ("moco_v1", "legacy"),
    ("msbreg", "zip+gzip"),
    ("barlow", "legacy+gzip"),
)
LARGE_KINDS = (("detectron2", "pickle"), ("released", "safetensors"))


@pytest.mark.parametrize(("layout", "container"), CHEAP_KINDS)
def test_damaged_files(layout, container, tmp_path):
    damage_and_read(layout, container, range(18), tmp_path)


@pytest.mark.parametrize(("layout", "container"), LARGE_KINDS)
def test_damaged_large_files(layout, container, tmp_path):
    damage_and_read(layout, container, range(5), tmp_path)


def test_flipped_bits_all_over_the_structure_of_a_pickle(tmp_path):
    # A pickle as small as it can be, so that its instructions are hit and not its numbers.
    whole = pickle.dumps({"model": {"res2.0.conv1.weight": np.float32([[1, 2]])}, "__author__": "x"}, protocol=2)
    path = tmp_path / "small.pkl"
    for position in range(0, len(whole) * 8, 3):
        data = bytearray(whole)
        data[position // 8] ^= 1 << position % 8
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            read_backbone(path)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


LATER = (pytest.param(case, marks=pytest.mark.slow) for case in range(10, 30))


@pytest.mark.parametrize("case", [*range(10), *LATER])
def test_code_anywhere_in_a_tree_is_refused_and_not_run(case, tmp_path):
    chance = random.Random(case)
    layout = chance.choice([layout for layout in all_releases().values() if layout.container != "pickle"])
    tree = layout.build(files.cheap_state(layout.archs[0]))
    mapping = chance.choice([tree, layout.weights(tree)])
    trace = tmp_path / "it-ran"
    evil = chance.choice([Touch(trace), [Touch(trace)], {"a": (Touch(trace),)}])
    mapping[chance.choice([*mapping, "surprise"])] = evil
    container = chance.choice(["zip", "legacy", "zip+gzip"])
    path = files.write(tree, tmp_path / "evil.pth", container)
    for reader in (read_backbone, examine):
        with pytest.raises(CheckpointError, match=r"wants to import (posix|nt)\.system"):
            reader(path)
    assert not trace.exists()


def shuffle(tree: dict, chance: random.Random) -> dict:
    """The same nested dicts with their keys in another order."""
    items = [(key, shuffle(value, chance) if isinstance(value, dict) else value) for key, value in tree.items()]
    chance.shuffle(items)
    return dict(items)


@pytest.mark.parametrize("case", range(5))
def test_the_order_of_keys_does_not_matter(case, tmp_path):
    chance = random.Random(case)
    tree = all_releases()[chance.choice(["torchvision", "moco_v2", "barlow", "msbreg", "mmdet"])].build(CHEAP)
    assert is_original(read_backbone(files.write(shuffle(tree, chance), tmp_path / "shuffled.pth", "zip")))


def mutated(case: int, path: Path, trace: Path) -> tuple[str, Release, bool]:
    """Write mutated file number `case`; returns (what was done, of which release, whether a checksum guards it)."""
    chance = random.Random(case)
    release = chance.choice(list(all_releases().values()))
    container = release.container
    if container in ("zip", "legacy"):
        container = chance.choice(["zip", "legacy", "zip+gzip", "legacy+gzip"])
    tree = release.build(files.cheap_state(release.archs[0]))
    how = chance.choice(["bytes", "bytes", "bytes", "order", "code"])
    if how != "bytes" and type(tree) is dict:
        tree = shuffle(tree, chance)  # also a copy: what is put into it must not stay in the generator's own dicts
    if how == "code":
        if container == "safetensors":  # which holds nothing but tensors
            container = "zip"
        if container == "zip":
            tree = dict(tree)
        holder = chance.choice([tree, *(value for value in tree.values() if type(value) is dict)])
        holder[chance.choice([*holder, "surprise"])] = chance.choice(
            [Touch(trace), [Touch(trace)], {"a": (Touch(trace),)}]
        )
    files.write(tree, path, container)
    if how == "bytes":
        data = bytearray(path.read_bytes())
        chance.choice(DAMAGES)(data, chance)
        path.write_bytes(data)
    return how, release, how == "order" or container in CHECKSUMMED


def gives_the_original(backbone: Backbone, release: Release) -> bool:
    wanted = release.gives(files.cheap_state(release.archs[0]))
    return all(torch.equal(backbone.state[name], value) for name, value in wanted.items())


@pytest.mark.slow
def test_a_thousand_mutated_files_of_all_releases(tmp_path):
    path, trace = tmp_path / "mutated.pth", tmp_path / "it-ran"
    outcomes: Counter[str] = Counter()
    for case in range(1000):
        how, release, guarded = mutated(case, path, trace)
        try:
            backbone = read_backbone(path)
        except CheckpointError:
            outcomes[f"{how}: refused"] += 1
            if how == "order" and release.title not in ORDER_MATTERS:
                raise
        else:
            outcomes[f"{how}: read"] += 1
            assert how != "code", f"case {case}: a file with code in it was read"
            assert is_complete(backbone), case
            assert not guarded or gives_the_original(backbone, release), case
        if case % 10 == 0:
            try:
                assert "sha256" in examine(path).text
            except CheckpointError:
                outcomes["inspect: refused"] += 1
        assert not trace.exists(), f"case {case} ran code"
    print(outcomes)
    assert sum(outcomes.values()) >= 1000
    assert min(outcomes[kind] for kind in ("bytes: refused", "code: refused", "order: read")) > 50, outcomes


def test_the_damages_do_damage():
    # Otherwise the tests above could pass on untouched files.
    changed = 0
    for index, damage in enumerate(DAMAGES * 20):
        data = bytearray(random.Random(index).randbytes(10_000))
        before = bytes(data)
        damage(data, random.Random(-index))
        changed += bytes(data) != before
    assert changed >= math.floor(0.9 * 20 * len(DAMAGES))
