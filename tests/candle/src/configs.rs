//! Small configurations. What all models name alike stands once; what a model has of its own, or otherwise, beside it.

use candle::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{json, Value};

/// The configuration of model `file`, as its own type.
pub fn of<C: DeserializeOwned>(file: &str) -> Result<C> {
    let mut config = json!({
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": false,
        "tie_word_embeddings": false,
        "use_flash_attn": false,
    });
    let own = own(file).ok_or_else(|| Error::Msg(format!("no configuration for {file}")))?;
    for (name, value) in own.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    serde_json::from_value(config).map_err(|error| Error::Msg(format!("configuration of {file}: {error}")))
}

fn own(file: &str) -> Option<Value> {
    Some(match file {
        "llama" => json!({ "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16, "rope_type": "llama3",
        } }),
        "qwen2" => json!({ "sliding_window": 64, "max_window_layers": 2, "use_sliding_window": false }),
        "qwen3" => json!({ "max_window_layers": 2, "use_sliding_window": false, "attention_bias": true }),
        "qwen2_moe" => json!({
            "sliding_window": 64, "max_window_layers": 2, "use_sliding_window": false, "decoder_sparse_step": 1,
            "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24,
            "num_experts_per_tok": 2, "num_experts": 4, "norm_topk_prob": true,
        }),
        "qwen3_moe" => json!({
            "max_window_layers": 2, "use_sliding_window": false, "decoder_sparse_step": 2,
            "moe_intermediate_size": 16, "num_experts_per_tok": 2, "num_experts": 4, "norm_topk_prob": true,
        }),
        // Windows shorter than the prompt, so that they hide something.
        "mistral" => json!({ "sliding_window": 4 }),
        "mixtral" => json!({ "sliding_window": 4, "num_experts_per_tok": 2, "num_local_experts": 4 }),
        "gemma" => json!({ "hidden_act": null, "hidden_activation": "gelu_pytorch_tanh" }),
        "gemma2" => json!({
            "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8, "sliding_window": 4,
            "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
        }),
        // One head of keys, as the published models of a billion have: candle's cache takes no transposed values.
        "gemma3" => json!({
            "num_key_value_heads": 1,
            "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8, "sliding_window": 4,
            "sliding_window_pattern": 2, "rope_local_base_freq": 1000.0,
            "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
        }),
        "phi" => json!({ "hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "qk_layernorm": false }),
        "phi3" => json!({ "partial_rotary_factor": 0.5 }),
        "deepseek2" => json!({
            "moe_intermediate_size": 16, "n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "routed_scaling_factor": 2.0, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1, "q_lora_rank": 12, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8, "v_head_dim": 8,
            "rope_scaling": {
                "type": "yarn", "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0,
                "mscale": 0.7, "mscale_all_dim": 0.7, "factor": 4.0,
            },
        }),
        "glm4" => json!({
            "num_layers": 2, "padded_vocab_size": 61, "ffn_hidden_size": 48, "kv_channels": 8, "seq_length": 64,
            "layernorm_epsilon": 1e-5, "rmsnorm": true, "apply_residual_connection_post_layernorm": false,
            "post_layer_norm": true, "add_bias_linear": false, "add_qkv_bias": true, "bias_dropout_fusion": true,
            "multi_query_attention": true, "multi_query_group_num": 2, "apply_query_key_layer_scaling": true,
            "attention_softmax_in_fp32": true, "fp32_residual_connection": false, "rope_ratio": 500,
        }),
        "granite" => json!({}),
        "olmo" => json!({ "clip_qkv": 1.5 }),
        "olmo2" => json!({}),
        "starcoder2" => {
            json!({ "norm_epsilon": 1e-5, "use_bias": true, "sliding_window": 4, "hidden_act": "gelu_pytorch_tanh" })
        }
        "stable_lm" => json!({ "partial_rotary_factor": 0.5, "use_cache": true, "use_qkv_bias": true }),
        "falcon" => json!({
            "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "use_cache": true, "bos_token_id": 1,
            "eos_token_id": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0, "n_head_kv": null, "alibi": false,
            "new_decoder_architecture": false, "multi_query": true, "parallel_attn": true, "bias": false,
        }),
        _ => return None,
    })
}
