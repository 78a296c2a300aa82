"""The step that decodes against torch, token by token, and against the whole sequence at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from examples.decode import Sizes, compiled, ternary_decoder, write


def test_every_step_is_that_of_torch(tmp_path: Path) -> None:
    net = ternary_decoder(Sizes(words=40, width=32, length=9))
    step, caches = compiled(net, tmp_path / "step"), net.empty()
    assert len(step.in_place) == 4
    assert [entry["name"] for entry in step.inputs] == ["token", "place"]
    where = {name: array.ctypes.data for name, array in step.state.items()}
    with torch.no_grad():
        for place, token in enumerate([3, 39, 0, 3, 12, 7, 7, 21, 1]):
            scores, *caches = net(torch.tensor([token]), torch.tensor([place]), *caches)
            own = step(np.array([token]), np.array([place]))
            np.testing.assert_allclose(own, scores.numpy(), atol=2e-5)
            for array, wanted in zip(step.state.values(), caches, strict=True):
                np.testing.assert_allclose(array, wanted.numpy(), atol=2e-5)
    assert {name: array.ctypes.data for name, array in step.state.items()} == where  # the same memory all the time


def test_it_writes_what_torch_writes(tmp_path: Path) -> None:
    net = ternary_decoder(Sizes(words=40, width=32, length=12), seed=1)
    caches, tokens = net.empty(), [5, 17, 2]
    with torch.no_grad():
        for place in range(9):
            scores, *caches = net(torch.tensor(tokens[place : place + 1]), torch.tensor([place]), *caches)
            if place + 1 == len(tokens):
                tokens.append(int(scores.argmax()))
    assert write(compiled(net, tmp_path / "step"), [5, 17, 2], 7) == tokens
