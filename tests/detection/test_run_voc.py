"""The main job, end to end on toy data: `bash detection/run_voc.sh CKPT`."""

import json

import pytest
import torch
from voc_runs import records, script, tiny

from transfer.__main__ import main
from transfer.checkpoints.families.resnet import build_resnet
from transfer.cli import _peek
from transfer.record import read_record


@pytest.fixture
def checkpoint(tmp_path):
    """A ResNet-18 as torchvision saves it, classifier included, untrained but not at its initialisation."""
    torch.manual_seed(1)
    model = build_resnet("resnet18").train()
    model(torch.randn(4, 3, 64, 64))  # batch-norm statistics of something
    path = tmp_path / "my weights.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.slow
def test_from_any_folder_to_one_record(checkpoint, voc, tmp_path):
    pytest.importorskip("mmdet")
    runs = tmp_path / "runs"
    names = (voc / "ImageSets/Main/val.txt").read_text(encoding="utf-8").split()
    first_xml = voc / f"Annotations/{names[0]}.xml"
    first_xml.write_text(
        first_xml.read_text(encoding="utf-8").replace("<difficult>0<", "<difficult>1<", 1), encoding="utf-8"
    )
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    arguments = ["../my weights.pth", *tiny(voc, runs, "--engine", "mmdet")]
    first = script(*arguments, cwd=elsewhere)
    _, err = first.communicate(timeout=300)
    assert first.returncode == 0, err
    assert "verified: 100 of 100 tensors equal" in err
    assert "detector.neck: fpn  (protocol: c4)" in err
    (path,) = records(runs)
    record = read_record(path)
    assert record.status == "finished"
    assert record.engine == "mmdet"
    assert {"AP", "AP50", "AP75", "coco_AP", "coco_AP50", "coco_AP75"} <= set(record.metrics)
    assert record.verification["tensors"] == 100
    assert max(record.verification["stage_error"].values()) < 1e-4
    assert ("architecture", "resnet18") in {(d["what"], d["run"]) for d in record.differences}
    xml = "".join((voc / f"Annotations/{name}.xml").read_text(encoding="utf-8") for name in names)
    annotated, difficult = xml.count("<object>"), xml.count("<difficult>1<")
    expected = {"annotated": annotated, "marked difficult": difficult, "to_find": annotated - difficult}
    assert expected.items() <= record.details["objects"]["test"].items()
    note = (
        f"{voc.name}_val: measured on {annotated - difficult} of {annotated} objects, in {len(names)} of {len(names)}"
    )
    assert any(found.startswith(note) for found in record.notes)
    workdir = runs / "work" / "detection.voc" / record.run_id
    assert (workdir / "contact_sheet.png").stat().st_size > 1000
    detections = json.loads((workdir / "detections.json").read_text(encoding="utf-8"))
    assert all(len(d["bbox"]) == 4 for d in detections)
    assert [
        json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ] == [4]

    again = script(*arguments, cwd=elsewhere)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0
    assert "already finished" in err
    assert "s/it" not in err  # nothing was trained
    assert records(runs) == [path]


def change(path, name):
    """Rename one tensor in a file."""
    state = torch.load(path, weights_only=True)
    state[name + "_renamed"] = state.pop(name)
    torch.save(state, path)


@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
@pytest.mark.parametrize("name", ["conv1.weight", "layer4.1.bn2.running_mean"])
def test_one_renamed_tensor_and_every_engine_refuses(checkpoint, voc, tmp_path, capsys, engine, name):
    pytest.importorskip(engine)
    change(checkpoint, name)
    runs = tmp_path / "runs"
    status = main(["run", "detection.voc", str(checkpoint), *tiny(voc, runs, "--engine", engine)])
    err = capsys.readouterr().err
    assert status == 2
    assert name in err
    assert "Traceback" not in err
    assert not runs.exists()


def test_full_protocol_on_a_cpu_is_refused_with_an_estimate(voc, tmp_path, capsys):
    status = main(["run", "detection.voc", "random:resnet50", "--device", "cpu", "--engine", "mmdet"])
    err = capsys.readouterr().err
    assert status == 2
    assert "days of training on this CPU" in err
    assert "--preset smoke or --preset cpu" in err


