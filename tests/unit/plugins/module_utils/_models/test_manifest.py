# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model consists of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._models.manifest import (
    File,
    Manifest,
    ModelError,
    blob_of,
    check_weights,
    human,
)


def safetensors(size: int = 16, promised: int | None = None) -> bytes:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size if promised is None else promised]},
        }
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def test_digest_knows_paths_and_contents_but_no_order() -> None:
    first, second = File("a", 1, "aa"), File("b", 2, "bb")
    assert Manifest.of([first, second]).digest == Manifest.of([second, first]).digest
    assert Manifest.of([first]).digest != Manifest.of([File("b", 1, "aa")]).digest
    assert Manifest.of([first]).digest != Manifest.of([File("a", 1, "cc")]).digest


def test_round_trip() -> None:
    manifest = Manifest.of([File("b/c", 2, blob="bb"), File("a", 0, "aa")])
    assert Manifest.parse(json.loads(json.dumps(manifest.as_list()))) == manifest
    assert manifest.bytes == 2


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../up", "a//b", "./a"])
def test_paths_stay_within_the_model(path: str) -> None:
    with pytest.raises(ModelError, match="leads out of its model"):
        File.parse({"path": path, "size": 1, "sha256": "aa"})


def test_blob_is_what_git_says(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello\n")
    assert blob_of(str(tmp_path / "f"), 6) == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("model.safetensors", safetensors()),
        ("model.safetensors", safetensors(0)),
        ("config.json", b"{}"),
        ("empty.txt", b""),
        ("model.bin", b"version https://git-lfs.github.com/spec/v1" + bytes(2000)),
    ],
)
def test_weights_that_are_fine(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    check_weights(str(tmp_path / name), name)


@pytest.mark.parametrize(
    ("name", "contents", "sentence"),
    [
        (
            "model.safetensors",
            safetensors()[:-1],
            r"no complete safetensors file \(it is \d+ bytes long where its header",
        ),
        ("model.safetensors", safetensors() + b"x", "no complete safetensors file"),
        ("model.safetensors", safetensors(16, 15), "no complete safetensors file"),
        ("model.safetensors", b"", "has no valid header"),
        ("model.safetensors", b"\xff" * 64, "has no valid header"),
        ("model.safetensors", b"\x02" + bytes(7) + b"[]", "has no valid header"),
        ("model.safetensors", b"\x07" + bytes(7) + b'{"a":1}', "has no valid header"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("model.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_weights_that_no_checksum_would_doubt(tmp_path: Path, name: str, contents: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ModelError, match=sentence):
        check_weights(str(tmp_path / name), name)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (17 << 30, "17.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_human(size: int, text: str) -> None:
    assert human(size) == text
