//! `adapter_config.json` as PEFT writes it.

use anyhow::{Context, Result, bail, ensure};
use npu_models::Fields;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub const CONFIG: &str = "adapter_config.json";

/// Modules that have adapters.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Every projection of the layers.
    AllLinear,
    /// Modules of these names, or whose path ends with one of them.
    Named(Vec<String>),
    /// A regular expression, which is kept for other programs: the files of the adapter say which modules it means.
    Pattern(String),
}

impl Targets {
    /// The target whose module `module` is, if one is; a pattern has none.
    fn of<'a>(&'a self, module: &str) -> Option<&'a str> {
        match self {
            Self::AllLinear => (module != "lm_head").then_some("all-linear"),
            Self::Named(names) => names.iter().map(String::as_str).find(|name| is_or_ends_with(module, name)),
            Self::Pattern(_) => None,
        }
    }

    /// What the user asked for, one name each.
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Self::AllLinear => vec!["all-linear"],
            Self::Named(names) => names.iter().map(String::as_str).collect(),
            Self::Pattern(pattern) => vec![pattern],
        }
    }
}

/// Low-rank adapters (Hu et al., arXiv 2106.09685), with PEFT's names and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub r: usize,
    pub lora_alpha: f64,
    /// Probability with which an element of an adapter's input is dropped in training.
    pub lora_dropout: f64,
    pub target_modules: Targets,
    /// The scale is alpha / √r (Kalajdzievski, arXiv 2312.03732) instead of alpha / r.
    pub use_rslora: bool,
    /// Ranks and alphas of modules that have their own.
    pub rank_pattern: BTreeMap<String, usize>,
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            // PEFT's choice for each of the architectures that load here.
            target_modules: Targets::Named(vec!["q_proj".into(), "v_proj".into()]),
            use_rslora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

/// Keys that describe where adapters came from or how they are run elsewhere.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "unsloth_version",
];

/// Keys that change nothing while they have the value given here.
const NEUTRAL: &[(&str, &str)] = &[
    ("alora_invocation_tokens", "[]"),
    ("bias", "\"none\""),
    ("ensure_weight_tying", "false"),
    ("fan_in_fan_out", "false"),
    ("layer_replication", "[]"),
    ("loftq_config", "{}"),
    ("lora_bias", "false"),
    ("modules_to_save", "[]"),
    ("peft_type", "\"LORA\""),
    ("target_parameters", "[]"),
    ("task_type", "\"CAUSAL_LM\""),
    ("trainable_token_indices", "[]"),
    ("use_bdlora", "false"),
    ("use_dora", "false"),
    ("use_qalora", "false"),
];

/// Ways of starting adapters that leave the base as it is. Others (PiSSA, OLoRA, LoftQ, CorDA …) change the base, so that their
/// adapters say nothing without the changed one.
const STARTS: &[&str] = &["gaussian", "eva", "orthogonal"];

