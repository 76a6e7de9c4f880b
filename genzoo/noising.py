"""Forward processes: how data turn into noise, step by step, before any training.

A Gaussian one, with x = (data - centre) / unit (codes 0..L-1 of an image are taken to [-1, 1]) and r = a_u / a_t:

    q(x_t given x_0) = N(a_t x_0, s_t^2 I), t = 1..T         q(x_u given x_t) = N(r x_t, (s_u^2 - r^2 s_t^2) I), u > t

Sohl-Dickstein et al. 2015, arXiv:1503.03585; in these letters Kingma et al. 2021, arXiv:2107.00630, eq. 1 and 23.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from genzoo.config import Config
from genzoo.errors import InputError
from genzoo.spec import DataSpec


class ForwardProcess(ABC):
    """A Markov chain from data x_0 to noise x_T that has nothing to learn."""

    steps: int
    """T."""

    @abstractmethod
    def _path(self, data: Tensor, times: Sequence[int]) -> Iterator[Tensor]:
        """See `path`; the times are in order."""

    @abstractmethod
    def describe(self, time: int) -> str:
        """How noisy step `time` is, in a few signs."""

    @final
    def times(self, frames: int) -> list[int]:
        """Steps from 0, which is the data, to T, evenly apart: `frames` of them, at least 2, or fewer for a short
        chain."""
        return sorted({round(i * self.steps / (frames - 1)) for i in range(frames)})

    @final
    def path(self, data: Tensor, times: Sequence[int]) -> Iterator[Tensor]:
        """x_t at each of the rising `times` along one path from `data (B, *event_shape)`, in data units and not
        rounded. Draws from the global RNG.

        Raises:
            InputError: times outside 0..T, or that do not rise.
        """
        rising = all(t < u for t, u in itertools.pairwise(times))
        if not rising or not all(0 <= t <= self.steps for t in times):
            raise InputError(f"expected rising times in 0..{self.steps}; got {[*times]}")
        return self._path(data if data.is_floating_point() else data.to(torch.float32), times)


@final
class GaussianProcess(ForwardProcess):
    """See the module.

    Args:
        signal, noise: `(T,)` float64, a_t and s_t of step t at index t - 1.
        levels: of codes; None for real data, which are taken as they are.
    """

    def __init__(self, signal: Tensor, noise: Tensor, levels: int | None) -> None:
        self.signal, self.noise = signal, noise
        self.steps = len(signal)
        self.unit = 1.0 if levels is None else (levels - 1) / 2
        self.centre = 0.0 if levels is None else self.unit

    def at(self, time: int) -> tuple[float, float]:
        """(a_t, s_t), which are (1, 0) at t = 0."""
        return (float(self.signal[time - 1]), float(self.noise[time - 1])) if time else (1.0, 0.0)

    def describe(self, time: int) -> str:
        """a_t and s_t."""
        return "a = {:.3f}, s = {:.3f}".format(*self.at(time))

    def _path(self, data: Tensor, times: Sequence[int]) -> Iterator[Tensor]:
        x, before = (data - self.centre) / self.unit, 0
        for time in times:
            (a, s), (signal, noise) = self.at(before), self.at(time)
            ratio = signal / a
            if time > before:
                x = ratio * x + max(0.0, noise**2 - (ratio * s) ** 2) ** 0.5 * torch.randn_like(x)
            before = time
            yield self.centre + self.unit * x if time else data


class Noising(ABC):
    """A model class with a forward process that its data and config fix."""

    @classmethod
    @abstractmethod
    def forward_process(cls, spec: DataSpec, config: Config) -> ForwardProcess:
        """That of the model made of `spec` and `config`, without making the model."""
