"""Networks that answer for a chunk of actions, given what was seen: an MLP, a transformer, a U-Net along time.

Whatever the body, everything it should know (noise level, observations, task) is added up to one vector per action that
scales and shifts its layers (FiLM, Perez et al. 2018; adaLN, Peebles and Xie 2022), as in Diffusion Policy (Chi et al.
2023, arXiv 2303.04137), and every action may have a noise level of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.attention import rotary_angles, rotary_turns
from sfumato.networks.dit import Block
from sfumato.networks.parts import Condition, GroupNorm, check_level, modulate, no_autocast, standard, waves, zero_

Body = Literal["mlp", "transformer", "unet"]
# body: (width, depth) on a CPU and on an accelerator; 1 to 3 M weights there, 10 to 70 M here
SIZES: dict[Body, tuple[tuple[int, int], tuple[int, int]]] = {
    "mlp": ((384, 4), (1024, 6)),
    "transformer": ((192, 4), (384, 8)),
    "unet": ((48, 3), (256, 3)),
}


class ChunkNetwork(nn.Module):
    """Chunks of `horizon` actions of `dim` numbers, given observations.

    body        "mlp": residual blocks on the chunk laid flat, the fastest on a CPU; "transformer": a token per action;
                "unet": convolutions along time, as in Diffusion Policy
    state       numbers in one observed state, 0 for none; `observed` of them are shown, the last one is now
    picture     (channels, height, width) of one picture, None for none; `cameras` are shown for each step observed
    tasks       number of tasks to tell apart, 0 for none
    depth       blocks ("unet": levels, each of which halves the horizon but the last)
    crop        share of each side of a picture that is shown: a random part in training, the middle afterwards

    Raises ValueError if the options do not fit together.
    """

    units = (
        "Residual",
        "Block",
        "Twice",
    )
    options: dict[str, Any]

    def __init__(
        self,
        *,
        dim: int,
        horizon: int = 16,
        observed: int = 2,
        state: int = 0,
        picture: Sequence[int] | None = None,
        cameras: int = 1,
        tasks: int = 0,
        body: Body = "mlp",
        width: int = 512,
        depth: int = 4,
        crop: float = 0.875,
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "policy", "dim": dim, "horizon": horizon, "observed": observed, "state": state,
            "picture": None if picture is None else list(picture), "cameras": cameras, "tasks": tasks, "body": body,
            "width": width, "depth": depth, "crop": crop,
        }  # fmt: skip
        if body not in BODIES:
            raise ValueError(f"body is {body!r}, expected one of {', '.join(BODIES)}")
        if not state and picture is None and not tasks:
            raise ValueError("a policy must see something: give state, picture or tasks")
        self.dim, self.horizon = dim, horizon
        inside = 4 * width if body == "unet" else max(64, width // 2)
        self.condition = Condition(inside, classes=tasks)
        self.state = Flat((observed, state), inside) if state else None
        self.picture = Pictures((observed, cameras, *picture), inside, crop) if picture is not None else None
        self.body = BODIES[body](dim, horizon, inside, width, depth)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        level_s: Tensor | None = None,
        *,
        state: Tensor | None = None,
        picture: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Tensor:
        """Answer, shaped like x.

        x        (B, horizon, dim)
        level    (B,), or a level per action (B, horizon); level_s likewise
        state    (B, observed, state)
        picture  (B, observed, cameras, C, H, W), from -1 to 1
        task     (B,) int64, -1 for none

        Raises ValueError for other shapes, for an observation that is missing and for one that the network does not take.
        """
        batch = x.shape[0]
        if x.shape != (batch, self.horizon, self.dim):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.horizon}, {self.dim})")
        check_level(level, batch, self.horizon)
        condition = self.condition(level, level_s, task)
        seen = self.seen(state, picture, batch)
        if seen is not None:
            condition = condition + (seen if condition.ndim == 2 else seen[:, None])
        if condition.ndim == 2:
            condition = condition[:, None]
        answer: Tensor = self.body(x, F.silu(condition), level, level_s)
        return answer

    def seen(self, state: Tensor | None, picture: Tensor | None, batch: int) -> Tensor | None:
        """The vector of what was observed, (B, inside)."""
        parts: list[Tensor] = []
        for name, encoder, value in (("state", self.state, state), ("picture", self.picture, picture)):
            if encoder is None:
                if value is not None:
                    raise ValueError(f"this network was built without {name} and takes none")
                continue
            if value is None or tuple(value.shape) != (batch, *encoder.shape):
                found = "is missing" if value is None else f"has shape {tuple(value.shape)}"
                raise ValueError(f"{name} {found}, expected (batch, {', '.join(map(str, encoder.shape))})")
            parts.append(encoder(value))
        return sum(parts[1:], parts[0]) if parts else None


class Flat(nn.Module):
    """States of all observed steps -> one vector, by a two-layer SiLU network."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.shape = shape
        self.inner = nn.Linear(math.prod(shape), width)
        self.outer = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        with no_autocast(state):  # positions to a thousandth of their range, which bfloat16 would round away
            return self.outer(F.silu(self.inner(state.flatten(1))))


