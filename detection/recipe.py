"""What moves the number of a detector, in Detectron2's terms, and what such a recipe must fulfil."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar

from detection.score.coco_ap import CocoApOptions
from detection.score.voc_ap import VocApOptions
from transfer.checkpoints.families.resnet import STAGES
from transfer.protocol import OURS, Decided, fixed, flatten, stated
from transfer.runtime.errors import EngineError

# Where the defaults below were read: MoCo's two files, and Detectron2's for what they leave open.
D = "Detectron2, config/defaults.py: "
C4_YAML = "MoCo, Base-RCNN-C4-BN.yaml"
VOC = "MoCo, pascal_voc_R_50_C4_24k.yaml"
RETINA = "Detectron2, Base-RetinaNet.yaml"
VITDET_MODEL = "Detectron2, common/models/mask_rcnn_vitdet.py"
VITDET_100EP = "Detectron2, ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py"
VITDET_DATA = "Detectron2, ViTDet/configs/common/coco_loader_lsj.py"
ADAMW = "Detectron2, common/optim.py, AdamW"
CROPS = (
    "Swin-Transformer-Object-Detection, "
    "configs/swin/mask_rcnn_swin_tiny_patch4_window7_mstrain_480-800_adamw_1x_coco.py"
)
MM_HEADS = "MMDetection, configs/_base_/models/mask-rcnn_r50_fpn.py"
CONVNEXT_CONFIG = (
    "ConvNeXt, object_detection/configs/convnext/"
    "mask_rcnn_convnext_tiny_patch4_window7_mstrain_480-800_adamw_3x_coco_in1k.py"
)
IBOT_DECAY = "iBOT, object_detection/mmcv_custom/layer_decay_optimizer_constructor.py"
IBOT_MODEL = "iBOT, object_detection/configs/cascade_rcnn/vit_base_giou_4conv1f_coco_3x.py and its model"

Family = Literal["faster_rcnn", "mask_rcnn", "retinanet", "fcos"]
Neck = Literal["c4", "fpn", "simple_fpn"]


@dataclass(frozen=True, kw_only=True)
class DenseRecipe:
    """What moves the number of a detector without regions of interest, in Detectron2's terms.

    The defaults are RetinaNet's (facebookresearch/detectron2: configs/Base-RetinaNet.yaml, detectron2/config/
    defaults.py, MODEL.RETINANET).
    """

    convs: int = stated(4, f"{D}MODEL.RETINANET.NUM_CONVS")  # of each of the two towers
    focal_alpha: float = stated(0.25, f"{D}MODEL.RETINANET.FOCAL_LOSS_ALPHA")
    focal_gamma: float = stated(2.0, f"{D}MODEL.RETINANET.FOCAL_LOSS_GAMMA")
    prior: float = stated(0.01, f"{D}MODEL.RETINANET.PRIOR_PROB")  # an untrained detector's score
    candidates: int = stated(1_000, f"{D}MODEL.RETINANET.TOPK_CANDIDATES_TEST")  # per level before NMS


@dataclass(frozen=True, kw_only=True)
class AnchoredRecipe(DenseRecipe):
    """The same with anchors."""

    octaves: int = stated(3, RETINA)  # anchors per size: x, x·2^(1/3), x·2^(2/3)
    foreground_iou: float = stated(0.5, RETINA)
    background_iou: float = stated(0.4, RETINA)


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """What moves the number of any detector, in Detectron2's terms.

    A detector is made of the parts below, and has the values that something in it reads, no others. The defaults are
    MoCo's VOC07+12 protocol (facebookresearch/moco: detection/configs/pascal_voc_R_50_C4_24k_moco.yaml,
    pascal_voc_R_50_C4_24k.yaml and Base-RCNN-C4-BN.yaml); values that those files leave open are Detectron2's
    (facebookresearch/detectron2: detectron2/config/defaults.py). `python -m transfer recipe TASK` names the source of
    every value.
    """

    takes: ClassVar[tuple[str, ...]] = ("resnet",)  # families of backbones that it is built on, its usual one first
    library: ClassVar[str] = "detectron2"  # that its protocols were published with
    divisor: ClassVar[int] = 1  # pixels: sides of padded images are multiples

    family: Decided[Family] = fixed("faster_rcnn")
    neck: Decided[Neck] = fixed("c4")
    # in the whole backbone, with C4 in res5 and the extra norm too
    norm: Literal["SyncBN", "BN", "FrozenBN"] = stated("SyncBN", f"{C4_YAML}: naiveSyncBN, for its lower variance")
    freeze_at: int = stated(0, C4_YAML)  # 0 nothing, 1 the stem, 2 stem and res2, … 5 all stages of the backbone
    # -- input
    train_sizes: tuple[int, ...] = stated((480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800), VOC)
    test_size: int = stated(800, VOC)
    max_size: int = stated(1333, f"{D}INPUT.MAX_SIZE_TRAIN, MAX_SIZE_TEST")
    flip: float = stated(0.5, f"{D}INPUT.RANDOM_FLIP")  # horizontal
    # -- solver
    iterations: int = stated(24_000, VOC)  # 0 evaluates the detector untrained
    batch: int = stated(16, C4_YAML)  # over all processes
    lr: float = stated(0.02, C4_YAML)
    steps: tuple[int, ...] = stated((18_000, 22_000), VOC)
    gamma: float = stated(0.1, f"{D}SOLVER.GAMMA")
    momentum: float = stated(0.9, f"{D}SOLVER.MOMENTUM")
    weight_decay: float = stated(1e-4, f"{D}SOLVER.WEIGHT_DECAY")
    weight_decay_norm: float = stated(0.0, f"{D}SOLVER.WEIGHT_DECAY_NORM")  # norm layers' weights and biases
    warmup_iterations: int = stated(100, VOC)
    warmup_factor: float = stated(1e-3, f"{D}SOLVER.WARMUP_FACTOR")  # linear from factor·lr to lr
    # largest norm of all gradients together; 0 is off
    clip_gradients: float = stated(0.0, f"{D}SOLVER.CLIP_GRADIENTS.ENABLED")
    # forward and backward in mixed precision
    amp: Literal["off", "bf16", "fp16"] = stated("off", f"{D}SOLVER.AMP.ENABLED")
    # iterations averaged before the evaluation; 0 is off
    precise_bn: int = stated(200, f"{C4_YAML}: enabled; {D}TEST.PRECISE_BN.NUM_ITER")
    # iterations between entries in the curve; nothing is selected on it
    evaluate_every: int = stated(0, f"{OURS}: no influence on the number, nothing is selected on it")
    # -- test
    score_threshold: float = stated(0.05, f"{D}MODEL.ROI_HEADS.SCORE_THRESH_TEST")
    nms: float = stated(0.5, f"{D}MODEL.ROI_HEADS.NMS_THRESH_TEST")
    max_detections: int = stated(100, f"{D}TEST.DETECTIONS_PER_IMAGE")

    @property
    def regions(self) -> bool:
        """Whether there are region proposals and heads on them."""
        return isinstance(self, Regions)

    @property
    def masks(self) -> bool:
        """Whether masks are trained and predicted."""
        return isinstance(self, Masks)

    def published_processes(self) -> int:
        """GPUs that a protocol was published for: all have 2 images on each, a batch of 16 is 8 GPUs."""
        return max(1, self.batch // 2)


@dataclass(frozen=True, kw_only=True)
class Pyramid(DetectorRecipe):
    """A neck: a feature pyramid on all stages of the backbone."""

    divisor: ClassVar[int] = 32

    neck: Decided[Neck] = fixed("fpn")
    fpn_norm: bool = stated(False, f"{D}MODEL.FPN.NORM")  # the backbone's norm in the pyramid
    fpn_channels: int = stated(256, f"{D}MODEL.FPN.OUT_CHANNELS")


@dataclass(frozen=True, kw_only=True)
class Anchors(DetectorRecipe):
    """Boxes of fixed sizes and shapes at every position; with a pyramid one size per level."""

    anchor_sizes: tuple[int, ...] = stated((32, 64, 128, 256, 512), f"{D}MODEL.ANCHOR_GENERATOR.SIZES")
    anchor_ratios: tuple[float, ...] = stated((0.5, 1.0, 2.0), f"{D}MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")


@dataclass(frozen=True, kw_only=True)
class Regions(Anchors):
    """A head: region proposals, and boxes and classes of each."""

    roi_resolution: int = stated(14, f"{D}MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION")  # 7 with FPN
    class_agnostic: bool = stated(False, f"{D}MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG")
    rpn_pre_nms_train: int = stated(12_000, f"{D}MODEL.RPN.PRE_NMS_TOPK_TRAIN")  # per level with FPN
    rpn_post_nms_train: int = stated(2_000, f"{D}MODEL.RPN.POST_NMS_TOPK_TRAIN")
    rpn_pre_nms_test: int = stated(6_000, C4_YAML)
    rpn_post_nms_test: int = stated(1_000, C4_YAML)
    rpn_nms: float = stated(0.7, f"{D}MODEL.RPN.NMS_THRESH")
    rpn_batch: int = stated(256, f"{D}MODEL.RPN.BATCH_SIZE_PER_IMAGE")
    rpn_positive: float = stated(0.5, f"{D}MODEL.RPN.POSITIVE_FRACTION")
    # of proposals: classification and box; VICReg's VOC runs use 0.2
    rpn_loss_weight: float = stated(1.0, f"{D}MODEL.RPN.LOSS_WEIGHT")
    # of regions
    roi_batch: int = stated(512, f"{D}MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE")
    roi_positive: float = stated(0.25, f"{D}MODEL.ROI_HEADS.POSITIVE_FRACTION")


@dataclass(frozen=True, kw_only=True)
class Masks(Regions):
    """The same head with masks; C4 shares the boxes' regions."""

    family: Decided[Family] = fixed("mask_rcnn")
    mask_convs: int = stated(0, f"{D}MODEL.ROI_MASK_HEAD.NUM_CONV")  # 4 with FPN
    mask_class_agnostic: bool = stated(False, f"{D}MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK")


