# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations of an instance beside the one that a start uses: what comes next, and what has served before.

Each generation has a directory beside that of the instances, with files of the same names and the same modes:

* `staged`: what its next restart by an operator is to use. A restart by the runtime goes on with what was there.
* `good`: what was last proven to serve.
* `previous`: what was proven before that.
"""

from __future__ import annotations

import contextlib
import os

from . import files, process
from . import instance as instances
from .instance import Instance

STAGED = "staged"
GOOD = "good"
PREVIOUS = "previous"
KINDS = (STAGED, GOOD, PREVIOUS)
SUFFIXES = ("yaml", "json")


class NoneKept(Exception):
    """There is no earlier configuration to go back to; the message says of which instance."""


def directory(kind: str, config_dir: str = instances.CONFIG_DIR) -> str:
    return os.path.join(os.path.dirname(config_dir), kind)


def texts(name: str, folder: str) -> tuple[str, ...]:
    """The files of a configuration, empty where they are not there."""
    found = []
    for path in _paths(name, folder):
        try:
            with open(path, encoding="utf-8") as stream:
                found.append(stream.read())
        except FileNotFoundError:
            found.append("")
    return tuple(found)


def has(kind: str, name: str, config_dir: str = instances.CONFIG_DIR) -> bool:
    """Whether there is a whole configuration of that generation."""
    return all(map(os.path.exists, _paths(name, directory(kind, config_dir))))


def next_folder(name: str, config_dir: str = instances.CONFIG_DIR) -> str:
    """Directory of the configuration that the next restart by an operator uses."""
    return directory(STAGED, config_dir) if has(STAGED, name, config_dir) else config_dir


def activate(name: str, config_dir: str = instances.CONFIG_DIR) -> bool:
    """Have the next start use what is staged; whether anything was. Interrupted, it is completed by the next call."""
    if not has(STAGED, name, config_dir):
        return False
    staged = directory(STAGED, config_dir)
    _copy(name, staged, config_dir)
    _remove(name, staged)
    return True


def approve(name: str, config_dir: str = instances.CONFIG_DIR) -> bool:
    """Keep the present configuration as the last good one; whether it was another before."""
    good, previous = directory(GOOD, config_dir), directory(PREVIOUS, config_dir)
    if texts(name, good) == texts(name, config_dir):
        return False
    if has(GOOD, name, config_dir):
        _copy(name, good, previous)
    _copy(name, config_dir, good)
    return True


def earlier(name: str, config_dir: str = instances.CONFIG_DIR) -> str:
    """The generation to go back to: the last good one, or that before where the last good one is in use."""
    in_use = texts(name, config_dir)
    for kind in (GOOD, PREVIOUS):
        if has(kind, name, config_dir) and texts(name, directory(kind, config_dir)) != in_use:
            return kind
    raise NoneKept(f"instance {name} has no earlier configuration on this node that has served")


def stage(name: str, kind: str, config_dir: str = instances.CONFIG_DIR) -> None:
    """Have the next restart by an operator use an earlier generation."""
    _copy(name, directory(kind, config_dir), directory(STAGED, config_dir))


def unstage(name: str, config_dir: str = instances.CONFIG_DIR) -> None:
    """Leave the present configuration as it is, whatever was to come next."""
    _remove(name, directory(STAGED, config_dir))


def main_pid(described: Instance) -> int:
    """Main process of the running server, whatever keeps it; 0 where none runs."""
    pid = described.recorded()
    if process.living(pid) and process.belongs_to(pid, described.name):
        return pid
    return next(iter(process.marked(described.name)), 0)


def is_stale(described: Instance, config: str, pid: int) -> bool:
    """Whether the running server was started with anything but this configuration."""
    try:
        record = files.read_json(described.record_path)
        started = (process.here(record["pid"], record.get("pid_namespace", "")), record["digest"], record["venv"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return True
    venv = "" if described.vllm_in_image else described.venv
    return started != (pid, instances.digest(config, described.dump()), venv)


def forget(name: str, config_dir: str = instances.CONFIG_DIR) -> None:
    """Remove all generations but the one in use."""
    for kind in KINDS:
        _remove(name, directory(kind, config_dir))


def _paths(name: str, folder: str) -> list[str]:
    return [os.path.join(folder, f"{name}.{suffix}") for suffix in SUFFIXES]


def _copy(name: str, source: str, target: str) -> None:
    """With owner and mode, for one of the files may hold keys."""
    if not os.path.isdir(target):
        os.makedirs(target)
        _own(target, os.stat(source))
    for read, written in zip(_paths(name, source), _paths(name, target)):
        with open(read, encoding="utf-8") as stream:
            status = os.fstat(stream.fileno())
            files.replace(written, stream.read(), 0o600, sync=True)
        _own(written, status)


def _own(path: str, like: os.stat_result) -> None:
    os.chown(path, like.st_uid, like.st_gid)
    os.chmod(path, like.st_mode & 0o7777)


def _remove(name: str, folder: str) -> None:
    for path in _paths(name, folder):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
