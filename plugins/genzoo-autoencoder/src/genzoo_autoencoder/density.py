"""The density of codes z (d dimensions), fitted once they are there: a mixture of Gaussians by EM, in float64.

    p(z given y) = sum_j pi_yj N(z; m_j, C_j)
    r_nj = pi_yj N(z_n; m_j, C_j) / p(z_n given y_n);  pi, m, C from sums of r, r z, r z z^T     (Dempster et al. 1977)

Labels y, where there are any, share the components and have weights of their own. Of 1, 4, 16, ... components those are
kept that are best for held-out codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ROUNDS = 30
"""Of EM."""
RIDGE = 1e-6
"""Of the mean variance of the codes, added to each covariance: a component may shrink to one code."""


class CodeDensity(nn.Module):
    """A mixture of at most J Gaussians with covariances of their own; N(0, I) until it is fitted.

    Args:
        latents: d.
        components: J.
        labels: with weights of their own; 1 for none.
    """

    log_weights: Tensor
    loc: Tensor
    factor: Tensor

    def __init__(self, latents: int, components: int, labels: int) -> None:
        super().__init__()
        log_weights = torch.full((labels, components), -math.log(components), dtype=torch.float64)
        self.register_buffer("log_weights", log_weights)  # -inf: unused
        self.register_buffer("loc", torch.zeros(components, latents, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(latents, dtype=torch.float64).repeat(components, 1, 1))  # C = F F^T

    def log_prob(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """log p(z given y) `(*S, B)` float64 nats at `z (*S, B, d)`; `condition (B,)` or None."""
        return self._joint(z, condition).logsumexp(-1)

    def used(self) -> int:
        """Components in use, the first ones."""
        return int(self.log_weights.isfinite().any(0).sum())

    def _joint(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """log pi_yj N(z; m_j, C_j) of those in use, `(*S, B, J)`."""
        used, latents = self.used(), self.loc.shape[1]
        factor = self.factor[:used]
        eye = torch.eye(latents, dtype=torch.float64, device=factor.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)  # (J, d, d)
        centred = z.double()[..., None, :] - self.loc[:used]  # (*S, B, J, d)
        square = torch.einsum("jde,...je->...jd", inverse, centred).square().sum(-1)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        weights = self.log_weights[:, :used]
        weights = weights[0] if condition is None else weights[condition]
        return weights - log_det - 0.5 * (square + latents * math.log(2 * math.pi))

    def draw(self, n: int, condition: Tensor | None) -> Tensor:
        """`(n, d)` float64."""
        weights = self.log_weights.exp()
        rows = weights[:1].expand(n, -1) if condition is None else weights[condition]
        j = torch.multinomial(rows, 1)[:, 0]
        eps = torch.randn(n, self.loc.shape[1], dtype=torch.float64, device=self.loc.device)
        return self.loc[j] + torch.einsum("nde,ne->nd", self.factor[j], eps)

    def moments(self, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variances of z given each label, `(B, d)`, or `(1, d)` without labels."""
        weights = self.log_weights.exp()
        weights = weights[:1] if condition is None else weights[condition]
        mean = weights @ self.loc
        square = weights @ (self.loc.square() + self.factor.square().sum(2))
        return mean, square - mean.square()

    def count(self) -> int:
        """Numbers learned: weights, means and symmetric covariances of the components in use."""
        used, latents = self.used(), self.loc.shape[1]
        return len(self.log_weights) * (used - 1) + used * (latents + latents * (latents + 1) // 2)

    def fit(self, z: Tensor, y: Tensor | None, held: Tensor, held_y: Tensor | None) -> None:
        """EM on codes `z (N, d)` with labels `y (N,)` or None, for each number of components; keep the one that is best
        for `held` codes."""
        best: tuple[float, dict[str, Tensor]] | None = None
        count = 1
        while count <= len(self.loc):
            self._em(z.double(), y, count)
            value = float(self.log_prob(held, held_y).mean())
            if best is None or value > best[0]:
                best = value, {name: tensor.clone() for name, tensor in self.state_dict().items()}
            count *= 4
        assert best is not None
        self.load_state_dict(best[1])

    def _em(self, z: Tensor, y: Tensor | None, count: int) -> None:
        """From `count` of the codes, each with its share of the volume of all."""
        labels, latents = len(self.log_weights), z.shape[1]
        label = torch.zeros(len(z), dtype=torch.int64, device=z.device) if y is None else y
        ridge = RIDGE * float(z.var(0, correction=0).mean()) + torch.finfo(torch.float32).tiny
        ridge_matrix = ridge * torch.eye(latents, dtype=torch.float64, device=z.device)
        centred = z - z.mean(0)
        covariance = centred.T @ centred / len(z) * count ** (-2 / latents) + ridge_matrix
        self.log_weights.fill_(-math.inf)
        self.log_weights[:, :count] = -math.log(count)
        self.loc[:count] = z[torch.randperm(len(z), device=z.device)[torch.arange(count, device=z.device) % len(z)]]
        self.factor[:count] = torch.linalg.cholesky(covariance)
        for _ in range(ROUNDS):
            r = self._joint(z, y).softmax(1)  # (N, count)
            of_label = torch.zeros(labels, count, dtype=torch.float64, device=z.device).index_add(0, label, r) + 1e-9
            n = of_label.sum(0)
            self.log_weights[:, :count] = (of_label / of_label.sum(1, keepdim=True)).log()
            self.loc[:count] = r.T @ z / n[:, None]
            for j in range(count):
                apart = z - self.loc[j]
                self.factor[j] = torch.linalg.cholesky((r[:, j, None] * apart).T @ apart / n[j] + ridge_matrix)
