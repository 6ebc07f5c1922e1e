//! Recording costs nothing where there is nothing to record: operators on tensors that no variable went into allocate as often
//! with recording as without.

use candle_ascend::{DType, Device, Result, Tensor, Var, no_grad};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting the allocations of each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl Fn() -> Result<Tensor>) -> Result<usize> {
    // The first call may fill pools of the libraries below.
    f()?;
    let before = COUNT.get();
    f()?;
    Ok(COUNT.get() - before)
}

/// An operator, and the most allocations that it may take on the CPU: elements, storage, tensor, sizes and strides, of which
/// a view shares the first two.
type Case = (&'static str, fn(&Tensor) -> Result<Tensor>, usize);

#[test]
fn untracked_operators_allocate_nothing_for_the_tape() -> Result<()> {
    let cases: [Case; 6] = [
        ("add", |x| x.add(x), 5),
        ("exp", |x| x.exp(), 5),
        ("narrow", |x| x.narrow(0, 1, 2), 3),
        ("transpose", |x| x.t(), 3),
        ("reshape", |x| x.reshape((2, 8)), 5),
        ("cat", |x| Tensor::cat(&[x, x], 0), 5),
    ];
    let x = Tensor::ones((4, 4), DType::F32, &Device::Cpu)?;
    let variable = Var::from_tensor(&x)?;
    let mut over = Vec::new();
    for (name, f, most) in cases {
        let plain = allocations(|| f(&x))?;
        assert_eq!(plain, no_grad(|| allocations(|| f(&x)))?, "{name}: with recording, and without");
        assert!(plain < allocations(|| f(&variable))?, "{name} of a variable is recorded");
        if plain > most {
            over.push(format!("{name} {plain}, at most {most}"));
        }
    }
    assert!(over.is_empty(), "more allocations than before: {}", over.join("; "));
    Ok(())
}
