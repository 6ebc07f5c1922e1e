//! A GGUF file of random weights, for runs with quantised ones and for peers that read nothing else: the tensors of a
//! configuration under llama.cpp's names, written one by one, so that no more than one tensor's pattern is ever held.
//!
//! The format (specification: `docs/gguf.md` of ggml): magic, version, counts; keys with typed values; names, dimensions,
//! types and offsets of the tensors; the data, each tensor aligned to 32 bytes. Little-endian throughout.

use anyhow::{Context, Result, bail};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use npu_models::gguf::in_gguf;
use npu_models::{Config, Inventory, normal_values};
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use tempfile::NamedTempFile;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT: usize = 32;
/// Elements of a matrix that are quantised; the rest repeats them. A multiple of every format's block.
const PATTERN: usize = 1 << 18;

/// Formats that a file of weights can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    F32,
    F16,
    Bf16,
    Q8_0,
    /// 4 bits with some matrices in 6, as llama.cpp mixes them.
    Q4KM,
}

/// What each format is called on the command line.
const FORMATS: &[(Format, &str)] = &[
    (Format::F32, "f32"),
    (Format::F16, "f16"),
    (Format::Bf16, "bf16"),
    (Format::Q8_0, "q8_0"),
    (Format::Q4KM, "q4_k_m"),
];

impl Format {
    pub fn parse(name: &str) -> Option<Self> {
        FORMATS.iter().find(|(_, known)| name.eq_ignore_ascii_case(known)).map(|(format, _)| *format)
    }

    pub fn name(self) -> &'static str {
        FORMATS.iter().find(|(format, _)| *format == self).map_or("", |(_, name)| name)
    }

    /// `general.file_type` of the format.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Bf16 => 32,
        }
    }

    /// The type of a tensor called `name` in the file, with rows of `columns` elements.
    ///
    /// The mix of Q4_K_M: six bits for the projection to the vocabulary, and for values and the way down of the layers at
    /// both ends and of every third between. Rows that are no multiple of a block take the next format that they fit.
    fn of_tensor(self, name: &str, columns: usize, config: &Config) -> GgmlDType {
        let wanted = match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Bf16 => GgmlDType::BF16,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4KM if precise(name, config) => GgmlDType::Q6K,
            Self::Q4KM => GgmlDType::Q4K,
        };
        if columns.is_multiple_of(wanted.block_size()) {
            return wanted;
        }
        let next = if wanted == GgmlDType::Q4K { GgmlDType::Q5_0 } else { GgmlDType::Q8_0 };
        if columns.is_multiple_of(next.block_size()) { next } else { GgmlDType::F16 }
    }
}

fn precise(name: &str, config: &Config) -> bool {
    let projection = if config.tie_word_embeddings { "token_embd.weight" } else { "output.weight" };
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|layer| layer.parse().ok());
    let often = layer.is_some_and(|layer: usize| {
        let eighth = config.num_hidden_layers / 8;
        layer < eighth || layer >= 7 * eighth || (layer - eighth) % 3 == 2
    });
    name == projection || often && (name.ends_with("attn_v.weight") || name.ends_with("ffn_down.weight"))
}

/// ggml's numbers of the types that are written here.
fn type_number(dtype: GgmlDType) -> Result<u32> {
    Ok(match dtype {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q4K => 12,
        GgmlDType::Q6K => 14,
        GgmlDType::BF16 => 30,
        other => bail!("tensors of type {other:?} are not written"),
    })
}

enum Value<'a> {
    U32(u32),
    F32(f32),
    Text(&'a str),
}

/// Keys that llama.cpp needs of a dense decoder. A vocabulary without texts is enough to measure with.
fn metadata<'a>(config: &Config, family: &'a str, format: Format) -> Vec<(String, Value<'a>)> {
    let own = |key: &str, value: usize| (format!("{family}.{key}"), Value::U32(value as u32));
    vec![
        ("general.architecture".into(), Value::Text(family)),
        ("general.name".into(), Value::Text("random weights")),
        ("general.file_type".into(), Value::U32(format.file_type())),
        own("context_length", config.max_position_embeddings),
        own("embedding_length", config.hidden_size),
        own("block_count", config.num_hidden_layers),
        own("feed_forward_length", config.intermediate_size),
        own("attention.head_count", config.num_attention_heads),
        own("attention.head_count_kv", config.num_key_value_heads),
        own("attention.key_length", config.head_dim),
        own("attention.value_length", config.head_dim),
        own("rope.dimension_count", config.head_dim),
        own("vocab_size", config.vocab_size),
        (format!("{family}.attention.layer_norm_rms_epsilon"), Value::F32(config.rms_norm_eps as f32)),
        (format!("{family}.rope.freq_base"), Value::F32(config.rope.theta as f32)),
        ("tokenizer.ggml.model".into(), Value::Text("no_vocab")),
    ]
}

