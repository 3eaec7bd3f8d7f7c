# SPDX-License-Identifier: Apache-2.0
"""What Transformers-NeuronX takes of a core, for estimates."""

from __future__ import annotations

from lmi.api import MemoryOverhead

FAMILIES = ("inf2", "trn1", "trn1n")
"""SageMaker's machines that it is offered on. Source: LMI's feature matrix."""

_MIB = 1 << 20

MEMORY = MemoryOverhead(
    context_bytes=500 * _MIB,
    parallel_bytes=250 * _MIB,
    prefill_tokens=2048,
    takes_uneven=True,
    source="Assumed: the runtime's own buffers and the compiled programs of a core, and those of its collectives. "
    "Heads are padded: AWS's examples split the 64 heads of Llama-2-70B over 24 cores.",
)
