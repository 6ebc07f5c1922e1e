//! One call on one rank: from the C function to a task of the stream, and what a running call can do.
//!
//! Calls are numbered in the order in which they are issued, so the n-th collective of one rank meets the n-th of every
//! other, on whatever streams they run.

use super::comm::{self, Comm};
use super::mesh::Trouble;
use super::rendezvous::list;
use super::wire::{Class, Tag};
use crate::runtime::cost::Cost;
use crate::runtime::launch::submit_numbered;
use crate::runtime::memory::{self, Access, Site};
use crate::runtime::stream::{STREAMS, Stream, Work};
use crate::runtime::{config, faults, stats};
use crate::status::{Result, Status, catch};
use crate::{ensure, fail};
use acl_sys::aclrtStream;
use acl_sys::error::*;
use hccl_sys::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Why a running call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the stream answers.
    pub code: i32,
    /// The rank that is to blame; `None` is this one.
    pub culprit: Option<usize>,
    /// What the streams of the other ranks answer.
    pub others: i32,
    pub why: String,
}

pub type Outcome<T> = std::result::Result<T, Failure>;

impl From<Status> for Failure {
    /// This rank alone failed; the others hear of it.
    fn from(status: Status) -> Self {
        Self { code: status.code, culprit: None, others: ACL_ERROR_RT_SUSPECT_REMOTE_ERROR, why: status.message }
    }
}

/// What a card's stream answers after a collective that not every rank joined, by how the chip runs collectives.
pub fn timeout_code() -> i32 {
    match config::current().map(|config| config.soc.short) {
        Ok("Ascend910_93") => ACL_ERROR_RT_AICPU_TIMEOUT,
        Ok("Ascend950") => ACL_ERROR_RT_CCU_TIMEOUT,
        _ => ACL_ERROR_RT_FFTS_PLUS_TIMEOUT,
    }
}

/// Who calls and where: communicator and stream, checked.
pub struct Caller {
    pub op: &'static str,
    pub comm: Arc<Comm>,
    stream: Arc<Stream>,
}

impl Caller {
    pub fn new(op: &'static str, comm: HcclComm, stream: aclrtStream) -> Result<Self> {
        let comm = comm::find(comm)?;
        comm.usable()?;
        ensure!(!stream.is_null(), HCCL_E_PTR, "stream is null; collectives do not take the default stream");
        let stream = STREAMS.get(stream, HCCL_E_PARA, "stream")?;
        ensure!(
            stream.device == comm.device,
            HCCL_E_PARA,
            "{stream:?} is not of device {}, which rank {} of {} is",
            comm.device,
            comm.rank,
            comm.name
        );
        Ok(Self { op, comm, stream })
    }

    /// The address of a buffer of `bytes` bytes, which must be memory of this rank's device and aligned to its elements.
    pub fn buffer<T>(&self, name: &str, pointer: *const T, bytes: u64, element: u64) -> Result<u64> {
        let address = pointer as u64;
        if bytes == 0 {
            return Ok(address);
        }
        ensure!(address != 0, HCCL_E_PTR, "{name} is null");
        let Some(arena) = memory::owner(address) else {
            fail!(HCCL_E_PARA, "{name} is {address:#x}, which is not device memory");
        };
        let device = self.comm.device;
        ensure!(
            arena.device == device,
            HCCL_E_PARA,
            "{name} is memory of device {}, wanted device {device}",
            arena.device
        );
        ensure!(address.is_multiple_of(element), HCCL_E_PARA, "{name} is {address:#x}, wanted a multiple of {element}");
        arena
            .block(address, bytes)
            .map_err(|status| Status::new(HCCL_E_PARA, format!("{name}: {}", status.message)))?;
        Ok(address)
    }

    /// The rank `rank`, if there is one.
    pub fn rank(&self, name: &str, rank: u32) -> Result<usize> {
        let size = self.comm.size();
        ensure!((rank as usize) < size, HCCL_E_PARA, "{name} is {rank}, wanted a rank below {size}");
        Ok(rank as usize)
    }

    /// Issues a collective, which was given `addresses` and puts `wire` bytes on this rank's busiest wire.
    pub fn collective(
        &self,
        addresses: &[u64],
        wire: u64,
        run: impl Fn(&Round) -> Outcome<()> + Send + Sync + 'static,
    ) {
        self.issue(addresses, wire, |comm| vec![comm::draw(&comm.calls)], run);
    }

    /// Bytes on each wire when `length` bytes are divided among the ranks and each pair exchanges a share, as in a server
    /// whose devices are all joined with each other.
    pub fn share(&self, length: u64) -> u64 {
        if self.comm.size() > 1 { length.div_ceil(self.comm.size() as u64) } else { 0 }
    }

