//! How the processes of a job give each other a few bytes before there is a communicator.

use super::error::Error;
use super::job::Job;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How often a rank tries again to reach rank 0, and rank 0 looks for arrivals.
const BEAT: Duration = Duration::from_millis(10);
/// A stranger at the port gets this long to say what it wants.
const STRANGER: Duration = Duration::from_secs(5);
const MAGIC: &[u8; 8] = b"npurun01";
/// Longest message: more than any root info.
const LONGEST: usize = 1 << 20;

/// Gives the bytes of rank 0 to every rank: rank 0 passes them, the others nothing. Returns when all have them.
///
/// # Errors
/// After `limit`, with the ranks that did not come; when rank 0 cannot listen, or cannot be reached.
pub fn exchange(job: &Job, bytes: Option<&[u8]>, limit: Duration) -> Result<Vec<u8>, Error> {
    match bytes {
        Some(bytes) => give(job, bytes, limit).map(|()| bytes.to_vec()),
        None => fetch(job, limit),
    }
}

fn error(job: &Job, why: String, advice: &str) -> Error {
    let (rank, size, advice) = (job.rank, job.size, advice.to_string());
    Error { rank, size, operation: "meeting the other ranks", code: None, why, advice }
}

fn place(job: &Job) -> String {
    format!("{}:{}", job.master.0, job.master.1)
}

/// What rank 0 binds to: only this host for a job of this host, else every interface, because a host's name often stands
/// for the loopback on the host itself.
fn interface(host: &str) -> IpAddr {
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => ip,
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn give(job: &Job, bytes: &[u8], limit: Duration) -> Result<(), Error> {
    if job.size == 1 {
        return Ok(());
    }
    let busy = "another job may use the port: choose another with MASTER_PORT, the same on every rank";
    let listening = |e: io::Error| error(job, format!("rank 0 cannot listen at {}: {e}", place(job)), busy);
    let listener = TcpListener::bind((interface(&job.master.0), job.master.1)).map_err(listening)?;
    listener.set_nonblocking(true).map_err(listening)?;
    let deadline = Instant::now() + limit;
    let mut arrived: Vec<Option<TcpStream>> = (0..job.size).map(|_| None).collect();
    while arrived[1..].iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some((rank, size, stream)) = greeted(stream) {
                    admit(job, &mut arrived, (rank, size), stream)?;
                }
            }
            Err(_) if Instant::now() < deadline => std::thread::sleep(BEAT),
            Err(_) => {
                let missing: Vec<_> = (1..job.size).filter(|&rank| arrived[rank].is_none()).collect();
                let names = missing.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                let why = format!("rank {names} did not come to {} within {limit:.0?}", place(job));
                let told: Vec<u8> = why.bytes().collect();
                arrived.iter_mut().flatten().for_each(|stream| drop(answer(stream, 1, &told)));
                let advice =
                    "look at the output of those ranks: they may have failed to start, or cannot reach MASTER_ADDR";
                return Err(error(job, why, advice));
            }
        }
    }
    for (rank, stream) in arrived.iter_mut().enumerate() {
        let Some(stream) = stream else { continue };
        let lost = |e| error(job, format!("rank {rank} went away: {e}"), "look at the output of that rank");
        answer(stream, 0, bytes).map_err(lost)?;
    }
    Ok(())
}

/// Notes a rank that came; an error is told to everyone, because the job cannot come about.
fn admit(
    job: &Job,
    arrived: &mut [Option<TcpStream>],
    (rank, size): (usize, usize),
    mut stream: TcpStream,
) -> Result<(), Error> {
    let why = if size != job.size {
        format!("rank {rank} says that the job has {size} processes, rank 0 says {}", job.size)
    } else if rank == 0 || rank >= size || arrived[rank].is_some() {
        format!("a second process says that it is rank {rank} of {size}")
    } else {
        arrived[rank] = Some(stream);
        return Ok(());
    };
    let _ = answer(&mut stream, 1, why.as_bytes());
    arrived.iter_mut().flatten().for_each(|stream| drop(answer(stream, 1, why.as_bytes())));
    Err(error(job, why, "every process of the job needs its own rank and the same number of ranks"))
}

