r"""Losses by which a network learns from another one, its teacher.

All are float32 scalars. Features are outputs of layers, ``[N, C, ...]``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 1.0, class_axis: int = 1) -> Tensor:
    r"""Divergence of two classifications whose logits are softened.

    .. math:: T^2 \, \frac1N \sum_{n} \sum_c p_{nc} \log \frac{p_{nc}}{q_{nc}}, \quad
        p = \mathrm{softmax}(t / T), \; q = \mathrm{softmax}(s / T)

    Distilling the Knowledge in a Neural Network (2015), section 2, where the factor :math:`T^2` keeps gradients of the
    size of those of the labels' loss.

    Args:
        student: Logits s, of any shape.
        teacher: Logits t, of the same shape.
        temperature: T, > 0.
        class_axis: The axis of the classes; the mean is over all others.

    Raises:
        ValueError: The shapes differ or have no such axis, or the temperature is not positive.
    """
    _check_shapes(student, teacher)
    if not -student.ndim <= class_axis < student.ndim:
        raise ValueError(f"class_axis must be an axis of logits of the shape {tuple(student.shape)}, got {class_axis}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    own = F.log_softmax(student.float() / temperature, class_axis)
    other = F.log_softmax(teacher.float() / temperature, class_axis)
    return temperature**2 * (other.exp() * (other - own)).sum(class_axis).mean()


def output_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of outputs, for regression.

    Args:
        student: Outputs of any shape.
        teacher: Outputs of the same shape.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(student, teacher)
    return F.mse_loss(student.float(), teacher.float())


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared distance of features, :math:`\frac12 \mathrm{mean} (s - t)^2`.

    FitNets: Hints for Thin Deep Nets (2015), eq. 3, for layers of one shape, which need no regressor between them; with
    a mean for the paper's sum, so that the loss does not grow with the layer.

    Args:
        student: Features of any shape.
        teacher: Features of the same shape.

    Raises:
        ValueError: The shapes differ.
    """
    return 0.5 * output_distance(student, teacher)


def attention_map(features: Tensor) -> Tensor:
    r"""Where a layer is active: :math:`\sum_c A_c^2` over positions, scaled to length 1, ``[N, positions]``.

    Paying More Attention to Attention (2017), section 3.1.

    Args:
        features: ``[N, C, ...]`` with at least one axis of positions.

    Raises:
        ValueError: There are no positions.
    """
    if features.ndim < 3:
        raise ValueError(f"features must be [N, C, ...] with positions, got the shape {tuple(features.shape)}")
    return F.normalize(features.float().square().sum(1).flatten(1), dim=1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of two attention maps, :math:`\frac12 \| Q_s - Q_t \|^2`, as a mean over samples.

    Paying More Attention to Attention (2017), eq. 2, squared as in the authors' code, where it is a mean over the
    positions as well. The numbers of channels may differ.

    Args:
        student: Features ``[N, C, ...]``.
        teacher: Features ``[N, D, ...]`` with the same positions.

    Raises:
        ValueError: The positions differ, or there are none.
    """
    own, other = attention_map(student), attention_map(teacher)
    _check_shapes(own, other)
    return 0.5 * (own - other).square().sum(1).mean()


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must have the same shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
