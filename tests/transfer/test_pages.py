"""What the pages of `docs/` and CONTRIBUTING say of formats and protocols is what the code has."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import checkpoint_files as files
import checkpoints_page
import protocols_page
import pytest
import torch
from official_layouts import write_folders
from releases import all_releases

from detection import voc
from finegrained import sets
from transfer.checkpoints.formats import opinions
from transfer.checkpoints.rules import Match
from transfer.datasets.labels import catalogue, torchvision_sets
from transfer.protocol import OURS
from transfer.task import load_task, task_names

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


def test_the_page_of_checkpoints_has_a_row_for_every_release_and_refusal():
    page = checkpoints_page.PAGE.read_text(encoding="utf-8")
    assert page == checkpoints_page.with_table(page), (
        "rewrite it: PYTHONPATH=. python tests/transfer/checkpoints/checkpoints_page.py"
    )
    readme = checkpoints_page.README.read_text(encoding="utf-8")
    assert readme == checkpoints_page.with_counts(readme), "the same line rewrites README.md"


def test_the_page_of_protocols_has_every_value():
    page = protocols_page.PAGE.read_text(encoding="utf-8")
    assert page == protocols_page.page(), "rewrite it: PYTHONPATH=. python tests/transfer/protocols_page.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_there_are_at_least_thirty_releases():
    assert len({(release.format, release.title) for release in all_releases().values()}) >= 30


def module_of(code: str, name: str, **known: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(known)
    exec(compile(code, name, "exec"), module.__dict__)
    return module


def test_the_new_format_shown_in_contributing_works():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    declared, released = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:2]
    form = module_of(declared, "format").FORMAT
    (release,) = module_of(released, "release").RELEASES.values()
    assert release.format == form.name
    state = files.cheap_state("resnet50")
    tree = release.build(state)
    assert isinstance(form.recognise(tree), Match)
    assert not any(isinstance(view, Match) for view in opinions(tree).values())
    extracted = form.read(tree, None)
    assert all(torch.equal(extracted.state[name], value) for name, value in files.without_fc(state).items())
    for branch in release.others:
        assert form.read(tree, branch).branch == branch
    with pytest.raises(Exception, match="surprise"):
        form.read({**tree, "surprise": {"w": torch.zeros(2)}}, None)


def test_the_protocol_shown_in_contributing_is_the_one_that_is_offered():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = module_of(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[2], "shown", MOCO=voc.MOCO).VICREG
    offered = load_task("detection.voc").published["vicreg"]
    assert (shown.recipe, shown.sources) == (offered.recipe, offered.sources)


def tasks_of(cell: str) -> set[str]:
    """The tasks that a row of the README is about: `detection.coco_c4`, `…_fpn`; or `room.*_linear` of some sets."""
    first, *others = re.findall(r"`(.+?)`", cell)
    if "*" in first:
        sets_named, ends = (
            re.findall(r"\w+", cell.partition(" of ")[2]),
            (first.partition("*")[2], others[0].strip("*")),
        )
        return {f"{first.partition('*')[0]}{name}{end}" for name in sets_named for end in ends}
    return {first, *(first.partition("_")[0] + other[1:] for other in others if other.startswith("…"))}


def test_the_readme_names_every_task_with_its_protocols():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line)[1:4] for line in text.splitlines() if line.startswith("| `")]
    shown = {name: set(re.findall(r"[\w-]+", protocols)) for task, _, protocols in rows for name in tasks_of(task)}
    assert shown.keys() == set(task_names())
    for name, words in shown.items():
        assert words >= load_task(name).protocols.keys(), f"the row of {name} in README.md lacks a protocol"


def test_the_new_set_shown_in_contributing_works(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    reader, entry = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[3:]
    exec(reader, defined := dict(vars(torchvision_sets)))
    for name, made in eval(f"{{{entry}}}", {**vars(catalogue), **defined}).items():
        monkeypatch.setitem(catalogue.CATALOGUE, name, made)
    classes = ("AD", "AE")
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        write_folders(tmp_path / "country211", classes, count, 0, f"{split} unused")
    found = catalogue.read_set("country211", tmp_path)
    assert found.val is not None
    assert [len(split) for split in (found.train, found.val, found.test)] == [6, 4, 2]
    assert found.train.classes == classes
    made = runpy.run_path(sets.__file__)["TASKS"]
    assert made.keys() - sets.TASKS.keys() == {"finegrained.country211_linear", "finegrained.country211_finetune"}
    task = made["finegrained.country211_linear"]
    assert (task.dataset, task.primary, task.protocols["ssl-transfer"].metric) == ("country211", "top1", "top1")
    # nobody published these protocols on this set, and the pages must not say that somebody did
    assert task.published["ssl-transfer"].sources["metric"].startswith(OURS)


def commands(page: Path) -> list[str]:
    """The command lines of a page's indented blocks, without comments; a line that ends in a backslash goes on."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.partition("  #")[0].strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if re.match(r"(python -m|bash) ", line)]


def options_of(module, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--help"])
    main = import_module(f"{module}.__main__").main
    with pytest.raises(SystemExit):
        sys.exit(main() if module == "results" else main(sys.argv[1:]))
    return capsys.readouterr().out


@pytest.mark.parametrize("page", [path for path in PAGES if commands(path)], ids=lambda path: path.name)
def test_the_commands_shown_exist_and_have_the_options_shown(page, monkeypatch, capsys):
    for line in commands(page):
        line = line.replace("python -m transfer.torchrun --nproc-per-node 8 -m", "python -m")
        words = shlex.split(line.replace("…", "").replace("[", "").replace("]", ""))
        if words[0] == "bash":
            environment = {**os.environ, "PYTHON": "echo", "TORCHRUN": ""}
            words = subprocess.run(
                words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
            ).stdout.split()
            words = ["python", *words]
        module, rest = words[2], words[3:]
        verbs = {
            "transfer": 2 if rest[0] in ("run",) else 1,
            "results": 1,
            "pretrain": int(rest[0] in ("plot", "ablate")),
        }
        shown = options_of(module, rest[: verbs[module]], monkeypatch, capsys)
        for option in (word for word in rest if word.startswith("-")):
            assert re.search(rf"(^|[\s│,]){re.escape(option)}\b", shown), f"{page.name}: {line}: no {option}"
