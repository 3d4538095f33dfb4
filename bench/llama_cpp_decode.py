"""llama.cpp's decoding, timed: what decoding on the CPU is compared with.

    python bench/llama_cpp_decode.py --libraries FOLDER --model model.gguf --threads 2   # then "run" on stdin

The libraries are those of npm's @node-llama-cpp (in node_modules/@node-llama-cpp/linux-x64/bins/linux-x64), called
directly by their C interface, as llama.cpp's own llama-bench does, with one pool of threads for all calls. Measured
through the binding in JavaScript each token is computed by another thread of the runtime, beside the runtime's own:
the two threads that wait for each other by spinning are then many times slower than llama.cpp is.

Timed is what is inside `llama_decode`: all tokens are known, none is drawn. Everything else is llama.cpp's default:
keys and values in f16, flash attention where it sees fit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# What it starts its contexts with: n_ctx, n_batch, n_ubatch, n_seq_max of llama_context_params.
CONTEXT_DEFAULTS = [512, 2048, 512, 1]


class Parameters(ctypes.Structure):
    """Any parameters that llama.cpp takes by value, of which it has fewer bytes than these."""

    _fields_ = [("words", ctypes.c_uint32 * 256)]


class Batch(ctypes.Structure):
    """llama_batch; only made by llama.cpp."""

    _fields_ = [("n_tokens", ctypes.c_int32), ("pointers", ctypes.c_void_p * 6)]


class LlamaCpp:
    """A model with one sequence."""

    def __init__(self, folder: Path, model: Path, context: int, threads: int) -> None:
        def load(pattern: str) -> ctypes.CDLL:
            return ctypes.CDLL(str(next(folder.glob(pattern))), mode=ctypes.RTLD_GLOBAL)

        base, ggml, self.llama = load("libggml-base.so*"), load("libggml.*so*"), load("libllama.*so*")
        pointer, integer = ctypes.c_void_p, ctypes.c_int32

        def declare(library: ctypes.CDLL, name: str, result: object, *arguments: object) -> None:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments

        llama = self.llama
        declare(ggml, "ggml_backend_load_all_from_path", None, ctypes.c_char_p)
        declare(llama, "llama_log_set", None, pointer, pointer)
        declare(llama, "llama_model_default_params", Parameters)
        declare(llama, "llama_context_default_params", Parameters)
        declare(llama, "llama_model_load_from_file", pointer, ctypes.c_char_p, Parameters)
        declare(llama, "llama_init_from_model", pointer, pointer, Parameters)
        declare(llama, "llama_set_n_threads", None, pointer, integer, integer)
        declare(llama, "llama_attach_threadpool", None, pointer, pointer, pointer)
        declare(llama, "llama_batch_get_one", Batch, pointer, integer)
        declare(llama, "llama_decode", integer, pointer, Batch)
        declare(llama, "llama_synchronize", None, pointer)
        declare(llama, "llama_get_memory", pointer, pointer)
        declare(llama, "llama_memory_clear", None, pointer, ctypes.c_bool)
        declare(base, "ggml_threadpool_params_default", Parameters, integer)

        silent = ctypes.CFUNCTYPE(None, integer, ctypes.c_char_p, pointer)
        self._log = silent(lambda level, text, data: None)
        llama.llama_log_set(self._log, None)
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        llama.llama_backend_init()
        loaded = llama.llama_model_load_from_file(str(model).encode(), llama.llama_model_default_params())
        if not loaded:
            raise SystemExit(f"error: {model}: llama.cpp cannot load it")
        parameters = llama.llama_context_default_params()
        if parameters.words[:4] != CONTEXT_DEFAULTS:
            raise SystemExit("error: this llama.cpp has other context parameters than this script knows")
        parameters.words[0] = context
        self.context = llama.llama_init_from_model(loaded, parameters)
        llama.llama_set_n_threads(self.context, threads, threads)
        self.cpu = ctypes.CDLL(cpu_library(folder))
        declare(self.cpu, "ggml_threadpool_new", pointer, pointer)
        declare(self.cpu, "ggml_threadpool_pause", None, pointer)
        self.pool = self.cpu.ggml_threadpool_new(ctypes.byref(base.ggml_threadpool_params_default(threads)))
        llama.llama_attach_threadpool(self.context, self.pool, None)

    def clear(self) -> None:
        """Forgets all tokens."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)

    def rest(self) -> None:
        """Puts its threads to sleep. They would go on looking for work for some tenths of a second."""
        self.cpu.ggml_threadpool_pause(self.pool)

    def decode(self, tokens: Sequence[int]) -> float:
        """Takes in tokens after those before. Returns seconds."""
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self.llama.llama_batch_get_one(ids, len(tokens))
        start = time.perf_counter()
        status = self.llama.llama_decode(self.context, batch)
        self.llama.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        if status != 0:
            raise SystemExit(f"error: llama_decode says {status}")
        return seconds


def cpu_library(folder: Path) -> str:
    """The library for this processor, which llama.cpp has chosen and loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if path.startswith(f"{folder}/libggml-cpu"):
            return path
    raise SystemExit(f"error: llama.cpp loaded no library for the CPU from {folder}")


def main() -> None:
    """Answers each line `run PROMPT START COUNT` on stdin with tokens a second: a prompt, and COUNT tokens after START."""
    parser = argparse.ArgumentParser(description="Time llama.cpp's decoding.")
    parser.add_argument("--libraries", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=640)
    args = parser.parse_args()
    llama = LlamaCpp(args.libraries.resolve(), args.model, args.context, args.threads)
    for line in sys.stdin:
        prompt, start, count = (int(word) for word in line.split()[1:])
        tokens = [(100 + 37 * i) % args.vocab_size for i in range(max(prompt, start + count))]
        llama.clear()
        prompt_seconds = llama.decode(tokens[:prompt])
        llama.clear()
        llama.decode(tokens[:start])
        stream_seconds = sum(llama.decode([token]) for token in tokens[start : start + count])
        llama.rest()
        print(json.dumps({"prompt": prompt / prompt_seconds, "stream": count / stream_seconds}), flush=True)


if __name__ == "__main__":
    main()
