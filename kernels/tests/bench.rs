//! The modelled times: what a case must come to, whatever the kernel is like.

use ascend_kernels::Launch;
use ascend_kernels::bench::cases;
use ascend_kernels::flash::Strides;
use ascend_kernels::flash_attention::{self, FlashAttentionShape};
use ascend_kernels::plan::Float;
use ascend_kernels::twin::{self, Memory};

#[test]
fn no_case_is_faster_than_its_bound() {
    // The quickest case to run here; the others go through the same code.
    let cases = cases();
    let case = cases.iter().find(|case| case.part.contains("512 columns")).expect("the decoding experts");
    // 16 experts of 2 x 2048 x 7168 weights of two bytes, at 1600 bytes a nanosecond; rows add a four-hundredth.
    let bytes = 16.0 * 2.0 * 2048.0 * 7168.0 * 2.0;
    assert!((case.bytes / bytes - 1.0).abs() < 3e-3, "{}", case.bytes);
    let outcome = case.outcome().expect("a kernel that breaks no rule");
    assert!((outcome.bound - case.bytes / 1600e3).abs() < 1e-6 * outcome.bound && outcome.bound_by == "memory");
    assert!(outcome.modelled >= outcome.bound, "{outcome:?}");
    assert!(outcome.busy > 0.0 && outcome.busy <= 1.0, "{outcome:?}");
}

#[test]
fn attention_takes_no_longer_than_it_did() {
    // Counted cycles, the same in every run. docs/performance.md has these numbers: who makes a kernel faster writes the
    // new ones down in both places.
    let recorded = [("flash_attention", 605.0), ("paged_decode", 341.0), ("mla_decode", 165.0)];
    let cases = cases();
    for (kernel, microseconds) in recorded {
        let case = cases.iter().find(|case| case.kernel == kernel).expect("a case of each kernel");
        let outcome = case.outcome().expect("a kernel that breaks no rule");
        assert!(outcome.modelled < 1.05 * microseconds, "{kernel} took {microseconds} µs, and now {outcome:?}");
    }
}

#[test]
fn causal_tasks_are_shared_out_evenly() {
    // Of four lengths, 16 tasks each: dealt out in turns, the first of 20 blocks would have 10 pieces and the mean is 8.
    let (heads, queries, width) = (16, 512, 16);
    let strides = [Strides::of([heads, queries, width]); 4];
    let shape = FlashAttentionShape {
        batch: 1,
        heads,
        key_heads: heads,
        queries,
        keys: queries,
        width,
        value_width: width,
        strides,
        ragged: false,
        causal: Some(0),
        scale: 0.25,
        float: Float::BF16,
    };
    let launch: Launch = flash_attention::launch(&shape, 20).expect("a shape that it takes");
    let mut memory = Memory::default();
    let tensors = [(); 5].map(|()| memory.room(heads * queries * width * 2));
    let report = twin::run(&launch, &tensors, &mut memory).expect("a kernel that breaks no rule");
    let (pipe, _) = report.busiest();
    assert!(["V", "M", "FIX"].contains(&pipe), "a pipe of one kind of core, not {pipe}");
    assert!(report.imbalance() < 1.05, "{pipe} of one core is busy {} times the mean", report.imbalance());
}
