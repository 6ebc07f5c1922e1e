//! Running cases: rows of the operator table on an NPU (or the simulated one), the tensor interface on any device.

use crate::array::{Array, DType};
use crate::case::{Answer, Arg, Case, Spec, Tolerance, View};
use crate::compare::{Difference, compare};
use candle_ascend::acl::{
    self, BoolArray, Buffer, Context, FloatArray, IntArray, Scalar, ScalarList, TensorDesc, TensorList, Value,
};
use candle_ascend::{Device, Tensor};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// What became of a case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The largest difference over all outputs.
    pub difference: Difference,
    /// From the launch until the results could be read.
    pub time: Duration,
}

/// Why a case failed, with what replays it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub row: &'static str,
    pub label: String,
    pub reason: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "aclnn{} {}: {}", self.row, self.label, self.reason)
    }
}

impl std::error::Error for Failure {}

/// Bytes after each written tensor that the operator must leave alone.
const SENTINEL: usize = 64;
const POISON: u8 = 0xff;

/// A tensor argument in device memory.
struct Placed {
    buffer: Buffer,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    /// Whether the operator writes it.
    written: bool,
    /// Whether `shape` is only the most that may come ([`Arg::Room`]).
    room: bool,
    /// Whether it is a matrix in blocks ([`View::Fractal`]).
    fractal: bool,
}

/// Strides, offset and storage size in elements of a view.
fn geometry(shape: &[usize], view: View) -> (Vec<usize>, usize, usize) {
    let rank = shape.len();
    let dense = |shape: &[usize], gap: usize| {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i] + if i == shape.len() - 1 { gap } else { 0 };
        }
        strides
    };
    let (strides, offset) = match view {
        View::Transposed if rank >= 2 => {
            let mut stored = shape.to_vec();
            stored.swap(rank - 1, rank - 2);
            let mut strides = dense(&stored, 0);
            strides.swap(rank - 1, rank - 2);
            (strides, 0)
        }
        View::Window => (dense(shape, 2), 3),
        _ => (dense(shape, 0), 0),
    };
    let last: usize = shape.iter().zip(&strides).map(|(&n, &s)| n.saturating_sub(1) * s).sum();
    (strides, offset, offset + last + 1)
}

fn offsets<'a>(shape: &[usize], strides: &'a [usize], offset: usize) -> impl Iterator<Item = usize> + 'a {
    let all = crate::array::indices(shape);
    all.map(move |at| offset + at.iter().zip(strides).map(|(&i, &s)| i * s).sum::<usize>())
}

impl Placed {
    fn input(context: &Context, spec: &Spec, array: &Array, written: bool) -> Result<Self, acl::Error> {
        let (strides, offset, count) = geometry(&spec.shape, spec.view);
        let size = spec.dtype.size();
        let mut bytes = Vec::with_capacity(count * size + SENTINEL);
        if matches!(spec.view, View::Contiguous | View::Fractal) {
            array.data.iter().for_each(|&value| spec.dtype.encode(value, &mut bytes));
        }
        bytes.resize(count * size + SENTINEL, POISON);
        if matches!(spec.view, View::Transposed | View::Window) {
            let mut element = Vec::new();
            for (at, &value) in offsets(&spec.shape, &strides, offset).zip(&array.data) {
                element.clear();
                spec.dtype.encode(value, &mut element);
                bytes[at * size..][..size].copy_from_slice(&element);
            }
        }
        let buffer = context.upload(&bytes)?;
        let (dtype, shape, fractal) = (spec.dtype, spec.shape.clone(), spec.view == View::Fractal);
        Ok(Self { buffer, dtype, shape, strides, offset, written, room: false, fractal })
    }

    fn output(context: &Context, dtype: DType, shape: &[usize]) -> Result<Self, acl::Error> {
        let (strides, offset, count) = geometry(shape, View::Contiguous);
        let buffer = context.upload(&vec![POISON; count * dtype.size() + SENTINEL])?;
        Ok(Self { buffer, dtype, shape: shape.to_vec(), strides, offset, written: true, room: false, fractal: false })
    }

