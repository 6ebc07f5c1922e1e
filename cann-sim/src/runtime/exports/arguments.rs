//! The arguments of kernels, and launches. A twin's kernels run; the code of an AI core cannot.

use crate::runtime::binary::{FUNCTIONS, Function};
use crate::runtime::cost::{Cost, Issue};
use crate::runtime::handles::{Kind, Table, pointer};
use crate::runtime::memory::{self, Access};
use crate::runtime::twin::{self, Carried};
use crate::runtime::{device, faults, launch, stats};
use crate::status::{Result, put};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// Bytes of an argument: each of our kernels' is an address.
const WORD: usize = 8;
/// Where kernels find data that travels with their arguments: no device has memory there.
const CARRIED: u64 = 0x3A00_0000_0000;
/// Bytes of the handle that the interface lets a caller keep, and of its list of arguments for each argument.
const HANDLE_BYTES: usize = 64;

/// One argument: a value, or data that its kernel gets the address of.
#[derive(Clone, Debug)]
enum Argument {
    Value(u64),
    Data(Vec<u8>),
}

#[derive(Clone, Debug, Default)]
struct Arguments {
    list: Vec<Argument>,
    finished: bool,
}

static ARGUMENTS: Table<Arguments> = Table::new(Kind::Arguments);
/// Lists that live in the caller's own memory, by its address.
static IN_USER_MEMORY: Mutex<Option<HashMap<u64, Arguments>>> = Mutex::new(None);

fn with_arguments<R>(handle: aclrtArgsHandle, look: impl FnOnce(&mut Arguments) -> Result<R>) -> Result<R> {
    let mut own = IN_USER_MEMORY.lock().unwrap_or_else(|e| e.into_inner());
    match own.get_or_insert_default().get_mut(&(handle as u64)) {
        Some(arguments) => look(arguments),
        None => ARGUMENTS.with(handle, ACL_ERROR_RT_PARAM_INVALID, "argsHandle", look)?,
    }
}

fn append(handle: aclrtArgsHandle, argument: Argument, param: *mut aclrtParamHandle) -> Result<()> {
    let number = with_arguments(handle, |arguments| {
        ensure!(!arguments.finished, ACL_ERROR_RT_PARAM_INVALID, "aclrtKernelArgsFinalize has closed the list");
        arguments.list.push(argument);
        Ok(arguments.list.len())
    })?;
    put(param, "paramHandle", std::ptr::without_provenance_mut(number))
}

fn argument(arguments: &mut Arguments, param: aclrtParamHandle) -> Result<&mut Argument> {
    let (number, count) = (param as usize, arguments.list.len());
    match number.checked_sub(1).and_then(|index| arguments.list.get_mut(index)) {
        Some(argument) => Ok(argument),
        None => fail!(ACL_ERROR_RT_PARAM_INVALID, "paramHandle is none of the list's {count} arguments"),
    }
}

fn word(param: *const c_void, size: usize) -> Result<u64> {
    ensure!(!param.is_null(), ACL_ERROR_INVALID_PARAM, "param is null");
    ensure!(size > 0 && size <= WORD, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "an argument of {size} bytes: 1 to {WORD}");
    let mut bytes = [0u8; WORD];
    // SAFETY: not null, and the interface asks for that many readable bytes.
    unsafe { std::ptr::copy_nonoverlapping(param.cast::<u8>(), bytes.as_mut_ptr(), size) };
    Ok(u64::from_ne_bytes(bytes))
}

/// Gives `function` to the stream: its arguments are `words`, or those that lie in device memory at an address.
enum Given {
    Words(Vec<u64>, Vec<Carried>),
    At(u64, usize),
}

fn enqueue(function: &Function, blocks: u32, given: Given, stream: aclrtStream) -> Result<()> {
    let stream = device::stream(stream)?;
    ensure!(blocks > 0, ACL_ERROR_RT_PARAM_INVALID, "numBlocks is 0");
    let Some(kernel) = function.twin.clone() else {
        fail!(
            ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
            "{}: the code of an AI core cannot run here; load the twin of the binary, or use a real card",
            function.name
        );
    };
    stats::launched(function.name);
    let fault = faults::launch(function.name);
    let used = match &given {
        Given::Words(words, _) => words.clone(),
        Given::At(address, _) => vec![*address],
    };
    let device = stream.device;
    let work = Arc::new(move |site: &memory::Site| {
        if let Some(status) = &fault {
            return Err(status.clone());
        }
        match &given {
            Given::Words(words, carried) => twin::run(&kernel, blocks, words, carried, site, device),
            Given::At(address, size) => {
                let data = memory::resolve(*address, *size, Access::Read, site)?;
                // SAFETY: resolved for reading that many bytes; unaligned reads of plain numbers.
                let words = (0..size / WORD).map(|i| unsafe { data.cast::<u64>().add(i).read_unaligned() });
                twin::run(&kernel, blocks, &words.collect::<Vec<_>>(), &[], site, device)
            }
        }
    });
    launch::submit(&stream, function.name, used, Cost::default(), Issue::Operator, work);
    Ok(())
}

