# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which configuration comes next, and which one is gone back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import generations
from ansible_collections.inferops.vllm.plugins.module_utils._serving.generations import GOOD, PREVIOUS, STAGED


@pytest.fixture
def folder(tmp_path: Path) -> str:
    made = tmp_path / "instances"
    write(made, "one")
    return str(made)


def write(folder: Path | str, text: str, mode: int = 0o640) -> None:
    Path(folder).mkdir(exist_ok=True)
    for suffix in generations.SUFFIXES:
        path = Path(folder) / f"tiny.{suffix}"
        path.write_text(text)
        path.chmod(mode)


def held(folder: str, kind: str = "") -> str:
    """What a generation has, empty where there is none."""
    found = set(generations.texts("tiny", generations.directory(kind, folder) if kind else folder))
    assert len(found) == 1
    return found.pop()


def stage(folder: str, text: str, mode: int = 0o640) -> None:
    write(generations.directory(STAGED, folder), text, mode)


def test_staged_is_used_once(folder: str) -> None:
    stage(folder, "two", 0o600)
    assert generations.next_folder("tiny", folder) == generations.directory(STAGED, folder)
    assert generations.activate("tiny", folder)
    assert (held(folder), held(folder, STAGED)) == ("two", "")
    assert (Path(folder) / "tiny.yaml").stat().st_mode & 0o777 == 0o600
    assert not generations.activate("tiny", folder)
    assert generations.next_folder("tiny", folder) == folder


def test_half_of_a_configuration_is_none(folder: str) -> None:
    stage(folder, "two")
    (Path(generations.directory(STAGED, folder)) / "tiny.json").unlink()
    assert not generations.activate("tiny", folder)
    assert held(folder) == "one"


def test_what_served_is_kept_with_what_served_before(folder: str) -> None:
    for text in ("one", "two", "three"):
        write(folder, text)
        assert generations.approve("tiny", folder)
        assert not generations.approve("tiny", folder)
    assert (held(folder, GOOD), held(folder, PREVIOUS)) == ("three", "two")


def test_goes_back_to_the_last_good_one_first(folder: str) -> None:
    for text in ("one", "two"):
        write(folder, text)
        generations.approve("tiny", folder)
    write(folder, "bad")
    assert generations.earlier("tiny", folder) == GOOD
    write(folder, "two")
    assert generations.earlier("tiny", folder) == PREVIOUS
    generations.stage("tiny", PREVIOUS, folder)
    generations.activate("tiny", folder)
    assert held(folder) == "one"


def test_nothing_to_go_back_to(folder: str) -> None:
    generations.approve("tiny", folder)
    with pytest.raises(generations.NoneKept, match="tiny has no earlier configuration"):
        generations.earlier("tiny", folder)


def test_forgets_all_but_what_is_in_use(folder: str) -> None:
    for text in ("one", "two"):
        write(folder, text)
        generations.approve("tiny", folder)
    stage(folder, "three")
    generations.forget("tiny", folder)
    assert held(folder) == "two"
    assert not any(held(folder, kind) for kind in generations.KINDS)
