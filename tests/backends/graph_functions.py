"""Check torch_graphs.GraphFunction with the simulated capture: when it captures, replays, and only calls."""

import graphs
import torch

from atelier import torch_graphs


def double(x):
    return {"doubled": 2 * x}


def doubled(function, *values):
    return [function(torch.full((2,), value))["doubled"].tolist() for value in values]


function = torch_graphs.GraphFunction(double)
assert doubled(function, 1, 2, 3) == [[2, 2], [4, 4], [6, 6]]
assert len(graphs.captures) == 1
first, second = function(torch.full((2,), 5)), function(torch.full((2,), 6))
assert first["doubled"].tolist() == [10, 10]  # the graph's tensor holds the second result now
assert function.replay()["doubled"].tolist() == [12, 12]

assert [function(torch.full((3,), x))["doubled"].tolist() for x in (1, 2)] == [[2, 2, 2], [4, 4, 4]]
function(torch.ones(2)), function(torch.ones(2))  # another dtype, too
assert len(graphs.captures) == 3
torch_graphs.release_graphs()
assert function.replay is None
assert doubled(function, 1, 2, 3) == [[2, 2], [4, 4], [6, 6]]
assert len(graphs.captures) == 4

large = torch.zeros(torch_graphs.LARGEST + 1)
function(large), function(large)
assert len(graphs.captures) == 4


refused = []


def refuse(function):
    refused.append(function)
    raise RuntimeError("it cannot be captured")


torch_graphs.capture = refuse
function = torch_graphs.GraphFunction(double)
assert doubled(function, *range(9)) == [[2 * x, 2 * x] for x in range(9)]
assert len(refused) == 1

with torch_graphs.numbers_filled_in():
    assert torch.as_tensor(1.5).dtype == torch.float32
    assert torch.as_tensor(3, dtype=torch.int32).tolist() == 3
    assert torch.as_tensor((1.5, 2.5), dtype=torch.float32).tolist() == [1.5, 2.5]
    assert torch.as_tensor(torch.ones(20)).sum() == 20
