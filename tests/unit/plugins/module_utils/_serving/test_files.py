# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import files


@pytest.mark.parametrize("sync", [False, True])
def test_file_is_replaced_with_its_mode(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "new" / "file"
    files.replace(str(path), "first", 0o600, sync)
    files.replace(str(path), "zweite ä", 0o644, sync)
    assert path.read_text() == "zweite ä"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["file"]


def test_what_cannot_be_written_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        files.replace(str(path), "new \udcff")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Neither where the new file is staged, nor where it goes."""
    other, path = tmp_path / "other", tmp_path / "file"
    other.write_text("other")
    path.symlink_to(other)
    files.replace(str(path), "new")
    assert (other.read_text(), path.read_text(), path.is_symlink()) == ("other", "new", False)
    (tmp_path / f".file.{os.getpid()}").symlink_to(other)
    with pytest.raises(OSError, match="symbolic link"):
        files.replace(str(path), "newer")
    assert (other.read_text(), path.read_text()) == ("other", "new")


def test_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"ä": [1.5, null]}')
    assert files.read_json(str(path)) == {"ä": [1.5, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "Expecting"),
        (b"\xff", "decode"),
        (b"NaN", "NaN is no JSON"),
        (b" " * (files.LARGEST_BYTES + 1), "it is larger than 65536 bytes"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        files.read_json(str(path))


def test_nobody_waits_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="Expecting"):
        files.read_json(str(tmp_path / "pipe"))