@dataclass(frozen=True, kw_only=True)
class PyramidMasks(Masks):
    """Masks on regions of their own, cut out of a pyramid."""

    mask_resolution: int = stated(14, f"{D}MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION")


EXTRA_NORM = f"{C4_YAML}: ROI_HEADS.NAME Res5ROIHeadsExtraNorm"


@dataclass(frozen=True, kw_only=True)
class FasterRcnnC4(Regions):
    """The last stage of the ResNet is the head of every region."""

    extra_norm: bool = stated(True, EXTRA_NORM)  # one more norm after res5


@dataclass(frozen=True, kw_only=True)
class MaskRcnnC4(Masks):
    """The same with masks."""

    extra_norm: bool = stated(True, EXTRA_NORM)


@dataclass(frozen=True, kw_only=True)
class FasterRcnnFPN(Pyramid, Regions):
    """A head of two hidden layers on regions of a pyramid."""

    family: Decided[Family] = fixed("faster_rcnn")


@dataclass(frozen=True, kw_only=True)
class MaskRcnnFPN(Pyramid, PyramidMasks):
    """The same with masks."""

    family: Decided[Family] = fixed("mask_rcnn")


@dataclass(frozen=True, kw_only=True)
class RetinaNet(Pyramid, Anchors):
    """Two towers of convolutions on a pyramid, with anchors."""

    family: Decided[Family] = fixed("retinanet")
    dense: AnchoredRecipe = field(default_factory=AnchoredRecipe)


