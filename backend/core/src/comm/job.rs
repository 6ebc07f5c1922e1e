//! Who this process is in its job, from the environment of whatever started it.

use super::error::Error;

/// The place of this process in a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Place among the processes of this host: the index of its device.
    pub local_rank: usize,
    /// Host and port where rank 0 listens for the others.
    pub master: (String, u16),
    /// Who started the job, for messages.
    pub launcher: &'static str,
}

/// The variables of one launcher.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static [&'static str],
    host: &'static [&'static str],
    port: &'static [&'static str],
    /// Whether the port is taken by the launcher itself while this variable has this value, so that the next is used.
    taken: Option<(&'static str, Option<&'static str>)>,
}

const TORCHRUN: Launcher = Launcher {
    name: "torchrun",
    rank: "RANK",
    size: "WORLD_SIZE",
    local_rank: &["LOCAL_RANK"],
    host: &["MASTER_ADDR"],
    port: &["MASTER_PORT"],
    taken: Some(("TORCHELASTIC_USE_AGENT_STORE", Some("True"))),
};

/// In the order in which they are looked for: a launcher that starts another one's processes comes later.
const LAUNCHERS: &[Launcher] = &[
    TORCHRUN,
    Launcher {
        name: "msrun",
        rank: "MS_NODE_ID",
        size: "MS_WORKER_NUM",
        local_rank: &["DEVICE_ID"],
        host: &["MS_SCHED_HOST"],
        port: &["MS_SCHED_PORT"],
        taken: Some(("MS_SCHED_PORT", None)),
    },
    Launcher {
        name: "Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        host: &["MASTER_ADDR"],
        port: &["MASTER_PORT"],
        taken: None,
    },
    Launcher {
        name: "MPI (PMI)",
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
        host: &["MASTER_ADDR"],
        port: &["MASTER_PORT"],
        taken: None,
    },
    Launcher {
        name: "Slurm",
        rank: "SLURM_PROCID",
        size: "SLURM_NTASKS",
        local_rank: &["SLURM_LOCALID"],
        host: &["MASTER_ADDR", "SLURM_LAUNCH_NODE_IPADDR"],
        port: &["MASTER_PORT"],
        taken: None,
    },
    Launcher {
        name: "rank table",
        rank: "RANK_ID",
        size: "RANK_SIZE",
        local_rank: &["DEVICE_ID"],
        host: &["MASTER_ADDR"],
        port: &["MASTER_PORT"],
        taken: None,
    },
];

/// Where rank 0 listens when nobody says, as torchrun does it.
const PORT: u16 = 29500;

impl Job {
    /// A job of this one process.
    pub fn single() -> Self {
        Self { rank: 0, size: 1, local_rank: 0, master: ("127.0.0.1".into(), PORT), launcher: "nobody" }
    }

    /// The job that the environment describes; one process when no launcher has left anything.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As [`Job::from_env`], with the variables that `get` answers.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let found = LAUNCHERS.iter().find(|launcher| get(launcher.rank).is_some() && get(launcher.size).is_some());
        let Some(launcher) = found else {
            let half = LAUNCHERS.iter().find(|l| get(l.rank).is_some() != get(l.size).is_some());
            // Slurm sets SLURM_NTASKS for a batch script too, which is no task of the job.
            return match half.filter(|l| l.name != "Slurm") {
                None => Ok(Self::single()),
                Some(l) => Err(wrong(format!("{} and {} go together, but only one is set", l.rank, l.size), l.name)),
            };
        };
        launcher.read(&get)
    }
}

