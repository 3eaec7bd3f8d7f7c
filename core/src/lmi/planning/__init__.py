# SPDX-License-Identifier: Apache-2.0
"""How much memory and time a model takes, on which machine, before one is paid for; no weight is read."""

from lmi.planning.cache import CacheShape
from lmi.planning.estimates import Estimate, estimate, summary_line, why_unknown
from lmi.planning.fit import Fit, fits_at
from lmi.planning.instances import Instance, all_instances, instance_of, parse_memory
from lmi.planning.problems import memory_problems
from lmi.planning.sizing import Sizing
from lmi.planning.weights import served_weights

__all__ = [
    "CacheShape", "Estimate", "Fit", "Instance", "Sizing", "all_instances", "estimate", "fits_at", "instance_of",
    "memory_problems", "parse_memory", "served_weights", "summary_line",
    "why_unknown",
]  # fmt: skip