@dataclass(frozen=True, kw_only=True)
class FCOS(Pyramid):
    """The same without anchors."""

    family: Decided[Family] = fixed("fcos")
    dense: DenseRecipe = field(default_factory=DenseRecipe)


@dataclass(frozen=True, kw_only=True)
class OnTrunk(Regions):
    """A trunk, trained by AdamW, perhaps with rates that fall with depth.

    It and the pyramid on it are one module in all engines.
    """

    freeze_at: Decided[int] = fixed(0)
    precise_bn: Decided[int] = fixed(0)
    drop_path: float  # of the last block; in proportion in those before it
    fpn_channels: int
    # -- AdamW, whose first moment is `momentum`
    second_momentum: float = stated(0.999, ADAMW)
    weight_decay_bias: float  # of convolutions and linear layers
    weight_decay_positions: float  # of tables of positions, and of tokens that every image is given
    layer_decay: float  # the rate of a block is that of the next one times this


@dataclass(frozen=True, kw_only=True)
class ConvolvedBoxes(Regions):
    """A head in which convolutions with norms stand before the hidden layers of a region."""

    box_convs: int = stated(4, VITDET_MODEL)
    box_fcs: int = stated(1, VITDET_MODEL)


@dataclass(frozen=True, kw_only=True)
class ViTDet(OnTrunk, ConvolvedBoxes):
    """A plain vision transformer, a pyramid made of its last map alone, and a head of regions with layer norms.

    Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv 2203.16527; the values are
    those of its authors' code (facebookresearch/detectron2: projects/ViTDet). Every image lies on a square canvas.
    """

    takes: ClassVar[tuple[str, ...]] = ("vit",)

    neck: Decided[Neck] = fixed("simple_fpn")
    norm: Decided[Literal["LN"]] = fixed("LN")  # type: ignore[assignment]  # in pyramid and heads
    train_sizes: Decided[tuple[int, ...]] = fixed(())  # canvas and scales say it
    # -- input: longer sides of canvas · (a scale between the two), and a random piece of what is larger than the canvas
    canvas: int = stated(1024, f"{VITDET_MODEL}: square_pad")
    scales: tuple[float, float] = stated((0.1, 2.0), VITDET_DATA)
    # -- trunk: tokens see those of a window of so many by so many, in a few blocks all
    window: int = stated(14, VITDET_MODEL)
    global_blocks: tuple[int, ...] = stated((2, 5, 8, 11), VITDET_MODEL)
    drop_path: float = stated(0.1, VITDET_MODEL)
    # -- pyramid and heads
    fpn_channels: int = stated(256, VITDET_MODEL)
    rpn_convs: int = stated(2, VITDET_MODEL)
    # -- solver
    weight_decay_bias: float = stated(0.1, f"{ADAMW}: as of weights")
    weight_decay_positions: Decided[float] = fixed(0.0)
    layer_decay: float = stated(0.7, VITDET_100EP)

    @property
    def divisor(self) -> int:  # type: ignore[override]
        """An image fills up its canvas."""
        return self.canvas

    def published_processes(self) -> int:
        """64 GPUs for 64 images (projects/ViTDet/README.md)."""
        return self.batch


