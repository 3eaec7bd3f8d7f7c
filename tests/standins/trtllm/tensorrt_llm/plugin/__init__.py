# SPDX-License-Identifier: Apache-2.0
"""Stand-in: plugins of a build."""
