//! The exported functions that make, read and destroy tensors, scalars, arrays, lists and executors.

use super::meta::{
    BOOLS, EXECUTORS, FLOATS, INTS, SCALAR_LISTS, SCALARS, TENSOR_LISTS, TENSORS, TensorObject, read_scalar,
};
use super::tensor::TensorMeta;
use crate::dtype::DType;
use crate::ensure;
use crate::runtime::exports::export;
use crate::runtime::handles::pointer;
use crate::status::{Result, call, put};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::c_void;
use std::sync::Arc;

const CODE: i32 = ACLNN_ERR_PARAM_INVALID;
/// Most dimensions that a tensor may have.
const MAX_RANK: u64 = 8;

/// `length` values behind `pointer`.
fn values<T: Copy>(pointer: *const T, length: u64, name: &str) -> Result<Vec<T>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    ensure!(!pointer.is_null(), ACLNN_ERR_PARAM_NULLPTR, "{name} is null, wanted {length} values");
    // SAFETY: not null, and the interface asks for that many readable values.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length as usize) }.to_vec())
}

fn sizes(pointer: *const i64, rank: u64, name: &str) -> Result<Vec<usize>> {
    ensure!(rank <= MAX_RANK, CODE, "{name} has {rank} dimensions, at most {MAX_RANK} are allowed");
    let dims = values(pointer, rank, name)?;
    dims.iter()
        .map(|&dim| {
            ensure!(dim >= 0, CODE, "{name} is {dims:?}; a dimension cannot be negative");
            Ok(dim as usize)
        })
        .collect()
}

/// What describes a tensor, in the order of the C parameters.
struct Description {
    view: (*const i64, u64),
    dtype: aclDataType,
    strides: *const i64,
    offset: i64,
    format: aclFormat,
    storage: (*const i64, u64),
    data: *mut c_void,
}

impl Description {
    fn object(&self) -> Result<TensorObject> {
        let dtype = DType::from_acl(self.dtype)?;
        let shape = sizes(self.view.0, self.view.1, "viewDims")?;
        let storage_shape = sizes(self.storage.0, self.storage.1, "storageDims")?;
        let strides =
            if self.strides.is_null() { row_major(&shape) } else { values(self.strides, self.view.1, "stride")? };
        ensure!(self.offset >= 0, CODE, "offset is {}, which lies before the storage", self.offset);
        let format = if self.format == ACL_FORMAT_UNDEFINED { ACL_FORMAT_ND } else { self.format };
        let meta = TensorMeta { dtype, format, shape, strides, offset: self.offset, storage_shape };
        Ok(TensorObject { meta: Arc::new(meta), address: self.data as u64 })
    }
}

fn row_major(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1) as i64;
    }
    strides
}

/// Runs a constructor: the handle, or null with the reason kept for `aclGetRecentErrMsg`.
fn create<T>(name: &str, make: impl FnOnce() -> Result<u64>) -> *mut T {
    let mut handle = std::ptr::null_mut();
    call(name, || {
        handle = pointer(make()?).cast();
        Ok(())
    });
    handle
}

