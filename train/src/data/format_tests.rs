//! Tests of the formats: what each becomes, and what is said of lines that fit none.

use super::*;
use serde_json::json;

fn read(line: Value) -> Result<Record> {
    Format::of(&line)?.read(&line)
}

/// Roles by their first letters, and contents.
fn turns(line: Value) -> Vec<(char, String)> {
    let record = read(line).unwrap();
    record.messages.iter().map(|m| (m.role.chars().next().unwrap_or('?'), m.content.clone())).collect()
}

fn pairs<const N: usize>(wanted: [(char, &str); N]) -> Vec<(char, String)> {
    wanted.into_iter().map(|(role, content)| (role, content.to_owned())).collect()
}

#[test]
fn every_format_is_recognised_and_becomes_a_conversation() {
    let messages = json!({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "Q"}]},
        {"role": "assistant", "content": "A", "reasoning_content": "T", "tool_calls": null}], "id": 7});
    assert_eq!(turns(messages), pairs([('s', "S"), ('u', "Q"), ('a', "<think>\nT\n</think>\n\nA")]));
    let sharegpt = json!({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S", "tools": "[]"});
    assert_eq!(turns(sharegpt), pairs([('s', "S"), ('u', "Q"), ('a', "A")]));
    let alpaca = json!({"instruction": "I", "input": "x", "output": "O", "system": "", "history": [["q", "a"]]});
    assert_eq!(turns(alpaca), pairs([('u', "q"), ('a', "a"), ('u', "I\nx"), ('a', "O")]));
    let alpaca = json!({"instruction": "I", "input": "", "output": "O", "history": null});
    assert_eq!(turns(alpaca), pairs([('u', "I"), ('a', "O")]));
    assert_eq!(turns(json!({"prompt": "P", "completion": "C"})), pairs([('u', "P"), ('a', "C")]));
    let both =
        json!({"prompt": [{"role": "user", "content": "P"}], "completion": [{"role": "assistant", "content": "C"}]});
    assert_eq!(turns(both), pairs([('u', "P"), ('a', "C")]));
    assert_eq!(turns(json!({"question": "P", "answer": 12})), pairs([('u', "P"), ('a', "12")]));
    let record = read(json!({"prompt": "P", "ground_truth": "x = 1"})).unwrap();
    assert_eq!(record.answer.as_deref(), Some("x = 1"));
    assert_eq!(read(json!({"text": "T", "meta": 1})).unwrap().text.as_deref(), Some("T"));
}

#[test]
fn columns_are_all_but_the_prompt() {
    let line = json!({"question": "Q", "answer": "5", "level": 3});
    assert_eq!(Value::Object(Format::of(&line).unwrap().columns(&line)), json!({"answer": "5", "level": 3}));
}

#[test]
fn names_are_those_of_the_table() {
    for row in FORMATS {
        assert_eq!(row.name.parse::<Format>().unwrap(), row.format);
        assert_eq!(row.format.to_string(), row.name);
    }
    let error = "jsonl".parse::<Format>().unwrap_err().to_string();
    assert!(
        error.contains("\"jsonl\"") && error.contains("messages, sharegpt, alpaca, completion, prompt, text"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_learnt_is_named() {
    let turn = |turn: Value| json!({"messages": [{"role": "user", "content": "Q"}, turn]});
    for (line, says) in [
        (json!({"a": 1, "b": 2}), "its fields (a, b) fit no format; wanted one of: messages (messages); sharegpt"),
        (json!([1]), "[1] is no object"),
        (json!({"instruction": 3, "output": "O"}), "instruction is 3, wanted text"),
        (json!({"instruction": "I", "output": "O", "history": [["q"]]}), "history has [\"q\"], wanted pairs"),
        (json!({"conversations": [{"from": "human", "value": "Q"}], "tools": "[{}]"}), "tools"),
        (json!({"messages": "Q"}), "messages is \"Q\", wanted a list"),
        (json!({"messages": []}), "messages is empty"),
        (turn(json!({"content": "A"})), "messages[1]: it has no role"),
        (turn(json!({"role": "bot", "content": "A"})), "messages[1]: the role \"bot\" is unknown"),
        (turn(json!({"role": "tool", "content": "A"})), "belongs to tools"),
        (turn(json!({"role": "assistant", "content": null})), "content is missing"),
        (turn(json!({"role": "assistant", "content": "", "tool_calls": [{}]})), "the field tool_calls"),
        (turn(json!({"role": "assistant", "content": "A", "weight": 0})), "weight is 0"),
        (turn(json!({"role": "user", "content": [{"type": "image_url"}]})), "a part of type image_url is no text"),
        (json!({"prompt": {"q": 1}, "answer": "A"}), "prompt is {\"q\":1}, wanted text"),
    ] {
        let error = format!("{:#}", read(line.clone()).expect_err(&line.to_string()));
        assert!(error.contains(says), "{line}: {error}");
    }
    let other = Format::Alpaca.read(&json!({"text": "T"})).unwrap_err().to_string();
    assert!(
        other.contains("instruction is missing: the fields are text, and the format is alpaca (instruction, output)"),
        "{other}"
    );
}

#[test]
fn lines_to_learn_from_end_with_an_answer() {
    let check = |line: Value| read(line.clone()).and_then(|record| record.check_answers()).map_err(|e| e.to_string());
    let messages = |roles: &[(&str, &str)]| {
        let turns: Vec<_> = roles.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        json!({ "messages": turns })
    };
    assert_eq!(check(messages(&[("user", "Q"), ("assistant", "A")])), Ok(()));
    assert_eq!(check(messages(&[("user", "Q"), ("assistant", " \n")])), Err("an answer is empty".into()));
    assert_eq!(check(json!({"instruction": "I", "output": ""})), Err("an answer is empty".into()));
    assert_eq!(check(json!({"text": "  "})), Err("the text is empty".into()));
    assert_eq!(check(json!({"prompt": "P"})), Err("there is a prompt and no answer".into()));
    let open = check(messages(&[("user", "Q"), ("assistant", "A"), ("user", "Q")]));
    assert_eq!(open, Err("the conversation ends with user, wanted an answer of the assistant".into()));
}
