"""The program of the process that ``fresh_process`` starts: it measures and answers, and does nothing else."""

import os
import pickle
import sys

from onnx_lowrank.bench.fresh_process import Task
from onnx_lowrank.runtime.session import Session


def main() -> None:
    """Read a task and its models from standard input, and write the rounds to standard output."""
    # A library that prints something must not spoil the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task: Task = pickle.load(sys.stdin.buffer)
    sessions = []
    for label in task.labels:
        sessions.append(Session(pickle.load(sys.stdin.buffer), task.providers, task.threads, label))
        answer.write(b".")
        answer.flush()
    pickle.dump(task.measure(sessions), answer)
    answer.close()


if __name__ == "__main__":
    main()
