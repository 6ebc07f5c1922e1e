//! What goes over the wire in a step, and when.

use crate::support::*;
use cann_sim::runtime::{stats, timeline};
use npu_train::{Sharding, Zero};
use std::sync::Barrier;

fn sharding(zero: Zero) -> Sharding {
    Sharding { zero, bucket_bytes: 64 << 10 }
}

/// What all ranks send in the gradients' part of a step and in what follows the optimizer, bytes, and calls of `op`.
fn traffic(size: usize, zero: Zero, op: &'static str) -> (f64, f64, u64, usize) {
    let meet = Barrier::new(size);
    let answers = succeed(size, |ranks, device| {
        let training = Training::new(ranks, device, sharding(zero))?;
        let batches = training.batches(0)?;
        let count = || -> anyhow::Result<stats::Stats> {
            ranks.communicator().unwrap().synchronize()?;
            meet.wait();
            let stats = stats::stats();
            meet.wait();
            Ok(stats)
        };
        let before = count()?;
        let mut grads = training.partition.gradients();
        for (i, batch) in batches.iter().enumerate() {
            // Not the last time: what the first passes add stays on this rank.
            let last = i + 1 == batches.len();
            grads.add(training.loss(batch)?, 1., last)?;
            if !last {
                assert_eq!(count()?.wire_sent, before.wire_sent, "sent after batch {i}");
            }
        }
        grads.finish()?;
        let between = count()?;
        training.partition.spread()?;
        let after = count()?;
        let calls = |stats: &stats::Stats| stats.launches.get(op).copied().unwrap_or(0);
        let sent = (between.wire_sent - before.wire_sent, after.wire_sent - between.wire_sent);
        Ok((sent.0 as f64, sent.1 as f64, calls(&between) - calls(&before), 4 * training.elements()))
    });
    answers[0]
}

#[test]
fn a_step_sends_what_the_ring_must_and_no_more() {
    for size in [2, 4] {
        let once = |bytes: usize| (size - 1) as f64 * bytes as f64;
        // Of all ranks together: each sends (N - 1)/N of the bytes, or that twice.
        let (reduced, spread, calls, bytes) = traffic(size, Zero::Off, "HcclAllReduce");
        println!(
            "{size} ranks: {calls} calls, {} bytes a rank, bound {}",
            reduced / size as f64,
            2. * once(bytes) / size as f64
        );
        assert!((reduced / (2. * once(bytes)) - 1.).abs() <= 0.05, "{size} ranks: {reduced} of {}", 2. * once(bytes));
        assert_eq!(spread, 0.);
        assert!(calls > 3 * size as u64, "{calls} calls are too few buckets for this test");

        let (reduced, spread, calls, bytes) = traffic(size, Zero::Gradients, "HcclReduceScatter");
        println!("{size} ranks, ZeRO 2: {reduced} and {spread} bytes, bound {} each", once(bytes));
        // As much in sum; the padding to blocks is within the same bound.
        assert!(((reduced + spread) / (2. * once(bytes)) - 1.).abs() <= 0.05, "{size} ranks: {reduced} and {spread}");
        assert!(calls > 3 * size as u64);
    }
}

#[test]
fn most_reductions_are_over_before_backward_is() {
    for size in [2, 4] {
        let answers = succeed(size, |ranks, device| {
            let how = Sharding { bucket_bytes: 32 << 10, ..Sharding::default() };
            let training = Training::new(ranks, device, how)?;
            let batches = training.batches(0)?;
            let loss = training.loss(&batches[0])?;
            ranks.barrier()?;
            if ranks.leads() {
                timeline::start();
            }
            ranks.barrier()?;
            let mut grads = training.partition.gradients();
            grads.add(loss, 1., true)?;
            ranks.barrier()?;
            // Modelled times are computed when a task is issued, so all of backward has its own by now.
            let (spans, _) = if ranks.leads() { timeline::take() } else { Default::default() };
            let device = device.as_npu_device()?.ordinal() as u32;
            let own = || spans.iter().filter(|span| span.device == device);
            let operators = own().filter(|span| span.op.starts_with("aclnn"));
            let backward = operators.map(|span| span.start + span.time).fold(0., f64::max);
            let reductions: Vec<_> = own().filter(|span| span.op == "HcclAllReduce").collect();
            let over = reductions.iter().filter(|span| span.start + span.time <= backward).count();
            grads.finish()?;
            Ok((over, reductions.len()))
        });
        let (over, started) = answers[0];
        println!(
            "{size} ranks: {over} of {started} reductions that began in backward were over before its end (modelled)"
        );
        assert!(started > 4 && over + 2 >= started, "{over} of {started}");
    }
}
