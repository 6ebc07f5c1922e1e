//! The laws of a plan: every sample once an epoch, ranks and accumulation are the same thing, nothing depends on what was
//! asked before.

use super::*;
use std::collections::HashSet;

fn lengths(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 1 + i * 37 % 61).collect()
}

fn plan(count: usize, ranks: usize, batch_size: usize, accumulation: usize, packing: Option<usize>) -> Plan {
    let options = PlanOptions {
        batch_size,
        accumulation,
        packing,
        seed: 7,
        length: Length::Epochs(2.),
        ..PlanOptions::default()
    };
    Plan::new(&lengths(count), ranks, options).unwrap()
}

/// The samples of a step over all ranks, sorted.
fn step(plan: &Plan, step: usize) -> Vec<usize> {
    let mut samples: Vec<usize> = (0..plan.ranks).flat_map(|rank| plan.batches(step, rank).concat()).collect();
    samples.sort_unstable();
    samples
}

#[test]
fn an_epoch_has_every_sample_once_also_in_its_short_last_step() {
    for (count, ranks, batch, accumulation, packing) in [
        (1, 1, 1, 1, None),
        (64, 1, 8, 1, None),
        (61, 2, 4, 3, None),
        (5, 4, 2, 1, None),
        (200, 2, 2, 2, Some(64)),
        (3, 4, 1, 1, Some(200)),
    ] {
        let plan = plan(count, ranks, batch, accumulation, packing);
        let epoch = plan.steps_per_epoch();
        assert_eq!(plan.steps(), 2 * epoch);
        for start in [0, epoch] {
            let mut seen: Vec<usize> = (start..start + epoch).flat_map(|i| step(&plan, i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>(), "{count} samples on {ranks} ranks");
        }
        for i in 0..2 * epoch {
            let units = |rank| plan.batches(i, rank).iter().map(Vec::len).sum::<usize>();
            let batches: Vec<usize> = (0..ranks).map(|rank| plan.batches(i, rank).len()).collect();
            assert!(batches.iter().all(|batches| *batches <= accumulation), "{batches:?}");
            if packing.is_none() {
                let (most, least) = ((0..ranks).map(units).max().unwrap(), (0..ranks).map(units).min().unwrap());
                assert!(most - least <= 1, "step {i}: {least} to {most} samples a rank");
            }
        }
    }
}

#[test]
fn ranks_and_accumulation_and_batch_size_are_the_same_step() {
    for packing in [None, Some(64)] {
        let one = plan(100, 1, 1, 8, packing);
        for other in [plan(100, 4, 1, 2, packing), plan(100, 2, 4, 1, packing), plan(100, 8, 1, 1, packing)] {
            assert_eq!(other.steps(), one.steps());
            (0..one.steps()).for_each(|i| assert_eq!(step(&other, i), step(&one, i), "step {i}"));
        }
    }
}

#[test]
fn a_step_does_not_depend_on_what_was_asked_before() {
    let forward = plan(61, 2, 4, 1, Some(64));
    let backward = plan(61, 2, 4, 1, Some(64));
    let asked: Vec<_> = (0..forward.steps()).map(|i| forward.batches(i, 1)).collect();
    let again: Vec<_> = (0..backward.steps()).rev().map(|i| backward.batches(i, 1)).collect();
    assert_eq!(asked, again.into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let epoch = |seed, epoch| shuffled(100, seed, epoch);
    let orders: HashSet<Vec<u32>> = [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)].map(|(s, e)| epoch(s, e)).into();
    assert_eq!(orders.len(), 5);
    assert_eq!(epoch(1, 1), epoch(1, 1));
    let options = PlanOptions { batch_size: 3, shuffle: false, ..PlanOptions::default() };
    let plain = Plan::new(&[5; 7], 1, options).unwrap();
    assert_eq!((0..3).map(|i| step(&plain, i)).collect::<Vec<_>>(), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    assert_eq!(step(&plain, 3), [0, 1, 2]);
}

#[test]
fn bins_hold_what_fits_and_few_are_opened() {
    let lengths = lengths(500);
    let order: Vec<u32> = (0..500).collect();
    let (samples, ends) = pack(&lengths, &order, 64);
    let total: u32 = lengths.iter().sum();
    let mut start = 0;
    for &end in &ends {
        let bin = &samples[start..end as usize];
        assert!(!bin.is_empty() && bin.iter().map(|&i| lengths[i as usize]).sum::<u32>() <= 64, "{bin:?}");
        assert!(bin.windows(2).all(|pair| lengths[pair[0] as usize] >= lengths[pair[1] as usize]));
        start = end as usize;
    }
    assert_eq!(start, 500);
    let fewest = total.div_ceil(64);
    assert!(ends.len() as u32 <= fewest * 11 / 9 + 4, "{} bins, at least {fewest} are needed", ends.len());
    // By hand: 4 fills up the bin of 6, and 3 and 2 that of 5.
    assert_eq!(pack(&[4, 6, 3, 5, 2], &[0, 1, 2, 3, 4], 10), (vec![1, 0, 3, 2, 4], vec![2, 5]));
    assert_eq!(pack(&[12, 1], &[0, 1], 10), (vec![0, 1], vec![1, 2]));
}

#[test]
fn lengths_of_runs() {
    let steps = |length| {
        let options = PlanOptions { batch_size: 4, length, ..PlanOptions::default() };
        let plan = Plan::new(&[1; 10], 1, options).unwrap();
        (plan.steps(), plan.epoch(plan.steps()))
    };
    assert_eq!(steps(Length::Epochs(3.)), (9, 3.));
    assert_eq!(steps(Length::Epochs(0.5)), (2, 2. / 3.));
    assert_eq!(steps(Length::Steps(4)), (4, 4. / 3.));
    let tenth = PlanOptions { batch_size: 1, length: Length::Epochs(0.1), ..PlanOptions::default() };
    assert_eq!(Plan::new(&[1; 30], 1, tenth).unwrap().steps(), 3);
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let says = |lengths: &[u32], ranks, options: PlanOptions, says: &str| {
        let error = Plan::new(lengths, ranks, options).err().expect(says).to_string();
        assert!(error.contains(says), "{error}");
    };
    let with = PlanOptions::default;
    says(&[], 1, with(), "no samples");
    says(&[1], 0, with(), "ranks of 0");
    says(&[1], 1, PlanOptions { batch_size: 0, ..with() }, "a batch of 0");
    says(&[1], 1, PlanOptions { accumulation: 0, ..with() }, "an accumulation of 0");
    says(&[1], 1, PlanOptions { length: Length::Epochs(0.), ..with() }, "0 epochs");
    says(&[1], 1, PlanOptions { length: Length::Steps(0), ..with() }, "0 steps");
    says(&[1, 9], 1, PlanOptions { packing: Some(8), ..with() }, "9 tokens");
}
