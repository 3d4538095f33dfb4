"""PyTorch's DistributedDataParallel over gloo, timed: what `--distributed mpi` is compared with.

    torchrun --nproc-per-node 2 bench/pytorch_ddp.py --tokens medium.bin --accum 4 --n-embd 256 …
    python bench/pytorch_ddp.py --threads 2 …    # the same steps on one process, without DDP

The model and the documents are those of pytorch_step.py. A step is `--accum` batches, of which each rank takes its share
in order; gradients travel with the last of them (`no_sync` before). Rank 0 prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_step import GPT, Documents
from torch.nn.parallel import DistributedDataParallel

WARMUP = 1


def parse_arguments() -> argparse.Namespace:
    """Shapes as in pytorch_step.py."""
    parser = argparse.ArgumentParser(description="Time PyTorch's DDP on pre-tokenized documents.")
    parser.add_argument("--tokens", type=Path, required=True)
    for name in ("n-embd", "n-head", "n-layer", "block-size", "vocab-size", "batch-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--accum", type=int, default=4, help="batches a step, of all ranks together")
    parser.add_argument("--steps", type=int, default=3, help="timed steps")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--mode", choices=("eager", "compile"), default="eager")
    return parser.parse_args()


def main() -> None:
    """Warms up, then measures once."""
    args = parse_arguments()
    shared = "RANK" in os.environ
    if shared:
        dist.init_process_group("gloo")
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if shared else (0, 1)
    torch.set_num_threads(args.threads)
    torch.manual_seed(42)
    documents = Documents(args.tokens, args.block_size, args.vocab_size)
    network = GPT(args.vocab_size, args.n_embd, args.n_head, args.n_layer, args.block_size)
    ddp = DistributedDataParallel(network) if shared else None
    model: Any = ddp or network
    if args.mode == "compile":
        model = torch.compile(model, dynamic=True)
    adam = torch.optim.Adam(network.parameters(), lr=0.001, betas=(0.85, 0.99), eps=1e-8, fused=True)
    own = args.accum // ranks

    def step(number: int) -> int:
        tokens = 0
        for i in range(own):
            first = number * args.accum + rank * own
            batch = documents.batch(first + i, args.batch_size, torch.device("cpu"))
            with ddp.no_sync() if ddp and i + 1 < own else nullcontext():
                (model(batch.inputs, batch.targets) / own).backward()
            tokens += batch.real_tokens
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return tokens

    def meet() -> None:
        if shared:
            dist.barrier()

    for number in range(WARMUP):
        step(number)
    meet()
    start = time.perf_counter()
    tokens = torch.tensor([sum(step(WARMUP + number) for number in range(args.steps))])
    meet()
    seconds = time.perf_counter() - start
    if shared:
        dist.all_reduce(tokens)
    if rank == 0:
        print(json.dumps({"tokens": tokens.item(), "seconds": seconds}))
    if shared:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