    fn desc(&self) -> Result<TensorDesc<'_>, acl::Error> {
        let (dtype, size) = (self.dtype.acl(), self.dtype.size());
        let view = acl::View::strided(&self.buffer, dtype, size, &self.shape, &self.strides, self.offset)?;
        match (self.fractal, self.shape.is_empty()) {
            (true, _) => view.fractal().desc(),
            (false, true) => view.scalar().desc(),
            (false, false) => view.desc(),
        }
    }

    /// The elements, after checking that nothing between or behind them was written. `desc` is the tensor that the
    /// operator was given.
    fn read(&self, context: &Context, desc: &TensorDesc<'_>) -> Result<Array, String> {
        let size = self.dtype.size();
        let own: Vec<usize> = offsets(&self.shape, &self.strides, self.offset).collect();
        let (shape, places) = match self.room {
            true => {
                let shape = desc.dims().map_err(|e| e.to_string())?;
                let count: usize = shape.iter().product();
                if count > own.len() {
                    return Err(format!(
                        "the result has shape {shape:?}, larger than the room for it, {:?}",
                        self.shape
                    ));
                }
                (shape, own[..count].to_vec())
            }
            false => (self.shape.clone(), own.clone()),
        };
        let mut bytes = vec![0; (own.last().map_or(self.offset, |last| last + 1)) * size + SENTINEL];
        context.download(&self.buffer, &mut bytes).map_err(|e| e.to_string())?;
        let mut touched = vec![false; bytes.len()];
        own.iter().for_each(|at| touched[at * size..][..size].fill(true));
        match bytes.iter().zip(&touched).position(|(&byte, &own)| !own && byte != POISON) {
            Some(at) => Err(format!("byte {at}, outside of the output, was overwritten")),
            None => Ok(Array::new(
                self.dtype,
                shape,
                places.iter().map(|at| self.dtype.decode(&bytes[at * size..])).collect(),
            )),
        }
    }
}

/// An argument with what it owns on host or device.
enum Held {
    Tensor(Placed),
    Tensors(Vec<Placed>),
    Plain(Arg),
}

fn place(context: &Context, case: &Case, inputs: &[Array]) -> Result<Vec<Held>, acl::Error> {
    let mut next = inputs.iter();
    let mut array = || next.next().expect("one array for each input of the case");
    case.args
        .iter()
        .map(|arg| {
            Ok(match arg {
                Arg::In(spec) => Held::Tensor(Placed::input(context, spec, array(), false)?),
                Arg::Ref(spec) => Held::Tensor(Placed::input(context, spec, array(), true)?),
                Arg::Out(dtype, shape) => Held::Tensor(Placed::output(context, *dtype, shape)?),
                Arg::Room(dtype, shape) => {
                    Held::Tensor(Placed { room: true, ..Placed::output(context, *dtype, shape)? })
                }
                Arg::InList(specs) => Held::Tensors(
                    specs.iter().map(|spec| Placed::input(context, spec, array(), false)).collect::<Result<_, _>>()?,
                ),
                Arg::OutList(list) => Held::Tensors(
                    list.iter()
                        .map(|(dtype, shape)| Placed::output(context, *dtype, shape))
                        .collect::<Result<_, _>>()?,
                ),
                plain => Held::Plain(plain.clone()),
            })
        })
        .collect()
}

