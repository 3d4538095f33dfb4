"""Runs a HuggingFace directory of a Llama in transformers, or in MLX: prints JSON.

Arguments: `transformers` or `mlx`, the directory, a text, a number of tokens to generate. The answer has the text's ids, the logits after
each, and the most probable tokens that follow.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Callable

Logits = Callable[[list[int]], list[list[float]]]


def in_transformers(directory: str) -> tuple[Any, Logits]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory)

    def logits(ids: list[int]) -> list[list[float]]:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].tolist()

    return AutoTokenizer.from_pretrained(directory), logits


def in_mlx(directory: str) -> tuple[Any, Logits]:
    import mlx.core as mx
    import mlx_lm

    model, tokenizer = mlx_lm.load(directory)
    return tokenizer, lambda ids: model(mx.array([ids]))[0].tolist()


def main() -> None:
    runtime, directory, text, count = sys.argv[1:]
    tokenizer, logits = {"transformers": in_transformers, "mlx": in_mlx}[runtime](directory)
    ids = list(tokenizer.encode(text))
    rows = logits(ids)
    greedy: list[int] = []
    last = rows[-1]
    while len(greedy) < int(count):
        greedy.append(max(range(len(last)), key=last.__getitem__))
        last = logits(ids + greedy)[-1]
    json.dump({"ids": ids, "logits": rows, "greedy": greedy}, sys.stdout)


if __name__ == "__main__":
    main()
