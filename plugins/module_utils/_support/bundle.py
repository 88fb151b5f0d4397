# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that explains a fault of a node, gathered side by side: what fails or hangs is left out, and said to be."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import io
import json
import os
import re
import signal
import stat
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import IO, Any

from .._driver import look as driver_look
from .._driver.faults import faults
from .._gpu import child
from .._gpu.survey import survey
from .._gpu.verdict import Expectation, Limits, judge
from .._health import settings as health_settings
from .._serving import client, runtime
from .._serving import instance as instances
from .._serving.runtime import CommandFailed
from . import redact

MARGIN_SECONDS = 2
DEATH_SECONDS = 0.5
"""Within which SIGKILL ends any process that does not hang."""
FILE_BYTES = 256 * 1024
"""Of any file that is not a log."""
MANIFEST = "manifest.json"
KERNEL_LINE = re.compile(r"NVRM|Xid|nvidia|out of memory|oom|killed process|hung_task|blocked for more than", re.I)
PROCESS = re.compile(r"vllm|^ *PID|nvidia|haproxy|supervisord", re.I)
COMMANDS = {
    "host/df.txt": ("df", "-h"),
    "host/inodes.txt": ("df", "-i"),
    "host/uname.txt": ("uname", "-a"),
    "host/processes.txt": ("ps", "-eo", "pid,ppid,user,stat,etimes,rss,nlwp,wchan:20,args", "--forest"),
    "host/listeners.txt": ("ss", "-Htlnp"),
    "host/kernel.txt": ("journalctl", "--dmesg", "--no-pager", "--output=short-iso-precise", "--lines=20000"),
    "host/dmesg.txt": ("dmesg", "--ctime"),
    "units/list.txt": ("systemctl", "list-units", "--all", "--no-pager", "--plain", "vllm*", "haproxy*", "nvidia*"),
    "units/show.txt": ("systemctl", "show", "vllm@*", "vllm-node-agent.service"),
    "units/failed.txt": ("systemctl", "list-units", "--failed", "--no-pager", "--plain"),
}
FILTERS = {"host/kernel.txt": KERNEL_LINE, "host/dmesg.txt": KERNEL_LINE, "host/processes.txt": PROCESS}
FILES = {
    "host/meminfo.txt": "/proc/meminfo",
    "host/loadavg.txt": "/proc/loadavg",
    "host/mounts.txt": "/proc/mounts",
    "host/os-release.txt": "/etc/os-release",
    "gpu/driver.txt": "/proc/driver/nvidia/version",
    "agent/settings.json": health_settings.PATH,
}
PLACES = {
    "instances": ("/etc/vllm/instances/*", "/run/vllm/*"),
    "units": (
        "/etc/systemd/system/vllm*",
        "/etc/systemd/system/vllm*/*.conf",
        "/etc/vllm/supervisor.d/*",
        "/etc/vllm/supervisord.conf",
        "/etc/cron.d/vllm*",
        "/etc/logrotate.d/vllm*",
    ),
    # Whatever the collection keeps of a node: drains, restarts, resets, rolls. Weights lie deeper, and are no JSON.
    "state": ("/var/lib/vllm/*", "/var/lib/vllm/health/*", "/var/lib/vllm/drain/*", "/var/lib/vllm/gpu/*"),
    "versions": ("/opt/vllm/venvs/*/.inferops.json",),
}
LOGS = ("/var/log/vllm/*.log",)
AGENT = "vllm-node-agent.service"


@dataclass(frozen=True)
class Bounds:
    """What a bundle may take."""

    log_lines: int = 2000
    part_bytes: int = 2 << 20
    total_bytes: int = 64 << 20
    """Before it is packed."""
    part_seconds: float = 20.0
    seconds: float = 60.0