    /// Issues a call that takes the numbers which `draw` draws when it is issued.
    pub fn issue(
        &self,
        addresses: &[u64],
        wire: u64,
        draw: impl Fn(&Comm) -> Vec<u64> + Send + Sync + 'static,
        run: impl Fn(&Round) -> Outcome<()> + Send + Sync + 'static,
    ) {
        let (op, comm, run) = (self.op, self.comm.clone(), Arc::new(run));
        stats::launched(op);
        let fault = faults::launch(op);
        let make = move || -> Work {
            let (comm, run, fault, numbers) = (comm.clone(), run.clone(), fault.clone(), draw(&comm));
            Arc::new(move |site| {
                Round { op, comm: &comm, numbers: &numbers, site }.run(|round| match &fault {
                    Some(status) => Err(status.clone().into()),
                    None => run(round),
                })
            })
        };
        let addresses = addresses.iter().copied().filter(|&address| address != 0).collect();
        submit_numbered(&self.stream, op, addresses, Cost::on_wire(wire), Arc::new(make));
    }
}

/// Runs `work`; a panic of the simulator's own is a failure like any other, so that the other ranks hear of it.
fn whole(work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    catch(|| Ok(work())).map_err(Failure::from).and_then(|outcome| outcome)
}

/// How long ranks that disagree wait for what the others have to say.
const MOMENT: Duration = Duration::from_millis(300);

/// A call that runs.
pub struct Round<'a> {
    pub op: &'static str,
    pub comm: &'a Comm,
    pub numbers: &'a [u64],
    site: &'a Site,
}

