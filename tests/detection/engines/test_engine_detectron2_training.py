"""The Detectron2 engine: training that can be resumed, evaluation, and files that cannot be used."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2_toy import FAMILIES, TINY, Interruption, trained
from faster_coco_eval.core import mask as coco_mask
from torch.amp.grad_scaler import GradScaler

from detection.engines.detector import DetectionJob
from detection.engines.detectron2 import ENGINE
from transfer.checkpoints.backbone import Backbone
from transfer.datasets.boxes.detection import DetectionDataset
from transfer.datasets.boxes.masks import Mask, sized
from transfer.runtime.errors import TrainingError
from transfer.runtime.world import ALONE, World

pytest_plugins = ["detectron2_toy"]
pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("detectron2")

from detectron2_toy import build_verified_model  # noqa: E402

from detection.engines.checkpoint import CHECKPOINT_FILE, Training, digest  # noqa: E402
from detection.engines.detectron2.config import build_cfg  # noqa: E402
from detection.engines.detectron2.data import TrainMapper  # noqa: E402
from detection.engines.run import take_step  # noqa: E402
from transfer.runtime.curve import FILE  # noqa: E402


def rows(job: DetectionJob) -> list[dict[str, Any]]:
    """The curve, without times."""
    found = [json.loads(line) for line in (job.workdir / FILE).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def differing(one: Any, other: Any) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return [name for name in theirs if not torch.equal(ours[name], theirs[name])]


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_resumed_run_equals_an_uninterrupted_one(
    kind: str, make_job: Callable[..., DetectionJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole_job, job = (make_job(recipe=FAMILIES[kind], workdir=tmp_path / name) for name in ("whole", "parts"))
    whole = trained(whole_job)
    with pytest.raises(Interruption):
        trained(job, stop_after=2)
    content = torch.load(job.workdir / CHECKPOINT_FILE, weights_only=True)
    assert (content["engine"], content["iteration"]) == ("detectron2", 2)

    read: list[str] = []
    original = TrainMapper.__call__
    monkeypatch.setattr(TrainMapper, "__call__", lambda self, image: read.append(image.name) or original(self, image))
    resumed = trained(job)
    # Two batches of two are left, and one for PreciseBN: nothing is read again.
    assert len(read) == 6
    assert list(tmp_path.glob("parts/*.part")) == []
    assert differing(resumed, whole) == []
    stem = "backbone.stem.conv1.weight" if kind.endswith("c4") else "backbone.bottom_up.stem.conv1.weight"
    assert not torch.equal(whole.state_dict()[stem], job.backbone.state["conv1.weight"])
    last = rows(job)[-1]
    assert last == rows(whole_job)[-1]
    assert last["step"] == 4
    losses = {name: value for name, value in last.items() if name.startswith("loss_")}
    assert set(losses) == LOSSES[kind.removesuffix("_c4")]
    assert last["loss"] == pytest.approx(sum(losses.values()))


@pytest.mark.slow
def test_blocks_computed_again_train_the_same_detector(
    make_job: Callable[..., DetectionJob], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kept, again = (
        make_job(recipe=FAMILIES["mask_rcnn_c4"], workdir=tmp_path / name, recompute=name == "again")
        for name in ("kept", "again")
    )
    ours, theirs = (
        (ENGINE.run(job).detections, torch.load(job.workdir / CHECKPOINT_FILE, weights_only=True)["model"])
        for job in (again, kept)
    )
    assert caplog.text.count("8 blocks are computed again") == 1  # of a ResNet-18, those of the RoI head included
    assert [name for name, tensor in theirs[1].items() if not torch.equal(ours[1][name], tensor)] == []
    assert np.array_equal(ours[0].scores, theirs[0].scores)


REGIONS = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
LOSSES = {
    "faster_rcnn": REGIONS,
    "mask_rcnn": REGIONS | {"loss_mask"},
    "retinanet": {"loss_cls", "loss_box_reg"},
    "fcos": {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn", "mask_rcnn_c4", "fcos"])
def test_being_evaluated_does_not_change_the_training(
    kind: str, make_job: Callable[..., DetectionJob], tmp_path: Path
) -> None:
    seen: list[int] = []

    def score(detections: Any) -> dict[str, float]:
        seen.append(len(detections))
        return {"boxes": float(len(detections))}

    recipe = dataclasses.replace(FAMILIES[kind], iterations=3, score_threshold=0.0, max_detections=3, train_sizes=(48,))
    plain = trained(make_job(recipe=recipe, workdir=tmp_path / "plain"))
    # As another run, not as another recipe: whether it is looked at is all that differs.
    job = make_job(recipe=dataclasses.replace(recipe, evaluate_every=1), workdir=tmp_path / "looked at", score=score)
    assert differing(trained(job), plain) == []
    assert len(seen) == 2  # after the last iteration the run itself evaluates
    assert min(seen) > 0
    assert [row for row in rows(job) if "test/boxes" in row] == [
        {"step": step, "test/boxes": float(boxes)} for step, boxes in enumerate(seen, start=1)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_bf16_trains_close_to_full_precision(kind: str, make_job: Callable[..., DetectionJob], tmp_path: Path) -> None:
    # Large enough for the top of the pyramid to have more than one position: on such a map PyTorch's bf16 convolution
    # of stride 2 computes nonsense on CPUs (seen with 2.11).
    recipe = dataclasses.replace(
        FAMILIES[kind], iterations=1, warmup_iterations=0, train_sizes=(160,), max_size=400, precise_bn=0
    )
    jobs = {
        amp: make_job(recipe=dataclasses.replace(recipe, amp=amp), workdir=tmp_path / amp) for amp in ("off", "bf16")
    }
    models = {amp: trained(job) for amp, job in jobs.items()}
    assert differing(models["off"], models["bf16"]) != []
    assert {parameter.dtype for parameter in models["bf16"].parameters()} == {torch.float32}
    losses = {amp: rows(job)[-1]["loss"] for amp, job in jobs.items()}
    assert losses["bf16"] != losses["off"]
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.15)


@pytest.mark.parametrize("largest", [0.5, pytest.param(1e6, marks=SLOW)])
def test_no_step_is_longer_than_clipping_allows(largest: float, make_job: Callable[..., DetectionJob]) -> None:
    """Without momentum and decay a step is the learning rate times the gradient, all parameters together."""
    recipe = dataclasses.replace(
        TINY, norm="FrozenBN", iterations=1, warmup_iterations=0, lr=0.01, momentum=0.0, weight_decay=0.0, precise_bn=0
    )
    job = make_job(recipe=dataclasses.replace(recipe, clip_gradients=largest))
    before, _ = build_verified_model(build_cfg(job), job.backbone, job.seed)
    after = trained(job).state_dict()
    moved = sum(float(((after[name] - start) ** 2).sum()) for name, start in before.state_dict().items()) ** 0.5
    if largest == 0.5:
        assert moved == pytest.approx(0.01 * largest, rel=1e-3)
    else:
        assert 0.01 * 0.5 < moved < 0.01 * largest  # the gradient is longer than 0.5, and left as it is


def test_learning_rate_follows_the_recipe(
    make_job: Callable[..., DetectionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    from detection.engines.progress import TrainingLog

    seen: list[float] = []
    monkeypatch.setattr(TrainingLog, "step", lambda log, iteration, lr, losses: seen.append(lr))
    # The last step comes too late to matter, and Detectron2's own schedule would refuse it.
    recipe = dataclasses.replace(
        TINY, lr=0.01, warmup_factor=0.5, warmup_iterations=2, steps=(3, 4, 5), gamma=0.1, batch=1
    )
    trained(make_job(recipe=dataclasses.replace(recipe, iterations=5, precise_bn=0, train_sizes=(32,))))
    assert seen == pytest.approx([0.005, 0.0075, 0.01, 0.001, 0.0001])


def test_weight_decay_spares_norms(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    from detectron2.solver import build_optimizer

    cfg = build_cfg(make_job())
    model, _ = build_verified_model(cfg, r18, seed=0)
    decay = {id(p): g["weight_decay"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert decay[id(model.backbone.bottom_up.stem.conv1.weight)] == 1e-4
    assert decay[id(model.backbone.bottom_up.stem.conv1.norm.weight)] == 0.0


def test_untrained_run_keeps_the_checkpoint_and_predicts(make_job: Callable[..., DetectionJob]) -> None:
    recipe = dataclasses.replace(TINY, iterations=0, norm="SyncBN", score_threshold=0.0, max_detections=5)
    job = make_job(recipe=recipe)
    outcome = ENGINE.run(job)
    assert outcome.verification.by_part == {"backbone.bottom_up": 100}
    assert outcome.differences == ()
    assert (job.workdir / "config.yaml").read_text(encoding="utf-8").startswith("CUDNN_BENCHMARK")
    assert not (job.workdir / CHECKPOINT_FILE).exists()
    found = outcome.detections
    assert set(found.image_ids.tolist()) == {1, 2, 3, 4}
    assert set(found.labels.tolist()) <= {0, 1}
    assert max(np.bincount(found.image_ids)) <= 5
    assert found.boxes.dtype == np.float32
    # Original pixels: images are 96×64 and 64×80, the network saw other sizes.
    for image in job.test.images:
        boxes = found.boxes[found.image_ids == image.image_id]
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= image.width).all()
        assert (boxes[:, [1, 3]] <= image.height).all()
    assert logging.getLogger("detectron2").level == logging.NOTSET


@pytest.mark.parametrize("kind", ["mask_rcnn", pytest.param("mask_rcnn_c4", marks=SLOW)])
def test_predicted_masks_are_run_lengths_in_the_original_image(
    kind: str, make_job: Callable[..., DetectionJob]
) -> None:
    recipe = dataclasses.replace(FAMILIES[kind], iterations=0, score_threshold=0.0, max_detections=5)
    job = make_job(recipe=recipe)
    found = ENGINE.run(job).detections
    assert found.masks is not None
    assert len(found.masks) == len(found) == 20
    images = {image.image_id: image for image in job.test.images}
    filled = 0
    for image_id, box, counts in zip(found.image_ids.tolist(), found.boxes, found.masks, strict=True):
        image = images[image_id]
        pixels = Mask(image.height, image.width, counts=counts).pixels()
        assert pixels.shape == (image.height, image.width)
        assert bytes(coco_mask.encode(np.asfortranarray(pixels, np.uint8))["counts"]) == counts
        rows, columns = np.nonzero(pixels)
        filled += len(rows)
        if len(rows):  # inside their box, within the pixel that its edges cut
            assert box[0] - 1 <= columns.min() <= columns.max() <= box[2] + 1
            assert box[1] - 1 <= rows.min() <= rows.max() <= box[3] + 1
    assert filled > 0
    assert found.to_coco(job.test)[0]["segmentation"] == {
        **sized(b"", images[1].height, images[1].width),
        "counts": found.masks[0].decode(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_runs_from_end_to_end_twice_with_equal_numbers(
    kind: str, make_job: Callable[..., DetectionJob], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(FAMILIES[kind], iterations=1, score_threshold=0.0)
    jobs = [make_job(recipe=recipe, workdir=tmp_path / name) for name in ("one", "two")]
    found = [ENGINE.run(job).detections.to_coco(job.test) for job in jobs]
    assert len(found[0]) > 0
    assert found[0] == found[1]


def layer_training(scaler: GradScaler | None = None) -> tuple[torch.nn.Linear, Training]:
    """A training of one layer, which is no detector."""
    layer = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    detector: Any = SimpleNamespace(model=layer, name="detectron2", memory=lambda: None, remember=lambda memory: None)
    return layer, Training(detector, "0" * 64, optimizer, schedule, scaler or GradScaler("cpu", enabled=False), ALONE)


def test_clipping_looks_at_gradients_without_their_scale(tmp_path: Path) -> None:
    """fp16 itself needs a GPU; the scaler's part in clipping and in the checkpoint does not."""
    scaler = GradScaler("cpu", init_scale=1024.0)
    layer, training = layer_training(scaler)
    before = layer.weight.detach().clone()
    take_step(training, 100.0 * layer(torch.ones(1, 3)).sum(), 0.5)
    norm = sum(float((parameter.grad**2).sum()) for parameter in layer.parameters() if parameter.grad is not None)
    assert norm**0.5 == pytest.approx(0.5, rel=1e-4)
    assert (before - layer.weight).flatten().tolist() == pytest.approx([0.1 * 0.25] * 3, rel=1e-3)

    scaler.update(512.0)
    training.save(tmp_path / CHECKPOINT_FILE, 7)
    scaler.update(4.0)
    assert training.take_up(tmp_path / CHECKPOINT_FILE, "cpu") == 7
    assert scaler.get_scale() == 512.0


