# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks that NVML answers, that nvidia-smi answers in its place, and that nobody answers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child, nvml
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver, Gpu, Node
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.look import look, read, unanswered
from ansible_collections.inferops.vllm.plugins.module_utils._serving import process
from doubles.nvml import fake

# Test runners have threads of their own.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

LONG_SECONDS = 60.0
BOOT_ID = "5eed0000-1111-4222-8333-444455556666"
ANSWER = Node(
    source="nvml",
    driver=Driver(library="580.95.05", cuda="13.0"),
    gpus=(Gpu(0, uuid="GPU-0", pci_address="0000:19:00", clock_event_reasons=("idle",), processes=()),),
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where alone programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(child, "SYSTEM_FOLDERS", ())
    return folder


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A host with two GPUs, whose driver is 580.95.05."""
    folder = tmp_path / "root"
    files = {
        "sys/module/nvidia/version": "580.95.05\n",
        "proc/sys/kernel/random/boot_id": f"{BOOT_ID}\n",
        "sys/bus/pci/devices/0000:19:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:19:00.0/class": "0x030200\n",
        "sys/bus/pci/devices/0000:b3:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:b3:00.0/class": "0x030200\n",
        "sys/bus/pci/devices/0000:c0:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:c0:00.0/class": "0x068000\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def install(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def link_library(root: str, version: str) -> None:
    folder = Path(root, "usr/lib")
    folder.mkdir(parents=True)
    (folder / f"libnvidia-ml.so.{version}").touch()
    (folder / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{version}")


def answers(monkeypatch: pytest.MonkeyPatch, node: Node) -> None:
    """Of NVML, in the child, which is a copy of this process."""
    monkeypatch.setattr(nvml, "load", lambda: None)
    monkeypatch.setattr(nvml, "read", lambda _module: node)


def fails(monkeypatch: pytest.MonkeyPatch, function: Callable[[], Any]) -> None:
    monkeypatch.setattr(nvml, "load", function)


def no_module() -> NoReturn:
    raise nvml.Unusable("pynvml cannot be imported: No module named 'pynvml'")


@pytest.mark.usefixtures("programs")
def test_nvml(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    answers(monkeypatch, ANSWER)
    before = time.monotonic()
    node = look(LONG_SECONDS, root)
    assert (node.source, node.fallback, node.error, node.code, node.unresponsive) == ("nvml", "", "", None, False)
    assert node.gpus == ANSWER.gpus
    assert node.driver == Driver(loaded="580.95.05", library="580.95.05", cuda="13.0")
    assert (node.pci_addresses, node.nvswitches, node.boot_id) == (("0000:19:00", "0000:b3:00"), 1, BOOT_ID)
    assert before <= node.at <= time.monotonic()


def test_nvidia_smi_is_not_asked_beside_nvml(monkeypatch: pytest.MonkeyPatch, programs: Path, root: str) -> None:
    answers(monkeypatch, ANSWER)
    install(programs, "nvidia-smi", f"/bin/touch {programs}/asked")
    assert look(LONG_SECONDS, root).source == "nvml"
    assert not (programs / "asked").exists()


@pytest.mark.parametrize(
    ("error", "code"), [("NVML: driver not loaded", 9), ("NVML: GPU is lost", 15), ("NVML: unknown error", 999)]
)
def test_nvidia_smi_would_fail_too(
    monkeypatch: pytest.MonkeyPatch, programs: Path, root: str, error: str, code: int
) -> None:
    answers(monkeypatch, Node(error=error, code=code))
    install(programs, "nvidia-smi", f"/bin/touch {programs}/asked")
    node = look(LONG_SECONDS, root)
    assert (node.source, node.fallback, node.error, node.code) == ("", "", error, code)
    assert not (programs / "asked").exists()


def test_module_is_missing(monkeypatch: pytest.MonkeyPatch, programs: Path, root: str) -> None:
    fails(monkeypatch, no_module)
    install(programs, "nvidia-smi", f"/bin/cat {fake.REAL_XML}")
    node = look(LONG_SECONDS, root)
    assert (node.source, node.error, node.code) == ("nvidia-smi", "", None)
    assert node.fallback == "pynvml cannot be imported: No module named 'pynvml'"
    assert [gpu.pci_address for gpu in node.gpus] == ["0000:00:06", "0000:00:07"]
    assert (node.driver.library, node.driver.loaded) == ("580.159.04", "580.95.05")


@pytest.mark.parametrize(
    ("error", "code"),
    [("NVML: library not found", 12), ("NVML: function not found", 13), ("NVML: OSError: not a library", None)],
)
def test_library_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, programs: Path, root: str, error: str, code: int | None
) -> None:
    answers(monkeypatch, Node(error=error, code=code))
    install(programs, "nvidia-smi", f"/bin/cat {fake.REAL_XML}")
    node = look(LONG_SECONDS, root)
    assert (node.source, node.fallback, node.error, node.code) == ("nvidia-smi", error, "", None)


@pytest.mark.usefixtures("programs")
def test_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    answers(monkeypatch, Node(error="NVML: library not found", code=12))
    node = look(LONG_SECONDS, root)
    assert (node.source, node.fallback) == ("", "NVML: library not found")
    assert (node.error, node.code) == ("nvidia-smi is not installed", 12)


def test_both_fail(monkeypatch: pytest.MonkeyPatch, programs: Path, root: str) -> None:
    fails(monkeypatch, no_module)
    install(programs, "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    node = look(LONG_SECONDS, root)
    assert node.fallback.startswith("pynvml cannot be imported")
    assert node.error == "nvidia-smi: Failed to initialize NVML: Driver/library version mismatch"
    assert node.code == 18


@pytest.mark.usefixtures("programs")
def test_driver_was_exchanged(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """What NVML refuses to tell, files do."""
    answers(monkeypatch, Node(error="NVML: driver and library are of different versions", code=18))
    link_library(root, "580.159.04")
    node = look(LONG_SECONDS, root)
    assert node.driver == Driver(loaded="580.95.05", library="580.159.04")
    assert node.driver.mismatch


def test_driver_on_disk(monkeypatch: pytest.MonkeyPatch, programs: Path, root: str) -> None:
    answers(monkeypatch, ANSWER)
    install(programs, "modinfo", "echo 580.159.04")
    node = look(LONG_SECONDS, root)
    assert node.driver == Driver("580.95.05", "580.159.04", "580.95.05", "13.0")
    assert node.driver.mismatch


@pytest.mark.parametrize("asked", ["nvml", "nvidia-smi", "modinfo"])
def test_driver_that_hangs(monkeypatch: pytest.MonkeyPatch, programs: Path, root: str, asked: str) -> None:
    answers(monkeypatch, ANSWER)
    if asked == "nvml":
        fails(monkeypatch, lambda: time.sleep(LONG_SECONDS))
    elif asked == "nvidia-smi":
        fails(monkeypatch, no_module)
    install(programs, asked, f"trap '' TERM; exec /bin/sleep {LONG_SECONDS}")
    link_library(root, "580.95.05")
    started = time.monotonic()
    node = look(0.3, root)
    assert time.monotonic() - started < LONG_SECONDS / 2
    assert (node.source, node.unresponsive, node.error) == ("", True, "no answer from the GPUs in 0.3 s")
    assert node.driver == Driver(loaded="580.95.05", library="580.95.05")
    assert (node.pci_addresses, node.boot_id, node.gpus) == (("0000:19:00", "0000:b3:00"), BOOT_ID, ())
    assert node.at >= started


@pytest.mark.usefixtures("programs")
def test_earlier_look_hangs(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    answers(monkeypatch, ANSWER)
    monkeypatch.setattr(child, "stuck", lambda: [4242])
    node = look(LONG_SECONDS, root)
    assert (node.source, node.unresponsive, node.gpus) == ("", True, ())
    assert node.error.endswith("hangs on in process 4242")


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "the child was killed: Segmentation fault"),
        (lambda: os._exit(1), "the child ended with exit code 1"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_child_fails(monkeypatch: pytest.MonkeyPatch, root: str, function: Callable[[], Any], error: str) -> None:
    fails(monkeypatch, function)
    node = look(LONG_SECONDS, root)
    assert (node.source, node.unresponsive, node.error) == ("", False, error)
    assert node.driver.loaded == "580.95.05"


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["0000:19:00", None], ["0000:19:00", "0000:b3:00"]),
        ([None, "0000:b3:00"], ["0000:19:00", "0000:b3:00"]),
        ([None, None], ["0000:19:00", "0000:b3:00"]),
        # More are on the bus than are counted, so there is no telling which this is.
        ([None], [None]),
        ([None, "0000:d0:00"], [None, "0000:d0:00"]),
    ],
)
def test_place_of_a_lost_gpu(
    monkeypatch: pytest.MonkeyPatch, root: str, told: list[str | None], expected: list[str | None]
) -> None:
    lost = {"errors": {"pci_address": "GPU is lost"}, "lost": True}
    gpus = [Gpu(index, **({"pci_address": address} if address else lost)) for index, address in enumerate(told)]
    answers(monkeypatch, Node(source="nvml", gpus=tuple(gpus)))
    found = look(LONG_SECONDS, root).gpus
    assert [gpu.pci_address for gpu in found] == expected
    assert [bool(gpu.errors) for gpu in found] == [address is None for address in expected]


@pytest.mark.usefixtures("programs")
def test_by_hand(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """As the agent does, which has other things to do meanwhile."""
    answers(monkeypatch, ANSWER)
    looking = child.Child(read, root)
    while not looking.poll():
        time.sleep(0.005)
    node = Node.from_json(looking.result())
    assert (node.source, node.driver.loaded) == ("nvml", "580.95.05")
    node = unanswered(child.Unresponsive("no answer"), root)
    assert (node.error, node.unresponsive, node.driver.loaded) == ("no answer", True, "580.95.05")


def test_here() -> None:
    """Whatever is here, it is told and not raised."""
    node = look(LONG_SECONDS)
    assert node.boot_id == process.boot_id()
    assert node.source or node.error