/// Rank and size of who connected, if it is a process of ours.
fn greeted(mut stream: TcpStream) -> Option<(usize, usize, TcpStream)> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(STRANGER)).ok()?;
    let mut greeting = [0; 24];
    stream.read_exact(&mut greeting).ok()?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| greeting[at + i])) as usize;
    (&greeting[..8] == MAGIC).then(|| (number(8), number(16), stream))
}

fn answer(stream: &mut TcpStream, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let length = (bytes.len() as u64).to_le_bytes();
    stream.write_all(&[&[kind][..], &length, bytes].concat())
}

fn fetch(job: &Job, limit: Duration) -> Result<Vec<u8>, Error> {
    let deadline = Instant::now() + limit;
    let advice =
        "rank 0 must run, and MASTER_ADDR and MASTER_PORT must be the same on every rank and reachable from here";
    loop {
        let why = match attempt(job, deadline) {
            Ok((0, bytes)) => return Ok(bytes),
            Ok((_, why)) => return Err(error(job, String::from_utf8_lossy(&why).into_owned(), "rank 0 has said why")),
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            return Err(error(
                job,
                format!("rank 0 did not answer at {} within {limit:.0?}: {why}", place(job)),
                advice,
            ));
        }
        std::thread::sleep(BEAT);
    }
}

/// Connects to rank 0 and waits for its answer.
fn attempt(job: &Job, deadline: Instant) -> io::Result<(u8, Vec<u8>)> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(BEAT);
    let addresses = (job.master.0.as_str(), job.master.1).to_socket_addrs()?;
    let mut stream = Err(io::Error::other("the name has no address"));
    for address in addresses {
        stream = TcpStream::connect_timeout(&address, left());
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream?;
    // Rank 0 tells who is missing when its own time is over, which began a little later than this rank's.
    stream.set_read_timeout(Some(left() + STRANGER))?;
    let (rank, size) = ((job.rank as u64).to_le_bytes(), (job.size as u64).to_le_bytes());
    stream.write_all(&[&MAGIC[..], &rank, &size].concat())?;
    let mut start = [0; 9];
    stream.read_exact(&mut start)?;
    let length = u64::from_le_bytes(std::array::from_fn(|i| start[1 + i])) as usize;
    if length > LONGEST {
        return Err(io::Error::other("who listens there is not rank 0 of this job"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok((start[0], bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job of `size` whose rank 0 listens at a free port of this host.
    fn jobs(size: usize) -> Vec<Job> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let master = ("127.0.0.1".to_string(), port);
        (0..size).map(|rank| Job { rank, size, local_rank: rank, master: master.clone(), launcher: "a test" }).collect()
    }

    fn meet(jobs: &[Job], limit: Duration) -> Vec<Result<Vec<u8>, Error>> {
        std::thread::scope(|scope| {
            let run = |job: &Job| {
                let job = job.clone();
                let bytes = (job.rank == 0).then_some(&b"where rank 0 is"[..]);
                scope.spawn(move || exchange(&job, bytes, limit))
            };
            let threads: Vec<_> = jobs.iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn everyone_gets_the_bytes_of_rank_0() {
        for size in [1, 4] {
            for answer in meet(&jobs(size), Duration::from_secs(30)) {
                assert_eq!(answer.unwrap(), b"where rank 0 is");
            }
        }
    }

    #[test]
    fn missing_ranks_are_named_to_those_who_came() {
        let jobs = jobs(4);
        for answer in meet(&[jobs[0].clone(), jobs[2].clone()], Duration::from_millis(800)) {
            let text = answer.unwrap_err().to_string();
            assert!(text.contains("rank 1, 3 did not come"), "{text}");
        }
    }

    #[test]
    fn a_rank_without_its_rank_0_says_where_it_looked() {
        let jobs = jobs(2);
        let text = meet(&jobs[1..], Duration::from_millis(300)).remove(0).unwrap_err().to_string();
        assert!(text.contains(&format!("rank 0 did not answer at {}", place(&jobs[1]))), "{text}");
    }

    #[test]
    fn two_processes_of_one_rank_are_told() {
        let jobs = jobs(3);
        let answers = meet(&[jobs[0].clone(), jobs[1].clone(), jobs[1].clone()], Duration::from_secs(30));
        for answer in answers {
            let text = answer.unwrap_err().to_string();
            assert!(text.contains("a second process says that it is rank 1 of 3"), "{text}");
        }
    }
}
