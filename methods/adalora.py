"""AdaLoRA: adaptive budget allocation (Zhang et al. 2023, https://arxiv.org/abs/2303.10512).

The change of a weight is P diag(lambda) Q with P [out, r], lambda [r], Q [r, in] (equation 3). The importance of a
triplet (a column of P, an entry of lambda, a row of Q) is its smoothed sensitivity times its uncertainty (equations 8
to 11). A cubic schedule (equation 12, Algorithm 1) shrinks a budget of triplets that all layers share. As in the
authors' code, the orthogonality penalty is the mean Frobenius norm over all P and Q, and the change is scaled by
alpha / r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from methods.architectures import architecture_of
from methods.base import Attached, Count, Method
from methods.compat import has_values
from methods.errors import MethodError
from methods.lora import Branch, LowRankAttached, NewBranch, Product, fold_into_weight, restore_branches
from methods.projections import Projection, check_rank
from methods.validators import Fraction, Names, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class Adalora(Method):
    """AdaLoRA with ``rank`` triplets per projection on average at the end of its schedule."""

    name: ClassVar[str] = "adalora"
    identity: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True

    total_steps: PositiveInt
    """Optimizer steps of the whole training (T), which the schedule covers."""
    rank: PositiveInt = 8
    start_rank: PositiveInt | None = None
    """Rank of each projection at the start. None stands for 1.5 times ``rank`` (section 4.1 of the paper)."""
    initial_steps: NonNegativeInt | None = None
    """Steps at the full budget (t_i). None stands for a tenth of ``total_steps``."""
    final_steps: NonNegativeInt | None = None
    """Steps at the final budget (t_f). None stands for three tenths of ``total_steps``."""
    interval: PositiveInt = 1
    """Steps between two allocations while the budget shrinks (delta T)."""
    alpha: PositiveFloat = 16.0
    targets: Names = ("q", "v")
    penalty_weight: NonNegativeFloat = 0.5
    """Weight of the orthogonality penalty (gamma)."""
    beta1: Fraction = 0.85
    beta2: Fraction = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start < self.rank:
            raise MethodError(f"start_rank must be a whole number of at least {self.rank}, not {self.start}")
        if self.begin >= self.end:
            raise MethodError(
                f"initial_steps + final_steps must be less than total_steps, not {self.begin} + "
                f"{self.total_steps - self.end} of {self.total_steps}"
            )

    @property
    def size(self) -> int:
        return self.rank

    @property
    def start(self) -> int:
        """The rank of each projection at the start."""
        return -(-3 * self.rank // 2) if self.start_rank is None else self.start_rank

    @property
    def begin(self) -> int:
        """The step after which the budget shrinks."""
        return self.total_steps // 10 if self.initial_steps is None else self.initial_steps

    @property
    def end(self) -> int:
        """The step at which the budget reaches its target."""
        return self.total_steps - (3 * self.total_steps // 10 if self.final_steps is None else self.final_steps)

    @property
    def scale(self) -> float:
        return self.alpha / self.start

    def budget(self, step: int, projections: int) -> int:
        """The number of triplets that all projections together keep after ``step`` (equation 12)."""
        first, last = self.start * projections, self.rank * projections
        if step <= self.begin:
            return first
        if step >= self.end:
            return last
        left = 1.0 - (step - self.begin) / (self.end - self.begin)
        return int(last + (first - last) * left**3)

    def allocates(self, step: int) -> bool:
        """Whether triplets are pruned after ``step``."""
        return step >= self.end or (step > self.begin and step % self.interval == 0)

    def projections(self, model: PreTrainedModel) -> list[Projection]:
        return architecture_of(model).projections(model, self.targets)

    def check(self, model: PreTrainedModel) -> None:
        check_rank(self.start, self.projections(model))

    def count(self, model: PreTrainedModel) -> Count:
        """Both by formula. Shipped tensors have lambda folded in; their number is exact where all widths are equal."""
        projections = self.projections(model)
        trained = sum(self.start * (p.in_features + p.out_features + 1) for p in projections)
        return Count(trained=trained, shipped=sum(self.rank * (p.in_features + p.out_features) for p in projections))

    def _attach(self, model: PreTrainedModel) -> Attached:

        def branch(projection: Projection, base: nn.Module) -> Triplets:
            like = {"device": next(base.parameters()).device, "dtype": model.dtype}
            return Triplets(projection, self.start, self.scale, **like)

        return AdaloraAttached(self, model, branch)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        return restore_branches(self, model, self.projections(model), shipped, self.scale, fold_into_weight)


class Triplets(nn.Module):
    """scale * (x (diag(lambda) Q)^T) P^T; lambda starts at zero."""

    def __init__(self, projection: Projection, rank: int, scale: float, **like: Any) -> None:
        super().__init__()
        self.P = nn.Parameter(torch.empty(projection.out_features, rank, **like).normal_(std=0.02))
        self.lam = nn.Parameter(torch.zeros(rank, **like))
        self.Q = nn.Parameter(torch.empty(rank, projection.in_features, **like).normal_(std=0.02))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        # lambda multiplies Q and not the product with x, or the backward pass would keep one more tensor [..., r]
        return functional.linear(functional.linear(x, self.Q * self.lam.unsqueeze(1)), self.P)

    def folded(self, keep: Tensor | slice) -> Branch:
        """The triplets to keep as a LoRA branch: A = Q, B = P diag(lambda)."""
        b = (self.P * self.lam)[:, keep]
        return Branch(self.Q[keep].detach().clone(), b.detach().clone(), self.scale)


class Importance:
    """The importance of a number w with gradient g: smoothed |w g| times its smoothed deviation (equations 9 to 11)."""

    def __init__(self, parameters: Sequence[nn.Parameter], beta1: float, beta2: float) -> None:
        self.parameters = list(parameters)
        self.beta1, self.beta2 = beta1, beta2
        self.sensitivity = [torch.zeros_like(parameter) for parameter in parameters]
        self.uncertainty = [torch.zeros_like(parameter) for parameter in parameters]

    def update(self) -> None:
        """Takes the gradients of this step into account. Tensors without a gradient keep their values."""
        known = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        if not known:
            return
        sensitivity = [self.sensitivity[index] for index in known]
        # all tensors at once, because they are many and small
        now = [cast(Tensor, self.parameters[index].grad).detach() for index in known]
        now = list(torch._foreach_mul([self.parameters[index].detach() for index in known], now))
        torch._foreach_abs_(now)
        torch._foreach_lerp_(sensitivity, now, 1.0 - self.beta1)
        torch._foreach_sub_(now, sensitivity)
        torch._foreach_abs_(now)
        torch._foreach_lerp_([self.uncertainty[index] for index in known], now, 1.0 - self.beta2)

    def scores(self) -> list[Tensor]:
        """The importance of each tensor, in its shape."""
        return list(torch._foreach_mul(self.sensitivity, self.uncertainty))


class AdaloraAttached(LowRankAttached):
    """Triplets inside a model while they train, and plain LoRA branches after `prepare_for_inference`."""

    method: Adalora

    def __init__(self, method: Adalora, model: PreTrainedModel, branch: NewBranch) -> None:
        super().__init__(method, model, method.projections(model), branch, fold_into_weight)
        self.triplets = [cast(Triplets, branch) for _, branch in self.branches()]
        tensors = [tensor for t in self.triplets for tensor in (t.P, t.lam, t.Q)]
        self.importance = Importance(tensors, method.beta1, method.beta2)
        self.keep = [torch.ones_like(t.lam, dtype=torch.bool) for t in self.triplets]
        self.kept_for: int | None = None
        """The budget that ``keep`` was chosen for, None where the importance has changed since then."""

    def regularization_loss(self) -> Tensor | None:
        """gamma times the mean of ||P^T P - I|| and ||Q Q^T - I|| over all projections."""
        if not self.triplets:  # after `prepare_for_inference`
            return None
        grams = torch.stack([gram for t in self.triplets for gram in (t.P.t() @ t.P, t.Q @ t.Q.t())])
        identity = torch.eye(self.method.start, device=grams.device)
        norms: Tensor = torch.linalg.matrix_norm(grams.float() - identity)
        return self.method.penalty_weight * norms.mean()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if not self.triplets:
            return
        # the final phase keeps the distribution of ranks (section 3.3), so importance is not updated any more
        if step < self.method.end:
            self.importance.update()
            self.kept_for = None
        if self.method.allocates(step):
            self._allocate(self.method.budget(step, len(self.triplets)))

    def _allocate(self, budget: int) -> None:
        """Keeps the ``budget`` most important triplets of all projections and sets lambda of the others to zero."""
        if budget != self.kept_for:
            found = iter(self.importance.scores())
            # the tensors are P, lambda and Q of one projection, then of the next
            scores = torch.cat([p.mean(0) + lam + q.mean(1) for p, lam, q in zip(found, found, found, strict=True)])
            keep = torch.zeros_like(scores, dtype=torch.bool)
            keep[scores.topk(budget).indices] = True
            self.keep, self.kept_for = list(keep.split(self.method.start)), budget
        for triplets, kept in zip(self.triplets, self.keep, strict=True):
            triplets.lam.masked_fill_(~kept, 0.0)

    def training_state(self) -> list[Tensor]:
        """The smoothed sensitivities and uncertainties, and which triplets are kept."""
        return [*self.importance.sensitivity, *self.importance.uncertainty, *self.keep]

    def ranks(self) -> dict[str, int]:
        """The present rank of each projection, by label."""
        return {p.label: int(kept.sum()) for (p, _), kept in zip(self.branches(), self.keep, strict=True)}

    def metadata(self) -> dict[str, object]:
        return {"ranks": self.ranks()}

    def products(self) -> list[Product]:
        if not self.triplets:
            return super().products()
        folded = self._folded()
        return [(p, b.A.detach(), b.B.detach()) for (p, _), b in zip(self.branches(), folded, strict=True)]

    def _folded(self) -> list[Branch]:
        """The triplets that are kept for inference, as LoRA branches.

        Which triplets are important depends on data. Tensors without data keep an even number in every projection, so
        that the sum over all projections is that of the final budget, and sizes that depend on it are right.
        """
        keep: Sequence[Tensor | slice] = self.keep
        if not all(has_values(kept) for kept in self.keep):
            keep = [slice(self.method.rank)] * len(self.keep)
        return [triplets.folded(kept) for triplets, kept in zip(self.triplets, keep, strict=True)]

    def prepare_for_inference(self) -> None:
        if not self.triplets:
            return
        folded = iter(self._folded())
        for wrapper in self.wrappers.values():
            wrapper.branches = nn.ModuleList([next(folded) for _ in wrapper.branches])
        self.triplets, self.importance = [], Importance([], self.method.beta1, self.method.beta2)
        super().prepare_for_inference()
