# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module of the same name: finds the models, and sends those that are directories here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.inferops.vllm.plugins.module_utils._models.arguments import options
from ansible_collections.inferops.vllm.plugins.module_utils._models.directory import manifest_of
from ansible_collections.inferops.vllm.plugins.module_utils._models.manifest import (
    File,
    Manifest,
    ModelError,
    human,
)
from ansible_collections.inferops.vllm.plugins.module_utils._models.sources import DIRECTORY, Source, sources

# Files sent before the host takes them in: enough to save round trips, few enough to spare its temporary directory.
BATCH_FILES = 32
BATCH_BYTES = 1 << 30
REVISION_DIGITS = 12
NUMBERS = ("files", "bytes", "fetch_files", "fetch_bytes")


@dataclass
class Model:
    """A model to store, with all that its source tells."""

    source: Source
    revision: str
    instances: list[str]
    manifest: Manifest | None

    @property
    def key(self) -> tuple[str, str]:
        return self.source.name, self.revision

    def as_step(self) -> dict[str, Any]:
        step = {
            "model": self.source.model,
            "name": self.source.name,
            "revision": self.revision,
        }
        return {**step, "files": self.manifest.as_list()} if self.manifest else step


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self._vars = task_vars or {}
        try:
            return self._run()
        except ModelError as error:
            raise self._failure(str(error)) from error

    def _failure(self, sentence: str, result: dict[str, Any] | None = None) -> AnsibleActionFail:
        message = f"{self._vars['inventory_hostname']}: {sentence}"
        return AnsibleActionFail(message, result={**(result or {}), "msg": message})

    def _run(self) -> dict[str, Any]:
        _validation, self._options = self.validate_argument_spec(options())
        models = find_models(self._options["models"], self._vars["playbook_dir"])
        check_endpoint(self._options["endpoint"])
        self._token = self._read_token()
        found = self._step("inspect", models)["models"] if models else []
        results = [self._converge(model, report) for model, report in zip(models, found)]
        return {
            "changed": any(result["changed"] for result in results),
            "models": results,
            "ansible_facts": {
                "vllm_model_paths": {name: result["path"] for result in results for name in result["instances"]}
            },
            "diff": [difference(result) for result in results if result["changed"]],
        }

    def _read_token(self) -> str | None:
        path = self._options["token_file"]
        if not path:
            return None
        try:
            plain = self._loader.get_real_file(path, decrypt=True)
            try:
                with open(plain, encoding="utf-8") as stream:
                    token = stream.read().strip()
            finally:
                self._loader.cleanup_tmp_file(plain)
        except (AnsibleError, OSError, ValueError) as error:
            raise ModelError(
                f"token_file {path} cannot be read on the controller: correct it, or make it readable"
            ) from error
        if not token or len(token.split()) > 1:
            raise ModelError(f"token_file {path} does not hold a token on one line: write it there")
        return token

    def _converge(self, model: Model, report: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        name, revision = model.key
        if report["changed"] and not self._task.check_mode:
            report = {**report, **self._store(model)}
        return {
            "state": report["state"],
            "changed": report["changed"],
            **{number: report[number] for number in NUMBERS if number in report},
            "name": name,
            "revision": revision,
            "path": os.path.join(self._options["root"], name, revision),
            "instances": model.instances,
            "seconds": round(time.monotonic() - started, 1),
        }

    def _store(self, model: Model) -> dict[str, Any]:
        """Have the host store a model, sending it what it lacks."""
        first = self._step("store", [model])
        missing = set(first["missing"])
        files = [file for file in model.manifest.files if file.path in missing] if model.manifest else []
        for batch in batches(files):
            self._step("store", [model], self._send(model, batch))
        return {name: first[name] for name in NUMBERS if name in first}

    def _send(self, model: Model, files: list[File]) -> dict[str, str]:
        """Put files into the host's temporary directory, as the connection's user; the module takes them from there."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        tmpdir = self._connection._shell.tmpdir
        sent = {}
        for number, file in enumerate(files):
            remote = self._connection._shell.join_path(tmpdir, f"model-{number}")
            self._transfer_file(os.path.join(model.source.model, file.path), remote)
            sent[file.path] = remote
        self._fixup_perms2((tmpdir, *sent.values()))
        return sent

    def _step(self, action: str, models: list[Model], incoming: dict[str, str] | None = None) -> dict[str, Any]:
        step = {"do": action, "models": [model.as_step() for model in models], "incoming": incoming or {}}
        options_for_host = {name: value for name, value in self._options.items() if name != "token_file"}
        result = self._execute_module(
            module_name="inferops.vllm.model",
            module_args={**options_for_host, "models": [], "_step": step, "_token": self._token},
            task_vars=self._vars,
        )
        if result.get("failed"):
            raise self._failure(result["msg"], result)
        return result


def find_models(instances: list[dict[str, Any]], base: str) -> list[Model]:
    """The models of the instances, each once. Reads the directories among them, or what is known of them."""
    found: dict[tuple[str, str], Model] = {}
    for source, names in sources(instances, base).items():
        manifest = manifest_of(source.model) if source.kind == DIRECTORY else None
        revision = source.revision or (manifest.digest[:REVISION_DIGITS] if manifest else "")
        model = Model(source, revision, names, manifest)
        first = found.setdefault(model.key, model)
        if first is model:
            continue
        if manifest is None or first.manifest != manifest:
            raise ModelError(
                f"instances {first.instances[0]!r} and {names[0]!r} have different models for the same place"
                f" {source.name}/{revision}: give one of them another revision"
            )
        first.instances += names
    return list(found.values())


def check_endpoint(endpoint: str | None) -> None:
    parts = urlsplit(endpoint or "")
    if endpoint and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ModelError(f"endpoint {endpoint!r} is no URL of a hub: write it as https://hub.example.com")
    if parts.username or parts.password:
        raise ModelError("endpoint holds credentials, which would show up in logs: use token_file")


def batches(files: list[File]) -> list[list[File]]:
    """Files in groups: small ones together, large ones alone."""
    groups: list[list[File]] = []
    size = 0
    for file in files:
        if not groups or len(groups[-1]) >= BATCH_FILES or size + file.size > BATCH_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.size
    return groups


def difference(result: dict[str, Any]) -> dict[str, str]:
    before, after = [f"state: {result['state']}"], ["state: present"]
    if result["state"] == "present":
        before, after = ["owner and modes: others"], ["owner and modes: as wanted"]
    elif "files" in result:
        after += [
            f"files: {result['files']}, {human(result['bytes'])}",
            f"to fetch: {result['fetch_files']}, {human(result['fetch_bytes'])}",
        ]
    else:
        after.append("to fetch: known once the environment is installed")
    header = {"before_header": result["path"], "after_header": result["path"]}
    return {**header, "before": "\n".join(before) + "\n", "after": "\n".join(after) + "\n"}
