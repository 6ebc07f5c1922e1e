//! Collectives on candle's CUDA storage.

use crate::Error as CudaError;
use crate::nccl::{Element, Error, Fold, Mark, Ring, UniqueId};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CudaDevice, CudaStorage, DType};
use std::time::Duration;

/// One rank's end of a communicator on a device of candle's. What is computed goes to candle's stream; collectives go beside it.
pub struct Group {
    ring: Ring,
    device: CudaDevice,
}

/// Elements in a row of a storage.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub storage: &'a CudaStorage,
    /// The first, in elements.
    pub offset: usize,
    pub count: usize,
}

/// NCCL's name of an element type.
pub fn element(dtype: DType) -> Option<Element> {
    Some(match dtype {
        DType::U8 => Element::U8,
        DType::U32 => Element::U32,
        DType::I32 => Element::I32,
        DType::I64 => Element::I64,
        DType::F16 => Element::F16,
        DType::BF16 => Element::BF16,
        DType::F32 => Element::F32,
        DType::F64 => Element::F64,
        _ => return None,
    })
}

impl Group {
    /// Joins as `rank` of `size`; waits for the other ranks. A call that takes longer than `limit` fails.
    pub fn join(device: &CudaDevice, id: &UniqueId, place: (usize, usize), limit: Duration) -> Result<Self, Error> {
        let stream = device.cuda_stream();
        enter(device)?;
        // SAFETY: the stream is of the context that was just made current, and the device, which this object keeps, keeps both.
        let ring = unsafe { Ring::new(id, place, stream.cu_stream().cast(), limit)? };
        Ok(Self { ring, device: device.clone() })
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The reduction of every rank's elements, to as many.
    pub fn all_reduce(&self, from: Place<'_>, to: Place<'_>, fold: Fold) -> Result<Mark, Error> {
        let element = self.fits("all_reduce", from, to, (1, 1))?;
        // SAFETY: both places hold as many elements, and whoever asks keeps them until the mark is joined.
        unsafe { self.ring.all_reduce((from.address(), to.address()), from.count, element, fold) }
    }

    /// `root`'s elements, on every rank.
    pub fn broadcast(&self, at: Place<'_>, root: usize) -> Result<Mark, Error> {
        let element = self.fits("broadcast", at, at, (1, 1))?;
        // SAFETY: as above.
        unsafe { self.ring.broadcast(at.address(), at.count, element, root) }
    }

    /// Every rank's elements, in the order of the ranks.
    pub fn all_gather(&self, from: Place<'_>, to: Place<'_>) -> Result<Mark, Error> {
        let element = self.fits("all_gather", from, to, (self.ring.size(), 1))?;
        // SAFETY: as above; the second place holds as many elements of each rank.
        unsafe { self.ring.all_gather((from.address(), to.address()), from.count, element) }
    }

    /// This rank's share of the reduction of every rank's elements.
    pub fn reduce_scatter(&self, from: Place<'_>, to: Place<'_>, fold: Fold) -> Result<Mark, Error> {
        let element = self.fits("reduce_scatter", from, to, (1, self.ring.size()))?;
        // SAFETY: as above; the first place holds as many elements for each rank.
        unsafe { self.ring.reduce_scatter((from.address(), to.address()), to.count, element, fold) }
    }

    /// Makes the device current, and checks that `from`, so many times its elements, goes into `to`, so many times its own.
    fn fits(
        &self,
        call: &'static str,
        from: Place<'_>,
        to: Place<'_>,
        (times_from, times_to): (usize, usize),
    ) -> Result<Element, Error> {
        enter(&self.device)?;
        let dtype = from.storage.dtype();
        let alike = dtype == to.storage.dtype() && from.count * times_from == to.count * times_to;
        let kind = element(dtype).filter(|_| alike && from.is_inside() && to.is_inside());
        kind.ok_or_else(|| Error::Code {
            call,
            code: 4,
            said: format!(
                "\n  {} elements of {dtype:?} do not fit {} of {:?}",
                from.count,
                to.count,
                to.storage.dtype()
            ),
        })
    }
}

fn enter(device: &CudaDevice) -> Result<(), Error> {
    let bound = device.cuda_stream().context().bind_to_thread();
    bound.map_err(|error| CudaError::Driver { call: "cuCtxSetCurrent", code: error.0 as i32 }.into())
}

/// `$body` with `$slice` as the storage's memory, whatever its type.
macro_rules! memory {
    ($storage:expr, $slice:ident => $body:expr; $($kind:ident)*) => {
        match &$storage.slice {
            $( CudaStorageSlice::$kind($slice) => Some($body), )*
            #[allow(unreachable_patterns)]
            _ => None,
        }
    };
}

impl Place<'_> {
    /// Work on the memory is ordered by events between candle's stream and that of collectives, not by candle.
    fn address(&self) -> u64 {
        let stream = self.storage.device().cuda_stream();
        let first =
            memory!(self.storage, slice => slice.device_ptr(&stream).0; U8 U32 I32 I64 BF16 F16 F32 F64).unwrap_or(0);
        first + (self.offset * self.storage.dtype().size_in_bytes()) as u64
    }

    fn is_inside(&self) -> bool {
        let all = memory!(self.storage, slice => slice.len(); U8 U32 I32 I64 BF16 F16 F32 F64);
        all.is_some_and(|all| self.offset.checked_add(self.count).is_some_and(|end| end <= all))
    }
}
