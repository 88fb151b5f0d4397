#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: model
short_description: Store models on a host, complete or not at all
version_added: "0.1.0"
author: The inferops authors (@inferops)
description:
  - Brings the models of a host's instances to C(<root>/<name>/<revision>), from a hub such as Hugging Face's or from a
    directory on the controller. A model that several instances share is stored once.
  - A model is complete or absent. Its files are verified by size and checksum, then the model appears by one rename;
    an interrupted run is continued by the next one.
  - What a stored model already has, by checksum, is linked instead of fetched.
  - A stored model is known by its marker file and the sizes of its files; its contents are not read again.
  - Files whose names start with a dot are left out, and of a hub's model with safetensors also the copies of its
    weights in other formats.
attributes:
  check_mode:
    description: Reports what would be stored, with the number and size of the files to fetch, and changes nothing.
    support: full
  diff_mode:
    description: Shows for each model its state, files and size, and what there is to fetch.
    support: full
options:
  models:
    description:
      - Instances, each a dictionary with C(name), C(model) and C(revision). Other keys are not looked at, so that
        C(vllm_instances) can be given as it is.
      - C(model) is a hub id such as C(org/name), or a directory on the controller, absolute or relative to the
        playbook. C(./a/b) is a directory, C(a/b) is none.
      - C(revision) of a hub id is a commit of 40 hexadecimal digits. For a directory it is a name of your choice, by
        default the first 12 digits of the checksum of its contents.
    type: list
    elements: dict
    required: true
  root:
    description: Directory on the host that holds all models; created where missing.
    type: path
    default: /var/lib/vllm/models
  owner:
    description: User that owns what is stored, by default the user that the task runs as. Everybody may read it.
    type: str
  group:
    description: Group of what is stored, by default the group that the task runs as.
    type: str
  python:
    description: Interpreter on the host that has C(huggingface_hub); used for hub ids alone.
    type: path
    default: /opt/vllm/current/bin/python
  endpoint:
    description: URL of a hub to use instead of C(https://huggingface.co), without credentials.
    type: str
  token_file:
    description:
      - File on the controller with a token for gated or private models, on one line. It may be encrypted with Vault.
      - The token reaches the process that downloads, and nothing else, by its environment.
    type: path
  _step:
    description: Internal use only. What the action plugin asks of the host.
    type: dict
  _token:
    description: Internal use only. The token that the action plugin read.
    type: str
notes:
  - A file of a directory goes through Ansible's temporary directory on the host (C(ansible_remote_tmp)), which must
    have room for the largest one.
  - The checksums of a directory's files are kept on the controller below C($XDG_CACHE_HOME/inferops.vllm), by the
    files' paths, sizes and times.
"""

EXAMPLES = r"""
- name: Store a model of the hub
  inferops.vllm.model:
    models:
      - name: qwen3vl
        model: Qwen/Qwen3-VL-8B-Instruct
        revision: 0123456789abcdef0123456789abcdef01234567
    token_file: ~/.secrets/hub-token

- name: Store a model of the controller
  inferops.vllm.model:
    models:
      - name: house
        model: /srv/models/house-assistant
    owner: root
    group: root
"""

RETURN = r"""
ansible_facts:
  description: Facts to add to C(ansible_facts).
  returned: success
  type: dict
  contains:
    vllm_model_paths:
      description: Directory on the host of each instance's model, by the instance's name.
      type: dict
      sample: {"qwen3vl": "/var/lib/vllm/models/Qwen--Qwen3-VL-8B-Instruct/0123456789abcdef0123456789abcdef01234567"}
models:
  description: The models, each once.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the model on the host.
      type: str
      sample: Qwen--Qwen3-VL-8B-Instruct
    revision:
      description: The commit, or the name or checksum of the directory's contents.
      type: str
    path:
      description: Directory on the host.
      type: str
    instances:
      description: Names of the instances that share the model.
      type: list
      elements: str
    changed:
      description: Whether the model was stored, or its owner or modes were set, or would be.
      type: bool
    state:
      description:
        - What was found. V(absent), V(present), V(damaged) where files are missing or have other sizes than stored,
          V(outdated) where a directory has other contents than were stored under its revision.
      type: str
    files:
      description: Number of files; not given where it takes a hub to tell and V(python) does not exist yet.
      type: int
    bytes:
      description: Size of all files in bytes; given as RV(models[].files) is.
      type: int
    fetch_files:
      description: Number of files that were, or would be, fetched; given as RV(models[].files) is.
      type: int
    fetch_bytes:
      description: Size in bytes of the files that were, or would be, fetched; given as RV(models[].files) is.
      type: int
    seconds:
      description: Seconds that the model took.
      type: float
"""

import grp
import json
import os
import pkgutil
import pwd

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._models import hub
from ansible_collections.inferops.vllm.plugins.module_utils._models.arguments import options
from ansible_collections.inferops.vllm.plugins.module_utils._models.manifest import Manifest, ModelError
from ansible_collections.inferops.vllm.plugins.module_utils._models.store import (
    PRESENT,
    Ownership,
    Place,
    Staging,
    locked,
)

# A certificate authority of the operator's is known to the system, not to Python's own list.
SYSTEM_CA = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class Sent:
    """A model whose files the controller sends."""

    def __init__(self, files: list) -> None:
        self.known = Manifest.parse(files)

    def manifest(self) -> Manifest:
        return self.known

    def available(self) -> bool:
        return True

    def fetch(self, staging: Staging, lock: int) -> None:
        """The controller does."""


class Hub:
    """A model of a hub, seen through the Python of vLLM's environment."""

    known = None

    def __init__(self, module: AnsibleModule, model: dict) -> None:
        self._module = module
        self._model = model

    def manifest(self) -> Manifest:
        return Manifest.parse(self._ask("files")["files"])

    def fetch(self, staging: Staging, lock: int) -> None:
        files = [file.as_dict() for file in staging.missing()]
        self._ask("download", lock, files=files, parts=staging.parts)
        staging.accept({file["path"]: os.path.join(staging.parts, file["path"]) for file in files})

    def available(self) -> bool:
        return os.access(self._module.params["python"], os.X_OK)

    def _ask(self, action: str, *inherited: int, **job: object) -> dict:
        """Run the helper. It holds the lock as well, should this process be killed before it ends."""
        python = self._module.params["python"]
        if not self.available():
            raise ModelError(f"{python} does not exist: install vLLM's environment first, or correct python")
        script = os.path.join(self._module.tmpdir, "hub.py")
        with open(script, "wb") as stream:
            stream.write(pkgutil.get_data(hub.__package__, "hub.py") or b"")
        job.update(do=action, model=self._model["model"], revision=self._model["revision"])
        status, output, errors = self._module.run_command(
            [python, "-I", script], data=json.dumps(job), environ_update=self._environment(), pass_fds=inherited
        )
        try:
            result = json.loads(output)
        except ValueError:
            last = (errors.strip().splitlines() or ["it said nothing"])[-1]
            raise ModelError(f"the download of {self._model['model']} ended with status {status}: {last}") from None
        if "error" in result:
            raise ModelError(result["error"])
        return result

    def _environment(self) -> dict:
        environment = {
            "HF_HOME": self._module.tmpdir,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": self._module.params["_token"] or "",
            "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0",
        }
        if self._module.params["endpoint"]:
            # With Xet the files would come from the public hub's storage, past the mirror.
            environment.update(HF_ENDPOINT=self._module.params["endpoint"], HF_HUB_DISABLE_XET="1")
        bundle = next(filter(os.path.exists, SYSTEM_CA), None)
        if bundle and "SSL_CERT_FILE" not in os.environ:
            environment.update(SSL_CERT_FILE=bundle, REQUESTS_CA_BUNDLE=bundle)
        return environment


class Model:
    """One model on this host."""

    def __init__(self, module: AnsibleModule, model: dict) -> None:
        self._module = module
        self._name = model["model"]
        self._place = Place(module.params["root"], model["name"], model["revision"])
        self._ownership = ownership(module)
        self._source = Sent(model["files"]) if "files" in model else Hub(module, model)

    def inspect(self) -> dict:
        """What is there and what there is to fetch; a hub is asked in check mode alone, where nothing else follows."""
        state = self._place.state(self._source.known)
        untidy = os.path.lexists(self._place.partial) or bool(self._place.astray(self._ownership))
        report = {"state": state, "changed": state != PRESENT or untidy}
        stored = self._place.stored()
        if state == PRESENT and stored:
            return {**report, **numbers(stored, [])}
        if not self._module.check_mode or not self._source.available():
            return report
        manifest = self._source.manifest()
        staging = Staging(self._place, manifest, self._ownership)
        linkable = staging.linkable()
        return {**report, **numbers(manifest, [file for file in staging.missing() if file.path not in linkable])}

    def store(self, incoming: dict) -> dict:
        """Do what can be done here and now. Where files have yet to be sent, says which; else the model is stored."""
        result: dict = {"missing": []}
        with locked(self._place, self._ownership) as lock:
            if self._place.state(self._source.known) == PRESENT:
                self._place.clean()
            else:
                result = self._grow(incoming, lock)
            for path in self._place.astray(self._ownership):
                self._ownership.apply(path)
        return result

    def _grow(self, incoming: dict, lock: int) -> dict:
        staging = Staging(self._place, self._source.manifest(), self._ownership)
        staging.begin()
        staging.accept(incoming)
        staging.require_space()
        report = numbers(staging.manifest, staging.missing())
        if staging.missing():
            self._source.fetch(staging, lock)
        missing = [file.path for file in staging.missing()]
        if not missing:
            staging.commit(self._name)
        return {"missing": missing, **report}


def numbers(manifest: Manifest, missing: list) -> dict:
    return {
        "files": len(manifest.files),
        "bytes": manifest.bytes,
        "fetch_files": len(missing),
        "fetch_bytes": sum(file.size for file in missing),
    }


def ownership(module: AnsibleModule) -> Ownership:
    owner, group = module.params["owner"], module.params["group"]
    try:
        uid = pwd.getpwnam(owner).pw_uid if owner else os.geteuid()
        gid = grp.getgrnam(group).gr_gid if group else os.getegid()
    except KeyError:
        if module.check_mode:  # An earlier task would have created them.
            return Ownership()
        raise ModelError(f"owner {owner!r} or group {group!r} is not known on this host: create it first") from None
    return Ownership(uid, gid)


def main() -> None:
    module = AnsibleModule(
        # The action plugin finds the models on the controller and asks for one step after another.
        argument_spec={
            **options(),
            "_step": {"type": "dict"},
            "_token": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    step = module.params["_step"]
    if not step:
        module.fail_json(msg="inferops.vllm.model works through its action plugin of the same name, which did not run")
    os.umask(0o022)
    try:
        models = [Model(module, model) for model in step["models"]]
        if step["do"] == "inspect":
            result = {"models": [model.inspect() for model in models]}
        else:
            result = models[0].store(step["incoming"])
    except ModelError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot store below {module.params['root']} ({error}): make room, or correct root")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
