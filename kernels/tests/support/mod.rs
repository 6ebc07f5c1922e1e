//! What tests of kernels share: numbers of each type, a launch on the twin, and the table of errors.

use ascend_kernels::Launch;
use ascend_kernels::plan::Float;
use ascend_kernels::twin::{self, Memory};
use half::{bf16, f16};

/// What a test computes with a type.
pub trait Numeric: Copy {
    /// The name in a kernel's entry.
    fn name(self) -> &'static str;
    /// The largest relative error of rounding to this type.
    fn roundoff(self) -> f64;
    fn round(self, x: f64) -> f64;
    fn bytes(self, numbers: &[f64]) -> Vec<u8>;
    fn numbers(self, bytes: &[u8]) -> Vec<f64>;
}

impl Numeric for Float {
    fn name(self) -> &'static str {
        ["f32", "f16", "bf16"][self as usize]
    }

    fn roundoff(self) -> f64 {
        2f64.powi([-24, -11, -8][self as usize])
    }

    fn round(self, x: f64) -> f64 {
        self.numbers(&self.bytes(&[x]))[0]
    }

    fn bytes(self, numbers: &[f64]) -> Vec<u8> {
        let numbers = numbers.iter().copied();
        match self {
            Self::F32 => numbers.flat_map(|x| (x as f32).to_le_bytes()).collect(),
            Self::F16 => numbers.flat_map(|x| f16::from_f64(x).to_le_bytes()).collect(),
            Self::BF16 => numbers.flat_map(|x| bf16::from_f64(x).to_le_bytes()).collect(),
        }
    }

    fn numbers(self, bytes: &[u8]) -> Vec<f64> {
        let (pairs, _) = bytes.as_chunks::<2>();
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect(),
            Self::F16 => pairs.iter().map(|x| f16::from_le_bytes(*x).to_f64()).collect(),
            Self::BF16 => pairs.iter().map(|x| bf16::from_le_bytes(*x).to_f64()).collect(),
        }
    }
}

pub fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|x| u32::from_le_bytes(*x)).collect()
}

pub fn i64s(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|x| i64::from_le_bytes(*x)).collect()
}

pub trait Integer: Copy {
    fn bytes(self) -> Vec<u8>;
}
impl Integer for u32 {
    fn bytes(self) -> Vec<u8> {
        self.to_le_bytes().to_vec()
    }
}
impl Integer for i64 {
    fn bytes(self) -> Vec<u8> {
        self.to_le_bytes().to_vec()
    }
}

pub fn bytes_of(integers: &[impl Integer]) -> Vec<u8> {
    integers.iter().flat_map(|x| x.bytes()).collect()
}

/// Numbers that look random and are the same in every run.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: usize) -> Self {
        Self(seed as u64 ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Numbers between `-scale` and `scale` that `float` holds.
    pub fn rounded(&mut self, float: Float, count: usize, scale: f64) -> Vec<f64> {
        (0..count).map(|_| float.round((self.next() as f64 / u64::MAX as f64 * 2.0 - 1.0) * scale)).collect()
    }

    pub fn shuffle(&mut self, values: &mut [f64]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
    }
}

/// The errors of one kernel, type by type.
pub struct Table {
    kernel: &'static str,
    rows: Vec<(Float, usize, f64)>,
}

impl Table {
    pub fn new(kernel: &'static str) -> Self {
        Self { kernel, rows: Float::ALL.map(|float| (float, 0, 0.0)).to_vec() }
    }

    /// That `got` is `wanted` rounded to `float`, with a relative error of `slack` of what it is computed from; beside
    /// the numbers themselves that is their root mean square, as sums may cancel.
    pub fn compare(&mut self, float: Float, wanted: &[f64], got: &[f64], slack: f64) {
        assert_eq!(wanted.len(), got.len(), "{}", self.kernel);
        let scale = (wanted.iter().map(|x| x * x).sum::<f64>() / wanted.len() as f64).sqrt();
        let (_, cases, worst) = self.rows.iter_mut().find(|row| row.0 == float).expect("every type has a row");
        *cases += 1;
        for (i, (wanted, got)) in wanted.iter().zip(got).enumerate() {
            let error = (wanted - got).abs();
            // The smallest normal of F16 bounds its rounding near zero.
            let allowed = 1.001 * float.roundoff() * wanted.abs() + slack * (wanted.abs() + scale) + 4e-8;
            let what =
                || format!("{} {float:?}: element {i} is {got}, wanted {wanted} within {allowed:e}", self.kernel);
            assert!(error <= allowed, "{}", what());
            *worst = worst.max(error / (wanted.abs() + scale).max(1e-30));
        }
    }

    pub fn print(&self) {
        for (float, cases, worst) in self.rows.iter().filter(|row| row.1 > 0) {
            println!("{:<16} {:<5} {cases:>3} results, largest error {worst:.1e}", self.kernel, float.name());
        }
    }
}

/// Runs `launch` on the twin: what it made of `results`, whose bytes are as given before.
pub fn run<const N: usize>(
    launch: &Launch,
    inputs: impl IntoIterator<Item = Vec<u8>>,
    results: [Vec<u8>; N],
) -> Result<[Vec<u8>; N], String> {
    let mut memory = Memory::default();
    let mut tensors: Vec<u64> = inputs.into_iter().map(|bytes| memory.put(&bytes)).collect();
    let results = results.map(|bytes| memory.put(&bytes));
    tensors.extend(results);
    let report = twin::run(launch, &tensors, &mut memory).map_err(|error| error.to_string())?;
    assert!(report.cycles > 0.0, "{}: no time passed", launch.kernel);
    Ok(results.map(|address| memory.get(address)))
}
