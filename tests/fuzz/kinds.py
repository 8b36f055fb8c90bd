"""Every kind of file that is read."""

from __future__ import annotations

from tests.fuzz.data import (
    make_arrays,
    make_captions,
    make_pictures,
    make_table_run,
    make_tables,
    make_text_run,
    make_texts,
    make_vectors,
    read_arrays,
    read_captions,
    read_picture,
    read_table_run,
    read_tables,
    read_text_run,
    read_texts,
    read_vectors,
)
from tests.fuzz.kind import Kind
from tests.fuzz.recordings import make_episodes, make_lerobot, make_lerobot_pictures, make_zarr, read_demonstrations
from tests.fuzz.runs import (
    make_compared,
    make_couples,
    make_log,
    make_onnx,
    make_options,
    make_run,
    make_samples,
    make_sealed,
    make_weights,
    read_compared,
    read_couples,
    read_log,
    read_onnx,
    read_options,
    read_prepared,
    read_resumed,
    read_run,
    read_samples,
    read_snapshots,
    read_weights,
    sealed_checkpoint,
    sealed_weights,
)


def all_kinds() -> list[Kind]:
    """Every kind, those whose packages are missing too."""
    run, facts = ("run/config.yaml", "run/data.json", "run/grid.json", "run/model.safetensors"), ("run/data.json",)
    cache = ("run/cache/*", "run/data.json", "run/config.yaml")
    found = [
        Kind("pictures", make_pictures, read_picture, weight=30, alone=True),
        Kind("arrays", make_arrays, read_arrays, weight=12, alone=True),
        Kind("vectors", make_vectors, read_vectors, weight=4, alone=True),
        Kind("tables", make_tables, read_tables, weight=12, alone=True),
        Kind("table run", make_table_run, read_table_run, ("*.*", "cache/table/*"), 5),
        Kind("texts", make_texts, read_texts, weight=5, alone=True),
        Kind("text run", make_text_run, read_text_run, ("*.*", "cache/*"), 4, ("tokenizers",)),
        Kind("captions", make_captions, read_captions, ("x.*", "a.txt"), 6),
        Kind("options", make_options, read_options, weight=6),
        *(Kind(f"run: {name}", make_run(name), read_run, run, 2) for name in ("classes", "vectors", "policy", "pictures")),
        *(Kind(f"sealed run: {name}", make_sealed(name), read_run, ("run/*.safetensors",), 2, after=sealed_weights)
          for name in ("classes", "classes_map", "policy", "pictures")),
        *(Kind(f"prepared: {name}", make_run(name), read_prepared, (*cache, *facts), 2)
          for name in ("classes", "vectors", "policy", "levels")),
        Kind("prepared: labelled", make_run("labelled"), read_prepared, (*cache, "data/labelled.npz"), 2),
        Kind("flow map", make_run("classes_map"), read_run, ("run/teacher.safetensors", *run), 1),
        Kind("checkpoint", make_run("stopped"), read_run, ("run/checkpoints/*/*",), 2),
        Kind("sealed checkpoint", make_run("stopped"), read_run,
             ("run/checkpoints/*/meta.json", "run/checkpoints/*/*.safetensors"), 2, after=sealed_checkpoint),
        Kind("resume", make_run("stopped"), read_resumed,
             ("run/checkpoints/*/meta.json", "run/checkpoints/*/*.safetensors"), 2, after=sealed_checkpoint),
        Kind("compared", make_compared, read_compared, ("drawn/*",), 2),
        Kind("snapshots", make_run("vectors"), read_snapshots, ("run/snapshots/*",), 3),
        Kind("log", make_log, read_log, ("run/log.jsonl", "run/metrics.json", "run/README.md"), 3),
        Kind("samples", make_samples, read_samples, ("drawn/0001.png", "drawn/samples.json"), 3),
        Kind("episodes", make_episodes, read_demonstrations, weight=4),
        *(Kind(f"zarr {version}", make_zarr(version), read_demonstrations, ("store.zarr/**/*",), 3, ("zarr",))
          for version in (2, 3)),
        Kind("zarr zip", make_zarr(2, True), read_demonstrations, weight=3, needs=("zarr",)),
        Kind("lerobot film", make_lerobot, read_demonstrations, ("set/**/*",), 3, ("pyarrow", "av")),
        Kind("lerobot pictures", make_lerobot_pictures, read_demonstrations, ("set/**/*",), 3, ("pyarrow", "av")),
        Kind("onnx", make_onnx, read_onnx, weight=2, needs=("onnxruntime",)),
        Kind("weights", make_weights, read_weights, weight=2),
        Kind("couples", make_couples, read_couples, ("couples/*",), 2),
    ]  # fmt: skip
    return [kind for kind in found if kind.there]
