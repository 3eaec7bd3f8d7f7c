# SPDX-License-Identifier: Apache-2.0
"""An adapter that changes nothing, for requests that name none.

On CPU vLLM answers a request without an adapter, beside one with an adapter, with whichever adapter holds the last
place: its kernels take "none", -1, for an index from the end. So none is an adapter, too.
Source: vLLM 0.32, lora/ops/torch_ops/lora_ops.py and lora/punica_wrapper/utils.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_CONFIG = "adapter_config.json"


def write_no_adapter(folder: Path, adapter: Path) -> None:
    """Write an adapter without effect: another one, scaled by nothing. Its matrices are ones that the model has.

    Args:
        folder: is there, and empty.
        adapter: the other one.
    Raises:
        OSError, ValueError: its files cannot be read.
    """
    config = json.loads((adapter / _CONFIG).read_text("utf-8"))
    (folder / _CONFIG).write_text(json.dumps({**config, "lora_alpha": 0, "alpha_pattern": {}}), "utf-8")
    for file in adapter.glob("adapter_model.*"):
        shutil.copyfile(file, folder / file.name)
