# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a node's GPUs and their driver. Standard library only, Python 3.9 or newer.

The modules import these files from the collection; the node runs the very same files from its library directory.
"""
