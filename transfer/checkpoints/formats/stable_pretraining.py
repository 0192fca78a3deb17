"""stable-pretraining: checkpoints of Lightning.

Layout: `state_dict` holds `backbone.` (SimCLR, Barlow Twins, VICReg, SimSiam, SwAV, …), or, for methods with a moving
average, `backbone.student.`, `backbone.teacher.` and three coefficients (rbalestr-lab/stable-pretraining:
stable_pretraining/backbone/utils.py, TeacherStudentWrapper). `projector.` and `predictor.` may be wrapped likewise;
`callbacks_modules.` and `callbacks_metrics.` belong to online probes, and `hyper_parameters` always hold
`system.working_dir` (stable_pretraining/module.py), which tells the files from other toolkits'.

BYOL, MoCo v2, MoCo v3 and DINO return the teacher's features in evaluation (stable_pretraining/methods/*.py), so the
teacher is the default. The backbone is a ResNet of timm or torchvision, or one of transformers. `low_resolution` gives
it a 3×3 stem, which is refused. Files into which SklearnCheckpoint put scikit-learn's objects are refused by the
reader.
"""

from collections.abc import Mapping

from transfer.checkpoints.declared import CLASSIFIERS, LIGHTNING, Network, Release, one_of, prefixed, signed
from transfer.checkpoints.families import markers
from transfer.checkpoints.formats.huggingface import torchvision_name
from transfer.checkpoints.rules import Tree

_HEADS = {
    "callbacks_modules.": "online probes and queues of callbacks",
    "callbacks_metrics.": "metrics of callbacks",
    "backbone.ema_coefficient": "coefficient of the moving average",
    "backbone.base_ema_coefficient": "coefficient of the moving average",
    "backbone.final_ema_coefficient": "coefficient of the moving average",
    "projector.": "projector, behind the backbone",
    "projector_global.": "VICRegL's global projector, behind the backbone",
    "projector_local.": "VICRegL's local projector, behind the backbone",
    "proj_image.": "PIRL's projector, behind the backbone",
    "proj_jigsaw.": "PIRL's projector of puzzles, behind the backbone",
    "predictor.": "predictor, behind the projector",
    "prototypes.": "prototypes, behind the projector",
    "classifier.": "classifier, behind the backbone",
    "queue.": "queue of features",
    "C": "TiCo's covariance of projections",
    "dino_loss.": "state of DINO's loss",
    "swav_loss.": "state of SwAV's loss",
} | LIGHTNING


def _layouts(transformers: bool) -> tuple[Release, ...]:
    def release(title: str, networks: dict[str, Network]) -> Release:
        return Release(
            name="stable_pretraining",
            title=title,
            networks=networks,
            heads=_HEADS,
            behind={} if transformers else CLASSIFIERS,
            outer=("",),
            markers=("encoder.stages.",) if transformers else markers(),
            facts={"positions": "antialias"},
            rename=torchvision_name if transformers else None,
            general=-1,
        )

    both = {"teacher": Network("backbone.teacher."), "student": Network("backbone.student.")}
    return (
        release("stable-pretraining, method with a teacher", both),
        release("stable-pretraining", {"only": Network("backbone.")}),
    )


def _signature(tree: Tree) -> bool:
    """The setting that its Module adds to every model's hyper-parameters."""
    settings = tree.get("hyper_parameters")
    return isinstance(settings, Mapping) and "system.working_dir" in settings


FORMAT = signed(
    one_of("stable_pretraining", *(prefixed(layout) for names in (False, True) for layout in _layouts(names))),
    (
        *("callbacks_modules.", "callbacks_metrics.", "backbone.student.", "backbone.teacher."),
        *("queue.pointer", "proj_image.", "proj_jigsaw."),
    ),
    _signature,
)
