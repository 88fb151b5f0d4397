#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_acceptance
short_description: Try the NVIDIA GPUs of a host before it joins
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Judges the GPUs as M(inferops.vllm.gpu_health) does, then has each work for a second. All of its free memory is
    written and read back twice, its tensor cores multiply matrices whose product is known, and copies within it, to
    and from the host and to the next GPU are timed.
  - Where DCGM is installed its diagnostics run as well.
  - Needs the driver and nothing else, so that a host can be tried before anything is installed on it.
  - Refuses to disturb, where a process computes on one of the GPUs.
  - Prints one line of JSON for each host, with C("ok") true or false.
attributes:
  action:
    description: Has a half on the controller, which prints the line.
    support: full
  check_mode:
    description: Can run in check mode.
    details: Judges, and has no GPU work.
    support: partial
  diff_mode:
    description: There is never a difference.
    support: none
extends_documentation_fragment:
  - inferops.vllm.gpu
options:
  minimum:
    description:
      - Speed that each GPU must reach. What is not given is not judged.
      - A GPU that reaches less than 85 % of what the others of its model on this host do is not accepted in any case,
        where there are three or more.
    type: dict
    default: {}
    suboptions:
      compute_tflops:
        description:
          - Products of matrices in bfloat16, in 10^12 operations a second.
          - An H200 reaches about 630 by the instruction that is used here, which all cards since Ampere have.
        type: float
      memory_gbps:
        description: Its own memory, read and written, in 10^9 bytes a second. An H200 reaches about 4300.
        type: float
      to_device_gbps:
        description: Copies from the host, in 10^9 bytes a second. PCIe 5.0 with 16 lanes reaches about 55.
        type: float
      from_device_gbps:
        description: Copies to the host, in 10^9 bytes a second.
        type: float
      peer_gbps:
        description: Copies to the next GPU of the host, in 10^9 bytes a second. Not for a host with one GPU.
        type: float
  fail_on:
    description: The mildest verdict with which a host is not accepted.
    type: str
    choices: [degraded, drain, unhealthy]
    default: degraded
  dcgm_level:
    description:
      - Level of C(dcgmi diag), from V(1), which takes seconds, to V(4), which takes hours; V(0) does without it.
      - Where DCGM is not installed none is run, and RV(dcgm) says so.
    type: int
    choices: [0, 1, 2, 3, 4]
    default: 1
  smoke_timeout_seconds:
    description: Seconds that each GPU has for its work.
    type: int
    default: 120
seealso:
  - module: inferops.vllm.gpu_health
"""

EXAMPLES = r"""
- name: Try the GPUs
  inferops.vllm.gpu_acceptance:
    expect:
      count: 8
      name: H200
      nvlinks_active: 18
    minimum:
      compute_tflops: 550
      memory_gbps: 4000
    dcgm_level: 2
"""

RETURN = r"""
ok:
  description: Whether the host is accepted.
  type: bool
  returned: always
  sample: true
reasons:
  description: Why it is not, one sentence each.
  type: list
  elements: str
  returned: always
  sample: ["GPU 3: 12 words of its memory did not hold what was written"]
state:
  description: Verdict on the host, as M(inferops.vllm.gpu_health) has it.
  type: str
  returned: always
  sample: ok
driver:
  description: Version of the driver that runs.
  type: str
  returned: always
  sample: 580.159.04
gpus:
  description:
    - What each GPU did; V(null) where it could not be measured.
    - Bytes of memory that were tested, words and products that were wrong, and speeds in the units of O(minimum).
  type: list
  elements: dict
  returned: always
  sample:
    - index: 0
      name: NVIDIA H200
      uuid: GPU-00000000-0000-0000-0000-000000000000
      error: ""
      unresponsive: false
      memory_tested_bytes: 149018509312
      memory_errors: 0
      compute_errors: 0
      compute_tflops: 633.7
      memory_gbps: 4309.4
      to_device_gbps: 55.1
      from_device_gbps: 55.0
      peer_gbps: null
dcgm:
  description:
    - The C(level) of the diagnostics that were run, V(0) for none, C(error) where they could not be, and the
      C(failures) of their tests, which are among the RV(reasons) too.
  type: dict
  returned: always
  sample: {"level": 1, "error": "", "failures": []}
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._driver import look
from ansible_collections.inferops.vllm.plugins.module_utils._driver.faults import faults
from ansible_collections.inferops.vllm.plugins.module_utils._gpu import acceptance, dcgm, smoke
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.arguments import ARGUMENTS
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Gpu
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.survey import survey
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.verdict import STATES, Expectation, Limits, judge


def try_all(gpus: list[Gpu], deadline_seconds: float) -> list[smoke.SmokeTest]:
    """One after another: together they would share the way to the host."""
    addresses = [gpu.pci_address or "" for gpu in gpus]
    following = addresses[1:] + addresses[:1] if len(addresses) > 1 else [""] * len(addresses)
    return [
        smoke.test(gpu.index, address, peer, deadline_seconds) for gpu, address, peer in zip(gpus, addresses, following)
    ]


def run(module: AnsibleModule) -> dict:
    params = module.params
    found = survey(params["timeout_seconds"])
    expectation, limits = Expectation(**params["expect"]), Limits(**params["limits"])
    verdict = judge(found.node, found.events, {}, expectation, limits, {}, {}, list(faults(look.files()).values()))
    gpus = acceptance.testable(found.node)
    disturbed = list(acceptance.users(gpus))
    works = not (disturbed or module.check_mode)
    diagnosis = dcgm.diagnose(params["dcgm_level"]) if works and params["dcgm_level"] else dcgm.Diagnosis()
    tests = try_all(gpus, params["smoke_timeout_seconds"]) if works else []
    models = {gpu.index: gpu.name or "" for gpu in gpus}
    reasons = acceptance.reasons(
        verdict, params["fail_on"], tests, models, acceptance.Minimum(**params["minimum"]), diagnosis
    )
    reasons += [f"{user}: drain its instances and stop it, then try again" for user in disturbed]
    if not found.node.gpus:
        reasons.append(f"no GPU can be seen{f': {found.node.error}' if found.node.error else ''}")
    names = {gpu.index: {"name": gpu.name, "uuid": gpu.uuid} for gpu in gpus}
    return {
        "changed": False,
        "ok": not reasons,
        "reasons": list(dict.fromkeys(reasons)),
        "state": verdict.state,
        "driver": found.node.driver.loaded or found.node.driver.library,
        "gpus": [{**names[test.index], **asdict(test)} for test in tests],
        "dcgm": asdict(diagnosis),
    }


def main() -> None:
    speeds = {name: {"type": "float"} for name in acceptance.SPEEDS}
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "minimum": {"type": "dict", "default": {}, "options": speeds},
            "fail_on": {"type": "str", "default": "degraded", "choices": list(STATES[1:])},
            "dcgm_level": {"type": "int", "default": 1, "choices": [0, *dcgm.SECONDS]},
            "smoke_timeout_seconds": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    for name in ("timeout_seconds", "smoke_timeout_seconds"):
        if module.params[name] < 1:
            module.fail_json(msg=f"{name} is {module.params[name]}: write 1 or more")
    result = run(module)
    if not result["ok"]:
        module.fail_json(msg=f"the GPUs are not accepted: {'; '.join(result['reasons'])}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