impl Round<'_> {
    fn run(&self, work: impl Fn(&Self) -> Outcome<()>) -> Result<()> {
        let comm = self.comm;
        let outcome =
            self.misfortune().and_then(|()| comm.usable().map_err(Failure::from)).and_then(|()| whole(|| work(self)));
        let Err(failure) = outcome else { return Ok(()) };
        let text = format!("{}, rank {} of {}: {}", comm.name, comm.rank, comm.size(), failure.why);
        comm.give_up(failure.culprit.unwrap_or(comm.rank), failure.others, &failure.why);
        Err(Status::new(failure.code, text))
    }

    /// The faults `slow_rank` and `dead_rank`.
    fn misfortune(&self) -> Outcome<()> {
        let begun = self.comm.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let rank = self.comm.rank as u32;
        std::thread::sleep(faults::rank_delay(rank));
        if let Some(nth) = faults::rank_death(rank).filter(|&nth| begun >= nth) {
            self.comm.mesh.cut();
            let why = format!("rank {rank} is dead because the fault dead_rank@{rank}={nth} asks for it");
            return Err(Status::new(ACL_ERROR_RT_LOST_HEARTBEAT, why).into());
        }
        Ok(())
    }

    pub fn rank(&self) -> usize {
        self.comm.rank
    }

    pub fn size(&self) -> usize {
        self.comm.size()
    }

    fn others(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.size()).filter(|&rank| rank != self.rank())
    }

    fn tag(&self) -> Tag {
        Tag { group: self.comm.group, class: Class::Collective, number: self.numbers[0] }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.comm.execute.map(|limit| Instant::now() + limit)
    }

    /// Tells every rank what is called here and hears what they call; an error names those that call something else,
    /// and those that call nothing in time.
    pub fn agree(&self, says: &str) -> Outcome<()> {
        let (tag, deadline) = (self.tag(), self.deadline());
        let mut heard: Vec<Option<String>> = vec![None; self.size()];
        heard[self.rank()] = Some(says.to_string());
        for rank in self.others() {
            self.send(rank, says.as_bytes())?;
        }
        for rank in self.others() {
            match self.comm.mesh.take(self.comm.members[rank], tag, deadline) {
                Ok(theirs) => heard[rank] = Some(String::from_utf8_lossy(&theirs).into_owned()),
                Err(Trouble::Late) => break,
                Err(trouble) => return Err(self.trouble(trouble)),
            }
            if heard[rank].as_deref() != Some(says) {
                break;
            }
        }
        // Once two calls differ, the others get a moment to say theirs, so that the message is complete.
        let moment = Some(Instant::now() + MOMENT);
        for rank in self.others().filter(|&rank| heard[rank].is_none()).collect::<Vec<_>>() {
            let theirs = self.comm.mesh.take(self.comm.members[rank], tag, moment);
            heard[rank] = theirs.ok().map(|theirs| String::from_utf8_lossy(&theirs).into_owned());
        }
        self.verdict(says, &heard)
    }

    fn verdict(&self, says: &str, heard: &[Option<String>]) -> Outcome<()> {
        let number = self.numbers[0] + 1;
        if let Some(stray) = heard.iter().position(|theirs| theirs.as_deref().is_some_and(|theirs| theirs != says)) {
            let mut calls: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (rank, theirs) in heard.iter().enumerate() {
                calls.entry(theirs.as_deref().unwrap_or("nothing yet")).or_default().push(rank);
            }
            let calls: Vec<_> = calls.iter().map(|(call, ranks)| format!("rank {}: {call}", list(ranks))).collect();
            let why = format!("call {number} differs between the ranks: {}", calls.join("; "));
            return Err(Failure { code: timeout_code(), culprit: Some(stray), others: timeout_code(), why });
        }
        let missing: Vec<_> = (0..self.size()).filter(|&rank| heard[rank].is_none()).collect();
        match missing.first() {
            None => Ok(()),
            Some(&culprit) => {
                let limit = self.comm.execute.unwrap_or_default();
                let missing = list(&missing);
                let why = format!(
                    "rank {missing} did not come to call {number}, {says}, within {limit:.0?} (HCCL_EXEC_TIMEOUT)"
                );
                Err(Failure { code: timeout_code(), culprit: Some(culprit), others: timeout_code(), why })
            }
        }
    }

    /// What the mesh answered, as a failure that names ranks of this communicator.
    pub fn trouble(&self, trouble: Trouble) -> Failure {
        let remote = ACL_ERROR_RT_SUSPECT_REMOTE_ERROR;
        let (code, culprit, why) = match trouble {
            Trouble::Late => {
                (timeout_code(), self.rank(), "another rank stopped in the middle of the call".to_string())
            }
            Trouble::Lost { rank, why } => {
                let rank = self.comm.rank_of(rank);
                (remote, rank, format!("rank {rank} is lost during {}: {why}; it was probably killed", self.op))
            }
            Trouble::Gone { rank } => {
                let rank = self.comm.rank_of(rank);
                (remote, rank, format!("rank {rank} has destroyed its communicator, but this rank called {}", self.op))
            }
            Trouble::Abort { from, culprit, code, why } => {
                let (from, culprit) = (self.comm.rank_of(from), self.comm.rank_of(culprit));
                (code, culprit, format!("rank {from} reports a failure of rank {culprit}: {why}"))
            }
        };
        Failure { code, culprit: Some(culprit), others: code, why }
    }

    pub fn send(&self, to: usize, payload: &[u8]) -> Outcome<()> {
        self.comm.mesh.send(self.comm.members[to], self.tag(), payload).map_err(|trouble| self.trouble(trouble))
    }

    /// The next message of rank `from`, which must have `bytes` bytes.
    pub fn receive(&self, from: usize, bytes: usize) -> Outcome<Vec<u8>> {
        let taken = self.comm.mesh.take(self.comm.members[from], self.tag(), self.deadline());
        let payload = match taken {
            Err(Trouble::Late) => {
                let limit = self.comm.execute.unwrap_or_default();
                let why = format!("rank {from} stopped in the middle of {} for {limit:.0?}", self.op);
                return Err(Failure { code: timeout_code(), culprit: Some(from), others: timeout_code(), why });
            }
            taken => taken.map_err(|trouble| self.trouble(trouble))?,
        };
        if payload.len() == bytes {
            return Ok(payload);
        }
        let why = format!("rank {from} sends {} bytes to rank {}, which expects {bytes}", payload.len(), self.rank());
        Err(Failure { code: timeout_code(), culprit: Some(from), others: timeout_code(), why })
    }

    fn resolve(&self, address: u64, bytes: usize, access: Access) -> Outcome<*mut u8> {
        Ok(memory::resolve(address, bytes, access, self.site)?)
    }

    /// A copy of device memory.
    pub fn read(&self, address: u64, bytes: usize) -> Outcome<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let data = self.resolve(address, bytes, Access::Read)?;
        // SAFETY: the range lies in a live block, which no ordered work changes meanwhile.
        Ok(unsafe { std::slice::from_raw_parts(data, bytes) }.to_vec())
    }

    /// Device memory to write to. A call makes one such view at a time.
    #[allow(clippy::mut_from_ref)]
    pub fn write(&self, address: u64, bytes: usize) -> Outcome<&mut [u8]> {
        if bytes == 0 {
            return Ok(&mut []);
        }
        let data = self.resolve(address, bytes, Access::Write)?;
        // SAFETY: the range lies in a live block, which no other ordered work touches meanwhile.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, bytes) })
    }

    /// Copies device memory; the ranges may overlap.
    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Outcome<()> {
        if bytes == 0 || from == to {
            return Ok(());
        }
        let from = self.resolve(from, bytes, Access::Read)?;
        let to = self.resolve(to, bytes, Access::Write)?;
        // SAFETY: both ranges lie in live blocks.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }
}