BAD_OPTIONS = {
    "no such preset": (["--preset", "huge"], "no preset is called 'huge'"),
    "no such protocol": (["--protocol", "huge"], "no protocol is called 'huge'"),
    "no such engine": (["--engine", "jax"], "this task has no engine 'jax'"),
    "no gpu here": (["--device", "cuda"], "sees no GPU"),
    "unsorted steps": (["--detector.steps", "9", "3"], "are not in order"),
    "no learning rate": (["--detector.lr", "0"], "lr is 0"),
    "odd anchors": (["--detector.anchor-sizes", "32"], "five anchor_sizes"),
    "split of nothing": (["--test", "nosuchsplit"], "nosuchsplit"),
    "two equal names": (["random:resnet18"], "would be called"),
    "the same weights twice": (["random:resnet18:0"], "hold the same weights"),
    "trained and tested on the same": (["--test", "train"], "share images"),
    "negative seed": (["--seeds", "-1"], "seeds are 0 or more"),
    "data named twice": (["--data-root", "datasets"], "both name the data"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_get_one_clear_message(case, voc, tmp_path, capsys):
    if case == "no gpu here" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    more, message = BAD_OPTIONS[case]
    runs = tmp_path / "runs"
    arguments = ["random:resnet18", *tiny(voc, runs, "--engine", "mmdet")]
    if more[0].startswith("--"):
        if more[0] in arguments:  # given twice is an error of its own: replace it
            at = arguments.index(more[0])
            del arguments[at : at + 2]
        arguments += more
    else:
        arguments[:0] = more
    status = main(["run", "detection.voc", *arguments])
    err = capsys.readouterr().err
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not runs.exists()


def test_the_last_preset_counts_as_with_every_other_option():
    assert _peek(["a", "--preset", "smoke", "--x", "--preset=cpu"], "preset") == "cpu"
    assert _peek(["a"], "preset") is None


def test_splits_without_their_data_set_are_refused(capsys):
    arguments = ["random:resnet18", "--preset", "smoke", "--device", "cpu", "--engine", "mmdet", "--train", "train"]
    assert main(["run", "detection.voc", *arguments]) == 2
    assert "give --dataset DIR, or --voc-root DIR" in capsys.readouterr().err


def broken_data(case, voc):
    """Damage the data set; returns words that the message must have."""
    annotations, images = voc / "Annotations", voc / "JPEGImages"
    name = (voc / "ImageSets" / "Main" / "train.txt").read_text(encoding="utf-8").split()[0]
    xml = annotations / f"{name}.xml"
    (image,) = images.glob(f"{name}.*")
    if case == "folder missing":
        voc.rename(voc.with_name("moved"))
        return str(voc.name)
    if case == "image missing":
        image.unlink()
    if case == "broken XML":
        xml.write_text(xml.read_text(encoding="utf-8")[:100], encoding="utf-8")
    if case == "box outside":
        text = xml.read_text(encoding="utf-8")
        head, tail = text.split("<xmax>", 1)
        xml.write_text(head + "<xmax>9" + tail, encoding="utf-8")
    if case == "empty split":
        (voc / "ImageSets" / "Main" / "train.txt").write_text("", encoding="utf-8")
        return "train"
    return name


@pytest.mark.parametrize("case", ["folder missing", "image missing", "broken XML", "box outside", "empty split"])
def test_bad_data_get_one_clear_message(case, voc, tmp_path, capsys):
    word = broken_data(case, voc)
    runs = tmp_path / "runs"
    status = main(["run", "detection.voc", "random:resnet18", *tiny(voc, runs, "--engine", "mmdet")])
    err = capsys.readouterr().err
    assert status == 2
    assert word in err
    assert "Traceback" not in err
    assert not runs.exists()


def test_an_image_that_cannot_be_decoded_fails_the_run_and_says_which(voc, tmp_path, capsys, caplog):
    pytest.importorskip("mmdet")
    names = (voc / "ImageSets" / "Main" / "train.txt").read_text(encoding="utf-8").split()
    for name in names:
        (image,) = (voc / "JPEGImages").glob(f"{name}.*")
        image.write_bytes(image.read_bytes()[:200])
    runs = tmp_path / "runs"
    status = main(["run", "detection.voc", "random:resnet18", *tiny(voc, runs, "--engine", "mmdet")])
    assert status in (1, 2)
    said = capsys.readouterr().err + caplog.text
    assert any(name in said for name in names)
    assert "Traceback" not in said
    for path in records(runs):
        assert read_record(path).status == "failed"


@pytest.mark.slow
def test_untrained_detector_is_a_run_of_its_own(voc, tmp_path):
    pytest.importorskip("mmdet")
    runs = tmp_path / "runs"
    arguments = tiny(voc, runs, "--engine", "mmdet", iterations=0)
    assert main(["run", "detection.voc", "random:resnet18", *arguments]) == 0
    (path,) = records(runs)
    assert read_record(path).metrics["AP"] < 5