@dataclass(frozen=True, kw_only=True)
class FasterRcnnViTDet(ViTDet):
    """Boxes alone."""

    family: Decided[Family] = fixed("faster_rcnn")


@dataclass(frozen=True, kw_only=True)
class MaskRcnnViTDet(ViTDet, PyramidMasks):
    """The same with masks."""

    family: Decided[Family] = fixed("mask_rcnn")


@dataclass(frozen=True, kw_only=True)
class Maps(OnTrunk):
    """A feature pyramid on four maps of the family's own network, at any size of images.

    As the Swin transformer's authors trained it, and those who followed them: SwinTransformer/
    Swin-Transformer-Object-Detection, facebookresearch/ConvNeXt, bytedance/ibot.
    """

    library: ClassVar[str] = "mmdet"
    divisor: ClassVar[int] = 32

    neck: Decided[Neck] = fixed("fpn")
    out_indices: Decided[tuple[int, ...]] = fixed((0, 1, 2, 3))  # stages, or of a plain transformer blocks
    # -- input: of this share of images a random piece, cut out between two resizings
    crop_share: float = stated(0.5, CROPS)
    crop_sizes: tuple[int, ...] = stated((400, 500, 600), CROPS)  # of the shorter side before it
    crop_range: tuple[int, int] = stated((384, 600), CROPS)  # of each side of the piece
    drop_path: float = stated(0.1, CROPS)
    fpn_channels: int = stated(256, MM_HEADS)
    weight_decay_bias: float = stated(0.05, f"{CROPS}: as of weights")


