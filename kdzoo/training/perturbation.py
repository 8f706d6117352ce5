"""LRC-BERT's gradient perturbation (Fu et al. 2021): how far, and over what its norm goes."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.distributed import mean_over_processes, processes
from kdzoo.errors import KdzooError, unknown
from kdzoo.losses.options import check_positive

NORMS = ("tensor", "sample", "token")


def gradient_perturbation(loss: Tensor, embedding: Tensor, *, norm: str = "tensor", epsilon: float = 1.0) -> Tensor:
    """What LRC-BERT adds to the embedding output before it runs the student again: ε·g/‖g‖, g the loss's gradient.

    The paper does not say over what the norm goes:

    - ``"tensor"``: over the whole batch (B, S, E), of all processes; the widespread form of adversarial training
      on embeddings (FGM). The larger the batch, the less each row is moved.
    - ``"sample"``: over each row's (S, E), as Miyato et al. have it.
    - ``"token"``: over each vector (E), as one public reimplementation (GLMKD) has it. It moves every token by
      ``epsilon``; in a narrow pre-trained student that is a tenth of an embedding, and ruins the training.

    A factor on the loss makes no difference. So half precision may scale the loss first, that g does not underflow;
    and each process may give its own loss, whose gradient is the whole one's times the number of processes.
    Micro-batches of gradient accumulation are batches of their own here; the Trainer divides ``epsilon`` by the
    root of their number for ``"tensor"``, so that all of them together are moved as far as the one batch would be:
    by the same where their gradients have the same norm. Norms are taken in float64.

    Args:
        loss: the objective's total of a first forward pass, a scalar.
        embedding: (B, S, E), the embedding output of that pass.
        norm: over what the norm is one, see above.
        epsilon: the length of the perturbation.

    Returns:
        (B, S, E), in the embedding's type: zero where the gradient is zero, and everywhere, in all processes,
        when any entry of g is not finite.

    Raises:
        KdzooError: for another norm, an epsilon that is no positive, finite number, a loss that is no scalar, an
            embedding that has no rows for the norm of each, or what no gradient can be taken of.

    References:
        Fu et al. 2021, section "Training based on Gradient Perturbation". https://arxiv.org/abs/2012.07335
        Miyato et al. 2017: Adversarial Training Methods for Semi-Supervised Text Classification, equation 5.
        https://arxiv.org/abs/1605.07725
    """
    if norm not in NORMS:
        raise unknown("norm of the gradient perturbation", norm, NORMS)
    _check(loss, embedding, norm, epsilon)
    gradient: Tensor | None = torch.autograd.grad(loss, embedding, allow_unused=True)[0]
    if gradient is None:
        return torch.zeros_like(embedding)
    # In float64 no square of a float32 overflows or underflows.
    gradient = gradient.double()
    squares = gradient.square().sum(dim=(1, 2) if norm == "sample" else -1, keepdim=True)
    whole = mean_over_processes(squares.sum()) * processes()
    length = (whole if norm == "tensor" else squares).sqrt()
    # Chosen on the device: asking the host would wait for it in every step.
    moved = whole.isfinite() & (length > 0)
    return torch.where(moved, gradient * (epsilon / length), 0.0).to(embedding.dtype)


def _check(loss: Tensor, embedding: Tensor, norm: str, epsilon: float) -> None:
    """Refuse what no perturbation can be made of."""
    label = "gradient_perturbation"
    check_positive(label, epsilon=epsilon)
    for name, value in (("loss", loss), ("embedding", embedding)):
        if not isinstance(value, Tensor):
            raise KdzooError(f"{label}: the {name} is a {type(value).__name__}; it must be a tensor")
    if loss.numel() != 1:
        raise KdzooError(f"{label}: the loss has the shape {tuple(loss.shape)}; give a scalar, such as its mean()")
    if norm == "sample" and embedding.dim() != 3:
        raise KdzooError(
            f"{label}: the embedding has the shape {tuple(embedding.shape)}; norm='sample' takes (rows, tokens, width)"
        )
    if not embedding.requires_grad:
        raise KdzooError(f"{label}: the embedding has no gradient; call requires_grad_() on it before the forward pass")
    if not loss.requires_grad:
        raise KdzooError(f"{label}: the loss has no gradient; take it of a forward pass outside torch.no_grad()")