/// Handles made for one call, alive until it is launched.
enum Handle<'a> {
    Tensor(TensorDesc<'a>),
    Tensors(TensorList<'a>),
    Scalar(Scalar<'a>),
    Scalars(ScalarList<'a>),
    Ints(IntArray<'a>),
    Bools(BoolArray<'a>),
    Floats(FloatArray<'a>),
    Str(CString),
    None,
}

fn handle<'a>(context: &'a Context, held: &'a Held) -> Result<Handle<'a>, acl::Error> {
    let scalar = |dtype: DType, value| Scalar::like(context, dtype.acl(), value);
    Ok(match held {
        Held::Tensor(placed) => Handle::Tensor(placed.desc()?),
        Held::Tensors(list) => {
            Handle::Tensors(TensorList::new(context, list.iter().map(Placed::desc).collect::<Result<_, _>>()?)?)
        }
        Held::Plain(Arg::Scalar(dtype, value)) => Handle::Scalar(scalar(*dtype, *value)?),
        Held::Plain(Arg::Scalars(dtype, values)) => {
            let scalars = values.iter().map(|&v| scalar(*dtype, v)).collect::<Result<_, _>>()?;
            Handle::Scalars(ScalarList::new(context, scalars)?)
        }
        Held::Plain(Arg::Ints(v)) => Handle::Ints(IntArray::new(context, v)?),
        Held::Plain(Arg::Bools(v)) => Handle::Bools(BoolArray::new(context, v)?),
        Held::Plain(Arg::Floats(v)) => Handle::Floats(FloatArray::new(context, v)?),
        Held::Plain(Arg::Str(v)) => Handle::Str(CString::new(*v).expect("case strings have no NUL")),
        Held::Plain(_) => Handle::None,
    })
}

fn value<'a>(held: &Held, handle: &'a Handle<'a>) -> Value<'a> {
    match (held, handle) {
        (_, Handle::Tensor(t)) => Value::Tensor(t),
        (_, Handle::Tensors(t)) => Value::Tensors(t),
        (_, Handle::Scalar(s)) => Value::Scalar(s),
        (_, Handle::Scalars(s)) => Value::Scalars(s),
        (_, Handle::Ints(v)) => Value::Ints(v),
        (_, Handle::Bools(v)) => Value::Bools(v),
        (_, Handle::Floats(v)) => Value::Floats(v),
        (_, Handle::Str(v)) => Value::Str(v),
        (Held::Plain(Arg::Int(v)), _) => Value::Int(*v),
        (Held::Plain(Arg::Float(v)), _) => Value::Float(*v),
        (Held::Plain(Arg::Bool(v)), _) => Value::Bool(*v),
        (Held::Plain(Arg::DType(v)), _) => Value::DType(v.acl()),
        _ => Value::Null,
    }
}

/// Runs the case's row on an NPU and holds every output, and every byte around it, against the case's answer.
pub fn run_row(context: &Context, case: &Case) -> Result<Outcome, Failure> {
    let failed = |reason: String| Failure { row: case.row, label: case.label.clone(), reason };
    let inputs = case.inputs();
    let (got, time) = outputs(context, case, &inputs).map_err(failed)?;
    let difference = match &case.answer {
        Answer::Reference(reference) => {
            let wanted = reference(&inputs);
            if got.len() != wanted.len() {
                return Err(failed(format!("the case has {} outputs, its reference {}", got.len(), wanted.len())));
            }
            verdict(case.tolerance, &got, &wanted).map_err(failed)?
        }
        Answer::Property(holds) => {
            holds(&inputs, &got).map_err(failed)?;
            let (again, _) = outputs(context, case, &inputs).map_err(failed)?;
            if again != got {
                return Err(failed("a second run with the same seed and offset gave other numbers".into()));
            }
            Difference::default()
        }
    };
    Ok(Outcome { difference, time })
}

/// Runs a case's row and reads its outputs without comparing them: for arguments that make no sense.
pub fn try_row(context: &Context, case: &Case) -> Result<(), String> {
    outputs(context, case, &case.inputs()).map(drop)
}

/// Everything that the operator writes, in the order of the arguments, and the time from the launch to the results.
fn outputs(context: &Context, case: &Case, inputs: &[Array]) -> Result<(Vec<Array>, Duration), String> {
    let text = |e: acl::Error| e.to_string();
    let held = place(context, case, inputs).map_err(text)?;
    let handles: Vec<Handle<'_>> = held.iter().map(|h| handle(context, h)).collect::<Result<_, _>>().map_err(text)?;
    let values: Vec<Value<'_>> = held.iter().zip(&handles).map(|(h, handle)| value(h, handle)).collect();
    let started = Instant::now();
    acl::launch_row(context, case.row, &values).map_err(text)?;
    context.synchronize().map_err(text)?;
    let time = started.elapsed();
    let mut read = Vec::new();
    for (held, handle) in held.iter().zip(&handles) {
        match (held, handle) {
            (Held::Tensor(placed), Handle::Tensor(desc)) if placed.written => read.push(placed.read(context, desc)?),
            (Held::Tensors(list), _) => {
                for placed in list.iter().filter(|placed| placed.written) {
                    read.push(placed.read(context, &placed.desc().map_err(text)?)?);
                }
            }
            _ => {}
        }
    }
    Ok((read, time))
}

fn verdict(tolerance: Tolerance, got: &[Array], wanted: &[Array]) -> Result<Difference, String> {
    let mut worst = Difference::default();
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let found = compare(got, wanted, tolerance).map_err(|e| format!("output {i}: {e}"))?;
        if !found.passed() {
            let (at, g, w) = found.at.unwrap_or_default();
            return Err(format!(
                "output {i}, element {at}: got {g}, wanted {w} ({:.1} times the tolerance)",
                found.worst
            ));
        }
        if found.worst >= worst.worst {
            worst = Difference { max_abs: worst.max_abs.max(found.max_abs), ..found };
        }
    }
    Ok(worst)
}

/// Runs a case through the tensor interface; `None` if the case has no such way.
pub fn run_tensors(device: &Device, case: &Case) -> Option<Result<Outcome, Failure>> {
    let through = case.tensors.as_ref()?;
    let failed = |reason: String| Failure { row: case.row, label: format!("{} (tensors)", case.label), reason };
    let inputs = case.inputs();
    let run = || -> candle_ascend::Result<(Vec<Array>, Duration)> {
        let specs = case.args.iter().flat_map(|arg| match arg {
            Arg::In(spec) | Arg::Ref(spec) => std::slice::from_ref(spec),
            Arg::InList(specs) => specs.as_slice(),
            _ => &[],
        });
        let tensors: Vec<Tensor> = specs
            .zip(&inputs)
            .map(|(spec, array)| tensor(device, spec, array))
            .collect::<candle_ascend::Result<_>>()?;
        let started = Instant::now();
        let got = through(&tensors)?.iter().map(array).collect::<candle_ascend::Result<_>>()?;
        Ok((got, started.elapsed()))
    };
    let (got, time) = match run() {
        Ok(done) => done,
        Err(error) => return Some(Err(failed(error.to_string()))),
    };
    let Answer::Reference(reference) = &case.answer else {
        return Some(Err(failed("the case has no reference to hold tensors against".into())));
    };
    let wanted = reference(&inputs);
    if got.is_empty() || got.len() > wanted.len() {
        return Some(Err(failed(format!("{} results for {} outputs", got.len(), wanted.len()))));
    }
    let tolerance = case.tensors_tolerance.unwrap_or(case.tolerance);
    Some(verdict(tolerance, &got, &wanted).map(|difference| Outcome { difference, time }).map_err(failed))
}

fn candle_dtype(dtype: DType) -> candle_ascend::Result<candle_ascend::DType> {
    use candle_ascend::DType as C;
    Ok(match dtype {
        DType::F32 => C::F32,
        DType::F16 => C::F16,
        DType::BF16 => C::BF16,
        DType::F64 => C::F64,
        DType::I64 => C::I64,
        DType::I32 => C::I32,
        DType::I16 => C::I16,
        DType::U8 => C::U8,
        DType::U32 => C::U32,
        other => candle_ascend::bail!("the tensor interface has no {other}"),
    })
}

/// The argument as a tensor that lies in memory as its view says.
pub(crate) fn tensor(device: &Device, spec: &Spec, array: &Array) -> candle_ascend::Result<Tensor> {
    let dense = |shape: &[usize], data: Vec<f64>| {
        Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(candle_dtype(spec.dtype)?)?.to_device(device)
    };
    let rank = spec.shape.len();
    match spec.view {
        View::Transposed if rank >= 2 => {
            let mut order: Vec<usize> = (0..rank).collect();
            order.swap(rank - 1, rank - 2);
            let stored = array.permuted(&order);
            dense(&stored.shape, stored.data)?.transpose(rank - 1, rank - 2)
        }
        View::Window if rank >= 1 => {
            let wide = array.map_lanes(rank - 1, |lane| [&[7.0], lane, &[7.0, 7.0]].concat());
            dense(&wide.shape, wide.data)?.narrow(rank - 1, 1, spec.shape[rank - 1])
        }
        _ => dense(&spec.shape, array.data.clone()),
    }
}

pub(crate) fn array(tensor: &Tensor) -> candle_ascend::Result<Array> {
    use candle_ascend::DType as C;
    let dtype = match tensor.dtype() {
        C::F32 => DType::F32,
        C::F16 => DType::F16,
        C::BF16 => DType::BF16,
        C::F64 => DType::F64,
        C::I64 => DType::I64,
        C::I32 => DType::I32,
        C::U8 => DType::U8,
        C::U32 => DType::U32,
        other => candle_ascend::bail!("the suite reads no {other:?}"),
    };
    let data = tensor.to_device(&Device::Cpu)?.to_dtype(C::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok(Array::new(dtype, tensor.dims(), data))
}
