# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps the instances of a node running: one class a runtime, all with the same methods.

Watchers ask for `units` and `processes`, the health check for `restart`, `kill` and `stop`, which begin things and
wait for none, and deployment for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import signal
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

from . import container, files, launch, process
from . import instance as instances
from .dockerd import Dockerd
from .dockerd import Refused as DockerRefused
from .instance import RUN_DIR, Instance, unit_name
from .supervisord import Refused, Supervisord
from .verdict import Unit

COMMAND_SECONDS = 20
"""systemctl is asked to begin things, not to wait for them."""
STATES = {"active": "running", "reloading": "running", "deactivating": "stopping", "inactive": "stopped"}
PROGRAM_STATES = {
    "STOPPED": "stopped",
    "STARTING": "running",
    "RUNNING": "running",
    "BACKOFF": "starting",
    "EXITED": "starting",
    "STOPPING": "stopping",
}
"""By the words of supervisord."""
CONTAINER_STATES = {"running": "running", "paused": "running", "restarting": "starting", "removing": "stopping"}
"""By the words of dockerd; in all others nothing runs."""
RESTART_SIGNAL = signal.SIGUSR1
"""Has a `vllm-instance tend` end its server in peace, and itself without being stopped."""
TAIL_BYTES = 64 * 1024
TREE = process.Tree()
LOG_DIR = "/var/log/vllm"
CRON_HEAD = "SHELL=/bin/sh\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT = "@reboot root"

Result = TypeVar("Result")


class CommandFailed(Exception):
    """A command of the runtime failed; the message says which and why."""


class Runtime(Protocol):
    """What every runtime can do."""

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        """State of each instance; one that the runtime does not know is stopped."""

    def processes(self, main: int) -> list[int]:
        """Those among which all processes of the server with that main process are."""

    async def restart(self, name: str) -> None:
        """Stop it as an operator would, and start it again."""

    async def kill(self, name: str) -> None:
        """Kill every process of the server; the runtime then starts it again."""

    async def stop(self, name: str) -> None:
        """Stop it, to stay stopped until somebody starts it or the node boots."""

    async def kept(self) -> dict[str, bool]:
        """Names of the instances that it has, and whether they start at boot; none where it is not there."""

    async def keep(self, name: str) -> None:
        """Start it, and at every boot."""

    async def renew(self, name: str, timeout_seconds: float) -> None:
        """Restart it by the present configuration of the runtime; done when the old server is gone."""

    async def halt(self, name: str, timeout_seconds: float) -> None:
        """Stop it; done when the server is gone."""

    async def drop(self, name: str, timeout_seconds: float) -> None:
        """Stop it for good, so that nothing of it is left here."""

    async def log(self, name: str, lines: int) -> str:
        """The end of what its servers have written."""


class Systemd:
    """Units vllm@<name>.service."""

    SOCKET_DIR = "/run/systemd/system"
    UNIT_DIR = "/etc/systemd/system"
    CONFIG_DIR = instances.CONFIG_DIR

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        properties = "--property=Id,ActiveState,NRestarts,Result"
        output = await run("systemctl", "show", properties, *(unit_name(name) for name in names))
        by_unit = {unit_name(name): name for name in names}
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in output.strip().split("\n\n")]
        return {by_unit[block["Id"]]: _unit(block) for block in blocks if block.get("Id") in by_unit}

    def processes(self, main: int) -> list[int]:
        return process.control_group(main)

    async def restart(self, name: str) -> None:
        # A unit that systemd has given up on takes no start before this.
        await run("systemctl", "reset-failed", unit_name(name))
        await run("systemctl", "restart", "--no-block", unit_name(name))

    async def kill(self, name: str) -> None:
        await run("systemctl", "kill", "--signal=SIGKILL", unit_name(name))

    async def stop(self, name: str) -> None:
        await run("systemctl", "stop", "--no-block", unit_name(name))

    async def kept(self) -> dict[str, bool]:
        if not os.path.isdir(self.SOCKET_DIR):
            return {}
        output = await run("systemctl", "show", "--property=Id,ActiveState", unit_name("*"))
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in output.strip().split("\n\n")]
        live = {block["Id"] for block in blocks if block.get("ActiveState", "inactive") != "inactive"}
        enabled = {os.path.basename(path) for path in glob.glob(f"{self.UNIT_DIR}/*.wants/{unit_name('*')}")}
        return {unit[len("vllm@") : -len(".service")]: unit in enabled for unit in live | enabled}

    async def keep(self, name: str) -> None:
        self._set(name, instances.load(name, self.CONFIG_DIR).settings)
        await run("systemctl", "daemon-reload")
        await run("systemctl", "enable", unit_name(name))
        await run("systemctl", "start", "--no-block", unit_name(name))

    async def renew(self, name: str, timeout_seconds: float) -> None:
        await self.halt(name, timeout_seconds)
        await self.keep(name)

    async def halt(self, name: str, timeout_seconds: float) -> None:
        await run("systemctl", "stop", unit_name(name), timeout_seconds=timeout_seconds)
        with contextlib.suppress(CommandFailed):
            await run("systemctl", "reset-failed", unit_name(name))

    async def drop(self, name: str, timeout_seconds: float) -> None:
        await run("systemctl", "disable", unit_name(name))
        await self.halt(name, timeout_seconds)
        if self._set(name, {}):
            await run("systemctl", "daemon-reload")

    def _set(self, name: str, settings: dict[str, list[str]]) -> bool:
        """Give an instance settings of its own, beside those that somebody made by hand; whether its unit changed."""
        folder = os.path.join(self.UNIT_DIR, f"{unit_name(name)}.d")
        path = os.path.join(folder, "inventory.conf")
        if settings:
            lines = [f"{setting}={value}" for setting, values in settings.items() for value in values]
            files.replace(path, "\n".join(["[Service]", *lines, ""]))
            return True
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(folder)
        return True

    async def log(self, name: str, lines: int) -> str:
        return await run("journalctl", "--no-pager", "--output=cat", f"--lines={lines}", f"--unit={unit_name(name)}")


