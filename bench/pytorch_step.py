"""PyTorch's training step, timed: what the CPU and GPU devices are compared with.

The same model and optimizer as ours, written the way a PyTorch program usually is: batches padded to their
longest document, q, k and v in one linear, F.scaled_dot_product_attention, fused Adam, and optionally
torch.compile and bf16 autocast. With --arch llama the model is LlamaForCausalLM of transformers. Only real target
tokens count in tokens_per_second.

    python bench/pytorch_step.py --tokens documents.bin --n-embd 64 --n-head 4 --n-layer 2 --steps 200
    python bench/pytorch_step.py --tokens documents.bin --mode compile --server   # then "run 20" on stdin
    python bench/pytorch_step.py --tokens documents.bin --arch llama --n-kv-head 2 --ffn 192

The documents file holds little-endian u32: the number of documents n, their n + 1 start offsets into the ids,
then the ids of all documents end to end. Step k trains on documents [k·batch, (k+1)·batch), starting over
at the end of the file.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ContextManager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

IGNORED_TARGET = -1
RMSNORM_EPS = 1e-5


@dataclass(frozen=True)
class Batch:
    """Padded inputs and targets [N, T] on the device, and the number of targets that are not padding."""

    inputs: torch.Tensor
    targets: torch.Tensor
    real_tokens: int


class Documents:
    """Tokenized documents, read once and cut to block_size + 1 ids."""

    def __init__(self, path: Path, block_size: int, vocab_size: int) -> None:
        try:
            words = np.fromfile(path, dtype="<u4").astype(np.int64)
        except OSError as error:
            raise SystemExit(f"error: {path}: {error.strerror}") from error
        count = int(words[0]) if len(words) else 0
        offsets = words[1 : count + 2]
        ids = words[count + 2 :]
        if count == 0 or len(offsets) != count + 1 or offsets[-1] != len(ids):
            raise SystemExit(f"error: {path}: not a documents file (or it is cut short)")
        if ids.max() >= vocab_size:
            raise SystemExit(f"error: {path}: holds id {ids.max()}, --vocab-size is {vocab_size}")
        self._documents = [ids[a:b][: block_size + 1] for a, b in zip(offsets[:-1], offsets[1:])]
        if min(len(document) for document in self._documents) < 2:
            raise SystemExit(f"error: {path}: a document needs at least two ids")

    def batch(self, step: int, size: int, device: torch.device) -> Batch:
        """The batch of `step`, padded to its longest document."""
        count = len(self._documents)
        documents = [self._documents[(step * size + i) % count] for i in range(size)]
        length = max(len(document) for document in documents) - 1
        inputs = np.zeros((size, length), dtype=np.int64)
        targets = np.full((size, length), IGNORED_TARGET, dtype=np.int64)
        for row, document in enumerate(documents):
            inputs[row, : len(document) - 1] = document[:-1]
            targets[row, : len(document) - 1] = document[1:]
        return Batch(
            torch.from_numpy(inputs).to(device, non_blocking=True),
            torch.from_numpy(targets).to(device, non_blocking=True),
            sum(len(document) - 1 for document in documents),
        )


class Layer(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.attn_qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.attn_wo = nn.Linear(n_embd, n_embd, bias=False)
        self.mlp_fc1 = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.mlp_fc2 = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, T, E]."""
        n, t, e = x.shape
        qkv = self.attn_qkv(F.rms_norm(x, (e,), eps=RMSNORM_EPS))
        q, k, v = (part.view(n, t, self.n_head, e // self.n_head).transpose(1, 2) for part in qkv.split(e, dim=2))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [N, H, T, D]
        x = x + self.attn_wo(heads.transpose(1, 2).reshape(n, t, e))
        return x + self.mlp_fc2(F.relu(self.mlp_fc1(F.rms_norm(x, (e,), eps=RMSNORM_EPS))))


class GPT(nn.Module):
    """The whole network, loss included."""

    def __init__(self, vocab_size: int, n_embd: int, n_head: int, n_layer: int, block_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.layers = nn.ModuleList(Layer(n_embd, n_head) for _ in range(n_layer))
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        for name, weight in self.named_parameters():
            residual = name.endswith(("attn_wo.weight", "mlp_fc2.weight"))
            nn.init.normal_(weight, std=0.02 / math.sqrt(2 * n_layer) if residual else 0.02)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over the targets that are not padding. inputs, targets: [N, T]."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.wte(inputs) + self.wpe(positions)
        x = F.rms_norm(x, (x.shape[-1],), eps=RMSNORM_EPS)
        for layer in self.layers:
            x = layer(x)
        logits = self.lm_head(x)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TARGET)


class Llama(nn.Module):
    """LlamaForCausalLM of transformers, with the weights that it draws, loss included.

    Padding comes after the tokens and attention is causal, so that no mask is needed: without one, attention takes
    PyTorch's fastest way.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=args.vocab_size,
            hidden_size=args.n_embd,
            intermediate_size=args.ffn,
            num_hidden_layers=args.n_layer,
            num_attention_heads=args.n_head,
            num_key_value_heads=args.n_kv_head or args.n_head,
            max_position_embeddings=args.block_size,
            rms_norm_eps=RMSNORM_EPS,
            tie_word_embeddings=args.tie,
            use_cache=False,
            attn_implementation="sdpa",
        )
        self.model = LlamaForCausalLM(config)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over the targets that are not padding. inputs, targets: [N, T]."""
        # `shift_labels` are targets as they are; labels alone would be shifted.
        output = self.model(inputs, labels=targets, shift_labels=targets, ignore_index=IGNORED_TARGET)
        return output.loss


class Trainer:
    """Runs training steps one after another and times them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(found if args.device == "auto" else args.device)
        self.documents = Documents(args.tokens, args.block_size, args.vocab_size)
        torch.manual_seed(42)
        size = (args.vocab_size, args.n_embd, args.n_head, args.n_layer, args.block_size)
        model = (Llama(args) if args.arch == "llama" else GPT(*size)).to(self.device)
        self.parameters = list(model.parameters())
        self.adam = torch.optim.Adam(self.parameters, lr=args.lr, betas=(0.85, 0.99), eps=1e-8, fused=True)
        # Lengths differ from batch to batch: one graph for all of them, or there would be one compilation each.
        self.model: Any = torch.compile(model, dynamic=True) if args.mode == "compile" else model
        self.next_step = 0

    def _step(self) -> tuple[torch.Tensor, int]:
        """One batch: forward, backward, clip, Adam."""
        batch = self.documents.batch(self.next_step, self.args.batch_size, self.device)
        self.next_step += 1
        precision: ContextManager[Any] = nullcontext()
        if self.args.dtype == "bf16":
            precision = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with precision:
            loss = self.model(batch.inputs, batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return loss.detach(), batch.real_tokens

    def run(self, steps: int) -> dict[str, Any]:
        """Times `steps` steps. On a GPU they are queued without waiting, as in training, and timed as a whole."""
        losses: list[torch.Tensor] = []
        step_ms: list[float] = []
        tokens = 0
        self._synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step_start = time.perf_counter()
            loss, real = self._step()
            step_ms.append((time.perf_counter() - step_start) * 1000)
            losses.append(loss)
            tokens += real
        self._synchronize()
        seconds = time.perf_counter() - start
        on_cpu = self.device.type == "cpu"
        return {
            "mode": self.args.mode,
            "dtype": self.args.dtype,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "steps": steps,
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "ms_per_step": statistics.median(step_ms) if on_cpu else seconds * 1000 / steps,
            "peak_rss_mb": peak_rss_mb(),
            "loss_first": losses[0].item(),
            "loss_last": losses[-1].item(),
        }

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def peak_rss_mb() -> float:
    """The most memory this process has held; getrusage counts in KiB, on macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def serve(trainer: Trainer) -> None:
    """Answers each line `run N` on stdin with one JSON line, until stdin ends; idle in between."""
    for line in sys.stdin:
        command, _, steps = line.strip().partition(" ")
        if command != "run" or not steps.isdigit() or int(steps) == 0:
            raise SystemExit(f"error: expected 'run N', got {line.strip()!r}")
        print(json.dumps(trainer.run(int(steps))), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line; model and training defaults are those of `microgpt train`."""
    parser = argparse.ArgumentParser(description="Time PyTorch's training step on pre-tokenized documents.")
    parser.add_argument("--tokens", type=Path, required=True, help="documents file, see the top of this script")
    parser.add_argument("--arch", choices=("gpt", "llama"), default="gpt", help="llama needs transformers")
    parser.add_argument("--n-embd", type=int, default=64)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-layer", type=int, default=2)
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--n-kv-head", type=int, default=0, help="llama: heads of keys and values; 0 = --n-head")
    parser.add_argument("--ffn", type=int, default=192, help="llama: width of the MLP")
    parser.add_argument("--tie", action="store_true", help="llama: the embedding is the head, too")
    parser.add_argument("--batch-size", type=int, default=8, help="documents a step")
    parser.add_argument("--lr", type=float, default=0.001, help="constant learning rate")
    parser.add_argument("--steps", type=int, default=100, help="timed steps")
    parser.add_argument("--warmup-steps", type=int, default=10, help="steps before the timed ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mode", choices=("eager", "compile"), default="eager")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="bf16 is autocast")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu", help="auto: CUDA, else the CPU")
    parser.add_argument("--server", action="store_true", help="wait for lines 'run N' on stdin, ignore --steps")
    return parser.parse_args()


def main() -> None:
    """Warms up, then measures once, or whenever it is asked to."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    trainer = Trainer(args)
    if args.warmup_steps > 0:
        trainer.run(args.warmup_steps)
    if args.server:
        serve(trainer)
    else:
        print(json.dumps(trainer.run(args.steps)))


if __name__ == "__main__":
    main()
