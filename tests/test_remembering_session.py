"""A session that remembers answers as the session itself does, and runs a batch once."""

from typing import Any

import numpy as np
from models_for_tests import photo, plain

from onnx_lowrank.runtime.remembering_session import RememberingSession
from onnx_lowrank.runtime.session import Session, opener

OPEN = opener(("cpu",), 1, spinning=False)
MUCH = 1 << 30


class Counted:
    """Opens a model and counts how often, and how often it ran."""

    def __init__(self, monkeypatch: Any) -> None:
        self.opened, self.runs, run = 0, 0, Session.__call__

        def counted(session: Session, feeds: Any) -> Any:
            self.runs += 1
            return run(session, feeds)

        monkeypatch.setattr(Session, "__call__", counted)

    def __call__(self) -> Session:
        self.opened += 1
        return OPEN(plain(), "the model")


def test_a_batch_is_run_once_and_answered_as_ever(monkeypatch: Any) -> None:
    expected = [OPEN(plain(), "the model")({"x": photo(seed)})["y"] for seed in (1, 2)]
    counted = Counted(monkeypatch)
    session = RememberingSession(counted, MUCH)
    assert session.outputs == ("y",) and session.types == {"y": "tensor(float)"}
    for _ in range(3):
        for seed, y in zip((1, 2), expected, strict=True):
            np.testing.assert_array_equal(session({"x": photo(seed)})["y"], y)
        session.rest()
    assert counted.runs == 2 and counted.opened == 1
    session({"x": photo(3)})
    assert counted.runs == 3 and counted.opened == 2, "it wakes for what is new"


def test_what_does_not_fit_is_run_again(monkeypatch: Any) -> None:
    counted = Counted(monkeypatch)
    session = RememberingSession(counted, room=OPEN(plain(), "m")({"x": photo(1)})["y"].nbytes)
    counted.runs = 0
    for _ in range(2):
        session({"x": photo(1)})
        session({"x": photo(2)})
    assert counted.runs == 3


def test_feeds_that_look_alike_are_told_apart() -> None:
    session = RememberingSession(lambda: OPEN(plain(), "m"), MUCH)
    flat = photo(1, (1, 3, 12, 10))
    assert session({"x": flat})["y"].shape != session({"x": flat.reshape(1, 3, 10, 12)})["y"].shape