def _unit(block: dict[str, str]) -> Unit:
    # Not listed: failed, and activating with its wait for the next try.
    state = STATES.get(block["ActiveState"], "failed" if block["ActiveState"] == "failed" else "starting")
    return Unit(state, int(block.get("NRestarts") or 0), block.get("Result", ""))


class _Tended:
    """What the runtimes share whose servers are tended by a `vllm-instance tend`, which counts the restarts."""

    LOG_DIR = LOG_DIR

    def __init__(self, run_dir: str = RUN_DIR) -> None:
        self._run_dir = run_dir

    def _server(self, name: str) -> str:
        """What the server does that its parent sees through."""
        if os.path.exists(os.path.join(self._run_dir, f"{name}.stopping")):
            return "stopping"
        main = instances.recorded(name, self._run_dir)
        return "running" if process.living(main) and process.belongs_to(main, name) else "starting"

    def _restarts(self, name: str) -> int:
        return instances.restarts(name, self._run_dir)

    def processes(self, main: int) -> list[int]:
        """All that the server's parent has started: it adopts what loses its own."""
        seen = process.stat(main)
        return TREE.under(seen.parent if seen and seen.parent > 1 else main)

    async def log(self, name: str, lines: int) -> str:
        return await _aside(_tail, os.path.join(self.LOG_DIR, f"{name}.log"), lines)


class Supervisor(_Tended):
    """Programs vllm@<name> of our own supervisord."""

    def __init__(self, supervisord: Supervisord | None = None, run_dir: str = RUN_DIR) -> None:
        super().__init__(run_dir)
        self._supervisord = supervisord or Supervisord()

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        states = await _aside(self._supervisord.states)
        return {name: self._unit(name, states.get(program_name(name))) for name in names}

    def _unit(self, name: str, info: dict[str, Any] | None) -> Unit:
        if info is None:
            return Unit("stopped")
        state = PROGRAM_STATES.get(info["statename"], "failed")
        if state == "running":
            state = self._server(name)
        return Unit(state, self._restarts(name), info["spawnerr"] or info["description"])

    async def restart(self, name: str) -> None:
        await _aside(self._restart, program_name(name))

    def _restart(self, program: str) -> None:
        state = self._supervisord.state(program)
        if state in ("STARTING", "RUNNING"):
            self._supervisord.signal(program, RESTART_SIGNAL.name[3:])
        elif state not in ("BACKOFF", "STOPPING"):
            self._supervisord.start(program)

    async def kill(self, name: str) -> None:
        await _aside(_kill, name)
        # Its parent clears up; a stopped one takes no notice.
        await _aside(self._supervisord.signal, program_name(name), "CONT")

    async def stop(self, name: str) -> None:
        await _aside(self._supervisord.stop, program_name(name))

    async def kept(self) -> dict[str, bool]:
        try:
            programs = await _aside(self._supervisord.states)
        except CommandFailed:
            return {}
        prefix = program_name("")
        return {program[len(prefix) :]: True for program in programs if program.startswith(prefix)}

    async def keep(self, name: str) -> None:
        await _aside(self._supervisord.add, program_name(name))
        await _aside(self._supervisord.start, program_name(name))

    async def renew(self, name: str, timeout_seconds: float) -> None:
        await self.drop(name, timeout_seconds)
        await self.keep(name)

    async def halt(self, name: str, timeout_seconds: float) -> None:
        if name not in await self.kept():
            return
        await self.stop(name)
        await _aside(self._supervisord.wait_stopped, program_name(name), timeout_seconds)

    async def drop(self, name: str, timeout_seconds: float) -> None:
        await self.halt(name, timeout_seconds)
        await _aside(self._supervisord.remove, program_name(name))


