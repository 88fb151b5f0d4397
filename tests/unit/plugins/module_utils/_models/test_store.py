# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models on a node: complete or absent, whatever happens on the way."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._models import store
from ansible_collections.inferops.vllm.plugins.module_utils._models.manifest import File, Manifest, ModelError, blob_of
from ansible_collections.inferops.vllm.plugins.module_utils._models.store import Ownership, Place, Staging, locked

MINE = Ownership()
CONTENTS = {"config.json": b"{}", "model.bin": b"weights", "sub/merges.txt": b"a b", "empty.txt": b""}


class Crash(BaseException):
    """A power failure: nothing catches it."""


def manifest(contents: dict[str, bytes]) -> Manifest:
    return Manifest.of(File(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in contents.items())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "models"), "house", "v1")


def deliver(tmp_path: Path, contents: dict[str, bytes], *paths: str) -> dict[str, str]:
    """Files as a connection leaves them in a temporary directory."""
    sent = {}
    for number, path in enumerate(paths or contents):
        source = tmp_path / f"sent-{number}"
        source.write_bytes(contents[path])
        sent[path] = str(source)
    return sent


def put(place: Place, tmp_path: Path, contents: dict[str, bytes], *paths: str) -> list[str]:
    """Store what was delivered; returns what is missing."""
    with locked(place, MINE):
        staging = Staging(place, manifest(contents), MINE)
        staging.begin()
        staging.accept(deliver(tmp_path, contents, *paths) if paths else {})
        missing = [file.path for file in staging.missing()]
        if not missing:
            staging.commit("/srv/house")
    return missing


def found(place: Place) -> dict[str, bytes]:
    """What stands at the place, the marker left out."""
    folder = Path(place.path)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: data for path, data in files.items() if path != store.MARKER}


def test_stored(place: Place, tmp_path: Path) -> None:
    assert place.state(manifest(CONTENTS)) == "absent"
    assert put(place, tmp_path, CONTENTS, *CONTENTS) == []
    assert found(place) == CONTENTS
    assert place.state(manifest(CONTENTS)) == "present"
    assert place.state(None) == "present"
    assert place.stored() == manifest(CONTENTS)
    assert sorted(os.listdir(place.home)) == [".lock", "v1"]


def test_absent_until_complete(place: Place, tmp_path: Path) -> None:
    assert put(place, tmp_path, CONTENTS, "config.json") == ["empty.txt", "model.bin", "sub/merges.txt"]
    assert place.state(manifest(CONTENTS)) == "absent"
    assert not os.path.lexists(place.path)


def test_resumed(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, "model.bin", "empty.txt")
    assert put(place, tmp_path, CONTENTS) == ["config.json", "sub/merges.txt"]
    assert put(place, tmp_path, CONTENTS, "config.json", "sub/merges.txt") == []
    assert found(place) == CONTENTS


def test_accepted_twice(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, "model.bin")
    assert "model.bin" not in put(place, tmp_path, CONTENTS, "model.bin")


@pytest.mark.parametrize(
    ("arrived", "sentence"),
    [
        (b"weight", r"model\.bin arrived with 6 bytes instead of 7: it was altered on the way or at its source"),
        (b"weightS", r"model\.bin arrived with SHA-256 [0-9a-f]{64} instead of"),
    ],
)
def test_altered(place: Place, tmp_path: Path, arrived: bytes, sentence: str) -> None:
    staging = Staging(place, manifest(CONTENTS), MINE)
    staging.begin()
    with pytest.raises(ModelError, match=sentence):
        staging.accept(deliver(tmp_path, {**CONTENTS, "model.bin": arrived}, "config.json", "model.bin"))
    assert not os.path.lexists(place.path)
    assert [file.path for file in staging.missing()] == ["empty.txt", "model.bin", "sub/merges.txt"]
    assert not os.path.exists(os.path.join(staging.parts, "model.bin"))


