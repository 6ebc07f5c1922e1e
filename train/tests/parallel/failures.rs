//! Ranks that differ, and ranks that go away.

use crate::support::*;
use npu_train::Sharding;

fn facts(rate: &str) -> Vec<(String, String)> {
    [("version", "0.1.0"), ("--learning-rate", rate), ("--max-steps", "10")]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .to_vec()
}

#[test]
fn ranks_that_were_started_differently_are_named_on_every_rank() {
    let answers = ranks(3, |ranks, _| {
        ranks.agree(&facts("1e-4"))?;
        ranks.agree(&facts(if ranks.rank() == 1 { "1e-3" } else { "1e-4" }))
    });
    for answer in answers {
        let text = answer.unwrap_err().to_string();
        assert!(text.contains("--learning-rate is 1e-4 on rank 0, 2 and 1e-3 on rank 1"), "{text}");
    }
}

#[test]
fn a_rank_that_leaves_fails_the_others_step_by_its_name_and_the_call() {
    let answers = ranks(2, |ranks, device| {
        let mut training = Training::new(ranks, device, Sharding::default())?;
        training.step(0)?;
        if ranks.rank() == 1 {
            return Ok(());
        }
        // A collective that fails does not stop the operators after it: what they computed is only read, and then checked.
        let mut grads = training.partition.gradients();
        grads.add(training.loss(&training.batches(1)?[0])?, 1., true)?;
        grads.finish()?[0].sum_all()?.to_scalar::<f32>()?;
        ranks.check()
    });
    let text = format!("{:#}", answers[0].as_ref().unwrap_err());
    assert!(text.contains("rank 1 has destroyed its communicator") && text.contains("HcclAllReduce"), "{text}");
}

#[test]
fn gradients_after_the_last_are_refused() {
    succeed(2, |ranks, device| {
        let training = Training::new(ranks, device, Sharding::default())?;
        let batch = &training.batches(0)?[0];
        let mut grads = training.partition.gradients();
        grads.add(training.loss(batch)?, 1., true)?;
        let error = grads.add(training.loss(batch)?, 1., false).unwrap_err().to_string();
        assert!(error.contains("after the last one"), "{error}");
        grads.finish()?;
        ranks.barrier()
    });
}
