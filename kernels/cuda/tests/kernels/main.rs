//! The kernels' arithmetic, in the sources that nvcc compiles, run on the host: `tests/host` stands in for the parts of
//! CUDA C++ that they use. What it cannot show is in its header: races, and what a GPU's own arithmetic rounds otherwise.

mod moe;
mod paged;

use half::{bf16, f16};
use libloading::os::unix::Library;
use npu_cuda::plan::{self, Launch, Problem, Rows};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ffi::{c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};

/// The kernels as the system's C++ compiler makes them; one launch at a time.
fn host() -> MutexGuard<'static, Library> {
    static HOST: OnceLock<Mutex<Library>> = OnceLock::new();
    let make = || {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libkernels_on_host.so");
        let mut command = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        command.args(["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"]);
        command.arg(crate_folder.join("tests/host")).arg("-o").arg(&made).arg(crate_folder.join("tests/host/host.cpp"));
        let output = command.output().expect("the C++ compiler runs");
        assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: the library was just made from sources of this crate and has no initialisers of consequence.
        Mutex::new(unsafe { Library::new(made) }.expect("the library loads"))
    };
    HOST.get_or_init(make).lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs `kernel` with the function of the launch's entry point, once a thread of the grid.
fn launch<F: Copy>(launch: &Launch, kernel: impl Fn(F)) {
    type Run = unsafe extern "C" fn(*const u32, u32, extern "C" fn(*mut c_void), *mut c_void) -> c_int;
    extern "C" fn each<K: Fn()>(kernel: *mut c_void) {
        // SAFETY: the pointer is to the closure below, which outlives the launch.
        unsafe { (*kernel.cast::<K>())() }
    }
    fn run<K: Fn()>(run: Run, launch: &Launch, mut kernel: K) {
        // SAFETY: `run` is `launch` of host.cpp with its declared types, and calls `each` only before it returns.
        let failed = unsafe { run(launch.grid.as_ptr(), launch.threads, each::<K>, (&raw mut kernel).cast()) };
        assert_eq!(failed, 0, "{launch:?}: threads wait for others that went elsewhere");
    }
    let host = host();
    // SAFETY: the callers give the types of the entry points as `cu/` declares them.
    let (start, entry) = unsafe {
        let entry = host.get::<F>(launch.entry.as_bytes()).unwrap_or_else(|error| panic!("{launch:?}: {error}"));
        (*host.get::<Run>(b"launch").expect("host.cpp has launch"), *entry)
    };
    run(start, launch, || kernel(entry));
}

trait Real: Copy + 'static {
    const SUFFIX: &'static str;
    /// Half of the distance between 1 and the next number, with room for a sum of a few hundred terms in F32.
    const TOLERANCE: f64;
    fn from(value: f64) -> Self;
    fn to(self) -> f64;
}

macro_rules! real {
    ($($ty:ty, $suffix:literal, $tolerance:literal, $from:expr, $to:expr;)*) => { $(
        impl Real for $ty {
            const SUFFIX: &'static str = $suffix;
            const TOLERANCE: f64 = $tolerance;
            fn from(value: f64) -> Self {
                $from(value)
            }
            fn to(self) -> f64 {
                $to(self)
            }
        }
    )* };
}
real! {
    f32, "f32", 4e-6, |v| v as f32, |v| v as f64;
    f16, "f16", 5e-4, f16::from_f64, f16::to_f64;
    bf16, "bf16", 4e-3, bf16::from_f64, bf16::to_f64;
}

/// Elements between walls: of NaN around operands, so that a read beyond them shows in the result, and of
/// [`UNTOUCHED`] around results, so that a write beyond them shows in the walls.
struct Walled<T>(Vec<T>);

/// Whole vectors of the kernels, so that operands between walls are aligned as memory of a GPU is.
const WALL: usize = 304;
const UNTOUCHED: f64 = 1.75;
/// Larger than any result: the operands are below 2, and few.
const UNWRITTEN: f64 = 1024.0;

