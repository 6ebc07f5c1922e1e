//! The collectives: the checks of their pages, what ranks must agree on, and the way of the data.

use super::ring;
use super::round::{Caller, Outcome, Round};
use super::types::{self, ElementType};
use crate::status::Result;
use crate::{ensure, fail};
use hccl_sys::*;
use std::ffi::c_void;
use std::ops::Range;

/// Most elements of one call, `SYS_MAX_COUNT` of HCCL.
const MOST: u64 = 0x7_ffff_ffff;

fn bytes(name: &str, count: u64, element: &ElementType) -> Result<u64> {
    ensure!(count <= MOST, HCCL_E_PARA, "{name} is {count}, wanted at most {MOST}");
    Ok(count * element.size)
}

/// `ranks` counts or displacements in host memory.
fn numbers(name: &str, pointer: *const c_void, count: usize) -> Result<Vec<u64>> {
    ensure!(!pointer.is_null(), HCCL_E_PTR, "{name} is null");
    // SAFETY: not null, and the interface asks for that many numbers.
    Ok((0..count).map(|i| unsafe { pointer.cast::<u64>().add(i).read_unaligned() }).collect())
}

/// A range of bytes for each rank.
fn ranges(name: &str, counts: &[u64], displacements: &[u64], element: &ElementType) -> Result<Vec<Range<usize>>> {
    let range = |(&count, &displacement): (&u64, &u64)| {
        let (start, length) = (bytes(name, displacement, element)?, bytes(name, count, element)?);
        // Where nothing is moved, it does not matter from where: a displacement may lie beyond the buffer.
        Ok(if count == 0 { 0..0 } else { start as usize..(start + length) as usize })
    };
    counts.iter().zip(displacements).map(range).collect()
}

/// Bytes of a buffer that holds all of `ranges`.
fn reach(ranges: &[Range<usize>]) -> u64 {
    ranges.iter().filter(|range| !range.is_empty()).map(|range| range.end as u64).max().unwrap_or(0)
}

fn separate(send: u64, recv: u64, op: &str) -> Result<()> {
    ensure!(
        send != recv || send == 0,
        HCCL_E_PARA,
        "sendBuf and recvBuf of {op} are the same, wanted different buffers"
    );
    Ok(())
}

impl Caller {
    pub fn all_reduce(
        &self,
        send: *const c_void,
        recv: *const c_void,
        count: u64,
        dtype: HcclDataType,
        op: HcclReduceOp,
    ) -> Result<()> {
        let (element, arithmetic, reduction) = types::reduced(self.op, dtype, op)?;
        let length = bytes("count", count, element)?;
        let send = self.buffer("sendBuf", send, length, element.size)?;
        let recv = self.buffer("recvBuf", recv, length, element.size)?;
        let says = format!("{}(count {count}, {}, {})", self.op, element.name, reduction.name());
        let parts = ring::parts(count, element.size, self.comm.size());
        self.collective(&[send, recv], 2 * self.share(length), move |round| {
            round.agree(&says)?;
            round.copy(send, recv, length as usize)?;
            let data = round.write(recv, length as usize)?;
            ring::reduce_scatter(round, data, &parts, (arithmetic, reduction))?;
            ring::all_gather(round, data, &parts)
        });
        Ok(())
    }

    /// The result is that of [`Caller::all_reduce`] to the last bit: the parts are reduced the same way, then collected.
    pub fn reduce(
        &self,
        send: *const c_void,
        recv: *const c_void,
        count: u64,
        dtype: HcclDataType,
        op: HcclReduceOp,
        root: u32,
    ) -> Result<()> {
        let (element, arithmetic, reduction) = types::reduced(self.op, dtype, op)?;
        let length = bytes("count", count, element)?;
        let root = self.rank("root", root)?;
        let send = self.buffer("sendBuf", send, length, element.size)?;
        let recv = self.buffer("recvBuf", recv, length, element.size)?;
        let says = format!("{}(count {count}, {}, {}, root {root})", self.op, element.name, reduction.name());
        let parts = ring::parts(count, element.size, self.comm.size());
        self.collective(&[send, recv], 2 * self.share(length), move |round| {
            round.agree(&says)?;
            let mut data = round.read(send, length as usize)?;
            ring::reduce_scatter(round, &mut data, &parts, (arithmetic, reduction))?;
            let own = &parts[round.rank()];
            if round.rank() != root {
                return round.send(root, &data[own.clone()]);
            }
            let out = round.write(recv, length as usize)?;
            out[own.clone()].copy_from_slice(&data[own.clone()]);
            for (rank, part) in parts.iter().enumerate().filter(|(rank, _)| *rank != root) {
                out[part.clone()].copy_from_slice(&round.receive(rank, part.len())?);
            }
            Ok(())
        });
        Ok(())
    }

