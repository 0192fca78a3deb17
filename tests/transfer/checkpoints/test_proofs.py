"""The network that computes is the one that is proved: damage to it, and to nothing else, ends every kind of run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_runs import FROZEN, SMALL, TUNED, run, write_images
from sgd_processes import coloured, train
from torch import Tensor, nn

from transfer.checkpoints.backbone import random_backbone
from transfer.classification import features
from transfer.classification.sgd import fit as sgd
from transfer.classification.sgd.learners import FineTuned, FineTuner
from transfer.classification.trunk import Trunk
from transfer.datasets.toy import ToySizes, make_toy
from transfer.runtime.errors import EngineError, TrainingError

CPU, RANDOM = torch.device("cpu"), "random:resnet18"
R18 = random_backbone("resnet18", 0)


def damage(network: nn.Module) -> None:
    """The smallest change of one of eleven million numbers, in the first convolution of layer3."""
    wanted = ("network.layer3.0.conv1.weight", "layer3.0.conv1.weight")  # of a trunk, of a network to be fine-tuned
    (weight,) = [parameter for name, parameter in network.named_parameters() if name.endswith(wanted)]
    with torch.no_grad():
        weight[3, 2, 1, 0] = torch.nextafter(weight[3, 2, 1, 0], torch.tensor(9.0))


def pixels(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--image-folder", str(write_images(tmp_path_factory.mktemp("images")))]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    make_toy(folder, sizes=ToySizes(60, 1, 2, 1, 1, 1, 1, (64, 72)))
    return ["--image-folder", str(folder / "voc"), "--train", "train", *SMALL, "--pooling", "avg"]


def built_and_damaged(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    @functools.wraps(kind)
    def build(*given: Any, **named: Any) -> nn.Module:
        network = kind(*given, **named)
        damage(network)
        return network

    return build


def refused(case: tuple[str, str, list[str]], request: pytest.FixtureRequest, runs: Path) -> None:
    task, data, options = case
    (record,) = run(task, RANDOM, *request.getfixturevalue(data), *options, runs=runs, status=1)
    assert (record.status, record.failure["kind"]) == ("failed", "EngineError")
    assert "99 of 100 tensors arrived" in record.failure["message"]
    assert "layer3.0.conv1.weight" in record.failure["message"]
    assert not list(runs.rglob("fit.pth"))
    assert not any(path.read_bytes() for path in runs.rglob("progress*.jsonl"))


@pytest.mark.parametrize("kind", FROZEN)
def test_a_trunk_damaged_after_it_was_built_makes_no_number(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (features, sgd):
        monkeypatch.setattr(module, "Trunk", built_and_damaged(Trunk))
    refused(FROZEN[kind], request, tmp_path)


@pytest.mark.parametrize("kind", TUNED)
def test_a_network_damaged_before_it_is_fine_tuned_makes_no_number(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sgd, "FineTuned", built_and_damaged(FineTuned))
    refused(TUNED[kind], request, tmp_path)


def test_damage_in_the_last_moment_is_seen(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward, step = Trunk.forward, FineTuner.step

    def damaged_forward(trunk: Trunk, *given: Any) -> Any:
        damage(trunk)
        return forward(trunk, *given)

    def damaged_step(learner: FineTuner, *given: Any) -> Tensor:
        damage(learner.model)
        return step(learner, *given)

    monkeypatch.setattr(Trunk, "forward", damaged_forward)
    monkeypatch.setattr(FineTuner, "step", damaged_step)
    task, data, options = FROZEN["knn"]
    (record,) = run(task, RANDOM, *request.getfixturevalue(data), *options, runs=tmp_path / "knn", status=1)
    assert record.failure["kind"] == "EngineError"
    refused(TUNED["semi"], request, tmp_path / "semi")


# What changes a trunk after its proof


def with_half(trunk: Trunk) -> None:
    trunk.to(torch.bfloat16)


def with_data(trunk: Trunk) -> None:
    parameter = trunk.get_parameter("network.conv1.weight")
    parameter.data = parameter.data * 1.001


def with_statistics(trunk: Trunk) -> None:
    trunk.get_buffer("network.bn1.running_mean").add_(1e-6)


def with_another_layer(trunk: Trunk) -> None:
    trunk.network.layer4 = random_backbone("resnet18", 1).network().get_submodule("layer4")


def with_training_mode(trunk: Trunk) -> None:
    trunk.network.train()


@pytest.mark.parametrize(
    "change", [damage, with_half, with_data, with_statistics, with_another_layer, with_training_mode]
)
def test_a_trunk_that_was_changed_after_its_proof_computes_no_more(change: Callable[[Trunk], None]) -> None:
    trunk = Trunk(R18, ("avg",), CPU)
    trunk(pixels())
    change(trunk)
    with pytest.raises(EngineError):
        trunk(pixels())


def test_a_trunk_is_proved_once_and_again_when_it_was_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    from transfer.classification import trunk as module

    made, prove = [], module.prove
    monkeypatch.setattr(module, "prove", lambda *given: made.append(1) or prove(*given))
    trunk = Trunk(R18, ("avg",), CPU)
    assert not made  # nothing was computed yet
    for _ in range(3):
        trunk(pixels())
    assert len(made) == 1
    trunk.to(memory_format=torch.contiguous_format)
    trunk(pixels())
    assert len(made) == 2


def test_the_stages_are_computed_by_the_trunk_in_its_own_precision() -> None:
    exact, rounded = Trunk(R18, ("avg",), CPU).proof, Trunk(R18, ("avg",), CPU, "bf16").proof
    assert (exact.precision, exact.rounding, exact.device) == ("fp32", {}, "cpu")
    assert rounded.precision == "bf16"
    assert max(rounded.stage_error.values()) < 1e-4
    assert all(1e-3 < error < 0.05 for error in rounded.rounding.values())  # bf16 keeps 8 bits


def test_a_stride_in_another_place_is_seen_although_all_tensors_agree() -> None:
    trunk = Trunk(R18, ("avg",), CPU)
    block = trunk.network.layer2[0]
    block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)
    with pytest.raises(EngineError, match="computes something else"):
        trunk(pixels())


# Caches


def test_a_cache_is_used_with_the_proof_that_it_was_made_under_and_the_record_says_so(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transfer.knn", RANDOM, *images, *SMALL, "--ks", "20"]
    (first,) = run(*command, runs=tmp_path)
    assert set(first.verification["features"].values()) == {"computed"}
    # no trunk is built where every feature is cached
    monkeypatch.setattr(features, "Trunk", lambda *given: pytest.fail("a trunk was built"))
    again = run(*command, "--ks", "20", "3", runs=tmp_path)
    (second,) = [record for record in again if record.run_id != first.run_id]
    assert second.verification == first.verification | {
        "features": dict.fromkeys(first.verification["features"], "cached")
    }
    assert second.verification["tensors"] == 100
    assert second.metrics["top1_k20"] == first.metrics["top1_k20"]
    monkeypatch.undo()
    capsys.readouterr()
    for proof in tmp_path.rglob("proof.json"):
        kept = json.loads(proof.read_text(encoding="utf-8"))
        proof.write_text(json.dumps({"proofs": [{**kept["proofs"][0], "weights": "0" * 64}]}), encoding="utf-8")
    third = [
        r for r in run(*command, "--ks", "20", "4", runs=tmp_path) if r.run_id not in (first.run_id, second.run_id)
    ]
    assert third[0].verification == first.verification
    assert capsys.readouterr().err.count("their proof is of other weights") == 2


# Resumes


@pytest.mark.parametrize("kind", ["linear", "fine-tuning"])
def test_a_training_that_goes_on_states_the_proof_of_its_beginning(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power"):
        train(kind, tmp_path, coloured(fails_after=22))
    kept = torch.load(tmp_path / "fit.pth", weights_only=True)["state"]["proof"]
    assert kept["tensors"] == kept["expected"] == 10  # two convolutions, two norms of four
    proof = train(kind, tmp_path).proof
    assert {name: value for name, value in proof.items() if name != "proved"} == {
        n: v for n, v in kept.items() if n != "proved"
    }
    assert "fit.pth" in proof["proved"]
    assert "fit.pth" not in kept["proved"]


@pytest.mark.parametrize("kind", ["linear", "fine-tuning"])
def test_old_checkpoints_load_and_are_said_to_be_unproved(kind: str, tmp_path: Path) -> None:
    whole = train(kind, tmp_path)
    content = torch.load(tmp_path / "fit.pth", weights_only=True)
    del content["state"]["proof"]
    torch.save(content, tmp_path / "fit.pth")
    found = train(kind, tmp_path)
    assert "not proved" in found.proof["proved"] or found.proof["proved"].startswith("nothing")
    assert ("tensors" in found.proof) == (kind == "linear")  # the frozen network of this process is proved
    seen = pixels()
    assert torch.equal(found(seen), whole(seen))
    content["state"]["proof"] = whole.proof | {"weights": "0" * 64}
    torch.save(content, tmp_path / "fit.pth")
    with pytest.raises(TrainingError, match="began with other weights"):
        train(kind, tmp_path)