impl<T: Real> Walled<T> {
    fn random(rng: &mut StdRng, count: usize) -> Self {
        Self::of(f64::NAN, (0..count).map(|_| rng.random_range(-2.0..2.0)))
    }

    /// A result, which holds [`UNWRITTEN`] until it is written.
    fn empty(count: usize) -> Self {
        Self::of(UNTOUCHED, (0..count).map(|_| UNWRITTEN))
    }

    fn of(around: f64, values: impl Iterator<Item = f64>) -> Self {
        let wall = || std::iter::repeat_n(T::from(around), WALL);
        Self(wall().chain(values.map(T::from)).chain(wall()).collect())
    }

    fn at(&self) -> *const T {
        self.0[WALL..].as_ptr()
    }

    fn at_mut(&mut self) -> *mut T {
        self.0[WALL..].as_mut_ptr()
    }

    fn values(&self) -> Vec<f64> {
        self.0[WALL..self.0.len() - WALL].iter().map(|v| v.to()).collect()
    }

    /// Compares with `wanted`, to [`Real::TOLERANCE`] of each element or of one; where no number is wanted, there must be none.
    #[track_caller]
    fn is(&self, case: &str, wanted: &[f64]) {
        self.is_of_size(1.0, case, wanted);
    }

    /// The same to the tolerance of each element or of `size`, which sums come to on their way.
    #[track_caller]
    fn is_of_size(&self, size: f64, case: &str, wanted: &[f64]) {
        let (got, end) = (self.values(), self.0.len() - WALL);
        assert_eq!(got.len(), wanted.len(), "{case}");
        for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
            let near = (got - wanted).abs() <= T::TOLERANCE * wanted.abs().max(size);
            assert!(
                near || (got.is_nan() && wanted.is_nan()),
                "{case} {}: element {i} is {got}, wanted {wanted}",
                T::SUFFIX
            );
        }
        let outside = self.0[..WALL].iter().chain(&self.0[end..]);
        assert!(outside.clone().all(|v| v.to() == UNTOUCHED), "{case} {}: written outside of the result", T::SUFFIX);
    }
}

/// Runs a check in every element type.
macro_rules! for_each_type {
    ($check:ident $arguments:tt) => {
        $check::<f32> $arguments;
        $check::<f16> $arguments;
        $check::<bf16> $arguments;
    };
}
use for_each_type;

fn softmax<T: Real>(rows: usize, width: usize) {
    let x = Walled::<T>::random(&mut StdRng::seed_from_u64(1), rows * width);
    let mut y = Walled::<T>::empty(rows * width);
    let (from, to) = (x.at(), y.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *mut T, usize);
    // SAFETY: both hold `rows` rows of `width` elements.
    launch(&plan::by_row("softmax", T::SUFFIX, rows), |entry: Entry<T>| unsafe { entry(from, to, width) });
    let wanted: Vec<f64> = x
        .values()
        .chunks(width)
        .flat_map(|row| {
            let sum: f64 = row.iter().map(|v| v.exp()).sum();
            row.iter().map(move |v| v.exp() / sum).collect::<Vec<_>>()
        })
        .collect();
    y.is(&format!("softmax of {rows}×{width}"), &wanted);
}

fn swiglu<T: Real>(rows: usize, half: usize) {
    let x = Walled::<T>::random(&mut StdRng::seed_from_u64(2), rows * 2 * half);
    let mut y = Walled::<T>::empty(rows * half);
    let (from, to) = (x.at(), y.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *mut T, usize, usize);
    let planned = plan::by_element("swiglu", T::SUFFIX, rows * half);
    // SAFETY: `x` holds rows of twice `half` elements, `y` of `half`.
    launch(&planned, |entry: Entry<T>| unsafe { entry(from, to, rows * half, half) });
    let one = |row: &[f64]| (0..half).map(|i| row[i] / (1.0 + (-row[i]).exp()) * row[half + i]).collect::<Vec<_>>();
    y.is(&format!("swiglu of {rows}×{half}"), &x.values().chunks(2 * half).flat_map(one).collect::<Vec<_>>());
}

