# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model consists of: the list of its files, and the checks that a file is what it should be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 1 << 20
HASHING_THREADS = 4
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_POINTER_MAX = 1024


class ModelError(Exception):
    """The message is one sentence for the user."""


@dataclass(frozen=True)
class File:
    """One file of a model. A hub knows the SHA-256 of large files only, and Git's blob id of the others."""

    path: str
    size: int
    sha256: str = ""
    blob: str = ""

    @property
    def expected(self) -> str:
        return f"sha256:{self.sha256}" if self.sha256 else f"blob:{self.blob}"

    @classmethod
    def parse(cls, value: dict[str, Any]) -> File:
        path = str(value["path"])
        if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
            raise ModelError(f"file name {path!r} leads out of its model: the source is not to be trusted")
        return cls(path, int(value["size"]), str(value.get("sha256", "")), str(value.get("blob", "")))

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value != ""}


@dataclass(frozen=True)
class Manifest:
    """All files of a model, in the order of their paths."""

    files: tuple[File, ...]

    @classmethod
    def of(cls, files: Iterable[File]) -> Manifest:
        return cls(tuple(sorted(files, key=lambda file: file.path)))

    @classmethod
    def parse(cls, values: Iterable[dict[str, Any]]) -> Manifest:
        return cls.of(File.parse(value) for value in values)

    def as_list(self) -> list[dict[str, Any]]:
        return [file.as_dict() for file in self.files]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def expected(self) -> str:
        """A key of what is expected of the files, by whatever the source knows of them."""
        return _digest(f"{file.expected} {file.size} {file.path}" for file in self.files)

    @property
    def digest(self) -> str:
        """One SHA-256 for all paths and contents."""
        return _digest(f"{file.sha256} {file.path}" for file in self.files)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def in_threads(function: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """Hashing leaves the interpreter's lock, so that threads use several cores."""
    with ThreadPoolExecutor(max_workers=HASHING_THREADS) as pool:
        return list(pool.map(function, values))


def sha256_of(path: str) -> str:
    return _hash(path, hashlib.sha256())


def blob_of(path: str, size: int) -> str:
    """Git's name for the contents of a file."""
    return _hash(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def _hash(path: str, state: Any) -> str:
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            state.update(chunk)
    return str(state.hexdigest())


def check_weights(path: str, name: str) -> None:
    """Refuse what no checksum tells: a Git LFS pointer in place of the weights, and a truncated safetensors file."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER and size <= LFS_POINTER_MAX:
            raise ModelError(f"{name} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository")
        if not name.endswith(".safetensors"):
            return
        stream.seek(0)
        expected = _safetensors_size(stream.read(8), stream.read, size)
    if expected != size:
        found = "has no valid header" if expected < 0 else f"is {size} bytes long where its header says {expected}"
        raise ModelError(f"{name} is no complete safetensors file (it {found}): fetch it again")


def _safetensors_size(length: bytes, read: Callable[[int], bytes], size: int) -> int:
    """The size that the header promises, or -1 where there is no header."""
    header_size = int.from_bytes(length, "little")
    if len(length) < 8 or header_size > size:
        return -1
    try:
        header = json.loads(read(header_size))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return 8 + header_size + max(ends, default=0)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return -1


def human(size: float) -> str:
    """A size as people write it: 16.4 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