def test_blob(place: Place, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"{}")
    right = Manifest.of([File("config.json", 2, blob=blob_of(str(tmp_path / "f"), 2))])
    wrong = Manifest.of([File("config.json", 2, blob="0" * 40)])
    staging = Staging(place, wrong, MINE)
    staging.begin()
    with pytest.raises(ModelError, match="arrived as Git blob"):
        staging.accept(deliver(tmp_path, CONTENTS, "config.json"))
    staging = Staging(place, right, MINE)
    staging.begin()
    staging.accept(deliver(tmp_path, CONTENTS, "config.json"))
    staging.commit("org/house")
    assert place.stored() == manifest({"config.json": b"{}"})


def test_weights_are_checked_beyond_their_checksum(place: Place, tmp_path: Path) -> None:
    contents = {"model.safetensors": b"truncated"}
    with pytest.raises(ModelError, match="no complete safetensors file"):
        put(place, tmp_path, contents, *contents)


def test_outdated(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, *CONTENTS)
    changed = {"config.json": b"[]", "model.bin": b"weights"}
    assert place.state(manifest(changed)) == "outdated"
    assert put(place, tmp_path, changed) == ["config.json"]
    assert found(place) == CONTENTS
    assert put(place, tmp_path, changed, "config.json") == []
    assert found(place) == changed


@pytest.mark.parametrize("harm", ["truncated", "removed", "marker", "replaced by a link"])
def test_damaged(place: Place, tmp_path: Path, harm: str) -> None:
    put(place, tmp_path, CONTENTS, *CONTENTS)
    victim = Path(place.path, store.MARKER if harm == "marker" else "model.bin")
    if harm == "truncated":
        victim.write_bytes(b"w")
    else:
        victim.unlink()
    if harm == "replaced by a link":
        victim.symlink_to("config.json")
    assert place.state(manifest(CONTENTS)) == "damaged"
    put(place, tmp_path, CONTENTS, *CONTENTS)
    assert found(place) == CONTENTS


def test_only_the_damage_is_fetched(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, *CONTENTS)
    Path(place.path, "model.bin").unlink()
    assert put(place, tmp_path, CONTENTS) == ["empty.txt", "model.bin"]


def test_other_models_lend_what_they_have(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, *CONTENTS)
    other = Place(place.root, "org--house", "f" * 40)
    assert Staging(other, manifest(CONTENTS), MINE).linkable()["model.bin"] == f"{place.path}/model.bin"
    assert put(other, tmp_path, CONTENTS) == ["empty.txt"]
    assert put(other, tmp_path, CONTENTS, "empty.txt") == []
    assert os.path.samefile(f"{place.path}/model.bin", f"{other.path}/model.bin")


def test_an_unfinished_model_lends_as_well(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, "model.bin")
    newer = Place(place.root, place.name, "v2")
    changed = {**CONTENTS, "config.json": b"[]"}
    assert "model.bin" not in put(newer, tmp_path, changed)
    put(newer, tmp_path, changed, "config.json", "sub/merges.txt", "empty.txt")
    assert sorted(os.listdir(place.home)) == [".lock", "v2"]


def test_a_rotten_file_is_not_passed_on(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, *CONTENTS)
    Path(place.path, "model.bin").write_bytes(b"weightS")
    other = Place(place.root, "org--house", "f" * 40)
    assert put(other, tmp_path, CONTENTS) == ["empty.txt", "model.bin"]
    assert Path(place.path, "model.bin").read_bytes() == b"weightS"


