# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half, alone and then in a real run on this host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.action.model import batches, check_endpoint, difference, find_models
from ansible_collections.inferops.vllm.plugins.module_utils._models.manifest import File, ModelError
from doubles.hub import Hub

REPO = Path(__file__).resolve().parents[4]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Play = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def house(tmp_path: Path) -> Path:
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.bin").write_text("weights")
    return folder


def test_a_directory_is_named_by_its_contents(house: Path) -> None:
    (first,) = find_models([{"name": "a", "model": str(house)}], "/")
    (house / "config.json").write_text("[1]")
    (second,) = find_models([{"name": "a", "model": str(house)}], "/")
    assert len(first.revision) == 12
    assert first.revision != second.revision


def test_equal_directories_are_one_model(house: Path, tmp_path: Path) -> None:
    twin = tmp_path / "elsewhere" / "house"
    twin.parent.mkdir()
    twin.symlink_to(house)
    (model,) = find_models([{"name": "a", "model": str(house)}, {"name": "b", "model": str(twin)}], "/")
    assert model.instances == ["a", "b"]


def test_two_models_for_one_place(house: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "house"
    other.mkdir(parents=True)
    (other / "config.json").write_text("[]")
    instances = [{"name": name, "model": str(model), "revision": "v1"} for name, model in (("a", house), ("b", other))]
    with pytest.raises(ModelError, match="instances 'a' and 'b' have different models for the same place house/v1"):
        find_models(instances, "/")


@pytest.mark.parametrize("endpoint", [None, "", "https://hub.example.com", "http://10.0.0.1:8900/hub"])
def test_endpoint(endpoint: str | None) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("hub.example.com", "is no URL of a hub"),
        ("ftp://hub.example.com", "is no URL of a hub"),
        (
            "https://me:secret@hub.example.com",
            "^endpoint holds credentials, which would show up in logs: use token_file$",
        ),
    ],
)
def test_wrong_endpoint(endpoint: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        check_endpoint(endpoint)


def test_batches() -> None:
    big, small = 1 << 30, 1 << 10
    sizes = [small, small, big, small, *[1] * 40]
    groups = batches([File(str(number), size) for number, size in enumerate(sizes)])
    assert [len(group) for group in groups] == [2, 1, 32, 9]
    assert batches([]) == []


def test_difference_of_what_is_not_known_yet() -> None:
    shown = difference({"path": "/m/a/b", "state": "absent"})
    assert shown["after"] == "state: present\nto fetch: known once the environment is installed\n"


def test_difference_of_modes() -> None:
    assert difference({"path": "/m/a/b", "state": "present"})["before"] == "owner and modes: others\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "hub" / "org" / "house" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with Hub(tmp_path / "hub").start() as server:
        yield server
        server.shutdown()


@pytest.fixture
def play(tmp_path: Path, server: Hub) -> Play:
    """Run tasks on this host, each with its options; returns what each returned, the facts, and all that was said."""

    def play(
        *tasks: dict[str, Any], arguments: tuple[str, ...] = ()
    ) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
        common = {"root": str(tmp_path / "models"), "python": sys.executable, "endpoint": server.url}
        blocks = [
            {
                "block": [{"inferops.vllm.model": {**common, **options}, "register": f"task{number}"}],
                "rescue": [{"ansible.builtin.meta": "clear_host_errors"}],
            }
            for number, options in enumerate(tasks)
        ]
        names = ", ".join(f"task{number}" for number in range(len(tasks)))
        content = "{{ {'tasks': [" + names + "], 'facts': ansible_facts} | to_json }}"
        copy = {"content": content, "dest": str(tmp_path / "result.json")}
        write = {"ansible.builtin.copy": copy, "check_mode": False, "diff": False}
        playbook = tmp_path / "play.yml"
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [*blocks, write]}]))
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"),
                *(*arguments, str(playbook)),
            ],
            env={**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "LC_ALL": "C.UTF-8"},
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        result = json.loads((tmp_path / "result.json").read_text())
        return result["tasks"], result["facts"].get("vllm_model_paths", {}), said

    return play


def write_token(tmp_path: Path, text: str) -> str:
    file = tmp_path / "token"
    file.write_text(text)
    return str(file)


def test_stored(play: Play, house: Path, tmp_path: Path) -> None:
    task = {
        "models": [
            {"name": "a", "model": "house", "port": 8000},
            {"name": "b", "model": "org/house", "revision": COMMIT},
            {"name": "c", "model": str(house)},
        ],
        "token_file": write_token(tmp_path, "hf_right\n"),
    }
    (checked,), planned, said = play(task, arguments=("--check", "--diff"))
    assert checked["changed"] is True
    assert "+to fetch: 2, 9 bytes" in said
    assert "+to fetch: 1, 2 bytes" in said
    assert not (tmp_path / "models").exists()

    (stored, again), paths, said = play(task, task, arguments=("-vvv",))
    assert paths == planned
    assert paths["a"] == paths["c"]
    assert paths["b"] == f"{tmp_path}/models/org--house/{COMMIT}"
    assert Path(paths["a"], "model.bin").read_text() == "weights"
    assert Path(paths["b"], "config.json").read_text() == "{}"
    assert [model["state"] for model in stored["models"]] == ["absent", "absent"]
    assert "hf_right" not in said + json.dumps(stored)
    assert (again["changed"], again["diff"]) == (False, [])


def test_wrong(play: Play, tmp_path: Path) -> None:
    hub = {"name": "a", "model": "org/house", "revision": COMMIT}
    cases = [
        (
            {"models": [{**hub, "revision": "main"}]},
            "localhost: instance 'a': revision 'main' of model org/house is no commit: pin the 40 hexadecimal digits",
        ),
        (
            {"models": [{**hub, "revision": "f" * 40}]},
            f"localhost: model org/house has no revision {'f' * 40}: take one from ",
        ),
        ({"models": [{"name": "a", "model": "./nowhere"}]}, "/nowhere): correct it"),
        (
            {"models": [hub], "token_file": "/nowhere/token"},
            "localhost: token_file /nowhere/token cannot be read on the controller: correct it",
        ),
        (
            {"models": [], "token_file": write_token(tmp_path, "one two\n")},
            "does not hold a token on one line: write it there",
        ),
        ({"models": [hub], "rooot": "/"}, "Unsupported parameters"),
    ]
    results, _paths, _said = play(*(task for task, _sentence in cases))
    for result, (_task, sentence) in zip(results, cases):
        assert result["failed"] is True
        assert sentence in result["msg"]
    assert not list((tmp_path / "models").glob("*/[!.]*"))
