//! The modelled times: what a case must come to, whatever the kernel is like.

use ascend_kernels::bench::cases;

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
