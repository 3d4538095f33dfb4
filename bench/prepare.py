"""From a text file, one document a line, to a new tokenizer and tokens on disk, as others do it; for bench/prepare.ts.

    python3 bench/prepare.py hf FILE DIRECTORY VOCABULARY      # datasets + tokenizers, as HuggingFace's course does
    python3 bench/prepare.py nanogpt FILE DIRECTORY VOCABULARY # tokenizers, then tiktoken and numpy, as nanoGPT does

Both use two processes or threads. nanoGPT's own scripts take GPT-2's vocabulary; here one of the same size as ours is trained
first, from the file, and its encoding is not slowed down by `datasets`, as in nanoGPT's: lines go to tiktoken's threads in
blocks. Prints one line of JSON: seconds of both phases, and tokens.
"""
import json
import os
import sys
import time

THREADS = 2
BLOCK = 16 << 20

way, path, directory, vocabulary = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
os.environ["RAYON_NUM_THREADS"] = str(THREADS)
os.environ["HF_HUB_OFFLINE"] = "1"


def new_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def hf():
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset("text", data_files=path, cache_dir=directory, split="train")
    tokenizer, trainer = new_tokenizer()
    batches = (data[i : i + 1000]["text"] for i in range(0, len(data), 1000))
    tokenizer.train_from_iterator(batches, trainer, length=len(data))
    trained = time.perf_counter()

    def encode(batch):
        return {"ids": [[0, *encoding.ids, 0] for encoding in tokenizer.encode_batch(batch["text"])]}

    encoded = data.map(encode, batched=True, num_proc=THREADS, remove_columns=["text"])
    encoded.save_to_disk(os.path.join(directory, "encoded"))
    tokens = sum(len(ids) for table in encoded.with_format("arrow").iter(10000) for ids in table["ids"])
    return trained, tokens


def nanogpt():
    import numpy as np
    import tiktoken

    tokenizer, trainer = new_tokenizer()
    tokenizer.train([path], trainer)
    trained = time.perf_counter()
    characters = byte_characters()
    ranks = {
        bytes(characters[c] for c in name): number - 1
        for name, number in tokenizer.get_vocab().items()
        if name != "<bos>"
    }
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    encoding = tiktoken.Encoding(
        "ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<bos>": len(ranks)}
    )
    bos = np.array([len(ranks)], dtype=np.uint16)
    tokens = 0
    with open(path, encoding="utf-8") as text, open(os.path.join(directory, "train.bin"), "wb") as out:
        while lines := text.readlines(BLOCK):
            lines = [line for line in map(str.strip, lines) if line]
            parts = []
            for ids in encoding.encode_ordinary_batch(lines, num_threads=THREADS):
                parts += [bos, np.array(ids, dtype=np.uint16), bos]
            block = np.concatenate(parts)
            block.tofile(out)
            tokens += len(block)
    return trained, tokens


def byte_characters():
    """The byte that each character of GPT-2's alphabet stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}


if __name__ == "__main__":
    started = time.perf_counter()
    trained, tokens = {"hf": hf, "nanogpt": nanogpt}[way]()
    ended = time.perf_counter()
    print(json.dumps({"training": trained - started, "encoding": ended - trained, "tokens": tokens}))
