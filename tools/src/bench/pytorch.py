"""Runs a decoder of a given shape with random weights in PyTorch, for `npu-run bench --against pytorch`.

The first argument is JSON: `config` as in config.json, `dtype`, `device`, `threads`, `prompt`, `decode`. Prints one JSON line when the
model is ready, then one for each line on the standard input: the seconds of a prefill and of the greedy decoding after it.
transformers' model is used where transformers is installed, and otherwise one written here with the same operations.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F


class Decoder:
    """Grouped-query attention with rotary positions, gated feed-forward, RMS norms: Qwen2, Qwen3 and Llama."""

    def __init__(self, c, dtype):
        def weight(*shape):
            return torch.empty(*shape, dtype=dtype).uniform_(-0.03, 0.03)

        h, d = c["hidden_size"], c["head_dim"]
        self.heads, self.kv, self.d, self.eps = c["num_attention_heads"], c["num_key_value_heads"], d, c["rms_norm_eps"]
        q, kv, inner = self.heads * d, self.kv * d, c["intermediate_size"]
        self.embedding = weight(c["vocab_size"], h)
        self.head = self.embedding if c["tie_word_embeddings"] else weight(c["vocab_size"], h)
        self.norm = torch.ones(h, dtype=dtype)
        bias, normed = c["model_type"] == "qwen2", c["model_type"] == "qwen3"
        self.layers = [
            {
                "norm": torch.ones(h, dtype=dtype),
                "q": (weight(q, h), weight(q) if bias else None),
                "k": (weight(kv, h), weight(kv) if bias else None),
                "v": (weight(kv, h), weight(kv) if bias else None),
                "heads_norm": (torch.ones(d, dtype=dtype), torch.ones(d, dtype=dtype)) if normed else None,
                "o": weight(h, q),
                "post_norm": torch.ones(h, dtype=dtype),
                "gate": weight(inner, h),
                "up": weight(inner, h),
                "down": weight(h, inner),
            }
            for _ in range(c["num_hidden_layers"])
        ]
        frequency = 1.0 / c["rope_theta"] ** (torch.arange(0, d, 2).float() / d)
        angles = torch.outer(torch.arange(4096).float(), torch.cat([frequency, frequency]))
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def rms(self, x, weight):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * weight

    def rotate(self, x, cos, sin):
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    def step(self, ids, cache):
        """Logits after `ids` [T]; `cache` holds a pair of tensors a layer, or nothing."""
        start = cache[0][0].shape[1] if cache else 0
        x, length = self.embedding[ids], ids.shape[0]
        cos, sin = self.cos[start : start + length], self.sin[start : start + length]
        grown = []
        for index, layer in enumerate(self.layers):
            normed = self.rms(x, layer["norm"])
            split = lambda y, heads: y.view(length, heads, self.d).transpose(0, 1)
            q = split(F.linear(normed, *layer["q"]), self.heads)
            k = split(F.linear(normed, *layer["k"]), self.kv)
            v = split(F.linear(normed, *layer["v"]), self.kv)
            if layer["heads_norm"]:
                q, k = self.rms(q, layer["heads_norm"][0]), self.rms(k, layer["heads_norm"][1])
            q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
            if cache:
                k, v = torch.cat([cache[index][0], k], 1), torch.cat([cache[index][1], v], 1)
            grown.append((k, v))
            share = self.heads // self.kv
            wide = lambda y: y.repeat_interleave(share, 0)
            mixed = F.scaled_dot_product_attention(q[None], wide(k)[None], wide(v)[None], is_causal=start == 0)[0]
            x = x + F.linear(mixed.transpose(0, 1).reshape(length, -1), layer["o"])
            normed = self.rms(x, layer["post_norm"])
            x = x + F.linear(F.silu(F.linear(normed, layer["gate"])) * F.linear(normed, layer["up"]), layer["down"])
        return F.linear(self.rms(x[-1:], self.norm), self.head)[0], grown


class Transformers:
    def __init__(self, c, dtype):
        import transformers

        known = dict(c)
        kind = known.pop("model_type")
        known.pop("torch_dtype", None)
        config = transformers.AutoConfig.for_model(kind, **known)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        self.model = transformers.AutoModelForCausalLM.from_config(config).eval()
        torch.set_default_dtype(default)

    def step(self, ids, cache):
        out = self.model(ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1], out.past_key_values


def run(model, vocab, prompt, decode):
    ids = torch.randint(0, vocab, (prompt,))
    begin = time.perf_counter()
    logits, cache = model.step(ids, None)
    token = logits.argmax().view(1)
    token.item()  # A GPU computes behind the host's back: reading the token waits for it.
    middle = time.perf_counter()
    for _ in range(decode):
        logits, cache = model.step(token, cache)
        token = logits.argmax().view(1)
    token.item()
    return {"prefill_seconds": middle - begin, "decode_seconds": time.perf_counter() - middle}


def main():
    asked = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(asked["threads"])
    torch.set_default_device(asked["device"])
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[asked["dtype"]]
    config, via = asked["config"], f"torch {torch.__version__} ({asked['device']})"
    try:
        import transformers

        made, via = Transformers, f"transformers {transformers.__version__} on {via}"
    except ImportError:
        made = Decoder
    with torch.inference_mode():
        model = made(config, dtype)
        run(model, config["vocab_size"], asked["prompt"], min(asked["decode"], 4))
        print(json.dumps({"ready": via}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(run(model, config["vocab_size"], asked["prompt"], asked["decode"])), flush=True)


main()
