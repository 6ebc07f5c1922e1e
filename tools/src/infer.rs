//! `npu-run infer`: a prompt in, streamed text out.

use crate::cli::InferArgs;
use crate::device::{self, Opened};
use crate::experts::ExpertLoad;
use crate::model::{self, Folder};
use crate::modelled::{self, Recording};
use crate::{progress, report};
use anyhow::{Context, Result, bail};
use npu_engine::{
    EncodedPrompt, GenerateOptions, Generation, Generator, Message, SamplingOptions, Segment, StopReason, ThinkParser,
};
use serde::Serialize;
use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    model: String,
    device: &'a str,
    dtype: &'a str,
    prompt: &'a str,
    #[serde(flatten)]
    generation: &'a Generation,
    /// With `--stats`, of models that have experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<ExpertLoad>,
}

/// Exit code of a program that was interrupted, as shells count it.
const INTERRUPTED: u8 = 130;

pub fn run(args: &InferArgs) -> Result<ExitCode> {
    let prompt = prompt(args)?;
    let folder = Folder::of(&args.model)?;
    let Opened { device, line, simulated } = device::open(&args.device)?;
    modelled::only_simulated(simulated, &[("--timeline", args.timeline.is_some())])?;
    let dtype = model::dtype(&args.model, &folder, &device)?;
    if !args.json {
        eprintln!("{}", report::dimmed(&format!("{} on {line}, {}", folder.name(), dtype.as_str())));
        if let Some(line) = model::widened(&folder, &device, dtype)? {
            eprintln!("{}", report::dimmed(&line));
        }
    }
    let bar = progress::bytes("loading", args.json);
    let generator = Generator::of(folder.path(), &device, || {
        model::load(&args.model, &folder, dtype, &device, &|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
    })?;
    bar.finish_and_clear();
    report::notes(&generator.load_stats().notes, args.json);
    let model = generator.model();
    if args.stats && model.config().moe.is_none() {
        modelled::only_simulated(simulated, &[("--stats", true)])?;
    }

    let encoded = encode(args, &generator, &prompt)?;
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling: sampling(args, &generator),
        ignore_eos: false,
        enforce_eager: args.enforce_eager,
    };
    let abort = on_interrupt()?;
    let mut screen = Screen::new(encoded.thinking, args.json);
    if args.stats {
        model.count_expert_tokens()?;
    }
    let recording = (simulated && (args.stats || args.timeline.is_some())).then(Recording::start);
    let generation = generator.generate(&encoded.tokens, &options, &abort, &mut |piece| screen.show(piece))?;
    screen.finish()?;
    if let Some(recording) = recording {
        let tasks = recording.finish();
        args.timeline.as_deref().map(|path| tasks.write(path)).transpose()?;
        if args.stats {
            eprint!("{}", tasks.by_operator());
        }
    }
    let experts = if args.stats { ExpertLoad::of(model.expert_tokens()?) } else { None };
    if let Some(experts) = experts.as_ref().filter(|_| !args.json) {
        eprint!("{experts}");
    }
    if args.json {
        let model = folder.name();
        report::json(&Report {
            model,
            device: &line,
            dtype: dtype.as_str(),
            prompt: &encoded.text,
            generation: &generation,
            experts,
        })?;
    } else {
        eprintln!("{}", report::dimmed(&format!("{}{}", generation.stats, ending(generation.stop))));
    }
    Ok(if generation.stop == StopReason::Aborted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Says why an answer is not complete; nothing where it is.
fn ending(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Eos => "",
        StopReason::MaxTokens => " · cut at --max-tokens",
        StopReason::Context => " · cut: the context is full",
        StopReason::Aborted => " · interrupted",
    }
}

/// The prompt of the command line, or standard input.
fn prompt(args: &InferArgs) -> Result<String> {
    if let Some(prompt) = args.prompt.as_ref().filter(|prompt| *prompt != "-") {
        return Ok(prompt.clone());
    }
    if std::io::stdin().is_terminal() {
        eprintln!("{}", report::dimmed("type a prompt, then end it with Ctrl-D"));
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("reading the prompt from standard input")?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("the prompt on standard input is not UTF-8: byte {at} does not belong there; convert it first, for instance with iconv")
    })?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        bail!("there is no prompt: give one as an argument or on standard input");
    }
    Ok(text.to_owned())
}

fn encode(args: &InferArgs, generator: &Generator, prompt: &str) -> Result<EncodedPrompt> {
    if args.raw || (!args.chat && !generator.has_chat_template()) {
        if args.system.is_some() || args.no_think {
            bail!("--system and --no-think need a chat template, and this checkpoint has none");
        }
        return generator.raw(prompt);
    }
    let system = args.system.iter().map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
    generator.chat(&messages, !args.no_think)
}

/// The checkpoint's own sampling with what the command line says instead.
fn sampling(args: &InferArgs, generator: &Generator) -> SamplingOptions {
    let own = generator.default_sampling();
    SamplingOptions {
        temperature: args.temperature.unwrap_or(own.temperature),
        top_k: args.top_k.unwrap_or(own.top_k),
        top_p: args.top_p.unwrap_or(own.top_p),
        min_p: args.min_p.unwrap_or(own.min_p),
        repetition_penalty: args.repetition_penalty.unwrap_or(own.repetition_penalty),
        seed: args.seed,
    }
}

/// Ctrl-C ends the generation after the current token; a second one ends the program.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let abort = Arc::new(AtomicBool::new(false));
    let flag = abort.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    })
    .context("listening for Ctrl-C")?;
    Ok(abort)
}

/// Streams the answer: the `<think>` part dimmed on a terminal, nothing at all for `--json`.
struct Screen {
    parser: Option<ThinkParser>,
    colours: bool,
}

impl Screen {
    fn new(thinking: bool, silent: bool) -> Self {
        Self { parser: (!silent).then(|| ThinkParser::new(thinking)), colours: std::io::stdout().is_terminal() }
    }

    fn show(&mut self, piece: &str) -> Result<()> {
        let segments = self.parser.as_mut().map(|parser| parser.push(piece)).unwrap_or_default();
        self.print(&segments)
    }

    fn finish(&mut self) -> Result<()> {
        let Some(parser) = self.parser.take() else { return Ok(()) };
        self.print(&parser.finish())?;
        println!();
        Ok(())
    }

    fn print(&self, segments: &[Segment]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for segment in segments {
            match segment {
                Segment::Thought(text) if self.colours => write!(out, "\x1b[2m{text}\x1b[0m")?,
                Segment::Thought(text) | Segment::Answer(text) => write!(out, "{text}")?,
            }
        }
        Ok(out.flush()?)
    }
}
