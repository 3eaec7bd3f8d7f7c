# SPDX-License-Identifier: Apache-2.0
"""Build what an engine needs ahead of time, in a process like a worker, and say in a manifest what it was made of."""