    pub fn broadcast(&self, buffer: *const c_void, count: u64, dtype: HcclDataType, root: u32) -> Result<()> {
        let element = types::moved(dtype)?;
        let length = bytes("count", count, element)?;
        let root = self.rank("root", root)?;
        let buffer = self.buffer("buf", buffer, length, element.size)?;
        let says = format!("{}(count {count}, {}, root {root})", self.op, element.name);
        // The root's parts go out, and around.
        let wire = 2 * self.share(length);
        self.collective(&[buffer], wire, move |round| {
            round.agree(&says)?;
            if round.rank() == root {
                // The root's buffer is only read, which matters to whoever reads it on another stream.
                let mut data = round.read(buffer, length as usize)?;
                return ring::broadcast(round, &mut data, root);
            }
            ring::broadcast(round, round.write(buffer, length as usize)?, root)
        });
        Ok(())
    }

    pub fn scatter(
        &self,
        send: *const c_void,
        recv: *const c_void,
        count: u64,
        dtype: HcclDataType,
        root: u32,
    ) -> Result<()> {
        let element = types::moved(dtype)?;
        let length = bytes("recvCount", count, element)?;
        let root = self.rank("root", root)?;
        let is_root = self.comm.rank == root;
        let all = if is_root { length * self.comm.size() as u64 } else { 0 };
        let send = self.buffer("sendBuf", send, all, element.size)?;
        let recv = self.buffer("recvBuf", recv, length, element.size)?;
        let says = format!("{}(recvCount {count}, {}, root {root})", self.op, element.name);
        let used = if is_root { vec![send, recv] } else { vec![recv] };
        self.collective(&used, self.share(length * self.comm.size() as u64), move |round| {
            round.agree(&says)?;
            let length = length as usize;
            if !is_root {
                let data = round.receive(root, length)?;
                round.write(recv, length)?.copy_from_slice(&data);
                return Ok(());
            }
            let data = round.read(send, all as usize)?;
            let part = |rank: usize| &data[rank * length..(rank + 1) * length];
            for rank in (0..round.size()).filter(|&rank| rank != root) {
                round.send(rank, part(rank))?;
            }
            round.write(recv, length)?.copy_from_slice(part(root));
            Ok(())
        });
        Ok(())
    }

    pub fn all_gather(&self, send: *const c_void, recv: *const c_void, count: u64, dtype: HcclDataType) -> Result<()> {
        let element = types::moved(dtype)?;
        let length = bytes("sendCount", count, element)? as usize;
        let parts: Vec<_> = (0..self.comm.size()).map(|rank| rank * length..(rank + 1) * length).collect();
        let says = format!("{}(sendCount {count}, {})", self.op, element.name);
        self.gather(send, recv, parts, element, says)
    }

    pub fn all_gather_v(
        &self,
        send: *const c_void,
        count: u64,
        recv: *const c_void,
        (counts, displacements): (*const c_void, *const c_void),
        dtype: HcclDataType,
    ) -> Result<()> {
        let (element, size) = (types::moved(dtype)?, self.comm.size());
        let (counts, displacements) =
            (numbers("recvCounts", counts, size)?, numbers("recvDispls", displacements, size)?);
        let own = counts[self.comm.rank];
        ensure!(count == own, HCCL_E_PARA, "sendCount is {count}, but recvCounts[{}] is {own}", self.comm.rank);
        separate(send as u64, recv as u64, self.op)?;
        let parts = ranges("recvCounts", &counts, &displacements, element)?;
        disjoint("recvCounts and recvDispls", &parts)?;
        let says = format!("{}(recvCounts {counts:?}, recvDispls {displacements:?}, {})", self.op, element.name);
        self.gather(send, recv, parts, element, says)
    }

