//! Launches of our own Ascend C kernels.
//!
//! Their binary is looked for when the first is launched: the file that `NPU_KERNELS` names, or [`FILE`] beside the
//! program, as `kernels/build-device` makes it where a toolkit is installed. Where there is neither, the kernels that
//! were compiled for the host are offered, which a simulated device takes and a card refuses.

use super::context::{Context, Handle, Inner, lock};
use super::{Buffer, Error, watch};
use acl_sys::{aclrtArgsHandle, aclrtBinHandle, aclrtFuncHandle};
use ascend_kernels::Launch;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

/// Name of the device binary.
pub const FILE: &str = "npu-kernels.o";
const VARIABLE: &str = "NPU_KERNELS";
/// Bytes of an argument: all of them are addresses.
const WORD: usize = 8;

/// The kernels of one device, from the first launch on.
#[derive(Default)]
pub(super) struct Kernels {
    binary: Option<Handle>,
    functions: HashMap<&'static str, Handle>,
    /// Memory that the runtime keeps a list of arguments in while it is made up; each launch copies it.
    list: Vec<u64>,
}

/// Launches `launch` on the context's stream. Its arguments are the bytes of `tensors` from the given offsets on, then its
/// workspace from the pool, then its tiling, which travels with the arguments.
///
/// # Errors
/// Where the device has no binary of our kernels, an offset lies outside of its buffer, or a call of the runtime fails.
/// A rule that the kernel breaks is found by the next synchronisation.
pub fn launch_kernel(context: &Context, launch: &Launch, tensors: &[(&Buffer, usize)]) -> Result<(), Error> {
    let inner = &context.0;
    inner.ready()?;
    for (index, (buffer, offset)) in tensors.iter().enumerate() {
        if *offset > buffer.size() {
            let why = format!("argument {index} begins at byte {offset} of a buffer of {}", buffer.size());
            return Err(Error::Arguments { op: launch.kernel, why });
        }
    }
    let workspace = match launch.workspace {
        0 => None,
        bytes => Some(context.allocate(bytes as usize)?),
    };
    let mut words: Vec<u64> = tensors.iter().map(|(buffer, offset)| buffer.pointer_at(*offset) as u64).collect();
    words.push(workspace.as_ref().map_or(0, |buffer| buffer.pointer() as u64));

    let mut kernels = lock(&inner.kernels);
    let function = kernels.function(inner, launch.kernel)?;
    let arguments = kernels.arguments(inner, function, &words, &launch.tiling)?;
    let launched = inner.enqueue("aclrtLaunchKernelWithConfig", |stream| {
        let acl = &inner.api.acl;
        // SAFETY: function and list are live; the addresses stay allocated until the stream has passed.
        unsafe { acl.aclrtLaunchKernelWithConfig(function, launch.blocks, stream, null_mut(), arguments, null_mut()) }
    });
    let counting = &inner.counting;
    let counter = if inner.captured_here() { &counting.captured_launches } else { &counting.launches };
    counter.fetch_add(1, Ordering::Relaxed);
    watch::note(launch.kernel);
    launched
}

impl Context {
    /// Cube cores of the device: blocks of a kernel with matrix products. Releases before 9 cannot say; no chip with split
    /// cores has fewer than the number then given.
    pub fn cube_cores(&self) -> usize {
        const FEWEST: usize = 20;
        let mut count = 0;
        let (device, which) = (self.device() as u32, acl_sys::ACL_DEV_ATTR_CUBE_CORE_NUM);
        // SAFETY: writes one number through a valid pointer.
        let answer = unsafe { self.0.api.acl.aclrtGetDeviceInfo(device, which, &mut count) };
        if answer.is_ok_and(|code| code == 0) && count > 0 { count as usize } else { FEWEST }
    }
}

impl Kernels {
    fn function(&mut self, inner: &Inner, name: &'static str) -> Result<aclrtFuncHandle, Error> {
        if let Some(known) = self.functions.get(name) {
            return Ok(known.0);
        }
        let binary = match self.binary {
            Some(binary) => binary.0,
            None => load(inner)?,
        };
        self.binary = Some(Handle(binary));
        let symbol = CString::new(name).unwrap_or_default();
        let mut function = null_mut();
        // SAFETY: the binary is loaded, the name NUL-terminated, and the handle written through a valid pointer.
        let found = unsafe { inner.api.acl.aclrtBinaryGetFunction(binary, symbol.as_ptr(), &mut function) };
        inner.api.check("aclrtBinaryGetFunction", found)?;
        self.functions.insert(name, Handle(function));
        Ok(function)
    }

