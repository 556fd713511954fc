"""Samples of several sizes, on each of which the model has to run."""

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.data.messages import shape_text
from onnx_lowrank.data.source import groups
from onnx_lowrank.errors import DataError, ModelError
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.session import Opener, Session


def run_of_any_size(session: Session, feeds: Feeds, sampling: Sampling) -> Feeds:
    """Run a model on one batch.

    Raises
    ------
    DataError
        If the run fails and the samples have several sizes, so that this one may be at fault.
    ModelError
        If it fails where all are of one size.
    """
    try:
        return session(feeds)
    except ModelError as error:
        if not len(sampling.sizes):
            raise
        sizes = ", ".join(f"{name!r} {shape_text(value.shape)}" for name, value in feeds.items())
        raise DataError(
            f"{error}; the samples have several sizes, and it fails for {sizes}: leave such samples out, or bring them "
            "to a size that the model takes"
        ) from error


def check_sizes(network: Network, sampling: Sampling, open_session: Opener) -> None:
    """Run one sample of each size that only samples of the comparison at the end have, before the long work.

    Raises
    ------
    DataError
        If the model does not run on one of them.
    """
    if not len(sampling.sizes):
        return
    numbers = groups(sampling.source)
    known = {int(numbers[batch[0]]) for batch in sampling.batches}
    others = {int(numbers[batch[0]]): batch for batch in sampling.validation if int(numbers[batch[0]]) not in known}
    if others:
        session = open_session(whole(network, [output.name for output in network.outputs]), "the model")
        for batch in others.values():
            run_of_any_size(session, sampling.source.feeds(batch if sampling.fixed else batch[:1]), sampling)
