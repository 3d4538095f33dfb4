"""What nanoGPT and nanochat train, with their optimizers and schedules, in PyTorch, for some seconds.

Both are written anew from what they document, at a width, depth and context that are given:

nanogpt   GPT-2: LayerNorm, GELU, learned positions, one matrix for embedding and head, dropout; AdamW (0.9, 0.99) with
          weight decay 0.1 on matrices, gradients clipped at 1, 100 warm steps, then a cosine from 1e-3 to 1e-4; batches of
          random windows of all documents end to end (its train_shakespeare_char, of a size for a CPU).
nanochat  RMSNorm without weights, rotary positions, normed queries and keys, squared ReLU, logits capped at 15, a head of
          its own, value embeddings every other layer, learned factors of the residual stream and of its beginning; Muon
          with cautious decay for matrices, Adam for the rest, 40 warm steps, constant, falling to 5 % over the last 65 %;
          rows that begin with a document and are filled by the longest that fit.

nanochat scales its rates by the root of the batch beside 2^19 tokens, which for a few thousand is 0.06: `--rate` is that
factor, to be tried for the best.

    python peer_recipes.py --recipe nanogpt --training training.bin --test test.bin --vocab-size 4096 --seconds 60

Prints JSON: the mean loss of the test's targets in nats after the last step and at the best evaluation; time is that of
steps alone. A trial of 20 steps says how many fit.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from bisect import bisect_right
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

IGNORED_TARGET = -1
EVALUATIONS = 20
TRIAL_STEPS = 20


def read_documents(path: Path) -> list[np.ndarray]:
    """The documents of a documents file, see bench/documents_file.ts."""
    words = np.fromfile(path, dtype="<u4").astype(np.int64)
    offsets, ids = words[1 : words[0] + 2], words[words[0] + 2 :]
    return [ids[a:b] for a, b in zip(offsets[:-1], offsets[1:])]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
    """Causal attention. q, k, v: [N, T, H, D]. Returns [N, T, H · D]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout).transpose(1, 2).flatten(2)


def losses(logits: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TARGET, reduction=reduction)


# nanoGPT


class GPT2Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drop = self.dropout if self.training else 0.0
        q, k, v = (part.unflatten(2, (self.heads, -1)) for part in self.qkv(self.norm1(x)).chunk(3, dim=2))
        x = x + F.dropout(self.out(attend(q, k, v, drop)), drop)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), drop)


class GPT2(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.dropout = args.dropout
        self.tokens = nn.Embedding(args.vocab_size, args.n_embd)
        self.positions = nn.Embedding(args.block_size, args.n_embd)
        self.layers = nn.ModuleList(GPT2Layer(args.n_embd, args.n_head, args.dropout) for _ in range(args.n_layer))
        self.norm = nn.LayerNorm(args.n_embd, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * args.n_layer) if residual else 0.02)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Loss of targets that are not padding. inputs, targets: [N, T]."""
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        x = F.dropout(x, self.dropout if self.training else 0.0)
        for layer in self.layers:
            x = layer(x)
        return losses(F.linear(self.norm(x), self.tokens.weight), targets, reduction)


class NanoGPT:
    """Its batches, optimizer and schedule."""

    def __init__(self, args: argparse.Namespace, documents: list[np.ndarray]) -> None:
        self.model = GPT2(args)
        self.rate = 1e-3 * args.rate
        groups = [
            {"params": [w for w in self.model.parameters() if w.dim() == 2], "weight_decay": 0.1},
            {"params": [w for w in self.model.parameters() if w.dim() < 2], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.99), fused=True)
        self.stream = np.concatenate(documents)
        self.random = np.random.default_rng(args.seed)
        self.rows, self.length = args.batch_tokens // args.block_size, args.block_size

    def batch(self) -> torch.Tensor:
        """[N, T + 1]"""
        starts = self.random.integers(0, len(self.stream) - self.length, self.rows)
        return torch.from_numpy(np.stack([self.stream[s : s + self.length + 1] for s in starts]))

    def update(self, step: int, steps: int) -> None:
        """Of step 0 and later."""
        done = max(0, step - 100) / max(1, steps - 100)
        factor = (step + 1) / 101 if step < 100 else 0.1 + 0.45 * (1 + math.cos(math.pi * done))
        for group in self.adam.param_groups:
            group["lr"] = self.rate * factor
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()


# nanochat


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: [N, T, H, D]; cos, sin: [T, 1, D / 2]."""
    a, b = x.chunk(2, dim=3)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=3)


