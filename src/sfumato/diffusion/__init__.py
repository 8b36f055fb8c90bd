"""The core: processes, schedules, losses, solvers, guidance. Imports torch and nothing else."""

from sfumato.diffusion.denoiser import Denoiser, Guess
from sfumato.diffusion.exact import GaussianData, MixtureData, finite_data
from sfumato.diffusion.guidance import apg, autoguide, clip, during, guide, inpaint
from sfumato.diffusion.likelihood import bits_per_dimension, log_likelihood
from sfumato.diffusion.loss import (
    Adaptive,
    LearnedUncertainty,
    LogitNormal,
    LogNormal,
    Uniform,
    edm_weight,
    independent,
    loss,
    min_snr,
    optimal_transport,
    sigmoid_weight,
    stratified,
)
from sfumato.diffusion.presets import Method, ddpm, edm, flow_matching, iddpm, ve_sde, vp_sde
from sfumato.diffusion.process import Endpoints, Gaussian, Process
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Auto, auto, cosine, karras, logsnr, sample, trajectory, uniform
from sfumato.diffusion.schedule import (
    EDM,
    VE,
    VP,
    Cosine,
    Linear,
    LogLinear,
    Schedule,
    Shifted,
    Sigmoid,
    Table,
    ZeroTerminal,
)
from sfumato.diffusion.solvers import (
    SOLVERS,
    AdaptiveSolver,
    ab,
    ancestral,
    dpmpp_2m,
    euler,
    heun,
    unipc,
)

__all__ = [
    "EDM", "SOLVERS", "VE", "VP", "Adaptive", "AdaptiveSolver", "Auto", "Cosine", "Denoiser", "Endpoints", "Gaussian",
    "GaussianData", "Guess", "LearnedUncertainty", "Linear", "LogLinear", "LogNormal", "LogitNormal", "Method",
    "MixtureData", "Process", "Schedule", "Shifted", "Sigmoid", "Streams", "Table", "Uniform", "ZeroTerminal", "ab",
    "ancestral", "apg", "auto", "autoguide", "bits_per_dimension", "clip", "cosine", "ddpm", "dpmpp_2m", "during", "edm",
    "edm_weight", "euler", "finite_data", "flow_matching", "guide", "heun", "iddpm", "independent", "inpaint", "karras",
    "key", "log_likelihood", "logsnr", "loss", "min_snr", "optimal_transport", "sample", "sigmoid_weight", "stratified",
    "trajectory", "uniform", "unipc", "ve_sde", "vp_sde",
]
