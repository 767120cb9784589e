"""Check torch_graphs.Recorded with a simulated recorder: when it records, when it repeats, and when it only calls."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import torch

from atelier import torch_graphs

recorded_shapes, calls = [], []


def double(x):
    calls.append(x)
    return {"doubled": 2 * x}


def record(function):
    recorded_shapes.append(function()["doubled"].shape)
    return function


def refuse(function):
    refused.append(1)
    raise RuntimeError("it cannot be recorded")


torch_graphs.record = record
function = torch_graphs.Recorded(double)
for value in (1, 2, 3):
    assert function(torch.full((2,), value))["doubled"].tolist() == [2 * value, 2 * value]
assert recorded_shapes == [(2,)]
first, second = function(torch.full((2,), 5)), function(torch.full((2,), 6))
assert first["doubled"].tolist() == [10, 10]  # results are not overwritten

for value in (1, 2):
    assert function(torch.full((3,), value))["doubled"].tolist() == 3 * [2 * value]
function(torch.ones(2))  # another dtype, too
function(torch.ones(2))
assert recorded_shapes == [(2,), (3,), (2,)]

large = torch.zeros(torch_graphs.LARGEST + 1)
count = len(recorded_shapes)
function(large), function(large)
assert len(recorded_shapes) == count

refused = []
torch_graphs.record = refuse
function = torch_graphs.Recorded(double)
for value in range(9):
    assert function(torch.full((2,), value))["doubled"].tolist() == [2 * value, 2 * value]
assert len(refused) == torch_graphs.ATTEMPTS

with torch_graphs.numbers_filled_in():
    assert torch.as_tensor(3, dtype=torch.int32).tolist() == 3
    assert torch.as_tensor((1.5, 2.5), dtype=torch.float32).tolist() == [1.5, 2.5]
    assert torch.as_tensor(torch.ones(20)).sum() == 20
