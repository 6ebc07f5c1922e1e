//! Tests of what is learnt: spans of answers, borders, and templates that write history anew. The tokenizer is the demo
//! model's: a byte each but for some words, special tokens for turns and thoughts.

use super::*;
use crate::data::Format;
use serde_json::{Value, json};
use std::path::PathBuf;

const CHAT: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// As DeepSeek-R1's: thoughts of answers are left out, and prompts open one.
const R1: &str = "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}\
    {{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}";

/// As Qwen3's: the last answer has a thought, an empty one if need be, and those before a later question have none.
const QWEN3: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}\
    {% set parts = m.content.split('</think>') %}{% if loop.last %}{{ '<think>\\n' }}\
    {% if parts | length > 1 %}{{ parts[0].split('<think>')[-1].strip() }}{% endif %}{{ '\\n</think>\\n\\n' }}{% endif %}\
    {{ parts[-1].strip() }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}\
    {% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}";

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../demo/model")
}

fn encoder(template: Option<&str>) -> Encoder {
    let mut settings = npu_engine::TokenizerConfig::from_dir(&demo()).unwrap();
    settings.chat_template = template.map(str::to_owned);
    let tokenizer = Tokenizer::from_parts(&std::fs::read(demo().join("tokenizer.json")).unwrap(), settings).unwrap();
    let template = ChatTemplate::new(tokenizer.config()).unwrap();
    Encoder::new(tokenizer, template, Config::of(&demo()).unwrap(), &GenerationConfig::default())
}

fn record(line: Value) -> Record {
    Format::of(&line).unwrap().read(&line).unwrap()
}

fn chat(contents: &[&str]) -> Record {
    let roles = ["user", "assistant"].iter().cycle();
    let turns: Vec<_> = contents.iter().zip(roles).map(|(c, role)| json!({"role": role, "content": c})).collect();
    record(json!({ "messages": turns }))
}

/// The sample as text, what is learnt between brackets, special tokens and all.
fn shown(encoder: &Encoder, sample: &Sample) -> String {
    assert_eq!(sample.tokens.len(), sample.labels.len());
    let names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut text = String::new();
    let mut learning = false;
    for (token, label) in sample.tokens.iter().zip(&sample.labels) {
        assert!(*label == IGNORED || *label == i64::from(*token), "a label is the token itself");
        if (*label != IGNORED) != learning {
            text.push(if learning { ']' } else { '[' });
            learning = !learning;
        }
        match names.iter().find(|name| encoder.tokenizer.token_id(name) == Some(*token)) {
            Some(name) => text.push_str(name),
            None => text.push_str(&encoder.tokenizer.decode(&[*token]).unwrap()),
        }
    }
    if learning { text + "]" } else { text }
}

fn encoded(template: Option<&str>, record: &Record, options: DataOptions) -> (String, bool) {
    let encoder = encoder(template);
    let encoded = encoder.encode(record, &options).unwrap();
    (shown(&encoder, &encoded.sample), encoded.last_only)
}

#[test]
fn an_answer_follows_exactly_the_prompt_that_inference_feeds() {
    let encoder = Encoder::of(&demo()).unwrap();
    let record = record(json!({"question": "What is 1 plus 2?", "answer": "3"}));
    let sample = encoder.encode(&record, &DataOptions::default()).unwrap().sample;
    assert_eq!(
        shown(&encoder, &sample),
        "<|im_start|>user\nWhat is 1 plus 2?<|im_end|>\n<|im_start|>assistant\n[3<|im_end|>]"
    );
    let mut question = record.clone();
    question.take_answer();
    let asked = encoder.asked(&question, &DataOptions::default()).unwrap();
    let generator =
        npu_engine::Generator::load(&demo(), candle_ascend::DType::F32, &candle_ascend::Device::Cpu, &|_, _| {})
            .unwrap();
    let fed = generator.chat(&[Message::new("user", "What is 1 plus 2?")], true).unwrap();
    assert_eq!((&asked.tokens, &asked.text, asked.thinking), (&fed.tokens, &fed.text, fed.thinking));
    assert_eq!(sample.tokens[..fed.tokens.len()], fed.tokens);
    assert_eq!(sample.targets(), 2);
}

#[test]
fn every_turn_of_the_assistant_is_learnt_with_its_end() {
    let (text, last_only) = encoded(Some(CHAT), &chat(&["a", "b", "c", "\nd"]), DataOptions::default());
    let turn = |question: &str, answer: &str| {
        format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n[{answer}<|im_end|>]")
    };
    assert_eq!(text, format!("{}\n{}", turn("a", "b"), turn("c", "\nd")));
    assert!(!last_only);
    let all = DataOptions { learn_all: true, ..DataOptions::default() };
    let (text, _) = encoded(Some(CHAT), &chat(&["a", "b"]), all);
    assert_eq!(text, "[<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>]");
}

