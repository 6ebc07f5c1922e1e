//! How ranks find each other: the root collects where each one listens and tells all of them; then they connect.

use super::interfaces::{self, LOOPBACK};
use super::mesh::Mesh;
use super::settings::{Settings, word_of_the_root};
use super::wire;
use crate::status::{Result, Status};
use crate::{ensure, fail};
use hccl_sys::*;
use serde_json::{Value, json};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How often a root looks for arrivals, and a rank for its root.
const BEAT: Duration = Duration::from_millis(3);
/// A stranger at the port gets this long to say what it wants.
const STRANGER: Duration = Duration::from_secs(2);

/// What one rank brings.
#[derive(Clone, Debug)]
pub struct Member {
    /// The communicator: ranks that name different ones do not meet.
    pub id: String,
    pub rank: usize,
    pub ranks: usize,
    pub device: u32,
    /// Where the other ranks reach it; the port is filled in when it listens.
    pub address: SocketAddr,
    pub process: u32,
}

impl Member {
    fn pack(&self) -> Value {
        let (address, process) = (self.address.to_string(), self.process);
        json!({"id": self.id, "rank": self.rank, "ranks": self.ranks, "device": self.device, "address": address, "process": process})
    }

    fn unpack(value: &Value) -> Option<Self> {
        let number = |name: &str| value[name].as_u64();
        Some(Self {
            id: value["id"].as_str()?.to_string(),
            rank: number("rank")? as usize,
            ranks: number("ranks")? as usize,
            device: number("device")? as u32,
            address: value["address"].as_str()?.parse().ok()?,
            process: number("process")? as u32,
        })
    }

    fn describe(&self) -> String {
        format!("rank {} (device {} of {}, process {})", self.rank, self.device, self.address.ip(), self.process)
    }
}

/// Opens a root that listens at `listener` for the ranks of communicator `id`; it gives up when nobody came for `limit`,
/// or when some rank is missing that long after the first arrived.
pub fn serve(listener: TcpListener, id: String, limit: Duration) -> Result<()> {
    let start = || -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let root = move || Root { listener, id, limit, arrived: Vec::new() }.run();
        std::thread::Builder::new().name("sim-hccl-root".into()).spawn(root).map(drop)
    };
    start().map_err(|error| Status::new(HCCL_E_SYSCALL, format!("the root of a communicator cannot start: {error}")))
}

struct Root {
    listener: TcpListener,
    id: String,
    limit: Duration,
    arrived: Vec<(Member, TcpStream)>,
}

impl Root {
    fn run(mut self) {
        let mut deadline = Instant::now() + self.limit;
        let answer = loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let first = self.arrived.is_empty();
                    if let Err(refusal) = self.welcome(stream) {
                        break refusal;
                    }
                    if first {
                        deadline = Instant::now() + self.limit;
                    }
                    if self.arrived.first().is_some_and(|(member, _)| member.ranks == self.arrived.len()) {
                        break json!({"members": self.members()});
                    }
                }
                Err(_) if Instant::now() >= deadline => break self.missing(),
                Err(_) => std::thread::sleep(BEAT),
            }
        };
        for (_, stream) in &mut self.arrived {
            let _ = wire::greet(stream, &answer);
        }
    }

    fn members(&self) -> Vec<Value> {
        let mut members: Vec<_> = self.arrived.iter().map(|(member, _)| member).collect();
        members.sort_by_key(|member| member.rank);
        members.into_iter().map(Member::pack).collect()
    }

    /// Takes a rank in; an error is for everyone, because the communicator cannot come about.
    fn welcome(&mut self, mut stream: TcpStream) -> std::result::Result<(), Value> {
        let ready = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(STRANGER)));
        let Some(new) = ready.ok().and_then(|()| Member::unpack(&wire::greeting(&mut stream).ok()?)) else {
            return Ok(());
        };
        let trouble = if new.id != self.id {
            let text = format!("{} belongs to communicator {}, not to {}", new.describe(), new.id, self.id);
            let _ = wire::greet(&mut stream, &refusal(HCCL_E_PARA, text));
            return Ok(());
        } else if new.rank >= new.ranks {
            Some(format!("{} of {} does not exist", new.describe(), new.ranks))
        } else {
            self.arrived.iter().find_map(|(old, _)| conflict(old, &new))
        };
        self.arrived.push((new, stream));
        trouble.map_or(Ok(()), |text| Err(refusal(HCCL_E_PARA, text)))
    }

    fn missing(&self) -> Value {
        let ranks = self.arrived.first().map_or(0, |(member, _)| member.ranks);
        let missing: Vec<_> = (0..ranks).filter(|rank| !self.arrived.iter().any(|(m, _)| m.rank == *rank)).collect();
        let here: Vec<_> = self.arrived.iter().map(|(member, _)| member.describe()).collect();
        let text = format!(
            "{} of {ranks} ranks did not arrive within {:.0?}: rank {}; these did: {}",
            missing.len(),
            self.limit,
            list(&missing),
            here.join(", ")
        );
        refusal(HCCL_E_TIMEOUT, text)
    }
}

