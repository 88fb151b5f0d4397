# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen on made-up hosts, and what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._driver import faults, look, plan, state

STATUS = """Package: libcuda1
Status: hold ok installed
Version: 580.159.04-1

Package: nvidia-modprobe
Status: install ok half-configured
Version: 580.159.03-1

Package: nvidia-smi
Status: deinstall ok config-files
Version: 550.163.01-2

Package: bash
Status: install ok installed
Version: 5.2
"""


def write(root: Path, path: str, text: str = "") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def kernel(root: Path, release: str, module: str = "") -> None:
    write(root, f"boot/vmlinuz-{release}")
    write(root, f"lib/modules/{release}/modules.dep")
    if module:
        write(root, f"lib/modules/{release}/updates/dkms/{module}")


class Programs:
    """Answers of programs, by how their command lines begin."""

    def __init__(self, **answers: str) -> None:
        self.answers = {name.replace("_", "-"): text for name, text in answers.items()}
        self.called: list[str] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        self.called.append(" ".join(command))
        text = self.answers.get(command[0])
        return (127, "not found") if text is None else (0, text)


def test_packages(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/dpkg/status", STATUS)
    assert look.dpkg(str(tmp_path)) == {
        "libcuda1": {"version": "580.159.04-1", "held": True, "complete": True},
        "nvidia-modprobe": {"version": "580.159.03-1", "held": False, "complete": False},
    }


def test_kernels_by_age_with_their_modules(tmp_path: Path) -> None:
    kernel(tmp_path, "6.1.0-41-amd64", "nvidia.ko.xz")
    kernel(tmp_path, "6.1.0-9-amd64", "nvidia-current.ko")
    kernel(tmp_path, "6.12.0-1-amd64")
    write(tmp_path, "boot/vmlinuz-gone")
    found = look.kernels(str(tmp_path))
    assert [found["release"] for found in found] == ["6.1.0-9-amd64", "6.1.0-41-amd64", "6.12.0-1-amd64"]
    assert [os.path.basename(one["module"]) for one in found] == ["nvidia-current.ko", "nvidia.ko.xz", ""]


@pytest.mark.parametrize(("content", "on"), [(b"\6\0\0\0\1", True), (b"\6\0\0\0\0", False), (b"", False)])
def test_secure_boot(tmp_path: Path, content: bytes, on: bool) -> None:
    write(tmp_path, look.EFI_SECURE_BOOT).write_bytes(content)
    assert look.secure_boot(str(tmp_path)) is on


def test_gpus_and_what_they_are(tmp_path: Path) -> None:
    for address, kind, device in (("0000:3b:00.0", "0x030200", "0x2330"), ("0000:05:00.0", "0x068000", "0x22a3")):
        write(tmp_path, f"sys/bus/pci/devices/{address}/vendor", "0x10de\n")
        write(tmp_path, f"sys/bus/pci/devices/{address}/class", f"{kind}\n")
        write(tmp_path, f"sys/bus/pci/devices/{address}/device", f"{device}\n")
    assert look.gpus(str(tmp_path)) == [{"address": "0000:3b:00", "device": "0x2330"}]


def test_everything_of_a_bare_host(tmp_path: Path) -> None:
    found = look.everything(
        Programs(rpm="nvidia-driver-cuda 3:580.159.04-1.el9\nbash 5-1\n"), "6.0", "x86_64", str(tmp_path)
    )
    assert found["packages"]["nvidia-driver-cuda"]["version"] == "3:580.159.04-1.el9"
    assert (found["managed"], found["containers"], found["docker"], found["gpus"]) == ("", None, None, [])
    assert faults.faults(found) == {}


def test_initial_file_system_older_than_what_keeps_nouveau_out(tmp_path: Path) -> None:
    image = write(tmp_path, "boot/initrd.img-6.1.0-41-amd64")
    assert not look.initramfs_stale(str(tmp_path))
    write(tmp_path, look.NOUVEAU_BLACKLIST)
    os.utime(image, (1, 1))
    assert look.initramfs_stale(str(tmp_path))
    os.utime(image)
    assert not look.initramfs_stale(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, {}), ("{}", {}), ('{"features": {"cdi": true}}', {"features": {"cdi": True}}), ("[", None)],
)
def test_configuration_of_docker(tmp_path: Path, text: str | None, expected: Any) -> None:
    write(tmp_path, "etc/docker/key.json")
    if text is not None:
        write(tmp_path, "etc/docker/daemon.json", text)
    assert look.docker(str(tmp_path)) == expected


@pytest.mark.parametrize(("answer", "count"), [({"docker": "1f0\n2a1\n"}, 2), ({"docker": ""}, 0), ({}, None)])
def test_containers(tmp_path: Path, answer: dict[str, str], count: int | None) -> None:
    assert look.containers(Programs(**answer), str(tmp_path)) is None
    write(tmp_path, "run/docker.sock")
    assert look.containers(Programs(**answer), str(tmp_path)) == count


POLICY = """libcuda1:
  Installed: (none)
  Candidate: 580.159.04-1
  Version table:
     590.48.01-1 -1
nvidia-old:
  Installed: (none)
  Candidate: (none)
"""
SIMULATED = """Inst libcuda1 [575.57.08-1] (580.159.04-1 NVIDIA: [all])
Remv nvidia-kernel-dkms [575.57.08-1]
Inst dkms (3.0.10-8 Debian:12 [all])
Conf libcuda1 (580.159.04-1 NVIDIA: [all])
"""