/// Words of a finished list; its data gets addresses.
fn words(list: &[Argument]) -> (Vec<u64>, Vec<Carried>) {
    let mut carried: Vec<Carried> = Vec::new();
    let mut next = CARRIED;
    let words = list.iter().map(|argument| match argument {
        Argument::Value(value) => *value,
        Argument::Data(data) => {
            let at = next;
            next = (next + data.len() as u64 + 512).next_multiple_of(512);
            carried.push((at, data.clone()));
            at
        }
    });
    (words.collect(), carried)
}

fn function(handle: aclrtFuncHandle) -> Result<Function> {
    FUNCTIONS.get(handle, ACL_ERROR_RT_PARAM_INVALID, "funcHandle")
}

export! {
    fn aclrtKernelArgsInit(func_handle: aclrtFuncHandle, args_handle: *mut aclrtArgsHandle) {
        function(func_handle)?;
        ensure!(!args_handle.is_null(), ACL_ERROR_INVALID_PARAM, "argsHandle is null");
        put(args_handle, "argsHandle", pointer(ARGUMENTS.insert(Arguments::default())))
    }

    fn aclrtKernelArgsGetHandleMemSize(func_handle: aclrtFuncHandle, mem_size: *mut usize) {
        function(func_handle)?;
        put(mem_size, "memSize", HANDLE_BYTES)
    }

    fn aclrtKernelArgsGetMemSize(func_handle: aclrtFuncHandle, user_args_size: usize, actual_args_size: *mut usize) {
        function(func_handle)?;
        put(actual_args_size, "actualArgsSize", user_args_size.next_multiple_of(WORD))
    }

    fn aclrtKernelArgsInitByUserMem(func_handle: aclrtFuncHandle, args_handle: aclrtArgsHandle, user_host_mem: *mut c_void, actual_args_size: usize) {
        function(func_handle)?;
        ensure!(!args_handle.is_null() && !user_host_mem.is_null(), ACL_ERROR_INVALID_PARAM, "argsHandle or userHostMem is null");
        ensure!(actual_args_size > 0, ACL_ERROR_RT_PARAM_INVALID, "actualArgsSize is 0");
        let mut own = IN_USER_MEMORY.lock().unwrap_or_else(|e| e.into_inner());
        own.get_or_insert_default().insert(args_handle as u64, Arguments::default());
        Ok(())
    }

    fn aclrtKernelArgsAppend(args_handle: aclrtArgsHandle, param: *mut c_void, param_size: usize, param_handle: *mut aclrtParamHandle) {
        append(args_handle, Argument::Value(word(param, param_size)?), param_handle)
    }

    fn aclrtKernelArgsAppendPlaceHolder(args_handle: aclrtArgsHandle, param_handle: *mut aclrtParamHandle) {
        append(args_handle, Argument::Data(Vec::new()), param_handle)
    }

    fn aclrtKernelArgsGetPlaceHolderBuffer(args_handle: aclrtArgsHandle, param_handle: aclrtParamHandle, data_size: usize, buffer_addr: *mut *mut c_void) {
        ensure!(data_size > 0, ACL_ERROR_RT_PARAM_INVALID, "dataSize is 0");
        let address = with_arguments(args_handle, |arguments| match argument(arguments, param_handle)? {
            // The bytes stay where they are until the list goes, for the caller to fill in.
            Argument::Data(data) if data.is_empty() => {
                *data = vec![0; data_size];
                Ok(data.as_mut_ptr() as usize)
            }
            Argument::Data(_) => fail!(ACL_ERROR_RT_PARAM_INVALID, "the placeholder has its buffer already"),
            Argument::Value(_) => fail!(ACL_ERROR_RT_PARAM_INVALID, "the argument is no placeholder"),
        })?;
        put(buffer_addr, "bufferAddr", std::ptr::with_exposed_provenance_mut(address))
    }

    fn aclrtKernelArgsFinalize(args_handle: aclrtArgsHandle) {
        with_arguments(args_handle, |arguments| {
            let empty = |argument: &Argument| matches!(argument, Argument::Data(data) if data.is_empty());
            ensure!(!arguments.list.iter().any(empty), ACL_ERROR_RT_PARAM_INVALID, "a placeholder has no buffer");
            arguments.finished = true;
            Ok(())
        })
    }

    fn aclrtKernelArgsParaUpdate(args_handle: aclrtArgsHandle, param_handle: aclrtParamHandle, param: *mut c_void, param_size: usize) {
        let value = word(param, param_size)?;
        with_arguments(args_handle, |arguments| match argument(arguments, param_handle)? {
            Argument::Value(old) => {
                *old = value;
                Ok(())
            }
            Argument::Data(_) => fail!(ACL_ERROR_RT_PARAM_INVALID, "a placeholder is filled through its buffer"),
        })
    }

    fn aclrtLaunchKernel(func_handle: aclrtFuncHandle, num_blocks: u32, args_data: *const c_void, args_size: usize, stream: aclrtStream) {
        let function = function(func_handle)?;
        ensure!(!args_data.is_null() && args_size > 0, ACL_ERROR_INVALID_PARAM, "argsData is null or argsSize is 0");
        ensure!(args_size.is_multiple_of(WORD), ACL_ERROR_RT_PARAM_INVALID, "argsSize is {args_size}, no multiple of {WORD}");
        enqueue(&function, num_blocks, Given::At(args_data as u64, args_size), stream)
    }

    fn aclrtLaunchKernelV2(func_handle: aclrtFuncHandle, num_blocks: u32, args_data: *const c_void, args_size: usize, cfg: *mut aclrtLaunchKernelCfg, stream: aclrtStream) {
        let _ = cfg;
        let function = function(func_handle)?;
        ensure!(!args_data.is_null() && args_size > 0, ACL_ERROR_INVALID_PARAM, "argsData is null or argsSize is 0");
        ensure!(args_size.is_multiple_of(WORD), ACL_ERROR_RT_PARAM_INVALID, "argsSize is {args_size}, no multiple of {WORD}");
        enqueue(&function, num_blocks, Given::At(args_data as u64, args_size), stream)
    }

    fn aclrtLaunchKernelWithConfig(func_handle: aclrtFuncHandle, num_blocks: u32, stream: aclrtStream, cfg: *mut aclrtLaunchKernelCfg, args_handle: aclrtArgsHandle, reserve: *mut c_void) {
        // Attributes concern the scheduling of a card.
        let _ = cfg;
        let function = function(func_handle)?;
        ensure!(reserve.is_null(), ACL_ERROR_RT_PARAM_INVALID, "reserve is not null");
        let (words, carried) = with_arguments(args_handle, |arguments| {
            ensure!(arguments.finished, ACL_ERROR_RT_PARAM_INVALID, "the list of arguments is open: aclrtKernelArgsFinalize comes first");
            Ok(words(&arguments.list))
        })?;
        enqueue(&function, num_blocks, Given::Words(words, carried), stream)
    }

    fn aclrtLaunchKernelWithHostArgs(func_handle: aclrtFuncHandle, num_blocks: u32, stream: aclrtStream, cfg: *mut aclrtLaunchKernelCfg, host_args: *mut c_void, args_size: usize, place_holder_array: *mut aclrtPlaceHolderInfo, place_holder_num: usize) {
        let _ = cfg;
        let function = function(func_handle)?;
        ensure!(!host_args.is_null() && args_size > 0, ACL_ERROR_INVALID_PARAM, "hostArgs is null or argsSize is 0");
        ensure!(place_holder_num == 0 || !place_holder_array.is_null(), ACL_ERROR_INVALID_PARAM, "placeHolderArray is null");
        // SAFETY: not null, and the interface asks for that many readable bytes and structures.
        let (bytes, holders) = unsafe {
            let holders: &[aclrtPlaceHolderInfo] = match place_holder_num {
                0 => &[],
                count => std::slice::from_raw_parts(place_holder_array, count),
            };
            (std::slice::from_raw_parts(host_args.cast::<u8>(), args_size), holders)
        };
        let first_data = holders.iter().map(|holder| holder.dataOffset as usize).min().unwrap_or(args_size);
        ensure!(first_data <= args_size, ACL_ERROR_RT_PARAM_INVALID, "dataOffset {first_data} lies behind the {args_size} bytes of hostArgs");
        let mut words: Vec<u64> =
            bytes[..first_data].chunks_exact(WORD).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect();
        for holder in holders {
            let (at, data) = (holder.addrOffset as usize, holder.dataOffset as usize);
            ensure!(at % WORD == 0 && at / WORD < words.len() && data < args_size, ACL_ERROR_RT_PARAM_INVALID, "a placeholder at byte {at} for data at byte {data} of {args_size}");
            words[at / WORD] = CARRIED + (data - first_data) as u64;
        }
        let carried = if holders.is_empty() { Vec::new() } else { vec![(CARRIED, bytes[first_data..].to_vec())] };
        enqueue(&function, num_blocks, Given::Words(words, carried), stream)
    }
}
