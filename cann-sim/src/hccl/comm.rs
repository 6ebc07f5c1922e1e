//! Communicators: how they come about, what they are asked, and how they end.

use super::interfaces::{self, LOOPBACK};
use super::mesh::Mesh;
use super::ranktable::{RankTable, fnv};
use super::rendezvous::{self, Member, RootInfo};
use super::settings::Settings;
use super::wire::{Class, Tag};
use crate::runtime::handles::{self, Kind, Table};
use crate::runtime::{device, memory};
use crate::status::{Result, Status};
use crate::{ensure, fail};
use hccl_sys::*;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// One rank's end of a communicator.
pub struct Comm {
    pub name: String,
    pub rank: usize,
    /// For each rank, its number in the mesh, which sub-communicators share.
    pub members: Vec<usize>,
    pub device: u32,
    pub mesh: Arc<Mesh>,
    /// What tells its messages from those of others in the mesh.
    pub group: u64,
    pub execute: Option<Duration>,
    settings: Settings,
    is_sub: bool,
    /// Collectives that were issued, and calls of any kind that began to run.
    pub calls: AtomicU64,
    pub begun: AtomicU64,
    /// For each rank, messages that were issued to it and from it.
    pub forth: Vec<AtomicU64>,
    pub back: Vec<AtomicU64>,
    /// Why the communicator is of no more use.
    failure: Mutex<Option<String>>,
    /// Sub-communicators by name, and how often each name was used.
    subs: Mutex<Vec<(String, u64)>>,
}

pub(crate) static COMMS: Table<Arc<Comm>> = Table::new(Kind::Communicator);

impl std::fmt::Debug for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "communicator {} (rank {} of {})", self.name, self.rank, self.size())
    }
}

/// The communicator that `handle` names.
pub fn find(handle: HcclComm) -> Result<Arc<Comm>> {
    ensure!(!handle.is_null(), HCCL_E_PTR, "comm is null");
    COMMS.get(handle, HCCL_E_PARA, "comm")
}

/// A failure of the runtime below HCCL, as HCCL answers it.
pub fn runtime(status: Status) -> Status {
    Status::new(HCCL_E_RUNTIME, status.message)
}

