"""Memory is used again, and never while somebody has it."""

import copy
import pickle

import torch

from tern_lightning.functional.blocks import scratch
from tern_lightning.functional.frozen import FrozenCodes
from tern_lightning.functional.spare import LEAST, MOST, SpareMemory, release


def test_memory_of_a_tensor_that_is_gone():
    spare, like = SpareMemory(), torch.zeros(LEAST)
    held = [spare.empty_like(like) for _ in range(MOST + 2)]
    addresses = [one.data_ptr() for one in held]
    assert len(set(addresses)) == len(held)
    graph = (held[0].detach().requires_grad_() ** 2).sum()  # autograd keeps the first
    held.clear()
    assert len(spare._waiting) == MOST, "no more wait than a step of training has at a time"
    again = [spare.empty_like(like) for _ in range(MOST + 2)]
    assert {one.data_ptr() for one in again} & set(addresses[1:])
    assert addresses[0] not in {one.data_ptr() for one in again}
    graph.backward()


def test_other_shapes_and_small_ones():
    spare = SpareMemory()
    for shape in ((LEAST,), (2, LEAST), (2, LEAST // 2), (3, 4), (2, 300, 400)):
        found = spare.empty_like(torch.zeros(shape, dtype=torch.int8))
        assert found.shape == shape
        assert found.dtype == torch.float32
        assert found.is_contiguous()
    columns = torch.zeros(600, 300).t()
    assert spare.empty_like(columns).stride() == columns.stride()
    assert spare.empty_like(torch.zeros(LEAST, device="meta")).is_meta


def test_what_waits_is_given_back():
    spare, block = SpareMemory(), torch.zeros(LEAST)
    del [spare.empty_like(block)][0]
    first = scratch(block).data_ptr()
    assert spare._waiting
    assert scratch(block).data_ptr() == first
    held = scratch(block)
    release()
    assert not spare._waiting
    assert scratch(block).data_ptr() != held.data_ptr()


def test_copies_begin_without_any():
    spare = SpareMemory()
    del [spare.empty_like(torch.zeros(LEAST))][0]
    assert spare._waiting
    assert not copy.deepcopy(spare)._waiting
    assert not pickle.loads(pickle.dumps(spare))._waiting


def test_weights_that_are_held_do_not_change():
    codes = (torch.randint(0, 3, (1, 512, 256)) - 1).to(torch.int8)
    frozen, latents = FrozenCodes.of(codes), [torch.randn(512, 256, requires_grad=True) for _ in range(4)]
    weights = [frozen.values(latent) for latent in latents]
    before = [weight.detach().clone() for weight in weights]
    gradients = [torch.randn(512, 256) for _ in range(4)]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.backward(gradient)
    for latent, weight, old, gradient in zip(latents, weights, before, gradients, strict=True):
        assert torch.equal(weight, old)
        column = codes[0].float()
        projected = column * (column * gradient).sum() / column.abs().sum()
        torch.testing.assert_close(latent.grad, projected, rtol=1e-4, atol=1e-6)
