//! Streams and events: asynchronous, in order, and timed.

use super::Check;
use anyhow::{Result, ensure};
use candle_ascend::acl::{Context, Event};

pub fn checks(context: &Context) -> Vec<Check> {
    vec![Check::new("events", events(context)), Check::new("order", order(context))]
}

/// An event recorded after work is complete when the work is, and the clock between two events does not run backwards.
fn events(context: &Context) -> Result<String> {
    const SIZE: usize = 16 << 20;
    let (first, last) = (Event::new(context)?, Event::new(context)?);
    let (a, b) = (context.upload(&vec![1; SIZE])?, context.allocate(SIZE)?);
    first.record()?;
    context.copy((&a, 0), (&b, 0), SIZE)?;
    last.record()?;
    last.synchronize()?;
    ensure!(first.is_complete()? && last.is_complete()?, "an event is not complete after the stream has passed it");
    let elapsed = last.elapsed_since(&first)?;
    ensure!(elapsed >= 0.0, "{elapsed} ms passed between two events in order");
    Ok(format!("16 MiB copied between two events in {elapsed:.3} ms of the device's clock"))
}

/// A chain of copies, each of which reads what the one before it wrote, gives the last link what the first had.
fn order(context: &Context) -> Result<String> {
    const LINKS: usize = 64;
    let data: Vec<u8> = (0..4096).map(|i| i as u8).collect();
    let mut link = context.upload(&data)?;
    for _ in 0..LINKS {
        let next = context.allocate(data.len())?;
        context.copy((&link, 0), (&next, 0), data.len())?;
        link = next;
    }
    let mut back = vec![0; data.len()];
    context.download(&link, &mut back)?;
    ensure!(back == data, "a copy overtook the copy before it");
    Ok(format!("{LINKS} dependent copies ran in the order of the calls"))
}
