//! Checkpoint folders as they arrive: sharded, incomplete, damaged, or of another architecture.

mod common;

use candle_ascend::{DType, Device, Tensor};
use npu_models::{Loaded, Logits};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A tensor: name, dtype, shape, bytes.
type Row = (String, Dtype, Vec<usize>, Vec<u8>);

fn rows() -> Vec<Row> {
    let bytes = fs::read(common::dir("qwen2-tiny").join("model.safetensors")).expect("the fixture");
    let file = SafeTensors::deserialize(&bytes).expect("the fixture");
    let row = |(name, view): (String, TensorView)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let mut rows: Vec<Row> = file.tensors().into_iter().map(row).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn write(path: &Path, rows: &[Row]) {
    let views = rows.iter().map(|(name, dtype, shape, data)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
    });
    fs::write(path, safetensors::serialize(views, None).expect("a file")).expect("written");
}

/// A folder with the fixture's configuration and no weights.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    fs::copy(common::dir("qwen2-tiny").join("config.json"), dir.path().join("config.json")).expect("config");
    dir
}

/// A folder with the fixture's weights after `edit`.
fn edited(edit: impl Fn(&mut Vec<Row>)) -> TempDir {
    let dir = folder();
    let mut rows = rows();
    edit(&mut rows);
    write(&dir.path().join("model.safetensors"), &rows);
    dir
}

fn find<'a>(rows: &'a mut [Row], name: &str) -> &'a mut Row {
    rows.iter_mut().find(|row| row.0 == name).expect("a tensor of the fixture")
}

/// A folder with the weights in three shards and their index, after `edit` of the index.
fn sharded(edit: impl Fn(&mut Value)) -> TempDir {
    let dir = folder();
    let mut index = json!({"metadata": {"total_size": 0}, "weight_map": {}});
    for (i, shard) in rows().chunks(13).enumerate() {
        let file = format!("model-{:05}-of-00003.safetensors", i + 1);
        write(&dir.path().join(&file), shard);
        shard.iter().for_each(|row| index["weight_map"][&row.0] = json!(file));
    }
    edit(&mut index);
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).expect("the index");
    dir
}

fn load(dir: &TempDir) -> anyhow::Result<Loaded> {
    npu_models::load(dir.path(), DType::F32, &Device::Cpu, &|_, _| {})
}

fn refused(dir: &TempDir, says: &[&str]) {
    let Err(error) = load(dir) else { panic!("loaded, wanted an error with {says:?}") };
    let error = format!("{error:#}");
    assert!(says.iter().all(|part| error.contains(part)), "wanted {says:?} in {error:?}");
}

#[test]
fn shards_give_the_logits_of_one_file() {
    let logits = |dir: &TempDir| -> Vec<f32> {
        let loaded = load(dir).expect("a checkpoint");
        let ids = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).expect("ids");
        let logits = loaded.model.forward(&ids, &mut loaded.model.new_cache(), Logits::All).expect("logits");
        logits.flatten_all().and_then(|logits| logits.to_vec1()).expect("logits")
    };
    assert_eq!(logits(&sharded(|_| {})), logits(&edited(|_| {})));
}

#[test]
fn progress_reaches_the_stored_bytes() {
    let (dir, last) = (edited(|_| {}), Cell::new((0, 0)));
    let loaded = npu_models::load(dir.path(), DType::BF16, &Device::Cpu, &|done, total| last.set((done, total)))
        .expect("a checkpoint");
    assert_eq!(last.get(), (loaded.stored_bytes, loaded.stored_bytes));
}

#[test]
fn missing_files_are_named() {
    refused(&folder(), &["neither model.safetensors nor model.safetensors.index.json"]);
    let pickled = folder();
    fs::write(pickled.path().join("pytorch_model.bin"), "x").expect("written");
    refused(&pickled, &["pytorch_model.bin", "saved as safetensors"]);
    let dir = sharded(|_| {});
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).expect("removed");
    refused(&dir, &["1 of 3 shards are missing", "model-00002-of-00003.safetensors"]);
    refused(&tempfile::tempdir().expect("a folder"), &["cannot read", "config.json"]);
}

