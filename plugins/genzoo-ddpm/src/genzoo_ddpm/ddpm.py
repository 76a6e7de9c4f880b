"""DDPM and DDIM: one network and objective, two reverse chains (the bound's terms: `genzoo_ddpm.diffusion`).

    -log p(x_0) <= KL(q(x_T given x_0), p(x_T)) + sum_{t=2}^T E KL(q(x_{t-1} given x_t, x_0), p(x_{t-1} given x_t))
                   - E log p(x_0 given x_1)                      x_t = a_t x_0 + s_t eps, Ho et al. 2020, eq. 5

DDIM's sampler (Song et al. 2021, arXiv:2010.02502, eq. 12) with 0 < eta <= 1 is the reverse of another inference
process with the same q(x_t given x_0), whose posterior variance is eta^2 times Ho's. Its variational bound is computed
like DDPM's from that chain's tables, so the number speaks of that very sampler. At eta = 0 the bound is -inf.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field

from genzoo.config import Config
from genzoo.spec import DataSpec
from genzoo_ddpm.diffusion import Diffusion
from genzoo_ddpm.options import DiffusionConfig


@final
class DDPM(Diffusion):
    """Denoising diffusion with ancestral sampling (Ho et al. 2020, arXiv:2006.11239)."""

    def __init__(self, spec: DataSpec, config: DiffusionConfig | None = None) -> None:
        super().__init__(spec, config, eta=1.0)


class DDIMConfig(DiffusionConfig):
    """As for DDPM, with the share of noise in each step."""

    eta: float = Field(0.5, ge=0, le=1, description="noise of a step over DDPM's; 0 samples but has no finite bound")


@final
class DDIM(Diffusion):
    """Denoising diffusion with DDIM's sampler (Song et al. 2021, arXiv:2010.02502)."""

    Config: ClassVar[type[Config]] = DDIMConfig

    def __init__(self, spec: DataSpec, config: DDIMConfig | None = None) -> None:
        super().__init__(spec, config, eta=(config or DDIMConfig()).eta)