class Pictures(nn.Module):
    """Pictures of all observed steps and cameras -> one vector: convolutions, then where each channel looks.

    The position of each channel's softmax (Finn et al. 2016, "deep spatial autoencoders") says where things are, which a
    robot needs, in two numbers a channel, whatever the size of the pictures.
    """

    def __init__(self, shape: tuple[int, ...], width: int, crop: float) -> None:
        super().__init__()
        self.shape = shape
        observed, cameras, channels, height, wide = shape
        self.side = max(1, round(crop * height)), max(1, round(crop * wide))
        sizes = [channels, 32, 64, 64]
        self.layers = nn.Sequential()
        for inside, outside in itertools.pairwise(sizes):
            self.layers.extend([nn.Conv2d(inside, outside, 5, stride=2, padding=2), GroupNorm(outside), nn.SiLU()])
        self.look = nn.Conv2d(sizes[-1], 64, 1)
        self.out = Flat((observed, cameras, 128), width)

    def forward(self, picture: Tensor) -> Tensor:
        rows = self.cropped(picture.flatten(1, 3)).unflatten(1, picture.shape[1:4]).flatten(0, 2)
        heat = self.look(self.layers(rows))
        height, wide = heat.shape[2:]
        share = heat.flatten(2).float().softmax(2).unflatten(2, (height, wide))
        down, right = (torch.linspace(-1, 1, n, device=heat.device) for n in (height, wide))
        places = torch.cat(((share.sum(3) * down).sum(2), (share.sum(2) * right).sum(2)), 1)
        return self.out(places.unflatten(0, picture.shape[:3]))

    def cropped(self, picture: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, *side), from a random place of its own for each row in training."""
        spare = [whole - part for whole, part in zip(picture.shape[2:], self.side)]
        if not self.training:
            top, left = (n // 2 for n in spare)
            return picture[:, :, top : top + self.side[0], left : left + self.side[1]]
        batch, places = len(picture), []
        for room, part in zip(spare, self.side):
            first = torch.randint(room + 1, (batch, 1), device=picture.device)
            places.append(first + torch.arange(part, device=picture.device))
        each = torch.arange(batch, device=picture.device)[:, None, None]
        return picture.permute(0, 2, 3, 1)[each, places[0][:, :, None], places[1][:, None, :]].permute(0, 3, 1, 2)


# ---- bodies: chunk (B, horizon, dim), condition (B, 1 or horizon, inside), levels -> answer shaped like the chunk --------


class Flattened(nn.Module):
    """A residual MLP on the whole chunk laid flat; where actions have levels of their own, it reads them beside them."""

    MARKS = 4

    def __init__(self, dim: int, horizon: int, inside: int, width: int, depth: int) -> None:
        super().__init__()
        self.horizon = horizon
        marks = 2 * self.MARKS * horizon
        self.enter = nn.Linear(horizon * dim + marks, width)
        self.arrive = nn.Linear(marks, width, bias=False)
        self.blocks = nn.ModuleList(Residual(width, inside) for _ in range(depth))
        self.head = nn.Linear(width, horizon * dim)
        zero_(self.arrive)
        zero_(self.head)

    def forward(self, x: Tensor, condition: Tensor, level: Tensor, level_s: Tensor | None) -> Tensor:
        h = self.enter(torch.cat((x.flatten(1), self.marks(level)), 1))
        if level_s is not None:
            h = h + self.arrive(self.marks(level_s))
        known = condition.mean(1)
        for block in self.blocks:
            h = block(h, known)
        with no_autocast(h):  # the answer in full precision: it will be subtracted from something close to it
            return self.head(h.to(self.head.weight.dtype)).to(x.dtype).view_as(x)

    def marks(self, level: Tensor) -> Tensor:
        """The share of noise of each action in waves, (B, 2 MARKS horizon)."""
        share = level.float().sigmoid()
        each = share[:, None].expand(-1, self.horizon) if share.ndim == 1 else share
        return waves(each, 2.0, 0.25, self.MARKS).flatten(1)


class Residual(nn.Module):
    """Norm, scale and shift, layer, SiLU, layer; starts as the identity."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.modulation = nn.Linear(condition, 2 * width)
        zero_(self.modulation)
        zero_(self.outer)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).to(h.dtype).chunk(2, dim=-1)
        return h + self.outer(F.silu(self.inner(torch.addcmul(shift, standard(h), 1 + scale))))