@dataclass(frozen=True, kw_only=True)
class ConvNeXtFPN(Maps):
    """The four stages of a ConvNeXt, each behind a layer norm that is new."""

    takes: ClassVar[tuple[str, ...]] = ("convnext",)

    norm: Decided[Literal["LN"]] = fixed("LN")  # type: ignore[assignment]  # of each map
    weight_decay_positions: Decided[float] = fixed(0.0)  # there are none
    layer_decay: float = stated(0.95, CONVNEXT_CONFIG)


@dataclass(frozen=True, kw_only=True)
class SwinFPN(Maps):
    """The four stages of a Swin transformer, each behind a layer norm that is new."""

    takes: ClassVar[tuple[str, ...]] = ("swin",)

    norm: Decided[Literal["LN"]] = fixed("LN")  # type: ignore[assignment]  # of each map
    weight_decay_positions: float = stated(0.0, CROPS)
    layer_decay: Decided[float] = fixed(1.0)  # one rate for all layers


@dataclass(frozen=True, kw_only=True)
class ViTFPN(Maps, ConvolvedBoxes):
    """Four blocks of a plain vision transformer; two of their maps are enlarged by deconvolutions, one is shrunk.

    All tokens see all others, the CLS token too. bytedance/ibot: evaluation/object_detection, and lxtGH/CAE.
    """

    takes: ClassVar[tuple[str, ...]] = ("vit", "beit")

    # of the first deconvolution and of the heads' convolutions
    norm: Literal["SyncBN", "BN"] = stated("SyncBN", IBOT_MODEL)
    out_indices: tuple[int, ...] = stated((3, 5, 7, 11), IBOT_MODEL)
    giou_weight: float = stated(10.0, IBOT_MODEL)  # of the loss of boxes, which is 1 − their generalised IoU
    train_positions: bool = stated(True, IBOT_MODEL)
    weight_decay_positions: float = stated(0.05, f"{IBOT_DECAY}: it asks for names that they do not have in a detector")
    layer_decay: float = stated(0.65, IBOT_MODEL)


@dataclass(frozen=True, kw_only=True)
class FasterRcnnConvNeXt(ConvNeXtFPN):
    """Boxes alone."""

    family: Decided[Family] = fixed("faster_rcnn")


@dataclass(frozen=True, kw_only=True)
class MaskRcnnConvNeXt(ConvNeXtFPN, PyramidMasks):
    """The same with masks."""

    family: Decided[Family] = fixed("mask_rcnn")


@dataclass(frozen=True, kw_only=True)
class FasterRcnnSwin(SwinFPN):
    """Boxes alone."""

    family: Decided[Family] = fixed("faster_rcnn")


@dataclass(frozen=True, kw_only=True)
class MaskRcnnSwin(SwinFPN, PyramidMasks):
    """The same with masks."""

    family: Decided[Family] = fixed("mask_rcnn")


@dataclass(frozen=True, kw_only=True)
class FasterRcnnViT(ViTFPN):
    """Boxes alone."""

    family: Decided[Family] = fixed("faster_rcnn")