    fn gather(
        &self,
        send: *const c_void,
        recv: *const c_void,
        parts: Vec<Range<usize>>,
        element: &ElementType,
        says: String,
    ) -> Result<()> {
        let (own, all) = (parts[self.comm.rank].clone(), reach(&parts));
        let send = self.buffer("sendBuf", send, own.len() as u64, element.size)?;
        let recv = self.buffer("recvBuf", recv, all, element.size)?;
        self.collective(&[send, recv], self.share(all), move |round| {
            round.agree(&says)?;
            round.copy(send, recv + own.start as u64, own.len())?;
            ring::all_gather(round, round.write(recv, all as usize)?, &parts)
        });
        Ok(())
    }

    pub fn reduce_scatter(
        &self,
        send: *const c_void,
        recv: *const c_void,
        count: u64,
        dtype: HcclDataType,
        op: HcclReduceOp,
    ) -> Result<()> {
        let (element, ..) = types::reduced(self.op, dtype, op)?;
        let length = bytes("recvCount", count, element)? as usize;
        let parts: Vec<_> = (0..self.comm.size()).map(|rank| rank * length..(rank + 1) * length).collect();
        self.reduce_parts(send, recv, parts, dtype, op, &format!("recvCount {count}"))
    }

    pub fn reduce_scatter_v(
        &self,
        send: *const c_void,
        (counts, displacements): (*const c_void, *const c_void),
        recv: *const c_void,
        count: u64,
        dtype: HcclDataType,
        op: HcclReduceOp,
    ) -> Result<()> {
        let ((element, ..), size) = (types::reduced(self.op, dtype, op)?, self.comm.size());
        let (counts, displacements) =
            (numbers("sendCounts", counts, size)?, numbers("sendDispls", displacements, size)?);
        let own = counts[self.comm.rank];
        ensure!(count == own, HCCL_E_PARA, "recvCount is {count}, but sendCounts[{}] is {own}", self.comm.rank);
        separate(send as u64, recv as u64, self.op)?;
        let parts = ranges("sendCounts", &counts, &displacements, element)?;
        disjoint("sendCounts and sendDispls", &parts)?;
        self.reduce_parts(send, recv, parts, dtype, op, &format!("sendCounts {counts:?}, sendDispls {displacements:?}"))
    }

    fn reduce_parts(
        &self,
        send: *const c_void,
        recv: *const c_void,
        parts: Vec<Range<usize>>,
        dtype: HcclDataType,
        op: HcclReduceOp,
        counts: &str,
    ) -> Result<()> {
        let (element, arithmetic, reduction) = types::reduced(self.op, dtype, op)?;
        let (own, all) = (parts[self.comm.rank].clone(), reach(&parts));
        let send = self.buffer("sendBuf", send, all, element.size)?;
        let recv = self.buffer("recvBuf", recv, own.len() as u64, element.size)?;
        let says = format!("{}({counts}, {}, {})", self.op, element.name, reduction.name());
        self.collective(&[send, recv], self.share(all), move |round| {
            round.agree(&says)?;
            let mut data = round.read(send, all as usize)?;
            ring::reduce_scatter(round, &mut data, &parts, (arithmetic, reduction))?;
            round.write(recv, own.len())?.copy_from_slice(&data[own.clone()]);
            Ok(())
        });
        Ok(())
    }

    pub fn all_to_all(
        &self,
        (send, send_count, send_type): (*const c_void, u64, HcclDataType),
        (recv, recv_count, recv_type): (*const c_void, u64, HcclDataType),
    ) -> Result<()> {
        let element = types::moved(send_type)?;
        ensure!(
            (send_count, send_type) == (recv_count, recv_type),
            HCCL_E_PARA,
            "sendCount {send_count} and sendType {send_type} differ from recvCount {recv_count} and recvType {recv_type}"
        );
        let length = bytes("sendCount", send_count, element)? as usize;
        let parts: Vec<_> = (0..self.comm.size()).map(|rank| rank * length..(rank + 1) * length).collect();
        let says = format!("{}(sendCount {send_count}, {})", self.op, element.name);
        self.exchange((send, parts.clone(), element), (recv, parts, element), says)
    }

