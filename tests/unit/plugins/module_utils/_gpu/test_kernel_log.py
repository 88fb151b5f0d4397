# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel log, from a journalctl that stands for the real one, and from a file that stands for /dev/kmsg."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import kernel_log
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.kernel_log import parse_journal, parse_kmsg, read

XID = "NVRM: Xid (PCI:0000:b3:00): 79, GPU has fallen off the bus."
SXID = "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 24007, Fatal, Link 28 sourcetrack timeout error (First)"
MARKER = "GPU reset occurred: GPU-455d8f70-2051-db6c-0430-ffc457bff834"
KMSG = f"""\
6,1,5000000,-;Linux version 6.12.107
 SUBSYSTEM=pci
 DEVICE=+pci:0000:b3:00.0
4,2,7250000,-;{XID}
4,3,7500000,c,caller=T1;{SXID}
"""


def entry(at: float, message: object, **fields: str) -> str:
    return json.dumps({"__MONOTONIC_TIMESTAMP": f"{at * 1e6:.0f}", "MESSAGE": message, **fields})


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs a journalctl that prints something, and returns the file that it writes its arguments to."""

    def install(text: str = "", status: int = 0, kernel: str = "") -> Path:
        arguments = tmp_path / "arguments"
        (tmp_path / "found").write_text(text)
        (tmp_path / "kernel").write_text(kernel)
        program = tmp_path / "bin" / "journalctl"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {arguments}\ncase "$*" in\n'
            f"*--lines=1\\ *) cat {tmp_path}/kernel ;;\n*) cat {tmp_path}/found; exit {status} ;;\nesac\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        return arguments

    return install


@pytest.fixture
def kmsg(tmp_path: Path) -> Path:
    path = tmp_path / "kmsg"
    path.write_text(KMSG)
    return path


# Where the lines come from


def test_journal_first(journal: Callable[..., Path], kmsg: Path) -> None:
    arguments = journal(entry(3, XID))
    assert read(0, str(kmsg)) == ([(3.0, XID)], "")
    words = arguments.read_text().split()
    assert {"--boot", "--output=json", "--lines=5000"} <= set(words)
    assert not any(word.startswith("--since") for word in words)
    assert words[-4:] == ["_TRANSPORT=kernel", "+", "_TRANSPORT=syslog", "_UID=0"]


def test_search_begins_before_the_time_for_clocks_are_set(journal: Callable[..., Path], kmsg: Path) -> None:
    now = time.monotonic()
    arguments = journal("\n".join([entry(now - 20, XID), entry(now - 5, SXID)]))
    assert read(now - 10, str(kmsg)) == ([(pytest.approx(now - 5), SXID)], "")
    since = next(word for word in arguments.read_text().split() if word.startswith("--since=@"))
    assert time.time() - float(since.partition("@")[2]) == pytest.approx(10 + 3600, abs=3)


@pytest.mark.parametrize("status", [0, 1])
def test_kmsg_where_the_journal_has_nothing(journal: Callable[..., Path], kmsg: Path, status: int) -> None:
    journal(status=status)
    assert read(0, str(kmsg)) == ([(7.25, XID), (7.5, SXID)], "")
    assert read(7.3, str(kmsg)) == ([(7.5, SXID)], "")


def test_kmsg_where_there_is_no_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kmsg: Path) -> None:
    without_journalctl(monkeypatch, tmp_path)
    assert read(0, str(kmsg)) == ([(7.25, XID), (7.5, SXID)], "")


def test_nothing_where_the_journal_works(journal: Callable[..., Path], tmp_path: Path) -> None:
    journal(status=1, kernel=entry(1, "Linux version 6.12.107"))
    assert read(0, str(tmp_path / "absent")) == ([], "")


def test_nobody_may_read(journal: Callable[..., Path], tmp_path: Path) -> None:
    journal(status=1)
    path = str(tmp_path / "absent")
    lines, reason = read(0, path)
    assert lines == []
    assert reason == (
        f"the kernel log cannot be read: the journal holds nothing of the kernel, and {path}: No such file or directory"
    )


def test_nobody_may_read_without_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_journalctl(monkeypatch, tmp_path)
    path = str(tmp_path / "absent")
    lines, reason = read(0, path)
    assert lines == []
    assert "journalctl is not installed" in reason
    assert path in reason


def test_answer_is_what_json_can_hold(journal: Callable[..., Path], kmsg: Path) -> None:
    journal(entry(3, [*XID.encode(), 0xFF, 0x07]))
    lines, reason = json.loads(json.dumps(read(0, str(kmsg))))
    assert lines == [[3.0, f"{XID}\ufffd\a"]]
    assert reason == ""


def test_only_the_last_of_many(kmsg: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_journalctl(monkeypatch, tmp_path)
    monkeypatch.setattr(kernel_log, "MOST_LINES", 1)
    assert read(0, str(kmsg)) == ([(7.5, SXID)], "")


def without_journalctl(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """None on the PATH; that in /sbin would be found still, but no system has one there."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(kernel_log.child, "SYSTEM_FOLDERS", ())