class NanochatLayer(nn.Module):
    GATE_CHANNELS = 32

    def __init__(self, width: int, heads: int, vocab_size: int, valued: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.values = nn.Embedding(vocab_size, width) if valued else None
        self.gate = nn.Linear(self.GATE_CHANNELS, heads, bias=False) if valued else None

    def forward(self, x: torch.Tensor, inputs: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        h = norm(x)
        q, k, v = (matrix(h).unflatten(2, (self.heads, -1)) for matrix in (self.q, self.k, self.v))
        if self.values is not None and self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(h[..., : self.GATE_CHANNELS]))  # [N, T, H]
            v = v + gate.unsqueeze(3) * self.values(inputs).unflatten(2, (self.heads, -1))
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        x = x + self.out(attend(q, k, v, 0.0))
        return x + self.down(F.relu(self.up(norm(x))).square())


class Nanochat(nn.Module):
    CAP = 15.0
    BASE = 10_000.0

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        width, layers = args.n_embd, args.n_layer
        self.tokens = nn.Embedding(args.vocab_size, width)
        # every other layer, the last among them
        valued = [(i - layers + 1) % 2 == 0 for i in range(layers)]
        self.layers = nn.ModuleList(NanochatLayer(width, args.n_head, args.vocab_size, each) for each in valued)
        self.head = nn.Linear(width, args.vocab_size, bias=False)
        self.stream = nn.Parameter(torch.ones(layers))
        self.start = nn.Parameter(torch.full((layers,), 0.1))
        half = width // args.n_head // 2
        angles = torch.outer(torch.arange(args.block_size), self.BASE ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos().unsqueeze(1))
        self.register_buffer("sin", angles.sin().unsqueeze(1))
        nn.init.normal_(self.tokens.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for layer in self.layers:
            bound = math.sqrt(3 / width)
            for matrix in (layer.q, layer.k, layer.v, layer.up):
                nn.init.uniform_(matrix.weight, -bound, bound)
            nn.init.zeros_(layer.out.weight)
            nn.init.zeros_(layer.down.weight)
            if layer.values is not None:
                nn.init.uniform_(layer.values.weight, -bound, bound)
                nn.init.zeros_(layer.gate.weight)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Loss of targets that are not padding. inputs, targets: [N, T]."""
        length = inputs.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = first = norm(self.tokens(inputs))
        for i, layer in enumerate(self.layers):
            x = layer(self.stream[i] * x + self.start[i] * first, inputs, cos, sin)
        logits = self.CAP * torch.tanh(self.head(norm(x)) / self.CAP)
        return losses(logits, targets, reduction)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """About U Vᵀ of matrices x = U S Vᵀ [K, M, N], by five steps of Newton and Schulz with the quintic of Keller Jordan."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-6)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Muon with Nesterov's momentum, NorMuon's second moment of rows and cautious decay, matrices of a shape together."""

    def __init__(self, matrices: list[nn.Parameter]) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            shapes.setdefault(matrix.shape, []).append(matrix)
        self.groups = [(group, torch.zeros(len(group), *shape), self._second(len(group), shape)) for shape, group in shapes.items()]

    @staticmethod
    def _second(count: int, shape: torch.Size) -> torch.Tensor:
        return torch.zeros((count, shape[0], 1) if shape[0] >= shape[1] else (count, 1, shape[1]))

    @torch.no_grad()
    def step(self, rate: float, momentum: float, decay: float) -> None:
        for group, velocity, second in self.groups:
            gradient = torch.stack([matrix.grad for matrix in group])
            velocity.lerp_(gradient, 1 - momentum)
            update = orthogonal(gradient.lerp(velocity, momentum))
            rows, columns = update.shape[1:]
            # each row, or column, gets the size that it had lately; the whole keeps its own
            axis = 2 if rows >= columns else 1
            squares = update.square().mean(dim=axis, keepdim=True)
            second.lerp_(squares, 0.05)
            size = update.norm(dim=(1, 2), keepdim=True)
            update = update * second.clamp_min(1e-10).rsqrt()
            update = update * (size / update.norm(dim=(1, 2), keepdim=True).clamp_min(1e-10))
            step = rate * max(1.0, rows / columns) ** 0.5
            for matrix, change in zip(group, update):
                agrees = (change * matrix >= 0).to(matrix.dtype)
                matrix.sub_(step * change + step * decay * matrix * agrees)


class NanochatRun:
    """Its batches, optimizers and schedule."""

    BUFFER = 1000

    def __init__(self, args: argparse.Namespace, documents: list[np.ndarray]) -> None:
        self.model = Nanochat(args)
        named = dict(self.model.named_parameters())
        matrices = [w for name, w in named.items() if name.startswith("layers.") and "values" not in name]
        embeddings = [w for name, w in named.items() if name.startswith("tokens.") or "values" in name]
        wide = (args.n_embd / 768) ** -0.5
        groups = [
            {"params": [named["head.weight"]], "rate": 0.008 * wide * args.rate, "betas": (0.8, 0.96)},
            {"params": embeddings, "rate": 0.3 * wide * args.rate, "betas": (0.8, 0.995)},
            {"params": [named["stream"]], "rate": 0.005 * args.rate, "betas": (0.8, 0.95)},
            {"params": [named["start"]], "rate": 0.5 * args.rate, "betas": (0.96, 0.95)},
        ]
        self.adam = torch.optim.AdamW(groups, lr=0.0, eps=1e-10, weight_decay=0.0)
        self.muon = Muon(matrices)
        self.rate, self.decay = 0.02 * args.rate, args.decay
        self.rows, self.length = args.batch_tokens // args.block_size, args.block_size
        self.source = self._endless(documents, np.random.default_rng(args.seed))
        self.waiting: list[np.ndarray] = []  # ascending by length

    @staticmethod
    def _endless(documents: list[np.ndarray], random: np.random.Generator) -> Iterator[np.ndarray]:
        while True:
            for i in random.permutation(len(documents)):
                yield documents[i]

    def _row(self) -> np.ndarray:
        """Of T + 1 tokens: the longest documents that fit, and what fits of the shortest."""
        parts: list[np.ndarray] = []
        room = self.length + 1
        while room > 0:
            while len(self.waiting) < self.BUFFER:
                document = next(self.source)
                self.waiting.insert(bisect_right(self.waiting, len(document), key=len), document)
            fitting = bisect_right(self.waiting, room, key=len)
            part = self.waiting.pop(fitting - 1) if fitting > 0 else self.waiting.pop(0)[:room]
            parts.append(part)
            room -= len(part)
        return np.concatenate(parts)

    def batch(self) -> torch.Tensor:
        """[N, T + 1]"""
        return torch.from_numpy(np.stack([self._row() for _ in range(self.rows)]))

    def update(self, step: int, steps: int) -> None:
        """Of step 0 and later."""
        down = round(0.65 * steps)
        left = (steps - step) / max(1, down)
        factor = (step + 1) / 40 if step < 40 else 1.0 if left >= 1 else left + (1 - left) * 0.05
        for group in self.adam.param_groups:
            group["lr"] = group["rate"] * factor
        self.adam.step()
        momentum = 0.85 + 0.1 * min(1.0, step / 300)
        self.muon.step(self.rate * factor, momentum, self.decay * (1 - step / steps))


RUNS: dict[str, Callable[[argparse.Namespace, list[np.ndarray]], NanoGPT | NanochatRun]] = {
    "nanogpt": NanoGPT,
    "nanochat": NanochatRun,
}


@torch.no_grad()
def measure(model: nn.Module, documents: list[np.ndarray]) -> float:
    """Mean loss of a target, in nats. Documents of about a length together."""
    model.eval()
    documents = sorted(documents, key=len)
    sum_, count = 0.0, 0
    for i in range(0, len(documents), 8):
        rows = documents[i : i + 8]
        inputs = np.zeros((len(rows), len(rows[-1]) - 1), dtype=np.int64)
        targets = np.full(inputs.shape, IGNORED_TARGET, dtype=np.int64)
        for row, ids in enumerate(rows):
            inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        sum_ += float(model(torch.from_numpy(inputs), torch.from_numpy(targets), "sum"))
        count += sum(len(ids) - 1 for ids in rows)
    model.train()
    return sum_ / count


def train(args: argparse.Namespace, documents: list[np.ndarray], test: list[np.ndarray], steps: int) -> dict[str, float]:
    """Trains for some steps. Without `test` nothing is measured but time."""
    torch.manual_seed(args.seed)
    run = RUNS[args.recipe](args, documents)
    loss_of = torch.compile(run.model) if args.compile else run.model
    seconds, warm = 0.0, 0.0
    best, best_step, loss = math.inf, 0, math.nan
    for step in range(steps):
        started = time.perf_counter()
        batch = run.batch()
        run.model.zero_grad(set_to_none=True)
        loss_of(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()).backward()
        run.update(step, steps)
        seconds += time.perf_counter() - started
        if step == steps // 2 - 1:
            warm = seconds
        if test and ((step + 1) % max(1, steps // EVALUATIONS) == 0 or step + 1 == steps):
            loss = measure(run.model, test)
            print(f"{args.recipe}: step {step + 1} of {steps}, {loss:.4f}, {seconds:.0f} s", file=sys.stderr)
            if loss < best:
                best, best_step = loss, step + 1
    # of a trial the second half, when all is compiled
    return {
        "loss": loss,
        "best": best,
        "bestStep": best_step,
        "steps": steps,
        "seconds": seconds,
        "tokens": steps * run.rows * run.length,
        "stepSeconds": (seconds - warm) / (steps - steps // 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=list(RUNS), required=True)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    for name, default in (("vocab-size", 304), ("n-embd", 64), ("n-head", 4), ("n-layer", 2), ("block-size", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-tokens", type=int, default=2048, help="whole windows of the context")
    parser.add_argument("--dropout", type=float, default=0.0, help="nanoGPT: 0 for one pass over the data, 0.2 for many")
    parser.add_argument("--decay", type=float, default=0.28, help="nanochat: Muon's weight decay at the first step")
    parser.add_argument("--rate", type=float, default=1.0, help="a factor of all rates")
    parser.add_argument("--seconds", type=float, default=60, help="of training")
    parser.add_argument("--steps", type=int, help="in place of what fits")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    documents, test = read_documents(args.training), read_documents(args.test)
    steps = args.steps or int(args.seconds / train(args, documents, [], TRIAL_STEPS)["stepSeconds"])
    print(json.dumps(train(args, documents, test, steps)))


if __name__ == "__main__":
    main()
