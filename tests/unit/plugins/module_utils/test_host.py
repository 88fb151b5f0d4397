# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of a host, on a made-up one and on this."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils import _host

# One listens on 8000 (1F40), one is connected from 8001.
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000 100 0 0 10 0
   1: 0100007F:1F41 0100007F:1F40 01 00000000:00000000 00:00000000 00000000     0        0 4343 1 0000 20 4 30 10 -1
"""


def write(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def process(proc: Path, pid: int, *, inode: int, cgroup: str = "0::/user.slice", cmdline: str = "nginx") -> None:
    write(proc, f"{pid}/comm", f"{cmdline.split()[0]}\n")
    write(proc, f"{pid}/cgroup", f"{cgroup}\n")
    write(proc, f"{pid}/cmdline", cmdline.replace(" ", "\0"))
    (proc / f"{pid}/fd").mkdir()
    (proc / f"{pid}/fd/0").symlink_to("/dev/null")
    (proc / f"{pid}/fd/3").symlink_to(f"socket:[{inode}]")


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        (
            'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n',
            {"id": "debian", "version": "12", "name": "Debian 12"},
        ),
        ("# nothing\n\nID='rocky'\n", {"id": "rocky", "version": "", "name": ""}),
        ("", {"id": "", "version": "", "name": ""}),
    ],
)
def test_distribution(os_release: str, expected: dict[str, str]) -> None:
    assert _host.distribution(os_release) == expected


@pytest.mark.parametrize(
    ("cgroup", "cmdline", "instance"),
    [
        ("0::/system.slice/nginx.service", "nginx", ""),
        ("0::/system.slice/system-vllm.slice/vllm@my-model.service", "python -m vllm", "my-model"),
        ("0::/user.slice", "vllm serve --config /etc/vllm/instances/tiny.yaml", "tiny"),
        ("0::/user.slice", "vim /etc/vllm/instances.yaml", ""),
    ],
)
def test_listeners(tmp_path: Path, cgroup: str, cmdline: str, instance: str) -> None:
    write(tmp_path, "net/tcp", TCP)
    process(tmp_path, 7, inode=4242, cgroup=cgroup, cmdline=cmdline)
    process(tmp_path, 8, inode=9999)
    program = cmdline.split()[0]
    expected = [{"port": 8000, "pid": 7, "program": program, "instance": instance}]
    assert _host.listeners(str(tmp_path), {8000, 8001}) == expected
    assert _host.listeners(str(tmp_path), {8001}) == []


def test_listener_that_cannot_be_seen(tmp_path: Path) -> None:
    write(tmp_path, "net/tcp6", TCP)
    assert _host.listeners(str(tmp_path), {8000}) == [{"port": 8000, "pid": None, "program": "", "instance": ""}]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_listener_here(family: socket.AddressFamily) -> None:
    with socket.create_server(("", 0), family=family) as server:
        port = server.getsockname()[1]
        (found,) = _host.listeners("/proc", {port})
    assert found["pid"] == os.getpid()
    assert found["instance"] == ""


def test_gpu_count(tmp_path: Path) -> None:
    assert _host.gpu_count(str(tmp_path)) == 0
    for address in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        write(tmp_path, f"proc/driver/nvidia/gpus/{address}/information")
    assert _host.gpu_count(str(tmp_path)) == 3
    # A container may see all of the driver, and have a node for some.
    for node in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm"):
        write(tmp_path, f"dev/{node}")
    assert _host.gpu_count(str(tmp_path)) == 2


def test_paths(tmp_path: Path) -> None:
    found = _host.path_facts(str(tmp_path / "not/there"))
    assert found == {"exists": False, "device": tmp_path.stat().st_dev, "free_bytes": found["free_bytes"]}
    assert found["free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert _host.path_facts(str(tmp_path))["exists"] is True


def test_shm_that_is_no_filesystem(tmp_path: Path) -> None:
    assert _host.shm_bytes(str(tmp_path)) == 0


def test_look(tmp_path: Path) -> None:
    write(tmp_path, "etc/os-release", 'ID=ubuntu\nVERSION_ID="24.04"\n')
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    write(tmp_path, "sys/module/nvidia/version", "580.159.04\n")
    (tmp_path / "proc").mkdir()
    found = _host.look(paths=["/"], ports=[8000], root=str(tmp_path))
    assert found["distribution"]["id"] == "ubuntu"
    assert found["service_manager"] == "systemd"
    assert found["paths"]["/"]["exists"] is True
    assert found["listeners"] == []
    assert (found["gpu_count"], found["driver"], found["shm_bytes"]) == (0, "580.159.04", 0)
