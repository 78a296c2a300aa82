"""Sensitivity of layers: traces of the loss's Hessian, and Hestia's temperatures from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tern_lightning.functional.hestia import GAUSSIAN_TEMPERATURE, temperature_factors
from tern_lightning.nn.layer_types import weight_of
from tern_lightning.rules import Rule, resolve


def hessian_traces(loss: Tensor, weights: Mapping[str, Tensor], probes: int = 20, seed: int = 0) -> dict[str, float]:
    r"""Estimate the trace of the Hessian of a loss in each of several weights.

    .. math:: \mathrm{tr} H \approx \frac{1}{m} \sum_{k=1}^{m} v_k^\top H v_k, \quad v_k \in \{-1, 1\}^n

    A Stochastic Estimator of the Trace of the Influence Matrix (Hutchinson, 1990). All weights share a probe: what they
    have to do with each other has mean zero. Hestia's code uses a refinement (Hutch++, 2021) of the same estimate.

    Args:
        loss: Scalar with a graph.
        weights: Weights that ``loss`` depends on, by name.
        probes: m, >= 1; each costs a backward through the gradient's graph.
        seed: Seed of the random probes.

    Raises:
        ValueError: ``probes`` is less than one.

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> hessian_traces((torch.tensor([1.0, 2.0, 4.0]) * weight**2).sum(), {"a": weight})
        {'a': 14.0}
    """
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    values = list(weights.values())
    random = torch.Generator().manual_seed(seed)
    grads = torch.autograd.grad(loss, values, create_graph=True)
    totals = [0.0] * len(values)
    for _ in range(probes):
        signs = [(torch.randint(0, 2, w.shape, generator=random) * 2 - 1).to(w) for w in values]
        products = torch.autograd.grad(grads, values, signs, retain_graph=True, allow_unused=True)
        for i, (sign, product) in enumerate(zip(signs, products, strict=True)):
            totals[i] += 0.0 if product is None else float((sign * product).sum())
    return {name: total / probes for name, total in zip(weights, totals, strict=True)}


def hestia_rules(
    model: nn.Module,
    loss: Callable[[], Tensor],
    temperature: float = GAUSSIAN_TEMPERATURE,
    alpha: float = 0.4,
    kappa: float = 1.0,
    probes: int = 20,
    seed: int = 0,
) -> list[Rule]:
    """Rules that give the layers of a trained float network Hestia's temperatures by their Hessian traces.

    See :func:`tern_lightning.functional.hestia.temperature_factors`. The layers are those that
    ``TernaryCallback("hestia")`` makes ternary without rules.

    Args:
        model: The network, in the mode in which its loss is to be differentiated, best evaluation.
        loss: Computes the loss of a batch, for example ``lambda: cross_entropy(model(x), y)``.
        temperature: First temperature before the factors, > 0.
        alpha: How much the factors of the layers differ, as in ``temperature_factors``.
        kappa: How fast a factor changes with the trace, as in ``temperature_factors``.
        probes: See :func:`hessian_traces`.
        seed: Seed of the random probes.

    Example::

        rules = hestia_rules(net, lambda: cross_entropy(net(x), y))
        trainer = Trainer(callbacks=[TernaryCallback("hestia", rules=rules)])
    """
    chosen = {one.path: one.module for one in resolve(model, (), "hestia") if one.method is not None}
    weights = {path: weight_of(module) for path, module in chosen.items()}
    traces = hessian_traces(loss(), weights, probes, seed)
    factors = temperature_factors(list(traces.values()), alpha, kappa)
    return [
        Rule("re:" + re.escape(path), "hestia", options={"temperature": temperature * factor})
        for path, factor in zip(traces, factors, strict=True)
    ]
