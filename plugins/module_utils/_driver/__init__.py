# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's driver on a host: what to install and how to keep it so, what is there, and what is wrong with it.

Pure Python of the standard library, without Ansible. Private to this collection.
"""
