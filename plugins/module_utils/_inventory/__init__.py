# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong with an inventory, and with a host for it: pure functions from words and facts to sentences.

A problem is one sentence that names the variable, its value and the remedy; `check.check` puts the host in front.
Whatever the words hold, a check answers with sentences and never raises. Runs on the controller only, but
for its wording.
"""
