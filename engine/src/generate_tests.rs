//! Generation over a real (tiny, random) checkpoint with a tokenizer of one token a byte.

use super::*;
use crate::testing::byte_tokenizer_files;
use std::fs;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A checkpoint folder: the fixture's model with the byte tokenizer; `edit` changes `config.json`.
fn checkpoint(edit: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let from = fixture("qwen2-tiny");
    fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).expect("the weights");
    let mut config =
        serde_json::from_str(&fs::read_to_string(from.join("config.json")).expect("config")).expect("JSON");
    edit(&mut config);
    fs::write(dir.path().join("config.json"), config.to_string()).expect("config");
    let (tokenizer, settings) = byte_tokenizer_files();
    fs::write(dir.path().join("tokenizer.json"), tokenizer).expect("the tokenizer");
    fs::write(dir.path().join("tokenizer_config.json"), settings).expect("its settings");
    dir
}

fn load(dir: &tempfile::TempDir) -> Result<Generator> {
    Generator::load(dir.path(), DType::F32, &Device::Cpu, &|_, _| {})
}

fn run(generator: &Generator, prompt: &[u32], options: &GenerateOptions) -> Result<(Generation, String)> {
    let mut streamed = String::new();
    let generation = generator.generate(prompt, options, &AtomicBool::new(false), &mut |piece| {
        streamed.push_str(piece);
        Ok(())
    })?;
    Ok((generation, streamed))
}

fn sixteen() -> GenerateOptions {
    GenerateOptions { max_tokens: 16, ignore_eos: true, ..Default::default() }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let generator = load(&checkpoint(|_| {})).expect("the checkpoint");
    let bytes = fs::read(fixture("qwen2-tiny").join("golden.safetensors")).expect("golden");
    let golden = golden_rows(&bytes);
    let (generation, streamed) = run(&generator, &golden.0, &sixteen()).expect("a generation");
    assert_eq!((generation.tokens, generation.stop), (golden.1.clone(), StopReason::MaxTokens));
    assert_eq!(generation.text, streamed);
    let stats = generation.stats;
    assert_eq!((stats.prompt_tokens, stats.generated_tokens), (96, 16));
    assert!(stats.per_token.is_none(), "the CPU launches nothing");
    assert!(
        stats.decode_tokens_per_second.is_some_and(|rate| rate > 0.0) && stats.peak_memory_bytes.is_some_and(|b| b > 0)
    );
    let rows = continue_greedily(generator.model(), &[golden.0], 16, &Device::Cpu).expect("greedy rows");
    assert_eq!(rows, [golden.1]);
}

/// The first row of `input_ids` and `greedy` of a golden file.
fn golden_rows(bytes: &[u8]) -> (Vec<u32>, Vec<u32>) {
    let tensors = candle_ascend::safetensors::load_buffer(bytes, &Device::Cpu).expect("golden tensors");
    let first = |name: &str| -> Vec<u32> {
        let row = tensors[name].get(0).and_then(|row| row.to_vec1::<i64>()).expect("a row of integers");
        row.into_iter().map(|id| id as u32).collect()
    };
    (first("input_ids"), first("greedy"))
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let generator = load(&checkpoint(|_| {})).expect("the checkpoint");
    let prompt = generator.raw("Hello, wörld").expect("a prompt").tokens;
    let options = |seed| {
        let sampling = SamplingOptions { temperature: 1.0, top_p: 0.9, seed, ..Default::default() };
        GenerateOptions { sampling, ..sixteen() }
    };
    let tokens = |seed| run(&generator, &prompt, &options(seed)).expect("a generation").0.tokens;
    assert_eq!(tokens(3), tokens(3));
    assert_ne!(tokens(3), tokens(4));
}

