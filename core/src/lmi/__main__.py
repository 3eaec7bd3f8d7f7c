# SPDX-License-Identifier: Apache-2.0
"""``python -m lmi`` is ``lmi``."""

from lmi.cli.main import main

if __name__ == "__main__":
    main()
