//! What a line holds: the formats by their fields, and the one conversation that each becomes.

use anyhow::{Context, Result, bail, ensure};
use npu_engine::Message;
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// A line's fields.
type Fields = Map<String, Value>;

/// What the lines of a file hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenAI's: `messages` of `role` and `content`.
    Messages,
    /// `conversations` of `from` and `value`.
    ShareGpt,
    /// `instruction`, `input`, `output`, and earlier turns in `history`.
    Alpaca,
    /// `prompt` and `completion`, texts or messages.
    Completion,
    /// `prompt` (or `question`), text or messages, with a right answer and further columns for rewards.
    Prompt,
    /// `text`, to be continued anywhere.
    Text,
}

struct Row {
    format: Format,
    name: &'static str,
    /// Fields that a line must have, each with the other names that it may go by.
    wanted: &'static [&'static [&'static str]],
    record: fn(&Fields) -> Result<Record>,
}

/// The names that a right answer goes by.
const ANSWERS: &[&str] = &["answer", "solution", "ground_truth"];
const PROMPTS: &[&str] = &["prompt", "question", "problem"];

/// Every format. A line with the fields of several is the first of them.
const FORMATS: &[Row] = &[
    Row { format: Format::Messages, name: "messages", wanted: &[&["messages"]], record: messages },
    Row { format: Format::ShareGpt, name: "sharegpt", wanted: &[&["conversations"]], record: sharegpt },
    Row { format: Format::Alpaca, name: "alpaca", wanted: &[&["instruction"], &["output"]], record: alpaca },
    Row { format: Format::Completion, name: "completion", wanted: &[&["prompt"], &["completion"]], record: completion },
    Row { format: Format::Prompt, name: "prompt", wanted: &[PROMPTS], record: prompt },
    Row {
        format: Format::Text,
        name: "text",
        wanted: &[&["text"]],
        record: |line| Ok(Record::of_text(text(line, "text")?)),
    },
];

/// A line as a conversation, or as a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record {
    /// The last one is the assistant's where the line has an answer.
    pub messages: Vec<Message>,
    /// In place of messages.
    pub text: Option<String>,
    /// What stands between messages where there is no chat template.
    pub glue: &'static str,
    /// The right answer, for rewards.
    pub answer: Option<String>,
}

impl Record {
    fn of_text(text: String) -> Self {
        Self { text: Some(text), ..Self::default() }
    }

    fn of_turns(messages: Vec<Message>) -> Self {
        Self { messages, glue: "\n", ..Self::default() }
    }

    /// That it ends with an answer, and no answer is empty.
    pub fn check_answers(&self) -> Result<()> {
        if self.text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            bail!("the text is empty")
        }
        let mut answers = self.messages.iter().filter(|message| message.role == "assistant");
        ensure!(answers.all(|answer| !answer.content.trim().is_empty()), "an answer is empty");
        match self.messages.last().map(|message| message.role.as_str()) {
            None | Some("assistant") => Ok(()),
            Some("user") if self.messages.len() == 1 => bail!("there is a prompt and no answer"),
            Some(role) => bail!("the conversation ends with {role}, wanted an answer of the assistant"),
        }
    }

    /// Takes the answer off the conversation, if that ends with one.
    pub fn take_answer(&mut self) -> Option<String> {
        self.messages.pop_if(|message| message.role == "assistant").map(|message| message.content)
    }
}

impl Format {
    /// The format that a line with these fields has.
    pub(super) fn of(line: &Value) -> Result<Self> {
        let fields = object(line)?;
        let known = || FORMATS.iter().map(Row::fields).collect::<Vec<_>>().join("; ");
        let row = FORMATS.iter().find(|row| row.missing(fields).is_none());
        row.map(|row| row.format)
            .with_context(|| format!("its fields ({}) fit no format; wanted one of: {}", names(fields), known()))
    }

    /// What the line says.
    pub(super) fn read(self, line: &Value) -> Result<Record> {
        let (row, fields) = (self.row(), object(line)?);
        if let Some(missing) = row.missing(fields) {
            bail!(
                "{} is missing: the fields are {}, and the format is {}",
                missing.join(" or "),
                names(fields),
                row.fields()
            )
        }
        (row.record)(fields)
    }

