//! Chat templates: a checkpoint's Jinja template, rendered as transformers renders it.

use crate::tokenizer_config::TokenizerConfig;
use anyhow::{Context, Result, anyhow, bail};
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// Instructions that rendering may take. A long conversation takes thousands; a template that loops hits this in about a second.
const FUEL: u64 = 20_000_000;
/// Rendered text that no prompt reaches.
const MAX_TEXT: usize = 64 << 20;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A rendered prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub text: String,
    /// The prompt opened a `<think>` that the answer will close.
    pub thinking: bool,
}

/// A checkpoint's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    tokens: [(&'static str, String); 4],
}

impl ChatTemplate {
    /// Compiles the template of `config`; none when the checkpoint has none.
    pub fn new(config: &TokenizerConfig) -> Result<Option<Self>> {
        let Some(source) = &config.chat_template else { return Ok(None) };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> String { strftime(&format, SystemTime::now()) });
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned("chat", source.clone())
            .map_err(|e| explain(&e))
            .context("the chat template does not compile")?;
        let text = |token: &Option<String>| token.clone().unwrap_or_default();
        let tokens = [
            ("bos_token", text(&config.bos_token)),
            ("eos_token", text(&config.eos_token)),
            ("pad_token", text(&config.pad_token)),
            ("unk_token", text(&config.unk_token)),
        ];
        Ok(Some(Self { environment, source: source.clone(), tokens }))
    }

    /// The prompt for an answer to `messages`. With `think` false a reasoning model is made to answer at once: templates that
    /// know `enable_thinking` (Qwen3's) are told so, and for others that know `</think>` (DeepSeek-R1's) the prompt goes on
    /// with an empty thought. Other templates render as they are.
    pub fn render(&self, messages: &[Message], think: bool) -> Result<Prompt> {
        let mut settings = context! { add_generation_prompt => true };
        if !think {
            settings = context! { enable_thinking => false, ..settings };
        }
        let mut text = self.text(messages, settings)?;
        let opened = text.trim_end().ends_with("<think>");
        if !think && !self.source.contains("enable_thinking") && self.source.contains("</think>") {
            text.push_str(if opened { "\n</think>\n\n" } else { "<think>\n\n</think>\n\n" });
        }
        let thinking = text.trim_end().ends_with("<think>");
        Ok(Prompt { text, thinking })
    }

    /// A conversation that has its answer: as [`Self::render`] without the beginning of a further one.
    pub fn conversation(&self, messages: &[Message]) -> Result<String> {
        self.text(messages, context! { add_generation_prompt => false })
    }

    fn text(&self, messages: &[Message], settings: Value) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(|e| explain(&e))?;
        let [bos, eos, pad, unk] = &self.tokens;
        let settings = context! {
            messages => messages, bos_token => bos.1, eos_token => eos.1, pad_token => pad.1, unk_token => unk.1, ..settings,
        };
        let rendered = template.render(settings);
        let text = rendered.map_err(|e| explain(&e)).context("the chat template cannot render this conversation")?;
        if text.len() > MAX_TEXT {
            bail!("the chat template rendered {} bytes, which is no prompt", text.len());
        }
        Ok(text)
    }
}

/// The message of a template's error, for one who did not write the template.
fn explain(error: &Error) -> anyhow::Error {
    match (error.kind(), error.detail(), error.line()) {
        (ErrorKind::OutOfFuel, _, _) => {
            anyhow!("it took more than {FUEL} steps; it loops, or the conversation is too long for it")
        }
        (_, Some(detail), Some(line)) => anyhow!("{detail} (line {line})"),
        (_, _, Some(line)) => anyhow!("{error} (line {line})"),
        _ => anyhow!("{error}"),
    }
}

/// `tojson` as transformers defines it: Python's spacing, no escapes for HTML, keys as they come.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let json = serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut text = String::new();
    write_json(&json, indent, 0, &mut text);
    Ok(text)
}

fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, text: &mut String) {
    let line = |depth: usize| indent.map_or(String::new(), |width| format!("\n{}", " ".repeat(width * depth)));
    let comma = if indent.is_some() { "," } else { ", " };
    let (open, close, items): (_, _, Vec<(Option<&String>, &serde_json::Value)>) = match value {
        serde_json::Value::Array(list) if !list.is_empty() => {
            ('[', ']', list.iter().map(|item| (None, item)).collect())
        }
        serde_json::Value::Object(map) if !map.is_empty() => {
            ('{', '}', map.iter().map(|(key, item)| (Some(key), item)).collect())
        }
        other => return text.push_str(&other.to_string()),
    };
    text.push(open);
    for (i, (key, item)) in items.into_iter().enumerate() {
        if i > 0 {
            text.push_str(comma);
        }
        text.push_str(&line(depth + 1));
        if let Some(key) = key {
            text.push_str(&format!("{}: ", serde_json::Value::from(key.as_str())));
        }
        write_json(item, indent, depth + 1, text);
    }
    text.push_str(&line(depth));
    text.push(close);
}

/// The date and time of `now` in UTC, by the conversions that templates use.
fn strftime(format: &str, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, weekday) = (MONTHS[month as usize - 1], DAYS[((days + 4) % 7) as usize]);
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => text.push_str(&year.to_string()),
            Some('y') => text.push_str(&format!("{:02}", year % 100)),
            Some('m') => text.push_str(&format!("{month:02}")),
            Some('d') => text.push_str(&format!("{day:02}")),
            Some('B') => text.push_str(month_name),
            Some('b') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(weekday),
            Some('a') => text.push_str(&weekday[..3]),
            Some('H') => text.push_str(&format!("{:02}", time / 3600)),
            Some('M') => text.push_str(&format!("{:02}", time / 60 % 60)),
            Some('S') => text.push_str(&format!("{:02}", time % 60)),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