fn counters(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl Comm {
    fn over(mesh: Arc<Mesh>, name: String, device: u32, settings: Settings) -> Self {
        let size = mesh.size();
        Self {
            group: fnv(name.as_bytes()),
            name,
            rank: mesh.rank,
            members: (0..size).collect(),
            device,
            mesh,
            execute: settings.execute,
            settings,
            is_sub: false,
            calls: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            forth: counters(size),
            back: counters(size),
            failure: Mutex::default(),
            subs: Mutex::default(),
        }
    }

    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The rank whose number in the mesh is `member`.
    pub fn rank_of(&self, member: usize) -> usize {
        self.members.iter().position(|&other| other == member).unwrap_or(member)
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives the communicator up on every rank. `culprit` is a rank of it, `code` what the streams of the others answer.
    pub fn give_up(&self, culprit: usize, code: i32, why: &str) {
        self.failure().get_or_insert_with(|| why.to_string());
        self.mesh.abort(self.group, &self.members, self.members[culprit], code, why);
    }

    /// Refuses to go on with a communicator that was given up.
    pub fn usable(&self) -> Result<()> {
        match &*self.failure() {
            None => Ok(()),
            Some(why) => fail!(
                HCCL_E_IN_STATUS,
                "communicator {} has failed before ({why}); destroy it on every rank and make a new one",
                self.name
            ),
        }
    }

    /// `HcclGetCommAsyncError`.
    pub fn async_error(&self) -> HcclResult {
        if self.failure().is_some() { HCCL_E_REMOTE } else { HCCL_SUCCESS }
    }

    /// Takes the buffers' memory and names the communicator.
    fn publish(self) -> Result<HcclComm> {
        let twin = COMMS.all().into_iter().find(|other| other.name == self.name && other.device == self.device);
        ensure!(
            twin.is_none(),
            HCCL_E_PARA,
            "device {} already has a communicator {:?}; destroy it first, or choose another hcclCommName",
            self.device,
            self.name
        );
        let arena = memory::arena(self.device).map_err(runtime)?;
        arena.charge(self.settings.buffers).map_err(|status| {
            let megabytes = self.settings.buffers >> 20;
            Status::new(
                HCCL_E_OOM,
                format!("the communicator's buffers take {megabytes} MiB (HCCL_BUFFSIZE): {}", status.message),
            )
        })?;
        Ok(handles::pointer(COMMS.insert(Arc::new(self))))
    }
}

/// Makes this rank's end of a communicator whose ranks meet at `root`.
fn join(root: SocketAddr, me: Member, name: String, settings: Settings) -> Result<Comm> {
    let device = me.device;
    let mesh = rendezvous::join(root, me, &settings)?;
    Ok(Comm::over(Arc::new(mesh), name, device, settings))
}

/// `HcclCommInitRootInfo` on the device of this thread.
pub(crate) fn from_root_info(info: *const HcclRootInfo, ranks: u32, rank: u32, settings: Settings) -> Result<HcclComm> {
    ensure!(!info.is_null(), HCCL_E_PTR, "rootInfo is null");
    // SAFETY: not null, and the interface asks for a readable structure.
    let root = RootInfo::read(unsafe { &*info })?;
    let device = device::current().map_err(runtime)?.device;
    at_root(&root, ranks, rank, device, settings)?.publish()
}

fn at_root(root: &RootInfo, ranks: u32, rank: u32, device: u32, settings: Settings) -> Result<Comm> {
    rendezvous::check(ranks, rank)?;
    let name = settings.name.clone().unwrap_or_else(|| root.id.clone());
    let me = Member {
        id: root.id.clone(),
        rank: rank as usize,
        ranks: ranks as usize,
        device,
        address: rendezvous::own_address()?,
        process: std::process::id(),
    };
    join(root.address, me, name, settings)
}

/// `HcclCommInitAll`: one rank for each of `devices`, in their order.
pub fn for_devices(devices: &[i32]) -> Result<Vec<HcclComm>> {
    let settings = Settings::from_environment()?;
    let mut chosen = Vec::new();
    for &device in devices {
        let device = device::index(device).map_err(|status| Status::new(HCCL_E_PARA, status.message))?;
        ensure!(!chosen.contains(&device), HCCL_E_PARA, "device {device} is listed twice");
        chosen.push(device);
    }
    let root = RootInfo::open()?;
    let ranks = chosen.len() as u32;
    let made: Vec<Result<Comm>> = std::thread::scope(|scope| {
        let (root, settings) = (&root, &settings);
        let join = |(rank, &device): (usize, &u32)| {
            scope.spawn(move || at_root(root, ranks, rank as u32, device, settings.clone()))
        };
        let threads: Vec<_> = chosen.iter().enumerate().map(join).collect();
        let died = || Err(Status::new(HCCL_E_INTERNAL, "a thread that makes a communicator died"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    });
    let mut published = Vec::new();
    for comm in made.into_iter().collect::<Result<Vec<_>>>()? {
        match comm.publish() {
            Ok(handle) => published.push(handle),
            Err(status) => {
                published.into_iter().try_for_each(destroy)?;
                return Err(status);
            }
        }
    }
    Ok(published)
}

/// What frameworks and HCCL call the communicator of a rank table.
const WORLD: &str = "hccl_world_group";

/// `HcclCommInitClusterInfo` on the device of this thread.
pub fn from_rank_table(path: &str, rank: u32, settings: Settings) -> Result<HcclComm> {
    let table = RankTable::load(path)?;
    let row = table.row(rank)?;
    let device = device::current().map_err(runtime)?.device;
    ensure!(
        row.device == device,
        HCCL_E_PARA,
        "the rank table gives rank {rank} device {}, but this thread works on device {device}",
        row.device
    );
    let name = settings.name.clone().unwrap_or_else(|| WORLD.to_string());
    let taken = COMMS.all().into_iter().any(|other| other.name == name && other.device == device);
    ensure!(
        !taken,
        HCCL_E_PARA,
        "device {device} was initialised with a rank table before; destroy its communicator first"
    );
    let (root, id) = (table.meeting(), format!("rank_table_{:016x}", table.digest));
    if rank == 0 {
        rendezvous::serve(interfaces::listen(root)?, id.clone(), settings.connect)?;
    }
    let address = SocketAddr::new(row.ip.unwrap_or(LOOPBACK), 0);
    let ranks = table.rows.len();
    let me = Member { id, rank: rank as usize, ranks, device, address, process: std::process::id() };
    join(root, me, name, settings)?.publish()
}

/// `HcclCreateSubCommConfig`: the ranks `ids` of `parent` make a communicator of their own over the same connections.
pub fn sub(parent: &Arc<Comm>, ids: &[u32], id: u64, rank: u32, settings: Settings) -> Result<HcclComm> {
    ensure!(!parent.is_sub, HCCL_E_NOT_SUPPORT, "{} is a sub-communicator, which cannot be divided", parent.name);
    parent.usable()?;
    ensure!(!ids.is_empty(), HCCL_E_PARA, "rankNum is 0");
    let ordered = ids.windows(2).all(|pair| pair[0] < pair[1]);
    let size = parent.size();
    ensure!(
        ordered && ids.iter().all(|&id| (id as usize) < size),
        HCCL_E_PARA,
        "rankIds is {ids:?}, wanted ranks below {size} in ascending order"
    );
    ensure!(
        ids.get(rank as usize).is_some_and(|&id| id as usize == parent.rank),
        HCCL_E_PARA,
        "subCommRankId is {rank}, but rank {} is not at that place of rankIds {ids:?}",
        parent.rank
    );
    let name = settings.name.clone().unwrap_or_else(|| format!("{}_sub_{id}", parent.name));
    let life = parent.next_life(&name);
    let members: Vec<usize> = ids.iter().map(|&id| parent.members[id as usize]).collect();
    let mut comm = Comm::over(parent.mesh.clone(), name, parent.device, settings);
    comm.group = fnv(format!("{}/{}/{life}", parent.name, comm.name).as_bytes());
    (comm.rank, comm.members, comm.is_sub) = (rank as usize, members, true);
    (comm.forth, comm.back) = (counters(ids.len()), counters(ids.len()));
    comm.meet()?;
    comm.publish()
}

impl Comm {
    /// How often the sub-communicator `name` was made before.
    fn next_life(&self, name: &str) -> u64 {
        let mut subs = self.subs.lock().unwrap_or_else(|e| e.into_inner());
        match subs.iter_mut().find(|(other, _)| other == name) {
            Some((_, life)) => {
                *life += 1;
                *life
            }
            None => {
                subs.push((name.to_string(), 0));
                0
            }
        }
    }

    /// The members of a new sub-communicator tell each other that they are there and agree on who they are.
    fn meet(&self) -> Result<()> {
        let tag = Tag { group: self.group, class: Class::Setup, number: 0 };
        let says = format!("{:?}", self.members);
        let others = || self.members.iter().copied().filter(|&member| member != self.mesh.rank);
        let lost = |rank: usize| format!("rank {} of the global communicator is lost", rank);
        for member in others() {
            if self.mesh.send(member, tag, says.as_bytes()).is_err() {
                fail!(HCCL_E_TCP_TRANSFER, "{}", lost(member));
            }
        }
        let deadline = Some(Instant::now() + self.settings.connect);
        let mut missing = Vec::new();
        for member in others() {
            match self.mesh.take(member, tag, deadline) {
                Ok(theirs) if theirs == says.as_bytes() => {}
                Ok(theirs) => {
                    let theirs = String::from_utf8_lossy(&theirs).into_owned();
                    fail!(
                        HCCL_E_PARA,
                        "rank {} makes {} of ranks {says}, rank {member} of ranks {theirs}",
                        self.mesh.rank,
                        self.name
                    )
                }
                Err(super::mesh::Trouble::Late) => missing.push(member),
                Err(_) => fail!(HCCL_E_TCP_TRANSFER, "{}", lost(member)),
            }
        }
        ensure!(
            missing.is_empty(),
            HCCL_E_TIMEOUT,
            "rank {} of the global communicator did not make {} within {:.0?}",
            rendezvous::list(&missing),
            self.name,
            self.settings.connect
        );
        Ok(())
    }
}

/// `HcclCommDestroy`. What is queued still runs; the other ranks learn of the end when it has.
pub fn destroy(handle: HcclComm) -> Result<()> {
    ensure!(!handle.is_null(), HCCL_E_PTR, "comm is null");
    let comm = COMMS.remove(handle, HCCL_E_PARA, "comm")?;
    // A reset of the device has given its memory back before.
    if device::is_set(comm.device) {
        memory::arena(comm.device).map_err(runtime)?.discharge(comm.settings.buffers);
    }
    Ok(())
}

/// `HcclCommGetHandleWithName`, for the device of this thread.
pub fn named(name: &str) -> Result<HcclComm> {
    let device = device::current().map_err(runtime)?.device;
    match COMMS.handle_of(|comm| comm.name == name && comm.device == device) {
        Some(handle) => Ok(handles::pointer(handle)),
        None => fail!(HCCL_E_NOT_FOUND, "device {device} has no communicator {name:?}"),
    }
}

/// Number of live communicators, for the list of leaks.
pub fn live() -> usize {
    COMMS.len()
}

/// Draws the number of the next collective, or of the next message.
pub fn draw(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}
