"""What the README and CONTRIBUTING say of formats is what the tests test."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import checkpoint_files as files
import pytest
import torch
from readme_table import with_table
from releases import all_releases

from transfer.formats import opinions
from transfer.layout import Match

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_has_a_row_for_every_release_and_refusal():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme), "rewrite it: PYTHONPATH=. python tests/transfer/readme_table.py"


def test_there_are_at_least_thirty_releases():
    assert len({(release.format, release.title) for release in all_releases().values()}) >= 30


def module_of(code: str, name: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(code, name, "exec"), module.__dict__)
    return module


def test_the_new_format_shown_in_contributing_works():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    declared, released = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    form = module_of(declared, "format").FORMAT
    (release,) = module_of(released, "release").RELEASES.values()
    assert release.format == form.name
    state = files.cheap_state("resnet50")
    tree = release.build(state)
    assert isinstance(form.matches(tree), Match)
    assert not any(isinstance(view, Match) for view in opinions(tree).values())
    extracted = form.extract(tree, None)
    assert all(torch.equal(extracted.state[name], value) for name, value in files.without_fc(state).items())
    for branch in release.others:
        assert form.extract(tree, branch).branch == branch
    with pytest.raises(Exception, match="surprise"):
        form.extract({**tree, "surprise": {"w": torch.zeros(2)}}, None)
