//! The samples of some files, by number.

use super::encode::Encoder;
use super::format::{Format, Record};
use super::report::DataReport;
use super::source::Source;
use super::{DataOptions, plan};
use crate::Sample;
use anyhow::{Context, Result, anyhow, ensure};
use npu_engine::Message;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// Where TRL cuts samples unless it is told otherwise.
const DEFAULT_LENGTH: usize = 1024;
/// Records that are looked at between two reports of progress; the next ones wait for the slowest of them.
const BLOCK: usize = 512;

/// A question to be answered, and what is known of the right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub messages: Vec<Message>,
    pub tokens: Vec<u32>,
    /// What the tokens stand for.
    pub text: String,
    /// The prompt opened a `<think>` that the answer will close.
    pub thinking: bool,
    /// The right answer, if the line has one.
    pub answer: Option<String>,
    /// The line's fields but for the prompt, for rewards.
    pub columns: Map<String, Value>,
}

/// Samples by number. Clones share the files.
#[derive(Clone)]
pub struct Corpus {
    origin: Arc<Origin>,
    places: Vec<Place>,
    /// Tokens of each sample.
    lengths: Vec<u32>,
    report: Arc<DataReport>,
}

/// Where samples come from.
enum Origin {
    Files(Files),
    Memory(Vec<Sample>),
}

struct Files {
    files: Vec<(Source, Format)>,
    encoder: Arc<Encoder>,
    options: DataOptions,
    max_length: usize,
    prompts: bool,
}

/// A record of a file.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    file: u32,
    record: u32,
}

/// What became of a record.
struct Outcome {
    /// None where it is left out.
    length: Option<u32>,
    targets: u64,
    truncated: bool,
    last_only: bool,
    joined: bool,
}

impl Corpus {
    /// The conversations and texts of `files`. Every line is looked at; `progress` hears how many of all have been.
    pub fn open(
        files: &[PathBuf],
        options: &DataOptions,
        encoder: Arc<Encoder>,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        Self::of_files(files, options, encoder, false, progress)
    }

    /// As [`Self::open`], for [`Self::prompt`] alone: lines need no answer. Prompts that are too long are left out, never cut.
    pub fn open_prompts(
        files: &[PathBuf],
        options: &DataOptions,
        encoder: Arc<Encoder>,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        Self::of_files(files, options, encoder, true, progress)
    }

    /// Samples that are there already.
    pub fn of_samples(samples: Vec<Sample>) -> Self {
        let lengths: Vec<_> = samples.iter().map(|sample| sample.tokens.len() as u32).collect();
        let report = DataReport {
            samples: samples.len(),
            tokens: lengths.iter().map(|length| u64::from(*length)).sum(),
            targets: samples.iter().map(|sample| sample.targets() as u64).sum(),
            ..DataReport::default()
        };
        let places = (0..samples.len() as u32).map(|record| Place { file: 0, record }).collect();
        Self { origin: Arc::new(Origin::Memory(samples)), places, lengths, report: Arc::new(report) }
    }

