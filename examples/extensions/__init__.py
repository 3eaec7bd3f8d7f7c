# SPDX-License-Identifier: Apache-2.0
"""Five little extensions of LMI, one a file; docs/write-an-extension.md walks through them."""
