//! Pages from the operating system: the addresses that devices hand out, the memory behind them, and poison.

use crate::fail;
use crate::status::Result;
use acl_sys::error::ACL_ERROR_RT_MEMORY_ALLOCATION;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// What fresh and freed memory holds: NaN in every floating-point type, -1 or the largest number in the others.
pub const POISON: u8 = 0xFF;
/// Blocks from this size on are poisoned by mapping poisoned pages, which costs nothing until they are touched.
const LAZY: usize = 4 << 20;
const POISON_FILE: usize = 32 << 20;
pub const PAGE: usize = 4096;

/// Two ranges of addresses of the same size: one that devices hand out and that no one may touch, and one behind it
/// where the simulator keeps the data.
#[derive(Debug)]
pub struct Mirror {
    pub device: u64,
    shadow: u64,
    pub size: usize,
}

fn map(at: u64, size: usize, protection: i32, flags: i32, file: i32, offset: usize) -> Result<u64> {
    let address = std::ptr::without_provenance_mut(at as usize);
    // SAFETY: `MAP_FIXED` is only passed for ranges inside a mirror's own mapping; other calls take fresh addresses.
    let mapped = unsafe { libc::mmap(address, size, protection, flags, file, offset as libc::off_t) };
    if mapped == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        fail!(ACL_ERROR_RT_MEMORY_ALLOCATION, "the simulator cannot map {size} bytes of host memory: {error}");
    }
    Ok(mapped as u64)
}

/// Fresh pages of host memory for `size` bytes.
pub fn host_pages(size: usize) -> Result<u64> {
    map(0, size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
}

/// Takes the content of pages from [`host_pages`] and lets any access fault.
pub fn close_host_pages(address: u64, size: usize) {
    // SAFETY: the caller owns the pages and no longer uses them; both calls leave the addresses reserved.
    unsafe {
        let pages = std::ptr::with_exposed_provenance_mut(address as usize);
        libc::madvise(pages, size, libc::MADV_DONTNEED);
        libc::mprotect(pages, size, libc::PROT_NONE);
    }
}

/// Gives the addresses of pages from [`host_pages`] back.
pub fn release_host_pages(address: u64, size: usize) {
    // SAFETY: the caller owns the pages and no longer uses them.
    unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(address as usize), size) };
}

/// An anonymous file of `size` bytes.
pub fn memory_file(size: usize) -> Result<OwnedFd> {
    // SAFETY: the name is a NUL-terminated literal, and the flags are documented ones.
    let fd = unsafe { libc::memfd_create(c"cann-sim".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: a descriptor that is not negative was just opened and belongs to no one else.
    let file = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the descriptor is open.
    let sized = file.filter(|file| unsafe { libc::ftruncate(file.as_raw_fd(), size as libc::off_t) } == 0);
    match sized {
        Some(file) => Ok(file),
        None => {
            let error = std::io::Error::last_os_error();
            fail!(ACL_ERROR_RT_MEMORY_ALLOCATION, "the simulator cannot make a memory file of {size} bytes: {error}")
        }
    }
}

fn poison_file() -> Result<&'static OwnedFd> {
    static FILE: OnceLock<Result<OwnedFd>> = OnceLock::new();
    let made = FILE.get_or_init(|| {
        let file = memory_file(POISON_FILE)?;
        let at = map(0, POISON_FILE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0)?;
        // SAFETY: the mapping has this size, is writable and belongs to this function, which unmaps it.
        unsafe {
            let start = std::ptr::with_exposed_provenance_mut::<u8>(at as usize);
            std::ptr::write_bytes(start, POISON, POISON_FILE);
            libc::munmap(start.cast(), POISON_FILE);
        }
        Ok(file)
    });
    made.as_ref().map_err(Clone::clone)
}

impl Mirror {
    /// Reserves both ranges; nothing is committed.
    pub fn reserve(size: usize) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let device = map(0, size, libc::PROT_NONE, flags, -1, 0)?;
        let shadow = map(0, size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
        Ok(Self { device, shadow, size })
    }

    pub fn contains(&self, address: u64) -> bool {
        (self.device..self.device + self.size as u64).contains(&address)
    }

    /// Where the data of a device address lies. The caller has checked that the address belongs to a live block.
    pub fn data(&self, address: u64) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut((self.shadow + (address - self.device)) as usize)
    }

    /// Fills `[address, address + size)` with `value`.
    pub fn fill(&self, address: u64, size: usize, value: u8) {
        // SAFETY: callers pass ranges inside the mirror, whose shadow is readable and writable.
        unsafe { std::ptr::write_bytes(self.data(address), value, size) };
    }

    /// Whether `[address, address + size)` holds nothing but `value`.
    pub fn holds(&self, address: u64, size: usize, value: u8) -> bool {
        // SAFETY: callers pass ranges inside the mirror, whose shadow is readable.
        unsafe { std::slice::from_raw_parts(self.data(address), size) }.iter().all(|&byte| byte == value)
    }

    /// Fills with poison; large ranges also give their pages back.
    pub fn poison(&self, address: u64, size: usize) -> Result<()> {
        if size < LAZY {
            self.fill(address, size, POISON);
            return Ok(());
        }
        let file = poison_file()?.as_raw_fd();
        let start = address.next_multiple_of(PAGE as u64);
        let end = (address + size as u64) & !(PAGE as u64 - 1);
        self.fill(address, (start - address) as usize, POISON);
        self.fill(end, (address + size as u64 - end) as usize, POISON);
        let mut at = start;
        while at < end {
            let length = (POISON_FILE as u64).min(end - at);
            self.replace(at, length as usize, libc::MAP_PRIVATE | libc::MAP_NORESERVE, file, 0)?;
            at += length;
        }
        Ok(())
    }

    /// Puts `size` bytes of `file` from `offset` on behind `address`; all three are multiples of the page size.
    pub fn attach(&self, address: u64, size: usize, file: &OwnedFd, offset: usize) -> Result<()> {
        self.replace(address, size, libc::MAP_SHARED, file.as_raw_fd(), offset)
    }

    /// Puts fresh empty pages behind `address`.
    pub fn detach(&self, address: u64, size: usize) -> Result<()> {
        self.replace(address, size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)
    }

    fn replace(&self, address: u64, size: usize, flags: i32, file: i32, offset: usize) -> Result<()> {
        let at = self.shadow + (address - self.device);
        map(at, size, libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_FIXED, file, offset).map(drop)
    }
}
