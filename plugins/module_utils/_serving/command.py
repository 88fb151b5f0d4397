# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm-instance: what the runtimes start an instance with.

`vllm-instance check NAME` runs as root before each start and `vllm-instance run NAME` as the service user;
`vllm-instance tend NAME` does both as root, and stays until the server has gone.
"""

from __future__ import annotations

import argparse
import time

from . import instance as instances
from . import launch
from .instance import Instance
from .tend import Tender


def tend(instance: Instance) -> None:
    raise SystemExit(Tender(instance).run())


def main() -> None:
    parser = argparse.ArgumentParser(prog="vllm-instance", description=__doc__)
    verbs = {"check": launch.check, "run": launch.run, "tend": tend}
    parser.add_argument("verb", choices=list(verbs))
    parser.add_argument("name")
    arguments = parser.parse_args()
    try:
        verbs[arguments.verb](instances.load(arguments.name))
    except (launch.CannotStart, OSError, ValueError) as error:
        time.sleep(launch.REFUSAL_SECONDS)
        raise SystemExit(f"vllm-instance: {arguments.name}: {error}") from error
