//! Tests of corpora over files: what is counted, what is refused, and that a sample is the same however it is stored.

use super::*;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn demo() -> Arc<Encoder> {
    Arc::new(Encoder::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model")).unwrap())
}

/// Files of these names and contents in a folder that goes with the first of the pair.
fn files(contents: &[(&str, String)]) -> (TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let write = |(name, text): &(&str, String)| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let paths = contents.iter().map(write).collect();
    (dir, paths)
}

fn open(paths: &[PathBuf], options: DataOptions) -> Result<Corpus> {
    Corpus::open(paths, &options, demo(), &|_, _| {})
}

fn pair(question: &str, answer: &str) -> String {
    serde_json::json!({"prompt": question, "completion": answer}).to_string()
}

fn samples(corpus: &Corpus) -> Vec<Sample> {
    (0..corpus.len()).map(|i| corpus.sample(i).unwrap()).collect()
}

#[test]
fn lines_an_array_and_several_files_are_the_same_samples() {
    let lines: Vec<String> = (0..1100).map(|i| pair(&format!("{i} + 1?"), &(i + 1).to_string())).collect();
    let (_dir, paths) = files(&[
        ("all.jsonl", lines.join("\n")),
        ("all.json", format!("[{}]", lines.join(",\n"))),
        ("first.jsonl", lines[..700].join("\n\n") + "\n"),
        ("rest.json", format!("[{}]", lines[700..].join(","))),
    ]);
    let whole = open(&paths[..1], DataOptions::default()).unwrap();
    let wanted = samples(&whole);
    assert_eq!(wanted.len(), 1100);
    assert_eq!(wanted[5].targets(), 2, "6 and the end of the turn");
    let lengths: Vec<u32> = wanted.iter().map(|sample| sample.tokens.len() as u32).collect();
    assert_eq!(whole.lengths(), lengths);
    let report = whole.report();
    assert_eq!(report.tokens, lengths.iter().map(|l| u64::from(*l)).sum::<u64>());
    assert_eq!(report.targets, wanted.iter().map(|s| s.targets() as u64).sum::<u64>());
    assert_eq!(samples(&open(&paths[1..2], DataOptions::default()).unwrap()), wanted);
    assert_eq!(samples(&open(&paths[2..], DataOptions::default()).unwrap()), wanted);
}

/// The files are pyarrow's, three rows a group; `make.py` beside them says what is in them.
#[test]
fn parquet_files_are_read_by_row() {
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/data").join(name);
    let question = |i: usize| serde_json::json!({"role": "user", "content": format!("{i} + 1?")});
    let line = |i: usize| {
        let answer = serde_json::json!({"role": "assistant", "content": (i + 1).to_string()});
        let mut turns = vec![question(i), answer];
        if i.is_multiple_of(3) {
            turns.push(serde_json::json!({"role": "user", "content": "And é?"}));
            turns.push(serde_json::json!({"role": "assistant", "content": "漢"}));
        }
        serde_json::json!({ "messages": turns }).to_string()
    };
    let (_dir, paths) = files(&[
        ("chat.jsonl", (0..7).map(line).collect::<Vec<_>>().join("\n")),
        ("alpaca.json", r#"[{"instruction": "Add.", "input": "2 and 2", "output": "4"}, {"instruction": "Greet.", "output": "Hello"}]"#.into()),
    ]);
    let parquet = open(&[file("chat.parquet"), file("alpaca.parquet")], DataOptions::default()).unwrap();
    assert_eq!(samples(&parquet), samples(&open(&paths, DataOptions::default()).unwrap()));
    let prompt = parquet.prompt(4).unwrap();
    assert_eq!(Value::Object(prompt.columns), serde_json::json!({"level": 0.4, "id": 4}));
    let told = DataOptions { format: Some(Format::Text), ..DataOptions::default() };
    let error = format!("{:#}", open(&[file("chat.parquet")], told).err().unwrap());
    assert!(error.contains("chat.parquet, row 1: text is missing"), "{error}");
    let cut = fs::read(file("chat.parquet")).unwrap();
    let path = paths[0].with_extension("parquet");
    fs::write(&path, &cut[..cut.len() / 2]).unwrap();
    let error = format!("{:#}", open(&[path], DataOptions::default()).err().unwrap());
    assert!(error.contains("chat.parquet") && error.contains("not a whole Parquet file"), "{error}");
}

#[test]
fn a_bad_line_names_its_place_and_reason_or_is_counted() {
    let good = pair("1 + 1?", "2");
    for (bad, says) in [
        ("{\"prompt\": ", "not valid JSON"),
        ("{\"prompt\": 1, \"completion\": \"2\"}", "prompt is 1, wanted text"),
        ("{\"prompt\": \"1\", \"completion\": \" \"}", "an answer is empty"),
        ("{\"text\": \"T\"}", "prompt is missing: the fields are text"),
        (
            "{\"prompt\": [{\"role\": \"judge\", \"content\": \"Q\"}], \"completion\": \"A\"}",
            "the role \"judge\" is unknown",
        ),
        ("\"text\"", "is no object of fields"),
    ] {
        let (_dir, paths) = files(&[("data.jsonl", format!("{good}\n\n{bad}\n{good}"))]);
        let error = format!("{:#}", open(&paths, DataOptions::default()).err().expect(bad));
        for part in ["data.jsonl, line 3: ", says, "--skip-bad-lines"] {
            assert!(error.contains(part), "{bad}: {error}");
        }
        let corpus = open(&paths, DataOptions { skip_bad_lines: true, ..DataOptions::default() }).unwrap();
        let report = corpus.report();
        assert_eq!((corpus.len(), report.samples, report.skipped), (2, 2, 1), "{bad}");
        assert!(report.bad[0].contains("line 3: ") && report.bad[0].contains(says), "{:?}", report.bad);
        assert!(report.to_string().contains("1 bad lines left out:"), "{report}");
    }
}

#[test]
fn the_first_line_decides_the_format_unless_it_is_told() {
    let (_dir, paths) = files(&[("data.jsonl", "{\"a\": 1}\n".to_owned() + &pair("1", "2"))]);
    let says = |options: DataOptions, says: &str| {
        let error = format!("{:#}", open(&paths, options).err().expect(says));
        assert!(error.contains("data.jsonl, line 1: ") && error.contains(says), "{error}");
    };
    says(DataOptions::default(), "its fields (a) fit no format");
    // A format that nothing says is not guessed from a later line.
    says(DataOptions { skip_bad_lines: true, ..DataOptions::default() }, "its fields (a) fit no format");
    let told = DataOptions { format: Some(Format::Completion), ..DataOptions::default() };
    says(told.clone(), "prompt is missing");
    assert_eq!(open(&paths, DataOptions { skip_bad_lines: true, ..told }).unwrap().len(), 1);
    let (_dir, paths) = files(&[("data.jsonl", "no\n".to_owned() + &pair("1", "2"))]);
    assert_eq!(open(&paths, DataOptions { skip_bad_lines: true, ..DataOptions::default() }).unwrap().len(), 1);
}

#[test]
fn nothing_is_left_is_an_error() {
    let (_dir, paths) = files(&[("data.jsonl", pair("1", ""))]);
    let error = open(&paths, DataOptions { skip_bad_lines: true, ..DataOptions::default() }).err().unwrap().to_string();
    assert!(error.contains("no sample is left") && error.contains("an answer is empty"), "{error}");
    assert!(open(&[], DataOptions::default()).is_err());
}

#[test]
fn long_samples_are_cut_or_left_out_and_counted() {
    let long = pair("1?", &"9".repeat(300));
    let asks_long = pair(&"1 + ".repeat(80), "2");
    let (_dir, paths) = files(&[("data.jsonl", [pair("1 + 1?", "2"), long, asks_long].join("\n"))]);
    // The demo model's context is less than TRL's length.
    let cut = open(&paths, DataOptions::default()).unwrap();
    let report = cut.report();
    assert_eq!((report.max_length, report.samples, report.truncated, report.dropped), (256, 2, 1, 1));
    assert_eq!(cut.sample(1).unwrap().tokens.len(), 256);
    assert_eq!(cut.lengths()[1], 256);
    assert!(report.to_string().contains("1 cut to 256 tokens\n1 left out"), "{report}");
    let dropped = open(&paths, DataOptions { drop_long: true, ..DataOptions::default() }).unwrap();
    assert_eq!((dropped.len(), dropped.report().truncated, dropped.report().dropped), (1, 0, 2));
    let short = open(&paths, DataOptions { max_length: Some(40), ..DataOptions::default() }).unwrap();
    assert!(samples(&short).iter().all(|sample| sample.tokens.len() <= 40));
    let error =
        open(&paths, DataOptions { max_length: Some(257), ..DataOptions::default() }).err().unwrap().to_string();
    assert!(error.contains("257") && error.contains("context of 256"), "{error}");
}

#[test]
fn prompts_have_the_right_answer_and_the_other_columns() {
    let heldout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/heldout.jsonl");
    let text = fs::read_to_string(&heldout).unwrap();
    let corpus = Corpus::open_prompts(&[heldout], &DataOptions::default(), demo(), &|_, _| {}).unwrap();
    assert_eq!(corpus.len(), text.lines().count());
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let prompt = corpus.prompt(0).unwrap();
    assert_eq!(prompt.messages, [Message::new("user", first["question"].as_str().unwrap())]);
    assert_eq!(prompt.answer.as_deref(), first["answer"].as_str());
    assert_eq!(Value::Object(prompt.columns), serde_json::json!({"answer": first["answer"]}));
    assert!(prompt.text.ends_with("<|im_start|>assistant\n") && !prompt.thinking, "{}", prompt.text);
    let (_dir, paths) = files(&[(
        "chat.jsonl",
        r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "level": 2}
{"messages": [{"role": "user", "content": "R"}]}"#
            .to_owned(),
    )]);
    let chats = Corpus::open_prompts(&paths, &DataOptions::default(), demo(), &|_, _| {}).unwrap();
    let (answered, open) = (chats.prompt(0).unwrap(), chats.prompt(1).unwrap());
    assert_eq!(
        (answered.messages.len(), answered.answer.as_deref(), answered.columns["level"].as_u64()),
        (1, Some("A"), Some(2))
    );
    assert_eq!((open.messages[0].content.as_str(), open.answer), ("R", None));
}

#[test]
fn a_split_loses_no_sample_and_is_the_seeds() {
    let all: Vec<Sample> = (0..50u32).map(|i| Sample { tokens: vec![i, i + 1], labels: vec![i.into(), 1] }).collect();
    let split = |seed| {
        let (train, eval) = Corpus::of_samples(all.clone()).split(0.1, seed).unwrap();
        (samples(&train), samples(&eval))
    };
    let (train, eval) = split(1);
    assert_eq!((train.len(), eval.len()), (45, 5));
    assert!(all.iter().all(|sample| train.contains(sample) != eval.contains(sample)));
    assert_eq!(split(1), (train, eval.clone()));
    assert_ne!(split(2).1, eval);
    let two = Corpus::of_samples(all[..2].to_vec()).split(0.01, 0).unwrap();
    assert_eq!((two.0.len(), two.1.len()), (1, 1));
    assert!(Corpus::of_samples(all[..1].to_vec()).split(0.5, 0).is_err());
}

#[test]
fn a_file_that_has_changed_is_said() {
    let (_dir, paths) = files(&[("data.jsonl", pair("1", "2"))]);
    let corpus = open(&paths, DataOptions::default()).unwrap();
    fs::write(&paths[0], "{}").unwrap();
    let error = format!("{:#}", corpus.sample(0).unwrap_err());
    assert!(
        error.contains("data.jsonl, line 1, which could be read before") && error.contains("has the file changed"),
        "{error}"
    );
}
