"""Every released layout: recognised by its own format alone, read exactly, refused by name if one key is off."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import checkpoint_files as files
import pytest
import torch
import torchvision
from checkpoint_files import as_tensors, in_memory
from releases import Refusal, Release, all_refusals, all_releases

from transfer.__main__ import main
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.carried import ASSUMED
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.resnet import architecture, is_optional
from transfer.checkpoints.formats import all_formats, opinions
from transfer.checkpoints.inspect import examine
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.rules import Match
from transfer.checkpoints.write import TARGETS, WRITERS, convert
from transfer.runtime.errors import CheckpointError

torch.set_num_threads(1)


def first_of_each_format() -> set[str]:
    """One release a format, which gets every variation of the slow tests."""
    return set({release.format: name for name, release in reversed(all_releases().items())}.values())


def of_their_own() -> list[str]:
    """The first of each format, and those of another network than its."""
    archs = {all_releases()[name].format: all_releases()[name].archs[0] for name in first_of_each_format()}
    others = [name for name, release in all_releases().items() if release.archs[0] != archs[release.format]]
    return sorted(first_of_each_format() | set(others))


# What the quick tests take: several branches of equal and of unequal names, numpy arrays of another order of channels.
FEW = ("moco_v2", "dino_full", "msbreg", "caffe2_supervised")
few = pytest.mark.parametrize(
    "which", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in all_releases()]
)
refusals = pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(refusal, id=name, marks=() if number % 3 == 0 else pytest.mark.slow)
        for number, (name, refusal) in enumerate(all_refusals().items())
    ],
)


def same(backbone: Backbone, state: files.State) -> bool:
    return backbone.state.keys() == state.keys() and all(torch.equal(backbone.state[k], v) for k, v in state.items())


@few
def test_its_format_alone_claims_the_file_and_takes_every_tensor(which, tmp_path):
    release = all_releases()[which]
    state = files.cheap_state(release.archs[0])
    path = files.write(release.build(state), tmp_path / "file.bin", release.container)
    text = examine(path).text
    backbone = read_backbone(path)
    assert backbone.source.format == release.format
    assert backbone.source.branch == release.branch
    assert backbone.arch == release.archs[0]
    assert same(backbone, release.gives(state))
    assert backbone.input == release.input
    assert backbone.same_padding == release.same_padding
    assert backbone.stride_in_1x1 == release.stride_in_1x1
    assert all(group.reason and group.names for group in backbone.dropped)
    for part in (backbone.source.sha256, release.format, release.branch, release.archs[0]):
        assert part in text
    codes = {lint.code for lint in backbone.lints}
    assert codes >= set(release.lints)
    assert all(f"{lint.code}: " in text for lint in backbone.lints)


def tensors_in(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of keys, value) of every tensor or array in nested dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from tensors_in(value, (*path, str(key)))
        elif hasattr(value, "shape"):
            yield (*path, str(key)), value


@few
def test_every_tensor_of_the_file_is_used_or_dropped_with_a_reason(which):
    release = all_releases()[which]
    tree = release.build(files.cheap_state(release.archs[0]))
    backbone = in_memory(tree)
    stored = [name for name in backbone.state if not release.derived(name)]
    entries = [release.entry(tree, name) for name in stored]
    used = {id(mapping[key]) for mapping, key in entries}
    assert len(used) == len(stored)
    used |= {id(release.weights(tree)[key]) for name in stored for key in release.parts(name)}
    dropped = {name for group in backbone.dropped for name in group.names}
    for path, value in tensors_in(tree):
        parts = {".".join(path[i:j]) for i in range(len(path)) for j in range(i + 1, len(path) + 1)}
        assert id(value) in used or parts & dropped, f"{path} is neither used nor dropped"


def test_a_format_says_of_which_families_its_files_hold_networks():
    for release in all_releases().values():
        assert family_of(release.archs[0]).name in all_formats()[release.format].families, release.title


@few
def test_batch_counters_may_be_absent(which):
    release = all_releases()[which]
    state = files.cheap_state(release.archs[0])
    tree = release.build(state)
    for name in filter(is_optional, state):
        if release.counters:
            mapping, key = release.entry(tree, name)
            del mapping[key]
    assert not any(is_optional(name) for name in in_memory(tree).state)


@few
def test_no_other_format_claims_it(which):
    release = all_releases()[which]
    views = opinions(as_tensors(release.build(files.cheap_state(release.archs[0]))))
    assert [name for name, view in views.items() if isinstance(view, Match)] == [release.format]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "arch"), [(name, arch) for name, release in all_releases().items() for arch in release.archs[1:]]
)
def test_further_architectures(which, arch):
    release = all_releases()[which]
    state = files.cheap_state(arch)
    backbone = in_memory(release.build(state))
    assert backbone.arch == arch
    assert same(backbone, release.gives(state))


@few
def test_other_branches_are_taken_when_asked_for(which):
    release = all_releases()[which]
    tree = release.build(files.cheap_state(release.archs[0]))
    for branch in release.others:
        other = in_memory(tree, branch=branch)
        assert other.source.branch == branch
        some = next(tensor for tensor in other.state.values() if tensor.is_floating_point())
        assert float(some.flatten()[0]) == 2.0  # what the generators put into the slow copy
        assert other.state.keys() == in_memory(tree).state.keys()
    with pytest.raises(CheckpointError, match="no branch 'nonsense'"):
        in_memory(tree, branch="nonsense")
    assert set(release.others) <= set(all_formats()[release.format].branches)


def test_a_file_without_the_usual_network_says_so():
    tree = all_releases()["dino_full"].build(files.cheap_state("resnet50"))
    del tree["teacher"]
    backbone = in_memory(tree)
    assert backbone.source.branch == "student"
    assert any(lint.code == "branch" and "no teacher network" in lint.text for lint in backbone.lints)
    assert not any(lint.code == "branch" for lint in in_memory(tree, branch="student").lints)


HOW = ("missing", "renamed", "reshaped", "extra")


@contextmanager
def spoilt(release: Release, tree: files.Tree, name: str, how: str) -> Iterator[list[str]]:
    """Spoil one tensor for the time of the block; yields names of which the message must hold one."""
    mapping, key = release.entry(tree, name)
    before = dict(mapping)
    value = mapping[key]
    if how in ("missing", "renamed"):
        del mapping[key]
    if how == "renamed":
        mapping[f"{key}_old"] = value
    if how == "reshaped":
        mapping[key] = (
            value[..., None].repeat(2, -1) if not torch.is_tensor(value) else value[..., None].expand(*value.shape, 2)
        )
    if how == "extra":
        mapping[f"{key}_twin"] = value
    try:
        yield [name, key] if how != "extra" else [f"{key}_twin", f"{name}_twin"]
    finally:
        mapping.clear()
        mapping.update(before)


def demand_refusal(release: Release, tree: files.Tree, name: str, how: str, **options: Any) -> None:
    with spoilt(release, tree, name, how) as names, pytest.raises(CheckpointError) as caught:
        in_memory(tree, **options)
    assert any(candidate in str(caught.value) for candidate in names), f"{how} {name}: {caught.value}"


def tensor_names(release: Release) -> list[str]:
    names = files.without_fc(files.cheap_state(release.archs[0]))
    return [name for name in names if not is_optional(name) and not release.derived(name)]


@pytest.mark.parametrize("outer", ["_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize(
    "which", ["moco_v2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("simsiam", "pixpro", "dino_full"))]
)
def test_names_from_a_compiled_model_are_read(which, outer):
    release = all_releases()[which]
    state = files.cheap_state(release.archs[0])
    tree = release.build(state)
    for wrapper, inside in tree.items():
        if isinstance(inside, dict) and any(str(name).startswith("module.") for name in inside):
            tree[wrapper] = {outer + name.removeprefix("module."): value for name, value in inside.items()}
    backbone = in_memory(tree)
    assert (backbone.source.format, backbone.source.branch) == (release.format, release.branch)
    assert same(backbone, release.gives(state))


@pytest.mark.parametrize("wrapper", ["model_state_dict", "net", "module"])
def test_plain_resnets_under_usual_keys(wrapper):
    state = files.cheap_state("resnet18")
    backbone = in_memory({wrapper: state, "epoch": 3})
    assert backbone.source.format == "torchvision"
    with pytest.raises(CheckpointError, match="projector"):  # a second network of somebody's own
        in_memory({wrapper: state, "projector": {"0.weight": torch.zeros(2, 2)}})


@few
def test_the_state_dict_alone_gives_the_same_network_or_nothing(which):
    """What is left of a file when its weights are saved again, in safetensors for example."""
    release = all_releases()[which]
    state = files.cheap_state(release.archs[0])
    weights = as_tensors(release.weights(release.build(state)))
    alone = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    if len(alone) < len(weights):
        pytest.skip("its weights are no flat state dict")
    if not release.alone:
        with pytest.raises(CheckpointError):
            in_memory(alone)
        return
    backbone = in_memory(alone)
    assert same(backbone, release.gives(state))
    facts = ("input", "stride_in_1x1", "same_padding")
    if which == "caffe2_detection":  # its own converter always writes `blobs`; without, it has MSRA's names
        assert backbone.source.format == "detectron1"
    elif any(getattr(backbone, fact) != getattr(release, fact) for fact in facts):
        # what stood beside the weights is gone, and that is said
        said = {lint.code for lint in backbone.lints}
        assert ASSUMED in backbone.notes or any(code.startswith("assumed-") for code in said), backbone.remarks()


@few
def test_a_spoilt_key_is_refused_by_name(which):
    release = all_releases()[which]
    tree = release.build(files.cheap_state(release.archs[0]))
    chance = random.Random(which)
    for how in HOW:
        for name in [family_of(release.archs[0]).stem, *chance.sample(tensor_names(release), 2)]:
            demand_refusal(release, tree, name, how)


@pytest.mark.slow
@pytest.mark.parametrize("which", sorted(first_of_each_format()))
def test_each_single_spoilt_key_is_refused_by_name(which):
    release = all_releases()[which]
    tree = release.build(files.cheap_state(release.archs[0]))
    names, chance = tensor_names(release), random.Random(which)
    start = chance.randrange(len(HOW))
    spoils = [(name, HOW[(start + number) % len(HOW)]) for number, name in enumerate(names)]  # each key in one way
    spoils += [(name, how) for name in chance.sample(names, 8) for how in HOW]  # and some in all of them
    for name, how in spoils:
        demand_refusal(release, tree, name, how, format=release.format)


@few
def test_an_unknown_network_beside_the_weights_is_refused_by_name(which):
    release = all_releases()[which]
    tree = release.build(files.cheap_state(release.archs[0]))
    with pytest.raises(CheckpointError, match="surprise"):
        in_memory({**tree, "surprise": {"conv1.weight": torch.zeros(1)}})


@pytest.mark.slow
@pytest.mark.parametrize("which", of_their_own())
def test_forward_equals_the_network_that_was_saved(which):
    release = all_releases()[which]
    state = files.real_state(release.archs[0], seed=1)
    backbone = in_memory(release.build(state))
    model = files.torchvision_model(release.archs[0], release.reads(state), stride_in_1x1=release.stride_in_1x1)
    images = torch.rand(1, 3, *sides(release.archs[0]))
    with torch.no_grad():
        assert torch.equal(model(images), backbone.network()(images))


def sides(arch: str) -> tuple[int, int]:
    """A size of images that a network takes, small where it can be."""
    family = family_of(arch)
    return family.proof_sides(arch) if family.depends_on_size(arch) else (64, 64)


def of_all_that_targets_see() -> list[str]:
    """One release for each kind of `Backbone`, which is all that the writers of targets see of a file."""
    kinds = {
        (release.archs[0], str(release.input), release.stride_in_1x1, release.same_padding): name
        for name, release in reversed(all_releases().items())
    }
    return sorted(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize("which", of_all_that_targets_see())
def test_round_trip_to_every_target(which, tmp_path):
    release = all_releases()[which]
    state = files.real_state(release.archs[0], seed=2)
    path = files.write(release.build(state), tmp_path / "file.bin", release.container)
    original = read_backbone(path)
    images = torch.rand(1, 3, *sides(release.archs[0]))
    with torch.no_grad():
        wanted = original.network()(images)
    for to in TARGETS:
        out = tmp_path / f"out_{to}{TARGETS[to].suffix}"
        if family_of(release.archs[0]).name not in WRITERS[to]:
            with pytest.raises(CheckpointError, match="no such network"):
                convert(path, to, out)
            continue
        resnet = family_of(release.archs[0]).name == "resnet"
        wide = to == "timm" and resnet and architecture(release.archs[0]).width != 1
        if wide or (release.stride_in_1x1 and to in ("torchvision", "timm")):
            with pytest.raises(CheckpointError, match="no model" if wide else "1×1"):
                convert(path, to, out)
            continue
        if to == "huggingface" and "norm" in release.archs[0]:
            with pytest.raises(CheckpointError, match="transformers has no such ViT"):
                convert(path, to, out)
            continue
        if to == "detectron2" and {"ls", "reg4", "swiglu"} & set(release.archs[0].split(".")):
            with pytest.raises(CheckpointError, match="Detectron2's ViT has no"):
                convert(path, to, out)
            continue
        convert(path, to, out)
        back = read_backbone(out)
        assert same(back, dict(original.state)), to
        assert back.arch == original.arch
        assert (back.stride_in_1x1, back.same_padding) == (original.stride_in_1x1, original.same_padding)
        assert back.input.in_255() == original.input.in_255()
        with torch.no_grad():
            assert torch.equal(back.network()(images), wanted), to


@refusals
def test_what_cannot_be_read_is_refused_with_the_reason(refusal: Refusal, tmp_path):
    path = files.write(refusal.build(files.cheap_state("resnet50")), tmp_path / "file.bin", refusal.container)
    with pytest.raises(CheckpointError) as caught:
        read_backbone(path)
    for part in refusal.says:
        assert part in str(caught.value), str(caught.value)
    if refusal.format:
        views = opinions(as_tensors(refusal.build(files.cheap_state("resnet50"))))
        assert [name for name, view in views.items() if isinstance(view, Match)] == [refusal.format]


@pytest.mark.slow
def test_inspect_describes_each_generated_file(tmp_path, capsys):
    for which in of_their_own():
        release = all_releases()[which]
        path = files.write(release.build(files.cheap_state(release.archs[0])), tmp_path / "file.bin", release.container)
        assert main(["inspect", str(path)]) == 0
        text = capsys.readouterr().out
        for part in ("sha256", f"read as      {release.format}, branch {release.branch}", release.archs[0], "input  "):
            assert part in text, f"{which}: {text}"
    for which, refusal in all_refusals().items():
        path = files.write(refusal.build(files.cheap_state("resnet50")), tmp_path / "file.bin", refusal.container)
        status = main(["inspect", str(path)])
        said = capsys.readouterr()
        assert ("no backbone: " in said.out) if status == 1 else ("refused and not run" in said.err), which


def test_every_format_has_a_release_or_a_refusal():
    made = {release.format for release in all_releases().values()}
    assert set(all_formats()) == made | {refusal.format for refusal in all_refusals().values()} - {""}


def test_torchvision_is_what_the_generators_believe():
    for arch in ("resnet18", "resnet50"):
        model = torchvision.models.get_model(arch, weights=None)
        assert list(files.cheap_state(arch)) == list(model.state_dict())