class Session(_Tended):
    """A detached session of a terminal multiplexer for each instance, in which `vllm-instance keep` restarts it.

    The keeper is root's, and found by its command line: what lies in the run directory the service user could forge.
    """

    CRON_DIR = "/etc/cron.d"

    def __init__(self, program: str, run_dir: str = RUN_DIR) -> None:
        super().__init__(run_dir)
        self._program = program

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        keepers = self._keepers()
        return {
            name: Unit(self._server(name) if name in keepers else "stopped", self._restarts(name)) for name in names
        }

    async def restart(self, name: str) -> None:
        if not self._signal(name, RESTART_SIGNAL):
            # What the agent started would live in the agent's own unit.
            raise CommandFailed(f"instance {name} has no session: start it with vllm-instance start {name}")

    async def kill(self, name: str) -> None:
        await _aside(_kill, name)

    async def stop(self, name: str) -> None:
        self._signal(name, signal.SIGTERM)

    async def kept(self) -> dict[str, bool]:
        return {**dict.fromkeys(self._keepers(), False), **dict.fromkeys(self._booting(), True)}

    async def keep(self, name: str) -> None:
        booting = self._booting()
        program = f"{instances.load(name).root}/bin/vllm-instance"
        self._boot({**booting, name: f"{BOOT} {program} start {name}"}, booting)
        if name in self._keepers():
            return
        if self._program == "tmux":
            await run("tmux", "-L", "vllm", "-f", os.devnull, "new-session", "-d", "-s", name, program, "keep", name)
        else:
            await run("screen", "-c", os.devnull, "-d", "-m", "-S", f"vllm-{name}", program, "keep", name)

    async def renew(self, name: str, timeout_seconds: float) -> None:
        await self.halt(name, timeout_seconds)
        await self.keep(name)

    async def halt(self, name: str, timeout_seconds: float) -> None:
        await self.stop(name)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while name in self._keepers():
            if loop.time() > deadline:
                raise CommandFailed(f"instance {name} has not stopped within {timeout_seconds:g} s")
            await asyncio.sleep(0.2)

    async def drop(self, name: str, timeout_seconds: float) -> None:
        booting = self._booting()
        self._boot({other: line for other, line in booting.items() if other != name}, booting)
        await self.halt(name, timeout_seconds)

    @property
    def _cron_path(self) -> str:
        return os.path.join(self.CRON_DIR, f"vllm-{self._program}")

    def _booting(self) -> dict[str, str]:
        """The lines of the instances that cron starts with the node."""
        try:
            with open(self._cron_path, encoding="utf-8") as stream:
                return {line.split()[-1]: line.strip() for line in stream if line.startswith(BOOT)}
        except FileNotFoundError:
            return {}

    def _boot(self, wanted: dict[str, str], before: dict[str, str]) -> None:
        if wanted == before:
            return
        if wanted:
            files.replace(self._cron_path, "\n".join([CRON_HEAD, *wanted.values(), ""]), 0o644)
        else:
            os.unlink(self._cron_path)

    def _keepers(self) -> dict[str, int]:
        """Those that run in this multiplexer, by their instances."""
        found = {}
        for pid, arguments in process.commands("keep"):
            parent = process.stat(getattr(process.stat(pid), "parent", 0))
            if parent and parent.name.lower().startswith(self._program):
                found[arguments[-1]] = pid
        return found

    def _signal(self, name: str, number: signal.Signals) -> bool:
        """Whether there was a keeper to send it to."""
        pid = self._keepers().get(name, 0)
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)
                # A stopped process takes no other signal.
                os.kill(pid, signal.SIGCONT)
                return True
        return False