    fn of_files(
        paths: &[PathBuf],
        options: &DataOptions,
        encoder: Arc<Encoder>,
        prompts: bool,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        ensure!(!paths.is_empty(), "no data files are given");
        let context = encoder.context();
        let max_length = options.max_length.unwrap_or(DEFAULT_LENGTH.min(context));
        ensure!(
            (2..=context).contains(&max_length),
            "a longest sample of {max_length} tokens, wanted 2 to the model's context of {context}"
        );
        let open = |path: &PathBuf| -> Result<_> {
            let source = Source::open(path)?;
            let format = format_of(&source, options)?;
            Ok((source, format))
        };
        let files = paths.iter().map(open).collect::<Result<Vec<_>>>()?;
        let files = Files { files, encoder, options: options.clone(), max_length, prompts };
        let (places, lengths, report) = files.survey(progress)?;
        Ok(Self { origin: Arc::new(Origin::Files(files)), places, lengths, report: Arc::new(report) })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Tokens of each sample.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// What the files came to; that of all of them also after [`Self::split`].
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// Sample `index`, read and tokenised now.
    pub fn sample(&self, index: usize) -> Result<Sample> {
        let place = self.place(index)?;
        match &*self.origin {
            Origin::Memory(samples) => Ok(samples[place.record as usize].clone()),
            Origin::Files(files) => files.at(place, || files.sample(place)),
        }
    }

    /// What sample `index` asks.
    pub fn prompt(&self, index: usize) -> Result<Prompt> {
        let place = self.place(index)?;
        let Origin::Files(files) = &*self.origin else { return Err(anyhow!("samples in memory have no prompts")) };
        files.at(place, || files.prompt(place))
    }

    /// The samples without a share of them, and that share, which `seed` chooses: at least one each.
    pub fn split(self, share: f64, seed: u64) -> Result<(Self, Self)> {
        let len = self.len();
        ensure!(share > 0. && share < 1., "a share of {share} for evaluation, wanted one between 0 and 1");
        ensure!(len >= 2, "{len} samples cannot be split");
        let count = ((len as f64 * share).round() as usize).clamp(1, len - 1);
        let mut held_out = vec![false; len];
        plan::shuffled(len, seed, 0)[..count].iter().for_each(|&i| held_out[i as usize] = true);
        let part = |wanted: bool| {
            let chosen = |i: &usize| held_out[*i] == wanted;
            Self {
                places: (0..len).filter(chosen).map(|i| self.places[i]).collect(),
                lengths: (0..len).filter(chosen).map(|i| self.lengths[i]).collect(),
                ..self.clone()
            }
        };
        Ok((part(false), part(true)))
    }

    fn place(&self, index: usize) -> Result<Place> {
        self.places.get(index).copied().with_context(|| format!("sample {index} of {}", self.len()))
    }
}

/// The format that was told, or that of the first record which is JSON.
fn format_of(source: &Source, options: &DataOptions) -> Result<Format> {
    if let Some(format) = options.format {
        return Ok(format);
    }
    for index in 0..source.len() {
        match source.read(index) {
            Ok(line) => return Format::of(&line).with_context(|| source.place(index)),
            Err(_) if options.skip_bad_lines => {}
            Err(error) => return Err(error.context(source.place(index))),
        }
    }
    Err(anyhow!("none of the {} records is JSON", source.len())).with_context(|| source.place(0))
}

impl Files {
    /// Looks at every record.
    fn survey(&self, progress: &dyn Fn(usize, usize)) -> Result<(Vec<Place>, Vec<u32>, DataReport)> {
        let total: usize = self.files.iter().map(|(source, _)| source.len()).sum();
        let mut report = DataReport { max_length: self.max_length, ..DataReport::default() };
        let (mut places, mut lengths) = (Vec::new(), Vec::new());
        let mut done = 0;
        for (file, (source, _)) in self.files.iter().enumerate() {
            for start in (0..source.len()).step_by(BLOCK) {
                let records: Vec<_> = (start..source.len().min(start + BLOCK)).collect();
                let place = |record: usize| Place { file: file as u32, record: record as u32 };
                let outcomes: Vec<_> = records.par_iter().map(|&record| self.look(place(record))).collect();
                done += records.len();
                for (record, outcome) in records.into_iter().zip(outcomes) {
                    match outcome.with_context(|| source.place(record)) {
                        Ok(outcome) => {
                            if let Some(length) = report.count(&outcome) {
                                places.push(place(record));
                                lengths.push(length);
                            }
                        }
                        Err(error) if self.options.skip_bad_lines => report.skip(&error),
                        Err(error) => {
                            return Err(anyhow!("{error:#} (--skip-bad-lines leaves out what cannot be used)"));
                        }
                    }
                }
                progress(done, total);
            }
        }
        ensure!(!places.is_empty(), "no sample is left: {report}");
        Ok((places, lengths, report))
    }

    fn look(&self, place: Place) -> Result<Outcome> {
        if self.prompts {
            let tokens = self.prompt(place)?.tokens.len();
            let length = Some(tokens as u32).filter(|_| tokens < self.max_length);
            return Ok(Outcome { length, targets: 0, truncated: false, last_only: false, joined: false });
        }
        let mut encoded = self.encoder.encode(&self.record(place)?, &self.options)?;
        let long = encoded.sample.tokens.len() > self.max_length;
        self.cut(&mut encoded.sample);
        let targets = encoded.sample.targets();
        let length = Some(encoded.sample.tokens.len() as u32);
        Ok(Outcome {
            length: length.filter(|_| targets > 0 && !(long && self.options.drop_long)),
            targets: targets as u64,
            truncated: long,
            last_only: encoded.last_only,
            joined: encoded.joined,
        })
    }

    fn cut(&self, sample: &mut Sample) {
        sample.tokens.truncate(self.max_length);
        sample.labels.truncate(self.max_length);
    }

    fn sample(&self, place: Place) -> Result<Sample> {
        let mut sample = self.encoder.encode(&self.record(place)?, &self.options)?.sample;
        self.cut(&mut sample);
        Ok(sample)
    }

    fn record(&self, place: Place) -> Result<Record> {
        let (source, format) = &self.files[place.file as usize];
        let record = format.read(&source.read(place.record as usize)?)?;
        record.check_answers()?;
        Ok(record)
    }

    fn prompt(&self, place: Place) -> Result<Prompt> {
        let (source, format) = &self.files[place.file as usize];
        let line = source.read(place.record as usize)?;
        let mut record = format.read(&line)?;
        let last = record.take_answer();
        let asked = self.encoder.asked(&record, &self.options)?;
        Ok(Prompt {
            messages: record.messages,
            tokens: asked.tokens,
            text: asked.text,
            thinking: asked.thinking,
            answer: record.answer.or(last),
            columns: format.columns(&line),
        })
    }

    /// `read` of a record that was looked at before.
    fn at<T>(&self, place: Place, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let (source, _) = &self.files[place.file as usize];
        read().with_context(|| format!("{}, which could be read before", source.place(place.record as usize)))
    }
}

impl DataReport {
    /// Counts a record; the tokens of its sample, unless it is left out.
    fn count(&mut self, outcome: &Outcome) -> Option<u32> {
        let Some(length) = outcome.length else {
            self.dropped += 1;
            return None;
        };
        self.samples += 1;
        self.tokens += u64::from(length);
        self.targets += outcome.targets;
        self.truncated += usize::from(outcome.truncated);
        self.last_only += usize::from(outcome.last_only);
        self.joined += usize::from(outcome.joined);
        Some(length)
    }
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
