//! A reward model, made of the demo model so that its values are logits that inference computes.

use candle_ascend::{DType, Device, Tensor, safetensors};
use npu_engine::{ChatTemplate, Message, Tokenizer};
use npu_models::Logits;
use npu_train::data::Prompt;
use npu_train::reward::{Answer, Reward, RewardModel};
use std::path::{Path, PathBuf};

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../demo/model")
}

/// A classifier of `labels` labels whose first is the logit of token `token`.
fn classifier(folder: &Path, labels: usize, token: usize) {
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(demo().join(name), folder.join(name)).expect("a copy");
    }
    let config = std::fs::read_to_string(demo().join("config.json")).expect("config.json");
    let config = config.replace("Qwen2ForCausalLM", "Qwen2ForSequenceClassification");
    std::fs::write(folder.join("config.json"), config).expect("config.json");
    let mut tensors = safetensors::load(demo().join("model.safetensors"), &Device::Cpu).expect("weights");
    let rows = tensors["model.embed_tokens.weight"].narrow(0, token, labels).and_then(|rows| rows.contiguous());
    tensors.insert("score.weight".to_owned(), rows.expect("rows"));
    safetensors::save(&tensors, folder.join("model.safetensors")).expect("weights");
}

#[test]
fn the_value_is_the_last_hidden_state_by_the_score() {
    let (token, text) = (70, "<think>\n</think>\n\n7");
    let folder = tempfile::tempdir().expect("a folder");
    classifier(folder.path(), 1, token);
    let prompt = Prompt {
        messages: vec![Message::new("user", "3 + 4")],
        tokens: vec![1],
        text: String::new(),
        thinking: false,
        answer: None,
        columns: Default::default(),
    };
    let tokenizer = Tokenizer::of(&demo()).expect("a tokenizer");
    let template = ChatTemplate::new(tokenizer.config()).expect("a template").expect("there is one");
    let whole = template.conversation(&[Message::new("user", "3 + 4"), Message::new("assistant", text)]);
    let tokens = tokenizer.encode(&whole.expect("text"), false).expect("tokens");
    let model = npu_models::load(&demo(), DType::F32, &Device::Cpu, &|_, _| {}).expect("the demo model").model;
    let ids = Tensor::from_slice(&tokens, (1, tokens.len()), &Device::Cpu).expect("ids");
    let logits = model.forward(&ids, &mut model.new_cache(), Logits::Last).expect("logits");
    let wanted = logits.flatten_all().and_then(|l| l.to_vec1::<f32>()).expect("values")[token];
    for device in [Device::Cpu, crate::common::simulated(7)] {
        let mut reward = RewardModel::load(folder.path(), DType::F32, &device).expect("a reward model");
        let answer = Answer { index: 0, prompt: &prompt, text, tokens: &[] };
        let got = reward.score(&[answer]).expect("a value")[0].expect("one");
        // F32 over three layers.
        assert!((got - f64::from(wanted)).abs() < 1e-4, "{got} on {}, wanted {wanted}", device.kind());
    }
}

#[test]
fn what_is_no_reward_model_is_refused_by_name() {
    let error = format!("{:#}", RewardModel::load(&demo(), DType::F32, &Device::Cpu).err().expect("no score"));
    assert!(error.contains("score.weight") && error.contains("Qwen2ForCausalLM"), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    classifier(folder.path(), 2, 5);
    let error = format!("{:#}", RewardModel::load(folder.path(), DType::F32, &Device::Cpu).err().expect("two labels"));
    assert!(error.contains("one row") && error.contains("[2, 64]"), "{error}");
}