    pub fn all_to_all_v(
        &self,
        (send, send_counts, send_displacements, send_type): (*const c_void, *const c_void, *const c_void, HcclDataType),
        (recv, recv_counts, recv_displacements, recv_type): (*const c_void, *const c_void, *const c_void, HcclDataType),
    ) -> Result<()> {
        let size = self.comm.size();
        let side = |names: [&str; 2], counts, displacements, dtype| {
            let element = types::moved(dtype)?;
            let (counts, displacements) = (numbers(names[0], counts, size)?, numbers(names[1], displacements, size)?);
            Ok((ranges(names[0], &counts, &displacements, element)?, element))
        };
        let (out, send_element) = side(["sendCounts", "sdispls"], send_counts, send_displacements, send_type)?;
        let (into, recv_element) = side(["recvCounts", "rdispls"], recv_counts, recv_displacements, recv_type)?;
        disjoint("recvCounts and rdispls", &into)?;
        let says = format!("{}({} to {})", self.op, send_element.name, recv_element.name);
        self.exchange((send, out, send_element), (recv, into, recv_element), says)
    }

    /// Parts lie one after another on either side, in the order of the ranks.
    pub fn all_to_all_vc(
        &self,
        send: *const c_void,
        matrix: *const c_void,
        send_type: HcclDataType,
        recv: *const c_void,
        recv_type: HcclDataType,
    ) -> Result<()> {
        let (size, rank) = (self.comm.size(), self.comm.rank);
        let (send_element, recv_element) = (types::moved(send_type)?, types::moved(recv_type)?);
        let matrix = numbers("sendCountMatrix", matrix, size * size)?;
        let packed = |counts: Vec<u64>, element: &ElementType| {
            let displacements: Vec<u64> = (0..size).map(|i| counts[..i].iter().sum()).collect();
            ranges("sendCountMatrix", &counts, &displacements, element)
        };
        let out = packed(matrix[rank * size..(rank + 1) * size].to_vec(), send_element)?;
        let into = packed((0..size).map(|from| matrix[from * size + rank]).collect(), recv_element)?;
        let says = format!("{}({matrix:?}, {} to {})", self.op, send_element.name, recv_element.name);
        self.exchange((send, out, send_element), (recv, into, recv_element), says)
    }

    fn exchange(
        &self,
        (send, out, send_element): (*const c_void, Vec<Range<usize>>, &ElementType),
        (recv, into, recv_element): (*const c_void, Vec<Range<usize>>, &ElementType),
        says: String,
    ) -> Result<()> {
        separate(send as u64, recv as u64, self.op)?;
        let (rank, size) = (self.comm.rank, self.comm.size());
        if out[rank].len() != into[rank].len() {
            fail!(HCCL_E_PARA, "rank {rank} sends itself {} bytes but receives {}", out[rank].len(), into[rank].len());
        }
        let send = self.buffer("sendBuf", send, reach(&out), send_element.size)?;
        let recv = self.buffer("recvBuf", recv, reach(&into), recv_element.size)?;
        let busiest = (0..size).filter(|&to| to != rank).map(|to| out[to].len() as u64).max().unwrap_or(0);
        self.collective(&[send, recv], busiest, move |round| {
            round.agree(&says)?;
            let part = |round: &Round, to: usize| round.read(send + out[to].start as u64, out[to].len());
            let put = |round: &Round, from: usize, data: &[u8]| -> Outcome<()> {
                round.write(recv + into[from].start as u64, into[from].len())?.copy_from_slice(data);
                Ok(())
            };
            put(round, rank, &part(round, rank)?)?;
            for step in 1..size {
                let (to, from) = ((rank + step) % size, (rank + size - step) % size);
                round.send(to, &part(round, to)?)?;
                put(round, from, &round.receive(from, into[from].len())?)?;
            }
            Ok(())
        });
        Ok(())
    }

    pub fn barrier(&self) {
        self.collective(&[], 0, move |round| round.agree("HcclBarrier"));
    }
}

/// Refuses parts of a receive buffer that overlap.
fn disjoint(names: &str, parts: &[Range<usize>]) -> Result<()> {
    let mut used: Vec<_> = parts.iter().filter(|part| !part.is_empty()).collect();
    used.sort_by_key(|part| part.start);
    if let Some(pair) = used.windows(2).find(|pair| pair[0].end > pair[1].start) {
        fail!(HCCL_E_PARA, "{names} make parts that overlap: bytes {:?} and {:?}", pair[0], pair[1]);
    }
    Ok(())
}
