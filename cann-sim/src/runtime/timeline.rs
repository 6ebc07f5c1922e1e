//! The modelled tasks one by one, as a Chrome trace (`chrome://tracing`, Perfetto), while someone asks for it.

use super::cost::{Cost, Unit};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// One task on the modelled clock, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub device: u32,
    pub stream: u32,
    pub op: &'static str,
    pub start: f64,
    pub time: f64,
    pub unit: Unit,
    pub cost: Cost,
}

/// Tasks kept at most: about a hundred megabytes. Later ones are counted.
const MOST: usize = 1 << 20;

static ON: AtomicBool = AtomicBool::new(false);
static SPANS: Mutex<(Vec<Span>, u64)> = Mutex::new((Vec::new(), 0));

/// Begins to keep tasks.
pub fn start() {
    ON.store(true, Ordering::Release);
}

pub(super) fn note(span: Span) {
    if !ON.load(Ordering::Acquire) {
        return;
    }
    let mut kept = SPANS.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.0.len() < MOST {
        kept.0.push(span);
    } else {
        kept.1 += 1;
    }
}

/// Ends the keeping; the tasks since [`start`], and how many more were not kept.
pub fn take() -> (Vec<Span>, u64) {
    ON.store(false, Ordering::Release);
    std::mem::take(&mut *SPANS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Writes the tasks as a Chrome trace: a process a device, a thread a stream, times in microseconds.
pub fn write(spans: &[Span], out: &mut impl Write) -> io::Result<()> {
    write!(
        out,
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"clock\":\"modelled, not measured\"}},\"traceEvents\":["
    )?;
    let mut named: Vec<u32> = spans.iter().map(|span| span.device).collect();
    named.sort_unstable();
    named.dedup();
    let mut line = String::new();
    for device in named {
        let name = format!("simulated NPU {device} (modelled)");
        let _ = write!(
            line,
            "\n{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{device},\"args\":{{\"name\":\"{name}\"}}}},"
        );
    }
    for span in spans {
        // Names of operators and units are plain letters, so nothing needs escaping.
        let Span { device, stream, op, start, time, unit, cost } = span;
        let (start, time, unit) = (start / 1e3, time / 1e3, unit.as_str());
        let Cost { bytes, cube_cycles, vector_cycles, link_bytes, wire_bytes } = cost;
        let _ = write!(
            line,
            "\n{{\"ph\":\"X\",\"name\":\"{op}\",\"cat\":\"{unit}\",\"pid\":{device},\"tid\":{stream},\
             \"ts\":{start:.3},\"dur\":{time:.3},\"args\":{{\"limit\":\"{unit}\",\"bytes\":{bytes},\
             \"cube_cycles\":{cube_cycles},\"vector_cycles\":{vector_cycles},\"link_bytes\":{link_bytes},\
             \"wire_bytes\":{wire_bytes}}}}},"
        );
        out.write_all(line.as_bytes())?;
        line.clear();
    }
    // The list ends in a comma, which JSON does not allow; the mark of the trace's end takes the place after it.
    write!(out, "{line}\n{{\"ph\":\"M\",\"name\":\"trace_end\",\"pid\":0,\"args\":{{}}}}\n]}}\n")
}
