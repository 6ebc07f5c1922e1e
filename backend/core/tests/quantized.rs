//! Quantised weights give what candle's give on the CPU, and on a simulated NPU what their dequantised values give.

mod operands;

use candle_ascend::quantized::{GgmlDType, QMatMul, QTensor, gguf_file};
use candle_ascend::{Device, Module, Tensor};
use candle_core::quantized as theirs;
use operands::{assert_close, devices, operand, ours, rng};
use std::sync::Arc;

const FORMATS: [GgmlDType; 4] = [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4K, GgmlDType::Q6K];

fn weight(seed: u64) -> candle_core::Tensor {
    operand(&mut rng(seed), &[9, 256], candle_ascend::DType::F32)
}

#[test]
fn products_and_rows() {
    let input = operand(&mut rng(1), &[2, 3, 256], candle_ascend::DType::F32);
    let ids = candle_core::Tensor::new(&[[0u32, 8], [3, 3]], &candle_core::Device::Cpu).expect("ids");
    for format in FORMATS {
        let blocks = Arc::new(theirs::QTensor::quantize(&weight(2), format).expect("candle quantises"));
        let wanted =
            candle_core::Module::forward(&theirs::QMatMul::from_arc(blocks.clone()).expect("candle's product"), &input)
                .expect("candle multiplies");
        let plain = blocks.dequantize(&candle_core::Device::Cpu).expect("values");
        let exact = input.broadcast_matmul(&plain.t().expect("matrix")).expect("product");
        for device in devices() {
            let case = format!("{format:?} on {}", device.kind());
            let weight = QTensor::quantize_onto(&ours(&weight(2), &Device::Cpu), format, &device).expect("quantises");
            assert_eq!(
                (weight.dtype(), weight.shape(), weight.device().kind()),
                (format, blocks.shape(), device.kind())
            );
            assert_eq!(weight.data().expect("bytes"), blocks.data().expect("bytes"), "{case}: blocks");
            assert_close(&case, &weight.dequantize(&device).expect("values"), &plain, 0.);
            assert_close(
                &case,
                &weight.embedding(&ours(&ids, &device)).expect("rows"),
                &blocks.embedding(&ids).expect("rows"),
                0.,
            );
            let product = QMatMul::from_qtensor(weight).expect("a product").forward(&ours(&input, &device));
            // candle's kernel on the CPU rounds the input to eight bits too; an NPU multiplies the values as they are,
            // over 256 terms below 9 in F32.
            match device.is_cpu() {
                true => assert_close(&case, &product.expect("multiplies"), &wanted, 0.),
                false => assert_close(&case, &product.expect("multiplies"), &exact, 1e-4),
            }
        }
    }
}

#[test]
fn gguf_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.gguf");
    let blocks = QTensor::quantize(&ours(&weight(3), &Device::Cpu), GgmlDType::Q4K).expect("quantises");
    let heads = gguf_file::Value::U32(7);
    let mut file = std::fs::File::create(&path).expect("a file");
    gguf_file::write(&mut file, &[("model.heads", &heads)], &[("layer", &blocks)]).expect("writes");
    for device in devices() {
        let mut file = std::fs::File::open(&path).expect("the file");
        let content = gguf_file::Content::read(&mut file).expect("reads");
        assert_eq!(content.metadata["model.heads"].to_u32().expect("a number"), 7);
        let read = content.tensor(&mut file, "layer", &device).expect("the tensor");
        assert_eq!(read.data().expect("bytes"), blocks.data().expect("bytes"));
        assert_eq!(read.device().kind(), device.kind());
        let error = content.tensor(&mut file, "other", &device).expect_err("no such tensor");
        assert!(error.to_string().contains("other"), "{error}");
    }
}

#[test]
fn what_an_npu_cannot_multiply_is_said() {
    let npu = devices().remove(1);
    let weight = QTensor::quantize_onto(&ours(&weight(4), &Device::Cpu), GgmlDType::Q8_0, &npu).expect("quantises");
    let input = Tensor::zeros((1, 256), candle_ascend::DType::F32, &npu).expect("zeros");
    let error = input.apply_op1_no_bwd(&weight).expect_err("blocks on an NPU").to_string();
    assert!(error.contains("qmatmul") && error.contains("Npu"), "{error}");
    let error = QTensor::quantize_onto(&input, GgmlDType::Q8_0, &npu).expect_err("not on the CPU").to_string();
    assert!(error.contains("cpu"), "{error}");
    let error = weight.indexed_moe_forward(&input, &input).expect_err("cuda only").to_string();
    assert!(error.contains("cuda"), "{error}");
}
