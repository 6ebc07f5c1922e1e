//! Tests of the configuration: both layouts, refusals by name, and damage.

use super::*;
use crate::rope::Yarn;
use serde_json::json;

/// A configuration in the layout of transformers 4, as DeepSeek-R1-Distill-Qwen has it.
fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
        "max_position_embeddings": 131072, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 12,
        "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000, "sliding_window": 4096,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.44.0", "use_cache": true,
        "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936
    })
}

fn parse(value: &Value) -> Result<Config> {
    Config::from_json(&value.to_string())
}

fn with(key: &str, value: Value) -> Value {
    let mut config = qwen2();
    config[key] = value;
    config
}

#[test]
fn layout_of_transformers_4() {
    let config = parse(&qwen2()).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads, config.vocab_size), (128, 2, 151936));
    assert_eq!(config.rope, Rope { theta: 10000.0, scaling: RopeScaling::Default });
    assert_eq!((config.dtype.as_deref(), config.eos_token_ids), (Some("bfloat16"), vec![151643]));
}

#[test]
fn both_layouts_give_the_same() {
    let mut new = qwen2();
    let map = new.as_object_mut().unwrap();
    map.shift_remove("rope_theta");
    map.shift_remove("torch_dtype");
    new["rope_parameters"] = json!({"rope_theta": 10000.0, "rope_type": "default"});
    new["dtype"] = json!("bfloat16");
    assert_eq!(parse(&new).unwrap(), parse(&qwen2()).unwrap());
}

#[test]
fn rope_scaling_in_both_layouts() {
    let old = with("rope_scaling", json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}));
    let mut new = qwen2();
    new["rope_parameters"] =
        json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32768});
    let old = parse(&old).unwrap().rope;
    assert_eq!(old, parse(&new).unwrap().rope);
    let wanted = Yarn {
        factor: 4.0,
        original_max_position_embeddings: 32768,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 0.1 * 4f64.ln() + 1.0,
        score_factor: 1.0,
        truncate: true,
    };
    assert_eq!(old.scaling, RopeScaling::Yarn(wanted));
}

#[test]
fn defaults_of_the_architectures() {
    let mut qwen3 = with("model_type", json!("qwen3"));
    qwen3["eos_token_id"] = json!([151645, 151643]);
    let config = parse(&qwen3).unwrap();
    assert_eq!((config.head_dim, config.eos_token_ids), (128, vec![151645, 151643]));
    let mut llama = with("model_type", json!("llama"));
    llama.as_object_mut().unwrap().shift_remove("num_key_value_heads");
    assert_eq!(parse(&llama).unwrap().num_key_value_heads, 12);
}

#[test]
fn refusals_name_the_key() {
    for (key, value, says) in [
        ("num_attention_heads", json!(0), "num_attention_heads is 0, wanted an integer from 1 to 16384"),
        ("num_attention_heads", json!(7), "not a multiple of num_attention_heads"),
        ("num_key_value_heads", json!(5), "not a multiple of num_key_value_heads 5"),
        ("vocab_size", json!(0), "vocab_size is 0"),
        ("vocab_size", json!(1u64 << 60), "vocab_size is 1152921504606846976"),
        ("hidden_size", json!(-4), "hidden_size is -4"),
        ("hidden_size", json!("big"), "hidden_size is \"big\""),
        ("hidden_size", Value::Null, "hidden_size is missing"),
        ("head_dim", json!(7), "head_dim 7 is odd"),
        ("hidden_act", json!("gelu"), "hidden_act is \"gelu\""),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps is -1"),
        ("rope_theta", json!(0), "rope_theta is 0"),
        ("eos_token_id", json!(151936), "outside of vocab_size"),
        ("use_sliding_window", json!(true), "sliding window of 4096"),
        ("layer_types", json!(["full_attention"]), "1 entries for 28 layers"),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "quantized (gptq)"),
        ("pretraining_tp", json!(2), "only 1 is supported"),
        ("use_mrope", json!(true), "use_mrope is true; only false is supported"),
        ("attn_logit_softcapping", json!(50.0), "unknown key attn_logit_softcapping"),
        ("rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "\"dynamic\" is not supported"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0, "knob": 1}), "unknown key rope_scaling.knob"),
        ("rope_scaling", json!(3), "rope_scaling is a number, wanted an object"),
        ("rope_parameters", json!({"rope_theta": 5.0}), "rope_theta is 10000 and rope_parameters.rope_theta is 5"),
        ("dtype", json!("float16"), "dtype says \"float16\" and torch_dtype says \"bfloat16\""),
    ] {
        let error = format!("{:#}", parse(&with(key, value)).unwrap_err());
        assert!(error.contains(says), "{key}: wanted {says:?} in {error:?}");
    }
}

#[test]
fn several_unknown_keys_are_all_named() {
    let mut config = with("alpha_gate", json!(1));
    config["beta_gate"] = json!(false);
    let error = parse(&config).unwrap_err().to_string();
    assert!(error.contains("unknown keys alpha_gate, beta_gate"), "{error}");
}

#[test]
fn windows_that_no_layer_uses_are_harmless() {
    let mut config = with("use_sliding_window", json!(true));
    config["max_window_layers"] = json!(28);
    parse(&config).unwrap();
    config["layer_types"] = json!(vec!["full_attention"; 28]);
    parse(&config).unwrap();
    config["layer_types"][3] = json!("sliding_attention");
    let error = parse(&config).unwrap_err().to_string();
    assert!(error.contains("\"sliding_attention\" for layer 3"), "{error}");
}

#[test]
fn tokens_are_checked_on_the_host() {
    let config = parse(&qwen2()).unwrap();
    config.check_tokens(&[0, 151935]).unwrap();
    assert!(config.check_tokens(&[1, 151936]).unwrap_err().to_string().contains("token 151936 at position 1"));
}

/// A small generator whose whole state is the seed that a failure prints.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % bound as u64) as usize
    }
}

/// A value that a damaged or hostile file could hold where a number or a name belongs.
fn odd_value(random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Null,
        1 => json!(0),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e308),
        5 => json!("漢字"),
        6 => json!([]),
        7 => json!([{"a": 1}]),
        8 => json!({"type": "yarn", "factor": 1e300, "beta_fast": 0}),
        _ => json!(3),
    }
}

#[test]
fn damaged_files_give_errors_and_never_panic() {
    for seed in 0..4000 {
        let mut random = Random(seed);
        let mut config = qwen2();
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for _ in 0..=random.below(3) {
            let key = &keys[random.below(keys.len())];
            config[key.as_str()] = odd_value(&mut random);
        }
        let mut bytes = config.to_string().into_bytes();
        if seed % 2 == 0 {
            let at = random.below(bytes.len());
            bytes[at] = b"{}[]\",:0e-"[random.below(10)];
            if random.below(4) == 0 {
                bytes.truncate(at);
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let outcome =
            std::panic::catch_unwind(|| Config::from_json(&text).map(|c| c.rope.inverse_frequencies(c.head_dim)));
        assert!(outcome.is_ok(), "seed {seed}: panic on {text}");
    }
}
