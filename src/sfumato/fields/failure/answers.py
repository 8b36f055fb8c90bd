"""What a simulator may return, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sfumato.errors import DataError, one_line
from sfumato.fields.failure.data import Answers


def checked(answer: Any, count: int, name: str) -> Answers:
    """What a simulator returned for ``count`` disturbances. Raises DataError for other shapes and kinds."""
    given = answer if isinstance(answer, Mapping) else {"robustness": answer}
    if "robustness" not in given:
        raise DataError(f'{name}: returned a dict without "robustness"; it has {", ".join(map(str, given))}')
    robustness = _numbers(given["robustness"], name)
    if robustness.shape != (count,):
        raise DataError(f"{name}: returned robustness of shape {robustness.shape} for {count} disturbances; one number for each, "
                        f"({count},), is expected")  # fmt: skip
    path = given.get("trajectory")
    if path is not None:
        path = _numbers(path, name)
        path = path[:, :, None] if path.ndim == 2 else path
        if path.ndim != 3 or len(path) != count:
            raise DataError(
                f"{name}: returned a trajectory of shape {path.shape} for {count} disturbances; "
                f"({count}, steps, states) is expected"
            )
    return Answers(robustness, path)


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: returned {type(value).__name__}, not numbers ({one_line(error)})") from error
