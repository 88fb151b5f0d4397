# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds a GPU, the reset by nvidia-smi, the line in the log, and the file that counts the resets."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child, reset, xid
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Gpu
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.reset import Holder, Ledger, Moment

UUID = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "GPU-66666666-7777-8888-9999-000000000000"
ADDRESS = "0000:19:00"
MAPS = """\
7f0000000000-7f0000001000 rw-s 00000000 00:06 512 {}
7f0000002000-7f0000003000 r-xp 00000000 08:01 9   /usr/lib/libnvidia-ml.so.1
"""
NOW = Moment(1_800_000_000.0, "this-boot", 500_000.0)
HOUR = 3600.0


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have left running on this machine is not to be seen."""
    monkeypatch.setattr(child, "stuck", list)


class Proc:
    """A /proc below another root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()

    def add(self, pid: int, name: str, fds: tuple[str, ...] = (), mapped: str = "", group: str = "0::/\n") -> None:
        folder = self.root / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "maps").write_text(MAPS.format(mapped))
        (folder / "cgroup").write_text(group)
        for number, path in enumerate(("/dev/null", *fds)):
            (folder / f"fd/{number}").symlink_to(path)

    def holders(self) -> list[Holder]:
        return reset.holders(str(self.root))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


class TestHolders:
    def test_open_and_mapped_devices(self, proc: Proc) -> None:
        proc.add(1, "systemd")
        proc.add(42, "VLLM::EngineCor", ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia0"), "/dev/nvidia-uvm")
        proc.add(43, "forked", (), "/dev/nvidia1")
        assert proc.holders() == [
            Holder(42, "VLLM::EngineCor", os.getuid(), "", ("/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl")),
            Holder(43, "forked", os.getuid(), "", ("/dev/nvidia1",)),
        ]

    def test_device_of_a_container_that_has_gone(self, proc: Proc) -> None:
        proc.add(42, "python3", ("/dev/nvidia0 (deleted)",), "/dev/nvidia1 (deleted)")
        assert proc.holders()[0].devices == ("/dev/nvidia0", "/dev/nvidia1")

    @pytest.mark.parametrize(
        ("group", "unit"),
        [
            ("0::/system.slice/system-vllm.slice/vllm@tiny.service\n", "vllm@tiny.service"),
            ("0::/system.slice/vllm@tiny.service/workers\n", "vllm@tiny.service"),
            ("12:devices:/a\n1:name=systemd:/system.slice/nvidia-dcgm.service\n", "nvidia-dcgm.service"),
            ("0::/system.slice/docker-0123abcd.scope/system.slice/x.service\n", "docker-0123abcd.scope"),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", "user@1000.service"),
            ("0::/\n", ""),
            ("", ""),
        ],
    )
    def test_unit(self, proc: Proc, group: str, unit: str) -> None:
        proc.add(42, "python3", ("/dev/nvidia0",), group=group)
        (holder,) = proc.holders()
        assert holder.unit == unit
        assert str(holder) == f"python3 (pid 42, {unit or 'of no unit'})"

    def test_process_that_goes_meanwhile(self, proc: Proc) -> None:
        (proc.root / "proc/7").mkdir()
        (proc.root / "proc/8").mkdir()
        (proc.root / "proc/8/comm").write_text("gone\n")
        assert proc.holders() == []

    def test_through_a_child(self, proc: Proc) -> None:
        proc.add(42, "python3", ("/dev/nvidia0", "/dev/nvidiactl"))
        assert reset.see_holders(str(proc.root)) == proc.holders()

    def test_of_this_host(self) -> None:
        assert os.getpid() not in [holder.pid for holder in reset.see_holders()]

    @pytest.mark.parametrize("name", ["nvidia-persistenced", "nv-fabricmanager"])
    def test_who_yields(self, name: str) -> None:
        kept = name[:15]  # as the kernel keeps it
        assert Holder(1, kept, 0, "", ("/dev/nvidia0",)).yields
        assert not Holder(1, "nv-hostengine", 0, "", ("/dev/nvidia0",)).yields

    def test_device(self, tmp_path: Path) -> None:
        folder = tmp_path / f"proc/driver/nvidia/gpus/{ADDRESS}.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA H200\nGPU UUID: \t {UUID}\nDevice Minor: \t 3\n")
        assert reset.device(ADDRESS, str(tmp_path)) == "/dev/nvidia3"
        (folder / "information").write_text("")
        assert reset.device(ADDRESS, str(tmp_path)) == ""
        assert reset.device("0000:20:00", str(tmp_path)) == ""
        assert reset.device(None, str(tmp_path)) == ""

    @pytest.mark.parametrize(
        ("devices", "pids"),
        [(["/dev/nvidia0"], [1]), (["/dev/nvidia0", "/dev/nvidia1"], [1, 2]), (["/dev/nvidia7"], []), ([""], [1, 2])],
    )
    def test_only_who_holds_that_gpu(self, devices: list[str], pids: list[int]) -> None:
        found = [
            Holder(1, "a", 0, "", ("/dev/nvidia0", "/dev/nvidiactl")),
            Holder(2, "b", 0, "", ("/dev/nvidia1",)),
            Holder(3, "c", 0, "", ("/dev/nvidia-nvswitchctl", "/dev/nvidiactl")),
        ]
        assert [holder.pid for holder in reset.holding(found, devices)] == pids


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """program(name, script) -> where its arguments will be found, with no other programs beside it than a shell's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def install(name: str, script: str) -> Path:
        arguments = tmp_path / f"{name}.arguments"
        (folder / name).write_text(f'#!/bin/sh\necho "$*" >{arguments}\n{script}\n')
        (folder / name).chmod(0o755)
        return arguments

    return install


class TestReset:
    def test_done(self, program: Callable[[str, str], Path]) -> None:
        arguments = program("nvidia-smi", "echo 'GPU 00000000:19:00.0 was successfully reset.'; echo All done.")
        outcome = reset.reset([UUID, OTHER])
        assert outcome == reset.Outcome(True, "GPU 00000000:19:00.0 was successfully reset. All done.", 0)
        assert not outcome.refused
        assert arguments.read_text() == f"--gpu-reset -i {UUID},{OTHER}\n"

    @pytest.mark.parametrize(
        ("words", "in_use", "refused"),
        [
            ("GPU 00000000:1A:00.0: In use by another client", True, True),
            ("1 device is currently being used by one or more other processes", True, True),
            ("Resetting GPU 00000000:1A:00.0 is not supported.", False, True),
            ("GPU Reset couldn't run because GPU 00000000:1A:00.0 is the primary GPU.", False, True),
            ("Insufficient Permissions", False, True),
            ("Unable to reset GPU 00000000:1A:00.0: Unknown Error", False, False),
        ],
    )
    def test_not_done(self, program: Callable[[str, str], Path], words: str, in_use: bool, refused: bool) -> None:
        program("nvidia-smi", f'echo "{words}"; exit 255')
        outcome = reset.reset([UUID])
        assert outcome == reset.Outcome(False, words, 255)
        assert (outcome.in_use, outcome.refused) == (in_use, refused)

    def test_killed(self, program: Callable[[str, str], Path]) -> None:
        program("nvidia-smi", "kill -KILL $$")
        assert reset.reset([UUID]) == reset.Outcome(False, "it was killed: Killed", -9)

    def test_never_waited_on_past_its_deadline(self, program: Callable[[str, str], Path]) -> None:
        program("nvidia-smi", "trap '' TERM; sleep 60")
        started = time.monotonic()
        outcome = reset.reset([UUID], 0.5)
        assert time.monotonic() - started < 30
        assert (outcome.done, outcome.unresponsive, outcome.refused) == (False, True, False)

    def test_no_tool(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        outcome = reset.reset([UUID])
        assert (outcome.done, outcome.code) == (False, None)
        assert "nvidia-smi is not installed" in outcome.words


SICK = Gpu(0, UUID, recovery_action="gpu_reset", remap_pending=True, fabric_state="completed")
SOUND = replace(SICK, recovery_action="none", remap_pending=False)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (SOUND, ""),
        (replace(SOUND, recovery_action=None, remap_pending=None), ""),
        (None, "it is no longer there"),
        (replace(SOUND, lost=True), "it is lost"),
        (replace(SOUND, reset_required=True), "it still requires a reset"),
        (replace(SOUND, recovery_action="node_reboot"), "the driver asks for node_reboot"),
        (SICK, "the driver asks for gpu_reset"),
        (replace(SOUND, remap_pending=True), "it still has memory to repair"),
        (replace(SOUND, pages_pending=True), "it still has memory to repair"),
        (
            replace(SOUND, fabric_state="in_progress"),
            "it has not joined the fabric again, which is in_progress",
        ),
    ],
)
def test_trouble(after: Gpu | None, expected: str) -> None:
    assert reset.trouble(SICK, after) == expected


def test_fabric_that_was_not_there_before_is_no_trouble() -> None:
    before = replace(SICK, fabric_state="in_progress")
    assert reset.trouble(before, replace(SOUND, fabric_state="in_progress")) == ""


class TestMarker:
    def test_in_the_kernel_log(self, tmp_path: Path) -> None:
        kmsg = tmp_path / "kmsg"
        kmsg.touch()
        assert reset.mark(UUID, str(kmsg)) == ""
        assert kmsg.read_text() == f"<5>GPU reset occurred: {UUID}\n"

    def test_is_read_back(self) -> None:
        assert xid.parse(f"{xid.MARKER} {UUID}") == xid.Event(xid.RESET, uuid=UUID)

    def test_by_logger_where_the_kernel_log_is_not_there(
        self, tmp_path: Path, program: Callable[[str, str], Path]
    ) -> None:
        arguments = program("logger", "")
        kmsg = tmp_path / "kmsg"
        assert reset.mark(UUID, str(kmsg)) == ""
        assert arguments.read_text().endswith(f"-- GPU reset occurred: {UUID}\n")
        assert not kmsg.exists(), "no file took the device's place"

    def test_nowhere(self, tmp_path: Path, program: Callable[[str, str], Path]) -> None:
        program("logger", "exit 1")
        kmsg = f"{tmp_path}/kmsg"
        assert reset.mark(UUID, kmsg) == f"{kmsg}: No such file or directory, and logger ended with exit code 1"

    def test_no_logger(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert "logger is not installed" in reset.mark(UUID, f"{tmp_path}/kmsg")


class Clock:
    """A host's clocks, which tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> Moment:
        return self.now

    def go(self, seconds: float) -> None:
        self.now = replace(self.now, at=self.now.at + seconds, uptime_seconds=self.now.uptime_seconds + seconds)

    def set(self, seconds: float) -> None:
        self.now = replace(self.now, at=self.now.at + seconds)

    def boot(self, off_seconds: float = 60.0) -> None:
        self.now = Moment(self.now.at + off_seconds, f"after-{self.now.boot_id}", 10.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("gpu"))


