"""Which layers' channels go together, and which stay: the dependency graph of channel pruning.

Channel j of a layer can only be removed together with channel j of every layer that it is multiplied with, as a gate is
with the features that it scales. Such layers form one set. The idea is that of DepGraph (Fang et al., CVPR 2023), but
layers that are *added* to one another are not put together: their sum is a residual stream, whose channels all stay.
"""


class Coupling:
    """The sets that layers form, and the reasons why some of them stay, in the order in which they are found."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._alike: list[tuple[str, str, str]] = []

    def add(self, source: str) -> None:
        """Add a layer, as a set of its own."""
        self._parent[source] = source

    def root(self, source: str) -> str:
        """Return the layer that stands for the set of this one."""
        while self._parent[source] != source:
            source = self._parent[source]
        return source

    def unite(self, one: str, other: str) -> None:
        """Make one set of those of two layers."""
        self._parent[self.root(other)] = self.root(one)

    def expect_one_set(self, one: str, other: str, reason: str) -> None:
        """Let both layers stay, for this reason, unless they turn out to be in one set."""
        self._alike.append((one, other, reason))

    def hold(self, source: str, reason: str) -> None:
        """Let a layer, and with it its set, stay; the first reason counts."""
        self._reasons.setdefault(source, reason)

    def reasons(self) -> dict[str, str]:
        """Return why sets stay, by the layers that stand for them, once all layers are known."""
        held: dict[str, str] = {}
        for source, reason in self._reasons.items():
            held.setdefault(self.root(source), reason)
        for one, other, reason in self._alike:
            roots = self.root(one), self.root(other)
            if roots[0] != roots[1]:
                for root in roots:
                    held.setdefault(root, reason)
        return held
