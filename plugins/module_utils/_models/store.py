# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models on a node: complete under <root>/<name>/<revision>, or absent.

A model grows in <root>/<name>/.<revision>.partial and moves to its place by one rename, once each file is verified:

    files/          verified files, where they will be in the model
    parts/          files on their way: not verified, perhaps not complete
    journal.json    what is verified, so that what an interrupted run did is not done again
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .manifest import File, Manifest, ModelError, blob_of, check_weights, human, in_threads, sha256_of

MARKER = ".inferops.json"
JOURNAL = "journal.json"
EMPTY_SHA256 = hashlib.sha256().hexdigest()
DIRECTORY_MODE = 0o755
FILE_MODE = 0o644

ABSENT = "absent"
DAMAGED = "damaged"
OUTDATED = "outdated"
PRESENT = "present"


@dataclass(frozen=True)
class Ownership:
    """Who owns what is stored; -1 leaves it to whoever runs this."""

    uid: int = -1
    gid: int = -1

    def differs(self, path: str) -> bool:
        found = os.lstat(path)
        wanted_mode = DIRECTORY_MODE if stat.S_ISDIR(found.st_mode) else FILE_MODE
        return (
            stat.S_IMODE(found.st_mode) != wanted_mode
            or self.uid not in (-1, found.st_uid)
            or self.gid not in (-1, found.st_gid)
        )

    def apply(self, path: str) -> None:
        try:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
            os.chmod(path, DIRECTORY_MODE if os.path.isdir(path) else FILE_MODE)
        except PermissionError as error:
            raise ModelError(f"cannot set owner and mode of {path}: run the task with become") from error


@dataclass(frozen=True)
class Place:
    """Where one revision of a model stands, or will."""

    root: str
    name: str
    revision: str

    @property
    def home(self) -> str:
        return os.path.join(self.root, self.name)

    @property
    def path(self) -> str:
        return os.path.join(self.home, self.revision)

    @property
    def partial(self) -> str:
        return os.path.join(self.home, f".{self.revision}.partial")

    def stored(self) -> Manifest | None:
        """What was stored here, by the marker that is written last."""
        return _marked(self.path)

    def state(self, wanted: Manifest | None) -> str:
        """By sizes and the marker alone: to read all weights again would take minutes. A hub's commit never changes."""
        stored = self.stored()
        if stored is None:
            return DAMAGED if os.path.lexists(self.path) else ABSENT
        if wanted is not None and stored.digest != wanted.digest:
            return OUTDATED
        intact = all(_has_size(os.path.join(self.path, file.path), file.size) for file in stored.files)
        return PRESENT if intact else DAMAGED

    def astray(self, ownership: Ownership) -> list[str]:
        """Paths of the stored model with another owner or mode than they should have."""
        stored = self.stored()
        paths = [self.root, self.home, *_tree(self.path, stored.files if stored else ())]
        return [path for path in paths if os.path.lexists(path) and ownership.differs(path)]

    def clean(self) -> None:
        """Remove what is of no use once the model is stored: attempts at it, at other revisions too."""
        for leftover in glob.glob(os.path.join(glob.escape(self.home), ".*.partial")):
            shutil.rmtree(leftover)


