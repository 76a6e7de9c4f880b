"""What the bounds and their estimators need of a model: a chain of steps, a network, and an encoding of the data."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from genzoo.interface import GradientModel
from genzoo_ddpm.allocation import Allocation
from genzoo_ddpm.networks import VectorNetwork
from genzoo_ddpm.unet import PatchUNet


class StepModel(GradientModel):
    """A model whose bound is a sum over the steps of a chain."""

    network: PatchUNet | VectorNetwork
    allocation: Allocation

    @abstractmethod
    def _encoded(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data as the chain sees them, `(B, D)` float32, and labels one-hot `(B, classes)`."""

    def _need_noise(self) -> None:
        """Raise CapabilityError where the chain has no bound."""