@dataclass(frozen=True, kw_only=True)
class MaskRcnnViT(ViTFPN, PyramidMasks):
    """The same with masks."""

    family: Decided[Family] = fixed("mask_rcnn")


C4 = FasterRcnnC4 | MaskRcnnC4
RegionsFPN = FasterRcnnFPN | MaskRcnnFPN
Dense = RetinaNet | FCOS


K = TypeVar("K", bound=DetectorRecipe)


def turned_into(recipe: DetectorRecipe, kind: type[K], **changes: Any) -> K:
    """The values of a recipe in another detector, but for `changes`; those that it has no place for are left behind."""
    names = {entry.name for entry in fields(kind) if entry.init and hasattr(recipe, entry.name)}
    return kind(**{name: getattr(recipe, name) for name in names} | changes)


@dataclass(frozen=True)
class DetectionRecipe:
    """The detector and how it is measured. Every run is measured in both ways, so that no number is ambiguous.

    Attributes:
        detector: what is trained.
        metric: how VOC's AP is computed; by default as in the published tables.
        coco_metric: how COCO's AP is computed.
        overfit: train and report on this many images with large objects, the same ones; 0 is the whole data set.
    """

    detector: DetectorRecipe = field(default_factory=FasterRcnnC4)
    metric: VocApOptions = field(default_factory=VocApOptions)
    coco_metric: CocoApOptions = field(default_factory=CocoApOptions)
    overfit: int = 0


LEVELS = 5  # of every pyramid here: p2 … p6, or p3 … p7
BEST_ANCHOR, BEST_REGION = 0.3, 0.5  # IoU from which a box's best one learns it, by MM_HEADS
GROUPS = 32  # of FCOS's group norms (Detectron2, configs/common/models/fcos.py)

_AT_LEAST_ONE = (
    *("batch", "test_size", "max_size", "fpn_channels", "roi_resolution", "mask_resolution", "max_detections"),
    *("rpn_pre_nms_train", "rpn_post_nms_train", "rpn_pre_nms_test", "rpn_post_nms_test", "rpn_batch", "roi_batch"),
    *("dense.octaves", "dense.candidates", "canvas", "window", "rpn_convs"),
)
_AT_LEAST_ZERO = (
    *("iterations", "warmup_iterations", "precise_bn", "freeze_at", "evaluate_every", "clip_gradients"),
    *("weight_decay", "weight_decay_norm", "rpn_loss_weight", "mask_convs", "dense.convs", "dense.focal_gamma"),
    *("weight_decay_bias", "weight_decay_positions", "box_convs", "box_fcs", "giou_weight"),
)
_SHARES = (
    *("flip", "gamma", "momentum", "warmup_factor", "rpn_positive", "roi_positive", "rpn_nms", "nms"),
    *("score_threshold", "dense.prior", "dense.focal_alpha", "dense.foreground_iou", "dense.background_iou"),
    *("drop_path", "layer_decay", "second_momentum", "crop_share"),
)
_SIZES = ("train_sizes", "anchor_sizes", "anchor_ratios", "scales", "crop_sizes", "crop_range")