def test_another_run_has_another_digest(make_job: Callable[..., DetectionJob], images: DetectionDataset) -> None:
    first = images.images[0]
    moved = dataclasses.replace(first, boxes=first.boxes + 1)
    bare = dataclasses.replace(first, masks=None)
    others = [
        make_job(seed=6),
        make_job(recipe=dataclasses.replace(TINY, lr=0.02)),
        make_job(train=dataclasses.replace(images, images=(moved, *images.images[1:]))),
        make_job(train=dataclasses.replace(images, images=(bare, *images.images[1:]))),
        make_job(train=dataclasses.replace(images, images=images.images[::-1])),
        make_job(world=World(0, 2)),
    ]
    digests = {digest(job, "detectron2") for job in [make_job(), *others]}
    assert len(digests) == 1 + len(others)
    assert digest(make_job(), "detectron2") == digest(make_job(workers=2, device="cuda"), "detectron2")


def test_weights_that_are_not_finite_are_not_kept(make_job: Callable[..., DetectionJob], tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_FILE
    layer, training = layer_training()
    training.save(path, 1)
    good = path.read_bytes()
    with torch.no_grad():
        layer.weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match="NaN or infinite after 2 iterations"):
        training.save(path, 2)
    assert path.read_bytes() == good


def test_divergence_is_a_training_error(make_job: Callable[..., DetectionJob], caplog: Any) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, lr=1e12, warmup_iterations=0, steps=(), iterations=6))
    with pytest.raises(TrainingError, match=r"diverged at iteration|the loss is|weights are NaN") as caught:
        ENGINE.run(job)
    assert "learning rate" in caught.value.todo
    assert "Traceback" not in caplog.text


