# SPDX-License-Identifier: Apache-2.0
"""A stepper of several ranks without weights, which breaks on request; installed by the tests as a distribution.

Its text is the alphabet, from the prompt's last letter on; with another task it is an answerer. A prompt that begins
like ``die*1`` is a command for rank 1: ``die`` by signal, ``exit``, ``raise``, ``hang``. Each rank writes what it is
told into ``rank-R.log`` in the folder RANKED_LOGS.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lmi.api import (
    Accelerator,
    AnswererLimits,
    BackendConfig,
    BackendInfo,
    Classifier,
    Draft,
    EngineLibrary,
    EngineLoadError,
    Launch,
    Resume,
    StepOutput,
    Stepper,
    StepperLimits,
    Task,
    TaskRunner,
    hookimpl,
    option,
    ranks_of,
    task_of,
)

VOCAB = 256


class RankedConfig(BackendConfig):
    load: str = option("well", description="How loading goes on the last rank: well, raise, refuse, exit, hang, other.")
    draft: str = option("", description="Where a draft model is: first (rank) or all.")
    step_s: float = option(0.0, description="Time a step takes.", unit="s", ge=0)
    task: str | None = option(None, description="What it does.")


class RankedAnswerer(Classifier):
    """Labels: the shares of a and b in a text, but for its end. Each rank obeys the texts that it computes."""

    def __init__(self, config):
        ranks = ranks_of(os.environ)
        is_other = config.load == "other" and ranks.rank == ranks.size - 1
        self.limits = AnswererLimits(max_context_tokens=100 if is_other else 512, vocab_size=VOCAB)
        self.stepper = RankedStepper(config)

    def compute(self, inputs):
        time.sleep(self.stepper.step_s)
        text = bytes(inputs["input_ids"][0]).decode()
        self.stepper.note("compute", text)
        self.stepper.obey(text)
        if "*" in text:
            time.sleep(3)  # as one that waits for what the other ranks have
        return [text.count("a") / len(text), text.count("b") / len(text)]

    def classify(self, prompts, compute):
        return [compute({"input_ids": [prompt]}) for prompt in prompts]

    def close(self):
        self.stepper.note("close")


class RankedRunner(TaskRunner):
    """Answers with the text that it gets, and what each rank wrote."""

    def __init__(self, config):
        self.inner = RankedAnswerer(config)
        self.limits = self.inner.limits

    def compute(self, inputs):
        return self.inner.compute(inputs)

    def run_task(self, request, compute):
        text = json.loads(request.body)["inputs"]
        return json.dumps({"text": text, "shares": compute({"input_ids": [list(text.encode())]})}).encode()

    def close(self):
        self.inner.close()


class RankedStepper(Stepper):
    def __init__(self, config, *, is_draft=False):
        ranks = ranks_of(os.environ)
        self.rank = ranks.rank
        is_other = config.load == "other" and ranks.rank == ranks.size - 1
        self.limits = StepperLimits(
            max_slots=5 if is_other else 4,
            max_context_tokens=512,
            kv_capacity_tokens=2048 - 100 * ranks.rank,
            vocab_size=VOCAB,
            prefill_chunk_tokens=64,
            max_prefills_per_step=4,
            samples_on_device=not config.draft,
        )
        self.slots = {}
        self.step_s = config.step_s
        self.name = "draft" if is_draft else "model"
        folder = os.environ.get("RANKED_LOGS")
        self.log = Path(folder, f"rank-{self.rank}.log") if folder else None

    def note(self, *words):
        if self.log is not None:
            with self.log.open("a") as file:
                print(self.name, *words, file=file)

    def step(self, batch):
        time.sleep(self.step_s)
        ids = []
        for entry in (*batch.prefills, *batch.decodes):
            held = self.slots.setdefault(entry.slot, [])
            assert len(held) == entry.start, (len(held), entry.start)
            held += entry.ids
            self.note("step", entry.slot, entry.start, bytes(entry.ids).decode())
            for end in range(len(held) - entry.n_logits + 1, len(held) + 1):
                ids.append(self.next_id(held[:end]))
            if entry.start == 0:
                self.obey(bytes(held).decode())
        if self.limits.samples_on_device:
            return StepOutput(ids=ids)
        import torch

        return StepOutput(logits=torch.nn.functional.one_hot(torch.tensor(ids, dtype=torch.long), VOCAB).float())

    def next_id(self, held):
        # a draft that does not know what follows m
        return 97 + (held[-1] - 96) % 26 if not (self.name == "draft" and held[-1] == 109) else 63

    def obey(self, prompt):
        command, _, rest = prompt.partition("*")
        if rest[:1] != str(self.rank) or self.name == "draft":
            return
        if command == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == "exit":
            sys.exit(3)
        elif command == "raise":
            raise ValueError("this rank was told to raise")
        elif command == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)

    def truncate(self, slot, n_tokens):
        self.note("truncate", slot, n_tokens)
        del self.slots[slot][n_tokens:]

    def release(self, slot):
        self.note("release", slot)
        self.slots.pop(slot, None)

    def close(self):
        self.note("close")


@hookimpl
def lmi_describe_backend():
    return BackendInfo(
        name="ranked",
        summary="Several ranks, and nothing else",
        accelerators=(Accelerator.CPU,),
        needs_model=False,
        launch=Launch.CORE_MPI,
        modes=("MPI",),
        tasks=(Task.GENERATE, Task.CLASSIFY, Task.FILL_MASK),
        resume=Resume.EXACT,
        engine_libraries=(EngineLibrary(distribution="mpi4py", versions=">=4"),),
    )


@hookimpl
def lmi_config_type():
    return RankedConfig


@hookimpl
def lmi_load_engine(artifacts, config, progress):
    ranks = ranks_of(os.environ)
    progress("look around")
    if ranks.rank == ranks.size - 1:
        if config.load == "raise":
            raise ValueError("no weights")
        if config.load == "refuse":
            raise EngineLoadError("engine.odd", "this rank has the wrong weights", "Copy them again")
        if config.load == "exit":
            os._exit(5)
        if config.load == "hang":
            time.sleep(3600)
    task = task_of(artifacts, config.task)
    if task is not Task.GENERATE:
        return RankedAnswerer(config) if task is Task.CLASSIFY else RankedRunner(config)
    stepper = RankedStepper(config)
    stepper.note("variables", *(os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")))
    assert not os.environ.get("TMPDIR", "").startswith(str(Path(sys.argv[1]).parent))
    if config.draft == "all" or (config.draft == "first" and ranks.rank == 0):
        stepper.draft = Draft(stepper=RankedStepper(config, is_draft=True), n_tokens=3)
    return stepper
