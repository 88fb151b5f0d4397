# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is there of an instance's model on the controller. What a model is, is said by the module_utils `_models`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from .._models.sources import directory_of


@dataclass(frozen=True)
class Model:
    """Where the weights come from."""

    directory: str | None
    """Absolute path on the controller; None for what is no path, a hub id most likely."""
    exists: bool = False
    has_config: bool = False
    size_bytes: int = 0

    def stored_as(self, model: str) -> str:
        """Name of its directory on the host, which holds one directory for each revision."""
        return model.replace("/", "--") if self.directory is None else os.path.basename(self.directory)


def find(model: str, base: str) -> Model:
    """Look for a model; a relative path counts from `base`, the directory of the playbook."""
    directory = None if "\0" in model else directory_of(model, base)
    if directory is None:
        return Model(None)
    if not os.path.isfile(os.path.join(directory, "config.json")):
        return Model(directory, exists=os.path.isdir(directory))
    return Model(directory, exists=True, has_config=True, size_bytes=sum(map(os.path.getsize, _files(directory))))


def _files(directory: str) -> Iterator[str]:
    """All files but hidden ones, which are not stored; those behind links too, as a hub's cache has only links."""
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (os.path.join(folder, name) for name in names if not name.startswith("."))
        yield from filter(os.path.isfile, paths)
