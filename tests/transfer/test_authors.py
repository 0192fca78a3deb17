"""`--protocol auto`, and what is said when a checkpoint and a protocol have different authors."""

import checkpoint_files as files
import pytest
from classification_runs import write_images
from releases import all_releases

from transfer.__main__ import main
from transfer.authors import AUTHORS, AUTHORS_OF_VITS, advice, own_protocol, protocol_of_all
from transfer.checkpoints.formats import all_formats
from transfer.record import read_record
from transfer.runtime.errors import UserError
from transfer.task import load_task

LINEAR = load_task("transfer.imagenet_linear").protocols


def test_the_table_names_formats_and_protocols_that_there_are():
    assert set(AUTHORS) <= set(all_formats())
    tasks = ("transfer.imagenet_linear", "transfer.places205_linear", "transfer.imagenet_semi_1")
    offered = {name for task in tasks for name in load_task(task).protocols}
    assert set(AUTHORS.values()) <= offered
    assert set(AUTHORS_OF_VITS) <= set(all_formats())
    offered |= set(load_task("transfer.imagenet_finetune").protocols)
    assert {name for sizes in AUTHORS_OF_VITS.values() for names in sizes.values() for name in names} <= offered


def test_each_author_has_a_protocol_where_the_task_offers_it():
    assert own_protocol("moco", LINEAR) == "moco"
    assert own_protocol("vissl", LINEAR) is None
    assert own_protocol("torchvision", LINEAR) is None


def test_authors_of_vision_transformers_have_a_protocol_for_each_size():
    assert own_protocol("dino", LINEAR, "vit_small_patch16_224.offset") == "dino_vit_small"
    assert own_protocol("dino", LINEAR, "vit_base_patch8_224.offset") == "dino_vit_base"
    assert own_protocol("dino", load_task("transfer.knn").protocols, "vit_base_patch8_224.offset") == "dino"
    assert own_protocol("mae", load_task("transfer.imagenet_finetune").protocols, "vit_huge_patch14_224") == "mae_huge"
    assert own_protocol("moco_v3", LINEAR, "resnet50") is None
    assert own_protocol("mae", LINEAR, "vit_tiny_patch16_224") is None
    assert own_protocol("dinov2", LINEAR, "vit_giant2_patch14_518.ls.offset") == "dinov2"
    with pytest.raises(UserError, match="different authors"):
        protocol_of_all({"s": "dino", "b": "dino"}, LINEAR, {"s": "vit_small_patch16_224", "b": "vit_base_patch16_224"})


def test_several_authors_are_no_comparison():
    assert protocol_of_all({"a": "moco", "b": "moco"}, LINEAR) == "moco"
    with pytest.raises(UserError, match="different authors") as caught:
        protocol_of_all({"a": "moco", "b": "swav"}, LINEAR)
    assert "a: moco, b: swav" in str(caught.value)
    with pytest.raises(UserError, match=r"no protocol of the authors of a \(timm\)"):
        protocol_of_all({"a": "timm"}, LINEAR)


def test_another_protocol_than_the_authors_is_said_once():
    assert "--protocol moco" in advice("moco", "search", LINEAR)
    assert advice("moco", "moco", LINEAR) == ""
    assert advice("timm", "search", LINEAR) == ""


@pytest.mark.slow
def test_auto_takes_the_authors_recipe(tmp_path, capsys):
    release = all_releases()["moco_v2"]
    path = files.write(
        release.build(files.real_state("resnet50", seed=0)), tmp_path / "moco.pth.tar", release.container
    )
    folder = write_images(tmp_path / "images")
    options = ["--image-folder", str(folder), "--device", "cpu", "--runs", str(tmp_path / "runs"), "--form", "cached"]
    options += ["--sgd.crop", "32", "--sgd.resize", "32", "--sgd.batch", "16"]
    assert main(["run", "transfer.imagenet_linear", str(path), *options, "--protocol", "auto"]) == 0
    (record,) = (tmp_path / "runs" / "records").rglob("*.json")
    found = read_record(record)
    assert (found.protocol, found.authors_own) == ("moco", True)
    assert found.details["chosen"]["lr"] == 30
    capsys.readouterr()
    assert main(["run", "transfer.imagenet_linear", "random:resnet18", *options, "--protocol", "auto"]) == 2
    assert "no protocol of the authors of random:resnet18" in capsys.readouterr().err
