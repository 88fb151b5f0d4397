#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_reset
short_description: Reset NVIDIA GPUs of a host
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Stops the instances and services that use the GPUs, proves that nobody holds them any more, resets them by
    C(nvidia-smi), looks whether that has cured them, and starts the instances and services again. Each run resets the
    GPUs, whatever state they are in.
  - Refuses before anything changes where a reset cannot work, and says why and what to do instead. So it does for a GPU
    that fell off the bus, that has MIG on, for which the driver asks for a reboot, or that a process holds which is in
    none of the O(instances) and O(services); and where the driver hangs or was exchanged.
  - Whatever goes wrong after that, they are started again, also where the module itself is ended by a signal.
  - Writes a line into the kernel's log that tells health checks to forget what the GPU had before.
  - A GPU that was reset three times within 24 hours is quarantined, and is not reset again until a day has passed since
    the first of these.
attributes:
  check_mode:
    description:
      - Returns who holds the GPUs, which instances and services would be stopped and what would be cured, and fails
        where a reset cannot work. Changes nothing.
    support: full
  diff_mode:
    description: Shows the state of each GPU before and after.
    support: full
options:
  gpus:
    description:
      - GPUs to reset, each by its index or UUID. They are reset together, as GPUs must be that share an NVLink older
        than Ampere's.
    type: list
    elements: str
    required: true
  instances:
    description:
      - Instances to stop for the reset and to start again after it, whatever keeps them running. No other is touched.
        One that does not run is left as it is.
    type: list
    elements: str
    default: []
  services:
    description:
      - Units of systemd to stop for the reset and to start again after it. No other is touched. One that does not run
        is left as it is.
      - Neither C(nvidia-persistenced) nor C(nvidia-fabricmanager) has to be stopped, as C(nvidia-smi) comes to terms
        with them.
    type: list
    elements: str
    default: []
  timeout_seconds:
    description: Seconds that the reset may take.
    type: int
    default: 180
  release_timeout_seconds:
    description:
      - Seconds that the instances and services have to stop and their processes to let go of the GPUs. Longer than the
        longest of them takes to finish its work.
    type: int
    default: 60
  state_dir:
    description: Directory of the file that counts the resets.
    type: path
    default: /var/lib/vllm/gpu
  config_dir:
    description: Directory of the instances' files.
    type: path
    default: /etc/vllm/instances
notes:
  - Runs as root on the node.
  - Drain the instances first, with M(inferops.vllm.vllm_drain); this module does not wait for their requests.
  - A reset makes row remaps and a new ECC mode effective. It drops clocks and power limits that were set by hand.
  - In most virtual machines of a cloud C(nvidia-smi) refuses to reset a GPU.
seealso:
  - module: inferops.vllm.gpu_health
  - module: inferops.vllm.gpu_info
  - module: inferops.vllm.vllm_drain
"""

EXAMPLES = r"""
- name: Reset the GPU of an instance
  inferops.vllm.gpu_reset:
    gpus: [0]
    instances: [qwen3vl]
    release_timeout_seconds: 300

- name: Reset two GPUs that a monitor holds as well
  inferops.vllm.gpu_reset:
    gpus:
      - GPU-00000000-0000-0000-0000-000000000000
      - GPU-00000000-0000-0000-0000-000000000001
    instances: [qwen3vl]
    services: [nvidia-dcgm.service, dcgm-exporter.service]
"""

RETURN = r"""
gpus:
  description: The GPUs that were to be reset; none where the module failed before it had found them.
  type: list
  elements: dict
  returned: always
  contains:
    index:
      description: Its index.
      type: int
      sample: 0
    uuid:
      description: Its UUID; null where it does not tell.
      type: str
      sample: GPU-00000000-0000-0000-0000-000000000000
    name:
      description: Its model; null where it does not tell.
      type: str
      sample: NVIDIA H100 80GB HBM3
    before:
      description: What a reset may cure, as M(inferops.vllm.gpu_info) returns it.
      type: dict
      sample:
        recovery_action: gpu_reset
        reset_required: false
        lost: false
        remap_pending: true
        pages_pending: null
        ecc_uncorrected_volatile: 2
    after:
      description: The same after the reset, or in check mode what a reset should lead to; null where none was made.
      type: dict
      sample:
        recovery_action: none
        reset_required: false
        lost: false
        remap_pending: false
        pages_pending: null
        ecc_uncorrected_volatile: 0
    resets_within_a_day:
      description: How often it was reset in the last 24 hours, this time included.
      type: int
      sample: 1
    quarantined:
      description: Whether that was too often for another reset.
      type: bool
      sample: false
