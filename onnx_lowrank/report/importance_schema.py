"""The part of the report on how the plan weighed the layers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImportanceReport:
    """How the plan weighed the layers.

    Attributes
    ----------
    exponent
        The power of the weights with which the plan was made; 0 stands for the plan of the energies.
    weights
        What an error of a layer does to the outputs, over the energy that it loses, by the layer's name; their
        geometric mean is 1.
    rehearsals
        The centred errors of the outputs in rehearsals on a few samples, by the exponent of the plan.
    """

    exponent: float
    weights: dict[str, float]
    rehearsals: dict[str, float | None]
