//! Checkpoints in FP8: what they hold against a reading of the format's own, what is said of them, and damage.

mod common;

use candle_ascend::{DType, Device, Tensor};
use npu_models::{Loaded, Logits};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

const FIXTURE: &str = "deepseek-v3-fp8-tiny";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// Dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors() -> Tensors {
    let mut tensors = Tensors::new();
    for shard in SHARDS {
        let bytes = fs::read(common::dir(FIXTURE).join(shard)).expect("a shard");
        for (name, view) in SafeTensors::deserialize(&bytes).expect("a shard").tensors() {
            tensors.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    tensors
}

fn config() -> Value {
    serde_json::from_str(&fs::read_to_string(common::dir(FIXTURE).join("config.json")).expect("config.json"))
        .expect("JSON")
}

/// A folder with these tensors in one file.
fn folder(config: &Value, tensors: &Tensors) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("config.json"), config.to_string()).expect("config.json");
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor")));
    fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).expect("a file"))
        .expect("written");
    dir
}

/// The fixture with its tensors and configuration edited.
fn edited(edit: impl Fn(&mut Value, &mut Tensors)) -> TempDir {
    let (mut config, mut tensors) = (config(), tensors());
    edit(&mut config, &mut tensors);
    folder(&config, &tensors)
}

fn load(dir: &TempDir, dtype: DType, device: &Device) -> anyhow::Result<Loaded> {
    npu_models::load(dir.path(), dtype, device, &|_, _| {})
}

fn logits(loaded: &Loaded, device: &Device) -> Vec<f32> {
    let ids = Tensor::new(&[[7u32, 100, 3, 3, 511, 42, 1]], device).expect("ids");
    let logits = loaded.model.forward(&ids, &mut loaded.model.new_cache(), Logits::All).expect("logits");
    logits.to_dtype(DType::F32).and_then(|logits| logits.flatten_all()?.to_vec1()).expect("logits")
}

/// E4M3 by its definition: a sign, four bits of exponent with a bias of 7, three bits of mantissa.
fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let size =
        if exponent == 0 { mantissa / 8.0 * 2f32.powi(-6) } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) };
    if bits & 128 == 0 { size } else { -size }
}

/// The tensors with each FP8 matrix as F32, element by element.
fn widened(tensors: &Tensors, block: [usize; 2]) -> Tensors {
    let mut wide = Tensors::new();
    for (name, (dtype, shape, data)) in tensors.iter().filter(|(name, _)| !name.ends_with("_scale_inv")) {
        let mut row = (*dtype, shape.clone(), data.clone());
        if *dtype == Dtype::F8_E4M3 {
            let (_, grid, scales) = &tensors[&format!("{name}_scale_inv")];
            let scale = |i: usize, j: usize| {
                let at = (i / block[0] * grid[1] + j / block[1]) * 4;
                f32::from_le_bytes(scales[at..at + 4].try_into().expect("four bytes"))
            };
            let columns = shape[1];
            let value = |(i, bits): (usize, &u8)| (e4m3(*bits) * scale(i / columns, i % columns)).to_le_bytes();
            row = (Dtype::F32, shape.clone(), data.iter().enumerate().flat_map(value).collect());
        }
        wide.insert(name.clone(), row);
    }
    wide
}

/// The same numbers behind FP8 and F32 tensors give the same logits to the last bit, whatever the blocks and their scales are.
#[test]
fn blocks_are_widened_where_they_lie() {
    // Blocks that divide no matrix, so that the last ones are cut both ways, and scales that are all different.
    for block in [[128, 128], [20, 7], [1, 500]] {
        let dir = edited(|config, tensors| {
            config["quantization_config"]["weight_block_size"] = json!(block);
            let matrices: Vec<(String, Vec<usize>)> = tensors
                .iter()
                .filter(|(_, (dtype, ..))| *dtype == Dtype::F8_E4M3)
                .map(|(name, (_, shape, _))| (name.clone(), shape.clone()))
                .collect();
            for (name, shape) in matrices {
                let grid = [shape[0].div_ceil(block[0]), shape[1].div_ceil(block[1])];
                let scale = |i: usize| (0.001 + 0.0004 * ((i * 7 + name.len()) % 11) as f32).to_le_bytes();
                let data = (0..grid[0] * grid[1]).flat_map(scale).collect();
                tensors.insert(format!("{name}_scale_inv"), (Dtype::F32, grid.to_vec(), data));
            }
        });
        let stored = SafeTensors::deserialize(&fs::read(dir.path().join("model.safetensors")).expect("the file"))
            .expect("the file")
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            .collect();
        let mut plain = config();
        plain.as_object_mut().expect("an object").shift_remove("quantization_config");
        let wide = folder(&plain, &widened(&stored, block));
        for device in [Device::Cpu, common::simulated()] {
            for dtype in [DType::F32, DType::BF16] {
                let [fp8, wide] = [&dir, &wide].map(|dir| load(dir, dtype, &device).expect("a checkpoint"));
                assert!(fp8.unused.is_empty(), "{:?}", fp8.unused);
                let (got, wanted) = (logits(&fp8, &device), logits(&wide, &device));
                assert!(got.iter().all(|x| x.is_finite()) && got == wanted, "blocks of {block:?} in {dtype:?}");
            }
        }
    }
}