#[test]
fn generation_ends_at_eos_and_without_showing_it() {
    let plain = load(&checkpoint(|_| {})).expect("the checkpoint");
    let prompt = plain.raw("Hello").expect("a prompt").tokens;
    let (all, _) = run(&plain, &prompt, &sixteen()).expect("a generation");
    // The first token that has not occurred before, from the third on, made the end.
    let at = (2..16).find(|i| !all.tokens[..*i].contains(&all.tokens[*i])).expect("a new token");
    let end = all.tokens[at];
    let generator = load(&checkpoint(|config| config["eos_token_id"] = end.into())).expect("the checkpoint");
    let (short, _) =
        run(&generator, &prompt, &GenerateOptions { max_tokens: 16, ..Default::default() }).expect("a generation");
    assert_eq!((short.tokens.as_slice(), short.stop), (&all.tokens[..at], StopReason::Eos));
    assert_eq!(short.stats.generated_tokens, at + 1);
}

#[test]
fn the_context_bounds_prompt_and_answer() {
    let generator = load(&checkpoint(|config| config["max_position_embeddings"] = 20.into())).expect("the checkpoint");
    let prompt = generator.raw("0123456789abcde").expect("a prompt").tokens;
    let (generation, _) = run(&generator, &prompt, &sixteen()).expect("a generation");
    // Positions 15 to 19 are computed from generated tokens; the sixth token needs none.
    assert_eq!((generation.tokens.len(), generation.stop), (6, StopReason::Context));
    let long = generator.raw("0123456789abcdefghijk").expect("a prompt").tokens;
    let error = run(&generator, &long, &sixteen()).expect_err("too long").to_string();
    assert!(error.contains("21 tokens") && error.contains("holds 20"), "{error}");
    let error = run(&generator, &[], &sixteen()).expect_err("empty").to_string();
    assert!(error.contains("prompt is empty"), "{error}");
    let error = format!("{:#}", run(&generator, &[512], &sixteen()).expect_err("no such token"));
    assert!(error.contains("token 512 at position 0"), "{error}");
}

#[test]
fn an_abort_ends_between_tokens() {
    let generator = load(&checkpoint(|_| {})).expect("the checkpoint");
    let prompt = generator.raw("Hello").expect("a prompt").tokens;
    let abort = AtomicBool::new(true);
    let none = generator.generate(&prompt, &sixteen(), &abort, &mut |_| Ok(())).expect("an aborted generation");
    assert_eq!((none.tokens.len(), none.stop), (0, StopReason::Aborted));
    let abort = AtomicBool::new(false);
    let some = generator.generate(&prompt, &sixteen(), &abort, &mut |_| {
        abort.store(true, Ordering::Relaxed);
        Ok(())
    });
    let some = some.expect("an aborted generation");
    assert!(!some.tokens.is_empty() && some.tokens.len() < 16 && some.stop == StopReason::Aborted, "{some:?}");
    let broken = generator.generate(&prompt, &sixteen(), &AtomicBool::new(false), &mut |_| bail!("the reader is gone"));
    assert!(broken.expect_err("the callback failed").to_string().contains("reader is gone"));
}

#[test]
fn chat_without_a_template_says_what_to_do() {
    let generator = load(&checkpoint(|_| {})).expect("the checkpoint");
    assert!(!generator.has_chat_template());
    let error = generator.chat(&[Message::new("user", "hi")], true).expect_err("no template").to_string();
    assert!(error.contains("--raw"), "{error}");
}

#[test]
fn sampling_follows_the_checkpoint() {
    let parse = |json: &str| default_sampling(&GenerationConfig::from_json(json).expect("a generation config"));
    assert_eq!(parse("{}"), SamplingOptions::default());
    let r1 = parse(r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.95}"#);
    assert_eq!((r1.temperature, r1.top_p, r1.top_k), (0.6, 0.95, 0));
    assert_eq!(parse(r#"{"do_sample": false, "temperature": 0.6, "repetition_penalty": 1.1}"#).temperature, 0.0);
    assert_eq!(parse(r#"{"do_sample": true, "top_k": 20}"#).temperature, 1.0);
}