# Journal


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        (entry(3, XID), [(3.0, XID)]),
        (entry(3, XID, _TRANSPORT="kernel"), [(3.0, XID)]),
        (entry(3, list(XID.encode())), [(3.0, XID)]),
        (entry(3, "a\u2028b"), [(3.0, "a\u2028b")]),
        (entry(3, MARKER, _TRANSPORT="syslog"), [(3.0, MARKER)]),
        # A stranger can have these logged, by a name that does not exist.
        (entry(3, XID, _TRANSPORT="syslog"), []),
        (entry(3, f"Invalid user {MARKER}", _TRANSPORT="syslog"), []),
        # The newest first, as some versions answer.
        (f"{entry(4, 'b')}\n{entry(3, 'a')}\n", [(3.0, "a"), (4.0, "b")]),
        (entry(3, None), []),
        (entry(3, [1, 256]), []),
        (entry(3, [[78], [79]]), []),
        (entry(3, 10**12), []),
        ('{"MESSAGE": "no time"}', []),
        ('{"__MONOTONIC_TIMESTAMP": "soon", "MESSAGE": "a"}', []),
        ("[]\n7\nnull\n{\n-- No entries --", []),
    ],
)
def test_journal_entries(text: str, lines: list[tuple[float, str]]) -> None:
    assert parse_journal(text) == lines


@given(st.text() | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(lambda message: entry(1, message)))
def test_no_journal_is_too_odd(text: str) -> None:
    assert all(isinstance(line, str) for _at, line in parse_journal(text))


# /dev/kmsg


@pytest.mark.parametrize(
    ("records", "lines"),
    [
        (b"", []),
        (b"6,1,5000000,-;Linux version\n", [(5.0, "Linux version")]),
        (b"6,1,5000000,-,caller=T1;a;b\n KEY=value; more\n", [(5.0, "a;b")]),
        (
            b"4,2,1500000,-;NVRM: The NVIDIA GPU\\x0aNVRM: fell \\x5cx41\n",
            [(1.5, "NVRM: The NVIDIA GPU\nNVRM: fell \\x41")],
        ),
        (b"no record\n1,2,3\n1,2,x,-;text\n1,2,3;text\n", []),
        (b"\xff\xfe,;\n4,2,1500000,-;\xff\n", [(1.5, "\ufffd")]),
    ],
)
def test_kmsg_records(records: bytes, lines: list[tuple[float, str]]) -> None:
    assert parse_kmsg(records) == lines


@given(st.binary() | st.binary().map(lambda text: b"4,2,1500000,-;" + text))
def test_no_record_is_too_odd(records: bytes) -> None:
    assert all(isinstance(line, str) for _at, line in parse_kmsg(records))


def test_kmsg_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(descriptor, KMSG.encode())
        assert kernel_log.drain(str(path)) == KMSG.encode()
    finally:
        os.close(descriptor)
