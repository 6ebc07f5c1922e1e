//! A case: one call of one row of the operator table, its data described, its answer computed by plain loops in `f64`.

use crate::array::{Array, DType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a tensor is filled with. Values are rounded to the tensor's type before anybody sees them.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Uniform in `[low, high)`.
    Uniform(f64, f64),
    /// Uniform integers in `[low, high)`.
    Integers(i64, i64),
    /// 0 or 1.
    Truth,
    /// A random permutation of 0, 1, … along the whole tensor (distinct values: sorting has one answer).
    Permutation,
    /// 1 above the diagonal of the last two dimensions, 0 elsewhere: a causal mask that hides the future.
    AboveDiagonal,
    /// These values.
    Values(Vec<f64>),
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Contiguous,
    /// The last two dimensions are stored swapped.
    Transposed,
    /// A window of a larger tensor: an offset of three elements, a gap after each row.
    Window,
    /// A matrix `[k, n]` in blocks, `[n/16, k/16, 16, 16]`, which the operator is told.
    Fractal,
}

/// A tensor argument.
#[derive(Clone, Debug)]
pub struct Spec {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub fill: Fill,
    pub view: View,
}

impl Spec {
    /// Random numbers in [-2, 2), or small integers, or truth values, as the type has it.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        let fill = match dtype {
            DType::Bool => Fill::Truth,
            DType::U8 => Fill::Integers(0, 20),
            dtype if dtype.is_float() => Fill::Uniform(-2.0, 2.0),
            _ => Fill::Integers(-9, 10),
        };
        Self { dtype, shape: shape.into(), fill, view: View::Contiguous }
    }

    pub fn fill(mut self, fill: Fill) -> Self {
        self.fill = fill;
        self
    }

    pub fn view(mut self, view: View) -> Self {
        self.view = view;
        self
    }

    /// The values, from a generator of its own for each argument.
    pub fn make(&self, seed: u64) -> Array {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = self.shape.iter().product();
        let data: Vec<f64> = match &self.fill {
            Fill::Uniform(low, high) => (0..count).map(|_| rng.random_range(*low..*high)).collect(),
            Fill::Integers(low, high) => (0..count).map(|_| rng.random_range(*low..*high) as f64).collect(),
            Fill::Truth => (0..count).map(|_| rng.random_range(0..2) as f64).collect(),
            Fill::Permutation => {
                let mut values: Vec<f64> = (0..count).map(|i| i as f64).collect();
                for i in (1..count).rev() {
                    values.swap(i, rng.random_range(0..=i));
                }
                values
            }
            Fill::AboveDiagonal => {
                let [.., rows, cols] = self.shape[..] else { panic!("a diagonal needs two dimensions") };
                (0..count).map(|i| (i % cols > i / cols % rows) as u8 as f64).collect()
            }
            Fill::Values(values) => values.clone(),
        };
        Array::new(self.dtype, self.shape.clone(), data.into_iter().map(|v| self.dtype.round(v)).collect())
    }
}

/// One argument of the first phase, in the row's order.
#[derive(Clone, Debug)]
pub enum Arg {
    In(Spec),
    /// An output; its contents before the call are poison.
    Out(DType, Vec<usize>),
    /// An output with room for the most that may come: the operator says what shape it left there, and the reference
    /// says what shape that must be.
    Room(DType, Vec<usize>),
    /// A tensor that is read and then holds a result.
    Ref(Spec),
    InList(Vec<Spec>),
    OutList(Vec<(DType, Vec<usize>)>),
    Scalar(DType, f64),
    Scalars(DType, Vec<f64>),
    Ints(Vec<i64>),
    Bools(Vec<bool>),
    Floats(Vec<f32>),
    /// Any integer parameter (`I64`, `I32`, `I8`, `U64`, `Int`).
    Int(i64),
    /// Any floating parameter.
    Float(f64),
    Bool(bool),
    Str(&'static str),
    DType(DType),
    /// Null where the row allows it.
    Null,
}

/// How near the answer must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Equal to the reference rounded to the output's type.
    Exact,
    /// |got − wanted| ≤ `units` · ε(type) · max(|wanted|, `scale`): one rounding out is 0.5, the rest is the
    /// operator's own arithmetic.
    Units { units: f64, scale: f64 },
}

/// The arrays of a case: inputs (and the old contents of in-place tensors) in the order of the arguments.
pub type Inputs = [Array];

/// The plain answer: outputs and in-place tensors in the order of the arguments.
pub type Reference = Box<dyn Fn(&Inputs) -> Vec<Array> + Send + Sync>;

/// What outputs must be like where no single answer is right: why they are wrong, or nothing.
pub type Property = Box<dyn Fn(&Inputs, &[Array]) -> Result<(), String> + Send + Sync>;

/// How a case tells right from wrong.
pub enum Answer {
    /// The outputs, by plain arithmetic.
    Reference(Reference),
    /// Of random rows: what every answer has in common. The row also runs twice and must answer twice the same, since
    /// its seed and offset are arguments.
    Property(Property),
}

