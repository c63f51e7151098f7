"""What a cell declares of its parameters' learning reaches the optimizer."""

from __future__ import annotations

import torch

from cellzoo import RNN, Extra, GatedCell
from cellzoo.config.schema import AdamW, Cosine
from cellzoo.run.learner import Learner
from cellzoo.run.model import SequenceModel
from cellzoo.tasks import tasks


class Decaying(GatedCell):
    """h' = exp(−ν) h + n."""

    gates = ("n",)
    extra = {
        "nu": Extra("hidden_size", init=0.5, weight_decay=False, lr_factor=0.25),
        "gain": Extra("hidden_size", init=1.0),
        "absent": Extra(0, init=1.0, weight_decay=False),
    }

    def update(self, a, s):
        return torch.exp(-self.nu) * s.h + self.gain * torch.tanh(a.n)


def learner(**optimizer) -> Learner:
    rnn = RNN(Decaying, 2, 3, num_layers=2, bidirectional=True, batch_first=True)
    model = SequenceModel(rnn, 1, "last")
    return Learner(model, tasks["adding"](), AdamW(**optimizer), Cosine(T_max=4))


def test_a_parameter_may_have_its_own_learning_rate_and_no_weight_decay():
    module = learner(lr=0.1, weight_decay=0.5)
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"]
    of_name = {
        name: group
        for name, parameter in module.model.rnn.named_parameters()
        for group in optimizer.param_groups
        if any(parameter is each for each in group["params"])
    }
    for name, group in of_name.items():
        own = name.startswith("nu_")
        assert (group["lr"], group["weight_decay"]) == ((0.025, 0.0) if own else (0.1, 0.5)), name
    assert sum(name.startswith("nu_") for name in of_name) == 4  # two layers, two directions
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in every} == {id(p) for p in module.parameters()}
    assert len(every) == len(list(module.parameters()))

    nu, gain = module.model.rnn.nu_l0, module.model.rnn.gain_l0
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # without a gradient, weight decay alone acts
    assert nu.eq(0.5).all()
    torch.testing.assert_close(gain, torch.full((3,), 1 - 0.1 * 0.5))

    configured["lr_scheduler"]["scheduler"].step()
    slow, fast = of_name["nu_l0"]["lr"], of_name["gain_l0"]["lr"]
    assert fast < 0.1
    assert slow == 0.25 * fast
