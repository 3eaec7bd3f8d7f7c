# SPDX-License-Identifier: Apache-2.0
"""Records of backends that are not installed, for tests of the choice among them."""

from lmi.api import Accelerator, ArtifactFormat, BackendInfo, ModelArtifacts, Target
from lmi.config.settings import Setting, Settings
from lmi.plugins import Kind, PluginRecord, State

LLAMA = ModelArtifacts(folder="/m", format=ArtifactFormat.PRETRAINED, architectures=("LlamaForCausalLM",))
CPU = Target()
GPU = Target(accelerator=Accelerator.CUDA)


def backend(name, **fields):
    fields.setdefault("artifact_formats", ("pretrained",))
    return ready(BackendInfo(name=name, summary="", **fields))


def ready(info):
    return PluginRecord(
        kind=Kind.BACKEND,
        name=info.name,
        distribution=f"lmi-{info.name}",
        version="0.3.1",
        state=State.READY,
        info=info,
    )


def broken(name, reason):
    return PluginRecord(
        kind=Kind.BACKEND, name=name, distribution=f"lmi-{name}", version="0.4.2", state=State.BROKEN,
        code="plugin.import-failed", reason=f"cannot be imported: {reason}",
    )  # fmt: skip


def settings(source="OPTION_ROLLING_BATCH", **values):
    keys = {
        "rolling_batch": "option.rolling_batch", "entry_point": "option.entryPoint", "mpi_mode": "option.mpi_mode",
        "python": "option.pythonExecutable",
    }  # fmt: skip
    return Settings([Setting(keys.get(name, name), value, source) for name, value in values.items()])


ACME = backend("acme", rolling_batch=("roll",), entry_points=("pack.acme",), engine_names=("AcmeEngine",))
OTHER = backend("other", engine_names=("Python",), priority=5)
PLAYBACK = backend("playback", needs_model=False, artifact_formats=("none",))