impl LoraConfig {
    /// Reads `adapter_config.json` in the folder `dir`.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}; an adapter is a folder with {CONFIG} and adapter_model.safetensors",
                path.display()
            )
        })?;
        Self::from_json(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses and checks the text of an `adapter_config.json`. What would change the arithmetic and is not known is refused.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut fields = Fields::parse(text)?;
        let target_modules = match fields.take("target_modules") {
            None => bail!("target_modules is missing, wanted names of modules"),
            Some(Value::String(name)) if name == "all-linear" => Targets::AllLinear,
            Some(Value::String(pattern)) => Targets::Pattern(pattern),
            Some(value) => {
                Targets::Named(serde_json::from_value(value).context("target_modules, wanted a list of names")?)
            }
        };
        match fields.take("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(name)) if STARTS.contains(&name.as_str()) => {}
            Some(other) => bail!(
                "init_lora_weights is {other}, which changes the base too; convert the adapter to plain LoRA first \
                 (PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…))"
            ),
        }
        let own = Self::default();
        let config = Self {
            r: fields.want_size("r", 1 << 16)?,
            lora_alpha: fields.number("lora_alpha")?.unwrap_or(own.lora_alpha),
            lora_dropout: fields.number("lora_dropout")?.unwrap_or(own.lora_dropout),
            target_modules,
            use_rslora: fields.flag("use_rslora")?.unwrap_or(false),
            rank_pattern: pattern(&mut fields, "rank_pattern", |value| Some(value.as_u64()? as usize))?,
            alpha_pattern: pattern(&mut fields, "alpha_pattern", Value::as_f64)?,
        };
        fields.finish(HARMLESS, NEUTRAL)?;
        config.check()?;
        Ok(config)
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.r > 0 && self.rank_pattern.values().all(|r| *r > 0), "a rank is 0, wanted at least 1");
        let alphas = self.alpha_pattern.values().chain([&self.lora_alpha]);
        for alpha in alphas {
            ensure!(alpha.is_finite() && *alpha > 0.0, "lora_alpha is {alpha}, wanted a number above 0");
        }
        let dropout = self.lora_dropout;
        ensure!((0.0..1.0).contains(&dropout), "lora_dropout is {dropout}, wanted at least 0 and below 1");
        if let Targets::Named(names) = &self.target_modules {
            ensure!(!names.is_empty(), "target_modules is empty, wanted names of modules");
        }
        Ok(())
    }

    /// The target that gives `module` an adapter, if one does.
    pub(super) fn target<'a>(&'a self, module: &str) -> Option<&'a str> {
        self.target_modules.of(module)
    }

    pub fn rank(&self, module: &str) -> usize {
        of_pattern(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// What the product of A and B is multiplied with.
    pub fn scale(&self, module: &str) -> f64 {
        let alpha = of_pattern(&self.alpha_pattern, module).unwrap_or(self.lora_alpha);
        let rank = self.rank(module) as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The text of `adapter_config.json` for an adapter of the checkpoint `base`.
    pub fn to_json(&self, base: &Path) -> Result<String> {
        let targets = match &self.target_modules {
            Targets::AllLinear => json!("all-linear"),
            Targets::Named(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern),
        };
        let alphas: BTreeMap<&String, Value> =
            self.alpha_pattern.iter().map(|(name, alpha)| (name, number(*alpha))).collect();
        let config = json!({
            "alpha_pattern": alphas,
            "base_model_name_or_path": base.display().to_string(),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": self.rank_pattern,
            "revision": null,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.use_rslora,
        });
        Ok(serde_json::to_string_pretty(&config)? + "\n")
    }
}

/// Whole numbers as integers, which is what PEFT declares alpha to be.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn is_or_ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Numbers of modules by the ends of their names. PEFT takes regular expressions here; those that are no plain names are refused.
fn pattern<T>(fields: &mut Fields, key: &str, number: impl Fn(&Value) -> Option<T>) -> Result<BTreeMap<String, T>> {
    let entries = match fields.take(key) {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => bail!("{key} is {other}, wanted an object of numbers by module"),
    };
    let mut numbers = BTreeMap::new();
    for (name, value) in entries {
        let plain =
            name.strip_prefix('^').unwrap_or(&name).chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        ensure!(plain, "{key} has the regular expression {name:?}; only names of modules are supported");
        let number = number(&value).with_context(|| format!("{key} gives {value} for {name}, wanted a number"))?;
        numbers.insert(name, number);
    }
    Ok(numbers)
}

/// The number of `module`: a name matches its whole path or the end of it, with `^` the whole path only.
fn of_pattern<T: Copy>(numbers: &BTreeMap<String, T>, module: &str) -> Option<T> {
    let matches = |name: &str| match name.strip_prefix('^') {
        Some(whole) => whole == module,
        None => is_or_ends_with(module, name),
    };
    numbers.iter().find(|(name, _)| matches(name)).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: Value) -> Result<LoraConfig> {
        let mut config = json!({ "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "peft_type": "LORA" });
        config[key] = value;
        LoraConfig::from_json(&config.to_string())
    }

    #[test]
    fn what_changes_the_arithmetic_is_refused_by_name() {
        let refused = [
            ("use_dora", json!(true), "use_dora"),
            ("alora_invocation_tokens", json!([1, 2]), "alora_invocation_tokens"),
            ("fan_in_fan_out", json!(true), "fan_in_fan_out"),
            ("bias", json!("all"), "bias"),
            ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
            ("init_lora_weights", json!("pissa_niter_16"), "pissa_niter_16"),
            ("peft_type", json!("IA3"), "IA3"),
            ("rank_pattern", json!({ "layers\\.(0|1)": 4 }), "layers"),
            ("rank_pattern", json!({ "q_proj": "x" }), "q_proj"),
            ("use_something_new", json!(true), "use_something_new"),
            ("r", json!(0), "r is 0"),
            ("lora_dropout", json!(1.0), "lora_dropout"),
            ("target_modules", json!([]), "target_modules"),
        ];
        for (key, value, says) in refused {
            let error = format!("{:#}", with(key, value.clone()).expect_err(key));
            assert!(error.contains(says), "{key} {value}: {error}");
        }
        for (key, value) in
            [("use_dora", json!(false)), ("modules_to_save", json!(null)), ("init_lora_weights", json!("gaussian"))]
        {
            with(key, value).expect(key);
        }
    }

    #[test]
    fn patterns_give_modules_their_own_rank_and_alpha() {
        let text = json!({
            "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "self_attn.v_proj"],
            "rank_pattern": { "layers.1.self_attn.q_proj": 4 }, "alpha_pattern": { "v_proj": 32, "^q_proj": 1 },
        });
        let config = LoraConfig::from_json(&text.to_string()).expect("a configuration");
        let (q0, q1) = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj");
        assert_eq!((config.rank(q0), config.rank(q1), config.rank("model.layers.11.self_attn.q_proj")), (8, 4, 8));
        assert_eq!((config.scale(q0), config.scale(q1), config.scale("a.v_proj")), (2.0, 4.0, 4.0));
        assert_eq!(LoraConfig { use_rslora: true, ..config.clone() }.scale(q1), 8.0);
        assert_eq!(config.target(q0), Some("q_proj"));
        assert_eq!(config.target("model.layers.0.self_attn.v_proj"), Some("self_attn.v_proj"));
        assert_eq!((config.target("model.layers.0.mlp.v_proj"), config.target("xq_proj")), (None, None));
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = LoraConfig {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.05,
            target_modules: Targets::Named(vec!["q_proj".into(), "down_proj".into()]),
            use_rslora: true,
            rank_pattern: BTreeMap::from([("q_proj".into(), 4)]),
            alpha_pattern: BTreeMap::from([("down_proj".into(), 2.5)]),
        };
        let text = config.to_json(Path::new("base/model")).expect("a text");
        assert_eq!(LoraConfig::from_json(&text).expect("its own text"), config);
        assert!(text.contains(r#""lora_alpha": 32,"#), "an integer: {text}");
    }
}