@contextlib.contextmanager
def locked(place: Place, ownership: Ownership) -> Iterator[int]:
    """Make the model's home and keep other runs out of it. Yields the lock's descriptor, for a child to hold too."""
    _make_directory(place.root, ownership)
    _make_directory(place.home, ownership)
    lock = os.open(os.path.join(place.home, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(lock, place)
        yield lock
    finally:
        os.close(lock)


def _lock(descriptor: int, place: Place) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ModelError(
            f"another run is storing {place.name} on this host: wait until it is done, then run again"
        ) from error


class Staging:
    """A model that grows until it is complete."""

    def __init__(self, place: Place, manifest: Manifest, ownership: Ownership) -> None:
        self.place = place
        self.manifest = manifest
        self.ownership = ownership
        self.files = os.path.join(place.partial, "files")
        self.parts = os.path.join(place.partial, "parts")
        self._journal = os.path.join(place.partial, JOURNAL)
        self._verified: dict[str, str] = {}
        """SHA-256 of each file in files/."""
        self._mutex = threading.Lock()
        journal = _read_json(self._journal)
        self._resumes = journal is not None and journal.get("expected") == manifest.expected
        if journal and self._resumes:
            self._verified = journal["verified"]

    def begin(self) -> None:
        """Go on where an earlier run ended. Had that run other contents in mind, it only lends what is of use."""
        if os.path.lexists(self.place.partial) and not self._resumes:
            stale = os.path.join(self.place.home, f".{self.place.revision}.stale.partial")
            shutil.rmtree(stale, ignore_errors=True)
            os.rename(self.place.partial, stale)
        os.makedirs(self.parts, exist_ok=True)
        os.makedirs(self.files, exist_ok=True)
        self._write_journal()
        self._link()

    def _write_journal(self) -> None:
        _write_json(self._journal, {"expected": self.manifest.expected, "verified": self._verified})

    def missing(self) -> list[File]:
        return [file for file in self.manifest.files if not self._has(file)]

    def _has(self, file: File) -> bool:
        return file.path in self._verified and _has_size(os.path.join(self.files, file.path), file.size)

    def linkable(self) -> dict[str, str]:
        """Missing files that another stored model has: {path in this model: path on the node}."""
        donors = _donors(self.place.root)
        found = {file.path: donors.get(file.sha256, "") for file in self.missing() if file.sha256}
        sizes = {file.path: file.size for file in self.manifest.files}
        return {path: donor for path, donor in found.items() if donor and _has_size(donor, sizes[path])}

    def _link(self) -> None:
        """Take from other stored models what they have: the same weights are never fetched twice."""
        donors = self.linkable()
        parts = []
        for file in self.missing():
            part = os.path.join(self.parts, file.path)
            # A file system may know no hard links: then the file is fetched after all.
            with contextlib.suppress(OSError, KeyError):
                os.makedirs(os.path.dirname(part), exist_ok=True)
                os.link(donors[file.path], f"{part}.link")
                os.rename(f"{part}.link", part)
                parts.append((file, part))
        # Nor is a donor that rotted a reason to fail.
        in_threads(lambda pair: self._take(*pair), parts)

    def require_space(self) -> None:
        needed = sum(file.size - _size(os.path.join(self.parts, file.path)) for file in self.missing())
        free = free_bytes(self.place.root)
        if needed > free:
            raise ModelError(
                f"{self.place.name} needs {human(needed)} more in {self.place.root}, where {human(free)} are free:"
                " make room, or choose a root on a larger file system"
            )

    def accept(self, incoming: Mapping[str, str]) -> None:
        """Take in files that arrived somewhere on the node: {path in this model: where it lies}."""
        by_path = {file.path: file for file in self.missing()}
        wanted = [(by_path[path], source) for path, source in incoming.items() if path in by_path]
        bad = [reason for reason in in_threads(lambda pair: self._take(*pair), wanted) if reason]
        if bad:
            raise ModelError(f"{bad[0]}: it was altered on the way or at its source; nothing was stored, so run again")

    def _take(self, file: File, source: str) -> str:
        """Move a verified file into the model; else remove it and return what is wrong with it."""
        part, final = os.path.join(self.parts, file.path), os.path.join(self.files, file.path)
        if source != part:
            os.makedirs(os.path.dirname(part), exist_ok=True)
            shutil.move(source, part)
        found, reason = _verify(part, file)
        if reason:
            os.unlink(part)
            return reason
        _sync(part)
        with self._mutex:
            os.makedirs(os.path.dirname(final), exist_ok=True)
            os.rename(part, final)
            self._verified[file.path] = found
            self._write_journal()
        return ""

    def commit(self, model: str) -> None:
        """Put the complete model in its place. From here on it counts as stored."""
        stored = Manifest.of(File(file.path, file.size, self._verified[file.path]) for file in self.manifest.files)
        marker = {"model": model, "revision": self.place.revision, "digest": stored.digest, "files": stored.as_list()}
        _write_json(os.path.join(self.files, MARKER), marker)
        for path in reversed(_tree(self.files, stored.files)):
            self.ownership.apply(path)
            if os.path.isdir(path):
                _sync(path)
        self._replace()
        self.place.clean()

    def _replace(self) -> None:
        """Damaged or outdated files are gone for no longer than it takes to rename twice."""
        old = os.path.join(self.place.partial, "replaced")
        shutil.rmtree(old, ignore_errors=True)
        if os.path.lexists(self.place.path):
            os.rename(self.place.path, old)
        os.rename(self.files, self.place.path)
        _sync(self.place.home)


def free_bytes(path: str) -> int:
    """Free space for a path, of which the last parts may not exist yet."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _verify(path: str, file: File) -> tuple[str, str]:
    """The SHA-256 of a file, and what is wrong with it or an empty string."""
    size = _size(path)
    if size != file.size:
        return "", f"{file.path} arrived with {size} bytes instead of {file.size}"
    found = sha256_of(path)
    if file.sha256 and found != file.sha256:
        return found, f"{file.path} arrived with SHA-256 {found} instead of {file.sha256}"
    if not file.sha256 and (blob := blob_of(path, size)) != file.blob:
        return found, f"{file.path} arrived as Git blob {blob} instead of {file.blob}"
    try:
        check_weights(path, file.path)
    except ModelError as error:
        return found, str(error)
    return found, ""


def _donors(root: str) -> dict[str, str]:
    """Verified files of all models, complete or not, by their SHA-256; empty files left out."""
    donors = {}
    for marker in glob.glob(os.path.join(glob.escape(root), "*", "*", MARKER)):
        folder = os.path.dirname(marker)
        stored = _marked(folder)
        for file in stored.files if stored else ():
            donors[file.sha256] = os.path.join(folder, file.path)
    for journal in glob.glob(os.path.join(glob.escape(root), "*", ".*.partial", JOURNAL)):
        verified = (_read_json(journal) or {}).get("verified", {})
        for path, sha256 in verified.items():
            donors.setdefault(sha256, os.path.join(os.path.dirname(journal), "files", path))
    donors.pop(EMPTY_SHA256, None)
    return donors


def _marked(folder: str) -> Manifest | None:
    marker = _read_json(os.path.join(folder, MARKER))
    try:
        return Manifest.parse(marker["files"]) if marker else None
    except (KeyError, TypeError, ValueError, ModelError):
        return None


def _tree(folder: str, files: Iterable[File]) -> list[str]:
    """A model's directories and files, outer ones first, the marker included."""
    paths = {folder, os.path.join(folder, MARKER)}
    for file in files:
        parts = file.path.split("/")
        paths.update(os.path.join(folder, *parts[: depth + 1]) for depth in range(len(parts)))
    return sorted(paths)


def _make_directory(path: str, ownership: Ownership) -> None:
    if os.path.isdir(path):
        return
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot create {path} ({error.strerror}): run the task with become, or correct root"
        ) from error
    ownership.apply(path)


def _size(path: str) -> int:
    """The size of a file, 0 where there is none."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _has_size(path: str, size: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _sync(path: str) -> None:
    """Have a file or directory survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_json(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write_json(path: str, value: object) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(f"{path}.new", path)