@dataclass
class Bundle:
    """Texts by their names, and why others are missing."""

    texts: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class Gatherer:
    """Looks at a node; `root` is another directory in tests."""

    def __init__(self, bounds: Bounds, root: str = "/") -> None:
        self._bounds = bounds
        self._root = root
        self._found = Bundle()

    async def gather(self) -> Bundle:
        # Not beside the others: they fork, which threads would not survive.
        self._of_gpus()
        parts = dict(self._parts())
        tasks = {name: asyncio.ensure_future(self._bounded(work)) for name, work in parts.items()}
        await asyncio.wait(tasks.values(), timeout=self._bounds.seconds)
        for name, task in tasks.items():
            if not task.done():
                task.cancel()
                self._found.missing[name] = f"not done within {self._bounds.seconds:g} s"
                continue
            try:
                self._found.texts[name] = task.result()
            except Exception as error:  # whatever is broken here is why somebody asks for a bundle
                self._found.missing[name] = str(error) or type(error).__name__
        self._read_places()
        return self._found

    async def _bounded(self, work: Callable[[], Awaitable[str]]) -> str:
        try:
            return await asyncio.wait_for(work(), self._bounds.part_seconds + MARGIN_SECONDS)
        except asyncio.TimeoutError:
            raise CommandFailed(f"not done within {self._bounds.part_seconds:g} s") from None

    def _parts(self) -> Iterator[tuple[str, Callable[[], Awaitable[str]]]]:
        for name, command in COMMANDS.items():
            yield name, partial(self._command, name, *command)
        yield "agent/log.txt", partial(self._journal, AGENT)
        try:
            settings = health_settings.load(os.path.join(self._root, health_settings.PATH.lstrip("/")))
        except (OSError, ValueError) as error:
            self._found.missing["agent/status.json"] = str(error)
        else:
            for name, path in (("agent/status.json", "/status"), ("agent/metrics.txt", "/metrics")):
                yield name, partial(self._page, settings.asked_address, settings.agent_port, path)
        yield from self._of_instances()

    def _of_instances(self) -> Iterator[tuple[str, Callable[[], Awaitable[str]]]]:
        folder = os.path.join(self._root, instances.CONFIG_DIR.lstrip("/"))
        for name in instances.names(folder):
            try:
                found = instances.load(name, folder)
            except (OSError, TypeError, ValueError) as error:
                self._found.missing[f"instances/{name}/log.txt"] = f"its description cannot be read: {error}"
                yield f"instances/{name}/journal.txt", partial(self._journal, instances.unit_name(name))
                continue
            yield f"instances/{name}/log.txt", partial(self._log, found)
            yield f"instances/{name}/metrics.txt", partial(self._page, found.address, found.port, "/metrics")

    async def _command(self, name: str, *command: str) -> str:
        text = await self._run(*command)
        of_interest = FILTERS.get(name)
        if of_interest:
            text = "".join(f"{line}\n" for line in text.splitlines() if of_interest.search(line))
        return text

    async def _run(self, *command: str) -> str:
        """What a command says, into files: whoever reads from a pipe waits for all who can write to it."""
        with tempfile.TemporaryFile(dir=child.FOLDER) as out, tempfile.TemporaryFile(dir=child.FOLDER) as errors:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
                )
            except OSError as error:
                raise CommandFailed(f"{command[0]}: {error.strerror}") from error
            try:
                await asyncio.wait_for(process.wait(), self._bounds.part_seconds)
            except asyncio.TimeoutError:
                await _end(process)
                raise CommandFailed(f"{command[0]}: not done within {self._bounds.part_seconds:g} s") from None
            text = end_of(out, self._bounds.part_bytes)
            if process.returncode and not text:
                raise CommandFailed(f"{command[0]}: {end_of(errors, FILE_BYTES).strip()}")
        return text

    async def _journal(self, unit: str) -> str:
        lines = f"--lines={self._bounds.log_lines}"
        options = ("--no-pager", "--output=short-iso-precise", lines, f"--unit={unit}")
        return await self._run("journalctl", *options)

    async def _log(self, instance: instances.Instance) -> str:
        if instance.runtime == "systemd":
            return await self._journal(instance.unit)
        return await runtime.of(instance).log(instance.name, self._bounds.log_lines)

    async def _page(self, address: str, port: int, path: str) -> str:
        answer = await client.request(address, port, "GET", path, self._bounds.part_seconds / 2)
        if not answer.ok:
            raise CommandFailed(str(answer))
        return answer.body.decode(errors="replace")

    def _of_gpus(self) -> None:
        for name, look in (("gpu/health.json", self._gpu_health), ("gpu/nvidia-smi.txt", self._nvidia_smi)):
            try:
                self._found.texts[name] = look()
            except (child.ChildFailed, child.Unresponsive, OSError) as error:
                self._found.missing[name] = str(error)

    def _gpu_health(self) -> str:
        found = survey(self._gpu_seconds)
        verdict = judge(
            found.node, found.events, {}, Expectation(), Limits(), {}, {}, tuple(faults(driver_look.files()).values())
        )
        seen = {"verdict": asdict(verdict), "log_error": found.log_error, "node": asdict(found.node)}
        return json.dumps(seen, indent=2)

    def _nvidia_smi(self) -> str:
        status, text, errors = child.call(child.run, "nvidia-smi", "-q", deadline_seconds=self._gpu_seconds)
        return f"{text}{errors}exit code {status}\n"

    @property
    def _gpu_seconds(self) -> float:
        return self._bounds.part_seconds / 2

    def _read_places(self) -> None:
        for name, path in FILES.items():
            self._read(name, os.path.join(self._root, path.lstrip("/")), FILE_BYTES)
        for folder, patterns in PLACES.items():
            for path in self._glob(*patterns):
                self._read(f"{folder}{path}", path, FILE_BYTES)
        for path in self._glob(*LOGS):
            self._read(f"logs/{os.path.basename(path)}", path, self._bounds.part_bytes)
        self._list_versions()

    def _glob(self, *patterns: str) -> list[str]:
        found = (glob.glob(os.path.join(self._root, pattern.lstrip("/"))) for pattern in patterns)
        return sorted(path for paths in found for path in paths if not os.path.isdir(path))

    def _read(self, name: str, path: str, most_bytes: int) -> None:
        try:
            self._found.texts[name] = tail_of(path, most_bytes)
        except FileNotFoundError:
            return
        except OSError as error:
            self._found.missing[name] = error.strerror or str(error)

    def _list_versions(self) -> None:
        current = os.path.join(self._root, "opt/vllm/current")
        present = [os.path.basename(path) for path in glob.glob(os.path.join(self._root, "opt/vllm/venvs/*"))]
        now = os.path.realpath(current) if os.path.islink(current) else "no current environment"
        self._found.texts["versions/environments.txt"] = "\n".join([f"current: {now}", *sorted(present), ""])


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it and what it has started; one that hangs in the kernel is not waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(process.wait(), DEATH_SECONDS)


