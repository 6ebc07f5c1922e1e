//! Tensor names: GGUF's for those of Hugging Face, and the other way round.

const WHOLE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Names within a layer.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The name that model code asks for; none for a tensor that has no counterpart.
pub fn hugging_face(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let find = |table: &[(&str, &'static str)], stem: &str| table.iter().find(|row| row.0 == stem).map(|row| row.1);
    match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        None => Some(format!("{}.{kind}", find(WHOLE, stem)?)),
        Some((layer, stem)) => {
            Some(format!("model.layers.{}.{}.{kind}", layer.parse::<usize>().ok()?, find(LAYER, stem)?))
        }
    }
}

/// llama.cpp's name of a tensor that Hugging Face calls `name`; none where it has none.
pub fn in_gguf(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let find = |table: &[(&'static str, &str)], stem: &str| table.iter().find(|row| row.1 == stem).map(|row| row.0);
    match stem.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        None => Some(format!("{}.{kind}", find(WHOLE, stem)?)),
        Some((layer, stem)) => Some(format!("blk.{}.{}.{kind}", layer.parse::<usize>().ok()?, find(LAYER, stem)?)),
    }
}

/// Whether `name`, of Hugging Face, is a weight or bias of the attention's `projection`.
pub fn is_projection(name: &str, projection: &str) -> bool {
    let stem = name.strip_suffix(".weight").or(name.strip_suffix(".bias"));
    stem.is_some_and(|stem| stem.ends_with(&format!("self_attn.{projection}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_and_of_the_rest() {
        assert_eq!(hugging_face("token_embd.weight").as_deref(), Some("model.embed_tokens.weight"));
        assert_eq!(hugging_face("blk.17.attn_k.bias").as_deref(), Some("model.layers.17.self_attn.k_proj.bias"));
        for known in ["token_embd.weight", "output.weight", "blk.17.attn_k.bias", "blk.0.ffn_down.weight"] {
            assert_eq!(hugging_face(known).and_then(|name| in_gguf(&name)).as_deref(), Some(known));
        }
        assert_eq!(in_gguf("model.layers.3.mlp.experts.0.up_proj.weight"), None);
        for unknown in ["rope_freqs.weight", "blk.x.attn_k.bias", "blk.1.attn_qkv.weight", "output", "output.scale"] {
            assert_eq!(hugging_face(unknown), None, "{unknown}");
        }
        assert!(is_projection("model.layers.0.self_attn.q_proj.bias", "q_proj"));
        assert!(!is_projection("model.layers.0.self_attn.q_norm.weight", "q_proj"));
    }
}