#[test]
fn what_changes_is_said() {
    let last = Cell::new((0, 0));
    let loaded =
        npu_models::load(&common::dir(FIXTURE), DType::BF16, &Device::Cpu, &|done, total| last.set((done, total)))
            .expect("the fixture");
    // All that is left of the files is read: the scales too, and not the layer that is set aside.
    assert_eq!(last.get(), (loaded.stored_bytes, loaded.stored_bytes));
    let [fp8, further] = &loaded.notes[..] else { panic!("{:?}", loaded.notes) };
    let kept: Tensors = tensors().into_iter().filter(|(name, _)| !name.starts_with("model.layers.4.")).collect();
    let bytes = |of: &dyn Fn(&str, Dtype) -> bool| -> f64 {
        let found = kept.iter().filter(|(name, (dtype, ..))| of(name, *dtype));
        found.map(|(_, (_, _, data))| data.len()).sum::<usize>() as f64 / f64::from(1 << 20)
    };
    let numbers = bytes(&|_, dtype| dtype == Dtype::F8_E4M3);
    let scales = bytes(&|name, _| name.ends_with("_scale_inv"));
    let sizes = format!("{:.1} MiB become {:.1} MiB", numbers + scales, 2.0 * numbers);
    assert!(fp8.contains("widened to bf16") && fp8.contains(&sizes), "{fp8}, wanted {sizes}");
    let count = tensors().len() - kept.len();
    assert!(further.contains(&format!("model.layers.4, {count} tensors")), "{further}, wanted {count} tensors");
}

/// A layer behind the last one that the configuration does not tell of is no further prediction, but has no use either.
#[test]
fn layers_that_nothing_tells_of_are_unused() {
    let dir = edited(|config, _| config["num_nextn_predict_layers"] = json!(0));
    let loaded = load(&dir, DType::F32, &Device::Cpu).expect("a checkpoint");
    assert!(loaded.unused.contains(&"model.layers.4.eh_proj.weight".to_owned()), "{:?}", loaded.unused);
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
}

#[test]
fn bad_scales_are_refused_by_name() {
    const MATRIX: &str = "model.layers.0.mlp.gate_proj.weight";
    const SCALES: &str = "model.layers.0.mlp.gate_proj.weight_scale_inv";
    const EXPERT: &str = "model.layers.2.mlp.experts.5.down_proj.weight_scale_inv";
    type Edit = fn(&mut Value, &mut Tensors);
    let cases: [(Edit, &[&str]); 9] = [
        (
            |_, tensors| tensors.get_mut(SCALES).expect("scales").1 = vec![1, 2],
            &["model.safetensors", SCALES, "shape [1, 2], wanted [2, 1]", "block of 128 x 128", "[160, 64]"],
        ),
        (
            |config, _| config["quantization_config"]["weight_block_size"] = json!([64, 128]),
            &["_scale_inv", "wanted", "block of 64 x 128"],
        ),
        (
            |_, tensors| {
                let scales = tensors.get_mut(SCALES).expect("scales");
                (scales.0, scales.1) = (Dtype::I32, vec![2, 1]);
            },
            &["model.safetensors", SCALES, "stored as I32, wanted F32, BF16 or F8_E8M0"],
        ),
        (
            |_, tensors| drop(tensors.remove(EXPERT)),
            &["model.layers.2.mlp.experts.5.down_proj.weight", EXPERT, "missing in", "model.safetensors"],
        ),
        (
            |_, tensors| {
                tensors.get_mut(SCALES).expect("scales").2[4..].copy_from_slice(&f32::NAN.to_le_bytes());
            },
            &[SCALES, "not finite at [1, 0]"],
        ),
        (
            |config, _| drop(config.as_object_mut().expect("an object").shift_remove("quantization_config")),
            &["model.safetensors", "stored as F8_E4M3", "no quantization_config"],
        ),
        (
            |_, tensors| tensors.get_mut(MATRIX).expect("a matrix").0 = Dtype::F8_E5M2,
            &["model.safetensors", MATRIX, "stored as F8_E5M2, wanted F32, F16, BF16, F64 or F8_E4M3"],
        ),
        (
            |_, tensors| {
                tensors.insert("model.norm.weight".into(), (Dtype::F8_E4M3, vec![64], vec![0x38; 64]));
            },
            &["model.norm.weight", "[64]", "read of matrices only"],
        ),
        (
            |_, tensors| {
                tensors.insert(MATRIX.into(), (Dtype::F8_E4M3, vec![64, 160], vec![0x38; 64 * 160]));
            },
            &[MATRIX, "[64, 160], wanted [160, 64] from the configuration"],
        ),
    ];
    for (edit, says) in cases {
        let Err(error) = load(&edited(edit), DType::F32, &Device::Cpu) else { panic!("loaded, wanted {says:?}") };
        let error = format!("{error:#}");
        assert!(says.iter().all(|part| error.contains(part)), "wanted {says:?} in {error:?}");
    }
}
