"""Activations in all their spellings for random models."""

import numpy as np
from random_drafts import Draft, Tensor

SPELLINGS = (
    *("relu", "relu", "relu", "clip", "leaky", "prelu", "elu", "sigmoid", "tanh", "hard_sigmoid"),
    *("silu", "spelled_gelu", "spelled_gelu_tanh", "spelled_mish", "spelled_hard_swish", "divided_hard_swish"),
    *("hard_swish", "mish", "gelu", "gelu_tanh"),
)
"""The spellings, some of them single operators and some of them formulas; the common one stands three times."""

SINCE = {"hard_swish": 14, "mish": 18, "gelu": 20, "gelu_tanh": 20, "spelled_gelu": 9}
"""The opsets that introduced the operators of a spelling."""

OPERATORS = {
    "relu": "Relu",
    "elu": "Elu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hard_swish": "HardSwish",
    "mish": "Mish",
    "gelu": "Gelu",
}
"""The spellings that are one operator without attributes."""


def activation(draft: Draft, x: Tensor) -> Tensor:
    """Add one of the activations, in one of its spellings."""
    spelling = draft.pick(*(spelling for spelling in SPELLINGS if SINCE.get(spelling, 0) <= draft.opset))
    if spelling in OPERATORS:
        y = draft.add(OPERATORS[spelling], [x.name])
    elif spelling == "prelu":
        y = prelu(draft, x)
    else:
        y = formula(draft, x.name, spelling)
    return Tensor(y, x.channels, x.sizes)


def formula(draft: Draft, x: str, spelling: str) -> str:
    """Add an activation that has attributes or takes several nodes."""
    add, store = draft.add, draft.store
    match spelling:
        case "clip":
            return clip(draft, x, 0, 6)
        case "leaky":
            return add("LeakyRelu", [x], alpha=0.1)
        case "hard_sigmoid":
            return add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
        case "silu":
            return product(draft, x, add("Sigmoid", [x]))
        case "spelled_gelu":
            inner = add("Erf", [add("Div", [x, store(np.sqrt(2))])])
            return product(draft, product(draft, x, add("Add", [inner, store(1)])), store(0.5))
        case "spelled_gelu_tanh":
            cubed = product(draft, product(draft, x, x), x)
            factor = store(np.sqrt(2 / np.pi))
            inner = product(draft, factor, add("Add", [x, product(draft, store(0.044715), cubed)]))
            return product(draft, product(draft, store(0.5), x), add("Add", [store(1), add("Tanh", [inner])]))
        case "spelled_mish":
            return product(draft, x, add("Tanh", [add("Softplus", [x])]))
        case "spelled_hard_swish":
            return product(draft, x, add("HardSigmoid", [x], alpha=1 / 6, beta=0.5))
        case "divided_hard_swish":
            return add("Div", [product(draft, x, clip(draft, add("Add", [x, store(3)]), 0, 6)), store(6)])
        case "gelu_tanh":
            return add("Gelu", [x], approximate="tanh")
    raise ValueError(spelling)


def product(draft: Draft, first: str, second: str) -> str:
    """Add a product, its factors in any order."""
    return draft.add("Mul", draft.pick([first, second], [second, first]))


def clip(draft: Draft, x: str, low: float, high: float) -> str:
    """Add a Clip, whose bounds are attributes before opset 11."""
    if draft.opset < 11:
        return draft.add("Clip", [x], min=float(low), max=float(high))
    return draft.add("Clip", [x, draft.store(low), draft.store(high)])


def prelu(draft: Draft, x: Tensor) -> str:
    """Add a PRelu with a slope for each channel or one for all."""
    ones = (1,) * len(x.sizes)
    shape = draft.pick((x.channels, *ones), (1, *ones), (1, x.channels, *ones))
    return draft.add("PRelu", [x.name, draft.store(draft.rng.uniform(0.05, 0.4, shape))])