holders:
  description: Processes that held one of these GPUs before anything was stopped.
  type: list
  elements: dict
  returned: always
  contains:
    pid:
      description: Its process ID.
      type: int
      sample: 4242
    name:
      description: Its name, as far as the kernel keeps it.
      type: str
      sample: VLLM::EngineCor
    uid:
      description: Its user.
      type: int
      sample: 990
    unit:
      description: The unit of systemd that it belongs to; empty where there is none.
      type: str
      sample: vllm@qwen3vl.service
    devices:
      description: Device files of the driver that it has open.
      type: list
      elements: str
      sample: [/dev/nvidia-uvm, /dev/nvidia0, /dev/nvidiactl]
instances:
  description: The O(instances).
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Its name.
      type: str
      sample: qwen3vl
    state:
      description: Its state before, in the same words for every runtime.
      type: str
      sample: running
    stopped:
      description: Whether it was stopped, or would be.
      type: bool
      sample: true
    started:
      description: Whether it runs again, or would.
      type: bool
      sample: true
services:
  description: The O(services), under the names that systemd gives them.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Its name.
      type: str
      sample: vllm@qwen3vl.service
    state:
      description: Its state before, as systemd has it.
      type: str
      sample: active
    stopped:
      description: Whether it was stopped, or would be.
      type: bool
      sample: true
    started:
      description: Whether it runs again, or would.
      type: bool
      sample: true
words:
  description: What C(nvidia-smi) said; empty where it was not asked for a reset.
  type: str
  returned: always
  sample: "GPU 00000000:19:00.0 was successfully reset. All done."
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._gpu.child import ChildFailed, Unresponsive
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import VERSION_MISMATCH, Gpu, Node
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.look import look
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.reset import (
    STATE_DIR,
    Holder,
    Ledger,
    Outcome,
    device,
    holding,
    mark,
    reset,
    see_holders,
    trouble,
)
from ansible_collections.inferops.vllm.plugins.module_utils._health.lock import Lock
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.module_utils._serving import process, runtime
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed

LOOK_SECONDS = 30
SETTLE_SECONDS = 5
"""Whoever only looks at a GPU has let go of it by then."""
VERIFY_SECONDS = 30
"""A GPU may take some time to join its fabric again."""
POLL_SECONDS = 0.5
ATTEMPTS = 3
"""Somebody may look at a GPU in the very moment of its reset."""
RUNNING = ("active", "activating", "reloading", "refreshing", "maintenance", "running", "starting")
STOPPED = ("inactive", "failed", "stopped")
"""States of units and of instances; one that is on its way out is neither."""
REBOOTS = ("node_reboot", "bus_reset", "system_reboot")
"""Recovery actions that only a reboot brings about."""
CURED = {
    "recovery_action": "none",
    "reset_required": False,
    "lost": False,
    "remap_pending": False,
    "pages_pending": False,
    "ecc_uncorrected_volatile": 0,
}
"""What a reset makes of these, where they are known."""


class Refused(Exception):
    """A reset cannot work, or has not; the message says of which GPU, why, and what to do."""


class Interrupted(BaseException):
    """A signal asks this module to end."""


