# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance as its node knows it: the two files under /etc/vllm/instances and the record of its running server.

`<name>.yaml` is what `vllm serve --config` reads: one `option: <JSON value>` a line, which is valid YAML and needs no
YAML parser. `<name>.json` is what the node's own tools read. `/run/vllm/<name>.json` is written by the launcher and
says which configuration the running server was started with, `/run/vllm/<name>.obstacle` why it could not be started.
`/run/vllm/<name>.restarts` counts for the runtimes that do not count themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from . import files, process

CONFIG_DIR = "/etc/vllm/instances"
RUN_DIR = "/run/vllm"
RUNTIMES = ("systemd", "supervisor", "docker", "tmux", "screen")
UNPRINTABLE = re.compile("[^ -~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Instance:
    """What the node's tools know of an instance."""

    name: str
    port: int
    served_model_name: str
    user: str
    root: str
    """Directory with the environments and the link `current`."""
    venv: str = ""
    """The environment that it runs from; what `current` points to at its start where empty."""
    runtime: str = "systemd"
    """What keeps it running."""
    address: str = "127.0.0.1"
    """Where the node itself reaches the server."""
    environment: dict[str, str] = field(default_factory=dict)
    shm_bytes: int = 0
    """Free bytes of /dev/shm that a start needs."""
    start_grace_seconds: int = 600
    gpus: list[int] = field(default_factory=list)
    """Their indices; none where the server uses none, or takes all there are."""
    gpu_memory_share: float = 0.0
    """Part of each GPU's memory that a start needs."""
    settings: dict[str, list[str]] = field(default_factory=dict)
    """What its unit of systemd has beside the others' ones."""
    unit_checksum: str = ""
    """Of the unit that starts the server, so that a change of it counts as a change of configuration."""
    working_dir: str = "/var/cache/vllm"
    stop_timeout_seconds: int = 90
    """After which what is left of a server that was asked to end is killed."""
    restart_seconds: int = 0
    """Between the end of a server and the next start."""
    open_files_max: int = 65536
    memory_max: str = ""
    """As MemoryMax= of systemd takes it."""
    agent_port: int = 9410
    """Where the node's agent answers, if one runs."""
    image: str = ""
    """Of its container, if its runtime has one."""
    vllm_in_image: bool = False
    """Whether the image brings vLLM, rather than the environments of the node."""
    read_only_paths: list[str] = field(default_factory=list)
    """Of the node, that a container needs to see."""
    config_dir: str = CONFIG_DIR
    run_dir: str = RUN_DIR

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ValueError(f"its runtime {self.runtime} is unknown here")

    @property
    def config_path(self) -> str:
        return os.path.join(self.config_dir, f"{self.name}.yaml")

    @property
    def description_path(self) -> str:
        return os.path.join(self.config_dir, f"{self.name}.json")

    @property
    def record_path(self) -> str:
        return os.path.join(self.run_dir, f"{self.name}.json")

    @property
    def obstacle_path(self) -> str:
        """Where the launcher says why it does not start the server; no file where nothing stands in its way."""
        return os.path.join(self.run_dir, f"{self.name}.obstacle")

    @property
    def stopping_path(self) -> str:
        """A file that is there from the begin of a stop, in which /health still says that all is well."""
        return os.path.join(self.run_dir, f"{self.name}.stopping")

    @property
    def restarts_path(self) -> str:
        """How often its runtime has started it again by itself, where the runtime keeps no count."""
        return os.path.join(self.run_dir, f"{self.name}.restarts")

    @property
    def unit(self) -> str:
        return unit_name(self.name)

    def recorded(self) -> int:
        """The pid that the launcher recorded, 0 where there is no record to read."""
        return recorded(self.name, self.run_dir)

    def dump(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def unit_name(name: str) -> str:
    return f"vllm@{name}.service"


def recorded(name: str, run_dir: str = RUN_DIR) -> int:
    """The pid that an instance's launcher recorded, 0 where there is no record to read."""
    try:
        record = files.read_json(os.path.join(run_dir, f"{name}.json"))
        return process.here(int(record["pid"]), str(record.get("pid_namespace", "")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return 0


def restarts(name: str, run_dir: str = RUN_DIR) -> int:
    """How often an instance was started again by its runtime, by the count of the launcher."""
    try:
        with open(os.path.join(run_dir, f"{name}.restarts"), encoding="ascii") as stream:
            return max(0, int(stream.read(20)))
    except (OSError, ValueError):
        return 0


def make_directories(instance: Instance) -> None:
    """Those that systemd makes for a unit."""
    user = pwd.getpwnam(instance.user)
    # Compile caches hold pickles: who can write them can run code.
    for path, mode in ((instance.run_dir, 0o755), (instance.working_dir, 0o700)):
        if not os.path.isdir(path):
            os.makedirs(path)
            os.chmod(path, mode)
            os.chown(path, user.pw_uid, user.pw_gid)


def load(name: str, config_dir: str = CONFIG_DIR) -> Instance:
    """Read an instance; OSError where it does not exist, ValueError where its file is damaged."""
    with open(os.path.join(config_dir, f"{name}.json"), encoding="utf-8") as stream:
        return Instance(**json.load(stream))


def load_all(chosen: Iterable[str] | None, config_dir: str = CONFIG_DIR) -> list[Instance]:
    """The instances of those names, each once, or all of the node; ValueError says which one cannot be read."""
    found = []
    for name in names(config_dir) if chosen is None else dict.fromkeys(chosen):
        try:
            found.append(load(name, config_dir))
        except FileNotFoundError:
            present = ", ".join(names(config_dir)) or "none"
            raise ValueError(
                f"names has {name}, and the instances of this node are {present}:"
                " correct the name, or set the instance up first"
            ) from None
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{config_dir}/{name}.json cannot be read ({error}): deploy the instance again") from error
    return found


def names(config_dir: str = CONFIG_DIR) -> list[str]:
    """Names of the node's instances, sorted."""
    try:
        entries = os.listdir(config_dir)
    except FileNotFoundError:
        return []
    return sorted(entry[: -len(".json")] for entry in entries if entry.endswith(".json"))


def dump_config(options: dict[str, Any]) -> str:
    return "".join(f"{option}: {_scalar(value)}\n" for option, value in options.items())


def _scalar(value: Any) -> str:
    """JSON that YAML reads alike: it refuses unprintable characters, and knows no surrogate pairs."""
    text = json.dumps(value, ensure_ascii=False)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def load_config(text: str) -> dict[str, Any]:
    """The options of a file that `dump_config` wrote."""
    lines = (line.partition(": ") for line in text.splitlines() if line and not line.startswith("#"))
    return {option: json.loads(value) for option, _separator, value in lines}


def digest(config: str, description: str) -> str:
    """Tells one configuration of an instance from another."""
    return hashlib.sha256(f"{config}\0{description}".encode()).hexdigest()


def api_key(instance: Instance) -> str | None:
    """The first key that the server takes, None where it takes requests without one."""
    with open(instance.config_path, encoding="utf-8") as stream:
        keys = load_config(stream.read()).get("api-key")
    return keys[0] if keys else None