def test_no_hard_links(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> None:
        raise OSError(1, "Operation not permitted")

    put(place, tmp_path, CONTENTS, *CONTENTS)
    monkeypatch.setattr(os, "link", refuse)
    other = Place(place.root, "org--house", "f" * 40)
    assert put(other, tmp_path, CONTENTS) == sorted(CONTENTS)
    assert put(other, tmp_path, CONTENTS, *CONTENTS) == []


def test_another_attempt_under_the_same_revision(place: Place, tmp_path: Path) -> None:
    put(place, tmp_path, CONTENTS, "model.bin", "config.json", "sub/merges.txt")
    changed = {"model.bin": b"weights", "config.json": b"[]", "sub": b"now a file"}
    assert put(place, tmp_path, changed) == ["config.json", "sub"]
    assert put(place, tmp_path, changed, "config.json", "sub") == []
    assert found(place) == changed


def test_space(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(place, manifest(CONTENTS), MINE)
    staging.begin()
    monkeypatch.setattr(store, "free_bytes", lambda _path: 11)
    with pytest.raises(ModelError, match=r"house needs 12 bytes more in .*/models, where 11 bytes are free: make room"):
        staging.require_space()
    (Path(staging.parts) / "model.bin").write_bytes(b"w")
    staging.require_space()


def test_free_bytes_of_what_is_not_there_yet(tmp_path: Path) -> None:
    assert store.free_bytes(str(tmp_path / "a" / "b")) > 0


def test_one_run_at_a_time(place: Place) -> None:
    with locked(place, MINE), pytest.raises(ModelError, match="another run is storing house"), locked(place, MINE):
        pass
    with locked(place, MINE) as lock:
        assert fcntl.fcntl(lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot create"), locked(Place(str(tmp_path / "file"), "a", "b"), MINE):
        pass


def test_modes(place: Place, tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        put(place, tmp_path, CONTENTS, *CONTENTS)
    finally:
        os.umask(umask)
    assert place.astray(MINE) == []
    assert os.stat(f"{place.path}/sub").st_mode & 0o7777 == 0o755
    assert os.stat(f"{place.path}/sub/merges.txt").st_mode & 0o7777 == 0o644
    os.chmod(f"{place.path}/sub", 0o700)
    os.chmod(place.root, 0o750)
    assert place.astray(MINE) == [place.root, f"{place.path}/sub"]
    for path in place.astray(MINE):
        MINE.apply(path)
    assert place.astray(MINE) == []


def test_owner(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, tmp_path, CONTENTS, *CONTENTS)
    other = Ownership(os.getuid() + 1, os.getgid())
    assert place.path in place.astray(other)

    def refuse(*_args: Any, **_more: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ModelError, match="run the task with become"):
        other.apply(place.path)


def test_marker_of_a_stranger(place: Place) -> None:
    os.makedirs(place.path)
    for text in ("", "[]", '{"files": 1}', '{"files": [{"path": "../up", "size": 1}]}'):
        Path(place.path, store.MARKER).write_text(text)
        assert place.state(None) == "damaged"


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Fail for good at the given of the calls that change what is on disk."""
    left = step

    def crashing(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            return real(*args, **more)

        monkeypatch.setattr(os, name, call)

    for name in ("rename", "fsync", "unlink", "chmod", "link"):
        crashing(name)


@pytest.mark.parametrize("before", ["nothing", "older", "damaged"])
def test_complete_or_absent_wherever_it_crashes(place: Place, tmp_path: Path, before: str) -> None:
    """Crash at the first call that changes the disk, at the second, and so on; then run again."""
    older = {"model.bin": b"weights", "config.json": b"[]"}
    for step in range(1, 200):
        here = Place(str(tmp_path / str(step)), place.name, place.revision)
        if before != "nothing":
            put(here, tmp_path, older if before == "older" else CONTENTS, *(older if before == "older" else CONTENTS))
        if before == "damaged":
            Path(here.path, "model.bin").unlink()
        at_first = found(here)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            try:
                put(here, tmp_path, CONTENTS, *CONTENTS)
                crashed = False
            except Crash:
                crashed = True
        assert not os.path.lexists(here.path) or found(here) in (at_first, CONTENTS)
        # It may have been complete already, but for the clearing up.
        put(here, tmp_path, CONTENTS, *CONTENTS)
        assert found(here) == CONTENTS
        if not crashed:
            assert step > 20
            return
    pytest.fail("it never came to an end")
