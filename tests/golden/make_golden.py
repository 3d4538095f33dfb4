"""Writes the training trajectories that the tests compare every device with.

The model, its gradients and Adam are PyTorch's: the forward pass below is the plain formula, the backward
pass is autograd, the optimizer is torch.optim.Adam. Each case runs twice, in float64 (the truth that is
stored) and in float32 (which shows how far honest rounding drifts). Documents are processed one by one, so
there is no padding to mask.

    pip install -r bench/requirements.txt
    python tests/golden/make_golden.py            # rewrites tests/golden/trajectory.json
    python tests/golden/make_golden.py --check    # compares with the committed file, writes nothing

tests/golden/README.md describes the file and the formula of the initial weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
NAMES = HERE.parent.parent / "data" / "samples" / "names.txt"
FIXTURE = HERE / "trajectory.json"

BOS = 0
VOCAB_SIZE = 257  # <bos>, then the 256 bytes as id = byte + 1
RMSNORM_EPS = 1e-5
SAMPLED_ENTRIES = 32
# Two machines' float64 results differ by the order of their sums, no more.
CHECK_TOLERANCE = 1e-9

Parameters = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Config:
    """The architecture, named as in meta.json."""

    vocab_size: int
    n_embd: int
    n_head: int
    n_layer: int
    block_size: int


@dataclass(frozen=True)
class Training:
    """How the case is trained."""

    steps: int
    lr: float
    warmup_steps: int
    beta1: float
    beta2: float
    eps: float
    grad_clip: float
    init_std: float


@dataclass(frozen=True)
class Case:
    """One trajectory: batches[s] lists the indices into documents that step s trains on."""

    name: str
    config: Config
    training: Training
    documents: list[list[int]]
    batches: list[list[int]]


@dataclass(frozen=True)
class Spec:
    """One parameter: its place k in the flat order, and the uniform bound of its initial values."""

    index: int
    name: str
    shape: tuple[int, int]
    amplitude: float


@dataclass(frozen=True)
class Trajectory:
    """What a run leaves behind: per-step scalars, the first step's gradients, the last step's weights."""

    losses: list[float]
    grad_norms: list[float]
    learning_rates: list[float]
    token_counts: list[int]
    first_gradients: Parameters
    final_weights: Parameters


def parameter_specs(config: Config, init_std: float) -> list[Spec]:
    """All parameters in flat order. A uniform value in [-a, a) has standard deviation a / sqrt(3)."""
    v, e, b = config.vocab_size, config.n_embd, config.block_size
    residual = 1 / math.sqrt(2 * config.n_layer)
    rows: list[tuple[str, tuple[int, int], float]] = [
        ("wte", (v, e), 1.0),
        ("wpe", (b, e), 1.0),
        ("lm_head", (v, e), 1.0),
    ]
    for i in range(config.n_layer):
        rows += [
            (f"layer{i}.attn_wq", (e, e), 1.0),
            (f"layer{i}.attn_wk", (e, e), 1.0),
            (f"layer{i}.attn_wv", (e, e), 1.0),
            (f"layer{i}.attn_wo", (e, e), residual),
            (f"layer{i}.mlp_fc1", (4 * e, e), 1.0),
            (f"layer{i}.mlp_fc2", (e, 4 * e), residual),
        ]
    return [
        Spec(k, name, shape, init_std * scale * math.sqrt(3)) for k, (name, shape, scale) in enumerate(rows)
    ]


def hashed_uniform(index: int, count: int) -> np.ndarray:
    """Elements 0..count-1 of parameter `index`: multiples of 2^-23 in [-1, 1), from a 32-bit integer hash."""
    mask = np.uint64(0xFFFFFFFF)  # products of two u32 fit in u64, so masking gives arithmetic modulo 2^32
    i = np.arange(count, dtype=np.uint64)
    h = (i * np.uint64(0x9E3779B1) + np.uint64(index) * np.uint64(0x85EBCA77) + np.uint64(1)) & mask
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x7FEB352D)) & mask
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(0x846CA68B)) & mask
    h ^= h >> np.uint64(16)
    return (h >> np.uint64(8)).astype(np.float64) / 2**23 - 1


def initial_weights(specs: list[Spec]) -> Parameters:
    """The float32 weights that both runs start from."""
    return {
        s.name: torch.from_numpy(
            (hashed_uniform(s.index, math.prod(s.shape)) * s.amplitude).astype(np.float32).reshape(s.shape)
        )
        for s in specs
    }


def rmsnorm(x: torch.Tensor) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis."""
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + RMSNORM_EPS)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, n_head: int) -> torch.Tensor:
    """Causal attention of one document. q, k, v and the result: [T, E]."""
    t, e = q.shape
    d = e // n_head
    q, k, v = (x.view(t, n_head, d).transpose(0, 1) for x in (q, k, v))  # [H, T, D]
    scores = q @ k.transpose(1, 2) / math.sqrt(d)  # [H, T, T]
    future = torch.ones(t, t, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return (weights @ v).transpose(0, 1).reshape(t, e)


def forward(p: Parameters, config: Config, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of one document's input tokens [T]."""
    x = rmsnorm(p["wte"][tokens] + p["wpe"][: len(tokens)])
    for i in range(config.n_layer):
        at = f"layer{i}."
        h = rmsnorm(x)
        q, k, v = (h @ p[at + name].T for name in ("attn_wq", "attn_wk", "attn_wv"))
        x = x + attention(q, k, v, config.n_head) @ p[at + "attn_wo"].T
        x = x + torch.relu(rmsnorm(x) @ p[at + "mlp_fc1"].T) @ p[at + "mlp_fc2"].T
    return x @ p["lm_head"].T


def batch_loss(p: Parameters, config: Config, documents: list[list[int]]) -> tuple[torch.Tensor, int]:
    """Mean negative log-likelihood over all target tokens of the batch, and their number."""
    total = torch.zeros((), dtype=p["wte"].dtype)
    count = 0
    for document in documents:
        ids = torch.tensor(document[: config.block_size + 1])
        total = total + F.cross_entropy(forward(p, config, ids[:-1]), ids[1:], reduction="sum")
        count += len(ids) - 1
    return total / count, count


def learning_rate(training: Training, step: int) -> float:
    """Linear warm-up to lr, then linear decay to 0 at the last step's end."""
    warmup = min(training.warmup_steps, training.steps)
    if step < warmup:
        return training.lr * (step + 1) / warmup
    return training.lr * (1 - (step - warmup) / (training.steps - warmup))


def train(case: Case, dtype: torch.dtype) -> Trajectory:
    """Runs the whole case in `dtype`, from the same float32 initial weights."""
    t = case.training
    start = initial_weights(parameter_specs(case.config, t.init_std))
    p = {name: w.to(dtype).requires_grad_() for name, w in start.items()}
    adam = torch.optim.Adam(p.values(), lr=t.lr, betas=(t.beta1, t.beta2), eps=t.eps, foreach=False)
    result = Trajectory([], [], [], [], {}, {})
    for step, batch in enumerate(case.batches):
        adam.zero_grad()
        loss, count = batch_loss(p, case.config, [case.documents[d] for d in batch])
        loss.backward()
        grads = {name: w.grad for name, w in p.items() if w.grad is not None}
        if step == 0:
            result.first_gradients.update({name: g.clone() for name, g in grads.items()})
        norm = math.sqrt(sum(g.double().square().sum().item() for g in grads.values()))
        for g in grads.values():
            g.mul_(min(1.0, t.grad_clip / norm))
        lr = learning_rate(t, step)
        for group in adam.param_groups:
            group["lr"] = lr
        adam.step()
        result.losses.append(loss.item())
        result.grad_norms.append(norm)
        result.learning_rates.append(lr)
        result.token_counts.append(count)
    result.final_weights.update({name: w.detach() for name, w in p.items()})
    return result


def encode(text: str) -> list[int]:
    """Bytes as ids between two <bos>."""
    return [BOS, *(byte + 1 for byte in text.encode()), BOS]


def names_case(names: list[str]) -> Case:
    """Twenty batches of eight names, drawn evenly over the whole file."""
    steps, batch_size = 20, 8
    count = steps * batch_size
    documents = [encode(names[i * len(names) // count]) for i in range(count)]
    return Case(
        name="names",
        config=Config(VOCAB_SIZE, n_embd=64, n_head=4, n_layer=2, block_size=256),
        training=Training(
            steps, lr=0.01, warmup_steps=5, beta1=0.85, beta2=0.99, eps=1e-8, grad_clip=1.0, init_std=0.05
        ),
        documents=documents,
        batches=[list(range(s * batch_size, (s + 1) * batch_size)) for s in range(steps)],
    )


def long_case(names: list[str]) -> Case:
    """Names joined by spaces to 100..200 tokens; block_size 128 cuts the longer half of them."""
    steps, batch_size = 20, 4
    documents: list[list[int]] = []
    position = 1000
    for target in (100, 117, 129, 130, 143, 160, 181, 200):
        text = names[position]
        while len(text) < target:
            position += 1
            text += " " + names[position]
        position += 1
        documents.append(encode(text[: target - 2].rstrip()))
    # Stride 3 over 8 documents: each step mixes short and cut ones, and no two in a row are equal.
    batches = [[(s + 3 * j) % len(documents) for j in range(batch_size)] for s in range(steps)]
    return Case(
        name="long",
        config=Config(VOCAB_SIZE, n_embd=48, n_head=3, n_layer=3, block_size=128),
        # A clip of 2 lies between the norms of this case: some steps are scaled, others are not.
        training=Training(
            steps, lr=0.003, warmup_steps=4, beta1=0.85, beta2=0.99, eps=1e-8, grad_clip=2.0, init_std=0.08
        ),
        documents=documents,
        batches=batches,
    )


def sampled(spec: Spec, tensor: torch.Tensor, prefer: torch.Tensor) -> dict[str, Any]:
    """L2 norm and up to 32 entries at flat indices where `prefer` is not zero, evenly spaced."""
    flat = tensor.double().flatten()
    candidates = prefer.flatten().nonzero().flatten()
    picks = torch.linspace(0, len(candidates) - 1, SAMPLED_ENTRIES).round().long()
    indices = candidates[picks].unique().tolist()
    return {"name": spec.name, "l2": flat.norm().item(), "indices": indices, "values": flat[indices].tolist()}


def fixture_of(case: Case) -> dict[str, Any]:
    """Runs a case in both precisions and collects what the tests need."""
    specs = parameter_specs(case.config, case.training.init_std)
    start = initial_weights(specs)
    truth, single = train(case, torch.float64), train(case, torch.float32)
    grads = truth.first_gradients
    gradient_error = max(
        ((single.first_gradients[s.name] - grads[s.name]).norm() / grads[s.name].norm()).item() for s in specs
    )
    return {
        "name": case.name,
        "config": asdict(case.config),
        "training": asdict(case.training),
        "parameters": [
            {
                "name": s.name,
                "shape": s.shape,
                "amplitude": s.amplitude,
                "first": start[s.name].flatten()[:4].double().tolist(),
                "sum": math.fsum(start[s.name].flatten().tolist()),
            }
            for s in specs
        ],
        "documents": case.documents,
        "batches": case.batches,
        "tokens": truth.token_counts,
        "learning_rates": truth.learning_rates,
        "losses": truth.losses,
        "grad_norms": truth.grad_norms,
        "first_gradients": [sampled(s, grads[s.name], grads[s.name]) for s in specs],
        "final_weights": [sampled(s, truth.final_weights[s.name], grads[s.name]) for s in specs],
        "float32": {
            "losses": single.losses,
            "max_loss_difference": max(abs(a - b) for a, b in zip(single.losses, truth.losses)),
            "max_relative_grad_norm_difference": max(
                abs(a - b) / b for a, b in zip(single.grad_norms, truth.grad_norms)
            ),
            "max_relative_first_gradient_difference": gradient_error,
        },
    }


def differences(new: Any, old: Any, path: str = "") -> list[str]:
    """Where two fixtures disagree by more than the order of sums explains; float32 results may."""
    if path.endswith("/float32") or path == "/torch":
        return []
    if isinstance(new, dict) and isinstance(old, dict) and new.keys() == old.keys():
        return [d for key in new for d in differences(new[key], old[key], f"{path}/{key}")]
    if isinstance(new, (list, tuple)) and isinstance(old, list) and len(new) == len(old):
        return [d for i in range(len(old)) for d in differences(new[i], old[i], f"{path}/{i}")]
    if isinstance(new, float) and isinstance(old, (int, float)):
        same = math.isclose(new, old, rel_tol=CHECK_TOLERANCE, abs_tol=CHECK_TOLERANCE)
    else:
        same = new == old
    return [] if same else [f"{path}: {old} is now {new}"]


def to_json(fixture: dict[str, Any]) -> str:
    """JSON with one line per list, so that a change of the fixture can be read in a diff."""
    cases = []
    for case in fixture["cases"]:
        rows = [f"      {json.dumps(key)}: {json_rows(value)}" for key, value in case.items()]
        cases.append("    {\n" + ",\n".join(rows) + "\n    }")
    head = "".join(f"  {json.dumps(k)}: {json.dumps(fixture[k])},\n" for k in ("torch", "bos"))
    return "{\n" + head + '  "cases": [\n' + ",\n".join(cases) + "\n  ]\n}\n"


def json_rows(value: Any) -> str:
    """A list of lists or objects gets one line per element, anything else is one line."""
    if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        return "[\n" + ",\n".join(f"        {json.dumps(item)}" for item in value) + "\n      ]"
    return json.dumps(value)


def main() -> int:
    """Writes the fixture, or with --check compares it."""
    parser = argparse.ArgumentParser(description="Make the PyTorch trajectories that the tests compare with.")
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    check = parser.parse_args().check
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    names = [line.strip() for line in NAMES.read_text(encoding="utf-8").splitlines() if line.strip()]
    cases = [fixture_of(case) for case in (names_case(names), long_case(names))]
    for case in cases:
        single = case["float32"]
        print(
            f"{case['name']}: loss {case['losses'][0]:.4f} -> {case['losses'][-1]:.4f}, "
            f"grad norm {min(case['grad_norms']):.3f}..{max(case['grad_norms']):.3f}, "
            f"float32 differs by {single['max_loss_difference']:.1e} in loss, "
            f"{single['max_relative_first_gradient_difference']:.1e} in first gradients (relative)"
        )
    fixture = {"torch": torch.__version__.split("+")[0], "bos": BOS, "cases": cases}
    if check:
        found = differences(fixture, json.loads(FIXTURE.read_text(encoding="utf-8")))
        print("\n".join(found[:20]) or f"{FIXTURE.name} is reproduced")
        return 1 if found else 0
    FIXTURE.write_text(to_json(fixture), encoding="utf-8")
    print(f"wrote {FIXTURE.name}, {FIXTURE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
