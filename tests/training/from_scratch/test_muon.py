"""Muon beside AdamW: which learns what, learning rates, and a state that goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.from_scratch.muon import MuonAdamW


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4)])


def learn(net: Net, optimizer: MuonAdamW, steps: int) -> None:
    ids = torch.arange(5)
    for _ in range(steps):
        optimizer.zero_grad()
        net.layers[0](net.embed(ids)).square().sum().backward()
        optimizer.step()


def make(net: Net) -> MuonAdamW:
    return MuonAdamW([("objective." + name, p) for name, p in net.named_parameters()], lr=0.02, adamw_lr=1e-3)


def test_matrices_of_layers_learn_by_muon_and_all_else_by_adamw():
    torch.manual_seed(0)
    net = Net()
    before = copy.deepcopy(net.state_dict())
    optimizer = make(net)
    learn(net, optimizer, 1)
    moved = {name: (value - before[name]).abs().max() for name, value in net.state_dict().items()}
    # A first step of AdamW moves every number by its learning rate; one of Muon is an orthogonal matrix times its own.
    for name in ("embed.weight", "layers.0.bias"):
        assert moved[name] == pytest.approx(1e-3, rel=1e-2)
    step = net.layers[0].weight.detach() - before["layers.0.weight"]
    assert torch.linalg.svdvals(step).max() == pytest.approx(0.02, rel=0.3)


def test_learning_rates_are_those_of_the_groups():
    torch.manual_seed(0)
    net = Net()
    optimizer = make(net)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 1e-3]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(net.state_dict())
    learn(net, optimizer, 2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_saved_state_goes_on_as_if_never_stopped(tmp_path):
    torch.manual_seed(0)
    whole = Net()
    parted = copy.deepcopy(whole)
    learn(whole, make(whole), 4)
    first = make(parted)
    learn(parted, first, 2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(parted)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    learn(parted, second, 2)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parted.state_dict()[name], value)


def test_nothing_for_muon_is_an_error():
    with pytest.raises(ValueError, match="no matrix of a layer"):
        MuonAdamW([("embed.weight", nn.Parameter(torch.zeros(2, 2)))], lr=0.02, adamw_lr=1e-3)
