//! The same losses, on however many ranks.

use crate::support::*;
use npu_train::Sharding;

const STEPS: usize = 3;
/// Small enough for the model to have several.
const BUCKET: usize = 64 << 10;

#[test]
fn ranks_lose_what_one_rank_with_as_much_accumulation_loses() {
    let how = Sharding { bucket_bytes: BUCKET, ..Sharding::default() };
    let run = |size: usize| {
        let mut all = succeed(size, |ranks, device| {
            let mut training = Training::new(ranks, device, how)?;
            let steps = (0..STEPS).map(|step| training.step(step)).collect::<anyhow::Result<Vec<_>>>()?;
            Ok((steps, training.weights()?))
        });
        let first = all.swap_remove(0);
        for (steps, weights) in &all {
            // Every rank adds up the same numbers in the same order.
            assert_eq!(apart(weights, &first.1), 0., "ranks of {size} differ");
            assert!(steps.iter().zip(&first.0).all(|(a, b)| a.loss == b.loss && a.norm == b.norm));
        }
        first
    };
    let (alone, weights) = run(1);
    let golden = Golden::read().unwrap();
    let (losses, norms) = (golden.numbers("sft_losses").unwrap(), golden.numbers("sft_grad_norms").unwrap());
    for size in [2, 4] {
        let (steps, own) = run(size);
        for (number, (step, reference)) in steps.iter().zip(&alone).enumerate() {
            println!("{size} ranks, step {number}: {step:?}, one rank {reference:?}");
            // Of a loss of about six in F32, after sums in another order.
            assert!((step.loss - reference.loss).abs() <= 1e-5, "{size} ranks, step {number}: {step:?} {reference:?}");
            // The bounds of the golden steps: models/tests/training.rs.
            assert!((step.loss - f64::from(losses[number])).abs() <= 2e-4, "step {number}: {step:?}");
            assert!((step.norm / f64::from(norms[number]) - 1.).abs() <= 1e-3, "step {number}: {step:?}");
        }
        // AdamW divides by the root of the second moment, which turns a rounding of a tiny gradient into one of a step of 1e-3.
        let off = apart(&own, &weights);
        assert!(off <= 1e-4, "{size} ranks: weights off by {off}");
    }
}
