from __future__ import annotations

import hashlib
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sfumato.metrics import inception
from sfumato.metrics.distances import MetricError, frechet_distance
from sfumato.metrics.inception import Inception, InceptionV3, as_bytes, load, resize
from sfumato.metrics.weights import CONVERT


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bare() -> InceptionV3:
    with torch.device("meta"):
        return InceptionV3()


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that neither blow up nor die out, with batch statistics that are not the defaults."""
    state, g = {}, rng(seed)
    for name, x in bare().state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif x.dim() > 1:
            state[name] = torch.randn(x.shape, generator=g) * (2 / x[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 1 + 0.2 * torch.rand(x.shape, generator=g)
        else:
            state[name] = 0.1 * torch.randn(x.shape, generator=g)
    return state


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(random_state(), path)
    return path


@pytest.fixture(scope="module")
def features(weights) -> Inception:
    return load(weights, sha(weights))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 40, 50, generator=rng(5)) * 2 - 1


def test_it_has_the_published_number_of_parameters():
    """torchvision documents 27,161,264 for its Inception-v3 with auxiliary head and 1000 classes. The head is a 1x1
    convolution 768 -> 128, a 5x5 one 128 -> 768, two numbers a channel of each, and a classifier; 8 classes are more
    here. The published file (95,628,359 bytes at 4 bytes a number) has 566 entries in its state: 94 convolutions with
    their weight and 5 entries of normalisation each, and the classifier's two.
    """
    head = 768 * 128 + 2 * 128 + 128 * 25 * 768 + 2 * 768 + 769 * 1000 - 1000 + 1000
    network = bare()
    assert sum(p.numel() for p in network.parameters()) == 27_161_264 - head + 8 * 2049
    state = network.state_dict()
    assert len(state) == 94 * 6 + 2
    held = 4 * sum(x.numel() for name, x in state.items() if not name.endswith("tracked"))
    assert 0 < 95_628_359 - held < 566 * 300  # the rest of the file is names


def test_names_are_those_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    other = models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    own = bare().state_dict()
    assert {name: x.shape for name, x in own.items()} == {name: x.shape for name, x in other.items()}


def test_shapes_on_the_way_are_those_of_the_paper():
    """Table 1 of arXiv 1512.00567, with the channels of the network that was released."""
    network, seen = bare().eval(), {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, tuple(out.shape[1:])))
    with torch.device("meta"):
        assert network(torch.zeros(2, 3, 299, 299)).shape == (2, 2048)
    assert seen == {
        "Conv2d_1a_3x3": (32, 149, 149),
        "Conv2d_2a_3x3": (32, 147, 147),
        "Conv2d_2b_3x3": (64, 147, 147),
        "Conv2d_3b_1x1": (80, 73, 73),
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5b": (256, 35, 35),
        "Mixed_5c": (288, 35, 35),
        "Mixed_5d": (288, 35, 35),
        **{f"Mixed_6{block}": (768, 17, 17) for block in "abcde"},
        "Mixed_7a": (1280, 8, 8),
        "Mixed_7b": (2048, 8, 8),
        "Mixed_7c": (2048, 8, 8),
    }


@pytest.mark.parametrize("block", ["Mixed_5b", "Mixed_6b", "Mixed_7b", "Mixed_7c"])
def test_pooled_branches_differ_as_the_graph_of_2015_does(features, block):
    """Branches are concatenated with the pooled one last. A map that is 1 everywhere has mean 1 at its border too if
    padding is not counted; a single spike is spread over 9 places by a mean at a ninth, by a maximum in full."""
    module = getattr(features.network, block)
    inputs, side = module.branch1x1.conv.in_channels, 8
    width = module.branch_pool.conv.out_channels
    with torch.no_grad():
        ones = module(torch.ones(1, inputs, side, side))[:, -width:]
        assert torch.allclose(ones, ones[..., :1, :1].expand_as(ones), atol=1e-5)
        spike = torch.zeros(1, inputs, side, side)
        spike[..., 4, 4] = 1
        answer = module(spike)[:, -width:]
        share = 1.0 if block == "Mixed_7c" else 1 / 9
        expected = module.branch_pool(torch.full((1, inputs, 1, 1), share))
        assert torch.allclose(answer[..., 3:6, 3:6], expected.expand(-1, -1, 3, 3), atol=1e-5)
        assert torch.allclose(answer[..., 0, 0], module.branch_pool(torch.zeros(1, inputs, 1, 1))[..., 0, 0], atol=1e-6)


def test_features_are_deterministic_and_do_not_depend_on_the_batch(features, pictures):
    found = features(pictures)
    assert found.shape == (3, 2048)
    assert found.dtype == torch.float64
    assert found.min() >= 0  # means of what ReLU lets through
    assert 0.01 < found.std() < 100
    assert torch.equal(features(pictures), found)
    assert not features.network.training
    one_by_one = torch.cat([features(pictures[i : i + 1]) for i in (2, 1, 0)]).flip(0)
    assert (one_by_one - found).abs().max() < 1e-5 * found.max()
    split = Inception(features.network, features.checksum, batch=2)
    assert (split(pictures) - found).abs().max() < 1e-5 * found.max()
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert frechet_distance(found, found) == pytest.approx(0, abs=1e-9)


def test_only_what_a_picture_file_would_hold_counts(features, pictures):
    stored = ((pictures + 1) * 127.5).round().to(torch.uint8)
    found = features(stored[:1])
    assert torch.equal(features(pictures[:1]), found)
    grey = stored[:1, :1]
    assert torch.equal(features(grey), features(grey.expand(-1, 3, -1, -1)))


def test_bytes_are_rounded_and_clipped_once():
    x = torch.tensor([-2.0, -1, 0.001, 1, 3, 100 / 127.5 - 1, 100.49 / 127.5 - 1]).view(1, 1, 1, 7)
    assert as_bytes(x)[0, 2, 0].tolist() == [0, 0, 128, 255, 255, 100, 100]
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(as_bytes(every)[0, 0], every[0, 0].float())
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(as_bytes(every.to(dtype) / 127.5 - 1), as_bytes(every))
    assert inception.as_bytes(every.half() / 127.5 - 1).dtype == torch.float32


@pytest.mark.parametrize(
    "shape", [(32, 32), (28, 64), (299, 299), (299, 600), (300, 298), (512, 37), (1, 3), (700, 900)]
)
def test_resizing_is_pillows_bicubic(shape):
    x = torch.rand(2, *shape, generator=rng()) * 255
    for own, channel in zip(resize(x), x):
        other = Image.fromarray(channel.numpy()).resize((299, 299), Image.Resampling.BICUBIC)
        assert np.abs(own.numpy() - np.asarray(other)).max() < 1e-4  # of 255: a few units in the last place
    assert resize(x).dtype == torch.float32
    if shape == (299, 299):
        assert torch.equal(resize(x), x)


def test_resizing_keeps_constants_and_antialiases():
    assert (resize(torch.full((1, 3, 37, 900), 201.0)) - 201).abs().max() < 1e-4  # a few units in the last place
    board = (torch.arange(1196)[:, None] + torch.arange(1196)[None]) % 2 * 255.0
    assert (resize(board) - 127.5).abs().max() < 1.5  # plain sampling would give 0 and 255
    assert (resize(board)[20:-20, 20:-20] - 127.5).abs().max() < 0.01
    edge = (torch.arange(64) >= 32).float().expand(64, 64) * 255
    assert resize(edge).max() > 256  # overshoot is kept, not clipped


def test_a_file_of_another_checksum_is_refused_and_the_checksum_told(weights):
    with pytest.raises(MetricError, match=f"{weights}: has SHA-256 {sha(weights)}, not {'ab' * 32}"):
        load(weights, "ab" * 32)
    assert load(weights, sha(weights)[:8].upper()).checksum == sha(weights)
    for wrong in ("", "6726825", "not a sum", "0" * 65):
        with pytest.raises(MetricError, match="8 to 64 hexadecimal"):
            load(weights, wrong)


def test_counters_may_be_absent_and_no_checksum_is_asked_for(weights, features, pictures, tmp_path):
    path = tmp_path / "weights.safetensors"
    state = {name: x for name, x in random_state().items() if not name.endswith("num_batches_tracked")}
    save_file(state, path)
    found = load(path)
    assert torch.equal(found(pictures[:1]), features(pictures[:1]))
    assert found.checksum == sha(path) != features.checksum


def test_the_command_that_is_told_makes_the_file_of_a_pth(tmp_path):
    """A .pth is refused, with the command that makes tensors alone of it; the command as it is told does so."""
    path, made = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save(random_state(), path)
    with pytest.raises(MetricError) as caught:
        load(path)
    told = str(caught.value).partition("becomes one by: ")[2]
    assert told == CONVERT
    words = shlex.split(told)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:3], str(path), str(made)], check=True, timeout=120)
    state = load(made).network.state_dict()
    assert all(torch.equal(state[name], x) for name, x in random_state().items() if x.is_floating_point())


def test_a_file_too_large_or_missing_is_refused_unread(weights, tmp_path):
    with pytest.raises(MetricError, match=r"bytes, over the 1000 allowed"):
        load(weights, most_bytes=1000)
    huge = tmp_path / "huge.pth"
    with huge.open("wb") as file:
        file.truncate(2**40)  # a sparse terabyte: it could not be read
    with pytest.raises(MetricError, match=f"{2**40} bytes"):
        load(huge)
    with pytest.raises(MetricError, match="cannot be read"):
        load(tmp_path / "absent.pth")
    with pytest.raises(MetricError, match="cannot be read"):
        load(tmp_path)


class Harmful:
    def __reduce__(self):
        return print, ("code in the file was run",)


def test_other_content_is_refused_in_one_line(tmp_path, capsys):
    def refused(content: object, match: str, name: str = "x.safetensors") -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".pth":
            torch.save(content, path)
        else:
            save_file({key: x.contiguous() for key, x in content.items()}, path)
        with pytest.raises(MetricError, match=match) as caught:
            load(path, sha(path))
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    small = {name: torch.zeros(1) for name in ("a", "b")}
    refused(small, r"misses Conv2d_1a_3x3\.bn\.bias, .* and \d+ more; has unexpected a, b")
    refused({"1" * 5000: torch.zeros(1)}, r"has unexpected 1{80}$")  # not all of it: it is one line
    refused(b"no such format", "not a file of tensors")
    refused(small, "not a file of tensors", "x.pth")
    refused({"a": Harmful()}, "not a file of tensors", "x.pth")
    refused(pickle.dumps(Harmful(), protocol=2), "not a file of tensors")
    assert "run" not in capsys.readouterr().out

    whole = {
        name: torch.zeros(()).expand(x.shape) for name, x in bare().state_dict().items()
    }  # one number each on disk
    missing = {name: x for name, x in whole.items() if name != "Mixed_7c.branch_pool.conv.weight"}
    refused(missing, r"misses Mixed_7c\.branch_pool\.conv\.weight$")
    refused({**whole, "AuxLogits.fc.bias": torch.zeros(1000)}, r"has unexpected AuxLogits\.fc\.bias$")
    refused({**whole, "fc.bias": torch.zeros(1000)}, r"has another shape of fc\.bias$")
    refused({**whole, "fc.bias": torch.full((1008,), torch.nan)}, r"NaN or infinity in fc\.bias")


def test_pictures_of_another_kind_are_refused(features, pictures):
    for wrong in (pictures[0], pictures[:, :2], pictures[:, :, :0], "picture"):
        with pytest.raises(MetricError, match="pictures of shape"):
            features(wrong)
    with pytest.raises(MetricError, match="uint8"):
        features(torch.zeros(1, 3, 8, 8, dtype=torch.int64))
    with pytest.raises(MetricError, match="NaN or infinity in 1 of 1"):
        features(pictures[:1] / 0)
    with pytest.raises(MetricError, match="at least 1"):
        features(pictures[:0])
