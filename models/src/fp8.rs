//! FP8 checkpoints: what `quantization_config` says of them. Which tensors are FP8 the files themselves say.

use crate::Fields;
use anyhow::{Result, bail, ensure};
use candle_ascend::DType;
use candle_ascend::ops::ScaledBlocks;
use safetensors::Dtype;
use serde_json::Value;

/// What the name of a matrix ends in when it is the scales of another.
pub(crate) const SCALES: &str = "_scale_inv";

/// How the FP8 matrices of a checkpoint are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8 {
    /// Rows and columns that share a scale.
    pub block: [usize; 2],
}

impl Fp8 {
    /// Reads `quantization_config`, and refuses all that is not E4M3 in blocks.
    ///
    /// Inputs are not rounded to FP8 here, which is what `activation_scheme` says of devices that multiply FP8: products are
    /// closer to those of the model that was quantised, and not the same bits as such a device's.
    pub(crate) fn from_config(value: Value) -> Result<Self> {
        let mut fields = Fields::of(value, "quantization_config")?;
        let method = fields.text("quant_method")?.unwrap_or_else(|| "of an unnamed kind".into());
        ensure!(
            method == "fp8",
            "the checkpoint is quantized ({method}), which is not supported; of quantized safetensors only fp8 in blocks is, \
             else use the bf16, f16 or f32 checkpoint"
        );
        for (key, known) in [
            ("fmt", &["e4m3"][..]),
            ("activation_scheme", &["dynamic"]),
            // How scales are stored is the file's to say.
            ("scale_fmt", &["float", "ue8m0"]),
            ("expert_dtype", &["fp8"]),
        ] {
            let got = fields.text(key)?.unwrap_or_else(|| known[0].into());
            ensure!(
                known.contains(&got.as_str()),
                "quantization_config.{key} is {got:?}; {} is supported",
                known.join(" or ")
            );
        }
        for key in ["ignored_layers", "modules_to_not_convert", "modules_to_convert"] {
            let names = fields.take(key).unwrap_or_else(|| Value::Array(Vec::new()));
            let listed = names.as_array().is_some_and(|names| names.iter().all(Value::is_string));
            ensure!(listed, "quantization_config.{key} is {names}, wanted a list of names");
        }
        let block = fields.take("weight_block_size");
        let sizes: Vec<usize> = block.as_ref().and_then(Value::as_array).map_or_else(Vec::new, |sizes| {
            sizes
                .iter()
                .filter_map(Value::as_u64)
                .filter(|size| (1..1 << 20).contains(size))
                .map(|n| n as usize)
                .collect()
        });
        let [height, width] = sizes[..] else {
            let got = block.map_or_else(|| "missing".into(), |block| block.to_string());
            bail!(
                "quantization_config.weight_block_size is {got}, wanted [rows, columns] of a block such as [128, 128]; \
                 one scale for a whole matrix is not supported"
            )
        };
        fields.finish(&["dequantize"], &[])?;
        Ok(Self { block: [height, width] })
    }

    /// The shape of the scales of a matrix.
    pub(crate) fn grid(&self, rows: usize, columns: usize) -> [usize; 2] {
        ScaledBlocks::grid(rows, columns, self.block)
    }
}

/// What to tell of FP8 matrices that take `stored` bytes with their scales and are `elements` numbers of `dtype` here, or are
/// quantised anew.
pub(crate) fn note(stored: u64, elements: u64, dtype: Option<DType>) -> String {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64);
    let why = "no product here takes FP8, for which the Ascend 910B has no unit";
    match dtype {
        Some(dtype) => format!(
            "FP8 weights are widened to {} as they load, as {why}: {} become {}",
            dtype.as_str(),
            mib(stored),
            mib(elements * dtype.size_in_bytes() as u64)
        ),
        None => format!("FP8 weights of {} are widened and quantised anew as they load, as {why}", mib(stored)),
    }
}

/// Scales stored as `dtype` in F32, or what they must be stored as.
pub(crate) fn scales(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, &'static str> {
    let pair = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    Ok(match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_bits(pair(b)).to_f32()).collect(),
        // A power of two by its exponent alone; 255 is no number.
        Dtype::F8_E8M0 => {
            bytes.iter().map(|&b| if b == 255 { f32::NAN } else { (f32::from(b) - 127.0).exp2() }).collect()
        }
        _ => return Err("F32, BF16 or F8_E8M0"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As DeepSeek-V3 has it.
    fn published() -> Value {
        json!({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]})
    }

    #[test]
    fn published_configurations_are_read() {
        assert_eq!(Fp8::from_config(published()).unwrap(), Fp8 { block: [128, 128] });
        // As later checkpoints of DeepSeek and those of Qwen have it.
        let mut other = published();
        other["scale_fmt"] = json!("ue8m0");
        other["modules_to_not_convert"] = json!(["lm_head", "model.layers.0.mlp.gate"]);
        other["weight_block_size"] = json!([64, 32]);
        let fp8 = Fp8::from_config(other).unwrap();
        assert_eq!((fp8.grid(64, 32), fp8.grid(65, 33), fp8.grid(1, 100)), ([1, 1], [2, 2], [1, 4]));
    }

    #[test]
    fn refusals_name_the_key() {
        for (key, value, says) in [
            ("quant_method", json!("gptq"), "quantized (gptq), which is not supported"),
            ("quant_method", Value::Null, "of an unnamed kind"),
            ("fmt", json!("e5m2"), "quantization_config.fmt is \"e5m2\"; e4m3 is supported"),
            ("activation_scheme", json!("static"), "activation_scheme is \"static\""),
            ("scale_fmt", json!("int8"), "scale_fmt is \"int8\"; float or ue8m0"),
            ("expert_dtype", json!("fp4"), "expert_dtype is \"fp4\""),
            ("weight_block_size", Value::Null, "weight_block_size is missing, wanted [rows, columns]"),
            ("weight_block_size", json!([128]), "weight_block_size is [128]"),
            ("weight_block_size", json!([128, 0]), "weight_block_size is [128,0]"),
            ("weight_block_size", json!("128x128"), "weight_block_size is \"128x128\""),
            ("ignored_layers", json!("lm_head"), "ignored_layers is \"lm_head\", wanted a list of names"),
            ("zero_points", json!(true), "unknown key quantization_config.zero_points"),
        ] {
            let mut config = published();
            config[key] = value;
            let error = format!("{:#}", Fp8::from_config(config).unwrap_err());
            assert!(error.contains(says), "{key}: wanted {says:?} in {error:?}");
        }
    }

    #[test]
    fn scales_of_every_type() {
        assert_eq!(scales(Dtype::F32, &1.5f32.to_le_bytes()).unwrap(), [1.5]);
        assert_eq!(scales(Dtype::BF16, &[0x40, 0x3f, 0x00, 0xc0]).unwrap(), [0.75, -2.0]);
        assert_eq!(scales(Dtype::F8_E8M0, &[127, 128, 0, 254]).unwrap(), [1.0, 2.0, 2f32.powi(-127), 2f32.powi(127)]);
        assert!(scales(Dtype::F8_E8M0, &[255]).unwrap()[0].is_nan());
        assert!(scales(Dtype::I32, &[0; 4]).unwrap_err().contains("F32"));
    }
}
