"""What the contest of the presets found out, in words."""

from collections.abc import Sequence

from onnx_lowrank.stages.fit_contest import Measured

MOST_NAMES = 3
"""The number of better presets that a warning names."""

NOTHING = "nothing in this network tells the presets apart"


def warning(applied: Measured, better: Sequence[Measured]) -> str:
    """Return the warning that other presets fit photos better."""
    best = better[0]
    return (
        f"--preprocess {applied.alternative.name} seems wrong for this network, {_fit_better(best, better)} (measured "
        f"on {best.samples} photos: {_numbers(applied, better)}); give --preprocess {best.alternative.name} if the "
        "network was trained so, because the errors of the result cannot show a wrong preset"
    )


def arrays_warning(
    applied: Measured, better: Sequence[Measured], name: str, values: tuple[float | None, float | None]
) -> str:
    """Return the warning that arrays would fit better if they were scaled like another preset."""
    best = better[0]
    low, high = values
    target = best.alternative.target
    ends = [(pixel - target.mean) * target.scale for pixel in (0.0, 255.0)]
    least, most = float(min(end.min() for end in ends)), float(max(end.max() for end in ends))
    return (
        f"the arrays for input {name!r} hold {low:.3g} to {high:.3g} and are taken as they are, but they look like "
        f"images, and values like those of the preset {best.alternative.name} ({least:.3g} to {most:.3g}, "
        f"{target.order}) fit this network better (measured on {best.samples} samples: {_numbers(applied, better)}); "
        "prepare the arrays as the network was trained"
    )


def chosen(best: Measured, found: Sequence[Measured]) -> str:
    """Return what ``--preprocess auto`` chose and why."""
    others = sorted((each for each in found if each is not best), key=lambda each: each.rank, reverse=True)
    tied = [
        each.alternative.name
        for each in others
        if each.supported and each.samples == best.samples and not best.better_than(each)
    ]
    doubt = f"; {' and '.join(tied[:MOST_NAMES])} cannot be told from it" if tied else ""
    return f"auto chose {best.alternative.name} ({best.samples} photos: {_numbers(best, others[:2])}{doubt})"


def unclear() -> str:
    """Return the warning that ``--preprocess auto`` could not choose."""
    return (
        "--preprocess auto cannot tell from these photos which preset the network was trained with, so it takes "
        "imagenet: name the preset"
    )


def fits(found: Sequence[Measured], *, photos: bool, synthetic: bool) -> str:
    """Return that no other preset fits better, or that nothing could be compared."""
    if synthetic:
        return "nothing is compared with made-up samples"
    if not photos:
        return "arrays are taken as they are" + ("; no other scale of values fits better" if found else "")
    return "no other preset fits better" if found else NOTHING


def _fit_better(best: Measured, better: Sequence[Measured]) -> str:
    names = [each.alternative.name for each in better[:MOST_NAMES]]
    return f"{names[0]} fits better" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} fit better"


def _numbers(applied: Measured, others: Sequence[Measured]) -> str:
    """Return the numbers of a preset and of some others, by the evidence that there is for both."""
    parts = []
    rest = others[:MOST_NAMES]
    if applied.norms and any(each.norms for each in rest):
        values = ", ".join(f"{-each.norms.value:.2g} under {each.alternative.name}" for each in rest if each.norms)
        parts.append(f"the channels are {-applied.norms.value:.2g} nats from what the normalisations expect, {values}")
    if applied.classes and any(each.classes for each in rest):
        values = ", ".join(
            f"{each.classes.contrast:.1f} (information {each.classes.information:.2f}) under {each.alternative.name}"
            for each in rest
            if each.classes
        )
        parts.append(
            f"the top class stands out by {applied.classes.contrast:.1f} deviations of the others (information "
            f"{applied.classes.information:.2f} nats), {values}"
        )
    return "; ".join(parts)