/// The same arithmetic through the tensor interface, for any device: inputs to outputs.
pub type ThroughTensors =
    Box<dyn Fn(&[candle_ascend::Tensor]) -> candle_ascend::Result<Vec<candle_ascend::Tensor>> + Send + Sync>;

/// One call, and what its answer must be.
pub struct Case {
    /// Row of the operator table.
    pub row: &'static str,
    /// What is special about it: shapes, types, views.
    pub label: String,
    pub args: Vec<Arg>,
    pub answer: Answer,
    pub tensors: Option<ThroughTensors>,
    pub tolerance: Tolerance,
    /// Of results through the tensor interface, where other devices round more often than the row does.
    pub tensors_tolerance: Option<Tolerance>,
}

impl Case {
    /// A case with the tolerance of one rounding (one unit, since the reference rounds too).
    pub fn new(
        row: &'static str,
        args: Vec<Arg>,
        reference: impl Fn(&Inputs) -> Vec<Array> + Send + Sync + 'static,
    ) -> Self {
        Self::answered(row, args, Answer::Reference(Box::new(reference)))
    }

    /// A case whose answer is random: `holds` says what is wrong with the outputs, if anything is.
    pub fn property(
        row: &'static str,
        args: Vec<Arg>,
        holds: impl Fn(&Inputs, &[Array]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self::answered(row, args, Answer::Property(Box::new(holds)))
    }

    fn answered(row: &'static str, args: Vec<Arg>, answer: Answer) -> Self {
        let label = args.iter().filter_map(describe).collect::<Vec<_>>().join(" ");
        let tolerance = Tolerance::Units { units: 1.0, scale: 1e-3 };
        Self { row, label, args, answer, tensors: None, tolerance, tensors_tolerance: None }
    }

    pub fn exact(mut self) -> Self {
        self.tolerance = Tolerance::Exact;
        self
    }

    /// Wider than one rounding: `units` of the output type's ε, relative to at least `scale`. Say why beside it.
    pub fn within(mut self, units: f64, scale: f64) -> Self {
        self.tolerance = Tolerance::Units { units, scale };
        self
    }

    /// Also runs through the tensor interface, on every device.
    pub fn tensors(
        mut self,
        f: impl Fn(&[candle_ascend::Tensor]) -> candle_ascend::Result<Vec<candle_ascend::Tensor>> + Send + Sync + 'static,
    ) -> Self {
        self.tensors = Some(Box::new(f));
        self
    }

    /// A wider tolerance of results through the tensor interface. Say why beside it.
    pub fn tensors_within(mut self, units: f64, scale: f64) -> Self {
        self.tensors_tolerance = Some(Tolerance::Units { units, scale });
        self
    }

    /// Seed of this case's data: the same on every machine.
    pub fn seed(&self) -> u64 {
        seed_of(&format!("{} {}", self.row, self.label))
    }

    /// The input arrays, in the order of the arguments.
    pub fn inputs(&self) -> Vec<Array> {
        let seed = self.seed();
        let specs = self.args.iter().flat_map(|arg| match arg {
            Arg::In(spec) | Arg::Ref(spec) => std::slice::from_ref(spec),
            Arg::InList(specs) => specs.as_slice(),
            _ => &[],
        });
        specs.enumerate().map(|(i, spec)| spec.make(seed.wrapping_add(i as u64))).collect()
    }
}

/// FNV-1a, because the standard hasher may change between releases.
pub(crate) fn seed_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0000_0100_0000_01b3))
}

fn describe(arg: &Arg) -> Option<String> {
    let spec = |s: &Spec| {
        let view = match s.view {
            View::Contiguous => "",
            View::Transposed => "ᵀ",
            View::Window => "°",
            View::Fractal => "▦",
        };
        format!("{}{:?}{view}", s.dtype, s.shape)
    };
    match arg {
        Arg::In(s) | Arg::Ref(s) => Some(spec(s)),
        Arg::InList(list) => Some(format!("({})", list.iter().map(spec).collect::<Vec<_>>().join(","))),
        Arg::Out(dtype, shape) => Some(format!("→{dtype}{shape:?}")),
        Arg::Room(dtype, shape) => Some(format!("→at most {dtype}{shape:?}")),
        Arg::OutList(list) => Some(format!("→{} tensors", list.len())),
        Arg::Scalar(_, v) => Some(format!("{v}")),
        Arg::Scalars(_, v) => Some(format!("{v:?}")),
        Arg::Ints(v) => Some(format!("{v:?}")),
        Arg::Bools(v) => Some(format!("{v:?}")),
        Arg::Floats(v) => Some(format!("{v:?}")),
        Arg::Int(v) => Some(format!("{v}")),
        Arg::Float(v) => Some(format!("{v}")),
        Arg::Bool(v) => Some(format!("{v}")),
        Arg::Str(v) => Some(format!("{v:?}")),
        Arg::DType(v) => Some(format!("as {v}")),
        Arg::Null => None,
    }
}
