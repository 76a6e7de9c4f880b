"""The host's own cards, which come in through the same hooks as everyone else's, and the known plugins as data."""

from __future__ import annotations

from genzoo.cards import DatasetCard, MetricCard, ModelCard
from genzoo.hookspecs import hookimpl

# Model name to the distribution that brings it: what an uninstalled model is answered with.
KNOWN_PLUGINS = {
    "vae": "genzoo-vae",
    "hvae": "genzoo-vae",
    "flow": "genzoo-flow",
    "ddpm": "genzoo-ddpm",
    "ddim": "genzoo-ddpm",
    "d3pm": "genzoo-ddpm",
    "score_sde": "genzoo-ddpm",
    "flow_matching": "genzoo-ddpm",
    "pyro_vae": "genzoo-pyro",
    "pyro_mixture": "genzoo-pyro",
    "gmm": "genzoo-mixture",
    "bernoulli_mixture": "genzoo-mixture",
    "categorical_mixture": "genzoo-mixture",
    "naive_bayes": "genzoo-autoregressive",
    "nade": "genzoo-autoregressive",
    "made": "genzoo-autoregressive",
    "pixelcnn": "genzoo-autoregressive",
    "transformer": "genzoo-autoregressive",
    "rbm": "genzoo-energy",
    "dbn": "genzoo-energy",
    "ebm": "genzoo-energy",
    "gan": "genzoo-gan",
    "wgan": "genzoo-gan",
    "autoencoder": "genzoo-autoencoder",
}

FFJORD = "Grathwohl et al. 2019, arXiv:1810.01367"
SPLINES = "Durkan et al. 2019, arXiv:1906.04032"
MNIST = "LeCun et al. 1998, doi:10.1109/5.726791"
UNIFORM = {"dequantization": "uniform", "logit": 1e-6, "standardize": True}


def _plane(name: str, load: str, summary: str, paper: str, labels: bool = False) -> DatasetCard:
    target = f"genzoo.data.toy:{load}"
    return DatasetCard(
        name=name,
        summary=summary,
        target=target,
        paper=paper,
        data="real",
        event_shape=(2,),
        truth=True,
        options={"points": 100_000, **({"labels": False} if labels else {})},
    )


def _mnist(name: str, data: str, summary: str, paper: str) -> DatasetCard:
    return DatasetCard(
        name=name,
        summary=summary,
        target=f"genzoo.data.mnist:load_{name}",
        paper=paper,
        data=data,
        event_shape=(1, 28, 28),
        options={"points": 50_000, "labels": False},
    )


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The baseline that every model has to beat."""
    return [
        ModelCard(
            name="gaussian",
            summary="one Gaussian with full covariance, the baseline that every model has to beat",
            family="Gaussian",
            target="genzoo.baseline:Gaussian",
            adapters={"discrete": UNIFORM, "binary": UNIFORM},
            kind="exact",
        )
    ]


@hookimpl
def genzoo_datasets() -> list[DatasetCard]:
    """Ten densities in the plane whose truth is known, and digits."""
    return [
        _plane("moons", "load_moons", "two interleaved half circles with Gaussian noise", FFJORD, labels=True),
        _plane("8gaussians", "load_eight_gaussians", "eight Gaussians on a circle", FFJORD, labels=True),
        _plane("2spirals", "load_two_spirals", "two spirals with uniform and Gaussian noise", FFJORD, labels=True),
        _plane("checkerboard", "load_checkerboard", "uniform on eight squares of a board", FFJORD),
        _plane("rings", "load_rings", "four concentric rings with Gaussian noise", FFJORD, labels=True),
        _plane("circles", "load_circles", "two concentric circles with Gaussian noise", FFJORD, labels=True),
        _plane("pinwheel", "load_pinwheel", "five twisted arms", FFJORD),
        _plane("swissroll", "load_swissroll", "one spiral with Gaussian noise", FFJORD),
        _plane(
            "four_circles", "load_four_circles", "four overlapping circles with Gaussian noise", SPLINES, labels=True
        ),
        _plane("diamond", "load_diamond", "400 narrow Gaussians on a turned square grid", SPLINES),
        DatasetCard(
            name="digits",
            summary="scikit-learn's 8x8 handwritten digits, 17 grey levels",
            target="genzoo.data.digits:load_digits",
            paper="Alpaydin and Kaynak 1998, doi:10.24432/C50P49",
            data="discrete",
            event_shape=(1, 8, 8),
            options={"labels": False},
        ),
        _mnist("mnist", "discrete", "handwritten digits, 256 grey levels", MNIST),
        _mnist(
            "mnist_binary",
            "binary",
            "MNIST binarised anew at each visit, the grey level as probability",
            "Burda et al. 2016, arXiv:1509.00519",
        ),
        _mnist(
            "mnist_binary_static",
            "binary",
            "MNIST binarised once, by a seeded draw",
            "Salakhutdinov and Murray 2008, doi:10.1145/1390156.1390266",
        ),
    ]


@hookimpl
def genzoo_metrics() -> list[MetricCard]:
    """How far samples are from data, for every kind of data."""
    return [
        MetricCard(
            name="sliced_wasserstein",
            summary="sliced Wasserstein distance between samples and reference points",
            target="genzoo.metrics:sliced_wasserstein",
            paper="Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3",
        ),
        MetricCard(
            name="mmd",
            summary="maximum mean discrepancy between samples and reference points",
            target="genzoo.metrics:mmd",
            paper="Gretton et al. 2012, JMLR 13:723-773",
        ),
        MetricCard(
            name="c2st",
            summary="classifier two-sample test: how often samples and data are told apart; 0.5 is best",
            target="genzoo.metrics:classifier_accuracy",
            paper="Lopez-Paz and Oquab 2017, arXiv:1610.06545",
        ),
    ]
