//! Copies and fills: direction, ranges and sizes are checked when the call is made and again when the copy runs.

use crate::runtime::cost::{self, Cost, Issue};
use crate::runtime::memory::{self, Access, Site};
use crate::runtime::stats::{self, Counter};
use crate::runtime::stream::Work;
use crate::runtime::{capture, device, faults, hostmem, launch};
use crate::status::Result;
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::c_void;
use std::sync::Arc;

/// A checked copy: rows of `width` bytes, `dst_pitch` and `src_pitch` apart.
#[derive(Clone, Copy)]
struct Copy {
    dst: u64,
    src: u64,
    width: usize,
    height: usize,
    dst_pitch: usize,
    src_pitch: usize,
}

fn side(address: u64) -> &'static str {
    if memory::owner(address).is_some() { "device memory" } else { "host memory" }
}

/// Refuses pointers that are not on the side that `kind` says.
fn check_kind(kind: aclrtMemcpyKind, dst: u64, src: u64) -> Result<()> {
    let wanted = match kind {
        ACL_MEMCPY_HOST_TO_HOST => ("host memory", "host memory"),
        ACL_MEMCPY_HOST_TO_DEVICE | ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE => ("device memory", "host memory"),
        ACL_MEMCPY_DEVICE_TO_HOST => ("host memory", "device memory"),
        ACL_MEMCPY_DEVICE_TO_DEVICE | ACL_MEMCPY_INNER_DEVICE_TO_DEVICE | ACL_MEMCPY_INTER_DEVICE_TO_DEVICE => {
            ("device memory", "device memory")
        }
        ACL_MEMCPY_DEFAULT => return Ok(()),
        other => fail!(ACL_ERROR_RT_PARAM_INVALID, "{other} is no kind of copy"),
    };
    ensure!(
        side(dst) == wanted.0,
        ACL_ERROR_RT_PARAM_INVALID,
        "dst {dst:#x} is {}, but a copy of kind {kind} writes {}",
        side(dst),
        wanted.0
    );
    ensure!(
        side(src) == wanted.1,
        ACL_ERROR_RT_PARAM_INVALID,
        "src {src:#x} is {}, but a copy of kind {kind} reads {}",
        side(src),
        wanted.1
    );
    Ok(())
}

fn check_range(address: u64, length: usize, which: &str) -> Result<()> {
    if let Some(arena) = memory::owner(address) {
        let checked = arena.block(address, length as u64);
        return checked
            .map(drop)
            .map_err(|status| crate::status::Status::new(status.code, format!("{which}: {}", status.message)));
    }
    if let Some((size, over)) = hostmem::overrun(address, length) {
        fail!(
            ACL_ERROR_RT_PARAM_INVALID,
            "{which}: {length} bytes run {over} bytes over page-locked memory of {size} bytes"
        );
    }
    ensure!(
        !hostmem::is_freed(address),
        ACL_ERROR_RT_PARAM_INVALID,
        "{which}: {address:#x} was freed by aclrtFreeHost"
    );
    Ok(())
}

impl Copy {
    fn rows(
        dst: *mut c_void,
        dst_pitch: usize,
        src: *const c_void,
        src_pitch: usize,
        width: usize,
        height: usize,
        kind: i32,
    ) -> Result<Self> {
        ensure!(!dst.is_null(), ACL_ERROR_INVALID_PARAM, "dst is null");
        ensure!(!src.is_null(), ACL_ERROR_INVALID_PARAM, "src is null");
        let (dst, src) = (dst as u64, src as u64);
        ensure!(width > 0 && height > 0, ACL_ERROR_RT_PARAM_INVALID, "there is nothing to copy: the size is 0");
        ensure!(
            width <= dst_pitch && width <= src_pitch,
            ACL_ERROR_RT_PARAM_INVALID,
            "rows of {width} bytes do not fit pitches of {dst_pitch} and {src_pitch} bytes"
        );
        check_kind(kind, dst, src)?;
        check_range(dst, dst_pitch * (height - 1) + width, "dst")?;
        check_range(src, src_pitch * (height - 1) + width, "src")?;
        if let (Some(to), Some(from)) = (memory::owner(dst), memory::owner(src))
            && to.device != from.device
        {
            let here = device::current()?.device;
            let peer = if to.device == here { from.device } else { to.device };
            ensure!(
                device::is_peer(here, peer),
                ACL_ERROR_RT_PARAM_INVALID,
                "device {here} may not reach device {peer}; call aclrtDeviceEnablePeerAccess first"
            );
        }
        Ok(Self { dst, src, width, height, dst_pitch, src_pitch })
    }