impl Launcher {
    fn read(&self, get: &impl Fn(&str) -> Option<String>) -> Result<Job, Error> {
        let number = |name: &str| -> Result<Option<usize>, Error> {
            let Some(text) = get(name) else { return Ok(None) };
            text.trim()
                .parse()
                .map(Some)
                .map_err(|_| wrong(format!("{name} is {text:?}, wanted a whole number"), self.name))
        };
        let (rank, size) = (number(self.rank)?.unwrap_or(0), number(self.size)?.unwrap_or(1));
        if rank >= size {
            return Err(wrong(format!("{} is {rank}, but {} is {size}", self.rank, self.size), self.name));
        }
        let local_rank = match self.local_rank.iter().find(|name| get(name).is_some()) {
            Some(name) => number(name)?.unwrap_or(0),
            None => rank,
        };
        let host = self.host.iter().find_map(|name| get(name)).unwrap_or_else(|| "127.0.0.1".to_string());
        let mut port = PORT;
        if let Some(name) = self.port.iter().find(|name| get(name).is_some()) {
            let wanted = number(name)?.and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);
            port = wanted.ok_or_else(|| wrong(format!("{name} is no port from 1 to 65535"), self.name))?;
        }
        let taken = self
            .taken
            .is_some_and(|(name, value)| get(name).is_some_and(|found| value.is_none_or(|value| found == value)));
        if taken {
            port = port.checked_add(1).unwrap_or(port - 1);
        }
        Ok(Job { rank, size, local_rank, master: (host, port), launcher: self.name })
    }
}

fn wrong(why: String, launcher: &str) -> Error {
    let advice = format!("start the job with its launcher ({launcher}), or unset its variables to run one process");
    Error { rank: 0, size: 1, operation: "reading the job's environment", code: None, why, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> Result<Job, Error> {
        Job::from_variables(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    fn place(job: Job) -> (usize, usize, usize, String, u16) {
        (job.rank, job.size, job.local_rank, job.master.0, job.master.1)
    }

    #[test]
    fn every_launcher_is_understood() {
        let torchrun =
            [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "7000")];
        assert_eq!(place(job(&torchrun).unwrap()), (5, 8, 1, "h".into(), 7000));
        let agent = [&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(job(&agent).unwrap().master.1, 7001, "torchrun itself listens at MASTER_PORT");
        let slurm = [
            ("SLURM_PROCID", "3"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.9"),
        ];
        assert_eq!(place(job(&slurm).unwrap()), (3, 4, 1, "10.0.0.9".into(), 29500));
        let mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
        assert_eq!(place(job(&mpi).unwrap()), (1, 2, 1, "127.0.0.1".into(), 29500));
        let hydra = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0"), ("MASTER_ADDR", "h")];
        assert_eq!(place(job(&hydra).unwrap()), (1, 2, 0, "h".into(), 29500));
        let msrun = [
            ("MS_NODE_ID", "1"),
            ("MS_WORKER_NUM", "2"),
            ("DEVICE_ID", "1"),
            ("MS_SCHED_HOST", "h"),
            ("MS_SCHED_PORT", "8118"),
        ];
        assert_eq!(place(job(&msrun).unwrap()), (1, 2, 1, "h".into(), 8119), "the scheduler listens at MS_SCHED_PORT");
        let table = [("RANK_ID", "3"), ("RANK_SIZE", "4"), ("DEVICE_ID", "1")];
        assert_eq!(place(job(&table).unwrap()), (3, 4, 1, "127.0.0.1".into(), 29500));
        assert_eq!(job(&[]).unwrap(), Job::single());
        assert_eq!(job(&[("SLURM_NTASKS", "4")]).unwrap(), Job::single());
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (variables, says) in [
            (vec![("RANK", "2"), ("WORLD_SIZE", "2")], "RANK is 2, but WORLD_SIZE is 2"),
            (vec![("RANK", "one"), ("WORLD_SIZE", "2")], "RANK is \"one\""),
            (vec![("RANK", "1")], "RANK and WORLD_SIZE go together"),
            (vec![("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "70000")], "MASTER_PORT is no port"),
        ] {
            let text = job(&variables).unwrap_err().to_string();
            assert!(text.contains(says), "{text:?} does not say {says:?}");
        }
    }
}
