//! Device arrays, and one macro that runs both phases of an operator.

use acl_sys::*;
pub use cann_sim::dtype::DType::{self, *};
use cann_sim::{Config, Embedded};
use half::{bf16, f16};
use std::cell::RefCell;
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

/// The runtime's functions, with device 0 current on this thread.
pub fn acl() -> &'static Acl {
    static ACL: OnceLock<Acl> = OnceLock::new();
    let acl = ACL.get_or_init(|| Acl::new(Arc::new(Embedded::with(Config::default()).unwrap())));
    // SAFETY: no pointers.
    assert_eq!(unsafe { acl.aclrtSetDevice(0) }, Ok(0));
    acl
}

/// The text of this thread's last failure.
pub fn message() -> String {
    // SAFETY: no arguments; the answer is null or a text that lives until the next call on this thread.
    let text = unsafe { acl().aclGetRecentErrMsg().unwrap() };
    match text.is_null() {
        true => String::new(),
        // SAFETY: not null, so a text as above.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    }
}

struct Block {
    data: *mut c_void,
    bytes: usize,
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block was allocated by `aclrtMalloc` and is freed once.
        assert_eq!(unsafe { acl().aclrtFree(self.data) }, Ok(0));
    }
}

/// A view of device memory, with the tensor object that describes it.
pub struct Array {
    block: Rc<Block>,
    pub handle: *mut aclTensor,
    pub dtype: DType,
    shape: Vec<usize>,
    strides: Vec<i64>,
    offset: i64,
    /// Lists destroy the tensors that they hold.
    listed: RefCell<bool>,
}

impl Drop for Array {
    fn drop(&mut self) {
        if !*self.listed.borrow() {
            // SAFETY: the tensor is destroyed once.
            assert_eq!(unsafe { acl().aclDestroyTensor(self.handle) }, Ok(0));
        }
    }
}

fn encode(dtype: DType, value: f64) -> Vec<u8> {
    match dtype {
        F32 => (value as f32).to_le_bytes().to_vec(),
        F64 => value.to_le_bytes().to_vec(),
        F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        BF16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        I8 => (value as i8).to_le_bytes().to_vec(),
        I16 => (value as i16).to_le_bytes().to_vec(),
        I32 => (value as i32).to_le_bytes().to_vec(),
        I64 => (value as i64).to_le_bytes().to_vec(),
        U8 | Bool => (value as u8).to_le_bytes().to_vec(),
        U16 => (value as u16).to_le_bytes().to_vec(),
        U32 => (value as u32).to_le_bytes().to_vec(),
        U64 => (value as u64).to_le_bytes().to_vec(),
        other => panic!("{other} arrays are not needed"),
    }
}

fn decode(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        F32 => f32::from_le_bytes(bytes.try_into().unwrap()) as f64,
        F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        I8 => bytes[0] as i8 as f64,
        I16 => i16::from_le_bytes(bytes.try_into().unwrap()) as f64,
        I32 => i32::from_le_bytes(bytes.try_into().unwrap()) as f64,
        I64 => i64::from_le_bytes(bytes.try_into().unwrap()) as f64,
        U8 | Bool => bytes[0] as f64,
        U16 => u16::from_le_bytes(bytes.try_into().unwrap()) as f64,
        U32 => u32::from_le_bytes(bytes.try_into().unwrap()) as f64,
        U64 => u64::from_le_bytes(bytes.try_into().unwrap()) as f64,
        other => panic!("{other} arrays are not needed"),
    }
}

/// `value` as the element type holds it.
pub fn rounded(dtype: DType, value: f64) -> f64 {
    decode(dtype, &encode(dtype, value))
}

/// A contiguous array of the given values.
pub fn array(dtype: DType, shape: &[usize], values: &[f64]) -> Array {
    assert_eq!(shape.iter().product::<usize>(), values.len());
    let bytes: Vec<u8> = values.iter().flat_map(|&value| encode(dtype, value)).collect();
    let mut data = null_mut();
    // SAFETY: the pointer is writable, and the source has as many bytes as are copied.
    unsafe {
        assert_eq!(acl().aclrtMalloc(&mut data, bytes.len().max(32), 0), Ok(0));
        if !bytes.is_empty() {
            let copied = acl().aclrtMemcpy(data, bytes.len(), bytes.as_ptr().cast(), bytes.len(), 1);
            assert_eq!(copied, Ok(0), "{}", message());
        }
    }
    let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product::<usize>() as i64).collect();
    describe(Rc::new(Block { data, bytes: bytes.len() }), dtype, shape.to_vec(), strides, 0)
}

