"""In which order ggml keeps the values of a K head, by architecture."""

from __future__ import annotations

# Architectures whose converter interleaves the halves of every Q and K head, because llama.cpp
# turns neighbouring values there while the Hugging Face model turns value i with i + d/2.
INTERLEAVED = frozenset(
    {
        "arcee",
        "arctic",
        "bailingmoe",
        "baichuan",
        "chameleon",
        "deci",
        "deepseek",
        "granite",
        "granitehybrid",
        "granitemoe",
        "internlm2",
        "llada",
        "llama",
        "llama-embed",
        "minicpm",
        "mistral3",
        "olmo",
        "smollm3",
        "xverse",
    }
)
# Architectures in which both turn value i with i + d/2.
HALVES = frozenset(
    {
        "exaone",
        "exaone4",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gptneox",
        "olmo2",
        "olmoe",
        "openelm",
        "phi2",
        "phi3",
        "phimoe",
        "qwen",
        "qwen2",
        "qwen2moe",
        "qwen3",
        "qwen3moe",
        "seed_oss",
        "stablelm",
        "starcoder2",
    }
)