    fn flat(dst: *mut c_void, dest_max: usize, src: *const c_void, count: usize, kind: i32) -> Result<Self> {
        ensure!(!dst.is_null(), ACL_ERROR_INVALID_PARAM, "dst is null");
        ensure!(!src.is_null(), ACL_ERROR_INVALID_PARAM, "src is null");
        ensure!(
            count <= dest_max,
            ACL_ERROR_RT_PARAM_INVALID,
            "count is {count}, more than destMax, which is {dest_max}"
        );
        Self::rows(dst, count, src, count, count, 1, kind)
    }

    fn run(&self, site: &Site) -> Result<()> {
        faults::alive(site.op)?;
        let span = |pitch: usize| pitch * (self.height - 1) + self.width;
        let from = host_view(self.src, span(self.src_pitch), Access::Read, site, "src")?;
        let to = host_view(self.dst, span(self.dst_pitch), Access::Write, site, "dst")?;
        for row in 0..self.height {
            // SAFETY: device ranges were resolved just now; host ranges are the caller's, who has to keep them.
            unsafe { std::ptr::copy(from.add(row * self.src_pitch), to.add(row * self.dst_pitch), self.width) };
        }
        stats::add(Counter::Copies, 1);
        stats::add(Counter::CopyBytes, (self.width * self.height) as u64);
        Ok(())
    }

    fn cost(&self) -> Cost {
        let bytes = self.width * self.height;
        let both = memory::owner(self.dst).is_some() && memory::owner(self.src).is_some();
        if both { Cost::device_copy(bytes) } else { Cost::link_copy(bytes) }
    }

    /// Device addresses that the copy touches.
    fn addresses(&self) -> Vec<u64> {
        [self.dst, self.src].into_iter().filter(|&address| memory::owner(address).is_some()).collect()
    }

    /// Whether every host side is page-locked, so that the host may go on while the copy runs.
    fn pinned(&self) -> bool {
        let ok = |address, pitch| {
            memory::owner(address).is_some() || hostmem::pinned(address, pitch * (self.height - 1) + self.width)
        };
        ok(self.dst, self.dst_pitch) && ok(self.src, self.src_pitch)
    }
}

fn host_view(address: u64, length: usize, access: Access, site: &Site, which: &str) -> Result<*mut u8> {
    if memory::owner(address).is_none() {
        let freed = hostmem::is_freed(address);
        ensure!(
            !freed,
            ACL_ERROR_RT_PARAM_INVALID,
            "{which}: {address:#x} was freed by aclrtFreeHost before the copy ran"
        );
        return Ok(std::ptr::with_exposed_provenance_mut(address as usize));
    }
    memory::resolve(address, length, access, site)
        .map_err(|status| crate::status::Status::new(status.code, format!("{which}: {}", status.message)))
}

fn now(call: &'static str, copy: Copy) -> Result<()> {
    device::current()?;
    capture::forbid(call)?;
    cost::host_copies(&copy.cost());
    copy.run(&Site::host(call))
}

fn later(call: &'static str, copy: Copy, stream: aclrtStream) -> Result<()> {
    let stream = device::stream(stream)?;
    if memory::owner(copy.dst).is_none() && memory::owner(copy.src).is_none() {
        fail!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "copies from host to host are not asynchronous; call aclrtMemcpy");
    }
    let pinned = copy.pinned();
    if !pinned {
        // The interface says that such a copy returns when it is done, and a graph would keep a pointer that may be gone.
        if let Some(capture) = stream.capturing() {
            capture.invalidate();
            fail!(
                ACL_ERROR_RT_CAPTURE_MODE_BLOCK_ASYNC,
                "a copy of host memory that is not page-locked waits, which stream {} cannot while it is captured",
                stream.id
            );
        }
    }
    launch::submit(
        &stream,
        call,
        copy.addresses(),
        copy.cost(),
        Issue::Call,
        Arc::new(move |site: &Site| copy.run(site)) as Work,
    );
    if pinned { Ok(()) } else { stream.synchronize(None) }
}

/// A checked fill.
struct Fill {
    address: u64,
    cost: Cost,
    work: Work,
}

