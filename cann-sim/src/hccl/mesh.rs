//! The connections between ranks: one for each pair, with a thread that takes in what arrives.
//!
//! Everything that arrives is taken in at once, so a rank that sends never waits for one that computes, and no order of
//! sending and receiving can lock two ranks up.

use super::wire::{self, Kind, Tag};
use crate::runtime::stats::{self, Counter};
use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Bytes on the wire of one rank, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

/// Why a message does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The time is over.
    Late,
    /// The connection broke.
    Lost { rank: usize, why: String },
    /// The other side has destroyed its communicator.
    Gone { rank: usize },
    /// A rank has given the communicator up and blames one.
    Abort { from: usize, culprit: usize, code: i32, why: String },
}

enum End {
    Farewell,
    Lost(String),
}

#[derive(Default)]
struct State {
    frames: HashMap<(usize, Tag), VecDeque<Vec<u8>>>,
    ends: HashMap<usize, End>,
    aborts: HashMap<u64, Trouble>,
}

#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// This rank's end of every connection.
pub struct Mesh {
    pub rank: usize,
    peers: Vec<Option<Mutex<TcpStream>>>,
    inbox: Arc<Inbox>,
}

impl Mesh {
    /// Starts to take in; `peers` has a connection to each rank but this one. A write that is stuck for longer than
    /// `patience` breaks its connection.
    pub fn new(rank: usize, peers: Vec<Option<TcpStream>>, patience: Option<Duration>) -> std::io::Result<Self> {
        let inbox = Arc::<Inbox>::default();
        for (from, stream) in peers.iter().enumerate() {
            let Some(stream) = stream else { continue };
            stream.set_nodelay(true)?;
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(patience)?;
            let (stream, inbox) = (stream.try_clone()?, inbox.clone());
            let name = format!("sim-hccl-{rank}-{from}");
            std::thread::Builder::new().name(name).spawn(move || take_in(stream, from, &inbox))?;
        }
        Ok(Self { rank, peers: peers.into_iter().map(|peer| peer.map(Mutex::new)).collect(), inbox })
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.peers.len()
    }

    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic { sent: read(&self.inbox.sent), received: read(&self.inbox.received) }
    }

    fn write(&self, to: usize, kind: Kind, payload: &[u8]) -> Result<(), Trouble> {
        let Some(peer) = &self.peers[to] else { return Ok(()) };
        let mut stream = peer.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(error) = wire::write(&mut *stream, kind, payload) {
            // Half a frame may be out, after which nothing on this connection means anything.
            let _ = stream.shutdown(Shutdown::Both);
            return Err(match self.inbox.state().ends.get(&to) {
                Some(End::Farewell) => Trouble::Gone { rank: to },
                Some(End::Lost(why)) => Trouble::Lost { rank: to, why: why.clone() },
                None => Trouble::Lost { rank: to, why: error.to_string() },
            });
        }
        let bytes = (wire::HEADER + payload.len()) as u64;
        self.inbox.sent.fetch_add(bytes, Ordering::Relaxed);
        stats::add(Counter::WireSent, bytes);
        Ok(())
    }

    /// Sends `payload` to another rank.
    pub fn send(&self, to: usize, tag: Tag, payload: &[u8]) -> Result<(), Trouble> {
        self.write(to, Kind::Data(tag), payload)
    }

    /// The next message of `tag` from rank `from`. What has arrived counts, whatever happened after it.
    pub fn take(&self, from: usize, tag: Tag, deadline: Option<Instant>) -> Result<Vec<u8>, Trouble> {
        let mut state = self.inbox.state();
        loop {
            if let Some(payload) = state.next(from, tag) {
                return Ok(payload);
            }
            if let Some(abort) = state.aborts.get(&tag.group) {
                return Err(abort.clone());
            }
            match state.ends.get(&from) {
                Some(End::Farewell) => return Err(Trouble::Gone { rank: from }),
                Some(End::Lost(why)) => return Err(Trouble::Lost { rank: from, why: why.clone() }),
                None => {}
            }
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.inbox.arrived.wait(state).unwrap_or_else(|e| e.into_inner()),
                Some(left) if left.is_zero() => return Err(Trouble::Late),
                Some(left) => self.inbox.arrived.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0,
            };
        }
    }

    /// Gives the communicator `group` up: tells `members`, and everyone who waits here. The first reason stays.
    pub fn abort(&self, group: u64, members: &[usize], culprit: usize, code: i32, why: &str) {
        let own = Trouble::Abort { from: self.rank, culprit, code, why: why.to_string() };
        if self.inbox.state().aborts.contains_key(&group) {
            return;
        }
        for &to in members.iter().filter(|&&to| to != self.rank) {
            // A rank that cannot be told is the one that is lost, or will find that this one is.
            let _ = self.write(to, Kind::Abort { group, culprit: culprit as u32, code }, why.as_bytes());
        }
        self.inbox.state().aborts.entry(group).or_insert(own);
        self.inbox.arrived.notify_all();
    }

    /// Breaks every connection, as the death of this rank would.
    pub fn cut(&self) {
        for peer in self.peers.iter().flatten() {
            let _ = peer.lock().unwrap_or_else(|e| e.into_inner()).shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn next(&mut self, from: usize, tag: Tag) -> Option<Vec<u8>> {
        let queue = self.frames.get_mut(&(from, tag))?;
        let payload = queue.pop_front();
        if queue.is_empty() {
            self.frames.remove(&(from, tag));
        }
        payload
    }
}

impl Drop for Mesh {
    /// Says farewell. The threads go on taking in until the others have, because closing a connection that holds
    /// something unread would break what is still on its way to them.
    fn drop(&mut self) {
        for to in 0..self.peers.len() {
            if let Some(peer) = &self.peers[to] {
                let short = Some(Duration::from_secs(1));
                let _ = peer.lock().unwrap_or_else(|e| e.into_inner()).set_write_timeout(short);
                let _ = self.write(to, Kind::Farewell, &[]);
                let _ = peer.lock().unwrap_or_else(|e| e.into_inner()).shutdown(Shutdown::Write);
            }
        }
    }
}

/// Takes in what rank `from` sends until its connection ends.
fn take_in(mut stream: TcpStream, from: usize, inbox: &Inbox) {
    let why = loop {
        match wire::read(&mut stream) {
            Ok(Some((kind, payload))) => {
                let bytes = (wire::HEADER + payload.len()) as u64;
                inbox.received.fetch_add(bytes, Ordering::Relaxed);
                stats::add(Counter::WireReceived, bytes);
                inbox.state().enter(from, kind, payload);
                inbox.arrived.notify_all();
            }
            Ok(None) => break "its connection ended without a farewell".to_string(),
            Err(error) => break format!("its connection broke: {error}"),
        }
    };
    inbox.state().ends.entry(from).or_insert(End::Lost(why));
    inbox.arrived.notify_all();
}

impl State {
    fn enter(&mut self, from: usize, kind: Kind, payload: Vec<u8>) {
        match kind {
            Kind::Data(tag) => self.frames.entry((from, tag)).or_default().push_back(payload),
            Kind::Abort { group, culprit, code } => {
                let why = String::from_utf8_lossy(&payload).into_owned();
                self.aborts.entry(group).or_insert(Trouble::Abort { from, culprit: culprit as usize, code, why });
            }
            Kind::Farewell => drop(self.ends.entry(from).or_insert(End::Farewell)),
        }
    }
}
