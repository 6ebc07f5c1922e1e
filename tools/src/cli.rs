//! The command line: what can be asked, with the words of `--help`.

// Brackets in the help text are the usual notation for what may be left out, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use crate::train::TrainCommand;
use candle_ascend::ops::Kernels;
use clap::{Args, Parser, Subcommand, ValueEnum};
use npu_train::Zero;
use serde::Serialize;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Run language models on Ascend NPUs, NVIDIA GPUs, the CPU, or an NPU that is not there.
///
/// Try it on this machine, with nothing installed:
///   npu-run infer "What is 123 + 456?" --device sim
///
/// Then with a checkpoint in Hugging Face layout:
///   npu-run infer --model path/to/DeepSeek-R1-Distill-Qwen-1.5B "Why is the sky blue?"
///
/// On a new Ascend machine, run `npu-run smoke` first.
#[derive(Debug, Parser)]
#[command(name = "npu-run", version, verbatim_doc_comment, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a prompt with a model
    Infer(InferArgs),
    /// Compute a checkpoint's logits for given tokens, to compare with other frameworks
    Logits(LogitsArgs),
    /// Add a LoRA adapter to the weights of its checkpoint
    Merge(MergeArgs),
    /// Measure prefill and decode of a shape with random weights, or of a checkpoint, alone or against other programs
    Bench(BenchArgs),
    /// Fine-tune a checkpoint
    #[command(subcommand)]
    Train(Box<TrainCommand>),
    /// Start several processes of this program that work together, such as `train --hccl`
    Launch(LaunchArgs),
    /// Check the machine: libraries, devices, copies, streams and every operator against plain arithmetic
    Smoke(SmokeArgs),
}

/// Where to run, and in which precision.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// auto, npu[:INDEX], cuda[:INDEX], cpu, or sim[:SOC] for the simulated NPU (sim:910b4)
    ///
    /// `auto` takes an NPU, else a GPU, else the CPU, and says which and why. The simulated NPU is never taken unless
    /// it is named.
    #[arg(long, default_value = "auto", value_name = "DEVICE", env = "NPU_RUN_DEVICE")]
    pub device: String,

    /// What computes attention, experts and norms: aclnn (the device's own fused operators), ours (this program's Ascend C
    /// kernels, on an NPU), plain (composed of simple operators) [default: aclnn; `smoke` tries each]
    ///
    /// Of `ours`, attention takes F16 and BF16 and heads in multiples of 16; other attention is composed of simple operators
    /// there, as with `plain`. What the other kernels do not take is an error.
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<Kernels>,

    /// Folder of the CANN toolkit, if it is not where ASCEND_HOME_PATH or the loader finds it
    #[arg(long, value_name = "DIR")]
    pub cann_home: Option<PathBuf>,
}

/// Which checkpoint, and how it is loaded.
#[derive(Debug, Args, Serialize)]
pub struct ModelArgs {
    /// Checkpoint folder in Hugging Face layout, or a GGUF file [default: the demo model inside this program, which adds and
    /// subtracts]
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,

    /// Precision to compute in: auto (the checkpoint's own), f32, f16, bf16
    #[arg(long, default_value = "auto", value_name = "DTYPE")]
    pub dtype: String,

