"""A tiny model in a GGUF file, with its tokenizer."""

from __future__ import annotations

import gguf
import torch
from transformers import LlamaForCausalLM

TOKENS = ["<unk>", "<s>", "a", "b", "c", "ab", "abc", "Ġ", "Ġa", "Ġab", *"defghijklmnop"]


def write_gguf(path, model: LlamaForCausalLM, dtype=torch.float32) -> None:
    """As the converter of llama.cpp writes it: rotary pairs of queries and keys stand side by side."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * 21])
    writer.add_token_merges(["a b", "ab c", "Ġ a", "Ġ ab"])
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            weight = weight.unflatten(0, (-1, 2, config.head_dim // 2)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(name, try_suffixes=[".weight"]), weight.to(dtype).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
