"""A microgpt model of the architecture gpt in PyTorch, for transformers with `trust_remote_code=True`.

    x = rmsnorm(wte[token] + wpe[position])
    for each layer:
        x = x + attention(rmsnorm(x) Wqkv^T) Wo^T
        x = x + relu(rmsnorm(x) W1^T) W2^T
    logits = x lm_head^T

rmsnorm has no weights, positions are learned, nothing has a bias. Shapes: B sequences, T tokens of each, P tokens in the cache
before them, H heads of D numbers, E = H D.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_microgpt import MicrogptConfig


def rms_norm(x):
    """x / sqrt(mean(x^2) + 1e-5), row by row."""
    return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5).to(x.dtype)


class MicrogptLayer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        E = config.n_embd
        self.index = index
        self.n_head = config.n_head
        self.attn_wq = nn.Linear(E, E, bias=False)
        self.attn_wk = nn.Linear(E, E, bias=False)
        self.attn_wv = nn.Linear(E, E, bias=False)
        self.attn_wo = nn.Linear(E, E, bias=False)
        self.mlp_fc1 = nn.Linear(E, 4 * E, bias=False)
        self.mlp_fc2 = nn.Linear(4 * E, E, bias=False)

    def forward(self, x, mask, cache):
        B, T, E = x.shape
        heads = (B, T, self.n_head, E // self.n_head)
        norm = rms_norm(x)
        q, k, v = (w(norm).view(heads).transpose(1, 2) for w in (self.attn_wq, self.attn_wk, self.attn_wv))  # [B, H, T, D]
        if cache is not None:
            k, v = cache.update(k, v, self.index)  # [B, H, P + T, D]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attn_wo(mixed.transpose(1, 2).reshape(B, T, E))
        return x + self.mlp_fc2(F.relu(self.mlp_fc1(rms_norm(x))))


class MicrogptForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = MicrogptConfig
    _no_split_modules = ["MicrogptLayer"]
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.layers = nn.ModuleList(MicrogptLayer(config, i) for i in range(config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, value):
        self.wte = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        cache=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """input_ids, labels: [B, T]   attention_mask: [B, P + T], 0 for padding   logits: [B, T, V]"""
        B, T = input_ids.shape
        cache = past_key_values if cache is None else cache  # its older name in transformers
        if use_cache and cache is None:
            cache = DynamicCache()
        P = 0 if cache is None else cache.get_seq_length()
        keys = torch.arange(P + T, device=input_ids.device)
        mask = (keys <= keys[P:, None]).expand(B, 1, T, P + T)
        if attention_mask is not None:
            # padding sees itself alone: a row that sees nothing has no softmax
            itself = keys == keys[P:, None]
            mask = mask & (attention_mask[:, None, None, :].bool() | itself)
        if position_ids is None:
            counted = keys[None] if attention_mask is None else (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            position_ids = counted[:, -T:]
        if P + T > self.config.block_size and int(position_ids.max()) >= self.config.block_size:
            raise ValueError(f"the text has more than block_size = {self.config.block_size} tokens")
        x = rms_norm(self.wte(input_ids) + self.wpe(position_ids))
        for layer in self.layers:
            x = layer(x, mask, cache)
        logits = self.lm_head(x[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else x[:, logits_to_keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        name = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{name: cache})
