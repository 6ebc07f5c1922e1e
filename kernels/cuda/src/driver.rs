//! Asking the driver: is it there, is it new enough, does it have the device.

use crate::entries;
use crate::libraries::{DRIVER, LIBRARIES, load_all};
use crate::{BUILT, Error, Version};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fmt;

type Init = unsafe extern "C" fn(c_uint) -> c_int;
type IntOut = unsafe extern "C" fn(*mut c_int) -> c_int;
type DeviceGet = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type DeviceName = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type DeviceMemory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;

/// A GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub index: usize,
    pub name: String,
    /// Bytes.
    pub memory: usize,
    /// The newest CUDA that the driver supports.
    pub driver: Version,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.memory as f64 / (1u64 << 30) as f64;
        write!(f, "{}, {gib:.0} GiB, driver for CUDA {}, built with CUDA {BUILT}", self.name, self.driver)
    }
}

/// `cuInit`, the first call of every user of the driver: the libraries are searched now, not when the program starts.
#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> c_int {
    load_all();
    // SAFETY: `Init` is the declaration of cuInit, and the answer of an absent library ignores the argument.
    unsafe { function::<Init>(c"cuInit")(flags) }
}

/// The driver's function `name`, or what answers in its stead.
///
/// # Safety
/// `F` must be the type of a pointer to `name` as the driver's interface declares it.
pub(crate) unsafe fn function<F: Copy>(name: &CStr) -> F {
    // SAFETY: the caller's promise is the one that is asked for.
    unsafe { entries::cuda::TABLE.function(name) }
}

/// Finds GPU `index`, with everything that opening it will need.
///
/// # Errors
/// No driver, one too old for [`BUILT`] or that refuses to start, no such GPU, or a missing library.
pub fn open(index: usize) -> Result<Gpu, Error> {
    DRIVER.path()?;
    let driver = driver_version()?;
    if driver < BUILT {
        return Err(Error::DriverTooOld { found: driver, built: BUILT });
    }
    checked("cuInit", cuInit(0))?;
    let mut count: c_int = 0;
    // SAFETY: the types are those of the driver's interface, and the pointer is to an integer that lives.
    checked("cuDeviceGetCount", unsafe { function::<IntOut>(c"cuDeviceGetCount")(&mut count) })?;
    let count = usize::try_from(count).unwrap_or(0);
    if index >= count {
        return Err(Error::NoDevice { index, count });
    }
    for library in LIBRARIES.iter().filter(|library| library.needed) {
        library.path()?;
    }
    describe(index, driver)
}

fn driver_version() -> Result<Version, Error> {
    let mut number: c_int = 0;
    // SAFETY: as above; the driver answers before it is initialised.
    checked("cuDriverGetVersion", unsafe { function::<IntOut>(c"cuDriverGetVersion")(&mut number) })?;
    Ok(Version::from_number(u32::try_from(number).unwrap_or(0)))
}

fn describe(index: usize, driver: Version) -> Result<Gpu, Error> {
    let mut device: c_int = 0;
    let mut name: [c_char; 128] = [0; 128];
    let mut memory = 0;
    // SAFETY: as above; the driver writes at most the given number of bytes of the name, with a NUL at its end.
    unsafe {
        checked("cuDeviceGet", function::<DeviceGet>(c"cuDeviceGet")(&mut device, index as c_int))?;
        let length = name.len() as c_int - 1;
        checked("cuDeviceGetName", function::<DeviceName>(c"cuDeviceGetName")(name.as_mut_ptr(), length, device))?;
        checked("cuDeviceTotalMem", function::<DeviceMemory>(c"cuDeviceTotalMem_v2")(&mut memory, device))?;
    }
    // SAFETY: the last byte of the array is zero, since the driver was given one byte less.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(Gpu { index, name, memory, driver })
}

pub(crate) fn checked(call: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error::Driver { call, code }) }
}