    /// What of the line is not the prompt.
    pub(super) fn columns(self, line: &Value) -> Fields {
        let prompt = |name: &str| self.row().wanted[0].contains(&name);
        let fields = line.as_object().into_iter().flatten();
        fields.filter(|(name, _)| !prompt(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn row(self) -> &'static Row {
        let row = FORMATS.iter().find(|row| row.format == self);
        row.unwrap_or_else(|| unreachable!("every format has its row"))
    }
}

impl Row {
    /// The names of a wanted field that the line has not.
    fn missing(&self, fields: &Fields) -> Option<&'static [&'static str]> {
        self.wanted.iter().copied().find(|names| names.iter().all(|name| field(fields, name).is_none()))
    }

    /// As `alpaca (instruction, output)`.
    fn fields(&self) -> String {
        let wanted: Vec<_> = self.wanted.iter().map(|names| names.join("|")).collect();
        format!("{} ({})", self.name, wanted.join(", "))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let row = FORMATS.iter().find(|row| row.name == name);
        let known = || FORMATS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        row.map(|row| row.format).with_context(|| format!("no data format is called {name:?}; there are {}", known()))
    }
}

fn messages(line: &Fields) -> Result<Record> {
    Ok(Record::of_turns(turns(line, "messages")?))
}

fn sharegpt(line: &Fields) -> Result<Record> {
    if field(line, "tools").is_some_and(|tools| !is_blank(tools)) {
        bail!("tools: conversations with tools cannot be learnt yet")
    }
    let mut turns = turns(line, "conversations")?;
    if let Some(system) = optional_text(line, "system")?.filter(|system| !system.is_empty()) {
        turns.insert(0, Message::new("system", &system));
    }
    Ok(Record::of_turns(turns))
}

fn alpaca(line: &Fields) -> Result<Record> {
    let mut turns = Vec::new();
    if let Some(system) = optional_text(line, "system")?.filter(|system| !system.is_empty()) {
        turns.push(Message::new("system", &system));
    }
    for pair in list(line, "history")? {
        let [Value::String(asked), Value::String(answered)] = pair.as_array().map_or(&[][..], Vec::as_slice) else {
            bail!("history has {}, wanted pairs of a question and its answer", shown(pair))
        };
        turns.extend([Message::new("user", asked), Message::new("assistant", answered)]);
    }
    let mut asked = text(line, "instruction")?;
    if let Some(input) = optional_text(line, "input")?.filter(|input| !input.is_empty()) {
        asked = format!("{asked}\n{input}");
    }
    turns.extend([Message::new("user", &asked), Message::new("assistant", &text(line, "output")?)]);
    Ok(Record::of_turns(turns))
}

fn completion(line: &Fields) -> Result<Record> {
    let mut record = asked(line, "prompt")?;
    match field(line, "completion") {
        Some(Value::Array(_)) => record.messages.extend(turns(line, "completion")?),
        _ => record.messages.push(Message::new("assistant", &text(line, "completion")?)),
    }
    Ok(record)
}

fn prompt(line: &Fields) -> Result<Record> {
    let name = PROMPTS.iter().copied().find(|name| field(line, name).is_some()).unwrap_or(PROMPTS[0]);
    let mut record = asked(line, name)?;
    record.answer = ANSWERS.iter().find_map(|name| field(line, name)).map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    if let Some(answer) = &record.answer {
        record.messages.push(Message::new("assistant", answer));
    }
    Ok(record)
}

/// A prompt, which is a text or messages.
fn asked(line: &Fields, name: &str) -> Result<Record> {
    match field(line, name) {
        Some(Value::Array(_)) => Ok(Record::of_turns(turns(line, name)?)),
        _ => Ok(Record { messages: vec![Message::new("user", &text(line, name)?)], ..Record::default() }),
    }
}

/// The messages of a list, by either pair of names.
fn turns(line: &Fields, name: &str) -> Result<Vec<Message>> {
    let list = list(line, name)?;
    ensure!(!list.is_empty(), "{name} is empty");
    let turn = |(i, turn)| message(turn).with_context(|| format!("{name}[{i}]"));
    list.iter().enumerate().map(turn).collect()
}

fn message(turn: &Value) -> Result<Message> {
    let turn = object(turn)?;
    let known = ["role", "from", "content", "value", "reasoning_content", "name", "weight"];
    if let Some((name, _)) = turn.iter().find(|(name, value)| !known.contains(&name.as_str()) && !is_blank(value)) {
        bail!("the field {name} cannot be learnt; wanted role and content, or from and value")
    }
    let role = optional_text(turn, "role")?.or(optional_text(turn, "from")?);
    let role = match role.context("it has no role (or from)")?.as_str() {
        "system" | "developer" => "system",
        "user" | "human" => "user",
        "assistant" | "gpt" | "model" => "assistant",
        tool @ ("tool" | "function" | "function_call" | "observation") => {
            bail!("the role {tool:?} belongs to tools, which cannot be learnt yet")
        }
        other => bail!("the role {other:?} is unknown; wanted system, user (human) or assistant (gpt)"),
    };
    if field(turn, "weight").is_some_and(|weight| weight.as_f64() != Some(1.)) {
        bail!("weight is {}: turns cannot be weighed yet", shown(&turn["weight"]))
    }
    let name = if turn.contains_key("content") { "content" } else { "value" };
    let content = match field(turn, name) {
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<Result<String>>()?,
        _ => text(turn, name)?,
    };
    Ok(match optional_text(turn, "reasoning_content")?.filter(|thought| !thought.is_empty()) {
        Some(thought) => Message::new(role, &format!("<think>\n{thought}\n</think>\n\n{content}")),
        None => Message::new(role, &content),
    })
}

/// A part of a content that is a list.
fn part(part: &Value) -> Result<String> {
    match object(part)?.get("type").and_then(Value::as_str) {
        Some("text") => text(object(part)?, "text"),
        other => bail!("a part of type {} is no text", other.unwrap_or("(none)")),
    }
}

fn object(value: &Value) -> Result<&Fields> {
    value.as_object().with_context(|| format!("{} is no object of fields", shown(value)))
}

/// A field that is there: null is how tables say that it is not.
fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn optional_text(fields: &Fields, name: &str) -> Result<Option<String>> {
    match field(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => bail!("{name} is {}, wanted text", shown(other)),
    }
}

fn text(fields: &Fields, name: &str) -> Result<String> {
    optional_text(fields, name)?.with_context(|| format!("{name} is missing: the fields are {}", names(fields)))
}

/// A list, empty if the field is not there.
fn list<'a>(fields: &'a Fields, name: &str) -> Result<&'a [Value]> {
    match field(fields, name) {
        None => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(other) => bail!("{name} is {}, wanted a list", shown(other)),
    }
}

/// Whether a field says nothing.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() || text == "[]",
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn names(fields: &Fields) -> String {
    if fields.is_empty() { "none".into() } else { fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ") }
}

/// The beginning of a value, for people.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
