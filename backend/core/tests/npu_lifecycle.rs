//! Devices that threads open, use and drop at the same time.

mod common;

use candle_ascend::{DType, Layout};
use candle_core::backend::BackendStorage;
use candle_core::op;
use common::*;
use std::sync::Barrier;

/// The last user of a device resets it: that must never take away what another thread just opened.
#[test]
fn threads_open_use_and_drop_one_device() {
    const THREADS: usize = 6;
    const ROUNDS: u64 = 300;
    // The rounds begin together, so that the drops of one round meet the openings of the next.
    let barrier = Barrier::new(THREADS);
    let work = |thread: u64| {
        let layout = Layout::contiguous(64);
        for round in 0..ROUNDS {
            if round % 8 == 0 {
                barrier.wait();
            }
            let device = npu_at(2);
            let (x, cpu) = both(&device, DType::F32, 64, thread * ROUNDS + round);
            let sum = x.binary_impl::<op::Add>(&x, &layout, &layout);
            agree(&format!("thread {thread}, round {round}"), sum, cpu.binary_impl::<op::Add>(&cpu, &layout, &layout));
        }
    };
    // A thread that fails would leave the others at the barrier: it ends the test at once.
    let guarded = |thread: u64| {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(thread))).is_err() {
            std::process::exit(101);
        }
    };
    std::thread::scope(|scope| {
        (0..THREADS as u64).for_each(|thread| {
            drop(scope.spawn({
                let guarded = &guarded;
                move || guarded(thread)
            }))
        });
    });
    let free = npu_at(2).memory_info().expect("memory");
    assert_eq!(free.reserved, 0, "every context gave back what it had");
}
