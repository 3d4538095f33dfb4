"""Runs an export of a gpt in transformers with its own code: prints JSON.

Arguments: the directory, a text, a number of tokens to generate. The answer has the text's ids, the logits after each, the mean loss of
the text, and the tokens that `generate` takes greedily: with the cache, without it, and from the text behind padding.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    directory, text, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    ids = torch.tensor([tokenizer.encode(text)])
    settings = model.generation_config
    settings.do_sample, settings.temperature, settings.top_k, settings.max_length = False, None, None, None
    settings.eos_token_id = None  # the tokens after an end are compared too

    def greedy(ids: torch.Tensor, **options: object) -> list[int]:
        made = model.generate(ids, max_new_tokens=count, **options)
        return made[0, ids.shape[1] :].tolist()

    padded = torch.cat([torch.full((1, 3), tokenizer.pad_token_id), ids], 1)
    seen = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(ids)], 1)
    with torch.no_grad():
        output = model(ids, labels=ids)
        answer = {
            "ids": ids[0].tolist(),
            "logits": output.logits[0].tolist(),
            "loss": output.loss.item(),
            "greedy": greedy(ids, attention_mask=torch.ones_like(ids)),
            "without_cache": greedy(ids, attention_mask=torch.ones_like(ids), use_cache=False),
            "padded": greedy(padded, attention_mask=seen),
        }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