class Docker(_Tended):
    """Containers vllm-<name> of the Docker engine, in which `vllm-instance contain` sees one server through."""

    def __init__(self, dockerd: Dockerd | None = None, run_dir: str = RUN_DIR) -> None:
        super().__init__(run_dir)
        self._dockerd = dockerd or Dockerd()

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        found = await _aside(self._dockerd.containers)
        return {name: await self._unit(name, found.get(name)) for name in names}

    async def _unit(self, name: str, summary: dict[str, Any] | None) -> Unit:
        if summary is None:
            return Unit("stopped")
        state = CONTAINER_STATES.get(summary["State"], "stopped")
        detail = ""
        if state == "stopped":
            # The engine does not try again what it could not start.
            detail = (await _aside(self._dockerd.inspect, container_name(name)))["State"].get("Error", "")
            state = "failed" if detail else state
        elif state == "running":
            state = self._server(name)
            if "(unhealthy)" in summary.get("Status", ""):
                detail = await self._illness(name)
        return Unit(state, self._restarts(name), detail)

    async def _illness(self, name: str) -> str:
        """What the check in the container has said last."""
        checks = (await _aside(self._dockerd.inspect, container_name(name)))["State"].get("Health", {}).get("Log")
        return checks[-1]["Output"].strip() if checks else ""

    async def restart(self, name: str) -> None:
        pid = await self._pid(name)
        if pid:
            # Handed on by the first process of the container; what ends by itself the engine starts again.
            _signal(pid, RESTART_SIGNAL)
            _signal(pid, signal.SIGCONT)
        else:
            await _aside(self._dockerd.start, container_name(name))

    async def kill(self, name: str) -> None:
        await _aside(_kill, name)
        # The parent of the server clears up; a stopped one takes no notice.
        _signal(await self._pid(name), signal.SIGCONT)

    async def stop(self, name: str) -> None:
        await _aside(self._dockerd.begin_stop, container_name(name))

    async def kept(self) -> dict[str, bool]:
        try:
            return dict.fromkeys(await _aside(self._dockerd.containers), True)
        except CommandFailed:
            return {}

    async def keep(self, name: str) -> None:
        described = instances.load(name)
        # Not by the list of all, which is behind for a moment.
        found = await _aside(self._dockerd.inspect, container_name(name))
        if found and CONTAINER_STATES.get(found["State"]["Status"]):
            return
        instances.make_directories(described)
        # From inside a container those of other runtimes are not seen.
        await _aside(launch.remove_leftovers, described)
        cdi = bool((await _aside(self._dockerd.info)).get("CDISpecDirs"))
        wanted = container.definition(described, cdi)
        if found and container.made_by(found["Config"]["Labels"]) != container.made_by(wanted["Labels"]):
            await _aside(self._dockerd.remove, container_name(name))
            found = {}
        if not found:
            await _aside(self._dockerd.create, container_name(name), wanted)
        await _aside(self._dockerd.start, container_name(name))

    async def renew(self, name: str, timeout_seconds: float) -> None:
        await self.halt(name, timeout_seconds)
        await self.keep(name)

    async def halt(self, name: str, timeout_seconds: float) -> None:
        await _aside(self._dockerd.stop, container_name(name), timeout_seconds)

    async def drop(self, name: str, timeout_seconds: float) -> None:
        await self.halt(name, timeout_seconds)
        await _aside(self._dockerd.remove, container_name(name))

    async def log(self, name: str, lines: int) -> str:
        return await _aside(self._dockerd.log, container_name(name), lines)

    async def _pid(self, name: str) -> int:
        """The first process of its container, as it is called here; 0 where it does not run."""
        found = await _aside(self._dockerd.inspect, container_name(name))
        return int(found["State"]["Pid"]) if found else 0


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)


def container_name(name: str) -> str:
    return f"vllm-{name}"


def program_name(name: str) -> str:
    return f"vllm@{name}"


def of(instance: Instance) -> Runtime:
    """The runtime that keeps an instance."""
    return named(instance.runtime)


def named(runtime: str) -> Runtime:
    made: dict[str, Callable[[], Runtime]] = {
        "systemd": Systemd,
        "supervisor": Supervisor,
        "docker": Docker,
        "tmux": lambda: Session("tmux"),
        "screen": lambda: Session("screen"),
    }
    return made[runtime]()


async def units(kept: Collection[Instance]) -> dict[str, Unit]:
    """What each instance's runtime says of it; those of a runtime that does not answer are left out."""
    found: dict[str, Unit] = {}
    for runtime in {instance.runtime for instance in kept}:
        with contextlib.suppress(CommandFailed):
            found.update(await named(runtime).units([item.name for item in kept if item.runtime == runtime]))
    return found


def _kill(name: str) -> None:
    for pid in process.marked(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tail(path: str, lines: int) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
            return b"\n".join(stream.read().splitlines()[-lines:]).decode(errors="replace")
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from error


async def _aside(call: Callable[..., Result], *arguments: Any) -> Result:
    """Have a thread wait for supervisord or dockerd, so that nobody else does."""
    try:
        return await asyncio.to_thread(call, *arguments)
    except (Refused, DockerRefused, launch.CannotStart) as error:
        raise CommandFailed(str(error)) from error


async def run(*command: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
    """Standard output of a command; CommandFailed where it fails or does not end in time."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_seconds)
    except asyncio.TimeoutError:
        process.kill()
        raise CommandFailed(f"{' '.join(command)}: not done within {timeout_seconds:g} s") from None
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)}: {err.decode(errors='replace').strip()}")
    return out.decode(errors="replace")
