//! A JSON object whose keys are taken one by one, so that what is left at the end can be refused by name.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// The fields of one JSON object. Null counts as absent, as it does in transformers.
pub struct Fields {
    map: Map<String, Value>,
    /// Prefix of the keys in messages: empty, or `rope_scaling.`.
    prefix: String,
}

impl Fields {
    /// The top object of a JSON text.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("not valid JSON")?;
        match value {
            Value::Object(map) => Ok(Self { map, prefix: String::new() }),
            other => bail!("the top of the file is {}, wanted an object", kind(&other)),
        }
    }

    /// The object found under `key`.
    pub fn of(value: Value, key: &str) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { map, prefix: format!("{key}.") }),
            other => bail!("{key} is {}, wanted an object", kind(&other)),
        }
    }

    /// Takes the value of `key` out; `None` when absent or null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, key: &str, value: &Value, wanted: &str) -> Result<T> {
        let mut shown = value.to_string();
        if shown.chars().count() > 60 {
            shown = format!("{}…", shown.chars().take(60).collect::<String>());
        }
        bail!("{}{key} is {shown}, wanted {wanted}", self.prefix)
    }

    /// A size from 1 to `most`.
    pub fn size(&mut self, key: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(Some(n)),
            _ if most == usize::MAX => self.wrong(key, &value, "an integer of at least 1"),
            _ => self.wrong(key, &value, &format!("an integer from 1 to {most}")),
        }
    }

    /// A count that may be zero.
    pub fn size_or_zero(&mut self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => self.wrong(key, &value, "an integer of at least 0"),
        }
    }

    /// A size that must be there.
    pub fn want_size(&mut self, key: &str, most: usize) -> Result<usize> {
        let size = self.size(key, most)?;
        size.with_context(|| format!("{}{key} is missing, wanted an integer from 1 to {most}", self.prefix))
    }

    /// A finite number.
    pub fn number(&mut self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => self.wrong(key, &value, "a number"),
        }
    }

    /// A finite number that must be there.
    pub fn want_number(&mut self, key: &str) -> Result<f64> {
        let number = self.number(key)?;
        number.with_context(|| format!("{}{key} is missing, wanted a number", self.prefix))
    }

    pub fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => self.wrong(key, &other, "true or false"),
        }
    }

    pub fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.wrong(key, &other, "a string"),
        }
    }

    /// One token id. Negative ids, which some checkpoints write for "none", count as absent.
    pub fn token(&mut self, key: &str) -> Result<Option<u32>> {
        Ok(self.tokens(key)?.first().copied())
    }

    /// Token ids written as one integer or a list of them.
    pub fn tokens(&mut self, key: &str) -> Result<Vec<u32>> {
        let wanted = "a token id or a list of them";
        let list = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(one) => vec![one],
        };
        let mut ids = Vec::with_capacity(list.len());
        for value in list {
            match value.as_i64() {
                Some(id) if id < 0 => {}
                Some(id) => match u32::try_from(id) {
                    Ok(id) => ids.push(id),
                    Err(_) => return self.wrong(key, &value, wanted),
                },
                None => return self.wrong(key, &value, wanted),
            }
        }
        Ok(ids)
    }

    /// Refuses what is left: keys neither in `harmless` nor in `neutral` with the value that stands there.
    pub fn finish(self, harmless: &[&str], neutral: &[(&str, &str)]) -> Result<()> {
        let mut unknown = Vec::new();
        for (key, value) in &self.map {
            if value.is_null() || harmless.contains(&key.as_str()) {
                continue;
            }
            match neutral.iter().find(|(name, _)| name == key) {
                Some((_, wanted)) if same(value, wanted) => {}
                Some((_, wanted)) => bail!("{}{key} is {value}; only {wanted} is supported", self.prefix),
                None => unknown.push(format!("{}{key}", self.prefix)),
            }
        }
        ensure!(
            unknown.is_empty(),
            "unknown key{} {}: it may change what the model computes, so the checkpoint is not loaded; \
             if it changes nothing at inference, remove it from the file",
            if unknown.len() == 1 { "" } else { "s" },
            unknown.join(", ")
        );
        Ok(())
    }
}

/// Whether a value equals the JSON text `wanted`, `1` and `1.0` being the same number.
fn same(value: &Value, wanted: &str) -> bool {
    match (value.as_f64(), wanted.parse::<f64>()) {
        (Some(a), Ok(b)) => a == b,
        _ => serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *value),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
