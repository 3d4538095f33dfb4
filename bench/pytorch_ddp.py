"""PyTorch's DistributedDataParallel over gloo, timed: what `--distributed mpi` is compared with.

    torchrun --nproc-per-node 2 bench/pytorch_ddp.py --tokens medium.bin --accum 4 --n-embd 256 …

The model and the documents are those of pytorch_step.py. A step is `--accum` batches, of which each rank takes its share
in order; gradients travel with the last of them (`no_sync` before). Rank 0 prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

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
    return parser.parse_args()


def main() -> None:
    """Warms up, then measures once."""
    args = parse_arguments()
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(42)
    documents = Documents(args.tokens, args.block_size, args.vocab_size)
    network = GPT(args.vocab_size, args.n_embd, args.n_head, args.n_layer, args.block_size)
    model = DistributedDataParallel(network)
    adam = torch.optim.Adam(model.parameters(), lr=0.001, betas=(0.85, 0.99), eps=1e-8, fused=True)
    own = args.accum // ranks

    def step(number: int) -> int:
        tokens = 0
        for i in range(own):
            first = number * args.accum + rank * own
            batch = documents.batch(first + i, args.batch_size, torch.device("cpu"))
            with model.no_sync() if i + 1 < own else nullcontext():
                (model(batch.inputs, batch.targets) / own).backward()
            tokens += batch.real_tokens
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return tokens

    for number in range(WARMUP):
        step(number)
    dist.barrier()
    start = time.perf_counter()
    tokens = sum(step(WARMUP + number) for number in range(args.steps))
    dist.barrier()
    seconds = time.perf_counter() - start
    total = torch.tensor([tokens])
    dist.all_reduce(total)
    if rank == 0:
        print(json.dumps({"tokens": total.item(), "seconds": seconds, "loss": 0.0}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
