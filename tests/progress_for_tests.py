"""A listener's progress that remembers every step, to check what a run reports."""

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass
class Steps:
    """A `Progress` that remembers the steps (done, total) of every stage, in the order in which the stages begin."""

    by_stage: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.by_stage.setdefault(stage, []).append((done, total))

    def check(self) -> None:
        """Check that every stage begins with 0, rises, and ends with its total; a stage may do so several times."""
        for stage, steps in self.by_stage.items():
            rounds = list[list[tuple[int, int]]]()
            for done, total in steps:
                if done == 0:
                    rounds.append([])
                assert rounds, f"{stage} does not begin with 0: {steps}"
                rounds[-1].append((done, total))
            for one in rounds:
                (total,) = {total for _, total in one}
                assert one[-1][0] == total, f"{stage} does not end with its total: {steps}"
                assert all(before[0] < after[0] for before, after in pairwise(one)), (stage, steps)