    /// A finished list of `words` and the tiling, in this object's own memory.
    fn arguments(
        &mut self,
        inner: &Inner,
        function: aclrtFuncHandle,
        words: &[u64],
        tiling: &[u8],
    ) -> Result<aclrtArgsHandle, Error> {
        let (api, acl) = (&inner.api, &inner.api.acl);
        let wanted = (words.len() + 1) * WORD + tiling.len().next_multiple_of(WORD);
        let (mut handle_size, mut size) = (0, 0);
        // SAFETY: the function is live; each call writes one number through a valid pointer.
        unsafe {
            api.check(
                "aclrtKernelArgsGetHandleMemSize",
                acl.aclrtKernelArgsGetHandleMemSize(function, &mut handle_size),
            )?;
            api.check("aclrtKernelArgsGetMemSize", acl.aclrtKernelArgsGetMemSize(function, wanted, &mut size))?;
        }
        let handle_words = handle_size.div_ceil(WORD);
        self.list.resize(self.list.len().max(handle_words + size.div_ceil(WORD)), 0);
        let list: aclrtArgsHandle = self.list.as_mut_ptr().cast();
        let mut parameter = null_mut();
        // SAFETY: the list has room for the handle and, behind it, for its arguments, as the runtime said; values and the
        // placeholder's buffer are written while they are live.
        unsafe {
            let room = self.list.as_mut_ptr().add(handle_words).cast();
            let begun = acl.aclrtKernelArgsInitByUserMem(function, list, room, size);
            api.check("aclrtKernelArgsInitByUserMem", begun)?;
            for word in words {
                let value = (&raw const *word).cast_mut().cast();
                let added = acl.aclrtKernelArgsAppend(list, value, WORD, &mut parameter);
                api.check("aclrtKernelArgsAppend", added)?;
            }
            let added = acl.aclrtKernelArgsAppendPlaceHolder(list, &mut parameter);
            api.check("aclrtKernelArgsAppendPlaceHolder", added)?;
            let mut buffer: *mut c_void = null_mut();
            let given = acl.aclrtKernelArgsGetPlaceHolderBuffer(list, parameter, tiling.len(), &mut buffer);
            api.check("aclrtKernelArgsGetPlaceHolderBuffer", given)?;
            std::ptr::copy_nonoverlapping(tiling.as_ptr(), buffer.cast(), tiling.len());
            api.check("aclrtKernelArgsFinalize", acl.aclrtKernelArgsFinalize(list))?;
        }
        Ok(list)
    }
}

/// The device binary that there is, if any, and where it would be.
fn device_binary() -> (Option<PathBuf>, String) {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(named);
        let told = format!("{VARIABLE} names {}", path.display());
        return (Some(path), told);
    }
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(|folder| folder.join(FILE)));
    let told =
        format!("{VARIABLE} is not set and there is no {}", beside.as_deref().unwrap_or(Path::new(FILE)).display());
    (beside.filter(|path| path.is_file()), told)
}

fn load(inner: &Inner) -> Result<aclrtBinHandle, Error> {
    let (path, told) = device_binary();
    let no_binary = |why: &dyn std::fmt::Display| Error::Unavailable {
        op: "our own kernels",
        why: format!("{told}; kernels/build-device makes the binary where a toolkit is installed ({why})"),
    };
    let mut binary = null_mut();
    let loaded = match &path {
        Some(path) => {
            let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
            // SAFETY: the path is NUL-terminated, no options, and the handle written through a valid pointer.
            let answer = unsafe { inner.api.acl.aclrtBinaryLoadFromFile(name.as_ptr(), null_mut(), &mut binary) };
            inner.api.check("aclrtBinaryLoadFromFile", answer)
        }
        None => offer_twin(inner, &mut binary),
    };
    match loaded {
        Ok(()) => Ok(binary),
        Err(error) => Err(no_binary(&error)),
    }
}

/// Offers the kernels that were compiled for the host; the oldest release has no call for data in memory but these three.
fn offer_twin(inner: &Inner, binary: &mut aclrtBinHandle) -> Result<(), Error> {
    let (api, acl, twin) = (&inner.api, &inner.api.acl, ascend_kernels::TWIN);
    // SAFETY: the bytes are readable and live as long as the program; the data is destroyed once, after its last use.
    unsafe {
        let data = api.handle("aclrtCreateBinary", acl.aclrtCreateBinary(twin.as_ptr().cast(), twin.len()))?;
        let loaded = api.check("aclrtBinaryLoad", acl.aclrtBinaryLoad(data, binary));
        api.check("aclrtDestroyBinary", acl.aclrtDestroyBinary(data))?;
        loaded
    }
}

impl Inner {
    /// Gives the binary back; the stream is idle.
    pub(super) fn unload_kernels(&self) {
        if let Some(binary) = std::mem::take(&mut *lock(&self.kernels)).binary {
            // SAFETY: the binary was loaded by this object and nothing runs its code.
            let _ = unsafe { self.api.acl.aclrtBinaryUnLoad(binary.0) };
        }
    }
}
