"""The latency measured in the process that asks for it."""

from collections.abc import Sequence
from dataclasses import replace

import onnx

from onnx_lowrank.bench.fresh_process import Task
from onnx_lowrank.bench.turns import Budget, Rounds
from onnx_lowrank.runtime.session import opener


def measured_here(models: Sequence[onnx.ModelProto], task: Task) -> Rounds:
    """Measure models for a moment in this process, because another one takes a second to start."""
    open_session = opener(task.providers, task.threads, spinning=True)
    sessions = [open_session(model, label) for model, label in zip(models, task.labels, strict=True)]
    return replace(task, budget=Budget(rounds=6, seconds=0.2, turn=0)).measure(sessions)
