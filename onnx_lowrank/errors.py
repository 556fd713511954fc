"""The errors that a user can cause or repair, each kind with the exit code of the command.

The text of an error is one line that states the problem, its place, the measured values, and what to do.
"""


class LowRankError(Exception):
    """The base of every error that a user can cause or repair; ``exit_code`` is the exit code of the command."""

    exit_code = 1


class UsageError(LowRankError):
    """The options contradict each other or have no meaning."""

    exit_code = 2


class ModelError(LowRankError):
    """The model cannot be read, is not valid ONNX, or has nothing to factorise."""

    exit_code = 3


class DataError(LowRankError):
    """The calibration or test data cannot be read, or do not fit the model."""

    exit_code = 3


class TargetError(LowRankError):
    """The model cannot reach the requested speedup."""

    exit_code = 4


class ValidationError(LowRankError):
    """The rewritten model breaks a promise, and nothing is written."""

    exit_code = 5


class EnvironmentFault(LowRankError):  # noqa: N818 - EnvironmentError is Python's own
    """The machine is at fault: ONNX Runtime is broken, the output cannot be written, or memory ran out."""

    exit_code = 6


class QualityError(LowRankError):
    """The result is further from the original than is accepted, and nothing is written.

    Attributes
    ----------
    report
        The ``Report`` of the run, which has no ``output``.
    """

    exit_code = 7

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report