class Tokens(nn.Module):
    """A transformer with a token per action."""

    def __init__(self, dim: int, horizon: int, inside: int, width: int, depth: int) -> None:
        super().__init__()
        heads = max(1, width // 64)
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads, one per 64 channels")
        self.head_width = width // heads
        self.enter = nn.Linear(dim, width)
        self.place = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.modulation = nn.Linear(inside, 8 * width)  # 6 for every block, 2 for the head
        hidden = max(1, round(8 / 3 * width / 64)) * 64
        self.blocks = nn.ModuleList(Block(width, heads, hidden, cross=False) for _ in range(depth))
        self.head = nn.Linear(width, dim)
        zero_(self.modulation)
        zero_(self.head)

    def forward(self, x: Tensor, condition: Tensor, level: Tensor, level_s: Tensor | None) -> Tensor:
        modulation = self.modulation(condition).unflatten(-1, (8, -1))
        h = self.enter(x) + self.place.to(x.dtype)
        turns = rotary_turns(rotary_angles((x.shape[1],), self.head_width, x.device), h.dtype)
        for block in self.blocks:
            h = block(h, modulation[:, :, :6], turns, None, None)
        with no_autocast(h):
            scale, shift = modulation[:, :, 6:].to(self.head.weight.dtype).unbind(2)
            return self.head(modulate(standard(h.to(self.head.weight.dtype)), scale, shift)).to(x.dtype)


class Waves(nn.Module):
    """A U-Net along time: two residual convolutions a level on the way down, two on the way up, each told everything."""

    def __init__(self, dim: int, horizon: int, inside: int, width: int, depth: int) -> None:
        super().__init__()
        if horizon % 2 ** (depth - 1):
            raise ValueError(f"a U-Net of depth {depth} needs a horizon divisible by {2 ** (depth - 1)}, not {horizon}")
        widths = [width * 2**i for i in range(depth)]
        self.enter = nn.Conv1d(dim, width, 1)
        pairs = [(widths[max(i - 1, 0)], w) for i, w in enumerate(widths)]
        self.down = nn.ModuleList(Twice(a, b, inside) for a, b in pairs)
        self.shorter = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = Twice(widths[-1], widths[-1], inside)
        self.up = nn.ModuleList(Twice(2 * b, a, inside) for a, b in reversed(pairs))
        self.longer = nn.ModuleList(nn.ConvTranspose1d(w, w, 4, stride=2, padding=1) for w in reversed(widths[:-1]))
        self.norm = GroupNorm(width)
        self.head = nn.Conv1d(width, dim, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, condition: Tensor, level: Tensor, level_s: Tensor | None) -> Tensor:
        told = [condition.transpose(1, 2)]
        for _ in self.shorter:
            told.append(F.avg_pool1d(told[-1], 2) if told[-1].shape[2] > 1 else told[-1])
        h, skips = self.enter(x.transpose(1, 2)), []
        for i, block in enumerate(self.down):
            h = block(h, told[i])
            skips.append(h)
            h = self.shorter[i](h) if i < len(self.shorter) else h
        h = self.middle(h, told[-1])
        for i, block in enumerate(self.up):
            h = block(torch.cat((h, skips.pop()), 1), told[-1 - i])
            h = self.longer[i](h) if i < len(self.longer) else h
        h = F.silu(self.norm(h))
        with no_autocast(h):
            return self.head(h.to(self.head.weight.dtype)).transpose(1, 2).to(x.dtype)


class Twice(nn.Module):
    """Two residual convolutions."""

    def __init__(self, inside: int, outside: int, condition: int) -> None:
        super().__init__()
        self.one, self.two = Conv(inside, outside, condition), Conv(outside, outside, condition)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return self.two(self.one(h, condition), condition)


class Conv(nn.Module):
    """Norm, SiLU, convolution, twice, the second norm scaled and shifted; starts as its short cut."""

    def __init__(self, inside: int, outside: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(inside), GroupNorm(outside)
        self.conv1 = nn.Conv1d(inside, outside, 5, padding=2)
        self.conv2 = nn.Conv1d(outside, outside, 5, padding=2)
        self.modulation = nn.Conv1d(condition, 2 * outside, 1)
        self.short = nn.Conv1d(inside, outside, 1) if inside != outside else nn.Identity()
        for layer in (self.modulation, self.conv2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(condition).to(h.dtype).chunk(2, dim=1)
        return self.short(x) + self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))


BODIES: dict[str, type[nn.Module]] = {"mlp": Flattened, "transformer": Tokens, "unet": Waves}


def choose_network(
    *, dim: int, horizon: int, body: Body | Literal["auto"] = "auto", width: int | None = None, depth: int | None = None,
    device: str = "cpu", **seen: Any,
) -> ChunkNetwork:  # fmt: skip
    """A policy network that suits the machine: an MLP on a CPU, where a U-Net of equal quality is about ten times slower, and
    a U-Net elsewhere. `seen` are the options of `ChunkNetwork` that say what it is shown."""
    fast = not device.startswith("cpu")
    chosen: Body = ("unet" if fast else "mlp") if body == "auto" else body
    if chosen not in SIZES:
        raise ValueError(f"body is {body!r}, expected auto, {', '.join(BODIES)}")
    wide, deep = SIZES[chosen][fast]
    if chosen == "unet":
        while horizon % 2 ** (deep - 1):
            deep -= 1
    return ChunkNetwork(dim=dim, horizon=horizon, body=chosen, width=width or wide, depth=depth or deep, **seen)
