"""Writes a few blocks of each of ggml's types with the values that llama.cpp's own Python package makes of them.

    pip install -r bench/requirements.txt
    python tests/golden/make_gguf_blocks.py            # rewrites tests/golden/gguf_blocks.json
    python tests/golden/make_gguf_blocks.py --check    # compares with the committed file, writes nothing

tests/golden/README.md describes the file.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

FIXTURE = Path(__file__).resolve().parent / "gguf_blocks.json"
BLOCKS = 3
# Where the f16 scales of a block lie, in bytes.
SCALES = {
    "F16": [0],
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def random_blocks(name: str, rng: np.random.Generator) -> np.ndarray:
    """[1, bytes]: every bit random, but no scale infinite or NaN."""
    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = BLOCKS if elements > 1 else 32
    if name in ("F32", "BF16"):
        values = rng.normal(size=count).astype("<f4")
        return values.view(np.uint8)[None] if name == "F32" else values.view("<u2")[1::2].copy().view(np.uint8)[None]
    blocks = rng.integers(0, 256, size=(count, size), dtype=np.uint8)
    for at in SCALES[name]:
        scale = blocks[:, at] | blocks[:, at + 1].astype(np.uint16) << 8
        scale = np.where(scale & 0x7C00 == 0x7C00, scale & 0x83FF, scale).astype(np.uint16)
        blocks[:, at], blocks[:, at + 1] = scale & 255, scale >> 8
    return blocks.reshape(1, -1)


def values_to_quantize(rng: np.random.Generator) -> np.ndarray:
    """Six blocks of 32: common weights, halves that must round away from zero, zeros, tiny, large, mixed magnitudes."""
    halves = (np.arange(32) - 16).astype("<f4") + np.float32(0.5)
    halves[0] = 127
    return np.concatenate([
        rng.normal(size=32, scale=0.02),
        halves,
        np.zeros(32),
        rng.normal(size=32, scale=1e-7),
        rng.normal(size=32, scale=1e4),
        rng.normal(size=32) * 10.0 ** rng.integers(-6, 3, size=32),
    ]).astype("<f4")


def make() -> dict[str, object]:
    rng = np.random.default_rng(7)
    dequantized = {}
    for name in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]:
        blocks = random_blocks(name, rng)
        values = dequantize(blocks, GGMLQuantizationType[name]).astype("<f4")
        dequantized[name] = {"blocks": text(blocks), "values": text(values)}
    values = values_to_quantize(rng)
    quantized = {name: text(quantize(values[None], GGMLQuantizationType[name])) for name in ["F16", "BF16", "Q8_0"]}
    return {"dequantized": dequantized, "quantized": {"values": text(values), **quantized}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    made = json.dumps(make(), indent=2) + "\n"
    if not parser.parse_args().check:
        FIXTURE.write_text(made)
    elif FIXTURE.read_text() != made:
        sys.exit(f"{FIXTURE.name} differs")


main()
