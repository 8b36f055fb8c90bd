"""The core: processes, schedules, losses, solvers, guidance. Imports torch and nothing else."""

from sfumato.diffusion.couplings import independent, optimal_transport
from sfumato.diffusion.denoiser import Denoiser, Guess
from sfumato.diffusion.equilibrium import Descent, Equilibrium, descend, residual
from sfumato.diffusion.exact import GaussianData, MixtureData, finite_data
from sfumato.diffusion.fitted import Fitted, fit_solver
from sfumato.diffusion.generate import Blanks, Drawn, FromNoise, generate
from sfumato.diffusion.geodesic import Geodesic
from sfumato.diffusion.grids import Auto, ShiftedGrid, auto, cosine, karras, logsnr, uniform
from sfumato.diffusion.guidance import apg, autoguide, clip, during, guide, inpaint
from sfumato.diffusion.heat import Heat
from sfumato.diffusion.likelihood import bits_per_dimension, dequantised_bits, log_likelihood
from sfumato.diffusion.loss import loss
from sfumato.diffusion.manifold import SO3, Sphere, Torus
from sfumato.diffusion.manifold_likelihood import log_volume, manifold_log_likelihood
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.onehot import Decoding, OneHot
from sfumato.diffusion.particles import Steered, exceeds, guess_spread, pooled, steer
from sfumato.diffusion.parts import Parts
from sfumato.diffusion.presets import Method, ddpm, edm, flow_matching, iddpm, ve_sde, vp_sde
from sfumato.diffusion.process import Endpoints, Gaussian, Process
from sfumato.diffusion.product import Clean, Product
from sfumato.diffusion.product_likelihood import product_log_likelihood
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Solver, sample, trajectory, walk
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
from sfumato.diffusion.selfconditioning import SelfConditioned, remember
from sfumato.diffusion.solvers import (
    SOLVERS,
    AdaptiveSolver,
    Renoised,
    ab,
    ancestral,
    dpmpp_2m,
    dpmpp_2s,
    euler,
    heun,
    unipc,
)
from sfumato.diffusion.times import (
    Adaptive,
    Covered,
    LogitNormal,
    LogNormal,
    PartlyKnown,
    PerFrame,
    PerPart,
    Ramp,
    Times,
    Uniform,
    stratified,
)
from sfumato.diffusion.tokens import UniformTokens, elbo
from sfumato.diffusion.tree import hide
from sfumato.diffusion.unmasking import Confidence, EntropyBound, RandomOrder, Remask, blocks, infill
from sfumato.diffusion.weights import LearnedUncertainty, edm_weight, min_snr, sigmoid_weight

__all__ = [
    "EDM",
    "SO3",
    "SOLVERS",
    "VE",
    "VP",
    "Adaptive",
    "AdaptiveSolver",
    "Auto",
    "Blanks",
    "Clean",
    "Confidence",
    "Cosine",
    "Covered",
    "Decoding",
    "Denoiser",
    "Descent",
    "Drawn",
    "Endpoints",
    "EntropyBound",
    "Equilibrium",
    "Fitted",
    "FromNoise",
    "Gaussian",
    "GaussianData",
    "Geodesic",
    "Guess",
    "Heat",
    "LearnedUncertainty",
    "Linear",
    "LogLinear",
    "LogNormal",
    "LogitNormal",
    "Masked",
    "Method",
    "MixtureData",
    "OneHot",
    "PartlyKnown",
    "Parts",
    "PerFrame",
    "PerPart",
    "Process",
    "Product",
    "Ramp",
    "RandomOrder",
    "Remask",
    "Renoised",
    "Schedule",
    "SelfConditioned",
    "Shifted",
    "ShiftedGrid",
    "Sigmoid",
    "Solver",
    "Sphere",
    "Steered",
    "Streams",
    "Table",
    "Times",
    "Torus",
    "Uniform",
    "UniformTokens",
    "ZeroTerminal",
    "ab",
    "ancestral",
    "apg",
    "auto",
    "autoguide",
    "bits_per_dimension",
    "blocks",
    "clip",
    "cosine",
    "ddpm",
    "dequantised_bits",
    "descend",
    "dpmpp_2m",
    "dpmpp_2s",
    "during",
    "edm",
    "edm_weight",
    "elbo",
    "euler",
    "exceeds",
    "finite_data",
    "fit_solver",
    "flow_matching",
    "generate",
    "guess_spread",
    "guide",
    "heun",
    "hide",
    "iddpm",
    "independent",
    "infill",
    "inpaint",
    "karras",
    "key",
    "log_likelihood",
    "log_volume",
    "logsnr",
    "loss",
    "manifold_log_likelihood",
    "min_snr",
    "optimal_transport",
    "pooled",
    "product_log_likelihood",
    "remember",
    "residual",
    "sample",
    "sigmoid_weight",
    "steer",
    "stratified",
    "trajectory",
    "uniform",
    "unipc",
    "ve_sde",
    "vp_sde",
    "walk",
]
