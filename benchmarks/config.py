# SPDX-License-Identifier: Apache-2.0
"""How long resolving a configuration takes: reading, choosing a backend, typing, checking what goes together.

Plugins are discovered once before (their time is printed, too), as in a server; every round reads the files anew.
Bar: 20 ms. Run: ``make bench-config``.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from lmi.effective import effective
from lmi.plugins import Plugins

N_ROUNDS = 200
BAR_MS = 20.0

SAMPLES = {
    "neuronx": ("neuron:12", "engine=Python\noption.tensor_parallel_degree=4\noption.model_id=org/model\n"
                "option.entryPoint=djl_python.transformers_neuronx\noption.max_rolling_batch_size=8\n"
                "option.rolling_batch=auto\noption.model_loading_timeout=1600\n"),
    "trtllm": ("cuda:4", "engine=MPI\noption.tensor_parallel_degree=4\noption.model_id=org/model\n"
               "option.rolling_batch=trtllm\noption.max_rolling_batch_size=16\noption.max_input_len=1024\n"
               "option.max_output_len=512\n"),
    "vllm": ("cuda:8", "engine=Python\noption.tensor_parallel_degree=max\noption.model_id=org/model\n"
             "option.rolling_batch=vllm\noption.dtype=bf16\noption.enable_lora=true\noption.max_loras=8\n"),
    "deepspeed": ("cuda:4", "engine=MPI\noption.entryPoint=djl_python.deepspeed\noption.model_id=org/model\n"
                  "option.tensor_parallel_degree=2\n"),
    "mistakes": ("cuda:4", "option.rolling_batch=vllm\noption.model_id=org/model\n"
                 + "".join(f"option.wrong_key_{number}=1\n" for number in range(20))),
}  # fmt: skip


def main() -> int:
    """Print a line a sample; 1 if a median is above the bar."""
    begin_s = time.perf_counter()
    plugins = Plugins.discover({"LMI_EXTENSIONS": ""})
    print(f"discover plugins, once: {1e3 * (time.perf_counter() - begin_s):.1f} ms ({', '.join(plugins.backends)})")
    is_slow = False
    for name, (devices, text) in SAMPLES.items():
        times_ms = []
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "serving.properties").write_text(text)
            for _ in range(N_ROUNDS):
                begin_s = time.perf_counter()
                found = effective(folder, flags={}, environ={}, plugins=plugins, devices=devices)
                times_ms.append(1e3 * (time.perf_counter() - begin_s))
        median_ms, worst_ms = statistics.median(times_ms), max(times_ms)
        is_slow |= median_ms > BAR_MS
        backend = found.choice.info.name if found.choice else "none"
        print(
            f"{name:10} -> {backend:10} median {median_ms:6.2f} ms, first {times_ms[0]:6.2f} ms, worst {worst_ms:6.2f}"
        )
    print(f"bar {BAR_MS:g} ms: {'missed' if is_slow else 'kept'}")
    return int(is_slow)


if __name__ == "__main__":
    sys.exit(main())
