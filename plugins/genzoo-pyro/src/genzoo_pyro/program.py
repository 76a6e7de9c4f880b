"""Running a Pyro program: its sites, its log-probabilities per example, its draws.

A program is a `pyro.nn.PyroModule` called as `model(x, n, condition)`:

    x          (n, *event_shape) float32 (codes as floats for discrete data), or None: then the program draws it
    n          number of examples, the size of its plate "data"
    condition  labels (n,) int64 of a conditional model, else None
    returns    what stands for the data, (n, *event_shape)

Every sample site stands inside `pyro.plate("data", n)` and belongs to one example. Sites with `obs=x` (or a part of x)
are observed, all others are latent. A guide takes the same arguments and samples the latents. Both broadcast over
plates further left, as with Pyro's own `vectorize_particles=True`: K draws are one pass with an outer plate of size K.

Notation: K draws, B examples, z latents. log w = log p(x given z) + [log p(z) - log q(z given x)].

Importing this module sets Pyro's `module_local_params`: parameters belong to their modules, and nothing passes through
the global parameter store, which would tie models of one process together by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.util import site_is_subsample
from pyro.util import check_site_shape
from torch import Tensor

from genzoo.errors import CapabilityError, ConfigError, GenzooError
from genzoo.spec import DataSpec

pyro.settings.set(module_local_params=True)

PLATE = "data"
DRAWS = "genzoo_draws"
PROBE = 3  # examples in the run that finds a program's sites; unlike 1 and 2, rarely a size that broadcasts by accident


@dataclass(frozen=True)
class Sites:
    """What a program consists of.

    Attributes:
        observed, latent, enumerated: names of sites; `latent` needs a guide, `enumerated` is summed over.
        nesting: plates that stand around a site, at most; dimensions -nesting..-1 are theirs.
        data_dim: the dimension of the plate "data", negative.
    """

    observed: tuple[str, ...]
    latent: tuple[str, ...]
    enumerated: tuple[str, ...]
    nesting: int
    data_dim: int


def examine(spec: DataSpec, model: PyroModule, guide: PyroModule | None = None) -> Sites:
    """Run a program on a few of its own draws and say what it consists of.

    Raises:
        ConfigError: no PyroModule, no plate "data", sites of guide and model that differ, shapes that do not fit, or a
            program that fails.
        CapabilityError: a site outside the plate (a global latent), `pyro.factor`, scaled or masked sites, subsampling,
            a guide without reparameterised draws, enumeration beside a guide: none of these has log weights here.
    """
    for role, program in (("model", model), ("guide", guide)):
        if program is not None:
            _check_module(role, program)
    condition = None if spec.classes is None else torch.zeros(PROBE, dtype=torch.int64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(True):
            forward = poutine.trace(model).get_trace(None, PROBE, condition)
            x = _drawn_data(spec, forward, PROBE)
            trace = poutine.trace(model).get_trace(x, PROBE, condition)
            sites = _sites(trace)
            _check_drawn(forward, sites)
            guide_trace = None if guide is None else poutine.trace(guide).get_trace(x, PROBE, condition)
            _check_guide(sites, guide_trace)
            if guide is None:
                _check_shape("log p(x)", log_marginal(model, sites, x, condition), (PROBE,))
            else:
                for name, part in log_weights(model, guide, sites, x, 2, condition).items():
                    _check_shape(name, part, (2, PROBE))
    except GenzooError:
        raise
    except Exception as error:  # a program is the user's code, and may fail in any way
        cause = f"{type(error).__name__}: {error}".splitlines()[0]  # Pyro appends a table of shapes
        raise ConfigError(f"the Pyro program fails on {PROBE} of its own draws: {cause}") from error
    return sites


def log_weights(
    model: PyroModule, guide: PyroModule, sites: Sites, x: Tensor, num_samples: int, condition: Tensor | None
) -> dict[str, Tensor]:
    """Parts "reconstruction", log p(x given z), and "kl", log p(z) - log q(z given x), each `(K, B)` nats.

    `num_samples` is K; each draw has a fresh z.
    """
    dim = -1 - sites.nesting
    with pyro.plate(DRAWS, num_samples, dim=dim):
        guide_trace = poutine.trace(guide).get_trace(x, len(x), condition)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x, len(x), condition)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    return {
        "reconstruction": _per_example(model_trace, sites.observed, sites),
        "kl": _per_example(model_trace, sites.latent, sites) - _per_example(guide_trace, sites.latent, sites),
    }


def log_marginal(model: PyroModule, sites: Sites, x: Tensor, condition: Tensor | None) -> Tensor:
    """log p(x) `(B,)` nats of a program without latents, or with latents that Pyro enumerates, summed over exactly."""
    program = model
    if sites.enumerated:
        # each enumerated site gets a dimension of its own, left of all plates
        program = poutine.enum(model, first_available_dim=-1 - sites.nesting)
    trace = poutine.trace(program).get_trace(x, len(x), condition)
    trace.compute_log_prob()
    total = _per_example(trace, (*sites.observed, *sites.enumerated), sites)  # (M_1, ..., B)
    return total.logsumexp(tuple(range(total.ndim - 1))) if sites.enumerated else total.squeeze(0)


def draw(spec: DataSpec, model: PyroModule, n: int, condition: Tensor | None) -> Tensor:
    """`n` draws `(n, *event_shape)` of the program run forward, in the spec's dtype."""
    return _drawn_data(spec, poutine.trace(model).get_trace(None, n, condition), n).to(spec.dtype)


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """Without Pyro's and torch's checks of every argument: `examine` made them once, and a NaN that training produces
    is better named by the learner than by the distribution that happens to meet it."""
    with pyro.validation_enabled(False):
        yield