fn refusal(code: HcclResult, text: String) -> Value {
    json!({"code": code, "error": text})
}

/// Numbers as people list them.
pub fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// Why two ranks cannot be in one communicator.
fn conflict(old: &Member, new: &Member) -> Option<String> {
    let both = || format!("{} and {}", old.describe(), new.describe());
    if old.ranks != new.ranks {
        return Some(format!(
            "{} disagree: the first says that there are {} ranks, the second {}",
            both(),
            old.ranks,
            new.ranks
        ));
    }
    if old.rank == new.rank {
        return Some(format!("rank {} came twice: {}", old.rank, both()));
    }
    let same = old.device == new.device && old.address.ip() == new.address.ip();
    same.then(|| format!("{} have the same device; each rank needs its own", both()))
}

/// Connects to the root of a communicator and then to every other rank.
pub fn join(root: SocketAddr, mut me: Member, settings: &Settings) -> Result<Mesh> {
    let deadline = Instant::now() + settings.connect;
    let mut to_root = reach(root, deadline, &format!("the root of communicator {}", me.id))?;
    if me.address.ip().is_unspecified() {
        // The interface that reaches the root is the one that the others reach this rank by.
        let local = to_root.local_addr().map_or(LOOPBACK, |address| address.ip());
        me.address.set_ip(local);
    }
    let listener = interfaces::listen(me.address)?;
    let listening = listener.local_addr().map_err(|error| Status::new(HCCL_E_SYSCALL, error.to_string()))?;
    me.address.set_port(listening.port());
    let patience = settings.connect + word_of_the_root(settings.connect);
    let answer = to_root
        .set_read_timeout(Some(patience))
        .and_then(|()| wire::greet(&mut to_root, &me.pack()))
        .and_then(|()| wire::greeting(&mut to_root));
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => fail!(
            HCCL_E_TIMEOUT,
            "rank {} did not hear from the root at {root} within {patience:.0?} ({error}); was HcclGetRootInfo called by a \
             process that is still alive?",
            me.rank
        ),
    };
    if let Some(text) = answer["error"].as_str() {
        return Err(Status::new(answer["code"].as_i64().unwrap_or(HCCL_E_INTERNAL.into()) as i32, text));
    }
    let members: Option<Vec<_>> =
        answer["members"].as_array().map(|all| all.iter().filter_map(Member::unpack).collect());
    match members {
        Some(members) if members.len() == me.ranks => connect(&me, &members, &listener, settings),
        _ => fail!(HCCL_E_INTERNAL, "the root at {root} answered what makes no sense: {answer}"),
    }
}

/// A connection to `address`, tried again until `deadline`: who listens there may start later.
fn reach(address: SocketAddr, deadline: Instant, who: &str) -> Result<TcpStream> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(BEAT);
        let error = match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let hopeless = matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied);
        if hopeless || Instant::now() >= deadline {
            let code = if hopeless { HCCL_E_TCP_CONNECT } else { HCCL_E_TIMEOUT };
            fail!(code, "cannot connect to {who} at {address}: {error}");
        }
        std::thread::sleep(BEAT);
    }
}