/// Defines exported constructors: the body answers the new object's handle.
macro_rules! constructors {
    ($($(#[$meta:meta])* fn $name:ident($($param:ident : $ty:ty),* $(,)?) -> *mut $ret:ty $body:block)*) => {$(
        $(#[$meta])*
        /// Null on failure.
        ///
        /// # Safety
        /// As the C function: pointers must be valid for what the function does with them.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($param: $ty),*) -> *mut $ret {
            create(stringify!($name), || $body)
        }
    )*};
}

constructors! {
    /// A strided view of device memory.
    fn aclCreateTensor(view_dims: *const i64, view_dims_num: u64, data_type: aclDataType, stride: *const i64, offset: i64, format: aclFormat, storage_dims: *const i64, storage_dims_num: u64, tensor_data: *mut c_void) -> *mut aclTensor {
        let (view, storage) = ((view_dims, view_dims_num), (storage_dims, storage_dims_num));
        let description = Description { view, dtype: data_type, strides: stride, offset, format, storage, data: tensor_data };
        Ok(TENSORS.insert(description.object()?))
    }

    /// A list of tensors, which belong to the list from now on.
    fn aclCreateTensorList(value: *const *const aclTensor, size: u64) -> *mut aclTensorList {
        let tensors = values(value, size, "value")?;
        for (i, &tensor) in tensors.iter().enumerate() {
            TENSORS.with(tensor, CODE, &format!("value[{i}]"), |_| ())?;
        }
        Ok(TENSOR_LISTS.insert(tensors.into_iter().map(|tensor| tensor as u64).collect()))
    }

    /// A host value.
    fn aclCreateScalar(value: *mut c_void, data_type: aclDataType) -> *mut aclScalar {
        ensure!(!value.is_null(), ACLNN_ERR_PARAM_NULLPTR, "value is null");
        let dtype = DType::from_acl(data_type)?;
        // SAFETY: not null, and the interface asks for a value of that type.
        Ok(SCALARS.insert(unsafe { read_scalar(value, dtype) }))
    }

    fn aclCreateScalarList(value: *const *const aclScalar, size: u64) -> *mut aclScalarList {
        let scalars = values(value, size, "value")?;
        let read = |(i, &scalar): (usize, &*const aclScalar)| SCALARS.get(scalar, CODE, &format!("value[{i}]"));
        Ok(SCALAR_LISTS.insert(scalars.iter().enumerate().map(read).collect::<Result<_>>()?))
    }

    fn aclCreateIntArray(value: *const i64, size: u64) -> *mut aclIntArray { Ok(INTS.insert(values(value, size, "value")?)) }

    fn aclCreateFloatArray(value: *const f32, size: u64) -> *mut aclFloatArray { Ok(FLOATS.insert(values(value, size, "value")?)) }

    fn aclCreateBoolArray(value: *const bool, size: u64) -> *mut aclBoolArray {
        // Read as bytes, because a C caller can pass ones that are no Rust `bool`.
        Ok(BOOLS.insert(values(value.cast::<u8>(), size, "value")?.into_iter().map(|byte| byte != 0).collect()))
    }
}

/// Memory that the caller frees with `free` (or `delete[]`), holding `values`.
fn give(values: &[i64], out: *mut *mut i64, name: &str) -> Result<()> {
    ensure!(!out.is_null(), ACLNN_ERR_PARAM_NULLPTR, "{name} is null");
    // SAFETY: the allocation has room for the values, at least one, and is checked before it is written.
    let copy = unsafe { libc::malloc(size_of_val(values).max(8)) }.cast::<i64>();
    ensure!(!copy.is_null(), ACL_ERROR_BAD_ALLOC, "the host has no memory left");
    // SAFETY: both ranges hold `values.len()` numbers, and the second was just allocated.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), copy, values.len()) };
    out_value(out, name, copy)
}

fn out_value<T>(out: *mut T, name: &str, value: T) -> Result<()> {
    ensure!(!out.is_null(), ACLNN_ERR_PARAM_NULLPTR, "{name} is null");
    put(out, name, value)
}

fn tensor(handle: *const aclTensor) -> Result<TensorObject> {
    TENSORS.get(handle, CODE, "tensor")
}

fn as_i64(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|&size| size as i64).collect()
}

/// Which of an executor's tensors an address is for.
#[derive(Clone, Copy)]
enum Side {
    Input,
    Output,
    Any,
}

fn readdress(executor: *mut aclOpExecutor, side: Side, index: usize, address: *mut c_void) -> Result<()> {
    EXECUTORS.with(executor, CODE, "executor", |slot| {
        let Some(executor) = slot else { crate::fail!(CODE, "another thread is launching this executor") };
        ensure!(
            executor.repeatable,
            CODE,
            "{} was not made repeatable; call aclSetAclOpExecutorRepeatable first",
            executor.op
        );
        match side {
            Side::Input => executor.readdress(false, index, address as u64),
            Side::Output => executor.readdress(true, index, address as u64),
            Side::Any => {
                let (op, count) = (executor.op, executor.slots.len());
                match executor.slots.get_mut(index) {
                    Some(slot) => slot.address = address as u64,
                    None => crate::fail!(CODE, "{op} has {count} tensors, no tensor {index}"),
                }
                Ok(())
            }
        }
    })?
}