def truncated(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"engine": "detectron2", "model": {"x": torch.zeros(1000)}}, buffer)
    path.write_bytes(buffer.getvalue()[:2000])


def foreign(path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, path)


def of_another_run(path: Path) -> None:
    content = {"engine": "detectron2", "run": "0" * 64, "iteration": 2, "model": {}, "optimizer": {}, "schedule": {}}
    torch.save(content | {"memory": [None], "scaler": {}, "proof": {}}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("<html></html>", encoding="utf-8"), "cannot be read"),
        (foreign, "no checkpoint of the detectron2 engine"),
        (of_another_run, "another run"),
    ],
)
def test_a_bad_checkpoint_is_named(
    damage: Callable[[Path], None], message: str, make_job: Callable[..., DetectionJob]
) -> None:
    job = make_job()
    job.workdir.mkdir()
    damage(job.workdir / CHECKPOINT_FILE)
    with pytest.raises(TrainingError, match=message) as caught:
        ENGINE.run(job)
    assert CHECKPOINT_FILE in caught.value.what
    assert "delete the file" in caught.value.todo


def test_versions_name_what_decides_the_numbers() -> None:
    assert ENGINE.missing() is None
    versions = ENGINE.versions()
    assert {"detectron2", "torch", "torchvision"} <= set(versions)
    assert versions["torch"] == torch.__version__.split("+")[0]
