"""Configuration of the diffusions, and the schedule that it names."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from genzoo.config import Config
from genzoo.errors import ConfigError
from genzoo.spec import DataSpec
from genzoo_ddpm.schedules import CosineSchedule, LinearSchedule, LogSNRSchedule, Schedule

REAL_LOG_SNR = 9.0
"""End point for standardised real data: noise of 0.011. 13.3 would spend a quarter of the
steps where there is little to learn; in single runs it was not better, within their noise."""

LEVELS_LOG_SNR = 13.6 - 2 * math.log(255)
"""End point for two levels at which half a level is 3.5 standard deviations. VDM's 13.3 for 256 levels is three, and
its decoder costs 0.006 bits a pixel on MNIST; 13.6 costs 0.001."""


class NetworkConfig(Config):
    """Of the network that all models here have."""

    width: int | None = Field(None, ge=8, description="features of the network; none: 128 for vectors, 48 for images")
    blocks: int = Field(3, ge=1, description="residual blocks of the network for vectors")


class DiffusionConfig(NetworkConfig):
    """Configuration of a denoising diffusion. Defaults come from short trainings."""

    steps: int = Field(256, ge=2, description="T; more steps tighten the bound and slow sampling in proportion")
    schedule: Literal["log_snr", "linear", "cosine", "learned"] = Field(
        "log_snr",
        description="log_snr: lam_t linear in t; linear, cosine: beta_t by Ho and by Nichol & Dhariwal; learned: "
        "monotone, of least variance, trained on the bound of infinitely many steps",
    )
    log_snr_max: float | None = Field(
        None, description="lam_1 of log_snr and learned; none: 9 for real data, 13.6 for 256 levels, less for fewer"
    )
    log_snr_min: float = Field(-5.0, description="lam_T of log_snr and learned")
    objective: Literal["vlb", "simple"] = Field("vlb", description="the bound itself, or Ho's mean squared error")
    variance: Literal["analytic", "small", "large", "learned"] = Field(
        "analytic", description="reverse variance: fitted per step, posterior variance, beta_t, or from the network"
    )
    decoder_variance: float | None = Field(
        None, gt=0, description="v_1 of the last step; none: fitted (real data), s_1^2 / a_1^2 (codes)"
    )
    particles: int | None = Field(
        None, ge=1, description="of in-painting, an example; none: 64 for vectors, 8 for images, whose step is dear"
    )


def schedule_of(spec: DataSpec, config: DiffusionConfig) -> Schedule:
    """The schedule of `config`, with end points that suit `spec`; a learned one as it begins.

    Raises:
        ConfigError: end points that do not fall; a learned schedule with what its bound does not train.
    """
    if config.schedule == "learned" and (config.objective != "vlb" or config.variance == "learned"):
        raise ConfigError(
            "schedule=learned trains on the bound of infinitely many steps, in which there is no reverse variance: "
            f"expected objective=vlb and variance other than learned; got {config.objective} and {config.variance}"
        )
    if config.schedule == "linear":
        return LinearSchedule(config.steps)
    if config.schedule == "cosine":
        return CosineSchedule(config.steps)
    high = fine_end(spec) if config.log_snr_max is None else config.log_snr_max
    if high <= config.log_snr_min:
        raise ConfigError(f"expected log_snr_max > log_snr_min; got {high:.4g} and {config.log_snr_min:.4g}")
    return LogSNRSchedule(config.steps, high, config.log_snr_min)


def fine_end(spec: DataSpec) -> float:
    """lam_1 that suits `spec`."""
    return REAL_LOG_SNR if spec.levels is None else LEVELS_LOG_SNR + 2 * math.log(spec.levels - 1)