/// The `relative`-th tensor of the list that is parameter `index`, given a new address.
fn readdress_in_list(
    executor: *mut aclOpExecutor,
    side: Side,
    index: usize,
    relative: usize,
    address: *mut c_void,
) -> Result<()> {
    EXECUTORS.with(executor, CODE, "executor", |slot| {
        let Some(executor) = slot else { crate::fail!(CODE, "another thread is launching this executor") };
        ensure!(
            executor.repeatable,
            CODE,
            "{} was not made repeatable; call aclSetAclOpExecutorRepeatable first",
            executor.op
        );
        executor.readdress_in_list(
            match side {
                Side::Input => Some(false),
                Side::Output => Some(true),
                Side::Any => None,
            },
            index,
            relative,
            address as u64,
        )
    })?
}

/// Defines the destructors, each of one kind of object.
macro_rules! destructors {
    ($($name:ident($param:ident : $ty:ty) from $table:ident;)*) => {
        export! {$(
            fn $name($param: *const $ty) { $table.remove($param, CODE, stringify!($param)).map(drop) }
        )*}
    };
}

destructors! {
    aclDestroyTensor(tensor: aclTensor) from TENSORS;
    aclDestroyScalar(scalar: aclScalar) from SCALARS;
    aclDestroyScalarList(array: aclScalarList) from SCALAR_LISTS;
    aclDestroyIntArray(array: aclIntArray) from INTS;
    aclDestroyFloatArray(array: aclFloatArray) from FLOATS;
    aclDestroyBoolArray(array: aclBoolArray) from BOOLS;
}