def out_of_range(recipe: DetectorRecipe, processes: int) -> list[str]:
    """Values that mean nothing; comparisons are such that NaN is found too."""
    problems = []
    for name, value in flatten(recipe).items():
        if name in _AT_LEAST_ONE and not value >= 1:
            problems.append(f"{name} is {value}, at least 1 is needed")
        if name in _AT_LEAST_ZERO and not value >= 0:
            problems.append(f"{name} is {value}, below 0")
        if name in _SHARES and not 0 <= value <= 1:
            problems.append(f"{name} is {value}, not between 0 and 1")
        if name == "train_sizes" and isinstance(recipe, ViTDet):
            continue
        if name in _SIZES and (not value or not all(each > 0 for each in value)):
            problems.append(f"{name} is {value}")
    if recipe.freeze_at > len(STAGES) + 1:
        problems.append(f"freeze_at is {recipe.freeze_at}, a ResNet has a stem and {len(STAGES)} stages")
    if isinstance(recipe, OnTrunk) and not recipe.layer_decay > 0:
        problems.append(f"layer_decay is {recipe.layer_decay}")
    if isinstance(recipe, ViTDet):
        problems += _out_of_canvas(recipe)
    if isinstance(recipe, Maps):
        problems += _out_of_order(recipe)
    if not recipe.lr > 0:
        problems.append(f"lr is {recipe.lr}")
    if list(recipe.steps) != sorted(recipe.steps):
        problems.append(f"steps {recipe.steps} are not in order")
    if recipe.evaluate_every and not recipe.iterations:
        problems.append(f"evaluate_every is {recipe.evaluate_every}, but nothing reads it where nothing is trained")
    if recipe.batch % processes:
        problems.append(
            f"a batch of {recipe.batch} cannot be shared by {processes} processes: give --detector.batch a multiple"
        )
    return problems


CANVAS_STEP = 64  # the stride of the coarsest level


def _out_of_canvas(recipe: ViTDet) -> list[str]:
    """What does not fit on the canvas."""
    problems = []
    if recipe.canvas % CANVAS_STEP:
        below = max(CANVAS_STEP, recipe.canvas // CANVAS_STEP * CANVAS_STEP)
        problems.append(
            f"a canvas of {recipe.canvas} pixels is no multiple of {CANVAS_STEP}: "
            f"give --detector.canvas {below} or {below + CANVAS_STEP}"
        )
    if recipe.max_size > recipe.canvas:
        problems.append(f"max_size is {recipe.max_size}, more than the canvas of {recipe.canvas}")
    if recipe.scales[0] > recipe.scales[1]:
        problems.append(f"scales {recipe.scales} are not in order")
    return problems


def _out_of_order(recipe: Maps) -> list[str]:
    """Numbers that must rise."""
    problems = []
    if recipe.crop_range[0] > recipe.crop_range[1]:
        problems.append(f"crop_range {recipe.crop_range} is not in order")
    rising = list(recipe.out_indices) == sorted(set(recipe.out_indices)) and min(recipe.out_indices, default=-1) >= 0
    if not rising or len(recipe.out_indices) != LEVELS - 1:
        problems.append(f"out_indices are {recipe.out_indices}: four blocks are needed, in order")
    return problems


def unbuildable(recipe: DetectorRecipe, device: str) -> list[str]:
    """Combinations that no engine has."""
    problems = []
    if isinstance(recipe, Pyramid | OnTrunk) and isinstance(recipe, Anchors) and len(recipe.anchor_sizes) != LEVELS:
        problems.append(
            f"FPN wants five anchor_sizes, one anchor size per level, finest first, got {len(recipe.anchor_sizes)}"
        )
    if isinstance(recipe, FCOS) and recipe.fpn_channels % GROUPS:
        problems.append(
            f"fpn_channels is {recipe.fpn_channels}, FCOS's heads have group norms of {GROUPS} groups: "
            f"give --detector.fpn-channels a multiple of {GROUPS}"
        )
    if isinstance(recipe, ConvolvedBoxes) and not recipe.box_convs + recipe.box_fcs:
        problems.append("box_convs and box_fcs are 0: a head of boxes needs a layer")
    if recipe.amp == "fp16" and device == "cpu":
        problems.append("fp16 on GPUs only: --detector.amp bf16 or off works on a CPU")
    return problems


def demand_buildable(recipe: DetectorRecipe, device: str = "") -> None:
    """What an engine asks of a recipe before it builds anything; without a device, those are left out that need one.

    Raises:
        EngineError: there is no such detector.
    """
    problems = unbuildable(recipe, device)
    if problems:
        raise EngineError("this detector cannot be built", found="\n".join(problems))
