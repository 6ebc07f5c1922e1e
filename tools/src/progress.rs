//! Progress bars: on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar over bytes, hidden when standard error is not a terminal or `quiet`.
pub fn bytes(what: &'static str, quiet: bool) -> ProgressBar {
    bar(what, quiet, "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
}

/// A bar over steps.
pub fn steps(what: &'static str, count: usize, quiet: bool) -> ProgressBar {
    let bar = bar(what, quiet, "{msg} [{bar:30}] {pos}/{len} {eta}");
    bar.set_length(count as u64);
    bar
}

/// A bar over training steps, whose message is how the last one went.
pub fn training(count: usize, quiet: bool) -> ProgressBar {
    let bar = bar("", quiet, "[{bar:30}] {pos}/{len} {msg} · {eta} left");
    bar.set_length(count as u64);
    bar
}

fn bar(what: &'static str, quiet: bool, template: &str) -> ProgressBar {
    let hidden = quiet || !std::io::stderr().is_terminal();
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style =
        ProgressStyle::with_template(template).expect("the template is a constant of this file").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(0), target).with_style(style).with_message(what)
}