def _sample_sites(trace: Any) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample" and not site_is_subsample(site)]


def _per_example(trace: Any, names: Iterable[str], sites: Sites) -> Tensor:
    """Sum of log-probabilities over sites and over every plate but "data": `(draws or enumerations..., B)`."""
    total: Tensor | None = None
    for name in names:
        value: Tensor = trace.nodes[name]["log_prob"]
        value = value.reshape((1,) * (sites.nesting + 1 - value.ndim) + value.shape)
        inner = [d for d in range(-sites.nesting, 0) if d != sites.data_dim]
        value = value.sum(inner) if inner else value
        total = value if total is None else total + value
    if total is None:
        raise ConfigError("expected at least one site; the program has none")
    return total


def _drawn_data(spec: DataSpec, trace: Any, n: int) -> Tensor:
    x = trace.nodes["_RETURN"]["value"]
    expected = (n, *spec.event_shape)
    if not isinstance(x, Tensor) or tuple(x.shape) != expected:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ConfigError(f"expected the program to return the data {expected} when x is None; got {got}")
    return x.to(torch.float32)


def _sites(trace: Any) -> Sites:
    """Sort the sites of one run of the model, and refuse what has no per-example log-probability."""
    trace.compute_log_prob()
    names = _sample_sites(trace)
    stacks = {name: [f for f in trace.nodes[name]["cond_indep_stack"] if f.vectorized] for name in names}
    frames = [frame for stack in stacks.values() for frame in stack]
    data_dims = {frame.dim for frame in frames if frame.name == PLATE}
    if not data_dims:
        raise ConfigError(
            f'expected a plate named "{PLATE}" with the examples; wrap the sites in `with pyro.plate("{PLATE}", n):`'
        )
    nesting = max(-frame.dim for frame in frames)
    for name in names:
        site = trace.nodes[name]
        inside = [frame for frame in stacks[name] if frame.name == PLATE]
        if not inside:
            raise CapabilityError(
                f'site {name!r} stands outside the plate "{PLATE}": latents shared by all examples are not supported; '
                "make it a parameter, or draw it for each example"
            )
        _check_site(name, site, inside[0].size)
        check_site_shape(site, nesting)
    observed = tuple(name for name in names if trace.nodes[name]["is_observed"])
    hidden = [name for name in names if name not in observed]
    enumerated = tuple(name for name in hidden if trace.nodes[name]["infer"].get("enumerate") == "parallel")
    if not observed:
        raise ConfigError("expected an observed site, such as pyro.sample('x', ..., obs=x); the program has none")
    for name in enumerated:
        if len(stacks[name]) > 1:
            raise CapabilityError(f'enumerated site {name!r} stands in a plate inside "{PLATE}": unroll that plate')
        if trace.nodes[name]["infer"].get("_markov_depth"):
            raise CapabilityError(f"enumerated site {name!r} stands in pyro.markov, whose dimensions are shared")
    latent = tuple(name for name in hidden if name not in enumerated)
    return Sites(observed, latent, enumerated, nesting, next(iter(data_dims)))


