//! The allocator of programs that compute on the CPU.

use std::sync::Once;

/// What such a program names as its `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

/// Tells [`Allocator`] to keep the pages of what is freed. Training and long prompts make and drop tensors of megabytes by the
/// thousand, and a page that was given back to the system costs more when it comes again than what is computed on it.
pub fn keep_pages() {
    /// `mi_option_purge_delay`, which the bindings do not name; in milliseconds, and never where negative.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    static ONCE: Once = Once::new();
    // SAFETY: the option is a number that the allocator reads when it is about to give pages back.
    ONCE.call_once(|| unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) });
}
