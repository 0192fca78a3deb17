"""PyContrast's InsDis, PIRL, InfoMin and re-implementations of MoCo.

Layout: `{"model", "contrast", "optimizer", "epoch"}`, with a momentum encoder also "model_ema"; under "model",
`module.encoder.` is a ResNet under torchvision's names without `fc`, `module.head.` the projection head and
`module.head_jig.` that for jigsaw patches; "model_ema" has the same names without "module." and "contrast" holds the
negatives (HobbitLong/PyContrast: pycontrast/learning/contrast_trainer.py, pycontrast/networks/build_backbone.py).
Linear evaluation takes "model" (learning/linear_trainer.py), detection too unless told otherwise
(detection/convert_pretrained.py). The model zoo says that its files hold backbone and heads; which of the other
entries they kept is not known. Of its ResNeXts, 101 32×8d alone is an architecture that engines know here.

What tells the methods apart (options/base_options.py): InsDis has a linear head and no jigsaw head, PIRL a linear
jigsaw head, InfoMin two-layer ones and a moving average.
"""

from collections.abc import Mapping

from transfer.checkpoints.declared import Network, Release, one_of, prefixed
from transfer.checkpoints.rules import Format


def _layout(networks: Mapping[str, Network], keys: tuple[str | None, ...], outer: tuple[str, ...]) -> Format:
    return prefixed(
        Release(
            name="pycontrast",
            title="PyContrast: InsDis or MoCo (linear head)",
            variants={
                "head_jig.fc1.0.": "PyContrast: InfoMin (two-layer heads, jigsaw)",
                "head_jig.": "PyContrast: PIRL (linear heads, jigsaw)",
                "head.2.": "PyContrast: MoCo v2 (two-layer head)",
            },
            networks=networks,
            heads={
                "head.": "projection head, behind the backbone",
                "head_jig.": "projection head for jigsaw patches, behind the backbone",
                "contrast": "memory of negatives",
            },
            keys=keys,
            outer=outer,
            needs=("head.",),
        )
    )


FORMAT = one_of(
    "pycontrast",
    _layout({"model": Network("encoder.", "model"), "ema": Network("encoder.", "model_ema")}, (), ("module.", "")),
    _layout({"only": Network("encoder.")}, (None,), ("module.",)),  # "model" alone
)