fn add_rms_norm<T: Real>(rows: usize, width: usize) {
    let mut rng = StdRng::seed_from_u64(3);
    let [x, residual] = [0; 2].map(|_| Walled::<T>::random(&mut rng, rows * width));
    let weight = Walled::<T>::random(&mut rng, width);
    let [mut y, mut sum] = [0; 2].map(|_| Walled::<T>::empty(rows * width));
    let (a, b, w, to, both) = (x.at(), residual.at(), weight.at(), y.at_mut(), sum.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *const T, *const T, *mut T, *mut T, usize, f32);
    let planned = plan::by_row("add_rms_norm", T::SUFFIX, rows);
    // SAFETY: the four hold `rows` rows of `width` elements, the weight one.
    launch(&planned, |entry: Entry<T>| unsafe { entry(a, b, w, to, both, width, 1e-5) });
    let wanted: Vec<f64> = x.values().iter().zip(residual.values()).map(|(x, r)| T::from(x + r).to()).collect();
    sum.is("the sum before the norm", &wanted);
    let weight = weight.values();
    let one = |row: &[f64]| {
        let scale = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / width as f64 + 1e-5).sqrt();
        row.iter().zip(&weight).map(|(v, w)| v * scale * w).collect::<Vec<_>>()
    };
    y.is(&format!("add_rms_norm of {rows}×{width}"), &wanted.chunks(width).flat_map(one).collect::<Vec<_>>());
}

#[test]
fn rows() {
    // Fewer, as many and more elements than a block has threads.
    for width in [1, 31, 256, 700] {
        for_each_type!(softmax(3, width));
        for_each_type!(swiglu(3, width));
        for_each_type!(add_rms_norm(3, width));
    }
}

/// `[B, S, H, D]` seen as `[B, H, S, D]`, as projections give it.
fn rotary<T: Real>(batched: bool) {
    let (batch, heads, positions, width) = (2, 3, 5, 12);
    let mut rng = StdRng::seed_from_u64(4);
    let x = Walled::<T>::random(&mut rng, batch * heads * positions * width);
    let angles: Vec<f64> = (0..batch * positions * width / 2).map(|_| rng.random_range(-3.0..3.0)).collect();
    let (cos, sin) = (
        Walled::<f32>::of(f64::NAN, angles.iter().map(|a| a.cos())),
        Walled::<f32>::of(f64::NAN, angles.iter().map(|a| a.sin())),
    );
    let mut y = Walled::<T>::empty(batch * heads * positions * width);
    let half = width / 2;
    let table_batch_stride = if batched { positions * half } else { 0 };
    let rows = Rows {
        heads,
        positions,
        width,
        batch_stride: positions * heads * width,
        head_stride: width,
        position_stride: heads * width,
        table_batch_stride,
        table_stride: half,
    };
    let pairs = batch * heads * positions * half;
    let (from, c, s, to) = (x.at(), cos.at(), sin.at(), y.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *const f32, *const f32, *mut T, Rows, usize);
    // SAFETY: `rows` describes `x`, whose tables have an angle a pair of each position.
    launch(&plan::by_element("rotary", T::SUFFIX, pairs), |entry: Entry<T>| unsafe {
        entry(from, c, s, to, rows, pairs)
    });
    let x = x.values();
    let mut wanted = vec![0.0; x.len()];
    for b in 0..batch {
        for h in 0..heads {
            for p in 0..positions {
                for i in 0..half {
                    let angle = angles[b * table_batch_stride + p * half + i];
                    let from = ((b * positions + p) * heads + h) * width + i;
                    let to = ((b * heads + h) * positions + p) * width + i;
                    wanted[to] = x[from] * angle.cos() - x[from + half] * angle.sin();
                    wanted[to + half] = x[from + half] * angle.cos() + x[from] * angle.sin();
                }
            }
        }
    }
    y.is(&format!("rotary, tables by batch: {batched}"), &wanted);
}

#[test]
fn rotary_of_a_view() {
    for_each_type!(rotary(false));
    for_each_type!(rotary(true));
}

