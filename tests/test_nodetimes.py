"""The times of nodes, from events such as ONNX Runtime's profiler writes."""

from typing import Any

import pytest

from onnx_lowrank.bench.node_times import Breakdown, NodeTime, breakdown, elsewhere

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def run(start: int, duration: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": duration, "args": {}}


def node(name: str, op: str, start: int, duration: int, provider: str = CPU) -> dict[str, Any]:
    args = {"op_name": op, "provider": provider}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": args}


def test_every_node_has_its_median_over_the_runs_and_the_warm_up_does_not_count() -> None:
    events = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9_000, "args": {}}]
    for i, milliseconds in enumerate((50, 1, 2, 9)):
        start = 100_000 * (i + 1)
        events += [node("a", "Conv", start + 1, 1000 * milliseconds), node("b", "Relu", start + 60_000, 100)]
        events += [run(start, 1000 * milliseconds + 500)]  # written when it ends
    times = breakdown(events, warmup=1)
    assert times.seconds == pytest.approx(0.0025)
    assert [(x.name, x.op, x.provider) for x in times.nodes] == [("a", "Conv", CPU), ("b", "Relu", CPU)]
    assert [x.seconds for x in times.nodes] == pytest.approx([0.002, 0.0001])


def test_a_node_in_a_loop_counts_every_time_it_runs_and_one_that_seldom_runs_less() -> None:
    events = [run(0, 100), node("body", "Add", 1, 10), node("body", "Add", 20, 10)]
    events += [run(200, 100), node("body", "Add", 201, 20), node("branch", "Mul", 230, 40)]
    times = breakdown(events)
    assert [x.name for x in times.nodes] == ["body", "branch"]
    assert [x.seconds for x in times.nodes] == pytest.approx([20e-6, 20e-6])


def test_a_warm_up_as_long_as_the_trace_leaves_the_last_run() -> None:
    events = [run(0, 100), node("a", "Conv", 1, 10), run(200, 50), node("a", "Conv", 201, 20)]
    assert breakdown(events, warmup=9).seconds == pytest.approx(50e-6)
    assert breakdown(events, warmup=9).nodes[0].seconds == pytest.approx(20e-6)


NODES = (NodeTime("a", "Conv", CUDA, 0.003), NodeTime("b", "Shape", CPU, 0.001), NodeTime("c", "Conv", CUDA, 0.004))


def test_operators_are_sums_and_the_costliest_come_first() -> None:
    times = Breakdown(0.009, NODES)
    assert [(x.op, x.nodes, x.seconds) for x in times.operators] == [("Conv", 2, 0.007), ("Shape", 1, 0.001)]
    assert [x.name for x in times.costliest(2)] == ["c", "a"]
    assert sum(x.seconds for x in times.operators) == pytest.approx(sum(x.seconds for x in NODES))


def test_nodes_that_run_elsewhere_are_counted() -> None:
    assert Breakdown(1, NODES).providers == {CUDA: 2, CPU: 1}
    assert elsewhere({CUDA: 2, CPU: 1}, CUDA) == f"of 3 nodes 2 run on {CUDA}, 1 on {CPU}"
    assert elsewhere({CUDA: 2}, CUDA) is None
    assert elsewhere({CPU: 3}, CUDA) == f"of 3 nodes 0 run on {CUDA}, 3 on {CPU}"
