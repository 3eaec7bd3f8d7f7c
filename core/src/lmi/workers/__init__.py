# SPDX-License-Identifier: Apache-2.0
"""Worker processes: starting, watching and restarting them, and the wire between them and the server."""
