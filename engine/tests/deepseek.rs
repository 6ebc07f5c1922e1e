//! The published DeepSeek tokenizer encodes and decodes as the Python `tokenizers` package does.
//!
//! `data/deepseek_encode.json` was written by that package. The tokenizer itself is 7 MB and not in this repository:
//! `.ci/fetch-tokenizer` brings it from the Python package index. Without it this program says that it could not run, and
//! fails where `NPU_REQUIRE_TOKENIZER` is set, as it is in CI. It has no test harness because that would hide the line.

use npu_engine::{Tokenizer, TokenizerConfig};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the file is: the variable's, or where `.ci/fetch-tokenizer` puts it.
fn tokenizer_file() -> Option<PathBuf> {
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/deepseek-tokenizer/tokenizer.json");
    let path = std::env::var_os("NPU_DEEPSEEK_TOKENIZER").map_or(fetched, PathBuf::from);
    path.exists().then_some(path)
}

fn main() -> ExitCode {
    let Some(path) = tokenizer_file() else {
        println!(
            "deepseek tokenizer: NOT RUN, no tokenizer.json; run .ci/fetch-tokenizer or set NPU_DEEPSEEK_TOKENIZER"
        );
        let required = std::env::var_os("NPU_REQUIRE_TOKENIZER").is_some();
        return if required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    };
    let json = std::fs::read(&path).expect("the tokenizer's file");
    let tokenizer = Tokenizer::from_parts(&json, TokenizerConfig::default()).expect("the tokenizer loads");
    let golden: Value = serde_json::from_str(include_str!("data/deepseek_encode.json")).expect("the golden file");
    let cases = golden["cases"].as_array().expect("cases");
    let mut wrong = 0;
    for case in cases {
        let text = case["text"].as_str().expect("a text");
        let wanted: Vec<u32> =
            case["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
        let got = tokenizer.encode(text, false).expect("an encoding");
        let decoded = tokenizer.decode(&wanted).expect("a decoding");
        let mut stream = tokenizer.stream();
        let mut streamed: String = wanted.iter().map(|id| stream.push(*id).expect("a piece")).collect();
        streamed += &stream.finish().expect("the end");
        let decoded_wanted = case["decoded"].as_str().expect("a text");
        if got != wanted || decoded != decoded_wanted || streamed != decoded_wanted {
            wrong += 1;
            println!(
                "{text:?}\n  wanted {wanted:?} {decoded_wanted:?}\n  got    {got:?} {decoded:?} streamed {streamed:?}"
            );
        }
    }
    let (size, count) = (tokenizer.vocab_size(), cases.len());
    println!("deepseek tokenizer: {} of {count} texts agree with the Python package, {size} tokens", count - wrong);
    // 128,000 in the vocabulary, 1,283 added of which three are in the vocabulary.
    if wrong == 0 && size == 129_280 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