    /// LoRA adapter of the checkpoint, a folder in PEFT's layout: computed beside it, and trained further by `train`
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InferArgs {
    /// The prompt; read from standard input when absent or `-`
    pub prompt: Option<String>,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// Stop after this many generated tokens
    #[arg(long, default_value_t = 512, value_name = "N", help_heading = "Generation")]
    pub max_tokens: usize,

    /// 0 picks the likeliest token; higher is more varied [default: the checkpoint's, else 0]
    #[arg(long, value_name = "T", help_heading = "Generation")]
    pub temperature: Option<f64>,

    /// Keep the likeliest tokens that together have this probability [default: the checkpoint's]
    #[arg(long, value_name = "P", help_heading = "Generation")]
    pub top_p: Option<f64>,

    /// Keep this many of the likeliest tokens [default: the checkpoint's]
    #[arg(long, value_name = "K", help_heading = "Generation")]
    pub top_k: Option<usize>,

    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P", help_heading = "Generation")]
    pub min_p: Option<f64>,

    /// Above 1 makes tokens that have occurred less likely [default: the checkpoint's, else 1]
    #[arg(long, value_name = "R", help_heading = "Generation")]
    pub repetition_penalty: Option<f64>,

    /// Seed of the sampler; the same seed gives the same text
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Generation")]
    pub seed: u64,

    /// Wrap the prompt in the checkpoint's chat template [default where it has one]
    #[arg(long, conflicts_with = "raw", help_heading = "Prompt")]
    pub chat: bool,

    /// Continue the prompt as it is, without a chat template
    #[arg(long, help_heading = "Prompt")]
    pub raw: bool,

    /// System message of the chat
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", help_heading = "Prompt")]
    pub system: Option<String>,

    /// Ask a reasoning model to answer without its `<think>` part
    #[arg(long, conflicts_with = "raw", help_heading = "Prompt")]
    pub no_think: bool,

    /// Launch each operator of each token instead of running captured graphs
    #[arg(long, help_heading = "Generation")]
    pub enforce_eager: bool,

    /// Say how evenly tokens went to a model's experts, and where the simulated device's modelled time goes, by operator
    #[arg(long, help_heading = "Output")]
    pub stats: bool,

    /// Write the simulated device's modelled tasks to FILE, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub timeline: Option<PathBuf>,

    /// Print one JSON report instead of streamed text
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// Safetensors file with `input_ids`, integers [B, T]
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,

    /// Safetensors file to write: `logits` f32 [B, T, V], and `greedy` [B, N] with --greedy
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,

    /// Also continue each row by N tokens, the likeliest each time
    #[arg(long, value_name = "N")]
    pub greedy: Option<usize>,

    /// Print a JSON report instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Checkpoint folder that the adapter was trained on
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// The adapter, a folder in PEFT's layout
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,

    /// Folder to write, which must not hold anything yet
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,

    /// Type of the merged weights: auto (as the checkpoint has them), f32, f16, bf16
    #[arg(long, default_value = "auto", value_name = "DTYPE")]
    pub dtype: String,

    /// Print a JSON report instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Measure these instead of a model
    #[arg(value_enum, value_name = "WHAT")]
    pub what: Option<Measured>,

    /// Well-known model whose dimensions to use, with random weights (an unknown name lists the known ones)
    #[arg(long, default_value = "qwen2-0.5b", value_name = "NAME")]
    pub shape: String,

    /// Checkpoint folder to measure instead of a shape
    #[arg(long, value_name = "DIR", conflicts_with = "shape")]
    pub model: Option<PathBuf>,

    /// Weights: auto, f32, f16, bf16, q8_0, q4_k_m
    #[arg(long, default_value = "auto", value_name = "DTYPE")]
    pub dtype: String,

    /// Measure training steps over -p tokens instead
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Training")]
    pub train: Option<Trained>,

    /// Measure the experts of one layer of this model over -p tokens instead, beside a dense part of as many multiplications
    #[arg(long, value_name = "NAME", conflicts_with_all = ["shape", "model", "train", "against", "timeline"])]
    pub moe_layer: Option<String>,

    /// Measure attention of one query a sequence to this many keys in blocks of a pool instead, as `--kernels` chooses (the blocks are
    /// put together first where no kernel reads them) and decomposed
    #[arg(long, value_name = "KEYS", conflicts_with_all = ["shape", "model", "train", "moe_layer", "against", "timeline"])]
    pub paged_attention: Option<NonZeroUsize>,

    /// Sequences that --paged-attention decodes at a time
    #[arg(long, default_value = "32", value_name = "N", requires = "paged_attention")]
    pub sequences: NonZeroUsize,

    /// Compute layers again in backward instead of keeping what is inside of them
    #[arg(long, requires = "train", help_heading = "Training")]
    pub gradient_checkpointing: bool,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// Tokens of the prompt, computed in one prefill
    #[arg(short = 'p', long, default_value_t = 128, value_name = "N")]
    pub prompt_tokens: usize,

    /// Tokens decoded after the prompt, one by one
    #[arg(short = 'n', long, default_value_t = 32, value_name = "N")]
    pub decode_tokens: usize,

    /// Measure this often; medians and the range are reported
    #[arg(short = 'r', long, default_value_t = 5, value_name = "N")]
    pub repeat: usize,

    /// Rounds before that, which do not count
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub warmup: usize,

    /// Launch each operator of each token instead of running captured graphs
    #[arg(long)]
    pub enforce_eager: bool,

    /// Threads of the CPU, for every program that is measured [default: all]
    #[arg(short = 't', long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Also run these on the same shape, in turns with our own runs: llama-bench, pytorch, or all
    #[arg(long, value_name = "PEERS", value_delimiter = ',', help_heading = "Peers")]
    pub against: Vec<String>,

    /// llama.cpp's llama-bench [default: from PATH]
    #[arg(long, value_name = "PATH", help_heading = "Peers")]
    pub llama_bench: Option<PathBuf>,

    /// Python with torch, and transformers if it is to be used
    #[arg(long, default_value = "python3", value_name = "PATH", help_heading = "Peers")]
    pub python: PathBuf,

    /// Write the simulated device's modelled tasks, of a prefill and of one with decoding, to FILE, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub timeline: Option<PathBuf>,

    /// Print one JSON report instead of tables
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// What is measured that is no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measured {
    /// Our own Ascend C operators: their modelled time on a 910B3, from a run on the twin
    Kernels,
}

/// What a measured step trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// All weights
    Full,
    /// Adapters of rank 16 on all projections
    Lora,
    /// As lora, over projections in four bits
    Qlora,
}

