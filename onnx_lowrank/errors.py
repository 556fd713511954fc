"""What can go wrong for a user, each kind with its exit code.

An error's text is one line that says what, where, and what to do, with the measured values.
"""


class LowRankError(Exception):
    """The base of every error that a user can cause or mend; ``exit_code`` is the command's."""

    exit_code = 1


class UsageError(LowRankError):
    """Options that contradict each other or have no meaning."""

    exit_code = 2


class ModelError(LowRankError):
    """The model cannot be read, is not valid ONNX, or holds nothing to factorise."""

    exit_code = 3


class DataError(LowRankError):
    """The calibration or test data cannot be read or does not fit the model."""

    exit_code = 3


class TargetError(LowRankError):
    """The requested speedup is out of reach for this model."""

    exit_code = 4


class ValidationError(LowRankError):
    """The rewritten model broke a promise; nothing was written."""

    exit_code = 5


class EnvironmentFault(LowRankError):  # noqa: N818 - EnvironmentError is Python's own
    """The machine, not the input: ONNX Runtime is broken, the output cannot be written, memory ran out."""

    exit_code = 6
