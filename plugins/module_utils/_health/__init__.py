# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps the instances of a node serving: the policy, the agent that follows it, and cron's watchman.

Standard library only, Python 3.9 or newer.
"""