def tail_of(path: str, most_bytes: int) -> str:
    """The end of a file; what others may have planted, a link or a pipe, is not followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no file")
        return end_of(stream, most_bytes)


def end_of(stream: IO[bytes], most_bytes: int) -> str:
    """The end of what a file holds, in whole lines."""
    left_out = max(0, os.fstat(stream.fileno()).st_size - most_bytes)
    stream.seek(left_out)
    if left_out:
        stream.readline()  # its begin is missing
    text = stream.read(most_bytes).decode(errors="replace")
    return f"[its first {left_out} bytes are left out]\n{text}" if left_out else text


def bounded(text: str, most_bytes: int) -> str:
    """The end of a text that is too long."""
    data = text.encode(errors="replace")
    if len(data) <= most_bytes:
        return text
    kept = data[len(data) - most_bytes :].partition(b"\n")[2].decode(errors="replace")
    return f"[its first {len(data) - most_bytes} bytes are left out]\n{kept}"


def cleaned(found: Bundle, bounds: Bounds) -> Bundle:
    """The same without secrets, and no larger than it may be."""
    secrets: set[str] = set()
    for name, text in found.texts.items():
        secrets |= redact.found_in(name, text)
    redactor = redact.Redactor(secrets)
    result = Bundle(missing={name: redactor.clean("", reason) for name, reason in found.missing.items()})
    room = bounds.total_bytes
    # Small ones first: a log that fills the bundle must not keep the states out.
    for name, text in sorted(found.texts.items(), key=lambda item: len(item[1])):
        kept = bounded(redactor.clean(name, text), bounds.part_bytes)
        size = len(kept.encode(errors="replace"))
        if size > room:
            result.missing[name] = "the bundle is full"
            continue
        room -= size
        result.texts[name] = kept
    return result


def pack(found: Bundle, path: str, top: str, about: dict[str, Any]) -> None:
    """Write a new archive that root alone can read."""
    manifest = {**about, "files": sorted(found.texts), "missing": found.missing}
    texts = {MANIFEST: json.dumps(manifest, indent=2) + "\n", **dict(sorted(found.texts.items()))}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, text in texts.items():
                data = text.encode(errors="replace")
                member = tarfile.TarInfo(f"{top}/{name}")
                member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
                archive.addfile(member, io.BytesIO(data))
    except BaseException:
        os.unlink(path)
        raise
