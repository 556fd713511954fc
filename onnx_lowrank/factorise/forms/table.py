"""The table of forms, in which a new kind is listed and from which all other code takes them."""

from collections.abc import Iterator
from dataclasses import dataclass

from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.cp import CP
from onnx_lowrank.factorise.forms.input import INPUT
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.spatial import SPATIAL
from onnx_lowrank.factorise.forms.three_d import THREE_D

AUTO = "auto"
"""The value of the option ``form`` with which every layer gets the kind that suits it best."""


@dataclass(frozen=True)
class FormTable:
    """The kinds of form among which a run may choose, in the order in which they are tried and shown."""

    kinds: tuple[FormKind, ...]

    def __iter__(self) -> Iterator[FormKind]:
        return iter(self.kinds)

    def __contains__(self, name: object) -> bool:
        return any(kind.name == name for kind in self.kinds)

    def __getitem__(self, name: str) -> FormKind:
        for kind in self.kinds:
            if kind.name == name:
                return kind
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the kinds."""
        return tuple(kind.name for kind in self.kinds)

    def allowed(self, choice: str) -> "FormTable":
        """Return the kinds that the option ``form`` allows: the one that it names, or all of them for "auto".

        Raises
        ------
        UsageError
            If the table has no such kind.
        """
        if choice == AUTO:
            return self
        if choice not in self:
            raise UsageError(f"form is {choice!r}: choose one of {', '.join((AUTO, *self.names))}")
        return FormTable((self[choice],))


FORMS = FormTable((CHANNEL, SPATIAL, THREE_D, CP, INPUT))
