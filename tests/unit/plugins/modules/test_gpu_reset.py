# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gpu_reset refuses, stops, resets and proves, and that the services start again whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import (
    DRIVER_NOT_LOADED,
    VERSION_MISMATCH,
    Driver,
    Gpu,
    Node,
)
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.reset import Holder, Ledger
from ansible_collections.inferops.vllm.plugins.module_utils._health.lock import Lock
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit
from ansible_collections.inferops.vllm.plugins.modules import gpu_reset
from doubles.nvml import fake

UUID = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "GPU-66666666-7777-8888-9999-000000000000"
ADDRESSES = ("0000:19:00", "0000:5e:00")
SHOWN = f"GPU 0 ({UUID})"
UNIT = "vllm@tiny.service"
SICK = Gpu(
    0,
    UUID,
    name="NVIDIA H100 80GB HBM3",
    pci_address=ADDRESSES[0],
    recovery_action="gpu_reset",
    remap_pending=True,
    ecc_uncorrected_volatile=2,
    fabric_state="completed",
)
SOUND = replace(SICK, recovery_action="none", remap_pending=False, ecc_uncorrected_volatile=0)
NEIGHBOUR = Gpu(1, OTHER, pci_address=ADDRESSES[1], recovery_action="none", remap_pending=False)
DRIVER = Driver("580.95.05", "580.95.05", "580.95.05", "13.0")
ENGINE = Holder(42, "VLLM::EngineCor", 990, UNIT, ("/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"))
DAEMON = Holder(7, "nvidia-persiste", 0, "nvidia-persistenced.service", ("/dev/nvidia0", "/dev/nvidia1"))
MONITOR = Holder(43, "nv-hostengine", 0, "nvidia-dcgm.service", ("/dev/nvidia0",))
SYSTEMCTL = """\
#!/bin/sh
cd {folder}/units
echo "$*" >>../calls
verb=$1
shift
[ -e ../$verb.fails ] && {{ cat ../$verb.fails >&2; exit 1; }}
for unit; do
  case $unit in -*) continue ;; esac
  if [ $verb = show ]; then
    echo "Id=$unit"
    [ -e $unit ] && echo LoadState=loaded || echo LoadState=not-found
    echo "ActiveState=$(cat $unit 2>/dev/null || echo inactive)"
    echo
  elif [ $verb = stop ]; then
    [ -e ../stuck ] && echo deactivating >$unit || echo inactive >$unit
  elif [ $verb = start ]; then
    echo active >$unit
  fi
done
"""
NVIDIA_SMI = """\
#!/bin/sh
echo "nvidia-smi $*" >>{folder}/calls
{script}
"""
DONE = "touch {folder}/reset; echo 'GPU 00000000:19:00.0 was successfully reset.'"
IN_USE = "echo 'GPU 00000000:19:00.0: In use by another client'; exit 255"


