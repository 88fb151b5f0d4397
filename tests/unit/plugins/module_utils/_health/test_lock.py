# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One program heals at a time, and a disk that takes no lock keeps none from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ansible_collections.inferops.vllm.plugins.module_utils._health.lock import Lock

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = Lock(str(tmp_path / "new")), Lock(str(tmp_path / "new"))
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    assert not first.acquire()
    second.release()


def test_lock_goes_with_the_process_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdin
    assert holder.stdout.readline() == b"held\n"
    lock = Lock(str(tmp_path))
    assert not lock.acquire()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    assert lock.acquire()
    lock.release()


def test_disk_that_takes_no_lock_keeps_nobody_from_healing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Lock(str(tmp_path / "file")).acquire()
    (tmp_path / "lock").mkdir()
    assert Lock(str(tmp_path)).acquire()
