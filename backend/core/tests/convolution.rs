//! Convolutions, pooling and resampling give what candle's give, on the CPU and on the simulated NPU, at odd shapes.

mod operands;

use candle_ascend::Tensor;
use operands::{assert_close, devices, operand, ours, rng};
use rand::Rng;
use rand::rngs::StdRng;

/// F32 in different orders over at most 3·5·5 terms below 9, a few units in the last place each.
const TOLERANCE: f64 = 2e-5;

/// Runs `$body` over candle's tensors and over ours on every device; `T` in it is the tensor type.
macro_rules! same {
    ($case:expr, $(($x:ident = $value:expr)),+ ; $body:expr) => {{
        $(let $x = $value;)+
        let want = {
            $(let $x = &$x;)+
            $body
        }
        .unwrap_or_else(|error| panic!("{}: candle fails: {error}", $case));
        for device in devices() {
            $(let $x = &ours(&$x, &device);)+
            let got: Tensor = $body.unwrap_or_else(|error| panic!("{} on {}: {error}", $case, device.kind()));
            assert_close(&format!("{} in {} on {}", $case, stringify!($body), device.kind()), &got, &want, TOLERANCE);
        }
    }};
}

const SEEDS: std::ops::Range<u64> = 0..10;

fn float(rng: &mut StdRng, dims: &[usize]) -> candle_core::Tensor {
    operand(rng, dims, candle_ascend::DType::F32)
}

#[test]
fn convolutions() {
    for seed in SEEDS {
        let rng = &mut rng(seed);
        let (batch, groups) = (rng.random_range(1..3), rng.random_range(1..3));
        let (inputs, outputs) = (groups * rng.random_range(1..3), groups * rng.random_range(1..4));
        let (k, padding) = (rng.random_range(1..4), rng.random_range(0..3));
        let (stride, dilation) = (rng.random_range(1..4), rng.random_range(1..3));
        let (h, w) = (rng.random_range(7..11), rng.random_range(7..11));
        let case = format!(
            "seed {seed}: kernel {k}, padding {padding}, stride {stride}, dilation {dilation}, groups {groups}"
        );
        same!(case, (x = float(rng, &[batch, inputs, h, w])), (kernel = float(rng, &[outputs, inputs / groups, k, k]));
            x.conv2d(kernel, padding, stride, dilation, groups));
        same!(case, (x = float(rng, &[batch, inputs, w])), (kernel = float(rng, &[outputs, inputs / groups, k]));
            x.conv1d(kernel, padding, stride, dilation, groups));
    }
}

#[test]
fn transposed_convolutions() {
    for seed in SEEDS {
        let rng = &mut rng(seed);
        let (inputs, outputs, k) = (2 * rng.random_range(1..3), rng.random_range(1..4), rng.random_range(2..4));
        let (padding, stride, dilation) = (rng.random_range(0..2), rng.random_range(1..4), rng.random_range(1..3));
        let (h, w, more) = (rng.random_range(3..6), rng.random_range(3..6), rng.random_range(0..stride));
        let case = format!("seed {seed}: kernel {k}, padding {padding} + {more}, stride {stride}, dilation {dilation}");
        same!(case, (x = float(rng, &[2, inputs, h, w])), (kernel = float(rng, &[inputs, outputs, k, k]));
            x.conv_transpose2d(kernel, padding, more, stride, dilation));
        // One in a batch: candle's product for several, without padding, takes rows of one for those of another.
        for groups in [1, 2] {
            same!(case, (x = float(rng, &[1, inputs, w])), (kernel = float(rng, &[inputs, outputs, k]));
                x.conv_transpose1d(kernel, padding, more, stride, dilation, groups));
        }
    }
}

#[test]
fn pooling_and_resampling() {
    for seed in SEEDS {
        let rng = &mut rng(seed);
        let (h, w) = (rng.random_range(4..9), rng.random_range(4..9));
        let (to_h, to_w) = (rng.random_range(2..14), rng.random_range(2..14));
        let (size, stride) = ((rng.random_range(1..4), rng.random_range(1..4)), (rng.random_range(1..3), 2));
        let x = float(rng, &[2, 3, h, w]);
        let case = format!("seed {seed}: {h}x{w}");
        same!(case, (x = x.clone()); x.avg_pool2d_with_stride(size, stride));
        same!(case, (x = x.clone()); x.max_pool2d_with_stride(size, stride));
        same!(case, (x = x.clone()); x.max_pool2d(2));
        same!(case, (x = x.clone()); x.upsample_nearest2d(to_h, to_w));
        same!(case, (x = x.flatten(1, 2).expect("rank 3")); x.upsample_nearest1d(to_w));
        for corners in [false, true] {
            same!(case, (x = x.clone()); x.upsample_bilinear2d(to_h, to_w, corners));
            same!(case, (x = x.clone()); x.upsample_bilinear2d_with_scale(1.7, 0.6, corners));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = candle_ascend::Device::Cpu;
    let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_ascend::DType::F32, &device).expect("zeros");
    let refused = |result: candle_ascend::Result<Tensor>, word: &str| {
        let error = result.expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(zeros(&[1, 3, 8, 8]).conv2d(&zeros(&[2, 2, 3, 3]), 0, 1, 1, 1), "in_channel mismatch");
    refused(zeros(&[1, 3, 8]).conv1d(&zeros(&[2, 2, 3]), 0, 1, 1, 1), "in-channels");
    refused(zeros(&[1, 3, 2, 2]).conv2d(&zeros(&[2, 3, 5, 5]), 0, 1, 1, 1), "does not fit");
    refused(zeros(&[1, 3, 2, 2]).max_pool2d(3), "larger than the input");
    refused(zeros(&[1, 3, 2, 2]).conv_transpose2d(&zeros(&[2, 3, 2, 2]), 0, 0, 1, 1), "in_channel mismatch");
}