def _check_module(role: str, program: object) -> None:
    if not isinstance(program, PyroModule):
        raise ConfigError(
            f"expected the {role} to be a pyro.nn.PyroModule, which owns its parameters; got {type(program).__name__}"
        )
    if "param_state" not in vars(program._pyro_context):
        raise ConfigError(
            f"the {role} was made without module_local_params: import genzoo_pyro.program before making it"
        )


def _check_drawn(forward: Any, sites: Sites) -> None:
    """With x None every site is drawn; what was observed must be drawn there."""
    for name in sites.observed:
        if name not in forward.nodes or forward.nodes[name]["is_observed"]:
            raise ConfigError(f"expected site {name!r} to be drawn when x is None; give it obs=None then")


def _check_guide(sites: Sites, guide_trace: Any | None) -> None:
    if guide_trace is None:
        if sites.latent:
            raise ConfigError(
                f"latent {sites.latent[0]!r} needs a guide, or, if it is discrete, infer={{'enumerate': 'parallel'}}"
            )
        return
    if sites.enumerated:
        raise CapabilityError(
            f"enumerated latent {sites.enumerated[0]!r} beside a guide is not supported: "
            "sum over it in the program, by dist.MixtureSameFamily for one"
        )
    names = set(_sample_sites(guide_trace))
    if names != set(sites.latent) or not names:
        raise ConfigError(f"expected the guide to sample the latents {sorted(sites.latent)}; got {sorted(names)}")
    guide_trace.compute_log_prob()
    for name in sorted(names):
        site = guide_trace.nodes[name]
        inside = [frame for frame in site["cond_indep_stack"] if frame.name == PLATE]
        if not inside or inside[0].dim != sites.data_dim:
            raise CapabilityError(f'site {name!r} of the guide stands outside the plate "{PLATE}" of the model')
        _check_site(name, site, inside[0].size)
        check_site_shape(site, sites.nesting)
        if not site["fn"].has_rsample:
            raise CapabilityError(f"site {name!r} of the guide is not reparameterised: its gradient would be wrong")


def _check_site(name: str, site: Any, size: int) -> None:
    if isinstance(site["fn"], dist.Unit):
        raise CapabilityError(f"site {name!r} is a pyro.factor: the density would not be normalised")
    law = site["fn"]
    while isinstance(law, dist.Independent):
        law = law.base_dist
    masked = site["mask"] is not None or isinstance(law, dist.MaskedDistribution)
    if size != PROBE or masked or bool(torch.as_tensor(site["scale"] != 1)):
        raise CapabilityError(f"site {name!r} is subsampled, scaled or masked: its log-probability is not log p")


def _check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(value.shape) != expected:
        raise ConfigError(
            f"expected {name} {expected}, one a draw and example; got {tuple(value.shape)}: "
            "the program must broadcast over plates on the left"
        )
