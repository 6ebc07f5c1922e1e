//! What a thread launches, by name.

use std::cell::RefCell;

thread_local! {
    /// What this thread has launched since somebody asked; none while nobody asks.
    static NAMES: RefCell<Option<Vec<&'static str>>> = const { RefCell::new(None) };
}

/// Runs `work` and tells what this thread launched meanwhile, in its order: operators by their rows of the table, our own
/// kernels by their entries, those that go into a graph included. Who asks within `work` hears of those instead.
pub fn launched<R>(work: impl FnOnce() -> R) -> (R, Vec<&'static str>) {
    struct Restore(Option<Vec<&'static str>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            NAMES.set(self.0.take());
        }
    }
    let _restore = Restore(NAMES.replace(Some(Vec::new())));
    let answer = work();
    (answer, NAMES.take().unwrap_or_default())
}

pub(super) fn note(name: &'static str) {
    NAMES.with_borrow_mut(|names| {
        if let Some(names) = names {
            names.push(name);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_heard_by_who_asked_last() {
        note("nobody");
        let (inner, outer) = launched(|| {
            note("Add");
            let ((), inner) = launched(|| note("Mul"));
            note("Sub");
            inner
        });
        assert_eq!((inner, outer), (vec!["Mul"], vec!["Add", "Sub"]));
    }
}