/// Connects to the ranks below this one and waits for those above it.
fn connect(me: &Member, members: &[Member], listener: &TcpListener, settings: &Settings) -> Result<Mesh> {
    let deadline = Instant::now() + settings.connect;
    let mut peers: Vec<Option<TcpStream>> = members.iter().map(|_| None).collect();
    for member in &members[..me.rank] {
        let mut stream = reach(member.address, deadline, &member.describe())?;
        if let Err(error) = wire::greet(&mut stream, &me.pack()) {
            fail!(HCCL_E_TCP_CONNECT, "{} does not answer at {}: {error}", member.describe(), member.address);
        }
        peers[member.rank] = Some(stream);
    }
    while peers[me.rank + 1..].iter().any(Option::is_none) {
        match accept(listener, deadline)?.and_then(|stream| greeted(stream, me)) {
            Some((rank, stream)) => peers[rank] = Some(stream),
            None if Instant::now() < deadline => {}
            None => {
                let missing: Vec<_> = (me.rank + 1..me.ranks).filter(|&rank| peers[rank].is_none()).collect();
                fail!(
                    HCCL_E_TIMEOUT,
                    "rank {} did not connect to rank {} within {:.0?}",
                    list(&missing),
                    me.rank,
                    settings.connect
                );
            }
        }
    }
    Mesh::new(me.rank, peers, settings.execute)
        .map_err(|error| Status::new(HCCL_E_SYSCALL, format!("rank {} cannot serve its connections: {error}", me.rank)))
}

fn accept(listener: &TcpListener, deadline: Instant) -> Result<Option<TcpStream>> {
    let failed = |error: io::Error| Status::new(HCCL_E_SYSCALL, format!("cannot accept connections: {error}"));
    listener.set_nonblocking(true).map_err(failed)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(failed)?;
                return Ok(Some(stream));
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(failed(error)),
            Err(_) if Instant::now() >= deadline => return Ok(None),
            Err(_) => std::thread::sleep(BEAT),
        }
    }
}

/// The rank at the other end, if it belongs to this communicator.
fn greeted(mut stream: TcpStream, me: &Member) -> Option<(usize, TcpStream)> {
    stream.set_read_timeout(Some(STRANGER)).ok()?;
    let other = Member::unpack(&wire::greeting(&mut stream).ok()?)?;
    let fits = other.id == me.id && (me.rank + 1..me.ranks).contains(&other.rank);
    fits.then_some((other.rank, stream))
}

/// Where and under what name a root is, as [`HcclRootInfo`] carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootInfo {
    pub address: SocketAddr,
    pub id: String,
}

const MARK: &str = "cann-sim/1";

impl RootInfo {
    /// Opens a root on this host, under the name that HCCL would give: address, interface, port and time.
    pub fn open() -> Result<Self> {
        let settings = Settings::from_environment()?;
        let host = interfaces::host()?;
        let listener = interfaces::listen_as_root(host.ip)?;
        let address = listener.local_addr().map_err(|error| Status::new(HCCL_E_SYSCALL, error.to_string()))?;
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let id = format!("{}%{}_{}_0_{}", host.ip, host.name, address.port(), time.as_micros());
        serve(listener, id.clone(), settings.connect)?;
        Ok(Self { address, id })
    }

    pub fn write(&self, out: &mut HcclRootInfo) {
        out.internal = [0; HCCL_ROOT_INFO_BYTES as usize];
        let text = format!("{MARK} {} {}", self.address, self.id);
        out.internal.iter_mut().zip(text.bytes()).for_each(|(slot, byte)| *slot = byte as _);
    }

    pub fn read(info: &HcclRootInfo) -> Result<Self> {
        let bytes: Vec<u8> = info.internal.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
        let text = String::from_utf8_lossy(&bytes);
        let found = || {
            let (address, id) = text.strip_prefix(MARK)?.trim_start().split_once(' ')?;
            Some(Self { address: address.parse().ok()?, id: id.to_string() })
        };
        let Some(found) = found() else {
            let what =
                if bytes.is_empty() { "empty".to_string() } else { format!("{:?}", text.get(..40).unwrap_or(&text)) };
            fail!(
                HCCL_E_PARA,
                "the root info is {what}; rank 0 gets it from HcclGetRootInfo and must give it to every rank"
            );
        };
        Ok(found)
    }
}

/// The address that a rank with this root announces: what the environment chooses, else the interface to the root.
pub fn own_address() -> Result<SocketAddr> {
    let chosen = ["HCCL_IF_IP", "HCCL_SOCKET_IFNAME"].iter().any(|name| interfaces::variable(name).is_some());
    let ip = if chosen { interfaces::host()?.ip } else { IpAddr::from([0, 0, 0, 0]) };
    Ok(SocketAddr::new(ip, 0))
}

/// Checks number of ranks and rank before anyone is asked.
pub fn check(ranks: u32, rank: u32) -> Result<()> {
    ensure!(ranks > 0, HCCL_E_PARA, "a communicator of 0 ranks was asked for");
    ensure!(rank < ranks, HCCL_E_PARA, "rank {rank} does not exist among {ranks} ranks, which count from 0");
    Ok(())
}
