//! A CANN that lacks the functions of graphs: no error, and the reason on request.

use candle_ascend::{DType, Device, Tensor};
use cann_sim::{Config, Embedded};
use std::sync::Arc;

#[test]
fn without_the_functions_there_is_no_graph_and_no_error() {
    candle_ascend::register_simulator(|_| {
        let mut config = Config::default();
        config.faults.missing = vec!["aclmdlRICaptureBegin".into()];
        Ok(Arc::new(Embedded::with(config).map_err(|status| status.message)?))
    });
    let device = Device::new_sim("", 0).expect("the simulated NPU opens");
    let why = || device.as_npu_device().expect("an NPU").context().why_no_graphs();
    assert_eq!(why(), None, "nobody has asked yet");
    let x = Tensor::ones(4, DType::F32, &device).expect("ones");
    for _ in 0..2 {
        let captured = device.capture(|| x.exp().map(|_| panic!("the work is not done"))).expect("no error");
        assert!(captured.is_none_or(|(_, ())| false));
    }
    let why = why().expect("a reason");
    assert!(why.contains("aclmdlRICaptureBegin") && why.contains("8.1"), "{why}");
    assert!(Device::Cpu.capture(|| Ok::<_, candle_ascend::Error>(())).expect("no error").is_none());
}
