//! Threads that share one small job at a time.
//!
//! A decoded token is some hundred products of tens of microseconds each. A sleeping thread takes as long to wake as such a
//! product takes, so the helpers here keep looking for the next job for a moment before they sleep, and a job is
//! announced by one store. The size of the team is that of rayon's pool, so that one setting (`RAYON_NUM_THREADS`)
//! holds for both.

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a helper looks for the next job before it sleeps: longer than what lies between two products of a token.
const PATIENCE: Duration = Duration::from_micros(150);

type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// One job: what to do, and how many times.
#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    tasks: usize,
}

struct Team {
    helpers: usize,
    /// Held while a job runs; what cannot have it works alone.
    lead: Mutex<()>,
    job: Mutex<Option<Job>>,
    /// Counts jobs in the upper half; bit 31 says that the job may be joined, the bits below count who has joined.
    gate: AtomicU64,
    next: AtomicUsize,
    failed: AtomicBool,
    sleepers: Mutex<usize>,
    some_sleep: AtomicBool,
    wake: Condvar,
}

// SAFETY: `job` holds a pointer to a `Sync` closure, which is used only between the opening and the closing of the gate;
// `run` keeps the closure alive for that time.
unsafe impl Send for Job {}

const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;
const ONE_JOB: u64 = 1 << 32;

static TEAM: LazyLock<Team> = LazyLock::new(|| Team {
    helpers: rayon::current_num_threads().saturating_sub(1),
    lead: Mutex::new(()),
    job: Mutex::new(None),
    gate: AtomicU64::new(0),
    next: AtomicUsize::new(0),
    failed: AtomicBool::new(false),
    sleepers: Mutex::new(0),
    some_sleep: AtomicBool::new(false),
    wake: Condvar::new(),
});

static START: LazyLock<()> = LazyLock::new(|| {
    for helper in 0..TEAM.helpers {
        let thread = std::thread::Builder::new().name(format!("cpu-kernels-{helper}"));
        // A machine that refuses the thread has one that works alone: nobody waits for who has not joined.
        let _ = thread.spawn(|| TEAM.help());
    }
});

/// Calls `work` with `0..tasks`, each once, on as many threads as pay. Tasks should be few and each some microseconds
/// long or more. A panic in a task is passed on.
pub fn share(tasks: usize, work: impl Fn(usize) + Sync) {
    if tasks > 1 && TEAM.helpers > 0 {
        LazyLock::force(&START);
        // Another thread's job, or the job whose task this is: no helper is free.
        if let Ok(lead) = TEAM.lead.try_lock() {
            TEAM.run(tasks, &work);
            drop(lead);
            return;
        }
    }
    (0..tasks).for_each(work);
}

/// Threads that [`share`] has at most.
pub(crate) fn threads() -> usize {
    TEAM.helpers + 1
}

/// Cuts `data` in chunks of `size` and calls `work` with the index and elements of each, as [`share`] does.
pub fn share_chunks<T: Send>(data: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let chunks: Vec<_> = data.chunks_mut(size).map(|chunk| Mutex::new(Some(chunk))).collect();
    share(chunks.len(), |index| {
        if let Some(chunk) = chunks[index].lock().unwrap_or_else(PoisonError::into_inner).take() {
            work(index, chunk);
        }
    });
}

/// `len` elements made by `work`, which gets the index and elements of each chunk of `size`, zeroed, as [`share_chunks`] does.
/// A chunk is zeroed by the thread that goes on with it, while it is in its cache.
pub fn share_new<T: Copy + Default + Send>(len: usize, size: usize, work: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut made = Vec::with_capacity(len);
    share_chunks(&mut made.spare_capacity_mut()[..len], size, |index, chunk| work(index, zeroed(chunk)));
    // SAFETY: as many elements were reserved, and each lies in a chunk that was zeroed; a task that panics does not come here.
    unsafe { made.set_len(len) };
    made
}

fn zeroed<T: Copy + Default>(chunk: &mut [MaybeUninit<T>]) -> &mut [T] {
    chunk.fill(MaybeUninit::new(T::default()));
    // SAFETY: every element was written just now, and the type has the layout of what it may hold.
    unsafe { &mut *(chunk as *mut [MaybeUninit<T>] as *mut [T]) }
}

impl Team {
    fn run(&self, tasks: usize, work: &Work<'_>) {
        // SAFETY: only the lifetime changes; the gate is closed and all who joined have left before this returns.
        let work: *const Work<'static> = unsafe { std::mem::transmute(work) };
        let job = Job { work, tasks };
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        self.next.store(0, Relaxed);
        self.failed.store(false, Relaxed);
        let count = self.gate.load(Relaxed) / ONE_JOB + 1;
        self.gate.store((count * ONE_JOB) | OPEN, SeqCst);
        if self.some_sleep.load(SeqCst) {
            drop(self.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.work_off(job)));
        self.gate.fetch_and(!OPEN, SeqCst);
        let mut looks = 0u32;
        while self.gate.load(Acquire) & JOINED > 0 {
            // A helper whose core was taken away needs ours.
            looks += 1;
            if looks.is_multiple_of(256) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!self.failed.load(Acquire), "a task of a shared job panicked; its message is above");
    }

    fn work_off(&self, job: Job) {
        // SAFETY: the caller has joined the job or leads it, so the closure is alive.
        let work = unsafe { &*job.work };
        loop {
            let task = self.next.fetch_add(1, Relaxed);
            if task >= job.tasks {
                return;
            }
            work(task);
        }
    }

    fn help(&self) {
        let mut done = 0;
        loop {
            let gate = self.wait(done);
            done = gate / ONE_JOB;
            if !self.join(gate) {
                continue;
            }
            let job = *self.job.lock().unwrap_or_else(PoisonError::into_inner);
            let worked = catch_unwind(AssertUnwindSafe(|| job.map(|job| self.work_off(job))));
            if worked.is_err() {
                self.failed.store(true, Release);
            }
            self.gate.fetch_sub(1, Release);
        }
    }

    /// Counts the caller in, if the job that it saw is still open.
    fn join(&self, mut gate: u64) -> bool {
        let number = gate / ONE_JOB;
        while gate & OPEN != 0 && gate / ONE_JOB == number {
            match self.gate.compare_exchange_weak(gate, gate + 1, SeqCst, Relaxed) {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
        false
    }

    /// The gate, once it stands open for another job than number `done`.
    fn wait(&self, done: u64) -> u64 {
        let open = || Some(self.gate.load(SeqCst)).filter(|gate| gate & OPEN != 0 && gate / ONE_JOB != done);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for _ in 0..32 {
                if let Some(gate) = open() {
                    return gate;
                }
                std::hint::spin_loop();
            }
        }
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        *sleepers += 1;
        self.some_sleep.store(true, SeqCst);
        let gate = loop {
            // Looked at after the flag was set: either this sees the job or its leader sees the flag.
            match open() {
                Some(gate) => break gate,
                None => sleepers = self.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner),
            }
        };
        *sleepers -= 1;
        self.some_sleep.store(*sleepers > 0, SeqCst);
        gate
    }
}
