# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests find the client of the benchmarks."""

import os
import sys

sys.path.insert(0, os.environ["MOLECULE_PROJECT_DIRECTORY"])
