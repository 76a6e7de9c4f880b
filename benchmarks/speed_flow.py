"""Time of a training step of a spline flow: nflows 0.14 against genzoo-flow with the very same parameters.

Six rational-quadratic couplings in two dimensions, hidden 64, 8 bins, batch 512, float32, one thread: the loss, its
gradient and an Adam step. Variants take turns within one process, so that what else the machine does falls on all of
them alike; medians are compared. Before timing, all must give the same log-density with the same parameters.

    python benchmarks/speed_flow.py [--no-compile] [--rounds N] [-o benchmarks/results/speed_flow.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
# an empty cache: what is printed as the cold start is one
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="genzoo-speed-")

import torch
from genzoo_flow.layers import Chain, SplineCoupling, standard_normal
from genzoo_flow.vector import spline_couplings
from nflows.transforms import CompositeTransform, PiecewiseRationalQuadraticCouplingTransform
from timing import interleaved, without_grad
from torch import Tensor, nn

LAYERS, HIDDEN, BINS, BOUND, BATCH, MANY = 6, 64, 8, 4.0, 512, 4096
AGREE = 1e-5
"""Largest difference allowed between two log-densities, in nats a layer; float32 gives about 1e-6."""
TARGETS = {"ours": 1.3, "ours compiled": 1.6}

Loss = Callable[[Tensor], Tensor]


def nflows_twin(couplings: Chain) -> CompositeTransform:
    """nflows' couplings with networks of their own, of the same parameters as those of `couplings`."""
    layers = []
    for layer in couplings.layers:
        assert isinstance(layer, SplineCoupling)
        network = copy.deepcopy(layer.network)
        mask = [int(layer.start <= i < layer.stop) for i in range(2)]
        twin = PiecewiseRationalQuadraticCouplingTransform(
            mask, lambda *_, network=network: network, num_bins=BINS, tails="linear", tail_bound=BOUND
        )
        layers.append(twin)
    return CompositeTransform(layers)


def loss_of(flow: nn.Module) -> Loss:
    """Mean negative log-density of a batch under `flow` and a standard normal."""

    def loss(x: Tensor) -> Tensor:
        z, ladj = flow(x)
        return -(standard_normal(z) + ladj).mean()

    return loss


def step_of(flow: nn.Module, loss: Loss, x: Tensor, fused: bool) -> Callable[[], None]:
    """One training step."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=fused)

    def step() -> None:
        value = loss(x)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def quartiles(times: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, mid, high = statistics.quantiles(times, n=4)
    return {"median_ms": round(mid, 3), "low_quartile_ms": round(low, 3), "high_quartile_ms": round(high, 3)}


def main() -> int:
    """Print the table and the JSON; exit 1 where the log-densities differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    names = ["ours"] if args.no_compile else ["ours", "ours compiled"]
    # nflows' own setting throughout: two residual blocks, sizes divided by the root of the hidden width
    couplings = {
        name: spline_couplings(
            2, 0, layers=LAYERS, hidden=HIDDEN, bins=BINS, bound=BOUND, blocks=2, temperature=HIDDEN**0.5
        )
        for name in names
    }
    with torch.no_grad():
        for parameter in couplings["ours"].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # a flow that does something
    for chain in couplings.values():
        chain.load_state_dict(couplings["ours"].state_dict())
    flows: dict[str, nn.Module] = {
        "nflows": nflows_twin(couplings["ours"]),
        "nflows, fused Adam": nflows_twin(couplings["ours"]),
        **couplings,
    }
    losses = {name: loss_of(flow) for name, flow in flows.items()}
    x, many = 1.5 * torch.randn(BATCH, 2), 1.5 * torch.randn(MANY, 2)

    with torch.no_grad():
        densities = {name: standard_normal(z) + ladj for name, flow in flows.items() for z, ladj in [flow(many)]}
        difference = max(float((d - densities["nflows"]).abs().max()) for d in densities.values())
    gradient = {}
    for name, flow in flows.items():
        losses[name](x).backward()
        gradient[name] = torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])
    gap = max(float((g - gradient["nflows"]).norm() / gradient["nflows"].norm()) for g in gradient.values())

    cold = None
    if not args.no_compile:
        losses["ours compiled"] = torch.compile(losses["ours compiled"], dynamic=False)
        start = time.perf_counter()
        compiled = losses["ours compiled"](x)
        compiled.backward()
        cold = time.perf_counter() - start
        gap = max(gap, float((compiled - losses["nflows"](x)).detach().abs()))
    agree = difference <= AGREE * LAYERS and gap <= 1e-4

    steps = {name: step_of(flow, losses[name], x, fused=name != "nflows") for name, flow in flows.items()}
    step = interleaved(dict(steps), args.rounds)
    pair = {name: flows[name] for name in ("nflows", "ours")}
    density = interleaved({name: without_grad(flow, many) for name, flow in pair.items()}, args.rounds // 4)
    drawing = interleaved({name: without_grad(flow.inverse, many) for name, flow in pair.items()}, args.rounds // 4)

    base = statistics.median(step["nflows"])
    ratios = {name: round(base / statistics.median(times), 3) for name, times in step.items()}
    result = {
        "what": f"{LAYERS} couplings, hidden {HIDDEN}, {BINS} bins, 2D, float32, one thread",
        "parameters": sum(p.numel() for p in couplings["ours"].parameters()),
        "largest_log_density_difference_nats": difference,
        "largest_relative_gradient_difference": gap,
        "same_log_density": agree,
        f"step_batch_{BATCH}": {name: quartiles(times) | {"speedup": ratios[name]} for name, times in step.items()},
        f"log_density_batch_{MANY}": {name: quartiles(times) for name, times in density.items()},
        f"sample_batch_{MANY}": {name: quartiles(times) for name, times in drawing.items()},
        "compile_cold_start_seconds": None if cold is None else round(cold, 1),
        "targets": {n: {"speedup": want, "met": ratios[n] >= want} for n, want in TARGETS.items() if n in ratios},
        "rounds": args.rounds,
        "versions": {name: version(name) for name in ("torch", "nflows", "genzoo")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    print(f"{'step, batch ' + str(BATCH):<24}{'median ms':>10}{'quartiles':>18}{'speed-up':>10}")
    for name, times in step.items():
        q = quartiles(times)
        span = f"{q['low_quartile_ms']:.1f} .. {q['high_quartile_ms']:.1f}"
        print(f"{name:<24}{q['median_ms']:>10.2f}{span:>18}{ratios[name]:>9.2f}x")
    for what, both in ((f"log-density, batch {MANY}", density), (f"sample, batch {MANY}", drawing)):
        ratio = statistics.median(both["nflows"]) / statistics.median(both["ours"])
        print(f"{what}: nflows {statistics.median(both['nflows']):.2f} ms, ours {ratio:.2f}x")
    verdict = "the same" if agree else "NOT THE SAME"
    print(f"log-densities differ by {difference:.1e} nats, gradients by {gap:.1e} of their norm: {verdict}")
    if cold is not None:
        print(f"compile, cold start: {cold:.1f} s")
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
