# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state file: written whole or not at all, and survived whatever it holds."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._health import memory
from ansible_collections.inferops.vllm.plugins.module_utils._health.memory import Memory
from ansible_collections.inferops.vllm.plugins.module_utils._health.policy import ACTIONS, decide
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving import files
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Verdict

BOOT = "6b1c2f1e-8a53-4b8e-9d2c-000000000000"
NOW = 5000.0
FULL = Memory(
    server="12:345",
    refused=True,
    runtime_restarts=3,
    started_by_hand=True,
    restarts=(1.5, 20.0, 20.0),
    acted="quarantine",
    acted_on="12:345",
    acted_at=21.0,
    serving_since=30.0,
    steady_at=330.0,
    recovering=True,
    quarantine="left stopped: \u00e9\ud800",
)

times = st.floats(0, NOW)
any_memory = st.builds(
    Memory,
    server=st.text(),
    refused=st.booleans(),
    runtime_restarts=st.integers(0, memory.LARGEST_COUNT),
    started_by_hand=st.booleans(),
    restarts=st.lists(times, max_size=1001).map(lambda values: tuple(sorted(values))),
    acted=st.sampled_from(ACTIONS),
    acted_on=st.text(),
    acted_at=st.none() | times,
    serving_since=st.none() | times,
    steady_at=st.none() | times,
    recovering=st.booleans(),
    quarantine=st.text(),
)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return memory.path_of("tiny", str(tmp_path_factory.mktemp("health")))


def document(**words: Any) -> dict[str, Any]:
    return {"version": memory.VERSION, "boot": BOOT, "memory": {**json.loads(json.dumps(vars(FULL))), **words}}


def survived(path: str, content: bytes) -> tuple[Memory, str]:
    """What a file with such content loads as; the policy must be able to go on with it."""
    Path(path).write_bytes(content)
    loaded, warning = memory.load(path, BOOT, NOW)
    decide(loaded, Verdict("hung", "", "1:1", lost=True), NOW, Settings())
    decide(loaded, Verdict("ready", "", "1:1", serves=True), NOW, Settings())
    return loaded, warning


def assert_fresh(path: str, content: bytes) -> str:
    loaded, warning = survived(path, content)
    assert loaded == Memory()
    assert warning.startswith(f"{path} is of no use, so earlier restarts are forgotten: ")
    return warning


@examples(max_examples=100, deadline=None)
@given(saved=any_memory)
def test_what_is_saved_is_loaded(path: str, saved: Memory) -> None:
    memory.save(path, BOOT, saved)
    if os.path.getsize(path) <= files.LARGEST_BYTES:
        assert memory.load(path, BOOT, NOW) == (saved, "")


def test_largest_memory_of_the_policy_fits(path: str) -> None:
    saved = Memory("1" * 40, restarts=tuple(NOW - 1 / (3 + n) for n in range(1001)), quarantine="\u00e9" * 1000)
    memory.save(path, BOOT, saved)
    assert memory.load(path, BOOT, NOW) == (saved, "")


def test_no_file_is_no_reason_for_a_word(tmp_path: Path) -> None:
    assert memory.load(str(tmp_path / "tiny.json"), BOOT, NOW) == (Memory(), "")


def test_place() -> None:
    assert memory.path_of("tiny") == "/var/lib/vllm/health/tiny.json"


