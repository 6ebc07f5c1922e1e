//! Tensors, scalars, arrays, lists and executors: the host objects of aclnn and the functions that make and read them.

use super::call::Executor;
use super::decode::Scalar;
use super::tensor::TensorMeta;
use crate::dtype::{DType, Element};
use crate::runtime::handles::{Kind, Table};
use crate::status::Result;
use crate::{ensure, fail, with_element};
use acl_sys::error::*;
use acl_sys::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A tensor object: what it was told, where its data is, and the dimensions as C reads them.
#[derive(Clone, Debug)]
pub(super) struct TensorObject {
    pub meta: Arc<TensorMeta>,
    pub address: u64,
}

pub(super) static TENSORS: Table<TensorObject> = Table::new(Kind::Tensor);
pub(super) static TENSOR_LISTS: Table<Vec<u64>> = Table::new(Kind::TensorList);
pub(super) static SCALARS: Table<Scalar> = Table::new(Kind::Scalar);
pub(super) static SCALAR_LISTS: Table<Vec<Scalar>> = Table::new(Kind::ScalarList);
pub(super) static INTS: Table<Vec<i64>> = Table::new(Kind::IntArray);
pub(super) static BOOLS: Table<Vec<bool>> = Table::new(Kind::BoolArray);
pub(super) static FLOATS: Table<Vec<f32>> = Table::new(Kind::FloatArray);
/// `None` while a call holds the executor.
pub(super) static EXECUTORS: Table<Option<Box<Executor>>> = Table::new(Kind::Executor);

const CODE: i32 = ACLNN_ERR_PARAM_INVALID;

/// What the tensor behind `handle` was told, and its address.
pub fn tensor(handle: *const aclTensor, name: &str) -> Result<(Arc<TensorMeta>, u64)> {
    TENSORS.with(handle, CODE, name, |tensor| (tensor.meta.clone(), tensor.address))
}

/// Gives a tensor object the contiguous shape that an operator's result turned out to have. An object that its owner has
/// destroyed since the launch was issued has nobody left to ask for its shape.
pub fn reshape_tensor(handle: u64, shape: &[usize]) {
    let handle = handle as *const aclTensor;
    let _gone = TENSORS.with(handle, CODE, "out", |tensor| {
        let mut meta = (*tensor.meta).clone();
        meta.strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product::<usize>() as i64).collect();
        meta.shape = shape.to_vec();
        tensor.meta = Arc::new(meta);
    });
}

/// The tensors of a list.
pub fn tensor_list(handle: *const aclTensorList, name: &str) -> Result<Vec<*const aclTensor>> {
    TENSOR_LISTS.with(handle, CODE, name, |list| {
        list.iter().map(|&handle| crate::runtime::handles::pointer(handle).cast_const().cast()).collect()
    })
}

pub fn scalar(handle: *const aclScalar, name: &str) -> Result<Scalar> {
    SCALARS.get(handle, CODE, name)
}

pub fn scalar_list(handle: *const aclScalarList, name: &str) -> Result<Vec<Scalar>> {
    SCALAR_LISTS.get(handle, CODE, name)
}

pub fn int_array(handle: *const aclIntArray, name: &str) -> Result<Vec<i64>> {
    INTS.get(handle, CODE, name)
}

/// Replaces the values of an array that an operator fills; their number stays.
pub fn fill_int_array(handle: *mut aclIntArray, name: &str, values: &[i64]) -> Result<()> {
    let filled = INTS.with(handle, CODE, name, |array| {
        let fits = array.len() == values.len();
        if fits {
            array.copy_from_slice(values);
        }
        (fits, array.len())
    })?;
    ensure!(filled.0, CODE, "{name} holds {} values, wanted {}", filled.1, values.len());
    Ok(())
}

pub fn bool_array(handle: *const aclBoolArray, name: &str) -> Result<Vec<bool>> {
    BOOLS.get(handle, CODE, name)
}

pub fn float_array(handle: *const aclFloatArray, name: &str) -> Result<Vec<f32>> {
    FLOATS.get(handle, CODE, name)
}

/// Keeps the executor of a first phase for the second.
pub fn keep_executor(executor: Executor) -> *mut aclOpExecutor {
    crate::runtime::handles::pointer(EXECUTORS.insert(Some(Box::new(executor)))).cast()
}

/// Lends the executor to one launch. One that was not made repeatable is gone afterwards.
pub fn with_executor(handle: *mut aclOpExecutor, launch: impl FnOnce(&Executor) -> Result<()>) -> Result<()> {
    let lent = EXECUTORS.with(handle, CODE, "executor", Option::take);
    let mut executor = match lent {
        Ok(Some(executor)) => executor,
        Ok(None) => fail!(CODE, "another thread is launching this executor"),
        Err(status) => {
            fail!(
                status.code,
                "{}; an executor serves one launch unless aclSetAclOpExecutorRepeatable was called",
                status.message
            )
        }
    };
    let launched = launch(&executor);
    executor.launched |= launched.is_ok();
    if executor.repeatable || launched.is_err() {
        EXECUTORS.with(handle, CODE, "executor", |slot| *slot = Some(executor))?;
    } else {
        EXECUTORS.remove(handle, CODE, "executor")?;
    }
    launched
}

/// Reads a host value of type `dtype`.
///
/// # Safety
/// `value` must point to a value of that type.
pub(super) unsafe fn read_scalar(value: *const std::ffi::c_void, dtype: DType) -> Scalar {
    with_element!(dtype, T => {
        // SAFETY: the caller vouches for the type; C may hand out any alignment.
        let value = unsafe { value.cast::<T>().read_unaligned() };
        Scalar { dtype, float: Element::to_f64(value), int: Element::to_i64(value) }
    })
}

/// One line for each kind of object that was not destroyed.
pub fn leaks() -> Vec<String> {
    let counts = BTreeMap::from([
        ("tensors", TENSORS.len()),
        ("tensor lists", TENSOR_LISTS.len()),
        ("scalars", SCALARS.len()),
        ("scalar lists", SCALAR_LISTS.len()),
        ("int arrays", INTS.len()),
        ("bool arrays", BOOLS.len()),
        ("float arrays", FLOATS.len()),
        ("executors", EXECUTORS.len()),
    ]);
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect()
}
