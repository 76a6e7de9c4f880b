"""What an energy-based model is made of: a field f, how it is trained, and how it is normalised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field as Key
from torch import Tensor, nn

from genzoo.config import Config, TrainSettings
from genzoo.interface import Estimator, GenerativeModel
from genzoo.likelihood import LogLikelihood
from genzoo.spec import DataSpec, Split


class EBMConfig(Config):
    """Configuration of `EBM`. Keys from `grid` on are of the plane alone, those from `distributions` on of all else."""

    objective: Literal["likelihood", "nce", "score", "pcd"] | None = Key(
        None, description="see the module; none: likelihood in the plane, pcd elsewhere, where there is no other"
    )
    width: int | None = Key(None, ge=4, description="features inside the network; none: 128, for images 16")
    blocks: int | None = Key(None, ge=1, description="residual blocks; none: 3, for images 1 at each of two sizes")
    chains: int | None = Key(None, ge=1, description="persistent chains, of each class; none: 2,000, elsewhere 500")
    langevin_steps: int | None = Key(None, ge=1, description="moves of a chain a training step; none: 20, elsewhere 5")
    langevin_size: float = Key(
        0.05, gt=0, description="their size in the plane, x + size^2 / 2 d log f + size noise; elsewhere its start"
    )
    scale: float = Key(1.5, gt=0, description="s, for data whose scale is about 1")
    grid: int = Key(400, ge=50, description="nodes a side for the final Z and for samples")
    train_grid: int = Key(64, ge=8, description="nodes a side for Z in the likelihood objective, jittered at each step")
    distributions: int = Key(100, ge=10, description="temperatures of the annealed sampler, part of the model")
    changes: int | None = Key(
        None, ge=1, description="M, codes that a move proposes to change; none: half the root of the dimensions"
    )
    enumerated: int = Key(1 << 12, ge=0, le=1 << 14, description="codes of at most so many states are summed over")


class Field(nn.Module, ABC):
    """One way to be an energy-based model; `EBM` hands everything on to it."""

    def __init__(self, spec: DataSpec, config: EBMConfig) -> None:
        super().__init__()
        self.spec = spec
        self.config = config

    @property
    def loss_in_nats(self) -> bool:
        """See GradientModel."""
        return False

    @abstractmethod
    def default_training(self) -> TrainSettings:
        """See GenerativeModel."""

    @abstractmethod
    def loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """See GradientModel."""

    @abstractmethod
    def initialise(self, train: Split) -> None:
        """See GradientModel."""

    @abstractmethod
    def calibrate(self, train: Split, valid: Split) -> None:
        """See GradientModel."""

    @abstractmethod
    def log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        """See GenerativeModel."""

    @abstractmethod
    def sample(self, n: int, condition: Tensor | None) -> Tensor:
        """See GenerativeModel."""

    @abstractmethod
    def estimators(self, model: GenerativeModel) -> Mapping[str, Callable[[], Estimator]]:
        """See GenerativeModel; of `model`, whose field this is."""
