//! Messages between two ranks: `HcclSend`, `HcclRecv` and `HcclBatchSendRecv`.
//!
//! The n-th send of rank `a` to rank `b` meets the n-th receive of `b` from `a`. Both say what they hold before data
//! moves, and the sender waits for that: a send without its receive times out and names the rank.

use super::comm::draw;
use super::mesh::Trouble;
use super::round::{Caller, Failure, Outcome, Round, timeout_code};
use super::types;
use super::wire::{Class, Tag};
use crate::status::Result;
use crate::{ensure, fail};
use hccl_sys::*;

/// One message, at one of its ends.
#[derive(Clone, Debug)]
struct Item {
    sends: bool,
    other: usize,
    address: u64,
    bytes: usize,
    says: String,
}

impl Caller {
    /// `HcclSend` and `HcclRecv` are a batch of one; they do not take this rank itself for the other.
    pub fn message(&self, item: HcclSendRecvItem) -> Result<()> {
        let own = self.comm.rank;
        ensure!(item.remoteRank as usize != own, HCCL_E_PARA, "rank {own} cannot be its own counterpart here");
        self.batch(&[item])
    }

    pub fn batch(&self, items: &[HcclSendRecvItem]) -> Result<()> {
        ensure!(!items.is_empty(), HCCL_E_PARA, "itemNum is 0");
        let items = items.iter().map(|item| self.item(item)).collect::<Result<Vec<_>>>()?;
        let own = self.comm.rank;
        let to_itself = |sends: bool| items.iter().filter(move |item| item.other == own && item.sends == sends);
        let (sent, received) = (to_itself(true).count(), to_itself(false).count());
        ensure!(sent == received, HCCL_E_PARA, "rank {own} sends itself {sent} messages but receives {received}");
        if let Some((a, b)) = to_itself(true).zip(to_itself(false)).find(|(a, b)| a.says != b.says) {
            fail!(HCCL_E_PARA, "rank {own} sends itself {} but receives {}", a.says, b.says);
        }
        let addresses: Vec<u64> = items.iter().map(|item| item.address).collect();
        let drawn = items.clone();
        let numbers = move |comm: &super::comm::Comm| {
            let counter = |item: &Item| if item.sends { &comm.forth[item.other] } else { &comm.back[item.other] };
            drawn.iter().map(|item| draw(counter(item))).collect()
        };
        let wire = (0..self.comm.size()).filter(|&rank| rank != own).map(|rank| {
            items.iter().filter(|item| item.sends && item.other == rank).map(|item| item.bytes as u64).sum()
        });
        self.issue(&addresses, wire.max().unwrap_or(0), numbers, move |round| run(round, &items));
        Ok(())
    }

    fn item(&self, item: &HcclSendRecvItem) -> Result<Item> {
        let sends = match item.sendRecvType {
            HCCL_SEND => true,
            HCCL_RECV => false,
            other => fail!(HCCL_E_PARA, "sendRecvType is {other}, wanted HCCL_SEND (0) or HCCL_RECV (1)"),
        };
        let element = types::moved(item.dataType)?;
        ensure!(item.count <= u64::MAX / 8, HCCL_E_PARA, "count is {}, which no memory holds", item.count);
        let bytes = item.count * element.size;
        let other = self.rank(if sends { "destRank" } else { "srcRank" }, item.remoteRank)?;
        let address = self.buffer(if sends { "sendBuf" } else { "recvBuf" }, item.buf, bytes, element.size)?;
        let says = format!("{} x {}", item.count, element.name);
        Ok(Item { sends, other, address, bytes: bytes as usize, says })
    }
}

/// The tags under which this rank sends and hears about an item.
fn tags(round: &Round, item: &Item, number: u64) -> (Tag, Tag) {
    let tag = |class| Tag { group: round.comm.group, class, number };
    if item.sends { (tag(Class::Forth), tag(Class::Back)) } else { (tag(Class::Back), tag(Class::Forth)) }
}

/// All items say what they are, then all data leaves, then all data arrives, so no order of items can lock up.
fn run(round: &Round, items: &[Item]) -> Outcome<()> {
    let comm = round.comm;
    let numbered = || items.iter().zip(round.numbers).filter(|(item, _)| item.other != comm.rank);
    let send = |item: &Item, tag, payload: &[u8]| {
        comm.mesh.send(comm.members[item.other], tag, payload).map_err(|trouble| round.trouble(trouble))
    };
    for (item, &number) in numbered() {
        send(item, tags(round, item, number).0, item.says.as_bytes())?;
    }
    let deadline = round.deadline();
    for (item, &number) in numbered() {
        let heard = comm.mesh.take(comm.members[item.other], tags(round, item, number).1, deadline);
        check(round, item, number, heard)?;
    }
    for (item, &number) in numbered().filter(|(item, _)| item.sends) {
        send(item, tags(round, item, number).0, &round.read(item.address, item.bytes)?)?;
    }
    let own = |sends: bool| items.iter().filter(move |item| item.other == comm.rank && item.sends == sends);
    for (from, to) in own(true).zip(own(false)) {
        round.copy(from.address, to.address, from.bytes)?;
    }
    for (item, &number) in numbered().filter(|(item, _)| !item.sends) {
        let taken = comm.mesh.take(comm.members[item.other], tags(round, item, number).1, round.deadline());
        let data = taken.map_err(|trouble| round.trouble(trouble))?;
        round.write(item.address, item.bytes)?.copy_from_slice(&data);
    }
    Ok(())
}

/// Whether the other end of an item says the same.
fn check(round: &Round, item: &Item, number: u64, heard: std::result::Result<Vec<u8>, Trouble>) -> Outcome<()> {
    let (own, other) = (round.rank(), item.other);
    let failure = |why| Failure { code: timeout_code(), culprit: Some(other), others: timeout_code(), why };
    match heard {
        Ok(theirs) if theirs == item.says.as_bytes() => Ok(()),
        Ok(theirs) => {
            let theirs = String::from_utf8_lossy(&theirs);
            let (from, to) = if item.sends { (own, other) } else { (other, own) };
            let (sent, received) = if item.sends { (&*item.says, &*theirs) } else { (&*theirs, &*item.says) };
            Err(failure(format!(
                "message {} from rank {from} to rank {to}: {sent} are sent, {received} received",
                number + 1
            )))
        }
        Err(Trouble::Late) => {
            let limit = round.comm.execute.unwrap_or_default();
            let (call, way) = if item.sends { ("HcclRecv", "from") } else { ("HcclSend", "to") };
            let (number, says) = (number + 1, &item.says);
            Err(failure(format!(
                "rank {other} did not call {call} for message {number} ({says}) {way} rank {own} within {limit:.0?} (HCCL_EXEC_TIMEOUT)"
            )))
        }
        Err(trouble) => Err(round.trouble(trouble)),
    }
}
