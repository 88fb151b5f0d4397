# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models come from and what they are called, and a sentence for whatever is wrong with that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._models.manifest import ModelError
from ansible_collections.inferops.vllm.plugins.module_utils._models.sources import Source, sources

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def base(tmp_path: Path) -> str:
    for name in ("house", "models/house", "Qwen/Qwen3-8B", "odd name"):
        (tmp_path / name).mkdir(parents=True)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("model", "revision", "expected"),
    [
        ("Qwen/Qwen3-8B", COMMIT, Source("hub", "Qwen/Qwen3-8B", "Qwen--Qwen3-8B", COMMIT)),
        ("{base}/models/house", "", Source("directory", "{base}/models/house", "house", "")),
        ("{base}/models/house/", "v1.2", Source("directory", "{base}/models/house", "house", "v1.2")),
        ("house", "", Source("directory", "{base}/house", "house", "")),
        ("./models/../models/house", "", Source("directory", "{base}/models/house", "house", "")),
        ("models/house/", "", Source("directory", "{base}/models/house", "house", "")),
    ],
)
def test_source(base: str, model: str, revision: str, expected: Source) -> None:
    wanted = Source(expected.kind, expected.model.format(base=base), expected.name, expected.revision)
    instance = {"name": "a", "model": model.format(base=base), "revision": revision, "port": 8000}
    assert sources([instance], base) == {wanted: ["a"]}


def test_home_directory(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", base)
    found = sources([{"name": "a", "model": "~/models/house"}], "/")
    assert [source.model for source in found] == [f"{base}/models/house"]


def test_instances_share_a_model(base: str) -> None:
    instances = [
        {"name": "a", "model": "Qwen/Qwen3-8B", "revision": COMMIT},
        {"name": "b", "model": "./models/house"},
        {"name": "c", "model": "Qwen/Qwen3-8B", "revision": COMMIT},
        {"name": "d", "model": f"{base}/models/house"},
    ]
    assert list(sources(instances, base).values()) == [["a", "c"], ["b", "d"]]


@pytest.mark.parametrize(
    ("instance", "sentence"),
    [
        ({"model": "models/house"}, "models[0] has no name: give each instance one"),
        ({"name": "a"}, "instance 'a': it has no model: name a hub id such as org/name, or a directory"),
        ({"name": "a", "model": "Qwen/Qwen3-8B"}, "model Qwen/Qwen3-8B has no revision: pin the 40 hexadecimal digits"),
        (
            {"name": "a", "model": "Qwen/Qwen3-8B", "revision": "main"},
            "instance 'a': revision 'main' of model Qwen/Qwen3-8B is no commit: pin the 40 hexadecimal digits of one",
        ),
        ({"name": "a", "model": "Qwen/Qwen3-8B", "revision": COMMIT.upper()}, "is no commit"),
        ({"name": "a", "model": "./house", "revision": 12}, "revision 12 is not a string: put it in quotes"),
        ({"name": "a", "model": "./house", "revision": "../up"}, "revision '../up' has other than letters"),
        ({"name": "a", "model": "models/house"}, "of the model's files, or write ./models/house if it is a directory"),
        ({"name": "a", "model": "/nowhere/house"}, "is neither a hub id such as org/name nor a directory"),
        ({"name": "a", "model": "./cottage"}, "nor a directory on the controller (looked for {base}/cottage)"),
        ({"name": "a", "model": "odd name"}, "has a name of other than letters, digits, '.', '_' and '-': rename it"),
        ({"name": "a", "model": "s3://bucket/house"}, "is neither a hub id such as org/name nor a directory"),
        ({"name": "a", "model": "cottage"}, "is neither a hub id such as org/name nor a directory"),
    ],
)
def test_wrong(base: str, instance: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        sources([instance], base)
    assert sentence.format(base=base) in str(caught.value)
