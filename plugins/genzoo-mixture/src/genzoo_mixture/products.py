"""Components that are products over dimensions: naive Bayes with a hidden class.

    Bernoullis      p_k(x) = prod_i t_ki^x_i (1 - t_ki)^(1 - x_i)
    Categoricals    p_k(x) = prod_i T_ki(x_i)

The M-step adds `smoothing` pseudo-counts, spread evenly over a dimension's levels: the maximum of the posterior under a
Dirichlet prior, without which a level unseen in training has probability zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from genzoo_mixture.components import Components, Statistics


class Bernoullis(Components):
    """K products of Bernoullis; `logit (K, D)`.

    Args:
        count: K. dims: D.
        smoothing: pseudo-counts a component and dimension, in units of one example of `examples`.
    """

    logit: Tensor

    def __init__(self, count: int, dims: int, smoothing: float) -> None:
        super().__init__()
        self.count, self.dims, self.smoothing = count, dims, smoothing
        self.register_buffer("logit", torch.zeros(count, dims, dtype=torch.float64))

    def free(self) -> int:
        """See Components."""
        return self.logit.numel()

    def log_prob(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """See Components."""
        one, zero = torch.nn.functional.logsigmoid(self.logit), torch.nn.functional.logsigmoid(-self.logit)
        if seen is None:
            return x @ (one - zero).T + zero.sum(1)
        return x[:, seen] @ (one - zero)[:, seen].T + zero[:, seen].sum(1)

    def statistics(self, x: Tensor, responsibility: Tensor) -> Statistics:
        """See Components."""
        return {"n": responsibility.sum(0), "ones": responsibility.T @ x}

    def maximise(self, statistics: Mapping[str, Tensor]) -> None:
        """See Components."""
        n, ones = statistics["n"][:, None], statistics["ones"]
        half = 0.5 * self.smoothing * statistics["one_example"]
        self.logit.copy_((ones.clamp(min=0) + half).log() - ((n - ones).clamp(min=0) + half).log())

    def sample(self, k: Tensor) -> Tensor:
        """See Components."""
        return torch.bernoulli(self.logit[k].sigmoid())

    def sample_rest(self, x: Tensor, seen: Tensor, k: Tensor) -> Tensor:
        """See Components: given the component, dimensions are independent."""
        return torch.where(seen, x, self.sample(k))


class Categoricals(Components):
    """K products of categoricals over `levels`; `log_table (D levels, K)`, row i levels + x holding log T_ki(x)."""

    log_table: Tensor

    def __init__(self, count: int, dims: int, levels: int, smoothing: float) -> None:
        super().__init__()
        self.count, self.dims, self.levels, self.smoothing = count, dims, levels, smoothing
        table = torch.full((dims * levels, count), -float(torch.tensor(levels).log()), dtype=torch.float64)
        self.register_buffer("log_table", table)

    def free(self) -> int:
        """See Components: all levels of a table but one."""
        return self.count * self.dims * (self.levels - 1)

    def _rows(self, x: Tensor) -> Tensor:
        return x.to(torch.int64) + self.levels * torch.arange(self.dims, device=x.device)

    def log_prob(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """See Components."""
        rows = self._rows(x) if seen is None else self._rows(x)[:, seen]
        return embedding_bag(rows, self.log_table, mode="sum")

    def statistics(self, x: Tensor, responsibility: Tensor) -> Statistics:
        """See Components: counts of each level, `(D levels, K)`, by a product with the one-hot codes."""
        rows = self._rows(x).flatten()
        which = torch.arange(len(x), device=x.device).repeat_interleave(self.dims)
        one_hot = torch.sparse_coo_tensor(
            torch.stack([rows, which]),
            torch.ones(len(rows), dtype=torch.float64, device=x.device),
            (len(self.log_table), len(x)),
            check_invariants=False,
        )
        return {"n": responsibility.sum(0), "counts": (one_hot @ responsibility)}

    def maximise(self, statistics: Mapping[str, Tensor]) -> None:
        """See Components."""
        smooth = self.smoothing / self.levels * statistics["one_example"]
        counts = (statistics["counts"].clamp(min=0) + smooth).view(self.dims, self.levels, self.count)
        self.log_table.copy_((counts / counts.sum(1, keepdim=True)).log().view_as(self.log_table))

    def sample(self, k: Tensor) -> Tensor:
        """See Components."""
        tables = self.log_table.view(self.dims, self.levels, self.count)[:, :, k]  # (D, levels, n)
        gumbel = -torch.empty_like(tables).exponential_().log()
        return (tables + gumbel).argmax(1).T.to(torch.float64)

    def sample_rest(self, x: Tensor, seen: Tensor, k: Tensor) -> Tensor:
        """See Components: given the component, dimensions are independent."""
        return torch.where(seen, x, self.sample(k))
