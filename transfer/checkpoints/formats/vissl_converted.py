"""Files that were converted to VISSL's names: `converted_vissl_….torch` in its model zoo.

Layout: `{"model_state_dict": name → numpy array or tensor}` with torchvision's ResNet under `_feature_blocks.`, without
batch counters (facebookresearch/vissl: extra_scripts/convert_classy_vision_to_vissl_resnet.py; the zoo's own evaluation
reads NPID, Jigsaw, Colorization of Goyal '19, Caffe2's supervised and the semi-supervised ResNet-50s in this way:
configs/config/model_zoo). manuelknott/ssl_eval_protocols: models/npid.py finds numpy arrays and a name that begins with
`fc` in NPID's. Names alone, without the dict around them, are read as well: they are what is left of any VISSL file
whose trunk was saved in safetensors (`base_model._feature_blocks.` after linear evaluation).

The zoo evaluates all of them on RGB with ImageNet's mean and std, those from Caffe2, which were trained on BGR, too:
their first convolution was turned round on the way (extra_scripts/convert_caffe2_to_torchvision_resnet.py --bgr2rgb).
Colorization takes one channel (L) and is refused by its first convolution.
"""

from transfer.checkpoints.declared import Network, Release, prefixed

HEADS = dict.fromkeys(("fc.", "fc1.", "fc2."), "projection head, behind the backbone")

FORMAT = prefixed(
    Release(
        name="vissl_converted",
        title="ResNet converted to VISSL's names",
        networks={"only": Network("_feature_blocks.")},
        heads=HEADS,
        behind=HEADS,
        keys=("model_state_dict", None),
        outer=("", "base_model."),
    )
)
