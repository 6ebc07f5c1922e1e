//! Host arrays that references compute on: every element as `f64`, already rounded to the element type it stands for.

use half::{bf16, f16};
use std::fmt;

/// Element type of an array; the subset of CANN's types that the suite makes data for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U32,
    Bool,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl DType {
    /// Number of `aclDataType`.
    pub fn acl(self) -> i32 {
        use acl_sys::enums::*;
        match self {
            DType::F32 => ACL_FLOAT,
            DType::F16 => ACL_FLOAT16,
            DType::BF16 => ACL_BF16,
            DType::F64 => ACL_DOUBLE,
            DType::I8 => ACL_INT8,
            DType::I16 => ACL_INT16,
            DType::I32 => ACL_INT32,
            DType::I64 => ACL_INT64,
            DType::U8 => ACL_UINT8,
            DType::U32 => ACL_UINT32,
            DType::Bool => ACL_BOOL,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
    }

    /// Distance from 1 to the next number: the unit that tolerances are counted in. 0 for exact types.
    pub fn epsilon(self) -> f64 {
        match self {
            DType::F64 => f64::EPSILON,
            DType::F32 => f32::EPSILON as f64,
            DType::F16 => f16::EPSILON.to_f64(),
            DType::BF16 => bf16::EPSILON.to_f64(),
            _ => 0.0,
        }
    }

    /// Nearest number of this type.
    pub fn round(self, value: f64) -> f64 {
        match self {
            DType::F64 => value,
            DType::F32 => value as f32 as f64,
            DType::F16 => f16::from_f64(value).to_f64(),
            DType::BF16 => bf16::from_f64(value).to_f64(),
            DType::I8 => value as i8 as f64,
            DType::I16 => value as i16 as f64,
            DType::I32 => value as i32 as f64,
            DType::I64 => value as i64 as f64,
            DType::U8 => value as u8 as f64,
            DType::U32 => value as u32 as f64,
            DType::Bool => (value != 0.0) as u8 as f64,
        }
    }

    /// Little-endian bytes of one element.
    pub fn encode(self, value: f64, out: &mut Vec<u8>) {
        match self {
            DType::F64 => out.extend(value.to_le_bytes()),
            DType::F32 => out.extend((value as f32).to_le_bytes()),
            DType::F16 => out.extend(f16::from_f64(value).to_le_bytes()),
            DType::BF16 => out.extend(bf16::from_f64(value).to_le_bytes()),
            DType::I8 => out.extend((value as i8).to_le_bytes()),
            DType::I16 => out.extend((value as i16).to_le_bytes()),
            DType::I32 => out.extend((value as i32).to_le_bytes()),
            DType::I64 => out.extend((value as i64).to_le_bytes()),
            DType::U8 => out.push(value as u8),
            DType::U32 => out.extend((value as u32).to_le_bytes()),
            DType::Bool => out.push((value != 0.0) as u8),
        }
    }

    /// The element that starts at the head of `bytes`.
    pub fn decode(self, bytes: &[u8]) -> f64 {
        fn head<const N: usize>(bytes: &[u8]) -> [u8; N] {
            std::array::from_fn(|i| bytes[i])
        }
        match self {
            DType::F64 => f64::from_le_bytes(head(bytes)),
            DType::F32 => f32::from_le_bytes(head(bytes)) as f64,
            DType::F16 => f16::from_le_bytes(head(bytes)).to_f64(),
            DType::BF16 => bf16::from_le_bytes(head(bytes)).to_f64(),
            DType::I8 => bytes[0] as i8 as f64,
            DType::I16 => i16::from_le_bytes(head(bytes)) as f64,
            DType::I32 => i32::from_le_bytes(head(bytes)) as f64,
            DType::I64 => i64::from_le_bytes(head(bytes)) as f64,
            DType::U32 => u32::from_le_bytes(head(bytes)) as f64,
            DType::U8 | DType::Bool => bytes[0] as f64,
        }
    }
}

/// A dense row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "array of shape {shape:?}");
        Self { dtype, shape, data }
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Dimension `dim`, negative numbers counting from the end.
    pub fn axis(&self, dim: i64) -> usize {
        if dim < 0 { (dim + self.rank() as i64) as usize } else { dim as usize }
    }

    /// The same shape and type with `f` of each element, not rounded.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Array {
        Array { dtype: self.dtype, shape: self.shape.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    /// `f` of each pair after broadcasting both by NumPy's rules.
    pub fn zip(&self, other: &Array, f: impl Fn(f64, f64) -> f64) -> Array {
        let shape = broadcast(&self.shape, &other.shape);
        let data = indices(&shape).map(|at| f(self.at(&at), other.at(&at))).collect();
        Array { dtype: self.dtype, shape, data }
    }

    /// The element at `index` of an array that this one broadcasts to.
    pub fn at(&self, index: &[usize]) -> f64 {
        let skip = index.len() - self.rank();
        let offset = self.shape.iter().zip(&index[skip..]).fold(0, |o, (&n, &i)| o * n + if n == 1 { 0 } else { i });
        self.data[offset]
    }

    /// (outer, size, inner): the array seen as `[outer, shape[axis], inner]`.
    pub fn around(&self, axis: usize) -> (usize, usize, usize) {
        (self.shape[..axis].iter().product(), self.shape[axis], self.shape[axis + 1..].iter().product())
    }

    /// Each lane along `axis`, as (outer, inner, values).
    pub fn lanes(&self, axis: usize) -> Vec<(usize, usize, Vec<f64>)> {
        let (outer, size, inner) = self.around(axis);
        let mut lanes = Vec::with_capacity(outer * inner);
        for o in 0..outer {
            for i in 0..inner {
                lanes.push((o, i, (0..size).map(|k| self.data[(o * size + k) * inner + i]).collect()));
            }
        }
        lanes
    }

    /// Replaces each lane along `axis` with `f` of it; the lanes may change their length, all alike.
    pub fn map_lanes(&self, axis: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Array {
        let (outer, _, inner) = self.around(axis);
        let lanes: Vec<_> = self.lanes(axis).into_iter().map(|(_, _, lane)| f(&lane)).collect();
        let size = lanes.first().map_or(0, Vec::len);
        let mut shape = self.shape.clone();
        shape[axis] = size;
        let mut data = Vec::with_capacity(outer * size * inner);
        for block in lanes.chunks(inner.max(1)).take(outer) {
            (0..size).for_each(|k| data.extend(block.iter().map(|lane| lane[k])));
        }
        Array { dtype: self.dtype, shape, data }
    }

    /// Each element rounded to the array's type, as an operator that stores it would.
    pub fn rounded(&self) -> Array {
        self.map(|x| self.dtype.round(x))
    }

    pub fn with_dtype(mut self, dtype: DType) -> Array {
        self.dtype = dtype;
        self
    }

    pub fn reshaped(mut self, shape: &[usize]) -> Array {
        assert_eq!(shape.iter().product::<usize>(), self.data.len());
        self.shape = shape.to_vec();
        self
    }

    /// Reorders the dimensions.
    pub fn permuted(&self, dims: &[usize]) -> Array {
        let shape: Vec<_> = dims.iter().map(|&d| self.shape[d]).collect();
        let data = indices(&shape)
            .map(|at| {
                let mut source = vec![0; dims.len()];
                dims.iter().zip(&at).for_each(|(&d, &i)| source[d] = i);
                self.at(&source)
            })
            .collect();
        Array { dtype: self.dtype, shape, data }
    }
}

/// Shape that two shapes broadcast to.
pub fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    (0..rank).map(|i| if size(a, i) == 1 { size(b, i) } else { size(a, i) }).collect()
}

/// Every index of a shape, in row-major order.
pub fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let shape = shape.to_vec();
    (0..shape.iter().product::<usize>()).map(move |mut flat| {
        let mut at = vec![0; shape.len()];
        for (slot, &size) in at.iter_mut().zip(&shape).rev() {
            *slot = flat % size;
            flat /= size;
        }
        at
    })
}
