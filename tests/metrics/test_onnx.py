"""Networks in ONNX files, written here byte by byte: the format is small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfumato.metrics.distances import MetricError
from sfumato.metrics.onnx import load

pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra features)")


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(tag: int, value: int | bytes | str) -> bytes:
    """A field of a protocol buffer: a number, or bytes with their length."""
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    content = value.encode() if isinstance(value, str) else value
    return number(tag << 3 | 2) + number(len(content)) + content


def value_info(name: str, shape: tuple[int | str, ...], kind: int = 1) -> bytes:
    dims = b"".join(field(1, field(1, n) if isinstance(n, int) else field(2, n)) for n in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


def graph(path: Path, shape: tuple[int | str, ...] = ("n", 3, 8, 8), kind: int = 1, operation: str = "Relu") -> Path:
    """A network of one operation."""
    node = field(1, "x") + field(2, "y") + field(4, operation)
    inside = (
        field(1, node)
        + field(2, "g")
        + field(11, value_info("x", shape, kind))
        + field(12, value_info("y", shape, kind))
    )
    path.write_bytes(field(1, 8) + field(7, inside) + field(8, field(2, 17)))
    return path


def test_pictures_are_shown_in_minus_one_to_one_and_answers_averaged_over_places(tmp_path):
    network = load(graph(tmp_path / "a.onnx", operation="Relu"))
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bytes_ = ((x.double() + 1) * 127.5).round()
    right = (bytes_ / 127.5 - 1).relu().mean((2, 3))
    assert torch.allclose(network(x), right, atol=1e-6)
    assert torch.allclose(network(bytes_.byte()), right, atol=1e-6)
    assert network(x[:, :1]).shape == (40, 3)


def test_pictures_are_resized_to_what_the_graph_takes(tmp_path):
    x = torch.full((2, 3, 20, 20), 0.5)
    assert torch.allclose(load(graph(tmp_path / "a.onnx"))(x), torch.full((2, 3), 0.5).double(), atol=0.01)
    assert load(graph(tmp_path / "b.onnx", ("n", 3, "h", "w"))).side == 224


def test_a_graph_with_a_fixed_batch_is_filled_up(tmp_path):
    x = torch.rand(7, 3, 8, 8)
    whole = load(graph(tmp_path / "a.onnx"))(x)
    assert torch.allclose(load(graph(tmp_path / "b.onnx", (3, 3, 8, 8)))(x), whole)


@pytest.mark.parametrize(("shape", "kind", "message"), [
    ((1, 4, 8, 8), 1, "it must take pictures alone"), ((1, 3, 8, 9), 1, "they must be square"),
    ((1, 3, 8, 8), 11, "it must take pictures alone"),
])  # fmt: skip
def test_a_graph_of_something_else_is_refused(shape, kind, message, tmp_path):
    with pytest.raises(MetricError, match=message):
        load(graph(tmp_path / "a.onnx", shape, kind))


def test_files_that_are_no_graphs_are_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"not a graph")
    for path, message in ((tmp_path / "a.onnx", "not a graph that"), (tmp_path / "b.onnx", "cannot be read")):
        with pytest.raises(MetricError, match=message) as error:
            load(path)
        assert "\n" not in str(error.value)
    with pytest.raises(MetricError, match="over the 4 allowed"):
        load(tmp_path / "a.onnx", most_bytes=4)
