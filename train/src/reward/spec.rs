//! The rewards of a run: named on the command line, each with a weight, and added up.

use super::{Accuracy, Answer, Format, Length, Program, Repetition, Reward, RewardModel};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::{DType, Device};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A reward as the command line names it.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardSpec {
    pub kind: Kind,
    /// What its value is multiplied by before all are added up.
    pub weight: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Accuracy,
    Format,
    /// The longest completion, and over how many tokens before it the punishment grows; those of the run without.
    Length(Option<(usize, usize)>),
    Repetition(usize, f64),
    Model(PathBuf),
    Program(String),
}

impl RewardSpec {
    /// `NAME`, `NAME=PARAMETERS`, a folder with a reward model, or else a program; each with `:WEIGHT` behind it or without.
    ///
    /// Names are `accuracy`, `format`, `length` or `length=MAX,CACHE`, and `repetition` or `repetition=SIZE,PENALTY`; TRL's
    /// names for the same are understood.
    pub fn parse(text: &str) -> Result<Self> {
        let weighted =
            text.rsplit_once(':').and_then(|(rest, weight)| Some((rest, weight.trim().parse::<f64>().ok()?)));
        let (what, weight) = weighted.unwrap_or((text, 1.));
        ensure!(weight.is_finite(), "--reward {text}: the weight {weight} is not a finite number");
        let (name, parameters) = match what.split_once('=') {
            Some((name, parameters)) => (name.trim(), Some(parameters)),
            None => (what.trim(), None),
        };
        let two = |wanted: &str| -> Result<Option<(f64, f64)>> {
            let Some(parameters) = parameters else { return Ok(None) };
            let pair =
                parameters.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
            pair.map(Some).with_context(|| format!("--reward {text}: wanted {name}={wanted}, two numbers"))
        };
        let kind = match name {
            "accuracy" | "accuracy_reward" | "reasoning_accuracy_reward" if parameters.is_none() => Kind::Accuracy,
            "format" | "think_format_reward" if parameters.is_none() => Kind::Format,
            "length" | "soft_overlong_punishment" | "get_soft_overlong_punishment" => {
                Kind::Length(two("MAX,CACHE")?.map(|(max, cache)| (max as usize, cache as usize)))
            }
            "repetition" | "repetition_penalty_reward" | "get_repetition_penalty_reward" => {
                let (size, penalty) = two("SIZE,PENALTY")?.unwrap_or((3., -1.));
                Kind::Repetition(size as usize, penalty)
            }
            "" => bail!(
                "--reward {text:?} names nothing; give accuracy, format, length, repetition, a folder or a program"
            ),
            _ if RewardModel::is_at(Path::new(what)) => Kind::Model(what.into()),
            _ => Kind::Program(what.trim().to_owned()),
        };
        Ok(Self { kind, weight })
    }

    /// As metrics call it, `rewards/<name>/mean`.
    fn name(&self) -> String {
        let stem = |path: &str| Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        match &self.kind {
            Kind::Accuracy => "accuracy".into(),
            Kind::Format => "format".into(),
            Kind::Length(_) => "length".into(),
            Kind::Repetition(..) => "repetition".into(),
            Kind::Model(folder) => {
                folder.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned())
            }
            // The script rather than what interprets it.
            Kind::Program(command) => {
                let words = || command.split_whitespace().filter(|word| !word.starts_with('-'));
                let script = words().find(|word| Path::new(word).extension().is_some()).or_else(|| words().next());
                script.and_then(stem).unwrap_or_else(|| "program".into())
            }
        }
    }

    fn open(&self, run: &RewardRun) -> Result<Box<dyn Reward>> {
        Ok(match &self.kind {
            Kind::Accuracy => Box::new(Accuracy),
            Kind::Format => Box::new(Format),
            Kind::Length(bounds) => {
                let (max, cache) = bounds.unwrap_or((run.max_completion_length, run.max_completion_length / 4));
                Box::new(Length::new(max, cache)?)
            }
            Kind::Repetition(size, penalty) => Box::new(Repetition::new(*size, *penalty)?),
            Kind::Model(folder) => Box::new(RewardModel::load(folder, run.dtype, &run.device)?),
            Kind::Program(command) => Box::new(Program::start(command, run.timeout)?),
        })
    }
}

/// What of a run its rewards need to know.
#[derive(Clone, Debug)]
pub struct RewardRun {
    pub max_completion_length: usize,
    /// Of a program's answer to one completion.
    pub timeout: Duration,
    /// What reward models compute in, and where.
    pub dtype: DType,
    pub device: Device,
}

struct Named {
    name: String,
    weight: f64,
    reward: Box<dyn Reward>,
}

/// The rewards of a run.
pub struct Rewards(Vec<Named>);

/// What some completions are worth.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// For each reward the value that it gave each completion.
    pub each: Vec<Vec<Option<f64>>>,
    /// For each completion the sum of the values by their weights, without those that were not given.
    pub sums: Vec<f64>,
}

impl Rewards {
    /// Opens each of `specs`: loads reward models, starts programs.
    pub fn open(specs: &[RewardSpec], run: &RewardRun) -> Result<Self> {
        ensure!(!specs.is_empty(), "there is no reward; give at least one --reward");
        let mut named: Vec<Named> = Vec::new();
        for spec in specs {
            let (mut name, reward) = (spec.name(), spec.open(run)?);
            let same = named.iter().filter(|other| other.name == name).count();
            if same > 0 {
                name = format!("{name}_{}", named.len());
            }
            named.push(Named { name, weight: spec.weight, reward });
        }
        Ok(Self(named))
    }

