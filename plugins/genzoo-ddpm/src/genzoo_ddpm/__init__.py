"""The genzoo plugin that brings denoising diffusion. Importing it imports no torch."""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """ddpm, its variant ddim, d3pm for codes with few levels, and two in continuous time: score_sde, flow_matching."""
    family, real = "denoising diffusion", {"real": {"standardize": True}}
    effort = {"real": 32, "binary": 4, "discrete": 4}
    checked = {"steps": 5, "width": 8, "blocks": 1}  # their full sum is cheap, and nothing in the code is left out
    return [
        ModelCard(
            name="ddpm",
            summary="denoising diffusion with its full variational bound, estimated from drawn time steps",
            family=family,
            target="genzoo_ddpm.ddpm:DDPM",
            paper="Ho et al. 2020, arXiv:2006.11239",
            adapters=real,
            num_samples=effort,
            kind="lower_bound",
            checked=checked,
        ),
        ModelCard(
            name="ddim",
            summary="the same with DDIM's less noisy sampler (eta), and the bound of that very sampler",
            family=family,
            target="genzoo_ddpm.ddpm:DDIM",
            paper="Song et al. 2021, arXiv:2010.02502",
            adapters=real,
            num_samples=effort,
            kind="lower_bound",
            checked=checked,
        ),
        ModelCard(
            name="d3pm",
            summary="diffusion of codes by drawing them anew, or by masking them, in T steps or in random order",
            family=family,
            target="genzoo_ddpm.d3pm:D3PM",
            paper="Sohl-Dickstein et al. 2015, arXiv:1503.03585; Austin et al. 2021, arXiv:2107.03006",
            data=("binary", "discrete"),
            max_levels=32,
            because="its network has an output for each level of each dimension; ddpm takes more levels, and real data",
            num_samples={"binary": 4, "discrete": 4},
            kind="lower_bound",
            checked=checked,
        ),
        ModelCard(
            name="score_sde",
            summary="score matching for the variance-preserving SDE, weighted to bound its likelihood; or its ODE",
            family="score-based SDE",
            target="genzoo_ddpm.score_sde:ScoreSDE",
            paper="Song et al. 2021, arXiv:2011.13456; Song et al. 2021, arXiv:2101.09258",
            adapters=real,
            num_samples=effort,
            kind="lower_bound",
            checked={"steps": 24, "width": 8, "blocks": 1},
        ),
        ModelCard(
            name="flow_matching",
            summary="flow matching along optimal-transport paths; the likelihood of its ODE is an estimate",
            family="flow matching",
            data=("real",),
            because="its likelihood is an ODE's, of data with a density; score_sde takes codes as they are",
            target="genzoo_ddpm.flow_matching:FlowMatching",
            paper="Lipman et al. 2023, arXiv:2210.02747",
            adapters=real,
            kind="estimate",
            checked={"width": 8, "blocks": 1},
        ),
    ]
