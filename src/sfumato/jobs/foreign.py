"""What people type who come from other tools, and what it is called here. Words alone: nothing is imported or measured."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfumato.errors import DataError
from sfumato.jobs.flags import Option, negative

SAME: dict[str, tuple[str, ...]] = {
    "batch": ("batch-size", "bs", "batchsize", "train-batch-size", "per-device-train-batch-size", "global-batch-size",
              "minibatch-size", "mini-batch", "eval-batch-size", "total-batch-size"),
    "optim.lr": ("lr", "learning-rate", "base-lr", "max-lr", "peak-lr", "step-size", "learning-rate-init"),
    "optim.kind": ("optimizer", "optimiser", "opt", "optim", "optimizer-type"),
    "optim.weight-decay": ("weight-decay", "wd", "adam-weight-decay", "l2"),
    "optim.betas": ("betas", "adam-betas", "beta1", "beta2", "adam-beta1", "adam-beta2"),
    "optim.momentum": ("momentum",),
    "optim.warmup": ("warmup", "warmup-steps", "lr-warmup-steps", "num-warmup-steps", "warm-up"),
    "optim.decay": ("lr-decay", "lr-scheduler", "lr-schedule", "cooldown"),
    "optim.clip": ("clip", "grad-clip", "gradient-clip", "gradient-clip-val", "max-grad-norm", "clip-grad-norm"),
    "workers": ("num-workers", "dataloader-num-workers", "n-workers", "loader-workers", "num-proc"),
    "threads": ("num-threads", "n-threads", "cpu-threads"),
    "n": ("num-samples", "n-samples", "samples", "num-images", "num-images-per-prompt", "count", "nsamples", "number",
          "num", "n-images", "members", "paths", "num-fid-samples"),
    "w": ("guidance-scale", "cfg", "cfg-scale", "guidance", "guidance-strength", "guidance-weight", "cond-scale",
          "classifier-free-guidance", "unconditional-guidance-scale"),
    "steps": ("num-inference-steps", "inference-steps", "sampling-steps", "num-sampling-steps", "ddim-steps", "nfe",
              "timesteps", "num-timesteps", "denoising-steps", "sample-steps", "max-steps", "max-train-steps", "num-steps",
              "train-steps", "training-steps", "iterations", "iters", "iter", "max-iters", "max-iterations", "total-steps",
              "num-iterations", "n-steps", "updates"),
    "out": ("output", "output-dir", "outdir", "out-dir", "output-path", "output-folder", "save-dir", "save-path",
            "save-to", "results-folder", "exp-dir", "workdir", "work-dir", "run-name", "name", "exp-name", "project"),
    "side": ("resolution", "image-size", "img-size", "imgsz", "size", "image-resolution", "res", "pixels"),
    "precision": ("mixed-precision", "fp16", "bf16", "amp", "half", "dtype", "autocast", "float16", "bfloat16"),
    "solver": ("sampler", "scheduler", "sampling-method", "integrator", "ode-solver"),
    "grid": ("noise-schedule", "timestep-spacing", "step-schedule", "schedule"),
    "method.schedule": ("beta-schedule", "noise-schedule", "schedule"),
    "method.predicts": ("prediction-type", "parameterization", "parametrization", "objective", "pred-type", "predict"),
    "ema": ("ema-decay", "ema-rate", "use-ema", "ema-width"),
    "label": ("class", "class-label", "class-labels", "class-id", "class-idx", "class-name", "cls", "prompt", "condition"),
    "labels": ("conditional", "class-cond", "class-conditional", "classes", "cond", "num-classes", "use-labels"),
    "save-seconds": ("save-every", "save-steps", "save-interval", "checkpointing-steps", "checkpoint-every", "save-freq",
                     "checkpoint-interval", "save-total-limit-seconds"),
    "keep": ("checkpoints-total-limit", "save-total-limit", "keep-checkpoints", "max-checkpoints", "keep-last"),
    "accumulate": ("gradient-accumulation-steps", "grad-accum", "gradient-accumulation", "accumulation-steps",
                   "accumulate-grad-batches"),
    "previews": ("eval-every", "validation-steps", "sample-every", "eval-steps", "validation-epochs", "eval-interval",
                 "sample-interval", "log-images-every", "preview-every"),
    "held-out": ("val-split", "test-size", "validation-split", "val-fraction", "test-split", "val-ratio", "holdout"),
    "seed": ("random-seed", "manual-seed", "global-seed", "rng-seed", "random-state"),
    "config": ("config-file", "yaml", "cfg-file", "config-path", "hparams"),
    "minutes": ("time", "max-time", "hours", "time-limit", "duration", "max-minutes", "train-time"),
    "network.kind": ("model", "arch", "architecture", "backbone", "network", "model-type", "net"),
    "network.width": ("width", "hidden-dim", "hidden-size", "channels", "dim", "model-channels", "num-channels",
                      "base-channels", "embed-dim", "d-model"),
    "network.depth": ("depth", "layers", "num-layers", "n-layers", "num-blocks", "num-res-blocks", "blocks"),
    "network.patch": ("patch", "patch-size"),
    "shift": ("time-shift", "timestep-shift", "flow-shift"),
    "eta": ("ddim-eta", "stochasticity", "churn", "s-churn"),
    "real": ("data", "test", "test-data", "reference"),
    "data": ("real", "ref", "reference", "test-data", "real-data", "val-data", "ground-truth"),
    "rows": ("num-rows", "n-rows"),
    "features": ("feature-extractor", "feature-space", "embedding"),
    "inception": ("fid", "fid-weights", "inception-path"),
    "quick": ("fast",),
}  # fmt: skip
"""Our option -> the same thing elsewhere."""

SAID = {
    "device": "the GPU is taken where there is one, the CPU where not (hide the GPU with CUDA_VISIBLE_DEVICES=\"\"; `sfumato "
              "doctor` says what is seen); several GPUs: torchrun --nproc-per-node N -m sfumato train ...",
    "resume": "a run is gone on with by a verb of its own: sfumato resume RUN",
    "data": "the data is given without a name: sfumato {verb} PATH",
    "run": "the run is given without a name: sfumato {verb} RUN",
    "tracker": "there is nothing to switch on: every run writes log.jsonl, and TensorBoard events where tensorboard is "
               "installed",
    "time": "time goes from 0 to 1 without steps here: there is nothing to set in training, and `sfumato sample` has --steps",
    "version": "sfumato --version, or `sfumato doctor` for all versions",
    "verbose": "there is nothing to set: a terminal gets a bar, a file or pipe plain lines",
}  # fmt: skip
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "device": ("device", "gpu", "gpus", "cuda", "accelerator", "num-gpus", "devices", "gpu-ids", "cpu", "use-cuda", "no-cuda",
               "num-processes", "multi-gpu", "device-ids", "mps"),
    "resume": ("resume", "resume-from", "resume-from-checkpoint", "resume-path", "continue", "continue-from", "auto-resume",
               "restart", "ckpt-path"),
    "data": ("data", "dataset", "data-dir", "data-path", "train-data-dir", "dataset-name", "dataset-path", "train-data",
             "image-folder", "instance-data-dir", "input", "data-root", "root"),
    "run": ("checkpoint", "ckpt", "model", "weights", "model-path", "checkpoint-path", "run", "load", "pretrained-path",
            "model-id", "network", "pretrained-model-name-or-path", "load-from"),
    "tracker": ("logdir", "log-dir", "logging-dir", "log-with", "report-to", "wandb", "tensorboard", "track", "logger",
                "wandb-project", "log-every"),
    "time": ("num-train-timesteps", "diffusion-steps", "timesteps", "num-diffusion-steps", "train-timesteps",
             "num-timesteps"),
    "version": ("version",),
    "verbose": ("verbose", "quiet", "silent", "progress", "no-progress", "log-level"),
}  # fmt: skip
"""What is no option at all here: kind of advice -> its names."""
EPOCHS = ("epochs", "epoch", "num-epochs", "max-epochs", "num-train-epochs", "n-epochs", "train-epochs", "ep")

VERBS: dict[str, tuple[str, ...]] = {
    "train": ("fit", "learn", "training", "pretrain"),
    "sample": ("generate", "predict", "inference", "infer", "synthesize", "synthesise", "draw", "gen", "test"),
    "evaluate": ("eval", "validate", "score", "fid", "metrics", "benchmark", "val", "measure"),
    "inspect": ("check", "info", "scan", "look", "stats", "estimate", "plan"),
    "resume": ("continue", "restart", "go-on"),
    "doctor": ("env", "checks", "version", "diagnose", "environment", "system", "settings"),
    "distill": ("distil", "accelerate", "convert"),
    "compare": ("diff", "versus", "vs"),
}
"""Our verb -> what it is called elsewhere."""


def advice(
    verb: str, word: str, options: Sequence[Option], others: Mapping[str, Sequence[Option]], words: Sequence[str]
) -> str:
    """One line about a word that is no option of ``verb``: what is meant, or close, or where all options are.

    ``others``: the options of the other verbs. ``words``: the whole command, for what epochs would be in steps.
    """
    key = word.partition("=")[0].lstrip("-").replace("_", "-").lower()
    own = {option.name: option for option in options if not option.positional}
    told = f"{verb} has no option {word.partition('=')[0]}; "
    if not key:
        return f"{verb} does not know what to do with {word!r}; all options: sfumato {verb} --help-all"
    if key in EPOCHS:
        owner = "sfumato resume RUN" if verb == "resume" else "sfumato train"
        return told + (_epochs(words) if "minutes" in own else f"steps are counted, not epochs: {owner} --steps N")
    if same := next((ours for ours, theirs in SAME.items() if ours in own and key in theirs), None):
        return told + f"here it is {_written(own[same])}"
    if said := next((kind for kind, names in ELSEWHERE.items() if key in names and _fits(kind, verb)), None):
        return told + SAID[said].format(verb=verb)
    if same := next((ours for ours, theirs in SAME.items() if key in (ours, *theirs) and _having(ours, others)), None):
        elsewhere = _having(same, others)
        assert elsewhere is not None
        return (
            told + f"{_written(next(o for o in others[elsewhere] if o.name == same))} is one of `sfumato {elsewhere}`"
        )
    if close := near(key, list(options)):
        return told + f"did you mean {_written(close)}?"
    if not word.startswith("-") and "=" not in word:
        return f"{verb} does not know what to do with {word!r}; see sfumato {verb} --help"
    return told + f"all that there are: sfumato {verb} --help-all"


def near(key: str, options: Sequence[Option]) -> Option | None:
    """The option whose name, or the end of whose name, is close: lrr is --optim.lr, width --network.width."""
    spelt: dict[str, Option] = {}
    for option in options:
        if not option.positional:
            spelt.setdefault(option.name, option)
            spelt.setdefault(option.name.rpartition(".")[2], option)
            if option.takes == 0:
                spelt.setdefault(negative(option).lstrip("-"), option)
    close = difflib.get_close_matches(key, list(spelt), n=1, cutoff=0.6)
    return spelt[close[0]] if close else None


def verb_advice(word: str, verbs: Sequence[str], fields: Sequence[str]) -> str:
    """One line about a first word that is no verb."""
    same = next((ours for ours, theirs in VERBS.items() if word.lower() in theirs), None)
    close = difflib.get_close_matches(word, [*verbs, *fields], n=1, cutoff=0.6)
    if same or close:
        return f"there is no verb {word!r}; did you mean {same or close[0]!r}?"
    if Path(word).exists():
        verb = "sample" if (Path(word) / "config.yaml").is_file() else "train"
        return f"there is no verb {word!r}, which is a path; did you mean sfumato {verb} {word}?"
    return f"there is no verb {word!r}; there are {', '.join(verbs)}"


def _written(option: Option) -> str:
    flag = f"-{option.name}" if f"-{option.name}" in option.aliases else option.flag
    return f"{flag} {option.shape}".rstrip()


def _having(name: str, others: Mapping[str, Sequence[Option]]) -> str | None:
    return next((verb for verb, options in others.items() if any(o.name == name for o in options)), None)


def _fits(kind: str, verb: str) -> bool:
    """Whether advice of a kind makes sense for a verb."""
    wants_data = verb in ("train", "inspect")
    return {"data": wants_data, "run": not wants_data, "time": wants_data}.get(kind, True)


def _given(words: Sequence[str], names: Sequence[str]) -> str:
    """The value of the first option of these names: in its own word, or the next."""
    for word, after in zip(words, [*words[1:], ""]):
        key, sign, own = word.partition("=")
        if key.lstrip("-").replace("_", "-").lower() in names and (sign or word.startswith("-")):
            return own if sign else after
    return ""


def _epochs(words: Sequence[str]) -> str:
    """Steps instead of epochs, and how many they would be."""
    how_many, batch = _given(words, EPOCHS), _given(words, ("batch", *SAME["batch"])) or "16"
    count = next((found for each in words[1:] if not each.startswith("-") and (found := items(Path(each)))), None)
    advice = "give --steps N or --minutes M; E epochs of n items are E x n / batch steps"
    if count and how_many.isdigit() and batch.isdigit() and int(batch) and int(how_many):
        steps = max(1, round(int(how_many) * count / int(batch)))
        advice += f" ({how_many} epochs of these about {count:,} in batches of {batch}: --steps {steps})"
    return advice


def items(path: Path, most: int = 1_000_000) -> int | None:
    """About how many items there are: files in a folder, rows in a .npy, lines in a table. None where it is unknown."""
    try:
        if path.is_dir():
            count = 0
            for _, folders, files in os.walk(path):
                folders[:] = [name for name in folders if not name.startswith(".")]
                count += sum(not name.startswith(".") for name in files)
                if count > most:
                    return None
            return count or None
        if path.suffix.lower() == ".npy":
            from sfumato.data.arrays import kept_array

            return len(kept_array(path))
        if path.suffix.lower() in (".csv", ".tsv", ".jsonl") and path.stat().st_size < 1 << 28:
            with path.open("rb") as file:
                lines = sum(1 for _ in file)
            return lines - (path.suffix.lower() != ".jsonl") or None
    except (OSError, TypeError, DataError):  # reading it will say what is wrong
        pass
    return None