/// The matrix `[k, n]` of zeros in blocks, `[n/16, k/16, 16, 16]`, described as such.
pub fn blocks(dtype: DType, k: usize, n: usize) -> Array {
    let shape = [n / 16, k / 16, 16, 16];
    let flat = array(dtype, &[k * n], &vec![0.0; k * n]);
    let strides = (0..4).map(|i| shape[i + 1..].iter().product::<usize>() as i64).collect();
    describe_as(flat.block.clone(), dtype, shape.to_vec(), strides, 0, (29, &shape.map(|size| size as i64)))
}

/// An array to be written, filled with a number that no result should keep.
pub fn output(dtype: DType, shape: &[usize]) -> Array {
    array(dtype, shape, &vec![77.0; shape.iter().product()])
}

fn describe(block: Rc<Block>, dtype: DType, shape: Vec<usize>, strides: Vec<i64>, offset: i64) -> Array {
    let storage = [(block.bytes / dtype.size()) as i64];
    describe_as(block, dtype, shape, strides, offset, (2, &storage))
}

/// With a format, and the shape of the storage.
fn describe_as(
    block: Rc<Block>,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<i64>,
    offset: i64,
    (format, storage): (i32, &[i64]),
) -> Array {
    let dims: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    // SAFETY: the arrays have the lengths that are passed.
    let handle = unsafe {
        acl().aclCreateTensor(
            dims.as_ptr(),
            dims.len() as u64,
            dtype.to_acl(),
            strides.as_ptr(),
            offset,
            format,
            storage.as_ptr(),
            storage.len() as u64,
            block.data,
        )
    };
    let handle = handle.unwrap();
    assert!(!handle.is_null(), "{}", message());
    Array { block, handle, dtype, shape, strides, offset, listed: RefCell::new(false) }
}

impl Array {
    /// Another view of the same memory.
    pub fn view(&self, shape: &[usize], strides: &[i64], offset: i64) -> Array {
        describe(self.block.clone(), self.dtype, shape.to_vec(), strides.to_vec(), offset)
    }

    /// The elements in row-major order of the view.
    pub fn values(&self) -> Vec<f64> {
        let mut bytes = vec![0u8; self.block.bytes];
        if !bytes.is_empty() {
            // SAFETY: the destination has as many bytes as are copied.
            let copied =
                unsafe { acl().aclrtMemcpy(bytes.as_mut_ptr().cast(), bytes.len(), self.block.data, bytes.len(), 2) };
            assert_eq!(copied, Ok(0), "{}", message());
        }
        let mut offsets = vec![self.offset];
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            offsets = offsets.iter().flat_map(|&start| (0..size as i64).map(move |i| start + i * stride)).collect();
        }
        let size = self.dtype.size();
        offsets.iter().map(|&at| decode(self.dtype, &bytes[at as usize * size..][..size])).collect()
    }

    /// The shape that the tensor object answers.
    pub fn told_shape(&self) -> Vec<i64> {
        let (mut dims, mut rank) = (null_mut(), 0);
        // SAFETY: both pointers are writable; the answer holds `rank` numbers and is freed once.
        unsafe {
            assert_eq!(acl().aclGetViewShape(self.handle, &mut dims, &mut rank), Ok(0));
            let shape = std::slice::from_raw_parts(dims, rank as usize).to_vec();
            libc::free(dims.cast());
            shape
        }
    }
}

/// A list of arrays, whose tensors it destroys.
pub struct List(*mut aclTensorList);

pub fn list(arrays: &[&Array]) -> List {
    let handles: Vec<*const aclTensor> = arrays.iter().map(|array| array.handle.cast_const()).collect();
    arrays.iter().for_each(|array| *array.listed.borrow_mut() = true);
    // SAFETY: the array has the length that is passed.
    List(unsafe { acl().aclCreateTensorList(handles.as_ptr(), handles.len() as u64).unwrap() })
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list is destroyed once.
        assert_eq!(unsafe { acl().aclDestroyTensorList(self.0) }, Ok(0));
    }
}

/// A host scalar.
pub struct Number(*mut aclScalar);

pub fn number(dtype: DType, value: f64) -> Number {
    let mut bytes = encode(dtype, value);
    // SAFETY: the value has the size of its type.
    Number(unsafe { acl().aclCreateScalar(bytes.as_mut_ptr().cast(), dtype.to_acl()).unwrap() })
}

impl Drop for Number {
    fn drop(&mut self) {
        // SAFETY: the scalar is destroyed once.
        assert_eq!(unsafe { acl().aclDestroyScalar(self.0) }, Ok(0));
    }
}

/// A host array of integers.
pub struct Ints(*mut aclIntArray);

pub fn ints(values: &[i64]) -> Ints {
    // SAFETY: the array has the length that is passed.
    Ints(unsafe { acl().aclCreateIntArray(values.as_ptr(), values.len() as u64).unwrap() })
}

