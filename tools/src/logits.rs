//! `npu-run logits`: the door through which other frameworks compare.

use crate::cli::LogitsArgs;
use crate::device::{self, Opened};
use crate::model::{self, Folder};
use crate::{progress, report};
use anyhow::{Context, Result, bail};
use candle_ascend::{DType, Tensor};
use npu_engine::continue_greedily;
use npu_models::Logits;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    dtype: &'static str,
    logits: Vec<usize>,
    greedy: Option<Vec<usize>>,
    output: String,
}

pub fn run(args: &LogitsArgs) -> Result<ExitCode> {
    let rows = read_rows(&args.input)?;
    let folder = Folder::of(&args.model)?;
    let Opened { device, line, .. } = device::open(&args.device)?;
    let dtype = model::dtype(&args.model, &folder, &device)?;
    let bar = progress::bytes("loading", args.json);
    let loaded = model::load(&args.model, &folder, dtype, &device, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    report::notes(&loaded.notes, args.json);
    let model = loaded.model;
    for row in &rows {
        model.config().check_tokens(row).with_context(|| format!("input_ids of {}", args.input.display()))?;
    }

    let shape = (rows.len(), rows[0].len());
    let ids = Tensor::from_vec(rows.concat(), shape, &device)?;
    let logits = model.forward(&ids, &mut model.new_cache(), Logits::All)?.to_dtype(DType::F32)?;
    let greedy = args.greedy.map(|count| continue_greedily(model.as_ref(), &rows, count, &device)).transpose()?;
    write(&args.output, &logits, greedy.as_deref())?;

    let report = Report {
        model: folder.name(),
        device: line,
        dtype: dtype.as_str(),
        logits: logits.dims().to_vec(),
        greedy: args.greedy.map(|count| vec![rows.len(), count]),
        output: args.output.display().to_string(),
    };
    if args.json {
        report::json(&report)?;
    } else {
        println!(
            "logits {:?} of {} on {} in {} → {}",
            report.logits, report.model, report.device, report.dtype, report.output
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// `input_ids` as rows of one length.
fn read_rows(path: &Path) -> Result<Vec<Vec<u32>>> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("reading {name}"))?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{name} is not a safetensors file"))?;
    let ids = file
        .tensor("input_ids")
        .with_context(|| format!("{name}: wanted a tensor input_ids, got {:?}", file.names()))?;
    let &[batch, length] = ids.shape() else { bail!("{name}: input_ids has shape {:?}, wanted [B, T]", ids.shape()) };
    if batch == 0 || length == 0 {
        bail!("{name}: input_ids has shape {:?}, which holds no token", ids.shape());
    }
    let values: Vec<i64> = match ids.dtype() {
        Dtype::I64 => ids.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => ids.data().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
        Dtype::U32 => ids.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b).into()).collect(),
        other => bail!("{name}: input_ids is {other:?}, wanted I64, I32 or U32"),
    };
    let token = |v: i64| u32::try_from(v).with_context(|| format!("{name}: {v} in input_ids is not a token"));
    let tokens = values.into_iter().map(token).collect::<Result<Vec<u32>>>()?;
    Ok(tokens.chunks(length).map(<[u32]>::to_vec).collect())
}

/// Writes the results beside `path` and moves them there whole, so that no half a file is ever found.
fn write(path: &Path, logits: &Tensor, greedy: Option<&[Vec<u32>]>) -> Result<()> {
    let bytes: Vec<u8> = logits.flatten_all()?.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut tensors = vec![("logits", TensorView::new(Dtype::F32, logits.dims().to_vec(), &bytes)?)];
    let tokens: Vec<u8> =
        greedy.unwrap_or_default().iter().flatten().flat_map(|&t| i64::from(t).to_le_bytes()).collect();
    if let Some(rows) = greedy {
        tensors.push((
            "greedy",
            TensorView::new(Dtype::I64, vec![rows.len(), rows.first().map_or(0, Vec::len)], &tokens)?,
        ));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let saving = || -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(folder)?;
        std::fs::write(file.path(), safetensors::serialize(tensors, None)?)?;
        file.persist(path)?;
        Ok(())
    };
    saving().with_context(|| format!("writing {}", path.display()))
}
