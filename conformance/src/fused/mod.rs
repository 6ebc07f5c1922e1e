//! Fused operators, each by every way that there is to compute it: aclnn's own operator, our Ascend C kernel, and the
//! decomposition into primitives. One set of cases, held to plain loops in `f64` that share nothing with any of the ways.

mod attention;
mod experts;
mod paged;
mod routing;
mod rows;
mod run;

use crate::array::{Array, DType};
use crate::case::{Fill, Spec, Tolerance, seed_of};
use candle_ascend::Tensor;
use candle_ascend::ops::Kernels;

pub use run::{By, Line, Ran, line, run};

/// The ways, in the order of tables.
pub const WAYS: [Kernels; 3] = [Kernels::Aclnn, Kernels::Ours, Kernels::Plain];

/// The types that the operators are tried with, in the order of tables.
pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// What a fused operator is called, and what computes all of it in one launch.
#[derive(Debug)]
pub struct Operator {
    pub name: &'static str,
    /// Begins of the names of rows of the operator table.
    pub aclnn: &'static [&'static str],
    /// Begins of the names of our kernels.
    pub ours: &'static [&'static str],
}

/// The operator through the tensor interface: operands to results.
type Call = Box<dyn Fn(&[Tensor]) -> candle_ascend::Result<Vec<Tensor>> + Send + Sync>;

/// The same by plain loops.
type Loops = Box<dyn Fn(&[Array]) -> Vec<Array> + Send + Sync>;

/// One call of a fused operator, and what its results must be.
pub struct Case {
    pub operator: &'static Operator,
    pub dtype: DType,
    /// What is special about it: its sizes.
    pub label: String,
    /// The operands.
    pub inputs: Vec<Spec>,
    call: Call,
    loops: Loops,
    /// How near each result must be.
    tolerances: Vec<Tolerance>,
}

impl Case {
    /// A case whose results must be equal.
    fn new(
        (operator, dtype): (&'static Operator, DType),
        label: String,
        inputs: Vec<Spec>,
        call: impl Fn(&[Tensor]) -> candle_ascend::Result<Vec<Tensor>> + Send + Sync + 'static,
        loops: impl Fn(&[Array]) -> Vec<Array> + Send + Sync + 'static,
    ) -> Self {
        let (call, loops) = (Box::new(call), Box::new(loops));
        Self { operator, dtype, label, inputs, call, loops, tolerances: Vec::new() }
    }

    /// How near the first results must be, one by one; the others stay exact. Say why beside it.
    fn within(mut self, units_and_scales: &[(f64, f64)]) -> Self {
        let units = |&(units, scale): &(f64, f64)| Tolerance::Units { units, scale };
        self.tolerances = units_and_scales.iter().map(units).collect();
        self
    }

    fn tolerance(&self, result: usize) -> Tolerance {
        self.tolerances.get(result).copied().unwrap_or(Tolerance::Exact)
    }

    /// The operands' values, the same on every machine.
    pub fn arrays(&self) -> Vec<Array> {
        let seed = seed_of(&format!("{} {} {}", self.operator.name, self.dtype, self.label));
        self.inputs.iter().enumerate().map(|(i, spec)| spec.make(seed.wrapping_add(i as u64))).collect()
    }
}

/// Every case, those of an operator together and of a type together.
pub fn all() -> Vec<Case> {
    let families = [attention::cases, paged::cases, routing::cases, experts::cases, rows::cases]
        .map(|family| family as fn(_) -> _);
    let mut all: Vec<Case> =
        DTYPES.into_iter().flat_map(|dtype| families.into_iter().flat_map(move |f| f(dtype))).collect();
    let mut operators: Vec<&str> = Vec::new();
    for case in &all {
        if !operators.contains(&case.operator.name) {
            operators.push(case.operator.name);
        }
    }
    all.sort_by_key(|case| operators.iter().position(|name| *name == case.operator.name));
    all
}

/// Uniform in `[-size, size)`.
fn uniform(dtype: DType, shape: &[usize], size: f64) -> Spec {
    Spec::new(dtype, shape).fill(Fill::Uniform(-size, size))
}

/// Whole numbers.
fn whole(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = usize>) -> Spec {
    Spec::new(dtype, shape).fill(Fill::Values(values.into_iter().map(|value| value as f64).collect()))
}
