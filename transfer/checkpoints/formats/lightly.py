"""lightly: its ImageNet benchmark and its examples, checkpoints of Lightning.

Benchmark (lightly-ai/lightly: benchmarks/imagenet/resnet50/*.py): `state_dict` holds `backbone.`, a torchvision
ResNet-50 without `fc`, `online_classifier.classification_head.`, heads, and the second network of the method.
kNN, linear and fine-tuning evaluation call the model's `forward`, which in every method is `backbone.`. What that
is, the other network's name tells:

- `student_backbone.` beside it: `backbone.` is the **teacher**, the moving average (DINO; BYOL until February 2024);
- `query_backbone.` beside it: `backbone.` is the **key** encoder, the moving average (MoCo v2 until February 2024);
- `teacher_backbone.` (BYOL), `key_backbone.` (MoCo v2) or `backbone_momentum.` (TiCo) beside it: `backbone.` is the
  online network.

The released BYOL and MoCo v2 files are a few days older than the change (commit 4dede596), so either may be in them.

Examples (examples/pytorch_lightning/*.py): the same names, but `backbone.` is `nn.Sequential` over a ResNet-18's
children, numbered 0 (`conv1`), 1 (`bn1`), 4 to 7 (the stages); the moving average is `backbone_momentum.`. The DINO
example has `student_backbone.` and `teacher_backbone.` and no `backbone.`; it evaluates nothing, and the teacher is
taken, as DINO's authors and lightly's benchmark do.

Vision transformers (benchmarks/imagenet/vitb16/*.py, lightly/models/modules/masked_vision_transformer_timm.py): the
backbone wraps timm's ViT, `backbone.vit.`, with a `backbone.mask_token` beside it. DINO's `backbone.vit.` is the
teacher, beside `student_backbone.vit.`; DINOv2's teacher is `teacher_backbone.vit.`; MAE has `decoder.` beside it.
torchvision's ViT in the place of timm's (masked_vision_transformer_torchvision.py) keeps torchvision's names. Both
resize positions antialiased, bicubic.
"""

from transfer.checkpoints.declared import LIGHTNING, Network, Release, one_of, prefixed, sequential
from transfer.checkpoints.formats.torchvision_vit import timm_name

_HEADS = {
    "online_classifier.": "online classifier, trained on detached features",
    "knn_classifier.": "features that the online kNN classifier keeps",
    **{
        f"{whose}{head}": f"{what}{of}"
        for whose, of in (
            ("", ", behind the backbone"),
            ("student_", " of the student"),
            ("teacher_", " of the teacher"),
            ("query_", " of the query encoder"),
            ("key_", " of the key encoder"),
        )
        for head, what in (
            ("projection_head.", "projection head"),
            ("prediction_head.", "prediction head"),
            ("head.", "DINO's head"),
        )
    },
    **{
        f"{whose}backbone.mask_token": "stands for masked patches in pretraining, unused in evaluation"
        for whose in ("", "student_", "teacher_")
    },
    "decoder.": "decoder, which reconstructs pixels",
    "mask_token": "stands for masked patches in pretraining, unused in evaluation",
    "teacher_head.": "heads of the teacher",
    "student_head.": "heads of the student",
    "projection_head_momentum.": "projection head of the momentum network",
    "projection_head_global.": "DenseCL's global projection head",
    "projection_head_local.": "DenseCL's local projection head",
    "projection_head_global_momentum.": "DenseCL's global projection head of the momentum network",
    "projection_head_local_momentum.": "DenseCL's local projection head of the momentum network",
    "local_projection_head.": "VICRegL's local projection head",
    "prototypes.": "prototypes, behind the projection head",
    "queues.": "queues of features",
    "memory_bank.": "queue of features",
    "smog.": "SMoG's group features",
    "criterion.": "state of the loss (DINO's center, MoCo's queue)",
    "criterion_global.": "state of DenseCL's global loss",
    "criterion_local.": "state of DenseCL's local loss",
} | LIGHTNING

# Which of the heads tell that a file with one network is lightly's.
_OWN = ("online_classifier.classification_head.", "projection_head.", "prediction_head.", "projection_head_global.")

# (branch, its prefix) of the network that lightly evaluates, and of the other one
_PAIRS = (
    (("teacher", "backbone."), ("student", "student_backbone.")),
    (("key", "backbone."), ("query", "query_backbone.")),
    (("online", "backbone."), ("momentum", "teacher_backbone.")),
    (("online", "backbone."), ("momentum", "key_backbone.")),
    (("online", "backbone."), ("momentum", "backbone_momentum.")),
)


def _layouts(child_indices: bool) -> tuple[Release, ...]:
    title = "lightly, example with numbered layers" if child_indices else "lightly, ImageNet benchmark"

    def release(networks: dict[str, Network], needs: tuple[str, ...], lacks: tuple[str, ...] = ()) -> Release:
        return Release(
            name="lightly",
            title=title,
            networks=networks,
            needs=needs,
            lacks=lacks,
            heads=_HEADS,
            outer=("",),
            markers=("4.0.",) if child_indices else ("layer1.",),
            rename=sequential if child_indices else None,
        )

    dino = {"teacher": Network("teacher_backbone."), "student": Network("student_backbone.")}
    return (
        release(dino, ("student_backbone.",), lacks=("backbone.",)),
        *(release({taken: Network(prefix), other: Network(its)}, (its,)) for (taken, prefix), (other, its) in _PAIRS),
        release({"only": Network("backbone.")}, () if child_indices else _OWN),
    )


def either_name(name: str) -> str:
    """timm's name of a tensor that has timm's or torchvision's; others are left as they are."""
    return timm_name(name) or name


def _transformers() -> tuple[Release, ...]:
    def release(title: str, networks: dict[str, Network], needs: tuple[str, ...] = ()) -> Release:
        return Release(
            name="lightly",
            title=f"lightly, {title}",
            networks=networks,
            needs=needs,
            heads=_HEADS,
            outer=("",),
            behind={"heads.": "classifier, behind the backbone"},
            markers=("blocks.0.norm1.", "encoder.layers.encoder_layer_0.ln_1."),
            rename=either_name,
            facts={"positions": "antialias"},
        )

    student = Network("student_backbone.vit.")
    return (
        release("DINO with a ViT", {"teacher": Network("backbone.vit."), "student": student}, ("student_backbone.",)),
        release("DINOv2", {"teacher": Network("teacher_backbone.vit."), "student": student}),
        release("MAE and others with a ViT", {"only": Network("backbone.vit.")}),
    )


_RESNETS = (layout for indices in (False, True) for layout in _layouts(indices))
FORMAT = one_of("lightly", *map(prefixed, (*_RESNETS, *_transformers())))