impl Drop for Ints {
    fn drop(&mut self) {
        // SAFETY: the array is destroyed once.
        assert_eq!(unsafe { acl().aclDestroyIntArray(self.0) }, Ok(0));
    }
}

/// An argument of an operator.
pub trait Arg<C> {
    fn arg(self) -> C;
}

macro_rules! args {
    ($($from:ty => $to:ty: |$v:ident| $e:expr;)*) => {$(
        impl Arg<$to> for $from {
            fn arg(self) -> $to {
                let $v = self;
                $e
            }
        }
    )*};
}

/// No tensor, string or array, where one may be left out.
pub struct Nothing;

args! {
    &Array => *const aclTensor: |v| v.handle;
    &Array => *mut aclTensor: |v| v.handle;
    &List => *const aclTensorList: |v| v.0;
    &List => *mut aclTensorList: |v| v.0;
    &Number => *const aclScalar: |v| v.0;
    &Ints => *const aclIntArray: |v| v.0;
    Nothing => *const aclTensor: |_v| null();
    Nothing => *mut aclTensor: |_v| null_mut();
    Nothing => *mut std::ffi::c_char: |_v| null_mut();
    Nothing => *const aclIntArray: |_v| null();
    Nothing => *const aclScalar: |_v| null();
    DType => aclDataType: |v| v.to_acl();
    bool => bool: |v| v;
    i32 => i32: |v| v;
    i64 => i64: |v| v;
    u64 => u64: |v| v;
    f32 => f32: |v| v;
    f64 => f64: |v| v;
}

type Second = unsafe extern "C" fn(*mut c_void, u64, *mut aclOpExecutor, aclrtStream) -> i32;

/// The second phase, on a stream of its own.
///
/// # Safety
/// Both pointers must be valid.
pub unsafe fn finish(
    code: i32,
    size: *mut u64,
    executor: *mut *mut aclOpExecutor,
    second: Second,
) -> Result<(), (i32, String)> {
    let outcome = |code| if code == 0 { Ok(()) } else { Err((code, message())) };
    outcome(code)?;
    // SAFETY: as the function asks.
    let (size, executor) = unsafe { (*size, *executor) };
    let acl = acl();
    let (mut stream, mut workspace) = (null_mut(), null_mut());
    // SAFETY: the pointers are writable; the executor is used once.
    unsafe {
        assert_eq!(acl.aclrtCreateStream(&mut stream), Ok(0));
        if size > 0 {
            assert_eq!(acl.aclrtMalloc(&mut workspace, size as usize, 0), Ok(0));
        }
        let result = outcome(second(workspace, size, executor, stream))
            .and_then(|()| outcome(acl.aclrtSynchronizeStream(stream).unwrap()));
        if size > 0 {
            assert_eq!(acl.aclrtFree(workspace), Ok(0));
        }
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
        result
    }
}

/// Runs an operator: `run!(Add(&x, &y, &alpha, &out))`, answering the failing code and its text.
macro_rules! run {
    ($name:ident($($arg:expr),* $(,)?)) => { pastey::paste! {{
        use cann_sim::aclnn::exports::{[<aclnn $name>], [<aclnn $name GetWorkspaceSize>]};
        $crate::support::acl();
        let (mut size, mut executor) = (0, std::ptr::null_mut());
        let (size, executor) = (&raw mut size, &raw mut executor);
        // Arguments that are made on the spot live to the end of the outer call, so until the stream has used them.
        // SAFETY: the arguments are live handles and host values, and both pointers are writable.
        unsafe {
            $crate::support::finish(
                [<aclnn $name GetWorkspaceSize>]($($crate::support::Arg::arg($arg),)* size, executor), size, executor, [<aclnn $name>],
            )
        }
    }}};
}
pub(crate) use run;

/// Asserts that both have the same elements, within `tolerance` of the larger of 1 and the expected size.
#[track_caller]
pub fn close(got: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len());
    for (i, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        let same = got == wanted || (got.is_nan() && wanted.is_nan());
        assert!(
            same || (got - wanted).abs() <= tolerance * wanted.abs().max(1.0),
            "element {i}: {got}, wanted {wanted}"
        );
    }
}

/// Asserts that an operator was refused with `code` and a text that says each of `parts`.
#[track_caller]
pub fn refused(result: Result<(), (i32, String)>, code: i32, parts: &[&str]) {
    let (got, text) = result.expect_err("the operator ran");
    assert_eq!(got, code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Numbers without a pattern, the same for the same seed, of (-2, 2).
pub fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 * (-51f64).exp2() - 2.0
        })
        .collect()
}