def document(**members: Any) -> dict[str, Any]:
    moment = {"at": NOW.at - 1, "boot_id": NOW.boot_id, "uptime_seconds": NOW.uptime_seconds - 1, **members}
    return {"version": reset.VERSION, "resets": {UUID: [moment]}}


def loaded(state_dir: str, content: bytes) -> Ledger:
    """What a file with such content makes of a ledger, which must go on to count."""
    path = Path(state_dir, "resets.json")
    path.write_bytes(content)
    ledger = Ledger(state_dir, Clock())
    before = ledger.count(UUID)
    ledger.record([UUID])
    assert ledger.count(UUID) == before + 1
    assert Ledger(state_dir, Clock()).count(UUID) == before + 1
    path.write_bytes(content)
    return Ledger(state_dir, Clock())


def assert_fresh(state_dir: str, content: bytes) -> str:
    ledger = loaded(state_dir, content)
    assert (ledger.count(UUID), ledger.quarantined(UUID)) == (0, False)
    assert ledger.warning.startswith(f"{state_dir}/resets.json is of no use, so earlier resets are forgotten: ")
    return ledger.warning


class TestLedger:
    def test_third_reset_within_a_day(self, tmp_path: Path, clock: Clock) -> None:
        for number in range(1, 4):
            ledger = Ledger(str(tmp_path), clock)
            assert not ledger.quarantined(UUID)
            ledger.record([UUID])
            assert ledger.count(UUID) == number
            clock.go(HOUR)
        assert ledger.quarantined(UUID)
        assert Ledger(str(tmp_path), clock).quarantined(UUID)
        assert not ledger.quarantined(OTHER)

    def test_a_day_later(self, tmp_path: Path, clock: Clock) -> None:
        ledger = Ledger(str(tmp_path), clock)
        for _number in range(3):
            ledger.record([UUID])
            clock.go(HOUR)
        clock.go(21 * HOUR)
        assert (ledger.count(UUID), ledger.quarantined(UUID)) == (2, False)
        ledger.record([OTHER])
        moments = json.loads((tmp_path / "resets.json").read_text())["resets"]
        assert {uuid: len(kept) for uuid, kept in moments.items()} == {UUID: 2, OTHER: 1}

    def test_another_boot(self, tmp_path: Path, clock: Clock) -> None:
        for _number in range(3):
            Ledger(str(tmp_path), clock).record([UUID])
            clock.boot()
        assert Ledger(str(tmp_path), clock).quarantined(UUID)
        clock.boot(25 * HOUR)
        assert Ledger(str(tmp_path), clock).count(UUID) == 0

    @pytest.mark.parametrize("days", [-3650, -2, -1, 1, 2, 3650])
    def test_clock_that_is_set(self, tmp_path: Path, clock: Clock, days: int) -> None:
        """Of the same boot the clock that nobody sets decides."""
        Ledger(str(tmp_path), clock).record([UUID, UUID, UUID])
        clock.set(days * 24 * HOUR)
        assert Ledger(str(tmp_path), clock).quarantined(UUID)
        clock.go(25 * HOUR)
        assert not Ledger(str(tmp_path), clock).quarantined(UUID)

    def test_clock_that_is_set_back_before_another_boot(self, tmp_path: Path, clock: Clock) -> None:
        Ledger(str(tmp_path), clock).record([UUID])
        clock.boot()
        clock.set(-20 * HOUR)
        assert Ledger(str(tmp_path), clock).count(UUID) == 1
        clock.set(-365 * 24 * HOUR)
        assert Ledger(str(tmp_path), clock).count(UUID) == 0, "nobody waits a year"

    def test_no_file_is_no_reason_for_a_word(self, tmp_path: Path) -> None:
        ledger = Ledger(str(tmp_path / "none"))
        assert (ledger.warning, ledger.count(UUID)) == ("", 0)
        ledger.record([UUID])
        assert Ledger(str(tmp_path / "none")).count(UUID) == 1

    def test_place(self) -> None:
        assert reset.STATE_DIR == "/var/lib/vllm/gpu"
        assert len(reset.now().boot_id) == 36

    def test_two_programs_of_a_node(self, tmp_path: Path) -> None:
        first, second = Ledger(str(tmp_path)), Ledger(str(tmp_path))
        first.record([UUID])
        second.record([UUID, OTHER])
        first.record([OTHER])
        assert [first.count(uuid) for uuid in (UUID, OTHER)] == [2, 2]

    def test_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        ledger = Ledger(str(tmp_path / "file"))
        assert "Not a directory" in ledger.warning
        with pytest.raises(OSError, match="file"):
            ledger.record([UUID])

    def test_test_document_is_right(self, state_dir: str) -> None:
        ledger = loaded(state_dir, json.dumps(document()).encode())
        assert (ledger.count(UUID), ledger.warning) == (1, "")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "Expecting value"),
            (b"\0" * 300, "Expecting value"),
            (b"\xff\xfe\x00", "codec can't decode"),
            (b"[" * 60_000, ""),
            (b'{"version":' + b"9" * 10_000 + b"}", ""),
            (b" " * 65_537, "it is larger than 65536 bytes"),
            (b"null", "it is no list of resets"),
            (b'{"resets": {}}', "it is no list of resets"),
            (b'{"version": 2, "resets": {}}', "another version of this program wrote it"),
            (b'{"version": 1, "resets": []}', "its resets cannot be right"),
            (json.dumps({"version": 1, "resets": {UUID: {}}}).encode(), "its resets cannot be right"),
            (json.dumps({"version": 1, "resets": {UUID: [1.0]}}).encode(), "one of its resets cannot be right"),
            (json.dumps(document(more=1)).encode(), "one of its resets cannot be right"),
        ],
    )
    def test_foreign_file_is_survived(self, state_dir: str, content: bytes, reason: str) -> None:
        assert reason in assert_fresh(state_dir, content)

    @pytest.mark.parametrize("value", [None, True, "1", -1, 1e300, 10**400, [], {}])
    @pytest.mark.parametrize("member", ["at", "uptime_seconds"])
    def test_impossible_time_is_survived(self, state_dir: str, member: str, value: Any) -> None:
        content = json.dumps(document(**{member: value})).encode()
        assert "one of its resets cannot be right" in assert_fresh(state_dir, content)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_number_that_is_none_is_survived(self, state_dir: str, number: str) -> None:
        content = json.dumps(document()).replace(str(NOW.at - 1), number)
        assert number in content
        assert_fresh(state_dir, content.encode())

    @examples(max_examples=100, deadline=None)
    @given(length=st.integers(0, 1000))
    def test_torn_file_is_survived(self, state_dir: str, length: int) -> None:
        whole = json.dumps(document()).encode()
        assert_fresh(state_dir, whole[: length % len(whole)])

    @examples(max_examples=100, deadline=None)
    @given(content=st.binary(max_size=200))
    def test_any_file_is_survived(self, state_dir: str, content: bytes) -> None:
        assert_fresh(state_dir, content)

    @examples(max_examples=200, deadline=None)
    @given(
        member=st.sampled_from(["at", "boot_id", "uptime_seconds"]),
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda children: (
                st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3)
            ),
            max_leaves=8,
        ),
    )
    def test_any_member_is_survived(self, state_dir: str, member: str, value: Any) -> None:
        ledger = loaded(state_dir, json.dumps(document(**{member: value})).encode())
        assert ledger.count(UUID) in ((0,) if ledger.warning else (0, 1))

    @examples(max_examples=100, deadline=None)
    @given(
        made=st.lists(st.tuples(st.sampled_from([UUID, OTHER]), st.floats(0, 20 * HOUR)), max_size=12),
        later=st.floats(0, 30 * HOUR),
    )
    def test_counts_what_was_made_within_a_day(
        self, tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, float]], later: float
    ) -> None:
        folder, clock, times = str(tmp_path_factory.mktemp("gpu")), Clock(), []
        for uuid, seconds in made:
            clock.go(seconds)
            Ledger(folder, clock).record([uuid])
            times.append((uuid, clock.now.uptime_seconds))
        clock.go(later)
        for uuid in (UUID, OTHER):
            expected = sum(one == uuid and clock.now.uptime_seconds - at < 24 * HOUR for one, at in times)
            assert Ledger(folder, clock).count(uuid) == expected

    def test_what_is_no_file_is_survived(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe/resets.json"
        pipe.parent.mkdir()
        os.mkfifo(pipe)
        (tmp_path / "folder/resets.json").mkdir(parents=True)
        for folder in ("pipe", "folder"):
            ledger = Ledger(str(tmp_path / folder))
            assert (ledger.count(UUID), bool(ledger.warning)) == (0, True)
