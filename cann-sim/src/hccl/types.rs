//! Element types and reductions, and which of them a chip takes, as the operators' pages list them.

use crate::dtype::DType;
use crate::runtime::config;
use crate::status::Result;
use crate::{ensure, fail};
use hccl_sys::*;

/// An element type of HCCL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementType {
    pub code: HcclDataType,
    pub name: &'static str,
    /// Bytes of one element.
    pub size: u64,
    /// What reductions compute in, where there are any.
    pub arithmetic: Option<DType>,
    /// Oldest family that moves it.
    moves: Family,
    /// Oldest family that reduces it.
    reduces: Option<Family>,
}

/// Chip families in the order of their abilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    A2,
    A3,
    A5,
}

fn family() -> Result<Family> {
    Ok(match config::current()?.soc.short {
        "Ascend910B" => Family::A2,
        "Ascend910_93" => Family::A3,
        _ => Family::A5,
    })
}

const fn row(
    code: HcclDataType,
    name: &'static str,
    size: u64,
    arithmetic: Option<DType>,
    moves: Family,
    reduces: Option<Family>,
) -> ElementType {
    ElementType { code, name, size, arithmetic, moves, reduces }
}

use Family::{A2, A5};
const TYPES: &[ElementType] = &[
    row(HCCL_DATA_TYPE_INT8, "int8", 1, Some(DType::I8), A2, Some(A2)),
    row(HCCL_DATA_TYPE_INT16, "int16", 2, Some(DType::I16), A2, Some(A2)),
    row(HCCL_DATA_TYPE_INT32, "int32", 4, Some(DType::I32), A2, Some(A2)),
    row(HCCL_DATA_TYPE_INT64, "int64", 8, Some(DType::I64), A2, Some(A2)),
    row(HCCL_DATA_TYPE_FP16, "float16", 2, Some(DType::F16), A2, Some(A2)),
    row(HCCL_DATA_TYPE_FP32, "float32", 4, Some(DType::F32), A2, Some(A2)),
    row(HCCL_DATA_TYPE_BFP16, "bfp16", 2, Some(DType::BF16), A2, Some(A2)),
    row(HCCL_DATA_TYPE_UINT64, "uint64", 8, Some(DType::U64), A2, Some(A5)),
    row(HCCL_DATA_TYPE_FP64, "float64", 8, Some(DType::F64), A2, Some(A5)),
    row(HCCL_DATA_TYPE_UINT8, "uint8", 1, None, A2, None),
    row(HCCL_DATA_TYPE_UINT16, "uint16", 2, None, A2, None),
    row(HCCL_DATA_TYPE_UINT32, "uint32", 4, None, A2, None),
    row(HCCL_DATA_TYPE_HIF8, "hifloat8", 1, None, A5, None),
    row(HCCL_DATA_TYPE_FP8E4M3, "float8-e4m3", 1, None, A5, None),
    row(HCCL_DATA_TYPE_FP8E5M2, "float8-e5m2", 1, None, A5, None),
    row(HCCL_DATA_TYPE_FP8E8M0, "float8-e8m0", 1, None, A5, None),
];

/// A reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    Sum,
    Prod,
    Max,
    Min,
}

impl Reduction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Prod => "prod",
            Self::Max => "max",
            Self::Min => "min",
        }
    }

    fn from_code(code: HcclReduceOp) -> Result<Self> {
        Ok(match code {
            HCCL_REDUCE_SUM => Self::Sum,
            HCCL_REDUCE_PROD => Self::Prod,
            HCCL_REDUCE_MAX => Self::Max,
            HCCL_REDUCE_MIN => Self::Min,
            other => fail!(HCCL_E_PARA, "op {other} is no reduction; there are sum, prod, max and min (0 to 3)"),
        })
    }
}

fn find(code: HcclDataType) -> Result<&'static ElementType> {
    match TYPES.iter().find(|row| row.code == code) {
        Some(row) => Ok(row),
        None if code == HCCL_DATA_TYPE_INT128 => fail!(HCCL_E_NOT_SUPPORT, "no operator takes int128"),
        None => fail!(HCCL_E_PARA, "dataType {code} is no element type of HCCL"),
    }
}

/// The type `code` for an operator that only moves elements.
pub fn moved(code: HcclDataType) -> Result<&'static ElementType> {
    let row = find(code)?;
    let soc = config::current()?.soc.name;
    ensure!(row.moves <= family()?, HCCL_E_NOT_SUPPORT, "{soc} does not move elements of type {}", row.name);
    Ok(row)
}

/// Type and reduction for an operator that reduces. `HcclReduceScatterV` takes fewer on A2 and A3 than the others do.
pub fn reduced(
    op: &str,
    code: HcclDataType,
    reduction: HcclReduceOp,
) -> Result<(&'static ElementType, DType, Reduction)> {
    let (row, reduction, family) = (find(code)?, Reduction::from_code(reduction)?, family()?);
    let ragged = op == "HcclReduceScatterV";
    let takes_type = row.reduces.is_some_and(|oldest| oldest <= family)
        && !(ragged && family == Family::A2 && code == HCCL_DATA_TYPE_INT64);
    let takes_product = !(matches!(code, HCCL_DATA_TYPE_INT16 | HCCL_DATA_TYPE_BFP16) || ragged && family < Family::A5);
    let soc = config::current()?.soc.name;
    match row.arithmetic {
        Some(arithmetic) if takes_type && (takes_product || reduction != Reduction::Prod) => {
            Ok((row, arithmetic, reduction))
        }
        _ => fail!(HCCL_E_NOT_SUPPORT, "{op} of {} with {} is not supported on {soc}", row.name, reduction.name()),
    }
}
