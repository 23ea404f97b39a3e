#!/usr/bin/env python3
"""Makes a tiny randomly initialised model of every decoder family, and what transformers computes with it.

    pip install torch transformers
    python3 tests/llm/make_models.py [--into DIR] [FAMILY ...]

Writes DIR/FAMILY/config.json, model.safetensors and golden.json: a prompt, the logits after every position of prompt and answer, and 16
greedy tokens. Weights are rounded to the dtype that they are stored in; all arithmetic is f32. Seeds are tried in order until the two
largest logits of every step differ by more than 0.02, so that rounding cannot change a token.
"""

import argparse
import json
import pathlib

import torch

torch.set_num_threads(1)
import transformers
from transformers import AutoModelForCausalLM

CONTEXT, PROMPT, ANSWER, MARGIN = 32, 8, 16, 0.02
SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=1, pad_token_id=0,
)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16, rope_theta=1000.0)
# family -> (configuration class, what differs from SMALL, dtype of the stored weights)
FAMILIES = {
    "llama": ("LlamaConfig", dict(tie_word_embeddings=True, rope_parameters=LLAMA3), torch.bfloat16),
    "mistral": ("MistralConfig", dict(sliding_window=8, num_key_value_heads=1, head_dim=8), torch.float16),
    "qwen2": ("Qwen2Config", dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=6, max_window_layers=1), torch.bfloat16),
    "qwen3": ("Qwen3Config", dict(head_dim=12, tie_word_embeddings=True), torch.bfloat16),
    "gemma2": ("Gemma2Config", dict(head_dim=8, query_pre_attn_scalar=12, sliding_window=8, attn_logit_softcapping=5.0, final_logit_softcapping=10.0), torch.bfloat16),
    "gemma3_text": ("Gemma3TextConfig", dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=8, num_hidden_layers=3, sliding_window_pattern=3), torch.bfloat16),
    "gpt2": ("GPT2Config", dict(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT), torch.float32),
    "mixtral": ("MixtralConfig", dict(num_local_experts=5, num_experts_per_tok=2, intermediate_size=16, sliding_window=None), torch.bfloat16),
    "qwen3_moe": ("Qwen3MoeConfig", dict(head_dim=8, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, mlp_only_layers=[0], norm_topk_prob=True), torch.bfloat16),
}


def randomise(model, seed, dtype):
    """Weights as large as those of a trained model, rounded to the stored dtype."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:
                ones = "norm" in name or ".ln_" in name
                base = 1.0 if ones and name.endswith("weight") and "gemma" not in model.config.model_type else 0.0
                value = base + 0.1 * noise
            else:
                value = noise * 1.2 / weight.shape[-1] ** 0.5
            weight.copy_(value.to(dtype).float())


def golden(model, prompt):
    ids, logits, least = list(prompt), [], float("inf")
    with torch.no_grad():
        for _ in range(ANSWER):
            # Without a cache, so that nothing depends on transformers' handling of it.
            last = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            top = torch.topk(last[-1], 2).values
            least = min(least, float(top[0] - top[1]))
            ids.append(int(last[-1].argmax()))
        logits = model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[0]
    return ids, logits, least


def make(family, into):
    kind, changes, dtype = FAMILIES[family]
    config = getattr(transformers, kind)(**{**SMALL, **changes})
    config._attn_implementation = "eager"
    prompt = torch.randint(2, 64, (PROMPT,), generator=torch.Generator().manual_seed(7)).tolist()
    for seed in range(200):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
        randomise(model, seed, dtype)
        model.tie_weights()
        ids, logits, least = golden(model, prompt)
        if least > MARGIN and len(set(ids[PROMPT:])) > 3:
            break
    else:
        raise SystemExit(f"{family}: no seed gives a margin of {MARGIN}")
    folder = into / family
    model.to(dtype).save_pretrained(folder)
    for extra in ["generation_config.json"]:
        (folder / extra).unlink(missing_ok=True)
    rows = [[float(f"{x:.7g}") for x in row] for row in logits.tolist()]
    data = dict(
        torch=torch.__version__, transformers=transformers.__version__, seed=seed, least_margin=least,
        prompt=ids[:PROMPT], greedy=ids[PROMPT:], logits=rows,
    )
    (folder / "golden.json").write_text(json.dumps(data) + "\n")
    print(f"{family}: seed {seed}, margin {least:.3f}, tokens {ids}")


def main():
    parser = argparse.ArgumentParser(description="make tiny decoders and their goldens")
    parser.add_argument("--into", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "data/llm")
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    args = parser.parse_args()
    for family in args.families or FAMILIES:
        make(family, args.into)


if __name__ == "__main__":
    main()