/// Fills device memory with a repeated pattern.
fn fill(call: &'static str, pointer: *mut c_void, room: usize, pattern: Vec<u8>, count: usize) -> Result<Fill> {
    ensure!(!pointer.is_null(), ACL_ERROR_INVALID_PARAM, "devPtr is null");
    ensure!(count > 0, ACL_ERROR_RT_PARAM_INVALID, "there is nothing to fill: count is 0");
    let bytes = count * pattern.len();
    ensure!(
        bytes <= room,
        ACL_ERROR_RT_PARAM_INVALID,
        "{bytes} bytes to fill, more than the {room} that the block is said to have"
    );
    let address = pointer as u64;
    check_range(address, bytes, "devPtr")?;
    let device = memory::owner(address).is_some();
    ensure!(device || call == "aclrtMemset", ACL_ERROR_RT_PARAM_INVALID, "{call}: {pointer:?} is not device memory");
    let work: Work = Arc::new(move |site| {
        let start = host_view(address, bytes, Access::Write, site, "devPtr")?;
        for i in 0..count {
            // SAFETY: the range was resolved just now, or is host memory that the caller vouches for.
            unsafe { std::ptr::copy_nonoverlapping(pattern.as_ptr(), start.add(i * pattern.len()), pattern.len()) };
        }
        Ok(())
    });
    Ok(Fill { address, cost: Cost { bytes: bytes as u64, ..Cost::default() }, work })
}

fn fill_later(call: &'static str, Fill { address, cost, work }: Fill, stream: aclrtStream) -> Result<()> {
    let stream = device::stream(stream)?;
    launch::submit(&stream, call, vec![address], cost, Issue::Call, work);
    Ok(())
}

fn fill_now(call: &'static str, Fill { cost, work, .. }: Fill) -> Result<()> {
    device::current()?;
    capture::forbid(call)?;
    cost::host_copies(&cost);
    work(&Site::host(call))
}

export! {
    /// Copies now. It does not wait for streams: data that a stream has not finished with is reported as a race.
    fn aclrtMemcpy(dst: *mut c_void, dest_max: usize, src: *const c_void, count: usize, kind: aclrtMemcpyKind) {
        now("aclrtMemcpy", Copy::flat(dst, dest_max, src, count, kind)?)
    }

    /// Copies in the stream; with host memory that is not page-locked, it returns when the copy is done.
    fn aclrtMemcpyAsync(dst: *mut c_void, dest_max: usize, src: *const c_void, count: usize, kind: aclrtMemcpyKind, stream: aclrtStream) {
        later("aclrtMemcpyAsync", Copy::flat(dst, dest_max, src, count, kind)?, stream)
    }

    fn aclrtMemcpy2d(dst: *mut c_void, dpitch: usize, src: *const c_void, spitch: usize, width: usize, height: usize, kind: aclrtMemcpyKind) {
        now("aclrtMemcpy2d", Copy::rows(dst, dpitch, src, spitch, width, height, kind)?)
    }

    fn aclrtMemcpy2dAsync(dst: *mut c_void, dpitch: usize, src: *const c_void, spitch: usize, width: usize, height: usize, kind: aclrtMemcpyKind, stream: aclrtStream) {
        later("aclrtMemcpy2dAsync", Copy::rows(dst, dpitch, src, spitch, width, height, kind)?, stream)
    }

    fn aclrtMemset(dev_ptr: *mut c_void, max_count: usize, value: i32, count: usize) {
        fill_now("aclrtMemset", fill("aclrtMemset", dev_ptr, max_count, vec![value as u8], count)?)
    }

    fn aclrtMemsetAsync(dev_ptr: *mut c_void, max_count: usize, value: i32, count: usize, stream: aclrtStream) {
        fill_later("aclrtMemsetAsync", fill("aclrtMemsetAsync", dev_ptr, max_count, vec![value as u8], count)?, stream)
    }

    fn aclrtMemsetD32(ptr: *mut c_void, mem_size: usize, value: u32, n: usize) {
        fill_now("aclrtMemsetD32", fill("aclrtMemsetD32", ptr, mem_size, value.to_le_bytes().to_vec(), n)?)
    }

    fn aclrtMemsetD32Async(ptr: *mut c_void, mem_size: usize, value: u32, n: usize, stream: aclrtStream) {
        fill_later("aclrtMemsetD32Async", fill("aclrtMemsetD32Async", ptr, mem_size, value.to_le_bytes().to_vec(), n)?, stream)
    }
}

refuse! {
    "copies in batches are not simulated; copy one by one";
    fn aclrtMemcpyBatch(dsts: *mut *mut c_void, dest_maxs: *mut usize, srcs: *mut *mut c_void, sizes: *mut usize, num_batches: usize, attrs: *mut aclrtMemcpyBatchAttr, attrs_indexes: *mut usize, num_attrs: usize, fail_index: *mut usize);
}