export! {
    /// Destroys a list and the tensors in it.
    fn aclDestroyTensorList(array: *const aclTensorList) {
        let tensors = TENSOR_LISTS.remove(array, CODE, "array")?;
        tensors.into_iter().try_for_each(|tensor| TENSORS.remove(pointer(tensor), CODE, "a tensor of the list").map(drop))
    }

    /// Destroys an executor that was made repeatable; others end with their launch.
    fn aclDestroyAclOpExecutor(executor: *mut aclOpExecutor) { EXECUTORS.remove(executor, CODE, "executor").map(drop) }

    fn aclSetAclOpExecutorRepeatable(executor: *mut aclOpExecutor) {
        EXECUTORS.with(executor, CODE, "executor", |slot| {
            let Some(executor) = slot else { crate::fail!(CODE, "another thread is launching this executor") };
            executor.repeatable = true;
            Ok(())
        })?
    }

    fn aclSetInputTensorAddr(executor: *mut aclOpExecutor, index: usize, tensor: *mut aclTensor, addr: *mut c_void) {
        TENSORS.with(tensor, CODE, "tensor", |_| ())?;
        readdress(executor, Side::Input, index, addr)
    }

    fn aclSetOutputTensorAddr(executor: *mut aclOpExecutor, index: usize, tensor: *mut aclTensor, addr: *mut c_void) {
        TENSORS.with(tensor, CODE, "tensor", |_| ())?;
        readdress(executor, Side::Output, index, addr)
    }

    fn aclSetTensorAddr(executor: *mut aclOpExecutor, index: usize, tensor: *mut aclTensor, addr: *mut c_void) {
        TENSORS.with(tensor, CODE, "tensor", |_| ())?;
        readdress(executor, Side::Any, index, addr)
    }

    fn aclSetDynamicInputTensorAddr(executor: *mut aclOpExecutor, ir_index: usize, relative_index: usize, tensors: *mut aclTensorList, addr: *mut c_void) {
        TENSOR_LISTS.with(tensors, CODE, "tensors", |_| ())?;
        readdress_in_list(executor, Side::Input, ir_index, relative_index, addr)
    }

    fn aclSetDynamicOutputTensorAddr(executor: *mut aclOpExecutor, ir_index: usize, relative_index: usize, tensors: *mut aclTensorList, addr: *mut c_void) {
        TENSOR_LISTS.with(tensors, CODE, "tensors", |_| ())?;
        readdress_in_list(executor, Side::Output, ir_index, relative_index, addr)
    }

    fn aclSetDynamicTensorAddr(executor: *mut aclOpExecutor, ir_index: usize, relative_index: usize, tensors: *mut aclTensorList, addr: *mut c_void) {
        TENSOR_LISTS.with(tensors, CODE, "tensors", |_| ())?;
        readdress_in_list(executor, Side::Any, ir_index, relative_index, addr)
    }

    /// Describes a tensor anew.
    fn aclInitTensor(tensor: *mut aclTensor, view_dims: *const i64, view_dims_num: u64, data_type: aclDataType, stride: *const i64, offset: i64, format: aclFormat, storage_dims: *const i64, storage_dims_num: u64, tensor_data_addr: *mut c_void) {
        let (view, storage) = ((view_dims, view_dims_num), (storage_dims, storage_dims_num));
        let description = Description { view, dtype: data_type, strides: stride, offset, format, storage, data: tensor_data_addr };
        let object = description.object()?;
        TENSORS.with(tensor, CODE, "tensor", |slot| *slot = object)
    }

    fn aclSetRawTensorAddr(tensor: *mut aclTensor, addr: *mut c_void) {
        TENSORS.with(tensor, CODE, "tensor", |slot| slot.address = addr as u64)
    }

    fn aclGetRawTensorAddr(tensor: *const aclTensor, addr: *mut *mut c_void) {
        out_value(addr, "addr", std::ptr::without_provenance_mut(self::tensor(tensor)?.address as usize))
    }

    fn aclGetDataType(tensor: *const aclTensor, data_type: *mut aclDataType) {
        out_value(data_type, "dataType", self::tensor(tensor)?.meta.dtype.to_acl())
    }

    fn aclGetFormat(tensor: *const aclTensor, format: *mut aclFormat) { out_value(format, "format", self::tensor(tensor)?.meta.format) }

    fn aclGetViewOffset(tensor: *const aclTensor, offset: *mut i64) { out_value(offset, "offset", self::tensor(tensor)?.meta.offset) }

    /// Dimensions of the view; the caller frees the array.
    fn aclGetViewShape(tensor: *const aclTensor, view_dims: *mut *mut i64, view_dims_num: *mut u64) {
        let meta = self::tensor(tensor)?.meta;
        out_value(view_dims_num, "viewDimsNum", meta.shape.len() as u64)?;
        give(&as_i64(&meta.shape), view_dims, "viewDims")
    }

    /// Strides of the view in elements; the caller frees the array.
    fn aclGetViewStrides(tensor: *const aclTensor, strides_value: *mut *mut i64, strides_num: *mut u64) {
        let meta = self::tensor(tensor)?.meta;
        out_value(strides_num, "stridesNum", meta.strides.len() as u64)?;
        give(&meta.strides, strides_value, "stridesValue")
    }

    /// Dimensions of the storage; the caller frees the array.
    fn aclGetStorageShape(tensor: *const aclTensor, storage_dims: *mut *mut i64, storage_dims_num: *mut u64) {
        let meta = self::tensor(tensor)?.meta;
        out_value(storage_dims_num, "storageDimsNum", meta.storage_shape.len() as u64)?;
        give(&as_i64(&meta.storage_shape), storage_dims, "storageDims")
    }

    fn aclGetTensorListSize(tensor_list: *const aclTensorList, size: *mut u64) {
        out_value(size, "size", TENSOR_LISTS.with(tensor_list, CODE, "tensorList", |list| list.len() as u64)?)
    }

    fn aclGetScalarListSize(scalar_list: *const aclScalarList, size: *mut u64) {
        out_value(size, "size", SCALAR_LISTS.with(scalar_list, CODE, "scalarList", |list| list.len() as u64)?)
    }

    fn aclGetIntArraySize(array: *const aclIntArray, size: *mut u64) {
        out_value(size, "size", INTS.with(array, CODE, "array", |array| array.len() as u64)?)
    }

    fn aclGetFloatArraySize(array: *const aclFloatArray, size: *mut u64) {
        out_value(size, "size", FLOATS.with(array, CODE, "array", |array| array.len() as u64)?)
    }

    fn aclGetBoolArraySize(array: *const aclBoolArray, size: *mut u64) {
        out_value(size, "size", BOOLS.with(array, CODE, "array", |array| array.len() as u64)?)
    }
}