/// A tensor of the file.
struct Planned {
    name: String,
    shape: Vec<usize>,
    dtype: GgmlDType,
    offset: usize,
}

impl Planned {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() / self.dtype.block_size() * self.dtype.type_size()
    }
}

fn plan(config: &Config, format: Format) -> Result<Vec<Planned>> {
    let mut offset = 0;
    let mut planned = Vec::new();
    for (name, shape) in Inventory::of(config, &candle_ascend::Device::Cpu)?.tensors {
        let name = in_gguf(&name).with_context(|| format!("llama.cpp has no tensor for {name}"))?;
        let dtype = match shape[..] {
            [_, columns] => format.of_tensor(&name, columns, config),
            _ => GgmlDType::F32,
        };
        let tensor = Planned { name, shape, dtype, offset };
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
        planned.push(tensor);
    }
    Ok(planned)
}

/// Bytes of the tensors in a file of `format`.
pub fn bytes(config: &Config, format: Format) -> Result<u64> {
    Ok(plan(config, format)?.iter().map(|tensor| tensor.bytes() as u64).sum())
}

/// A file of random weights that exists as long as the result.
pub fn temporary(config: &Config, format: Format) -> Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("npu-run-bench-").suffix(".gguf").tempfile()?;
    let place = file.path().display().to_string();
    write(config, format, super::SEED, &mut BufWriter::new(file.as_file_mut()))
        .with_context(|| format!("writing random weights to {place}"))?;
    Ok(file)
}

