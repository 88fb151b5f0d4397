# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a directory. Its checksums are kept between runs, so that any number of hosts costs one reading.

Runs on the controller.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .manifest import File, Manifest, ModelError, check_weights, in_threads, sha256_of


@dataclass(frozen=True)
class Found:
    """A file of the directory. Its key changes whenever the file does."""

    path: str
    real: str
    size: int
    mtime_ns: int
    inode: int

    @property
    def key(self) -> str:
        return json.dumps([self.real, self.size, self.mtime_ns, self.inode])


def cache_directory() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "inferops.vllm", "digests")


def manifest_of(directory: str) -> Manifest:
    """The files below a directory but for hidden ones, with their checksums."""
    # One process reads, all others that want the same directory wait for what it found.
    with _locked(directory) as cache:
        known = _load(cache)
        files = _scan(directory)
        if not files:
            raise ModelError(f"model directory {directory} holds no files: correct model, or put them there")
        missing = [file for file in files if file.key not in known]
        known.update(zip((file.key for file in missing), in_threads(_read, missing)))
        if missing:
            _save(cache, {file.key: known[file.key] for file in files})
    return Manifest.of(File(file.path, file.size, known[file.key]) for file in files)


@contextmanager
def _locked(directory: str) -> Iterator[str]:
    """Hold the directory's lock; yields the path of its cache."""
    parent = cache_directory()
    cache = os.path.join(parent, hashlib.sha256(os.path.realpath(directory).encode()).hexdigest()[:16])
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        lock = os.open(f"{cache}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ModelError(
            f"cannot keep checksums in {parent} ({error.strerror}): set XDG_CACHE_HOME to a directory of yours"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield f"{cache}.json"
    finally:
        os.close(lock)


def _load(cache: str) -> dict[str, str]:
    try:
        with open(cache, encoding="utf-8") as stream:
            known = json.load(stream)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _save(cache: str, known: dict[str, str]) -> None:
    with open(f"{cache}.new", "w", encoding="utf-8") as stream:
        json.dump(known, stream)
    os.replace(f"{cache}.new", cache)


def _scan(directory: str, prefix: str = "", above: tuple[str, ...] = ()) -> list[Found]:
    """All files, links followed: the hub's own cache, for one, is made of links."""
    real = os.path.realpath(directory)
    if real in above:
        raise ModelError(f"{directory} is a link to a directory above itself: remove it")
    found: list[Found] = []
    try:
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += _scan(entry.path, f"{prefix}{entry.name}/", (*above, real))
                continue
            if not entry.is_file():
                raise ModelError(f"{entry.path} is a broken link or no regular file: replace or remove it")
            status = entry.stat()
            path = f"{prefix}{entry.name}"
            found.append(Found(path, os.path.realpath(entry.path), status.st_size, status.st_mtime_ns, status.st_ino))
    except PermissionError as error:
        raise ModelError(f"{error.filename} cannot be read on the controller: change its permissions") from error
    return found


def _read(file: Found) -> str:
    try:
        check_weights(file.real, file.real)
        digest = sha256_of(file.real)
        status = os.stat(file.real)
    except OSError as error:
        raise ModelError(f"{file.real} cannot be read on the controller: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns, status.st_ino) != (file.size, file.mtime_ns, file.inode):
        raise ModelError(f"{file.real} changed while it was read: run again once it is complete")
    return digest
