"""The Detectron2 engine: config against the published one, weights that must arrive, training that can be resumed."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transfer.backbone import Backbone, InputSpec, random_backbone
from transfer.datasets.detection import DetectionDataset, DetectionImage
from transfer.detector import DetectionJob, DetectorRecipe
from transfer.engines.detectron2 import ENGINE
from transfer.errors import DataError, EngineError, TrainingError

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")

from transfer.engines.detectron2.config import build_cfg  # noqa: E402
from transfer.engines.detectron2.data import TrainMapper, read_image, train_augmentations, train_batches  # noqa: E402
from transfer.engines.detectron2.model import build_verified_model, load_weights, verify_model  # noqa: E402
from transfer.engines.detectron2.training import CHECKPOINT_FILE, METRICS_FILE, renew_statistics, train  # noqa: E402

TINY = DetectorRecipe(
    neck="fpn",
    extra_norm=False,
    norm="BN",
    anchor_sizes=(8, 16, 32, 64, 128),
    roi_resolution=2,  # keeps the box head, and with it the checkpoints, small
    train_sizes=(48, 64),
    test_size=64,
    max_size=96,
    iterations=4,
    batch=2,
    lr=0.01,
    steps=(3,),
    warmup_iterations=2,
    precise_bn=1,
    rpn_pre_nms_train=50,
    rpn_post_nms_train=20,
    rpn_pre_nms_test=50,
    rpn_post_nms_test=20,
    rpn_batch=16,
    roi_batch=8,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def r18() -> Backbone:
    return trained_looking(random_backbone("resnet18", 0))


@pytest.fixture(scope="session")
def r50() -> Backbone:
    return trained_looking(random_backbone("resnet50", 0))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    made = []
    for index in range(4):
        width, height = (96, 64) if index % 2 == 0 else (64, 80)
        pixels = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[20:50, 10:40] = (250, 40, 60)
        path = folder / f"{index}.png"
        Image.fromarray(pixels).save(path)
        made.append(
            DetectionImage(
                image_id=index + 1,
                name=f"{index}",
                path=path,
                width=width,
                height=height,
                boxes=np.array([[10, 20, 40, 50], [30, 5, 60, 30]], np.float32),
                labels=np.array([0, 1]),
                difficult=np.array([False, True]),
            )
        )
    return DetectionDataset("toy", ("red", "other"), tuple(made))


@pytest.fixture
def make_job(images: DetectionDataset, r18: Backbone, tmp_path: Path) -> Callable[..., DetectionJob]:
    def make(backbone: Backbone = r18, recipe: DetectorRecipe = TINY, **changes: Any) -> DetectionJob:
        usual = {"train": images, "test": images, "seed": 5, "workdir": tmp_path / "run", "checkpoint_every": 2}
        return DetectionJob(backbone, recipe, **(usual | changes))

    return make


def trained_looking(backbone: Backbone) -> Backbone:
    """Batch norms that are no identities, so that a dropped or swapped one shows."""
    random = torch.Generator().manual_seed(1)
    state = dict(backbone.state)
    for name, tensor in state.items():
        if name.endswith(("running_var", "weight")) and tensor.ndim == 1:
            state[name] = 0.7 + 0.3 * torch.rand(tensor.shape, generator=random)
        elif name.endswith(("running_mean", "bias")):
            state[name] = 0.1 * torch.randn(tensor.shape, generator=random)
    return dataclasses.replace(backbone, state=state)


# ---- the native config


def test_the_default_recipe_is_mocos_config(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    """facebookresearch/moco, detection/configs: pascal_voc_R_50_C4_24k_moco.yaml on its two base files."""
    cfg = build_cfg(make_job(r50, DetectorRecipe()))
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert cfg.MODEL.RPN.PRE_NMS_TOPK_TEST == 6000
    assert cfg.MODEL.RPN.POST_NMS_TOPK_TEST == 1000
    assert cfg.MODEL.MASK_ON is False
    assert cfg.MODEL.RESNETS.DEPTH == 50
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert pytest.approx([123.675, 116.280, 103.530]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([58.395, 57.120, 57.375]) == cfg.MODEL.PIXEL_STD
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.INPUT.MIN_SIZE_TRAIN == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert cfg.INPUT.MIN_SIZE_TEST == 800
    assert cfg.SOLVER.STEPS == (18000, 22000)
    assert cfg.SOLVER.MAX_ITER == 24000
    assert cfg.SOLVER.WARMUP_ITERS == 100
    assert cfg.SOLVER.BASE_LR == 0.02
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert cfg.TEST.PRECISE_BN.ENABLED is True
    assert "ExtraNorm" in cfg.MODEL.ROI_HEADS.NAME
    assert cfg.MODEL.RESNETS.NORM == "BN"  # SyncBN on one process


def test_what_moco_leaves_open_is_detectron2s_default(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    from detectron2.config import get_cfg

    ours, theirs = build_cfg(make_job(r50, DetectorRecipe())), get_cfg()
    for section, set_by_protocol in (
        (("MODEL", "RPN"), set()),
        (("MODEL", "ANCHOR_GENERATOR"), set()),
        (("MODEL", "ROI_BOX_HEAD"), set()),
        (("MODEL", "ROI_HEADS"), {"NAME", "NUM_CLASSES"}),
        (("SOLVER",), {"MAX_ITER", "BASE_LR", "STEPS", "WARMUP_ITERS", "CHECKPOINT_PERIOD"}),
        (("INPUT",), {"FORMAT", "MIN_SIZE_TRAIN"}),
    ):
        mine, default = ours, theirs
        for key in section:
            mine, default = mine[key], default[key]
        differing = {key for key in default if mine[key] != default[key]}
        assert differing <= set_by_protocol, section


def test_every_recipe_field_reaches_the_config(make_job: Callable[..., DetectionJob]) -> None:
    before = build_cfg(make_job(recipe=TINY)).dump()
    others = {
        "neck": {"neck": "c4"},
        "norm": {"norm": "FrozenBN"},
        "extra_norm": {"neck": "c4", "extra_norm": True},
        "anchor_sizes": {"anchor_sizes": (16, 32, 64, 128, 256)},
        "anchor_ratios": {"anchor_ratios": (1.0,)},
        "train_sizes": {"train_sizes": (80,)},
        "steps": {"steps": (2,)},
        "flip": {"flip": 0.0},
        "precise_bn": {"precise_bn": 7},
    }
    c4 = build_cfg(make_job(recipe=dataclasses.replace(TINY, neck="c4"))).dump()
    for field in dataclasses.fields(DetectorRecipe):
        old = getattr(TINY, field.name)
        change = others.get(field.name) or {field.name: old * 2 if old else 1}
        changed = build_cfg(make_job(recipe=dataclasses.replace(TINY, **change))).dump()
        assert changed != (c4 if field.name == "extra_norm" else before), field.name


def test_fpn_is_detectron2s_base_config(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    """detectron2, configs/Base-RCNN-FPN.yaml."""
    recipe = DetectorRecipe(neck="fpn", roi_resolution=7)
    cfg = build_cfg(make_job(r50, recipe))
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone"
    assert cfg.MODEL.RESNETS.OUT_FEATURES == cfg.MODEL.FPN.IN_FEATURES == ["res2", "res3", "res4", "res5"]
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [[0.5, 1.0, 2.0]]
    assert cfg.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads"
    assert cfg.MODEL.ROI_HEADS.IN_FEATURES == ["p2", "p3", "p4", "p5"]
    assert cfg.MODEL.ROI_BOX_HEAD.NAME == "FastRCNNConvFCHead"
    assert cfg.MODEL.ROI_BOX_HEAD.NUM_FC == 2
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION == 7


def test_fpn_wants_one_anchor_size_per_level(make_job: Callable[..., DetectionJob]) -> None:
    with pytest.raises(EngineError, match="one anchor size per level"):
        build_cfg(make_job(recipe=dataclasses.replace(TINY, anchor_sizes=(32, 64))))


# ---- weights that must arrive


@pytest.mark.parametrize(
    ("arch", "neck", "freeze_at", "parts"),
    [
        ("r18", "fpn", 0, {"backbone.bottom_up": 100}),
        ("r18", "c4", 2, {"backbone": 75, "roi_heads.res5": 25}),
        ("r50", "fpn", 2, {"backbone.bottom_up": 265}),
        ("r50", "c4", 0, {"backbone": 215, "roi_heads.res5": 50}),
    ],
)
def test_every_tensor_arrives(
    arch: str,
    neck: str,
    freeze_at: int,
    parts: dict[str, int],
    make_job: Callable[..., DetectionJob],
    request: pytest.FixtureRequest,
) -> None:
    backbone: Backbone = request.getfixturevalue(arch)
    recipe = dataclasses.replace(TINY, neck=neck, extra_norm=True, freeze_at=freeze_at)
    job = make_job(backbone, recipe)
    model, verification = build_verified_model(build_cfg(job), backbone, seed=0)
    assert verification.by_part == parts
    assert verification.tensors == verification.expected == sum(parts.values())
    assert set(verification.stage_error) == {"layer1", "layer2", "layer3", "layer4"}
    assert max(verification.stage_error.values()) < 1e-4
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == (freeze_at > 0)
    if neck == "c4":
        assert isinstance(model.roi_heads.res5.norm, torch.nn.BatchNorm2d)
        assert model.roi_heads.res5.norm.num_features == (512 if arch == "r18" else 2048)


def test_without_extra_norm_the_head_has_none(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, neck="c4", extra_norm=False))
    model, _ = build_verified_model(build_cfg(job), r18, seed=0)
    assert not hasattr(model.roi_heads.res5, "norm")
    assert len(model.roi_heads.res5) == 2


@pytest.fixture
def built(make_job: Callable[..., DetectionJob], r18: Backbone) -> tuple[Any, Path]:
    job = make_job(recipe=dataclasses.replace(TINY, neck="c4", extra_norm=True))
    cfg = build_cfg(job)
    model, _ = build_verified_model(cfg, r18, seed=0)
    return model, Path(cfg.MODEL.WEIGHTS)


@pytest.mark.parametrize("inside", ["backbone.res3.0.shortcut.norm.running_var", "roi_heads.res5.1.conv2.weight"])
def test_one_perturbed_tensor_is_refused(inside: str, built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.state_dict()[inside].view(-1)[0] += 1e-3
    with pytest.raises(EngineError, match="nothing was trained") as caught:
        verify_model(model, r18)
    assert "99 of 100" in str(caught.value)


@pytest.mark.parametrize("lost", ["stem.conv1.weight", "res5.1.conv2.norm.bias"])
def test_one_renamed_key_in_the_file_is_refused(lost: str, built: tuple[Any, Path], r18: Backbone) -> None:
    model, path = built
    torch.nn.init.constant_(model.backbone.stem.conv1.weight, 0.5)
    torch.nn.init.constant_(model.roi_heads.res5[1].conv2.norm.bias, 0.5)
    content = pickle.loads(path.read_bytes())
    content["model"]["x" + lost] = content["model"].pop(lost)
    path.write_bytes(pickle.dumps(content))
    load_weights(model, path)  # Detectron2 only warns
    with pytest.raises(EngineError, match="99 of 100"):
        verify_model(model, r18)


def test_swapped_channel_order_is_refused(built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.input_format = "BGR"
    with pytest.raises(EngineError, match="something else than torchvision"):
        verify_model(model, r18)


def test_wrong_normalisation_is_refused(built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.pixel_std.fill_(1.0)
    with pytest.raises(EngineError, match="something else than torchvision"):
        verify_model(model, r18)


def test_bgr_weights_get_bgr_pixels(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    caffe = InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
    backbone = dataclasses.replace(r18, input=caffe)
    job = make_job(backbone)
    cfg = build_cfg(job)
    assert cfg.INPUT.FORMAT == "BGR"
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
    _, verification = build_verified_model(cfg, backbone, seed=0)
    assert max(verification.stage_error.values()) < 1e-4
    first = read_image(job.train.images[0], "BGR")
    assert first[30, 20].tolist() == [60, 40, 250]


# ---- data


def test_pixels_and_boxes_move_together(make_job: Callable[..., DetectionJob]) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, train_sizes=(128,), max_size=1000, flip=1.0))
    item = TrainMapper(build_cfg(job), job.recipe.flip)(job.train.images[0])
    assert isinstance(item, dict)
    assert tuple(item["image"].shape) == (3, 128, 192)
    # 96×64 doubled, then mirrored: x → 192 − 2x
    expected = [[192 - 80, 40, 192 - 20, 100], [192 - 120, 10, 192 - 60, 60]]
    assert item["instances"].gt_boxes.tensor.tolist() == expected
    assert item["instances"].gt_classes.tolist() == [0, 1]  # the difficult one is trained on
    assert item["image"][:, 70, 192 - 50].tolist() == [250, 40, 60]


@pytest.mark.parametrize(("flip", "expected"), [(0.0, []), (0.5, [0.5]), (0.2, [0.2])])
def test_flip_probability(flip: float, expected: list[float], make_job: Callable[..., DetectionJob]) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, flip=flip))
    augmentations = train_augmentations(build_cfg(job), flip)
    assert [aug.prob for aug in augmentations if type(aug).__name__ == "RandomFlip"] == expected


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (200, 10, 10)).save(path, exif=exif)
    image = one_image(path, 40, 20)
    assert read_image(image, "RGB").shape == (20, 40, 3)


def one_image(path: Path, width: int, height: int) -> DetectionImage:
    boxes = np.array([[1, 1, 9, 9]], np.float32)
    return DetectionImage(1, path.stem, path, width, height, boxes, np.array([0]), np.array([False]))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["gone", "cut off", "not an image", "other size"])
def test_bad_images_are_named(damage: str, workers: int, make_job: Callable[..., DetectionJob], tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    if damage != "gone":
        Image.fromarray(noise).save(path)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if damage == "not an image":
        path.write_text("<html>not found</html>")
    width = 91 if damage == "other size" else 90
    dataset = DetectionDataset("bad", ("red",), (one_image(path, width, 60),))
    job = make_job(recipe=dataclasses.replace(TINY, batch=1), train=dataset, workers=workers)
    with pytest.raises(DataError, match=r"bad\.jpg") as caught:
        next(train_batches(build_cfg(job), job, 0, 0, 1))
    assert "Traceback" not in str(caught.value)


# ---- training


def train_tiny(job: DetectionJob) -> Any:
    cfg = build_cfg(job)
    model, _ = build_verified_model(cfg, job.backbone, job.seed)
    train(cfg, job, model)
    renew_statistics(cfg, job, model)
    return model


class Interruption(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one(
    make_job: Callable[..., DetectionJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    whole = train_tiny(make_job(workdir=tmp_path / "whole"))
    job = make_job(workdir=tmp_path / "parts")

    from transfer.engines.progress import TrainingLog

    step = TrainingLog.step

    def interrupted(log: TrainingLog, iteration: int, *rest: Any) -> None:
        step(log, iteration, *rest)
        if iteration == 2:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", interrupted)
        with pytest.raises(Interruption):
            train_tiny(job)
    content = torch.load(job.workdir / CHECKPOINT_FILE, weights_only=True)
    assert (content["engine"], content["iteration"]) == ("detectron2", 2)

    read: list[str] = []
    original = TrainMapper.__call__
    monkeypatch.setattr(TrainMapper, "__call__", lambda self, image: read.append(image.name) or original(self, image))
    resumed = train_tiny(job)
    # Two batches of two are left, and one for PreciseBN: nothing is read again.
    assert len(read) == 6
    assert list(tmp_path.glob("parts/*.part")) == []
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert not all(
        torch.equal(theirs[f"backbone.bottom_up.stem.conv1.{n}"], job.backbone.state[f"conv1.{n}"]) for n in ["weight"]
    )
    rows = [(job.workdir.parent / name / METRICS_FILE).read_text() for name in ("whole", "parts")]
    last = [json.loads(row.splitlines()[-1]) for row in rows]
    for row in last:
        row.pop("seconds_per_iteration")
    assert last[0] == last[1]
    assert last[0]["iteration"] == 3
    assert {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"} < set(last[0])
    assert last[0]["loss"] == pytest.approx(sum(value for name, value in last[0].items() if name.startswith("loss_")))


def test_learning_rate_follows_the_recipe(
    make_job: Callable[..., DetectionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfer.engines.progress import TrainingLog

    seen: list[float] = []
    monkeypatch.setattr(TrainingLog, "step", lambda log, iteration, lr, losses: seen.append(lr))
    recipe = dataclasses.replace(
        TINY, lr=0.01, warmup_factor=0.5, warmup_iterations=2, steps=(3, 4), gamma=0.1, batch=1
    )
    train_tiny(make_job(recipe=dataclasses.replace(recipe, iterations=5, precise_bn=0, train_sizes=(32,))))
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
    assert outcome.differences == (("normalisation", "SyncBN over 8 processes", "BN on 1 process"),)
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


@pytest.mark.slow
def test_c4_runs_from_end_to_end_twice_with_equal_numbers(
    make_job: Callable[..., DetectionJob], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(TINY, neck="c4", extra_norm=True, roi_resolution=7, iterations=1, score_threshold=0.0)
    outcomes = [ENGINE.run(make_job(recipe=recipe, workdir=tmp_path / name)) for name in ("one", "two")]
    assert len(outcomes[0].detections) > 0
    assert outcomes[0].detections.to_coco() == outcomes[1].detections.to_coco()


def test_divergence_is_a_training_error(make_job: Callable[..., DetectionJob], caplog: Any) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, lr=1e12, warmup_iterations=0, steps=(), iterations=6))
    with pytest.raises(TrainingError, match=r"diverged at iteration|the loss is") as caught:
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
    content = {"engine": "detectron2", "run": "0" * 64, "iteration": 2, "model": {}, "optimizer": {}, "scheduler": {}}
    torch.save(content, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("<html></html>"), "cannot be read"),
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
