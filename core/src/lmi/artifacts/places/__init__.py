# SPDX-License-Identifier: Apache-2.0
"""Where a model's files are: a folder, an archive, an object store, the hub; listed, read in parts, brought here."""