#[test]
fn a_template_that_drops_thoughts_is_written_as_the_model_writes() {
    let (text, last_only) = encoded(Some(R1), &chat(&["1+1", "<think>\nhm\n</think>\n\n2"]), DataOptions::default());
    assert_eq!(text, "<|im_start|>1+1<think>\n[hm\n</think>\n\n2<|im_end|>]");
    assert!(!last_only, "there is one answer");
    let (text, last_only) =
        encoded(Some(R1), &chat(&["1+1", "<think>\nhm\n</think>\n\n2", "2+2", "4"]), DataOptions::default());
    assert_eq!(text, "<|im_start|>1+1\n\n2<|im_end|><|im_start|>2+2<think>\n[\n</think>\n\n4<|im_end|>]");
    assert!(last_only);
    let no_think = DataOptions { think: false, ..DataOptions::default() };
    let (text, _) = encoded(Some(R1), &chat(&["1+1", "2"]), no_think);
    assert_eq!(text, "<|im_start|>1+1<think>\n\n</think>\n\n[2<|im_end|>]");
    // Without an opened thought the template leaves it out in silence, which must not be how it is learnt.
    let closed = R1.replace("{{ '<think>\\n' }}", "");
    let (text, _) = encoded(Some(&closed), &chat(&["1+1", "<think>hm</think>2"]), DataOptions::default());
    assert_eq!(text, "<|im_start|>1+1[<think>hm</think>2<|im_end|>]");
}

#[test]
fn a_template_that_rewrites_earlier_answers_leaves_the_last_one_to_learn() {
    let (text, last_only) = encoded(Some(QWEN3), &chat(&["a", "b"]), DataOptions::default());
    assert_eq!(text, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\nb<|im_end|>]");
    assert!(!last_only);
    let (text, last_only) = encoded(Some(QWEN3), &chat(&["a", "b", "c", "<think>x</think>d"]), DataOptions::default());
    let history = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n";
    assert_eq!(text, format!("{history}<|im_start|>assistant\n[<think>x</think>d<|im_end|>]"));
    assert!(last_only);
    let no_think = DataOptions { think: false, ..DataOptions::default() };
    let (text, _) = encoded(Some(QWEN3), &chat(&["a", "b"]), no_think);
    assert_eq!(text, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n[b<|im_end|>]");
}

#[test]
fn without_a_template_prompt_and_completion_are_joined_at_the_prompts_own_tokens() {
    let pair = |prompt: &str, completion: &str| record(json!({"prompt": prompt, "completion": completion}));
    let plain = encoder(None);
    let tokens = |text: &str| plain.tokenizer.encode(text, true).unwrap();
    let end = plain.tokenizer.token_id("<|im_end|>");
    // "How" is one token, which inference after "H" cannot feed.
    assert_eq!(tokens("How much").len(), 2);
    let sample = plain.encode(&pair("H", "ow much"), &DataOptions::default()).unwrap();
    assert_eq!(sample.sample.tokens, [tokens("H"), tokens("ow much"), end.into_iter().collect()].concat());
    assert!(sample.joined);
    assert_eq!(encoded(None, &pair("How", " much"), DataOptions::default()).0, "How[ much<|im_end|>]");
    let raw = DataOptions { raw: true, ..DataOptions::default() };
    assert_eq!(encoded(Some(CHAT), &pair("How", " much"), raw.clone()).0, "How[ much<|im_end|>]");
    assert_eq!(encoded(Some(CHAT), &chat(&["a", "b"]), raw.clone()).0, "a\n[b<|im_end|>]");
    assert_eq!(encoded(None, &record(json!({"text": "How much"})), raw.clone()).0, "[How much<|im_end|>]");
    let error = format!("{:#}", plain.encode(&chat(&["a", "b", "c", "d"]), &raw).unwrap_err());
    assert!(error.contains("several turns needs a chat template"), "{error}");
}

#[test]
fn a_conversation_begins_with_a_question() {
    let record = record(json!({"messages": [{"role": "assistant", "content": "a"}]}));
    let error = format!("{:#}", encoder(Some(CHAT)).encode(&record, &DataOptions::default()).unwrap_err());
    assert!(error.contains("begins with the assistant"), "{error}");
}
