"""What transformers makes of HuggingFace directories: prints a JSON list. Arguments: texts and a conversation as JSON, directories."""
import json
import sys

from transformers import AutoConfig, AutoTokenizer

texts, messages = json.loads(sys.argv[1]), json.loads(sys.argv[2])


def read(directory):
    config = AutoConfig.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return {
        "type": type(config).__name__,
        "head_dim": config.head_dim,
        "kv_heads": config.num_key_value_heads,
        "rope": config.rope_parameters,
        "eps": config.rms_norm_eps,
        "tie": config.tie_word_embeddings,
        "ids": [tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids for text in texts],
        "with_bos": tokenizer("hello").input_ids,
        "chat": tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False),
    }


print(json.dumps([read(directory) for directory in sys.argv[3:]]))