#[test]
fn an_index_that_lies_is_refused() {
    let shard = "model-00001-of-00003.safetensors";
    refused(
        &sharded(|index| index["weight_map"]["model.extra.weight"] = json!(shard)),
        &["model.extra.weight", shard, "does not hold it"],
    );
    refused(
        &sharded(|index| index["weight_map"]["model.norm.weight"] = json!(shard)),
        &["model.norm.weight", "does not hold it"],
    );
    refused(&sharded(|index| index["weight_map"]["lm_head.weight"] = json!("../x.safetensors")), &["plain file name"]);
    refused(&sharded(|index| index["weight_map"] = json!(3)), &["weight_map is missing"]);
    let dir = sharded(|_| {});
    let last = &rows()[rows().len() - 1..];
    let first: Vec<Row> = rows()[..13].iter().chain(last).cloned().collect();
    write(&dir.path().join(shard), &first);
    refused(&dir, &["lies in both", shard, "model-00003-of-00003.safetensors"]);
}

#[test]
fn wrong_tensors_are_named_with_file_wanted_and_got() {
    let q = "model.layers.1.self_attn.q_proj.weight";
    refused(&edited(|rows| find(rows, q).2 = vec![32, 128]), &["model.safetensors", q, "[32, 128]", "wanted [64, 64]"]);
    let integers = |rows: &mut Vec<Row>| {
        let row = find(rows, q);
        (row.1, row.2) = (Dtype::I16, vec![64, 64]);
    };
    refused(&edited(integers), &["model.safetensors", q, "I16", "wanted F32, F16, BF16, F64 or F8_E4M3"]);
    refused(&edited(|rows| rows.retain(|row| row.0 != q)), &[q, "is missing in", "model.safetensors"]);
}

#[test]
fn damaged_files_are_refused() {
    let dir = edited(|_| {});
    let path = dir.path().join("model.safetensors");
    let good = fs::read(&path).expect("the file");
    for (bytes, says) in [
        (&good[..good.len() - 1], "truncated"),
        (&good[..100], "truncated"),
        (&good[..3], "too few"),
        (&good[..0], "too few"),
    ] {
        fs::write(&path, bytes).expect("written");
        refused(&dir, &["model.safetensors", says]);
    }
}

#[test]
fn tensors_without_use_are_reported() {
    let extra = |name: &str| (name.to_string(), Dtype::F32, vec![1], vec![0; 4]);
    let dir = edited(|rows| {
        rows.extend([extra("model.layers.0.extra"), extra("model.layers.0.self_attn.rotary_emb.inv_freq")])
    });
    assert_eq!(load(&dir).expect("a checkpoint").unused, ["model.layers.0.extra"]);
}

#[test]
fn unknown_architectures_are_named() {
    let dir = edited(|_| {});
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).expect("config");
    fs::write(&path, text.replace("Qwen2ForCausalLM", "MambaForCausalLM")).expect("written");
    refused(&dir, &["unknown architecture MambaForCausalLM", "LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"]);
    fs::write(&path, text.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4")).expect("written");
    refused(&dir, &["layer_types has 3 entries for 4 layers"]);
}

#[test]
fn passes_that_cannot_be_are_refused_and_leave_the_cache() {
    let loaded = load(&edited(|_| {})).expect("a checkpoint");
    let model = loaded.model.as_ref();
    let mut cache = model.new_cache();
    let ids = |rows: usize, tokens: usize| Tensor::ones((rows, tokens), DType::U32, &Device::Cpu).expect("ids");
    let error = |cache: &mut npu_models::Cache, ids: &Tensor| {
        format!("{:#}", model.forward(ids, cache, Logits::Last).expect_err("refused"))
    };
    let long = error(&mut cache, &ids(1, 4097));
    assert!(long.contains("4097 tokens") && long.contains("context of 4096"), "{long}");
    model.forward(&ids(1, 3), &mut cache, Logits::Last).expect("a pass");
    let batch = error(&mut cache, &ids(2, 1));
    assert!(batch.contains("belongs to one batch"), "{batch}");
    assert_eq!(cache.len(), 3);
    let empty = error(&mut cache, &ids(1, 0));
    assert!(empty.contains("no tokens"), "{empty}");
}