def test_transaction() -> None:
    run = Programs(apt_cache=POLICY, apt_get=SIMULATED)
    found = look.transaction(run, ["libcuda1"], ["nvidia-old"])
    assert found["install"] == {"libcuda1": "580.159.04-1", "dkms": "3.0.10-8"}
    assert found["remove"] == ["nvidia-kernel-dkms"]
    assert run.called[-1].startswith("apt-get --simulate")
    assert run.called[-1].endswith("install libcuda1")


def test_transaction_of_what_is_not_offered() -> None:
    found = look.transaction(Programs(apt_cache=POLICY), ["libcuda1", "nvidia-old", "nvidia-never"])
    assert found["unknown"] == ["nvidia-old", "nvidia-never"]


def facts(**changes: Any) -> dict[str, Any]:
    good = {
        "loaded": "580.159.04",
        "library": "580.159.04",
        "libcuda": "580.159.04",
        "managed": "nvidia",
        "nouveau": False,
        "reboot_pending": "",
        "packages": {"libcuda1": {"version": "580.159.04-1", "held": True, "complete": True}},
        "kernels": [{"release": "6.1.0-41-amd64", "module": "/nvidia.ko"}],
        "modules": {"6.1.0-41-amd64": "580.159.04"},
    }
    return {**good, **changes}


OFF = {
    "libcuda1": {"version": "580.159.04-1", "held": True, "complete": True},
    "nvidia-fabricmanager": {"version": "580.159.03-1", "held": True, "complete": True},
}
HALF = {"libcuda1": {"version": "580.159.04-1", "held": False, "complete": False}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {}),
        ({"loaded": "", "library": "", "libcuda": "", "packages": {}, "kernels": []}, {}),
        (
            {"loaded": "575.57.08"},
            {"out_of_step": "(575.57.08 is loaded, the library is 580.159.04): reboot by ansible-playbook"},
        ),
        (
            {"reboot_pending": "nouveau is loaded"},
            {"reboot_pending": "the host waits for a reboot (nouveau is loaded): reboot by ansible-playbook"},
        ),
        (
            {"packages": OFF},
            {"mixed_versions": "of several versions (nvidia-fabricmanager 580.159.03 and libcuda1 580.159.04)"},
        ),
        ({"packages": HALF}, {"half_installed": "libcuda1 is installed in part: run dpkg --configure -a"}),
        (
            {"kernels": [{"release": "6.1.0-41-amd64", "module": "/x"}, {"release": "6.1.0-42-amd64", "module": ""}]},
            {"module_missing": "the kernel 6.1.0-42-amd64 is installed without the NVIDIA module, and a boot into it"},
        ),
        # The running kernel of a container, or modules built into an image: nothing is known of them.
        ({"kernels": [{"release": "6.1.0-41-amd64", "module": ""}], "managed": ""}, {}),
        (
            {"libcuda": "590.48.01", "reboot_pending": "the same"},
            {"out_of_step": "(580.159.04 is loaded, the library is 590.48.01): reboot by"},
        ),
    ],
)
def test_faults(changes: dict[str, Any], told: dict[str, str]) -> None:
    found = faults.faults(facts(**changes))
    assert list(found) == list(told)
    assert set(found) <= set(faults.KINDS)
    assert all(sentence in found[kind] for kind, sentence in told.items())


def test_module_of_another_version_than_the_packages() -> None:
    made = plan.Plan(source="nvidia", reason="", branch="580")
    assert state.after_install(facts(), made, "", check_modules=True) == []
    old = facts(modules={"6.1.0-41-amd64": "575.57.08"})
    [problem] = state.after_install(old, made, "", check_modules=True)
    assert "the module of kernel 6.1.0-41-amd64 is 575.57.08, and the packages are 580.159.04" in problem
    assert state.after_install(old, made, "", check_modules=False) == []
    assert (
        "where nvidia_driver_branch is 590"
        in state.after_install(facts(), plan.Plan("nvidia", "", "590"), "", check_modules=True)[0]
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"loaded": ""}, ""),
        ({"nouveau": True, "loaded": ""}, "nouveau is loaded in the place of NVIDIA's module"),
        ({"loaded": "575.57.08"}, "driver 575.57.08 is loaded, and 580.159.04 is installed"),
        ({"loaded": "575.57.08", "packages": {}}, "driver 575.57.08 is loaded, and the library is 580.159.04"),
    ],
)
def test_reason_to_reboot(changes: dict[str, Any], reason: str) -> None:
    assert state.reboot_reason(facts(**changes)) == reason


def test_what_the_role_has_set_up(tmp_path: Path) -> None:
    assert look.files(str(tmp_path))["managed"] == ""
    write(tmp_path, look.STATE, json.dumps({"source": "distro"}))
    write(tmp_path, look.MARKER, "driver 575.57.08 is loaded\n")
    found = look.files(str(tmp_path))
    assert (found["managed"], found["reboot_pending"]) == ("distro", "driver 575.57.08 is loaded")
    write(tmp_path, look.STATE, "[")
    assert look.files(str(tmp_path))["managed"] == ""


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (
            "ExecStart=/usr/bin/nvidia-persistenced --user nvpd --no-persistence-mode\n",
            "/usr/bin/nvidia-persistenced --user nvpd --persistence-mode",
        ),
        ("ExecStart=/usr/bin/nvidia-persistenced --user nvpd\n", ""),
    ],
)
def test_unit_that_leaves_persistence_off(tmp_path: Path, unit: str, expected: str) -> None:
    write(tmp_path, "lib/systemd/system/nvidia-persistenced.service", unit)
    assert look.persistenced(str(tmp_path)) == expected
