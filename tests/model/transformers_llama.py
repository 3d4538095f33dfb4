"""A random tiny Llama, Qwen 2 or Qwen 3 of transformers: its weights, logits, greedy tokens, and twenty steps of training, as JSON on standard output.

The argument is a file as tests/model/transformers_test.ts writes it: the fields of each config.json, documents, batches of their
numbers, a learning rate a step, and Adam's constants. Documents are processed one by one, so there is no padding to mask.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def random_model(config: dict[str, Any]) -> PreTrainedModel:
    """Weights of moderate size; those of norms are not all 1."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


def flat(tensor: torch.Tensor) -> list[float]:
    return tensor.detach().double().flatten().tolist()


def batch_loss(model: PreTrainedModel, documents: list[list[int]]) -> torch.Tensor:
    """Mean negative log-likelihood over all target tokens of the batch."""
    total, count = torch.zeros(()), 0
    for document in documents:
        ids = torch.tensor([document])
        total = total + F.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:], reduction="sum")
        count += len(document) - 1
    return total / count


def train(model: PreTrainedModel, job: dict[str, Any]) -> dict[str, Any]:
    parameters = dict(model.named_parameters())
    adam = torch.optim.Adam(parameters.values(), betas=tuple(job["betas"]), eps=job["epsilon"], foreach=False)
    losses, norms, first = [], [], {}
    for batch, rate in zip(job["batches"], job["learning_rates"]):
        adam.zero_grad()
        loss = batch_loss(model, [job["documents"][d] for d in batch])
        loss.backward()
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        if not first:
            first = {name: flat(gradient) for name, gradient in gradients.items()}
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients.values()))
        for gradient in gradients.values():
            gradient.mul_(min(1.0, job["grad_clip"] / norm))
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        losses.append(loss.item())
        norms.append(norm)
    return {"losses": losses, "grad_norms": norms, "first_gradients": first}


def greedy(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    document = job["documents"][0]
    results = {}
    for name, config in job["configs"].items():
        model = random_model(config)
        results[name] = {
            "weights": {name: flat(weight) for name, weight in model.named_parameters()},
            "logits": flat(model(torch.tensor([document])).logits),
            "greedy": greedy(model, document[:4], job["greedy"]),
            **train(model, job),
        }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
