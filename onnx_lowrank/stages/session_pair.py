"""The two models that the last stages compare, ready to run."""

from dataclasses import dataclass

from onnx_lowrank.runtime.session import Session


@dataclass(frozen=True)
class SessionPair:
    """Sessions of the original and of the rewritten model, with the same providers and threads."""

    original: Session
    rewritten: Session
