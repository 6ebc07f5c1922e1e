//! GGUF files of the repository's checkpoints, as converters make them, written by candle's writer.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

pub type Metadata = BTreeMap<String, Value>;
pub type Tensors = BTreeMap<String, QTensor>;

/// GGUF's names, and in the same order those of Hugging Face.
const NAMES: [(&str, &str); 14] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("attn_norm", "input_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// What a converter makes of the checkpoint in `dir`, matrices in `dtype`.
pub fn convert(dir: &Path, dtype: GgmlDType) -> (Metadata, Tensors) {
    let config: Json = serde_json::from_slice(&fs::read(dir.join("config.json")).expect("a file")).expect("JSON");
    let arch = config["model_type"].as_str().expect("a name");
    let size = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as u32;
    let mut metadata = Metadata::from([("general.architecture".into(), Value::String(arch.into()))]);
    let mut put = |key: &str, value: Value| metadata.insert(format!("{arch}.{key}"), value);
    put("block_count", Value::U32(size("num_hidden_layers")));
    put("context_length", Value::U32(size("max_position_embeddings")));
    put("embedding_length", Value::U32(size("hidden_size")));
    put("feed_forward_length", Value::U32(size("intermediate_size")));
    put("attention.head_count", Value::U32(size("num_attention_heads")));
    put("attention.head_count_kv", Value::U32(size("num_key_value_heads")));
    put("attention.layer_norm_rms_epsilon", Value::F32(config["rms_norm_eps"].as_f64().expect("a number") as f32));
    let rope = config.get("rope_parameters").unwrap_or(&config);
    put("rope.freq_base", Value::F32(rope["rope_theta"].as_f64().expect("a number") as f32));
    let head_dim = config["head_dim"].as_u64().map_or(size("hidden_size") / size("num_attention_heads"), |n| n as u32);
    put("attention.key_length", Value::U32(head_dim));
    let device = candle_core::Device::Cpu;
    let weights = candle_core::safetensors::load(dir.join("model.safetensors"), &device).expect("the fixture");
    let mut tensors = Tensors::new();
    for (name, tensor) in weights {
        let (stem, kind) = name.rsplit_once('.').expect("a kind");
        let (layer, stem) = match stem.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, stem)) => (format!("blk.{layer}."), stem),
            None => (String::new(), stem),
        };
        let row = NAMES.iter().find(|row| row.1 == stem).unwrap_or_else(|| panic!("{stem}"));
        let mut tensor = tensor.to_dtype(candle_core::DType::F32).expect("numbers");
        if arch == "llama" && ["attn_q", "attn_k"].contains(&row.0) {
            // The order in which llama.cpp rotates: the halves of a head interleaved.
            let (rows, columns) = tensor.dims2().expect("a matrix");
            let heads = rows / head_dim as usize;
            let split = tensor.reshape((heads, 2, head_dim as usize / 2, columns)).expect("heads");
            tensor = split.transpose(1, 2).and_then(|t| t.contiguous()?.reshape((rows, columns))).expect("rows");
        }
        let dtype = match tensor.dims() {
            [_, columns] if columns.is_multiple_of(dtype.block_size()) => dtype,
            // As llama-quantize does where the rows are no whole blocks.
            [_, _] => GgmlDType::F16,
            _ => GgmlDType::F32,
        };
        tensors.insert(format!("{layer}{}.{kind}", row.0), QTensor::quantize(&tensor, dtype).expect("blocks"));
    }
    if dir.join("tokenizer.json").exists() {
        metadata.extend(tokenizer(dir));
    }
    if let Some(divisors) = llama3_divisors(rope, head_dim as usize) {
        let divisors = candle_core::Tensor::new(divisors, &device).expect("a vector");
        tensors.insert("rope_freqs.weight".into(), QTensor::quantize(&divisors, GgmlDType::F32).expect("a vector"));
    }
    (metadata, tensors)
}

/// What llama.cpp's converter makes of Llama 3's scaling: the divisor of each frequency.
fn llama3_divisors(rope: &Json, head_dim: usize) -> Option<Vec<f32>> {
    if rope["rope_type"] != "llama3" {
        return None;
    }
    let number = |key: &str| rope[key].as_f64().unwrap_or_else(|| panic!("{key}"));
    let (factor, old) = (number("factor"), number("original_max_position_embeddings"));
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let divisor = |i: usize| {
        let wave = std::f64::consts::TAU * number("rope_theta").powf(2.0 * i as f64 / head_dim as f64);
        let smooth = (old / wave - low) / (high - low);
        match wave {
            w if w < old / high => 1.0,
            w if w > old / low => factor,
            _ => 1.0 / ((1.0 - smooth) / factor + smooth),
        }
    };
    Some((0..head_dim / 2).map(|i| divisor(i) as f32).collect())
}

/// The file.
pub fn bytes(metadata: &Metadata, tensors: &Tensors) -> Vec<u8> {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).expect("a file");
    file.into_inner()
}

/// The metadata for the tokenizer of the checkpoint in `dir`, which cuts text as GPT-2 did.
fn tokenizer(dir: &Path) -> Metadata {
    let json = |name: &str| -> Json { serde_json::from_slice(&fs::read(dir.join(name)).expect(name)).expect(name) };
    let (file, settings, generation) = (json("tokenizer.json"), json("tokenizer_config.json"), json("config.json"));
    let mut tokens: BTreeMap<u64, (String, i32)> = BTreeMap::new();
    for (token, id) in file["model"]["vocab"].as_object().expect("a vocabulary") {
        tokens.insert(id.as_u64().expect("an id"), (token.clone(), 1));
    }
    for token in file["added_tokens"].as_array().expect("tokens") {
        let kind = if token["special"] == true { 3 } else { 4 };
        let text = token["content"].as_str().expect("a text").to_owned();
        tokens.insert(token["id"].as_u64().expect("an id"), (text, kind));
    }
    let merges = file["model"]["merges"].as_array().expect("merges").iter().map(|merge| match merge {
        Json::String(pair) => pair.clone(),
        pair => format!("{} {}", pair[0].as_str().expect("a token"), pair[1].as_str().expect("a token")),
    });
    let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    let rows = [
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String("gpt-2".into())),
        ("merges", texts(merges.collect())),
        ("tokens", texts(tokens.values().map(|token| token.0.clone()).collect())),
        ("token_type", Value::Array(tokens.values().map(|token| Value::I32(token.1)).collect())),
        ("eos_token_id", Value::U32(generation["eos_token_id"].as_u64().expect("an id") as u32)),
        ("add_bos_token", Value::Bool(false)),
    ];
    let mut metadata: Metadata =
        rows.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
    let template = settings["chat_template"].as_str().expect("a template");
    metadata.insert("tokenizer.chat_template".into(), Value::String(template.into()));
    metadata
}