class Host:
    """A host with two GPUs, a server on the first of them, and systemd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = str(folder / "state")
        self.node = Node("nvml", driver=DRIVER, gpus=(SICK, NEIGHBOUR), pci_addresses=ADDRESSES)
        self.after: Gpu | None = SOUND
        self.then = self.node
        """What else is seen after a reset."""
        self.found = [ENGINE, DAEMON]
        self.marked: list[str] = []
        (folder / "units").mkdir()
        (folder / "bin").mkdir()
        self.install("systemctl", SYSTEMCTL)
        self.install("nvidia-smi", NVIDIA_SMI, DONE)
        for unit, state in ((UNIT, "active"), ("nvidia-dcgm.service", "active"), ("idle.service", "inactive")):
            (folder / "units" / unit).write_text(f"{state}\n")

    def install(self, name: str, program: str, script: str = "") -> None:
        path = self.folder / "bin" / name
        path.write_text(program.format(folder=self.folder, script=script.format(folder=self.folder)))
        path.chmod(0o755)

    def smi(self, script: str) -> None:
        self.install("nvidia-smi", NVIDIA_SMI, script)

    def fails(self, verb: str, words: str) -> None:
        (self.folder / f"{verb}.fails").write_text(words)

    def state(self, unit: str) -> str:
        return (self.folder / "units" / unit).read_text().strip()

    @property
    def calls(self) -> list[str]:
        """Of systemctl and nvidia-smi, but those that only ask."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith("show ")]

    def look(self, _seconds: float) -> Node:
        if not (self.folder / "reset").exists():
            return self.node
        gpus = tuple(gpu for gpu in (self.after, *self.then.gpus[1:]) if gpu)
        return replace(self.then, gpus=gpus if self.then.source else ())

    def holders(self) -> list[Holder]:
        """Of a unit, for as long as that runs."""
        return [
            holder
            for holder in self.found
            if holder.unit not in os.listdir(self.folder / "units") or self.state(holder.unit) == "active"
        ]

    def mark(self, uuid: str) -> str:
        self.marked.append(uuid)
        return ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(child, "stuck", list)
    monkeypatch.setattr(gpu_reset, "look", made.look)
    monkeypatch.setattr(gpu_reset, "see_holders", made.holders)
    monkeypatch.setattr(gpu_reset, "device", lambda address: f"/dev/nvidia{ADDRESSES.index(address)}")
    monkeypatch.setattr(gpu_reset, "mark", made.mark)
    monkeypatch.setattr(gpu_reset, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(gpu_reset, "VERIFY_SECONDS", 0)
    monkeypatch.setattr(gpu_reset, "POLL_SECONDS", 0.01)
    return made


@pytest.fixture
def reset(call, host):
    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        defaults = {"gpus": [0], "services": [UNIT], "release_timeout_seconds": 1, "state_dir": host.state_dir}
        return call(gpu_reset, check, **{**defaults, **arguments})

    return run


def resets(host: Host) -> int:
    return Ledger(host.state_dir).count(UUID)


class TestDone:
    def test_what_is_done_and_told(self, reset, host):
        result = reset()
        assert not result.get("failed"), result
        assert result["changed"] is True
        assert host.calls == [
            f"stop --no-block {UNIT}",
            f"nvidia-smi --gpu-reset -i {UUID}",
            f"reset-failed {UNIT}",
            f"start {UNIT}",
        ]
        (gpu,) = result["gpus"]
        assert (gpu["index"], gpu["uuid"], gpu["name"]) == (0, UUID, "NVIDIA H100 80GB HBM3")
        assert (gpu["before"]["recovery_action"], gpu["before"]["remap_pending"]) == ("gpu_reset", True)
        assert gpu["after"] == {
            "recovery_action": "none",
            "reset_required": False,
            "lost": False,
            "remap_pending": False,
            "pages_pending": None,
            "ecc_uncorrected_volatile": 0,
        }
        assert (gpu["resets_within_a_day"], gpu["quarantined"]) == (1, False)
        assert [holder["pid"] for holder in result["holders"]] == [42, 7]
        assert result["holders"][0]["unit"] == UNIT
        assert result["services"] == [{"name": UNIT, "state": "active", "stopped": True, "started": True}]
        assert result["words"] == "GPU 00000000:19:00.0 was successfully reset."
        assert result["diff"] == {"before": {"GPU 0": gpu["before"]}, "after": {"GPU 0": gpu["after"]}}
        assert host.marked == [UUID]
        assert resets(host) == 1

    def test_several_by_index_and_uuid(self, reset, host):
        result = reset(gpus=[UUID, "1", 0])
        assert f"nvidia-smi --gpu-reset -i {UUID},{OTHER}" in host.calls
        assert [gpu["index"] for gpu in result["gpus"]] == [0, 1]
        assert host.marked == [UUID, OTHER]

    def test_no_service_is_named_and_none_is_needed(self, reset, host):
        host.found = [DAEMON]
        result = reset(services=[])
        assert (result["changed"], result["services"]) == (True, [])
        assert host.calls == [f"nvidia-smi --gpu-reset -i {UUID}"]

    def test_holder_of_another_gpu_is_left_alone(self, reset, host):
        host.found = [ENGINE, replace(MONITOR, devices=("/dev/nvidia1",))]
        assert not reset().get("failed")
        assert host.state("nvidia-dcgm.service") == "active"

    def test_service_that_does_not_run_is_left_alone(self, reset, host):
        result = reset(services=[UNIT, "idle.service"])
        assert result["services"][1] == {
            "name": "idle.service",
            "state": "inactive",
            "stopped": False,
            "started": False,
        }
        assert host.state("idle.service") == "inactive"

    def test_gpu_that_tells_nothing_of_itself(self, reset, host):
        host.node = replace(host.node, gpus=(Gpu(0, reset_required=True), NEIGHBOUR))
        result = reset()
        assert not result.get("failed"), result
        assert "nvidia-smi --gpu-reset -i 0000:19:00.0" in host.calls
        assert (host.marked, result["gpus"][0]["after"]["reset_required"]) == ([UUID], False)

    def test_gpu_that_tells_nothing_and_cannot_be_placed(self, reset, host, monkeypatch):
        monkeypatch.setattr(gpu_reset, "device", lambda _address: "")
        host.node = replace(host.node, gpus=(Gpu(0, reset_required=True), NEIGHBOUR), pci_addresses=())
        host.then = host.node
        assert not reset().get("failed")
        assert "nvidia-smi --gpu-reset -i 0" in host.calls

    def test_who_only_looks_is_waited_for(self, reset, host, monkeypatch):
        monkeypatch.setattr(gpu_reset, "SETTLE_SECONDS", 20)
        seen = [[MONITOR, ENGINE], [MONITOR, ENGINE]]
        monkeypatch.setattr(gpu_reset, "see_holders", lambda: seen.pop(0) if seen else host.holders())
        assert not reset().get("failed")

    def test_fabric_is_waited_for(self, reset, host, monkeypatch):
        monkeypatch.setattr(gpu_reset, "VERIFY_SECONDS", 20)
        joining = [host.node, *[replace(host.node, gpus=(replace(SOUND, fabric_state="in_progress"),))] * 2]
        monkeypatch.setattr(gpu_reset, "look", lambda _seconds: joining.pop(0) if joining else host.look(0))
        assert not reset().get("failed")
        assert not joining

    def test_refusal_that_passes(self, reset, host):
        host.smi(f"[ -e {{folder}}/once ] || {{{{ touch {{folder}}/once; {IN_USE}; }}}}; {DONE}".replace("{{{{", "{{"))
        result = reset()
        assert not result.get("failed"), result
        assert sum(line.startswith("nvidia-smi") for line in host.calls) == 2
        assert resets(host) == 1, "the refusal was none"


class Keeper:
    """A runtime that has the instances `tiny`, which runs, and `idle`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.states = {"tiny": "running", "idle": "stopped"}
        self.refusal = ""

    async def kept(self) -> dict[str, bool]:
        return dict.fromkeys(self.states, True)

    async def units(self, names: list[str]) -> dict[str, Unit]:
        return {name: Unit(self.states[name]) for name in names}

    async def stop(self, name: str) -> None:
        self._told(f"stop {name}")
        self.states[name] = "stopped"
        self.host.found = [holder for holder in self.host.found if holder.pid != ENGINE.pid]

    async def keep(self, name: str) -> None:
        if self.refusal:
            raise CommandFailed(self.refusal)
        self._told(f"keep {name}")
        self.states[name] = "running"

    def _told(self, words: str) -> None:
        with open(self.host.folder / "calls", "a", encoding="utf-8") as stream:
            stream.write(f"{words}\n")


class Nobody:
    """A runtime that the host has not."""

    async def kept(self) -> dict[str, bool]:
        return {}


@pytest.mark.usefixtures("keeper")
class TestInstances:
    """Those of a runtime under which no holder has a unit of its own."""

    @pytest.fixture
    def keeper(self, host, tmp_path, monkeypatch):
        host.found = [replace(ENGINE, unit="vllm-supervisord.service"), DAEMON]
        for name in ("tiny", "idle"):
            # As their configuration has it they are to move to another runtime.
            described = Instance(name, 8000, name, "vllm", "/opt/vllm", config_dir=str(tmp_path))
            (tmp_path / f"{name}.json").write_text(described.dump())
        made = Keeper(host)
        monkeypatch.setattr(gpu_reset.runtime, "named", lambda name: made if name == "supervisor" else Nobody())
        monkeypatch.setattr(gpu_reset.process, "belongs_to", lambda pid, name: (pid, name) == (ENGINE.pid, "tiny"))
        return made

    @pytest.fixture
    def reset(self, reset, tmp_path):
        def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
            return reset(
                check, **{"instances": ["tiny", "idle"], "services": [], "config_dir": str(tmp_path), **arguments}
            )

        return run

    def test_are_stopped_and_started_by_what_keeps_them(self, reset, host):
        result = reset()
        assert not result.get("failed"), result
        assert host.calls == ["stop tiny", f"nvidia-smi --gpu-reset -i {UUID}", "keep tiny"]
        assert result["instances"] == [
            {"name": "tiny", "state": "running", "stopped": True, "started": True},
            {"name": "idle", "state": "stopped", "stopped": False, "started": False},
        ]

    def test_are_stopped_with_services(self, reset, host):
        assert not reset(services=["nvidia-dcgm.service"]).get("failed")
        assert host.calls[:2] == ["stop tiny", "stop --no-block nvidia-dcgm.service"]
        assert host.calls[-2:] == ["reset-failed nvidia-dcgm.service", "start nvidia-dcgm.service"]

    def test_are_foretold_in_check_mode(self, reset, host):
        result = reset(check=True)
        assert [(found["name"], found["stopped"]) for found in result["instances"]] == [("tiny", True), ("idle", False)]
        assert host.calls == []

    def test_another_instance_is_no_own_one(self, reset, host):
        assert "while held by VLLM::EngineCor (pid 42" in reset(instances=["idle"])["msg"]
        assert host.calls == []

    def test_that_do_not_start_again(self, reset, keeper):
        keeper.refusal = "no such file"
        assert reset()["msg"] == f"{SHOWN} was reset; tiny did not start again (no such file): start it by hand"

    def test_that_failed_to_be_cured_are_started_again(self, reset, host):
        words = reset_fails(host)
        assert reset()["msg"] == f"{words}; started again: tiny"

    def test_that_are_unknown(self, reset, host):
        assert reset(instances=["other"])["msg"].startswith(
            "instances: names has other, and the instances of this node"
        )
        assert host.calls == []


class TestCheckMode:
    def test_plan(self, reset, host):
        result = reset(check=True, services=[UNIT, "idle.service"])
        assert result["changed"] is True
        assert host.calls == []
        assert not os.path.exists(host.state_dir)
        assert [holder["pid"] for holder in result["holders"]] == [42, 7]
        assert [(unit["name"], unit["stopped"], unit["started"]) for unit in result["services"]] == [
            (UNIT, True, True),
            ("idle.service", False, False),
        ]
        before, after = result["diff"]["before"]["GPU 0"], result["diff"]["after"]["GPU 0"]
        assert (before["remap_pending"], after["remap_pending"]) == (True, False)
        assert (before["pages_pending"], after["pages_pending"]) == (None, None)
        assert (result["gpus"][0]["after"], result["words"]) == (after, "")

    def test_cannot_work(self, reset, host):
        host.found.append(MONITOR)
        result = reset(check=True)
        assert result["failed"]
        assert result["changed"] is False
        assert [holder["pid"] for holder in result["holders"]] == [42, 7, 43]
        assert result["services"] == [{"name": UNIT, "state": "active", "stopped": False, "started": False}]
        assert (result["gpus"][0]["after"], result["diff"]) == (None, {"before": {}, "after": {}})

    def test_while_another_reset_is_under_way(self, reset, host):
        lock = Lock(host.state_dir)
        assert lock.acquire()
        try:
            assert not reset(check=True).get("failed")
        finally:
            lock.release()


def lost(host: Host) -> None:
    host.node = replace(host.node, gpus=(replace(SICK, lost=True), NEIGHBOUR))


def unlisted(host: Host) -> None:
    host.node = replace(host.node, gpus=(replace(NEIGHBOUR, index=1),))


def no_gpu(host: Host) -> None:
    host.node = replace(host.node, gpus=(NEIGHBOUR,), pci_addresses=ADDRESSES[1:])


def mig(host: Host) -> None:
    host.node = replace(host.node, gpus=(replace(SICK, mig_mode=True), NEIGHBOUR))


def wants_reboot(host: Host) -> None:
    host.node = replace(host.node, gpus=(replace(SICK, recovery_action="node_reboot"), NEIGHBOUR))


def quarantined(host: Host) -> None:
    Ledger(host.state_dir).record([UUID, UUID, UUID])


def exchanged(host: Host) -> None:
    host.node = replace(host.node, driver=replace(DRIVER, installed="580.105.08"))


def exchanged_library(host: Host) -> None:
    driver = Driver(loaded="580.95.05")
    host.node = Node(error="driver and library are of different versions", code=VERSION_MISMATCH, driver=driver)


def hanging(host: Host) -> None:
    host.node = Node(error="no answer from the GPUs in 30 s", unresponsive=True)


def no_driver(host: Host) -> None:
    host.node = Node(error="driver not loaded", code=DRIVER_NOT_LOADED)


def no_tool(host: Host) -> None:
    (host.folder / "bin/nvidia-smi").unlink()


def strange_holder(host: Host) -> None:
    host.found += [MONITOR, Holder(44, "python3", 1000, "", ("/dev/nvidia0",))]


def unknown_service(host: Host) -> None:
    (host.folder / f"units/{UNIT}").unlink()


def systemd_that_does_not_answer(host: Host) -> None:
    host.fails("show", "Failed to connect to bus: Connection refused\n")


REFUSALS = [
    (lost, f"{SHOWN} cannot be reset, as it has fallen off the bus: reboot the node"),
    (unlisted, "GPU 0 cannot be reset, as the driver does not list it, and 1 of the host's 2 GPUs fell off the bus:"),
    (no_gpu, f"there is no GPU 0: the GPUs of this host are 1 ({OTHER})"),
    (mig, f"{SHOWN} cannot be reset, as it has MIG on: destroy its instances, and switch MIG off"),
    (wants_reboot, f"{SHOWN} cannot be reset, as the driver asks for node_reboot, which no reset replaces: reboot"),
    (quarantined, f"{SHOWN} cannot be reset, as 3 resets within 24 hours have not cured it: leave it out, and have"),
    (
        exchanged,
        "GPU 0 cannot be reset, as the NVIDIA driver was exchanged under its programs"
        " (580.95.05 is loaded, 580.105.08 is installed, 580.95.05 is the library): reboot the node",
    ),
    (exchanged_library, "the NVIDIA driver was exchanged under its programs (580.95.05 is loaded): reboot the node"),
    (hanging, "GPU 0 cannot be reset, as the NVIDIA driver does not answer (no answer from the GPUs in 30 s): reboot"),
    (no_driver, "GPU 0 cannot be reset, as the GPUs cannot be seen (driver not loaded): see to the driver first"),
    (no_tool, "GPUs can be reset by nvidia-smi alone, and it is not installed: install the driver's tools"),
    (
        strange_holder,
        f"{SHOWN} cannot be reset while held by nv-hostengine (pid 43, nvidia-dcgm.service),"
        " python3 (pid 44, of no unit): stop what is not needed, or name it in instances or its unit in services",
    ),
    (unknown_service, f"services has {UNIT}, which systemd does not know: correct it or leave it out"),
    (systemd_that_does_not_answer, "systemctl show: Failed to connect to bus: Connection refused"),
]


@pytest.mark.parametrize(("prepare", "words"), REFUSALS, ids=[prepare.__name__ for prepare, _words in REFUSALS])
@pytest.mark.parametrize("check", [False, True], ids=["", "check"])
def test_refused_before_anything_changes(reset, host, check, prepare: Callable[[Host], None], words: str):
    prepare(host)
    before = resets(host)
    result = reset(check)
    assert result["failed"]
    assert words in result["msg"]
    assert result["changed"] is False
    assert "started again" not in result["msg"]
    assert (host.calls, host.marked, resets(host)) == ([], [], before)


class TestRefused:
    def test_user_other_than_root(self, reset, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert reset()["msg"] == "GPUs can be reset by root alone: set become to true"

    def test_host_without_systemctl(self, reset, host, monkeypatch):
        (host.folder / "bin/systemctl").unlink()
        monkeypatch.setenv("PATH", f"{host.folder}/bin")
        monkeypatch.setattr(gpu_reset.AnsibleModule, "get_bin_path", lambda _self, name: host.look_up(name))
        monkeypatch.setattr(Host, "look_up", lambda _self, name: name if name == "nvidia-smi" else None, raising=False)
        assert reset()["msg"].startswith("services are named, and this host has no systemctl to stop them")

    def test_holders_that_cannot_be_seen(self, reset, monkeypatch):
        def fail() -> list[Holder]:
            raise child.Unresponsive("no answer from the GPUs in 10 s")

        monkeypatch.setattr(gpu_reset, "see_holders", fail)
        assert reset()["msg"] == (
            f"{SHOWN} cannot be reset, as it cannot be seen who holds it (no answer from the GPUs in 10 s):"
            " reboot the node"
        )

    def test_while_another_reset_is_under_way(self, reset, host):
        lock = Lock(host.state_dir)
        assert lock.acquire()
        try:
            assert reset()["msg"].startswith("another reset is under way on this node")
        finally:
            lock.release()
        assert host.calls == []
        assert not reset().get("failed"), "and the module has released its own"
        assert not reset().get("failed")

    def test_fourth_reset_within_a_day(self, reset, host):
        for number in range(1, 4):
            gpu = reset()["gpus"][0]
            (host.folder / "reset").unlink()
            assert (gpu["resets_within_a_day"], gpu["quarantined"]) == (number, number == 3)
        result = reset()
        assert "3 resets within 24 hours" in result["msg"]
        assert result["gpus"][0]["quarantined"] is True

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"gpus": []}, "gpus is empty: write the index or UUID of each GPU to reset"),
            ({"timeout_seconds": 0}, "timeout_seconds is 0: write 1 or more"),
            ({"release_timeout_seconds": -1}, "release_timeout_seconds is -1: write 1 or more"),
        ],
    )
    def test_wrong_argument(self, reset, host, arguments, words):
        assert reset(**arguments)["msg"] == words
        assert host.calls == []


def stop_fails(host: Host) -> str:
    host.fails("stop", "Failed to stop it: Access denied\n")
    return "systemctl stop: Failed to stop it: Access denied"


def unit_does_not_stop(host: Host) -> str:
    (host.folder / "stuck").touch()
    return f"{SHOWN} was not reset, as after 1 s {UNIT} has not stopped: wait longer with release_timeout_seconds"


def holder_does_not_let_go(host: Host) -> str:
    host.found = [replace(ENGINE, unit="leftover.service")]
    return f"{SHOWN} was not reset, as after 1 s VLLM::EngineCor (pid 42, leftover.service) holds it"


def always_in_use(host: Host) -> str:
    host.smi(IN_USE)
    return f"{SHOWN} could not be reset: nvidia-smi says that it is in use (GPU 00000000:19:00.0: In use by another"


def not_supported(host: Host) -> str:
    host.smi("echo 'Resetting GPU 00000000:19:00.0 is not supported.'; exit 3")
    return f"{SHOWN} could not be reset: nvidia-smi did not do it (Resetting GPU 00000000:19:00.0 is not supported.)"


def reset_fails(host: Host) -> str:
    host.smi("echo 'Unable to reset: Unknown Error'; exit 255")
    return f"{SHOWN} could not be reset: nvidia-smi did not do it (Unable to reset: Unknown Error): reboot the node"


def reset_is_killed(host: Host) -> str:
    host.smi("kill -KILL $$")
    return f"{SHOWN} could not be reset: nvidia-smi did not do it"


def reset_hangs(host: Host) -> str:
    host.smi("trap '' TERM; sleep 60")
    return f"{SHOWN} could not be reset: the driver hangs (no answer from the GPUs in 1 s): reboot the node"


def driver_hangs_after(host: Host) -> str:
    host.then = Node(error="no answer from the GPUs in 30 s", unresponsive=True)
    return f"{SHOWN} was reset, and cannot be seen any more (no answer from the GPUs in 30 s): reboot the node"


def gpu_is_gone(host: Host) -> str:
    host.after = None
    return f"{SHOWN} was reset, and it is no longer there: reboot the node"


def gpu_is_lost(host: Host) -> str:
    host.after = replace(SOUND, lost=True)
    return f"{SHOWN} was reset, and it is lost: reboot the node"


def reset_still_required(host: Host) -> str:
    host.after = Gpu(0, UUID, reset_required=True)
    return f"{SHOWN} was reset, and it still requires a reset: reboot the node"


def nothing_is_cured(host: Host) -> str:
    host.after = SICK
    return f"{SHOWN} was reset, and the driver asks for gpu_reset: reboot the node"


def remap_still_pending(host: Host) -> str:
    host.after = replace(SOUND, remap_pending=True)
    return f"{SHOWN} was reset, and it still has memory to repair: reboot the node"


FAILURES = [
    (stop_fails, 0),
    (unit_does_not_stop, 0),
    (always_in_use, 0),
    (not_supported, 0),
    (reset_fails, 1),
    (reset_is_killed, 1),
    (reset_hangs, 1),
    (driver_hangs_after, 1),
    (gpu_is_gone, 1),
    (gpu_is_lost, 1),
    (reset_still_required, 1),
    (nothing_is_cured, 1),
    (remap_still_pending, 1),
]
"""How a reset fails in the middle, and how many resets that counts for."""


class TestFailure:
    @pytest.mark.parametrize(("prepare", "count"), FAILURES, ids=[prepare.__name__ for prepare, _count in FAILURES])
    def test_services_start_again(self, reset, host, prepare: Callable[[Host], str], count: int):
        words = prepare(host)
        result = reset(timeout_seconds=1 if prepare is reset_hangs else 60)
        assert result["failed"]
        assert words in result["msg"]
        assert result["msg"].endswith(f"; started again: {UNIT}")
        assert host.calls[-2:] == [f"reset-failed {UNIT}", f"start {UNIT}"]
        assert host.state(UNIT) == "active"
        assert result["changed"] is True
        assert result["services"] == [{"name": UNIT, "state": "active", "stopped": True, "started": True}]
        assert host.marked == []
        assert resets(host) == result["gpus"][0]["resets_within_a_day"] == count

    def test_holder_that_comes_while_services_stop(self, reset, host, monkeypatch):
        words = holder_does_not_let_go(host)
        asked = iter([[ENGINE], [ENGINE]])
        monkeypatch.setattr(gpu_reset, "see_holders", lambda: next(asked, None) or host.holders())
        result = reset()
        assert words in result["msg"]
        assert result["msg"].endswith(f"; started again: {UNIT}")

    def test_one_gpu_of_two(self, reset, host):
        host.after = replace(SOUND, remap_pending=True)
        result = reset(gpus=[0, 1])
        assert result["msg"].startswith(f"{SHOWN} was reset, and it still has memory to repair: reboot the node")
        assert host.marked == [OTHER]
        assert [gpu["after"]["remap_pending"] for gpu in result["gpus"]] == [True, False]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal(self, reset, host, number):
        host.smi(f"kill -{int(number)} {os.getpid()}; sleep 60")
        before = signal.getsignal(number)
        result = reset(timeout_seconds=30)
        assert result["msg"] == (
            f"{number.name} has ended this before it was done: look at the GPUs; started again: {UNIT}"
        )
        assert host.state(UNIT) == "active"
        assert resets(host) == 1
        assert signal.getsignal(number) is before

    def test_lost_connection_ends_nothing(self, reset, host):
        host.smi(f"kill -HUP {os.getpid()}; sleep 0.1; {DONE}")
        assert not reset().get("failed")

    def test_error_of_this_module_itself(self, host, monkeypatch, call):
        def fail(*_arguments: Any) -> Any:
            raise RuntimeError("a mistake")

        monkeypatch.setattr(gpu_reset, "reset", fail)
        with pytest.raises(RuntimeError, match="a mistake"):
            call(gpu_reset, gpus=[0], services=[UNIT], state_dir=host.state_dir)
        assert host.state(UNIT) == "active"

    def test_service_that_does_not_start_again(self, reset, host):
        host.fails("start", "Job for it failed.\n")
        result = reset()
        assert result["msg"] == (
            f"{SHOWN} was reset; {UNIT} did not start again (systemctl start: Job for it failed.): start it by hand"
        )
        assert result["services"] == [{"name": UNIT, "state": "active", "stopped": True, "started": False}]
        assert host.marked == [UUID]

    def test_neither_reset_nor_started_again(self, reset, host):
        words = reset_fails(host)
        host.fails("start", "Job for it failed.\n")
        host.fails("reset-failed", "no\n")
        result = reset()
        assert result["msg"].startswith(words)
        assert f"; {UNIT} did not start again (systemctl start: Job for it failed.)" in result["msg"]

    def test_systemctl_that_vanishes(self, reset, monkeypatch):
        real = gpu_reset.AnsibleModule.run_command

        def run_command(self: Any, command: list[str], **words: Any) -> Any:
            if command[1] == "stop":
                raise FileNotFoundError(2, "No such file or directory")
            return real(self, command, **words)

        monkeypatch.setattr(gpu_reset.AnsibleModule, "run_command", run_command)
        result = reset()
        assert result["msg"] == (f"systemctl stop cannot be run: No such file or directory; started again: {UNIT}")

    @pytest.fixture
    def warnings(self, monkeypatch):
        """Not those of the result, where Ansible tells each only once in a process."""
        found: list[str] = []
        monkeypatch.setattr(gpu_reset.AnsibleModule, "warn", lambda _module, warning: found.append(warning))
        return found

    def test_what_cannot_be_written_down(self, reset, tmp_path, warnings):
        (tmp_path / "file").touch()
        result = reset(state_dir=f"{tmp_path}/file")
        assert not result.get("failed"), result
        assert any("this reset is not counted" in warning for warning in warnings)
        assert any("earlier resets are forgotten" in warning for warning in warnings)

    def test_line_that_cannot_be_written(self, reset, monkeypatch, warnings):
        monkeypatch.setattr(gpu_reset, "mark", lambda _uuid: "/dev/kmsg: Permission denied, and logger: none")
        result = reset()
        assert not result.get("failed")
        assert any("health checks are not told of the reset of" in warning for warning in warnings)


PROGRAM = """
import json, os, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.reset import mark
from ansible_collections.inferops.vllm.plugins.modules import gpu_reset

os.geteuid = lambda: 0
child.stuck = list
gpu_reset.mark = lambda uuid: mark(uuid, sys.argv[2])
gpu_reset.VERIFY_SECONDS = gpu_reset.POLL_SECONDS = 0.1
with patch_module_args(json.loads(sys.argv[1])):
    gpu_reset.main()
"""


class Fake:
    """The module as a process of its own, on a host whose driver is the fake one."""

    def __init__(self, host: Host, folder: Path, scenario: str) -> None:
        self.host = host
        self.scenario = fake.scenario(scenario, host.folder)
        self.kmsg = host.folder / "kmsg"
        self.kmsg.touch()
        (host.folder / "bin/nvidia-smi").unlink()
        self._environment = fake.environment(folder, self.scenario)
        self._environment["PYTHONPATH"] = os.pathsep.join(sys.path)

    def reset(self, **arguments: Any) -> dict[str, Any]:
        wanted = {"gpus": [1], "services": [UNIT], "release_timeout_seconds": 1, "state_dir": self.host.state_dir}
        command = [sys.executable, "-c", PROGRAM, json.dumps({**wanted, **arguments}), str(self.kmsg)]
        ended = subprocess.run(
            command,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not ended.stderr
        return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.build(tmp_path_factory.mktemp("fake"))


class TestFakeDriver:
    def test_pending_remap_is_gone(self, host, driver):
        made = Fake(host, driver, "remap_pending")
        result = made.reset()
        assert not result.get("failed"), result
        (gpu,) = result["gpus"]
        assert (gpu["before"]["remap_pending"], gpu["after"]["remap_pending"]) == (True, False)
        assert result["words"] == "GPU 00000000:43:00.0 was successfully reset."
        assert made.kmsg.read_text() == f"<5>GPU reset occurred: {gpu['uuid']}\n"
        assert host.calls == [f"stop --no-block {UNIT}", f"reset-failed {UNIT}", f"start {UNIT}"]
        assert made.reset(gpus=[gpu["uuid"]])["gpus"][0]["resets_within_a_day"] == 2

    def test_gpu_that_requires_a_reset(self, host, driver):
        result = Fake(host, driver, "reset_required").reset()
        assert not result.get("failed"), result
        assert (result["gpus"][0]["before"]["reset_required"], result["gpus"][0]["after"]["reset_required"]) == (
            True,
            False,
        )

    def test_held_by_a_process_that_is_not_seen(self, host, driver):
        made = Fake(host, driver, "remap_pending")
        fake.edit(made.scenario, "gpu1", processes="4242:VLLM::EngineCor:78000")
        result = made.reset()
        assert "nvidia-smi says that it is in use" in result["msg"]
        assert "GPU 00000000:43:00.0: In use by another client" in result["words"]
        assert result["msg"].endswith(f"; started again: {UNIT}")
        assert result["gpus"][0]["resets_within_a_day"] == 0

    def test_reset_that_hangs(self, host, driver):
        made = Fake(host, driver, "remap_pending")
        fake.edit(made.scenario, "gpu1", reset="hang")
        started = time.monotonic()
        result = made.reset(timeout_seconds=2)
        assert time.monotonic() - started < 60
        assert "the driver hangs (no answer from the GPUs in 2 s): reboot the node" in result["msg"]
        assert result["msg"].endswith(f"; started again: {UNIT}")
        assert (result["gpus"][0]["resets_within_a_day"], made.kmsg.read_text()) == (1, "")

    def test_reset_that_fails(self, host, driver):
        made = Fake(host, driver, "remap_pending")
        fake.edit(made.scenario, "gpu1", reset="fails")
        result = made.reset()
        assert "may be in an unstable state. Please reboot your system.): reboot the node" in result["msg"]
        assert result["msg"].endswith(f"; started again: {UNIT}")

    @pytest.mark.parametrize(
        ("scenario", "index"),
        [("lost", 3), ("mig", 0), ("recovery_reboot", 1), ("driver_not_loaded", 0), ("driver_mismatch", 0)],
    )
    def test_cannot_work(self, host, driver, scenario, index):
        result = Fake(host, driver, scenario).reset(gpus=[index])
        assert "cannot be reset" in result["msg"]
        assert host.calls == []
