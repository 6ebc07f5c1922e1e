//! Wrong calls fail with candle's own errors, word for word.

// The closures in the macros give `?` in a body something to return from.
#![allow(clippy::redundant_closure_call)]

mod operands;

use candle_ascend::{DType, Device, Tensor};
use operands::{devices, operand, ours, rng};

/// What went wrong, without the backtrace that the environment may ask for.
fn message(error: candle_ascend::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The message of the error that the same wrong call gives on candle's tensors and on ours.
macro_rules! same_error {
    ([$($x:ident),+], $body:expr) => {{
        let want = (|| -> candle_core::Result<_> {
            #[allow(unused_imports)]
            use candle_core::Tensor as T;
            $(let $x = $x.clone();)+
            $body.map(|_| ())
        })();
        let want = want.err().map(message);
        let want = want.unwrap_or_else(|| panic!("candle accepts {}", stringify!($body)));
        for device in devices() {
            let got = (|| -> candle_ascend::Result<_> {
                #[allow(unused_imports)]
                use candle_ascend::Tensor as T;
                $(let $x = ours(&$x, &device);)+
                $body.map(|_| ())
            })();
            assert_eq!(got.err().map(message).as_ref(), Some(&want), "{} on {}", stringify!($body), device.kind());
        }
    }};
}

#[test]
fn wrong_shapes_and_types() {
    let x = operand(&mut rng(0), &[2, 3], DType::F32);
    let y = operand(&mut rng(1), &[3, 2], DType::F32);
    let whole = operand(&mut rng(2), &[2, 3], DType::I64);
    same_error!([x, y], x.add(&y));
    same_error!([x, y], x.broadcast_mul(&y));
    same_error!([x, whole], x.mul(&whole));
    same_error!([x, whole], x.lt(&whole));
    same_error!([x], x.matmul(&x));
    same_error!([x], x.reshape((4, 2)));
    same_error!([x], x.reshape((4, ())));
    same_error!([x], x.narrow(1, 2, 2));
    same_error!([x], x.narrow(1, 4, 1));
    same_error!([x], x.narrow(2, 0, 1));
    same_error!([x], x.sum(2));
    same_error!([x], x.argmax(5));
    same_error!([x], x.transpose(0, 2));
    same_error!([x], x.permute((0, 0)));
    same_error!([x], x.broadcast_as((2, 4)));
    same_error!([x, y], T::cat(&[&x, &y], 0));
    same_error!([x], x.to_vec1::<f32>());
    same_error!([x], x.to_scalar::<f32>());
    same_error!([x], x.to_vec2::<f64>());
    same_error!([x, y], x.where_cond(&x, &y));
    same_error!([x, y], x.slice_set(&y, 0, 0));
    same_error!([x], x.t()?.slice_set(&x.t()?, 0, 0));
    same_error!([x], x.embedding(&x));
}

#[test]
fn unknown_devices() {
    let error = Device::new_cuda(0).err().map(message);
    if cfg!(not(feature = "cuda")) {
        assert_eq!(error.as_deref(), Some("the candle crate has not been built with cuda support"));
    }
    let error = Device::Cpu.as_npu_device().err().map(message);
    assert_eq!(error.as_deref(), Some("expected an npu device, got cpu"));
}

#[test]
fn raw_bytes_of_the_wrong_length() {
    let error = Tensor::from_raw_buffer(&[0; 7], DType::F32, &[2], &Device::Cpu).err().map(message);
    assert_eq!(error.as_deref(), Some("7 bytes do not hold the 2 F32 elements of shape [2]"));
}
