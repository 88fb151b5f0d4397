# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a directory, and that its files are read no more often than they change."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._models import directory
from ansible_collections.inferops.vllm.plugins.module_utils._models.manifest import ModelError, sha256_of


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "house"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "vocabulary.txt").write_text("a b c")
    return folder


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each file that was hashed, by whichever process."""
    log = tmp_path / "read"
    log.touch()

    def logged(path: str) -> str:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(f"{path}\n")
        return sha256_of(path)

    monkeypatch.setattr(directory, "sha256_of", logged)
    return log


def paths(folder: Path) -> list[str]:
    return [file.path for file in directory.manifest_of(str(folder)).files]


def test_manifest(model: Path) -> None:
    manifest = directory.manifest_of(str(model))
    assert [(file.path, file.size) for file in manifest.files] == [("config.json", 2), ("sub/vocabulary.txt", 5)]
    assert manifest.files[0].sha256 == hashlib.sha256(b"{}").hexdigest()


def test_hidden_files_are_left_out(model: Path) -> None:
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_text("x")
    (model / ".gitattributes").write_text("x")
    assert paths(model) == ["config.json", "sub/vocabulary.txt"]


def test_links_are_followed(model: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_text("weights")
    (model / "model.bin").symlink_to(blob)
    (model / "again").symlink_to(model / "sub")
    assert paths(model) == ["again/vocabulary.txt", "config.json", "model.bin", "sub/vocabulary.txt"]


def test_read_once(model: Path, read: Path) -> None:
    first = directory.manifest_of(str(model))
    assert directory.manifest_of(f"{model}/../house") == first
    assert len(read.read_text().splitlines()) == 2


def test_a_changed_file_alone_is_read_again(model: Path, read: Path) -> None:
    before = directory.manifest_of(str(model))
    config = model / "config.json"
    config.write_text("[]")
    os.utime(config, ns=(1, 1))
    assert directory.manifest_of(str(model)).digest != before.digest
    assert read.read_text().splitlines()[2:] == [str(config)]


def test_what_is_gone_is_forgotten(model: Path, read: Path) -> None:
    directory.manifest_of(str(model))
    (model / "config.json").unlink()
    (model / "new").write_text("x")
    directory.manifest_of(str(model))
    (cache,) = Path(directory.cache_directory()).glob("*.json")
    assert "config.json" not in cache.read_text()
    assert len(read.read_text().splitlines()) == 3


def test_a_damaged_cache_is_no_obstacle(model: Path) -> None:
    before = directory.manifest_of(str(model))
    (cache,) = Path(directory.cache_directory()).glob("*.json")
    cache.write_text("{")
    assert directory.manifest_of(str(model)) == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_many_forks_read_once(model: Path, read: Path) -> None:
    context = multiprocessing.get_context("fork")  # As Ansible does.
    workers = [context.Process(target=directory.manifest_of, args=(str(model),)) for _worker in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 12
    assert len(read.read_text().splitlines()) == 2


def test_empty(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "sub" / "vocabulary.txt").unlink()
    with pytest.raises(ModelError, match="holds no files"):
        directory.manifest_of(str(model))


def test_broken_link(model: Path) -> None:
    (model / "model.bin").symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"model\.bin is a broken link or no regular file"):
        directory.manifest_of(str(model))


def test_link_to_itself(model: Path) -> None:
    (model / "sub" / "up").symlink_to(model)
    with pytest.raises(ModelError, match="link to a directory above itself"):
        directory.manifest_of(str(model))


def test_git_lfs_pointer(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        directory.manifest_of(str(model))


def test_file_that_changes_while_it_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(path: str) -> str:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write("more")
        return ""

    monkeypatch.setattr(directory, "sha256_of", slow)
    with pytest.raises(ModelError, match="changed while it was read"):
        directory.manifest_of(str(model))


def test_no_place_for_the_cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set XDG_CACHE_HOME to a directory of yours"):
        directory.manifest_of(str(model))