/// Writes the file. Models whose family llama.cpp calls otherwise are an error.
pub fn write(config: &Config, format: Format, seed: u64, out: &mut impl Write) -> Result<()> {
    let family = match (config.model_type.as_deref(), config.architecture.as_deref()) {
        (Some("qwen2"), _) | (None, Some("Qwen2ForCausalLM")) => "qwen2",
        (Some("qwen3"), _) | (None, Some("Qwen3ForCausalLM")) => "qwen3",
        (Some("llama"), _) | (None, Some("LlamaForCausalLM")) => "llama",
        (kind, _) => {
            bail!("a GGUF file is written for qwen2, qwen3 and llama, not for {}", kind.unwrap_or("this model"))
        }
    };
    let planned = plan(config, format)?;
    let keys = metadata(config, family, format);
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((planned.len() as u64).to_le_bytes());
    head.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in &keys {
        put_text(&mut head, key);
        match value {
            Value::U32(value) => head.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Value::F32(value) => head.extend([6u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Value::Text(value) => {
                head.extend(8u32.to_le_bytes());
                put_text(&mut head, value);
            }
        }
    }
    for tensor in &planned {
        put_text(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        // The fastest dimension comes first.
        tensor.shape.iter().rev().for_each(|size| head.extend((*size as u64).to_le_bytes()));
        head.extend(type_number(tensor.dtype)?.to_le_bytes());
        head.extend((tensor.offset as u64).to_le_bytes());
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&head)?;
    let mut patterns = HashMap::new();
    for (index, tensor) in planned.iter().enumerate() {
        write_tensor(tensor, index, seed, &mut patterns, out).with_context(|| format!("writing {}", tensor.name))?;
        let length = tensor.bytes();
        out.write_all(&[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length])?;
    }
    Ok(out.flush()?)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Quantised values by type and columns.
type Patterns = HashMap<(u32, usize), Vec<u8>>;

/// Norm weights are one and biases small; a matrix is a pattern of its type, from another block on for each tensor.
fn write_tensor(
    tensor: &Planned,
    index: usize,
    seed: u64,
    patterns: &mut Patterns,
    out: &mut impl Write,
) -> Result<()> {
    let [_, columns] = tensor.shape[..] else {
        let count = tensor.shape.iter().product();
        let values = match tensor.name.ends_with("norm.weight") {
            true => vec![1f32; count],
            false => normal_values(seed, &tensor.name, count, 0.02),
        };
        return Ok(out.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?);
    };
    let key = (type_number(tensor.dtype)?, columns);
    if let std::collections::hash_map::Entry::Vacant(slot) = patterns.entry(key) {
        let values = normal_values(seed, "pattern", PATTERN, 1.0 / (columns as f32).sqrt());
        let values = Tensor::from_vec(values, PATTERN, &Device::Cpu)?;
        slot.insert(QTensor::quantize(&values, tensor.dtype)?.data()?.into_owned());
    }
    let pattern = &patterns[&key];
    let block = tensor.dtype.type_size();
    let mut at = (index * 4099) % (pattern.len() / block) * block;
    let mut left = tensor.bytes();
    while left > 0 {
        let part = left.min(pattern.len() - at);
        out.write_all(&pattern[at..at + part])?;
        left -= part;
        at = 0;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::Content;
    use npu_models::Shape;
    use std::io::Cursor;

    fn written(shape: &str, format: Format) -> (Content, Cursor<Vec<u8>>) {
        let mut bytes = Vec::new();
        write(&Shape::find(shape).unwrap().config().unwrap(), format, 1, &mut bytes).unwrap();
        let mut file = Cursor::new(bytes);
        (Content::read(&mut file).unwrap(), file)
    }

    /// candle's reader takes the file, and finds every tensor in its shape with values of its deviation.
    #[test]
    fn candle_reads_every_format_back() {
        for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8_0, Format::Q4KM] {
            let (content, mut file) = written("tiny", format);
            assert_eq!(content.metadata["qwen2.block_count"].to_u32().unwrap(), 2);
            assert_eq!(content.metadata["general.architecture"].to_string().unwrap(), "qwen2");
            // Embedding, final norm; per layer two norms, q k v with biases, o, and three of the feed-forward part.
            assert_eq!(content.tensor_infos.len(), 2 + 2 * (2 + 6 + 1 + 3));
            let tensor = content.tensor(&mut file, "blk.1.ffn_down.weight", &Device::Cpu).unwrap();
            assert_eq!(tensor.shape().dims(), [256, 512]);
            let values: Vec<f32> = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
            // Two per cent for the draws, and 4 bits lose as much of the deviation again.
            assert!((deviation * 512f32.sqrt() - 1.0).abs() < 0.05, "{format:?}: {deviation}");
            let norm = content.tensor(&mut file, "output_norm.weight", &Device::Cpu).unwrap();
            assert_eq!(norm.dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap(), [1.0; 256]);
            let end = content.tensor_infos.values().map(|info| info.offset).max().unwrap();
            assert!(end < bytes(&Shape::find("tiny").unwrap().config().unwrap(), format).unwrap());
        }
    }

    #[test]
    fn the_mix_is_llama_cpps() {
        let types = |shape: &str| -> HashMap<String, GgmlDType> {
            let config = Shape::find(shape).unwrap().config().unwrap();
            plan(&config, Format::Q4KM).unwrap().into_iter().map(|tensor| (tensor.name, tensor.dtype)).collect()
        };
        let large = types("qwen2.5-7b");
        assert_eq!(large["output.weight"], GgmlDType::Q6K);
        assert_eq!(large["token_embd.weight"], GgmlDType::Q4K);
        // 28 layers: 0 to 2, 21 to 27, and 5, 8, 11 … between have six bits.
        let precise: Vec<usize> =
            (0..28).filter(|i| large[&format!("blk.{i}.ffn_down.weight")] == GgmlDType::Q6K).collect();
        assert_eq!(precise, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23, 24, 25, 26, 27]);
        // Rows of 896 are no multiple of 256.
        let small = types("qwen2-0.5b");
        assert_eq!(small["blk.4.attn_q.weight"], GgmlDType::Q5_0);
        assert_eq!(small["token_embd.weight"], GgmlDType::Q8_0);
        assert_eq!(small["blk.4.ffn_down.weight"], GgmlDType::Q4K);
    }
}
