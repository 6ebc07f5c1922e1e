//! The folders `checkpoint-N` of a run.

use super::state::State;
use crate::files;
use anyhow::{Context, Result, bail};
use candle_ascend::safetensors::MmapedSafetensors;
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";
/// The optimizer's state within a checkpoint.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Where a run begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// At step 0. Checkpoints of an earlier run in the output folder are an error, so that they are neither mixed with new
    /// ones nor lost.
    #[default]
    No,
    /// At step 0, and without the checkpoints of an earlier run.
    Overwrite,
    /// At the last checkpoint in the output folder that is whole; at step 0 if there is none.
    Latest,
    /// At this checkpoint.
    From(PathBuf),
}

pub fn path(output: &Path, step: usize) -> PathBuf {
    output.join(format!("{PREFIX}{step}"))
}

/// The checkpoints in `output` by step, the oldest first.
pub fn all(output: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !output.exists() {
        return Ok(Vec::new());
    }
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    let mut found: Vec<_> = files::entries(output)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// Removes all but the newest `limit` checkpoints.
pub fn prune(output: &Path, limit: usize) -> Result<()> {
    let found = all(output)?;
    for (_, path) in &found[..found.len().saturating_sub(limit.max(1))] {
        remove(path)?;
    }
    Ok(())
}

pub fn remove(path: &Path) -> Result<()> {
    std::fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
}

/// An error if something of the checkpoint at `path` is missing or cut off.
fn check(path: &Path) -> Result<()> {
    State::read(path)?;
    let tensors: Vec<PathBuf> =
        files::entries(path)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    // Two files may have tensors of the same name.
    tensors.iter().try_for_each(|file| MmapedSafetensors::new(file).map(drop))?;
    if tensors.len() < 2 {
        bail!("{} lacks its weights or {OPTIMIZER_FILE}", path.display())
    }
    Ok(())
}

/// The checkpoint to begin at; none to begin at step 0. `say` hears which were passed over, and why.
pub fn find(resume: &Resume, output: &Path, say: &mut dyn FnMut(&str)) -> Result<Option<PathBuf>> {
    match resume {
        Resume::Overwrite => Ok(None),
        Resume::No => match all(output)?.pop() {
            Some((_, path)) => bail!(
                "{} has a checkpoint of an earlier run, {}: go on from it with --resume, begin anew with \
                 --overwrite-output-dir, or take another --output-dir",
                output.display(),
                path.file_name().unwrap_or_default().display()
            ),
            None => Ok(None),
        },
        Resume::From(path) => {
            check(path).with_context(|| format!("--resume {}: no checkpoint to go on from", path.display()))?;
            Ok(Some(path.clone()))
        }
        Resume::Latest => {
            for (_, path) in all(output)?.into_iter().rev() {
                match check(&path) {
                    Ok(()) => return Ok(Some(path)),
                    Err(error) => say(&format!("{} is passed over: {error:#}", path.display())),
                }
            }
            say(&format!("{} has no checkpoint to go on from: this run begins at step 0", output.display()));
            Ok(None)
        }
    }
}