#[derive(Debug, Args)]
pub struct SmokeArgs {
    #[command(flatten)]
    pub device: DeviceArgs,

    /// Only operators whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Print one JSON report instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Training over several devices.
#[derive(Clone, Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Several devices")]
pub struct ParallelArgs {
    /// Train together with the other processes of the job, each on the device of its local rank: NPUs over HCCL, NVIDIA GPUs over
    /// NCCL. `npu-run launch`, torchrun, Slurm, mpirun and msrun start such jobs
    #[arg(long, visible_alias = "nccl")]
    #[serde(skip)]
    pub hccl: bool,

    /// What is divided among the ranks: 0 nothing, 1 the optimizer's state, 2 also the reduced gradients
    #[arg(long, default_value = "0", value_name = "STAGE", requires = "hccl")]
    pub zero: Zero,

    /// Megabytes of gradients that go over the wire at a time
    #[arg(long, default_value_t = 25, value_name = "MB", requires = "hccl")]
    pub ddp_bucket_cap_mb: usize,

    /// HCCL's list of the job's devices, instead of a meeting at MASTER_ADDR
    #[arg(long, value_name = "FILE", env = "RANK_TABLE_FILE")]
    #[serde(skip)]
    pub rank_table: Option<PathBuf>,
}

/// Start N processes on this host, with torchrun's variables: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and
/// MASTER_PORT. When one of them dies, the others are ended.
///
///   npu-run launch --nproc-per-node 8 -- train sft --hccl --model DIR --data FILE --output-dir OUT
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct LaunchArgs {
    /// Processes on this host, one for each of its NPUs
    #[arg(long, default_value_t = 1, value_name = "N", alias = "nproc_per_node")]
    pub nproc_per_node: usize,

    /// Hosts of the job; run the same command on each, with its own --node-rank
    #[arg(long, default_value_t = 1, value_name = "M")]
    pub nnodes: usize,

    /// Which of the hosts this is, from 0
    #[arg(long, default_value_t = 0, value_name = "R", alias = "node_rank")]
    pub node_rank: usize,

    /// Address of the host with --node-rank 0, where rank 0 listens [default: 127.0.0.1 for one host]
    #[arg(long, value_name = "A", alias = "master_addr")]
    pub master_addr: Option<String>,

    /// Port there [default: a free one for one host, else 29500]
    #[arg(long, value_name = "P", alias = "master_port")]
    pub master_port: Option<u16>,

    /// Seconds that processes get to end when they are asked to, before they are killed
    #[arg(long, default_value_t = 10, value_name = "S")]
    pub grace: u64,

    /// What each process runs: a subcommand of npu-run with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
