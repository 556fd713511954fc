"""The importance of a layer: what an error of its response does to the outputs of the network.

The energies that a plan keeps say how much of its own response each layer loses, and nothing of what this loss means
where it counts. Behind the layer it may be averaged out, clipped by activations, corrected by the layers that are
solved later, or be the output itself. To first order, with errors that are not correlated, the squared error of the
outputs is Σ w_l · e_l over the layers, with e_l the share of energy that layer l loses. The weight w_l is measured:
layer l alone is replaced, and w_l is the error of the outputs over the e_l of this replacement. So the planner
maximises

    Σ w_l^a · log E_l

in place of Σ log E_l (§2.5). The exponent a allows for what the weights do not know. At 0 the plan is that of the
energies, which is best where later layers correct most of the error of earlier ones, as in a plain chain of many
layers. At 1 the weights are taken at their word, which is best where little is corrected. Frantar and Alistarh search
weights of this kind at random, scored by whole networks (SPDY, 2022); measured weights leave one number to search.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEAST_LOSS = 1e-9
"""The least share of energy that a replacement is taken to lose."""

SPREAD = 1e4
"""The largest ratio of two weights; what lies further apart was not measured well."""


@dataclass(frozen=True)
class Importance:
    """The importance of every layer.

    Attributes
    ----------
    weights
        The weights by the names of the layers, with a geometric mean of 1. A layer that is missing has the weight 1.
    exponent
        The power to which the weights are raised.
    trials
        The errors of the outputs in rehearsals, by the exponents that were tried.
    """

    weights: Mapping[str, float]
    exponent: float = 1.0
    trials: Mapping[float, float] = field(default_factory=dict)

    @classmethod
    def measured(cls, errors: Mapping[str, float], losses: Mapping[str, float]) -> "Importance":
        """Return the weights from the errors of the outputs where one layer alone is replaced.

        Parameters
        ----------
        errors
            The error of the outputs, by the name of the layer.
        losses
            The share of its own energy that this layer is expected to lose, by its name.
        """
        ratios = {name: max(error, 0.0) / max(losses[name], LEAST_LOSS) for name, error in errors.items()}
        positive = np.array([ratio for ratio in ratios.values() if 0 < ratio < np.inf])
        if not len(positive):
            return cls({})
        middle = float(np.exp(np.log(positive).mean()))
        bound = SPREAD**0.5
        return cls({name: float(np.clip(ratio / middle, 1 / bound, bound)) for name, ratio in ratios.items()})

    def factor(self, name: str) -> float:
        """Return the number by which the log-energies of a layer are multiplied."""
        return float(self.weights.get(name, 1.0) ** self.exponent)

    def weighed(self, name: str, energies: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Return the log-energies of a form of a layer as the planner is to see them."""
        factor = self.factor(name)
        return lambda ranks: factor * energies(ranks)


EQUAL = Importance({}, 0.0)
"""All layers are equally important: the plan of the energies alone."""
