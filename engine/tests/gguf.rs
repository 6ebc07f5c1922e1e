//! The demo model as a GGUF file: the same tokens from its tokenizer and the same answers.

use candle_ascend::{DType, Device};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use npu_engine::{GenerateOptions, Generator, Message, Tokenizer};
use npu_tests::gguf::{Metadata, Tensors, bytes, convert};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model")
}

fn write(folder: &TempDir, metadata: &Metadata, tensors: &Tensors) -> PathBuf {
    let path = folder.path().join("demo.gguf");
    std::fs::write(&path, bytes(metadata, tensors)).expect("written");
    path
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_tokenizer_is_the_checkpoints() {
    let (metadata, tensors) = convert(&demo(), GgmlDType::Q8_0);
    let folder = folder();
    let ours = Tokenizer::of(&write(&folder, &metadata, &tensors)).expect("a tokenizer");
    let theirs = Tokenizer::of(&demo()).expect("the demo's tokenizer");
    assert_eq!(ours.vocab_size(), theirs.vocab_size());
    assert_eq!(ours.config().eos_token, theirs.config().eos_token);
    assert_eq!(ours.config().chat_template, theirs.config().chat_template);
    for text in [
        "What is 123 + 456?",
        "<|im_start|>user\n12-7<|im_end|>\n<think>\n",
        "it's  übel: 漢字 🙂\r\n\r\n\tx=1000000 ",
        "",
    ] {
        let ids = theirs.encode(text, true).expect("tokens");
        assert_eq!(ours.encode(text, true).expect("tokens"), ids, "{text:?}");
        assert_eq!(ours.decode(&ids).expect("text"), theirs.decode(&ids).expect("text"), "{text:?}");
    }
}

/// The ways to cut text that the names stand for, by what the models' own tokenizers make of such text: Qwen2's cuts every
/// digit apart and composes accents, Llama 3's keeps three digits and begins with a token.
#[test]
fn ways_to_cut_text() {
    let tokens = ["1", "2", "3", "12", "123", "Ã", "©", "Ã©", "e", "Ì", "ģ", "'", "s", "'s", "<s>"];
    let merges = ["1 2", "12 3", "Ã ©", "' s"];
    let texts = |texts: &[&str]| Value::Array(texts.iter().map(|text| Value::String((*text).into())).collect());
    let (mut metadata, tensors) = convert(&demo(), GgmlDType::F16);
    let mut kinds = vec![Value::I32(1); tokens.len()];
    kinds[14] = Value::I32(3);
    metadata.insert("tokenizer.ggml.tokens".into(), texts(&tokens));
    metadata.insert("tokenizer.ggml.merges".into(), texts(&merges));
    metadata.insert("tokenizer.ggml.token_type".into(), Value::Array(kinds));
    metadata.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(14));
    metadata.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(14));
    metadata.remove("tokenizer.ggml.add_bos_token");
    let folder = folder();
    let mut encode = |pre: &str, text: &str| {
        metadata.insert("tokenizer.ggml.pre".into(), Value::String(pre.into()));
        let tokenizer = Tokenizer::of(&write(&folder, &metadata, &tensors)).expect("a tokenizer");
        tokenizer.encode(text, true).expect("tokens")
    };
    for pre in ["qwen2", "deepseek-r1-qwen"] {
        assert_eq!(encode(pre, "123"), [0, 1, 2], "{pre}");
        // An e and a combining accent are composed to é.
        assert_eq!(encode(pre, "e\u{301}"), [7], "{pre}");
    }
    assert_eq!(encode("llama-bpe", "123123"), [14, 4, 4]);
    assert_eq!(encode("llama-bpe", "e\u{301}"), [14, 8, 9, 10]);
    assert_eq!(encode("gpt-2", "123"), [4]);
    assert_eq!(encode("gpt-2", "1's"), [0, 13]);
}

#[test]
fn what_the_tokenizer_lacks_is_named() {
    let (metadata, tensors) = convert(&demo(), GgmlDType::F16);
    let cases: [(&str, Option<Value>, &[&str]); 6] = [
        ("pre", Some(Value::String("tekken".into())), &["pre is \"tekken\"", "qwen2", "llama-bpe", "are known"]),
        ("pre", None, &["tokenizer.ggml.pre is missing"]),
        ("model", Some(Value::String("llama".into())), &["model is \"llama\"", "gpt2"]),
        ("tokens", None, &["tokenizer.ggml.tokens is missing, wanted a list of strings"]),
        ("token_type", Some(Value::Array(vec![Value::I32(1)])), &["token_type has 1 entries for 320 tokens"]),
        ("eos_token_id", Some(Value::U32(9999)), &["eos_token_id is 9999, and there are 320 tokens"]),
    ];
    for (key, value, says) in cases {
        let mut metadata = metadata.clone();
        let key = format!("tokenizer.ggml.{key}");
        match value {
            Some(value) => metadata.insert(key, value),
            None => metadata.remove(&key),
        };
        let folder = folder();
        let Err(error) = Tokenizer::of(&write(&folder, &metadata, &tensors)) else { panic!("loaded, wanted {says:?}") };
        let error = format!("{error:#}");
        let all = says.iter().chain(&["demo.gguf"]).all(|part| error.contains(part));
        assert!(all, "wanted {says:?} and the file in {error:?}");
    }
}

fn answer(path: &Path, question: &str) -> String {
    let generator = Generator::load(path, DType::F32, &Device::Cpu, &|_, _| {}).expect("the demo model loads");
    let prompt = generator.chat(&[Message::new("user", question)], true).expect("a template");
    let options = GenerateOptions { max_tokens: 96, ..Default::default() };
    generator.generate(&prompt.tokens, &options, &AtomicBool::new(false), &mut |_| Ok(())).expect("an answer").text
}

#[test]
fn the_demo_answers_from_a_gguf_file() {
    let questions = ["What is 123 + 456?", "Calculate 900 - 17.", "17 - 58"];
    for dtype in [GgmlDType::BF16, GgmlDType::Q8_0] {
        let folder = folder();
        let (metadata, tensors) = convert(&demo(), dtype);
        let path = write(&folder, &metadata, &tensors);
        for question in questions {
            assert_eq!(answer(&path, question), answer(&demo(), question), "{dtype:?} {question}");
        }
    }
}
