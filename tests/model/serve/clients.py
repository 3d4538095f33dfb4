"""Asks a server by the clients that people use. Arguments: base URL, key, folder of a tokenizer, JSONL of {"text"}. Prints a JSON object."""
import json
import os
import subprocess
import sys
import tempfile

base_url, key, tokenizer, texts = sys.argv[1:]
folder = tempfile.mkdtemp()
os.environ.update(
    OPENAI_API_KEY=key, LLM_USER_PATH=folder, HF_HOME=folder, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1",
    LITELLM_LOCAL_MODEL_COST_MAP="True", TOKENIZERS_PARALLELISM="false",
)
messages = [{"role": "user", "content": "count"}]


def with_openai():
    import openai

    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    whole = client.chat.completions.create(model="known", messages=messages, temperature=0)
    stream = client.chat.completions.create(
        model="known", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    try:
        client.chat.completions.create(model="gpt-4", messages=messages)
        error = "none"
    except openai.NotFoundError as told:
        error = told.code
    return {
        "models": [model.id for model in client.models.list()],
        "whole": whole.choices[0].message.content,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "tokens": chunks[-1].usage.completion_tokens,
        "error": error,
    }


def with_litellm():
    import litellm

    common = dict(model="openai/known", api_base=base_url, api_key=key, messages=messages, temperature=0)
    whole = litellm.completion(**common)
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**common, stream=True)]
    return {"whole": whole.choices[0].message.content, "streamed": "".join(pieces)}


def with_llm():
    with open(os.path.join(folder, "extra-openai-models.yaml"), "w") as file:
        file.write(f"- model_id: known\n  model_name: known\n  api_base: {base_url}\n  api_key_name: openai\n")
    command = [sys.executable, "-m", "llm", "-m", "known", "-o", "temperature", "0", "--key", key, "count"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def with_lm_eval():
    import lm_eval
    from lm_eval.tasks import TaskManager

    task = {
        "task": "texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": texts}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    args = dict(model="known", base_url=f"{base_url}/completions", tokenizer=tokenizer, max_length=256, max_retries=1)
    results = lm_eval.simple_evaluate(
        model="local-completions", model_args=args, tasks=[task], task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0, log_samples=True,
    )
    # of each document, in nats: (log-likelihood, bytes)
    return [sample["resps"][0][0] if isinstance(sample["resps"][0], (list, tuple)) else sample["resps"][0]
            for sample in results["samples"]["texts"]]


print(json.dumps({
    "openai": with_openai(), "litellm": with_litellm(), "llm": with_llm(), "lm_eval": with_lm_eval(),
}))
