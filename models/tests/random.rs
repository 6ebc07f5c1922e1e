//! Models that no checkpoint holds: the shapes that have names, what tensors they ask for, and random values for them.

use candle_ascend::{DType, Device, Tensor};
use npu_models::{Config, Inventory, Logits, Random, SHAPES, Shape, Source, load_from};

const CONFIG: &str = r#"{"model_type": "qwen2", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "tie_word_embeddings": false}"#;

fn config() -> Config {
    Config::from_json(CONFIG).unwrap()
}

fn inventory(config: &Config) -> Inventory {
    Inventory::of(config, &Device::Cpu).unwrap()
}

/// 2 · 100·64 outside of the layers and a norm; in a layer q, k, v with biases, o, three of 64·96, and two norms.
#[test]
fn an_inventory_is_what_the_model_asks_for() {
    let inventory = inventory(&config());
    let layer = 64 * 64 + 64 + 2 * (32 * 64 + 32) + 64 * 64 + 3 * 64 * 96 + 2 * 64;
    assert_eq!(inventory.parameters(), 2 * 100 * 64 + 64 + 2 * layer);
    assert_eq!(inventory.tensors[0], ("model.embed_tokens.weight".into(), vec![100, 64]));
    assert!(inventory.tensors.contains(&("model.layers.1.self_attn.k_proj.bias".into(), vec![32])));
}

#[test]
fn values_depend_on_seed_and_name_alone_and_have_the_deviation_they_should() {
    let values = |seed, name: &str| -> Vec<f32> {
        let source = Random::new(&config(), DType::F32, seed, &Device::Cpu).unwrap();
        let (tensor, bytes) = source.tensor(name, &[300, 400], DType::F32, &Device::Cpu).unwrap();
        assert_eq!(bytes, 300 * 400 * 4);
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    let one = values(1, "a");
    assert_eq!(one, values(1, "a"));
    assert_ne!(one, values(2, "a"));
    assert_ne!(one, values(1, "b"));
    let mean = one.iter().sum::<f32>() / one.len() as f32;
    let deviation = (one.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / one.len() as f32).sqrt();
    // 4096 draws estimate a deviation to about one in sqrt(2 * 4096), three of which are allowed.
    assert!((deviation * 20.0 - 1.0).abs() < 0.035, "{deviation}");
    assert!(mean.abs() * 20.0 < 3.0 / 64.0, "{mean}");
}

#[test]
fn a_random_model_answers_with_finite_logits() {
    let (config, device) = (config(), Device::Cpu);
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let source = Random::new(&config, dtype, 0, &device).unwrap();
        let loaded = load_from(config.clone(), &source, dtype, &device, &|_, _| {}).unwrap();
        assert_eq!(loaded.unused, Vec::<String>::new());
        assert_eq!(loaded.stored_bytes, inventory(&config).parameters() * dtype.size_in_bytes() as u64);
        let ids = Tensor::from_slice(&[1u32, 2, 3], (1, 3), &device).unwrap();
        let model = loaded.model;
        let logits = model.forward(&ids, &mut model.new_cache(), Logits::Last).unwrap();
        let logits: Vec<f32> = logits.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(logits.iter().all(|v| v.is_finite() && v.abs() < 100.0), "{logits:?}");
        assert!(logits.iter().any(|v| v.abs() > 0.01), "{logits:?}");
    }
}

/// Parameters in millions as the models' own pages count them, where they do.
#[test]
fn shapes_have_the_published_number_of_parameters() {
    for (name, millions) in [
        ("qwen2-0.5b", 494),
        ("qwen2.5-1.5b", 1_544),
        ("qwen2.5-7b", 7_616),
        ("qwen2.5-14b", 14_770),
        ("qwen2.5-32b", 32_764),
        ("qwen3-0.6b", 596),
        ("qwen3-4b", 4_022),
        ("qwen3-8b", 8_191),
        ("qwen3-32b", 32_762),
        ("llama3.2-1b", 1_236),
        ("llama3.2-3b", 3_213),
        ("llama3.1-8b", 8_030),
        ("llama3.1-70b", 70_554),
    ] {
        let parameters = inventory(&Shape::find(name).unwrap().config().unwrap()).parameters();
        assert_eq!((parameters + 500_000) / 1_000_000, millions, "{name}");
    }
    SHAPES.iter().for_each(|shape| drop(shape.config().expect(shape.name)));
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = Shape::find("qwen9-1b").unwrap_err().to_string();
    assert!(error.contains("qwen9-1b") && error.contains("qwen2-0.5b, ") && error.contains("llama3.1-8b"), "{error}");
    assert_eq!(Shape::find("Qwen2-0.5B").unwrap().hidden, 896);
}
