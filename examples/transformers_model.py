"""lace under a model of transformers: the same logits and the same text as eager attention.

A small gpt-oss with random weights: windows of 16 in every other layer, learned sinks, a cache.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import GptOssConfig, GptOssForCausalLM

import lace


def main() -> None:
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    config = GptOssConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        attn_implementation="eager",
    )
    model = GptOssForCausalLM(config).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    tokens = torch.randint(3, 256, (2, 100))
    options = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False}

    logits, text = {}, {}
    lace.hf.register()
    for name in ("eager", "lace"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            logits[name] = model(tokens).logits
        text[name] = model.generate(tokens, **options)
    error = (logits["lace"] - logits["eager"]).abs().max().item()
    same = torch.equal(text["lace"], text["eager"])
    print(f"largest difference of logits {error:.1e}; the same 30 tokens drawn: {same}")
    assert error < 1e-5 and same


if __name__ == "__main__":
    main()