class Stoppable:
    """What may be stopped for a reset, and is started again."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self.states: dict[str, str] = {}
        """Of each before, by its name."""
        self.stopped: list[str] = []
        self.started: list[str] = []
        self._refusal = ""

    @property
    def running(self) -> list[str]:
        return [unit for unit, state in self.states.items() if state in RUNNING]

    @property
    def lost(self) -> str:
        """Which do not run again, in one sentence; empty where all do."""
        rest = [unit for unit in self.stopped if unit not in self.started]
        return f"{', '.join(rest)} did not start again ({self._refusal}): start it by hand" if rest else ""

    def stop(self) -> None:
        """Have them begin to stop."""
        self.stopped = self.running
        if self.stopped:
            self._stop()

    def stopping(self) -> list[str]:
        return [unit for unit, state in self._show(list(self.states)).items() if state not in STOPPED]

    def start(self) -> None:
        """Start again what was stopped; never fails."""
        if not self.stopped:
            return
        # From here on nothing may keep them from being started.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            self._start()
        except Refused as error:
            self._refusal = str(error)
        with contextlib.suppress(Refused):
            states = self._show(self.stopped)
            self.started = [unit for unit in self.stopped if states.get(unit) in RUNNING]

    def report(self, foreseen: bool) -> list[dict]:
        stopped, started = (self.running, self.running) if foreseen else (self.stopped, self.started)
        return [
            {"name": unit, "state": state, "stopped": unit in stopped, "started": unit in started}
            for unit, state in self.states.items()
        ]

    def _stop(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError

    def _show(self, names: list[str]) -> dict[str, str]:
        raise NotImplementedError


class Services(Stoppable):
    """Units of systemd."""

    def find(self, names: list[str]) -> None:
        if names and not self._module.get_bin_path("systemctl"):
            raise Refused("services are named, and this host has no systemctl to stop them: leave services out")
        self.states = self._show(names)

    def _stop(self) -> None:
        self._run("stop", "--no-block", *self.stopped)

    def _start(self) -> None:
        with contextlib.suppress(Refused):
            # A unit that systemd has given up on takes no start before this.
            self._run("reset-failed", *self.stopped)
        self._run("start", *self.stopped)

    def _show(self, names: list[str]) -> dict[str, str]:
        if not names:
            return {}
        output = self._run("show", "--property=Id,LoadState,ActiveState", "--", *names)
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in output.strip().split("\n\n")]
        unknown = [block.get("Id", "a pattern") for block in blocks if block.get("LoadState") in (None, "not-found")]
        if unknown:
            raise Refused(f"services has {', '.join(unknown)}, which systemd does not know: correct it or leave it out")
        return {block["Id"]: block["ActiveState"] for block in blocks}

    def _run(self, *arguments: str) -> str:
        try:
            code, out, err = self._module.run_command(["systemctl", *arguments], handle_exceptions=False)
        except OSError as error:
            raise Refused(f"systemctl {arguments[0]} cannot be run: {error.strerror}") from error
        if code:
            raise Refused(f"systemctl {arguments[0]}: {' '.join((err or out).split())}")
        return out


class Instances(Stoppable):
    """Instances, under whatever keeps each of them."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        self._keepers: dict[str, str] = {}

    def find(self, names: list[str]) -> None:
        try:
            found = serving.load_all(names, self._module.params["config_dir"])
        except ValueError as error:
            raise Refused(f"instances: {error}") from error
        kept = self._do(self._kept()) if found else {}
        # One that is to move to another runtime is still with its old one.
        self._keepers = {
            instance.name: next(
                (keeper for keeper, theirs in kept.items() if instance.name in theirs), instance.runtime
            )
            for instance in found
        }
        self.states = self._show(list(self._keepers))

    def owns(self, pid: int) -> bool:
        return any(process.belongs_to(pid, name) for name in self.states)

    async def _kept(self) -> dict[str, dict[str, bool]]:
        return {name: await runtime.named(name).kept() for name in serving.RUNTIMES}

    def _stop(self) -> None:
        for name in self.stopped:
            self._do(runtime.named(self._keepers[name]).stop(name))

    def _start(self) -> None:
        refusals = []
        for name in self.stopped:
            try:
                self._do(runtime.named(self._keepers[name]).keep(name))
            except Refused as error:
                refusals.append(str(error))
        if refusals:
            raise Refused("; ".join(refusals))

    def _show(self, names: list[str]) -> dict[str, str]:
        return {name: self._do(runtime.named(self._keepers[name]).units([name]))[name].state for name in names}

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run(work)
        except (CommandFailed, OSError, ValueError, KeyError) as error:
            raise Refused(str(error)) from error


