"""One training step of a decoder of a given shape with random weights, for `npu-run bench --train … --against pytorch`.

The first argument is JSON: `config` as in config.json, `dtype`, `device`, `threads`, `tokens`, `train` (full or lora), `rank`, `alpha`,
`targets`, `checkpointing`. Prints one JSON line when the model is ready, then one for each line on the standard input: the
seconds of a step (forward, backward, clipping, AdamW), its loss, and the most memory that this process has had.
"""

import json
import sys
import time

import torch
import transformers


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main():
    asked = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(asked["threads"])
    torch.set_default_device(asked["device"])
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[asked["dtype"]]
    known = dict(asked["config"])
    config = transformers.AutoConfig.for_model(known.pop("model_type"), **known)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(default)
    via = f"transformers {transformers.__version__} on torch {torch.__version__} ({asked['device']})"
    if asked["train"] == "lora":
        import peft

        lora = peft.LoraConfig(
            r=asked["rank"], lora_alpha=asked["alpha"], target_modules=asked["targets"], task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, lora)
        via = f"PEFT {peft.__version__}, {via}"
    if asked["checkpointing"]:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    ids = torch.randint(0, config.vocab_size, (1, asked["tokens"]))
    # As TRL trains under bf16: adapters are F32, and products are in the base's type.
    mixed = asked["train"] == "lora" and dtype != torch.float32
    print(json.dumps({"ready": via, "parameters": sum(p.numel() for p in trained)}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        with torch.autocast(asked["device"], dtype=dtype, enabled=mixed):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        answer = {"seconds": time.perf_counter() - begin, "loss": value, "peak": peak()}
        print(json.dumps(answer), flush=True)


main()