    /// Rewards that a program brings itself, each with its name and weight.
    pub fn of(rewards: Vec<(String, f64, Box<dyn Reward>)>) -> Self {
        Self(rewards.into_iter().map(|(name, weight, reward)| Named { name, weight, reward }).collect())
    }

    /// The rewards' names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|named| named.name.as_str())
    }

    /// Judges `answers` by every reward.
    pub fn score(&mut self, answers: &[Answer<'_>]) -> Result<Scores> {
        let mut scores = Scores { each: Vec::with_capacity(self.0.len()), sums: vec![0.; answers.len()] };
        for Named { name, weight, reward } in &mut self.0 {
            let values = reward.score(answers)?;
            ensure!(
                values.len() == answers.len(),
                "the reward {name} judged {} of {} completions",
                values.len(),
                answers.len()
            );
            for (sum, value) in scores.sums.iter_mut().zip(&values) {
                *sum += value.map_or(0., |value| value * *weight);
            }
            scores.each.push(values);
        }
        // As in TRL a completion that no reward says anything of is worth nothing, which is worth a word.
        let silent = (0..answers.len()).find(|&i| scores.each.iter().all(|values| values[i].is_none()));
        if let Some(silent) = silent {
            bail!(
                "no reward has anything to say of {}; with the reward accuracy each prompt needs an answer (the columns \
                 answer, solution or ground_truth)",
                answers[silent].named()
            );
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::prompt;
    use super::*;

    fn run() -> RewardRun {
        let timeout = Duration::from_secs(60);
        RewardRun { max_completion_length: 8, timeout, dtype: DType::F32, device: Device::Cpu }
    }

    #[test]
    fn a_reward_is_a_name_a_folder_or_a_program_with_a_weight_or_without() {
        let parse =
            |text: &str| RewardSpec::parse(text).map(|spec| (spec.kind.clone(), spec.weight, spec.name())).unwrap();
        assert_eq!(parse("accuracy"), (Kind::Accuracy, 1., "accuracy".into()));
        assert_eq!(parse("think_format_reward:0.2"), (Kind::Format, 0.2, "format".into()));
        assert_eq!(parse("length"), (Kind::Length(None), 1., "length".into()));
        assert_eq!(parse("length=256,64:-2"), (Kind::Length(Some((256, 64))), -2., "length".into()));
        assert_eq!(parse("repetition=4,-0.5").0, Kind::Repetition(4, -0.5));
        assert_eq!(parse("repetition").0, Kind::Repetition(3, -1.));
        let program = |command: &str| Kind::Program(command.into());
        assert_eq!(parse("python3 my_reward.py"), (program("python3 my_reward.py"), 1., "my_reward".into()));
        assert_eq!(parse("python3 -u a/b.py --x=1:0.5"), (program("python3 -u a/b.py --x=1"), 0.5, "b".into()));
        assert_eq!(parse("./judge"), (program("./judge"), 1., "judge".into()));
        // A port is no weight where a word follows it.
        assert_eq!(parse("judge --at host:80/x").0, program("judge --at host:80/x"));
        for (text, says) in [
            ("length=5", "two numbers"),
            ("", "names nothing"),
            ("accuracy:inf", "finite"),
            ("length=a,b", "two numbers"),
        ] {
            let error = format!("{:#}", RewardSpec::parse(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let spec = RewardSpec::parse(&format!("{}:3", dir.path().display())).unwrap();
        assert_eq!((spec.kind, spec.weight), (Kind::Model(dir.path().into()), 3.));
    }

    #[test]
    fn values_are_added_up_by_weight_and_what_is_not_said_is_left_out() {
        let specs = ["accuracy:2", "length=1,0:0.5", "while read -r x; do echo null; done"];
        let specs: Vec<_> = specs.iter().map(|text| RewardSpec::parse(text).unwrap()).collect();
        let mut rewards = Rewards::open(&specs, &run()).unwrap();
        assert_eq!(rewards.names().take(2).collect::<Vec<_>>(), ["accuracy", "length"]);
        let prompt = prompt(Some("7"));
        let answer = |index, text, tokens| Answer { index, prompt: &prompt, text, tokens };
        let scores = rewards.score(&[answer(0, "7", &[1, 2]), answer(1, "8", &[1])]).unwrap();
        assert_eq!(scores.each, [[Some(1.), Some(0.)], [Some(-1.), Some(0.)], [None, None]]);
        assert_eq!(scores.sums, [1.5, 0.]);
    }

    #[test]
    fn a_prompt_that_nothing_can_judge_is_named() {
        let mut rewards = Rewards::open(&[RewardSpec::parse("accuracy").unwrap()], &run()).unwrap();
        let prompt = prompt(None);
        let error =
            rewards.score(&[Answer { index: 4, prompt: &prompt, text: "7", tokens: &[] }]).unwrap_err().to_string();
        assert!(error.contains("completion 4") && error.contains("How much?") && error.contains("answer"), "{error}");
        assert!(Rewards::open(&[], &run()).is_err());
    }
}
