"""The numbers of a microgpt model of the architecture gpt."""

from transformers import PretrainedConfig


class MicrogptConfig(PretrainedConfig):
    """Fields as in microgpt's meta.json; transformers' own names for them work too."""

    model_type = "microgpt"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "block_size",
    }

    def __init__(self, vocab_size=256, n_embd=32, n_head=2, n_layer=1, block_size=32, **kwargs):
        self.vocab_size = vocab_size
        self.n_embd = n_embd
        self.n_head = n_head
        self.n_layer = n_layer
        self.block_size = block_size
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
