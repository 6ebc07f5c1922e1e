//! `npu-run bench --paged-attention`: attention of one query a sequence over keys and values in blocks of a pool, as a decoding step
//! has it, by the device's kernels and decomposed.
//!
//! The decomposition runs after each pass of the kernels, over the same pool, so that whatever else the machine does befalls both.

use super::report::Spread;
use super::{SEED, in_turns, memory, passes};
use crate::cli::BenchArgs;
use crate::report::{self, Table};
use crate::{device, model, progress};
use anyhow::{Result, ensure};
use candle_ascend::ops::{self, Kernels};
use candle_ascend::{DType, Device, Tensor};
use npu_models::normal_values;
use serde::Serialize;
use std::process::ExitCode;

/// Heads as a model has them. Where values are narrower than keys, they are the keys' first columns.
struct Form {
    name: &'static str,
    heads: usize,
    /// Heads of keys and values.
    groups: usize,
    width: usize,
    value_width: usize,
}

const FORMS: [Form; 2] = [
    Form { name: "Qwen2.5-7B", heads: 28, groups: 4, width: 128, value_width: 128 },
    Form { name: "latent", heads: 16, groups: 1, width: 576, value_width: 512 },
];
/// Tokens of a block: what vLLM takes on GPUs and on NPUs.
const BLOCK_SIZES: [usize; 2] = [16, 128];
/// Neighbours of a sequence lie this many blocks apart in the pool. A prime: no pool but one of a multiple of it comes around early.
const STRIDE: usize = 7919;

pub fn run(args: &BenchArgs, keys: usize) -> Result<ExitCode> {
    ensure!(args.repeat > 0, "--repeat is wanted to be at least 1");
    let opened = device::open(&args.device)?;
    let dtype = model::dtype_named(&args.dtype, Some("bfloat16"), &opened.device, false)?;
    let sequences = args.sequences.get();
    let rounds = FORMS.len() * BLOCK_SIZES.len() * (args.warmup + args.repeat);
    let bar = progress::steps("measuring", rounds, args.json);
    let mut rows = Vec::new();
    for form in FORMS {
        // Once in the pool; the decomposition also puts each sequence's blocks together.
        memory::check_fits(&opened, form.name, form.bytes(sequences, keys, dtype))?;
        for block_size in BLOCK_SIZES {
            let step = Step::new(&form, [sequences, keys, block_size], dtype, &opened.device)?;
            let plain = || ops::with_kernels(Kernels::Plain, || step.run());
            let [kernels, plain] = in_turns(args, &opened, || step.run(), plain, || bar.inc(1))?;
            let bytes = form.bytes(sequences, keys, dtype);
            let ratio = plain.median / kernels.median;
            rows.push(Row { form: form.name, block_size, bytes, kernels, plain, ratio });
        }
    }
    bar.finish_and_clear();
    let report = Report {
        device: opened.line.clone(),
        dtype: dtype.as_str(),
        threads: super::threads(),
        sequences,
        keys,
        repeat: args.repeat,
        passes: passes(&opened),
        rows,
    };
    if args.json {
        report::json(&report)?
    } else {
        print!("{report}")
    }
    Ok(ExitCode::SUCCESS)
}

impl Form {
    fn latent(&self) -> bool {
        self.value_width < self.width
    }

    /// Keys and values that a step uses, each once.
    fn bytes(&self, sequences: usize, keys: usize, dtype: DType) -> u64 {
        let columns = if self.latent() { self.width } else { self.width + self.value_width };
        (sequences * keys * self.groups * columns * dtype.size_in_bytes()) as u64
    }
}

/// The operands of a step.
struct Step {
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    lengths: Tensor,
    scale: f64,
}

impl Step {
    fn new(form: &Form, [sequences, keys, block_size]: [usize; 3], dtype: DType, device: &Device) -> Result<Self> {
        let entries = keys.div_ceil(block_size);
        let used = sequences * entries;
        let blocks = if used.is_multiple_of(STRIDE) { used + 1 } else { used };
        let random = |name: &str, dims: &[usize]| -> Result<Tensor> {
            let values = normal_values(SEED, name, dims.iter().product(), 1.0);
            Ok(Tensor::from_vec(values, dims, device)?.to_dtype(dtype)?)
        };
        let pool = |name: &str, width: usize| random(name, &[blocks, form.groups, block_size, width]);
        let q = random("q", &[sequences, form.heads, form.width])?;
        let keys_of_pool = pool("keys", form.width)?;
        let values = match form.latent() {
            true => keys_of_pool.narrow(3, 0, form.value_width)?,
            false => pool("values", form.value_width)?,
        };
        let table = (0..used).map(|i| (i * STRIDE % blocks) as u32).collect();
        Ok(Self {
            q,
            keys: keys_of_pool,
            values,
            table: Tensor::from_vec(table, (sequences, entries), device)?,
            lengths: Tensor::from_vec(vec![keys as u32; sequences], sequences, device)?,
            scale: 1.0 / (form.width as f64).sqrt(),
        })
    }

    fn run(&self) -> Result<Tensor> {
        Ok(ops::paged_attention(&self.q, &self.keys, &self.values, &self.table, &self.lengths, self.scale)?)
    }
}

#[derive(Debug, Serialize)]
struct Row {
    form: &'static str,
    block_size: usize,
    /// Of keys and values in use.
    bytes: u64,
    /// Seconds of a step.
    kernels: Spread,
    plain: Spread,
    /// The decomposition's time over the kernels'.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    dtype: &'static str,
    threads: usize,
    sequences: usize,
    keys: usize,
    repeat: usize,
    /// Of either, one after the other, in each round.
    passes: usize,
    rows: Vec<Row>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        writeln!(f, "attention of {} sequences to {} keys in blocks, {}", self.sequences, self.keys, self.dtype)?;
        writeln!(f, "{}, {} threads, medians of {} rounds", self.device, self.threads, self.repeat)?;
        let header = ["heads", "block", "in use", "kernels ms", "GB/s", "plain ms", "GB/s", "plain over kernels"];
        let mut table = Table::new(&header);
        for row in &self.rows {
            let of = |spread: &Spread| {
                let Spread { median, min, max } = spread;
                let time = format!("{:.3} ({:.3} to {:.3})", median * 1e3, min * 1e3, max * 1e3);
                [time, format!("{:.0}", row.bytes as f64 / median / 1e9)]
            };
            let ([time, rate], [plain, of_plain]) = (of(&row.kernels), of(&row.plain));
            let (form, block, bytes) = (row.form.to_owned(), row.block_size.to_string(), report::bytes(row.bytes));
            table.row([form, block, bytes, time, rate, plain, of_plain, format!("{:.2}", row.ratio)]);
        }
        write!(f, "{table}")
    }
}
