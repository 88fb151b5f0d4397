# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What needs a real GPU: `looks` times looks at it, the other parts make this host a node and break its servers.

Without a part it looks, which changes nothing. The others, in their order, want root and a host to spare.
"""

from __future__ import annotations

import argparse

from bench.gpu import looks, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", default=["looks"], metavar="PART", help=f"looks, {', '.join(serve.PARTS)}")
    parser.add_argument("--times", type=int, default=20, metavar="N", help="looks of each kind; the median is told")
    chosen = parser.parse_args()
    parts = {"looks": lambda: looks.measure(chosen.times), **serve.PARTS}
    unknown = sorted(set(chosen.parts) - set(parts))
    if unknown:
        parser.error(f"there is no part {unknown[0]}: there are {', '.join(parts)}")
    for part in chosen.parts:
        parts[part]()


if __name__ == "__main__":
    main()