class Reset:
    """A reset of some GPUs, from the first look to the last."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._params = module.params
        self._services = Services(module)
        self._instances = Instances(module)
        self._stoppable = (self._instances, self._services)
        self._ledger = Ledger(self._params["state_dir"])
        if self._ledger.warning:
            module.warn(self._ledger.warning)
        self._devices: list[str] = []
        self._before: list[Gpu] = []
        self._after: dict[str, Gpu | None] = {}
        self._holders: list[Holder] = []
        self._words = ""
        self._tried = False
        self._foreseen = False
        """All that can be said of a reset that is not to be made."""

    def plan(self) -> None:
        """Find out whether it can work; changes nothing."""
        if os.geteuid() != 0:
            raise Refused("GPUs can be reset by root alone: set become to true")
        if not self._module.get_bin_path("nvidia-smi"):
            raise Refused("GPUs can be reset by nvidia-smi alone, and it is not installed: install the driver's tools")
        node = look(LOOK_SECONDS)
        obstacle = driver_obstacle(node)
        if obstacle:
            raise Refused(f"GPU {', '.join(self._params['gpus'])} cannot be reset, as {obstacle}")
        found = (chosen(node, word) for word in self._params["gpus"])
        self._before = list({gpu.index: gpu for gpu in found}.values())
        for gpu in self._before:
            obstacle = gpu_obstacle(gpu, self._ledger)
            if obstacle:
                raise Refused(f"{shown(gpu)} cannot be reset, as {obstacle}")
        self._devices = [device(gpu.pci_address) for gpu in self._before]
        self._instances.find(self._params["instances"])
        self._services.find(self._params["services"])
        self._holders = self._holding()
        strangers = until_none(self._strangers, SETTLE_SECONDS)
        if strangers:
            raise Refused(
                f"{self._shown()} cannot be reset while held by {', '.join(map(str, strangers))}:"
                " stop what is not needed, or name it in instances or its unit in services"
            )
        self._foreseen = self._module.check_mode

    def carry_out(self) -> None:
        try:
            for each in self._stoppable:
                each.stop()
            self._release()
            self._reset()
            self._verify()
        finally:
            for each in self._stoppable:
                each.start()
        if any(each.lost for each in self._stoppable):
            raise Refused(f"{self._shown()} was reset")

    @property
    def aftermath(self) -> str:
        """What has become of what was stopped, where something went wrong."""
        started = [name for each in self._stoppable for name in each.started]
        lost = [each.lost for each in self._stoppable if each.lost]
        return "; ".join(lost + ([f"started again: {', '.join(started)}"] if started else []))

    def result(self) -> dict:
        gpus = [self._report(gpu) for gpu in self._before]
        compared = [gpu for gpu in gpus if gpu["after"]]
        return {
            "changed": self._foreseen or self._tried or any(each.stopped for each in self._stoppable),
            "gpus": gpus,
            "holders": [asdict(holder) for holder in self._holders],
            "instances": self._instances.report(self._foreseen),
            "services": self._services.report(self._foreseen),
            "words": self._words,
            "diff": {when: {f"GPU {gpu['index']}": gpu[when] for gpu in compared} for when in ("before", "after")},
        }

    def _report(self, gpu: Gpu) -> dict:
        name = identity(gpu)
        return {
            "index": gpu.index,
            "uuid": gpu.uuid,
            "name": gpu.name,
            "before": state(gpu),
            "after": cured(gpu) if self._foreseen else state(self._after.get(name)),
            "resets_within_a_day": self._ledger.count(name),
            "quarantined": self._ledger.quarantined(name),
        }

    def _shown(self) -> str:
        return ", ".join(map(shown, self._before))

    def _holding(self) -> list[Holder]:
        try:
            return holding(see_holders(), self._devices)
        except (Unresponsive, ChildFailed) as error:
            raise Refused(
                f"{self._shown()} cannot be reset, as it cannot be seen who holds it ({error}): reboot the node"
            ) from error

    def _strangers(self) -> list[Holder]:
        """Who holds a GPU and will not be stopped."""
        units = self._services.states
        holders = [holder for holder in self._holding() if not holder.yields and holder.unit not in units]
        return [holder for holder in holders if not self._instances.owns(holder.pid)]

    def _unreleased(self) -> list[str]:
        stopping = [f"{name} has not stopped" for each in self._stoppable for name in each.stopping()]
        return stopping + [f"{holder} holds it" for holder in self._holding() if not holder.yields]

    def _release(self) -> None:
        """Prove that nobody holds the GPUs."""
        seconds = self._params["release_timeout_seconds"]
        rest = until_none(self._unreleased, seconds)
        if rest:
            raise Refused(
                f"{self._shown()} was not reset, as after {seconds} s {', '.join(rest)}: wait longer with"
                " release_timeout_seconds, and reboot the node if the process never ends"
            )

    def _reset(self) -> None:
        outcome = self._try()
        for _attempt in range(1, ATTEMPTS):
            if not outcome.in_use:
                break
            time.sleep(POLL_SECONDS)
            self._release()
            outcome = self._try()
        if outcome.done:
            return
        if outcome.unresponsive:
            reason = f"the driver hangs ({outcome.words}): reboot the node"
        elif outcome.in_use:
            reason = (
                f"nvidia-smi says that it is in use ({outcome.words}), and no process is seen to hold it:"
                " name nvidia-persistenced.service in services, unload nvidia_drm, or reboot the node"
            )
        else:
            reason = f"nvidia-smi did not do it ({outcome.words}): reboot the node"
        raise Refused(f"{self._shown()} could not be reset: {reason}")

    def _try(self) -> Outcome:
        outcome = None
        try:
            outcome = reset([identity(gpu) for gpu in self._before], self._params["timeout_seconds"])
            self._words = outcome.words
        finally:
            # Also where this module is ended meanwhile.
            if outcome is None or not outcome.refused:
                self._record()
        return outcome

    def _record(self) -> None:
        self._tried = True
        try:
            self._ledger.record([identity(gpu) for gpu in self._before])
        except OSError as error:
            self._module.warn(f"this reset is not counted: {error}")

    def _verify(self) -> None:
        troubles = until_none(self._troubles, VERIFY_SECONDS)
        for gpu in self._before:
            after = self._after.get(identity(gpu))
            if after and after.uuid and not trouble(gpu, after):
                self._mark(after.uuid)
        if troubles:
            raise Refused(f"{'; '.join(troubles)}: reboot the node")

    def _troubles(self) -> list[str]:
        """What is wrong with the GPUs now."""
        node = look(LOOK_SECONDS)
        if not node.source:
            return [f"{self._shown()} was reset, and cannot be seen any more ({node.error})"]
        self._after = {identity(gpu): again(node, gpu) for gpu in self._before}
        wrong = {shown(gpu): trouble(gpu, self._after[identity(gpu)]) for gpu in self._before}
        return [f"{name} was reset, and {words}" for name, words in wrong.items() if words]

    def _mark(self, uuid: str) -> None:
        refusal = mark(uuid)
        if refusal:
            self._module.warn(f"health checks are not told of the reset of {uuid}: {refusal}")


def identity(gpu: Gpu) -> str:
    """What nvidia-smi knows it by."""
    return gpu.uuid or (f"{gpu.pci_address}.0" if gpu.pci_address else str(gpu.index))


def shown(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.uuid or gpu.pci_address or 'without a UUID'})"


def state(gpu: Gpu | None) -> dict | None:
    return {fact: getattr(gpu, fact) for fact in CURED} if gpu else None


def cured(gpu: Gpu) -> dict:
    """The state that a reset should lead to."""
    return {fact: None if getattr(gpu, fact) is None else value for fact, value in CURED.items()}


def located(node: Node) -> list[Gpu]:
    """The GPUs, with the addresses that are left over for those that tell none: both are in the order of the bus."""
    told = {gpu.pci_address for gpu in node.gpus}
    addresses = [address for address in node.pci_addresses if address not in told]
    silent = [gpu.index for gpu in node.gpus if not gpu.pci_address]
    found = dict(zip(silent, addresses)) if len(silent) == len(addresses) else {}
    return [replace(gpu, pci_address=gpu.pci_address or found.get(gpu.index)) for gpu in node.gpus]


def chosen(node: Node, word: str) -> Gpu:
    for gpu in located(node):
        if word in (str(gpu.index), gpu.uuid):
            return gpu
    lost = len(node.pci_addresses) - len(node.gpus)
    if lost > 0:
        raise Refused(
            f"GPU {word} cannot be reset, as the driver does not list it, and {lost} of the host's"
            f" {len(node.pci_addresses)} GPUs fell off the bus: reboot the node"
        )
    listed = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in node.gpus) or "none"
    raise Refused(f"there is no GPU {word}: the GPUs of this host are {listed}")


def again(node: Node, gpu: Gpu) -> Gpu | None:
    """The same GPU in another look; one that told nothing of itself may tell all after its reset."""
    fact = "uuid" if gpu.uuid else "pci_address" if gpu.pci_address else "index"
    return next((seen for seen in located(node) if getattr(seen, fact) == getattr(gpu, fact)), None)


def driver_obstacle(node: Node) -> str:
    """Why none of the GPUs can be reset, and what to do."""
    driver = node.driver
    if node.unresponsive:
        return f"the NVIDIA driver does not answer ({node.error}): reboot the node"
    if driver.mismatch or node.code == VERSION_MISMATCH:
        versions = (("loaded", driver.loaded), ("installed", driver.installed), ("the library", driver.library))
        told = ", ".join(f"{version} is {word}" for word, version in versions if version)
        return f"the NVIDIA driver was exchanged under its programs ({told}): reboot the node"
    if not node.source:
        return f"the GPUs cannot be seen ({node.error}): see to the driver first"
    return ""


def gpu_obstacle(gpu: Gpu, ledger: Ledger) -> str:
    """Why this GPU cannot be reset, and what to do."""
    if gpu.lost:
        return "it has fallen off the bus: reboot the node, and cut its power if that does not bring it back"
    if gpu.recovery_action in REBOOTS:
        return f"the driver asks for {gpu.recovery_action}, which no reset replaces: reboot the node"
    if gpu.mig_mode:
        return "it has MIG on: destroy its instances, and switch MIG off"
    if ledger.quarantined(identity(gpu)):
        resets = ledger.count(identity(gpu))
        return f"{resets} resets within 24 hours have not cured it: leave it out, and have its hardware looked at"
    return ""


def until_none(find: Callable[[], list], seconds: float) -> list:
    """What is still found after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = find()
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have a signal end this module as an exception would; a lost connection shall not end it at all."""
    handlers: dict[signal.Signals, Any] = {
        signal.SIGTERM: interrupt,
        signal.SIGINT: interrupt,
        signal.SIGHUP: signal.SIG_IGN,
    }
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def interrupt(number: int, _frame: object) -> None:
    raise Interrupted(f"{signal.Signals(number).name} has ended this before it was done: look at the GPUs")


def run(module: AnsibleModule, work: Reset) -> str:
    """What went wrong, in one sentence; empty where nothing did."""
    lock = Lock(module.params["state_dir"])
    try:
        if not module.check_mode and not lock.acquire():
            raise Refused("another reset is under way on this node: run this again once it has ended")
        work.plan()
        if not module.check_mode:
            work.carry_out()
    except (Refused, Interrupted) as error:
        return "; ".join(filter(None, (str(error), work.aftermath)))
    finally:
        lock.release()
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "gpus": {"type": "list", "elements": "str", "required": True},
            "instances": {"type": "list", "elements": "str", "default": []},
            "services": {"type": "list", "elements": "str", "default": []},
            "timeout_seconds": {"type": "int", "default": 180},
            "release_timeout_seconds": {"type": "int", "default": 60},
            "state_dir": {"type": "path", "default": STATE_DIR},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
        },
        supports_check_mode=True,
    )
    if not module.params["gpus"]:
        module.fail_json(msg="gpus is empty: write the index or UUID of each GPU to reset")
    for name in ("timeout_seconds", "release_timeout_seconds"):
        if module.params[name] < 1:
            module.fail_json(msg=f"{name} is {module.params[name]}: write 1 or more")
    work = Reset(module)
    with interruptible():
        failure = run(module, work)
    if failure:
        module.fail_json(msg=failure, **work.result())
    module.exit_json(**work.result())


if __name__ == "__main__":
    main()