def test_test_document_is_right(path: str) -> None:
    assert survived(path, json.dumps(document()).encode()) == (FULL, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"\0" * 300, "Expecting value"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[" * 60_000, ""),
        (b'{"version":' + b"9" * 10_000 + b"}", ""),
        (b" " * 65_537, "it is larger than 65536 bytes"),
        (b"null", "it is no saved memory"),
        (b'{"server": "1:1"}', "it is no saved memory"),
        (json.dumps({**document(), "version": 2}).encode(), "another version of this program wrote it"),
        (json.dumps({**document(), "boot": "another"}).encode(), "it is of another boot"),
        (json.dumps({**document(), "memory": []}).encode(), "its memory has not the expected members"),
        (json.dumps(document(more=1)).encode(), "its memory has not the expected members"),
    ],
)
def test_foreign_file_is_survived(path: str, content: bytes, reason: str) -> None:
    assert reason in assert_fresh(path, content)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("acted_at", value) for value in (-0.1, NOW + 0.1, 10**400, True, "1", [], {})),
        *(("serving_since", value) for value in (-1, NOW + 1, False)),
        *(("steady_at", value) for value in (-1, NOW + 1)),
        *(("restarts", value) for value in (None, 1.0, [None], [-1.0], [NOW + 1], [True], ["1"], [2, 1], {"1": 1})),
        *(("runtime_restarts", value) for value in (None, -1, 1.0, True, "1", 10**400)),
        *(("refused", value) for value in (None, 0, "")),
        *(("server", value) for value in (None, 1, ["1:1"])),
        *(("quarantine", value) for value in (None, False)),
    ],
)
def test_impossible_member_is_survived(path: str, member: str, value: Any) -> None:
    assert f"its {member} cannot be right" in assert_fresh(path, json.dumps(document(**{member: value})).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("member", ['"acted_at": 21.0', '"serving_since": 30.0', '"restarts": [1.5'])
def test_number_that_is_none_is_survived(path: str, member: str, number: str) -> None:
    content = json.dumps(document()).replace(member, member.rstrip("0123456789.") + number)
    assert_fresh(path, content.encode())


@examples(max_examples=100, deadline=None)
@given(length=st.integers(0, 10_000))
def test_torn_file_is_survived(path: str, length: int) -> None:
    whole = json.dumps(document()).encode()
    assert_fresh(path, whole[: length % len(whole)])


@examples(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_file_is_survived(path: str, content: bytes) -> None:
    assert_fresh(path, content)


@examples(max_examples=200, deadline=None)
@given(member=st.sampled_from(sorted(vars(FULL))), value=any_json)
def test_any_member_is_survived(path: str, member: str, value: Any) -> None:
    loaded, warning = survived(path, json.dumps(document(**{member: value})).encode())
    assert bool(warning) == (loaded == Memory())


def test_what_is_no_file_is_survived(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for place in (pipe, tmp_path):
        loaded, warning = memory.load(str(place), BOOT, NOW)
        assert (loaded, bool(warning)) == (Memory(), True)


def test_saving_makes_the_directory_and_raises_where_it_cannot(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tiny.json"
    memory.save(str(path), BOOT, FULL)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        memory.save(str(path / "tiny.json"), BOOT, FULL)


def full_disk(*_arguments: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """Takes a part of what is written, and fails."""

    def __init__(self, descriptor: int, *_arguments: object, **_words: object) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)

    def write(self, text: str) -> int:
        os.write(self._descriptor, text[:10].encode())
        return full_disk()


@pytest.mark.parametrize("fails", ["open", "replace"])
def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = memory.path_of("tiny", str(tmp_path))
    memory.save(path, BOOT, FULL)
    with monkeypatch.context() as broken:
        if fails == "open":
            broken.setattr(files, "open", FullDisk, raising=False)
        else:
            broken.setattr(files.os, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            memory.save(path, BOOT, Memory())
    assert memory.load(path, BOOT, NOW) == (FULL, "")
    assert os.listdir(tmp_path) == ["tiny.json"]


def test_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read right before the new file takes the place of the old one is the old one."""
    path = memory.path_of("tiny", str(tmp_path))
    memory.save(path, BOOT, FULL)
    seen = []
    replace = os.replace

    def look(source: str, target: str) -> None:
        seen.append(memory.load(path, BOOT, NOW))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", look)
    memory.save(path, BOOT, Memory())
    assert seen == [(FULL, "")]
    assert memory.load(path, BOOT, NOW) == (Memory(), "")
    assert os.stat(path).st_mode & 0o077 == 0