/// Attention of two sequences over a cache with room for more keys than it has; the queries lie as projections give
/// them. `past` keys are before the first query, or every query sees every key.
fn attention<T: Real>(
    heads: usize,
    groups: usize,
    queries: usize,
    keys: usize,
    widths: (usize, usize),
    past: Option<usize>,
) {
    let (batch, room, (width, value_width)) = (2, keys + 3, widths);
    let mut rng = StdRng::seed_from_u64(5);
    let q = Walled::<T>::random(&mut rng, batch * queries * heads * width);
    let k = Walled::<T>::random(&mut rng, batch * groups * room * width);
    let v = Walled::<T>::random(&mut rng, batch * groups * room * value_width);
    let mut out = Walled::<T>::empty(batch * heads * queries * value_width);
    let problem = Problem {
        heads,
        groups,
        queries,
        keys,
        width,
        value_width,
        q_stride: [queries * heads * width, width, heads * width],
        k_stride: [groups * room * width, room * width, width],
        v_stride: [groups * room * value_width, room * value_width, value_width],
        offset: past.unwrap_or(keys),
        scale: 0.3,
    };
    let planned = plan::attention(&problem, batch, T::SUFFIX).expect("a kernel of this width");
    let (a, b, c, to) = (q.at(), k.at(), v.at(), out.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *const T, *const T, *mut T, Problem);
    // SAFETY: `problem` describes the four.
    launch(&planned, |entry: Entry<T>| unsafe { entry(a, b, c, to, problem) });
    let (q, k, v) = (q.values(), k.values(), v.values());
    let mut wanted = Vec::new();
    for b in 0..batch {
        for h in 0..heads {
            let group = b * groups + h / (heads / groups);
            for i in 0..queries {
                let query = &q[((b * queries + i) * heads + h) * width..][..width];
                let seen = past.map_or(keys, |past| keys.min(i + past + 1));
                let score = |t: usize| -> f64 {
                    let key = &k[(group * room + t) * width..][..width];
                    (0.3 * query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>()).exp()
                };
                let weights: Vec<f64> = (0..seen).map(score).collect();
                let total: f64 = weights.iter().sum();
                wanted.extend((0..value_width).map(|e| {
                    let column = weights.iter().enumerate().map(|(t, w)| w * v[(group * room + t) * value_width + e]);
                    column.sum::<f64>() / total
                }));
            }
        }
    }
    out.is(&format!("{} of {queries} queries, {keys} keys, {widths:?}, past {past:?}", planned.entry), &wanted);
}

#[test]
fn attention_of_few_queries() {
    // One key a warp at most; more keys than warps; a head that is no multiple of 32 and values of another width.
    for_each_type!(attention(4, 2, 1, 3, (64, 64), Some(2)));
    for_each_type!(attention(6, 2, 1, 43, (128, 128), None));
    for_each_type!(attention(2, 1, 3, 21, (40, 72), Some(18)));
    for_each_type!(attention(1, 1, 2, 9, (256, 256), Some(0)));
}

#[test]
fn attention_of_many_queries() {
    // A part of a tile; several tiles of queries and of keys; values of another width; keys that no query sees.
    for_each_type!(attention(2, 1, 9, 9, (64, 64), Some(0)));
    for_each_type!(attention(2, 2, 37, 70, (64, 64), Some(33)));
    for_each_type!(attention(3, 1, 18, 40, (80, 112), None));
    for_each_type!(attention(1, 1, 8, 33, (192, 256), Some(3)));
}

#[test]
fn heads_too_wide_have_no_kernel() {
    let strides = [0; 3];
    let problem = |width, value_width| Problem {
        heads: 1,
        groups: 1,
        queries: 1,
        keys: 1,
        width,
        value_width,
        q_stride: strides,
        k_stride: strides,
        v_stride: strides,
        offset: 0,
        scale: 1.0,
    };
    assert!(plan::attention(&problem(256, 256), 1, "f32").is_some());
    assert!(plan::attention(&problem(257, 64), 1, "f32").is_none());
    assert!(plan::attention(&problem(64, 576), 1, "f32").is_none());
}
