//! Ranks that are processes, over a driver and an NCCL that the system's C compiler makes: numbers really go from one to the
//! other, as late as a GPU's stream would send them. It shows the order of calls, what they compute and how failures are told; it
//! shows nothing of NCCL itself.

use npu_cuda::nccl::{Element, Error, Fold, Mark, Ring, UniqueId};
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn cuInit(flags: u32) -> i32;
    fn cuStreamCreate(stream: *mut *mut c_void, flags: u32) -> i32;
    fn cuStreamSynchronize(stream: *mut c_void) -> i32;
}

/// A folder with the stubs under the libraries' names.
fn stubs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nccl");
        std::fs::create_dir_all(folder.join("alone")).unwrap();
        for (source, file) in [("gpu.c", "libcuda.so.1"), ("nccl.c", "libnccl.so.2"), ("gpu.c", "alone/libcuda.so.1")] {
            let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
            command.args(["-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"]).arg(folder.join(file));
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stub").join(source)).arg("-ldl");
            let output = command.output().expect("the C compiler runs");
            assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        folder
    })
}

/// What each of `size` processes prints that run `case`.
fn run(case: &str, size: usize, settings: &[(&str, &str)]) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    let start = |rank: usize| -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child_process", "--nocapture"]).env("NPU_NCCL_CASE", case);
        command.env("NPU_NCCL_RANK", format!("{rank} {size}")).env("NPU_NCCL_PLACE", place.path());
        command.env("LD_LIBRARY_PATH", stubs()).env_remove("CUDA_HOME").env_remove("CUDA_PATH").env_remove("NCCL_HOME");
        command.envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = (0..size).map(start).collect();
    let ended = children.into_iter().map(|child| {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{case}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    });
    ended.collect()
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn ranks_reduce_gather_and_scatter() {
    for size in [1, 2, 3] {
        for text in run("collectives", size, &[]) {
            says(&text, &["every number is right", "failed with 4 ncclInvalidArgument", "this type is not the stub's"]);
        }
    }
}

#[test]
fn a_call_comes_after_what_was_computed_before_it_and_before_what_joins_it() {
    for text in run("order", 2, &[]) {
        says(&text, &["[102.0, 102.0, 102.0]"]);
    }
}

#[test]
fn a_rank_that_is_lost_fails_the_others_call() {
    let texts = run("lost", 2, &[]);
    says(
        &texts[0],
        &["Err: ncclAllReduce failed with 6 ncclRemoteError", "NCCL says: the connection to a peer was closed"],
    );
    says(&texts[0], &["again: ncclAllReduce failed with 6"]);
}

#[test]
fn a_rank_that_does_not_come_is_given_up_by_the_call_and_the_time() {
    let texts = run("late", 2, &[]);
    says(&texts[0], &["Err: call 2, ncclAllReduce, was not over after 1 s and was given up"]);
}

#[test]
fn calls_that_do_not_fit_are_told() {
    let texts = run("differ", 2, &[]);
    says(&texts[0], &["Err: ncclAllReduce failed with 5 ncclInvalidUsage", "rank 1 called something else"]);
    says(&texts[1], &["Err: ncclAllGather failed with 6 ncclRemoteError"]);
}

#[test]
fn an_nccl_that_is_old_or_not_there() {
    let texts = run("collectives", 1, &[("STUB_NCCL_VERSION", "2708")]);
    says(&texts[0], &["libnccl.so.2 is NCCL 2.7.8, wanted 2.13.0 or newer", "nvidia-nccl-cu13"]);
    let alone = stubs().join("alone");
    let texts = run("collectives", 1, &[("LD_LIBRARY_PATH", alone.to_str().unwrap())]);
    if texts[0].contains("every number is right") || texts[0].contains("CUDA_ERROR") {
        return println!("did not run: this machine has NCCL where the loader finds it");
    }
    says(&texts[0], &["libnccl.so.2 of CUDA", "was not found", "Tried:"]);
    let texts =
        run("collectives", 1, &[("LD_LIBRARY_PATH", alone.to_str().unwrap()), ("NCCL_HOME", home().to_str().unwrap())]);
    says(&texts[0], &["every number is right"]);
}

/// A folder with NCCL in its `lib`.
fn home() -> PathBuf {
    let home = stubs().join("home");
    std::fs::create_dir_all(home.join("lib")).unwrap();
    std::fs::copy(stubs().join("libnccl.so.2"), home.join("lib/libnccl.so.2")).unwrap();
    home
}

/// Not a test of its own: what the others start.
#[test]
fn child_process() {
    let Ok(case) = std::env::var("NPU_NCCL_CASE") else {
        return println!("started by the other tests of this file");
    };
    match Rank::open(if case == "late" { Duration::from_secs(1) } else { Duration::from_secs(60) }) {
        Err(error) => println!("{error}"),
        Ok(rank) => match case.as_str() {
            "collectives" => rank.collectives(),
            "order" => rank.order(),
            "lost" => rank.alone(|_| {}),
            "late" => rank.alone(Rank::wait_for_the_other),
            "differ" => rank.differ(),
            _ => panic!("{case}"),
        },
    }
}

type Add = unsafe extern "C" fn(*mut c_void, *mut f32, usize, f32, u32);

struct Rank {
    ring: Ring,
    computing: *mut c_void,
    driver: libloading::Library,
}

fn place() -> PathBuf {
    std::env::var_os("NPU_NCCL_PLACE").expect("a folder").into()
}

/// Waits for a file of another rank.
fn wait_for(name: &str) -> Vec<u8> {
    let begun = Instant::now();
    loop {
        match std::fs::read(place().join(name)) {
            Ok(bytes) => return bytes,
            Err(_) if begun.elapsed() < Duration::from_secs(60) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

fn leave(name: &str, bytes: &[u8]) {
    std::fs::write(place().join("part"), bytes).unwrap();
    std::fs::rename(place().join("part"), place().join(name)).unwrap();
}

impl Rank {
    fn open(limit: Duration) -> Result<Self, Error> {
        let numbers = std::env::var("NPU_NCCL_RANK").unwrap();
        let (rank, size) = numbers.split_once(' ').map(|(r, s)| (r.parse().unwrap(), s.parse().unwrap())).unwrap();
        let mut computing = null_mut();
        // SAFETY: the entry points are called with the arguments of their declarations.
        unsafe { assert_eq!((cuInit(0), cuStreamCreate(&mut computing, 0)), (0, 0)) };
        // SAFETY: the stub, which is loaded already.
        let driver = unsafe { libloading::Library::new("libcuda.so.1").unwrap() };
        if rank == 0 {
            leave("id", UniqueId::new()?.as_bytes());
        }
        let id = UniqueId::from_bytes(&wait_for("id")).expect("128 bytes");
        // SAFETY: the stub has one context, and the stream lives as long as the process.
        let ring = unsafe { Ring::new(&id, (rank, size), computing, limit)? };
        Ok(Self { ring, computing, driver })
    }

    /// Adds `number` to all of `to` after `wait` on the computing stream.
    fn add(&self, to: &mut [f32], number: f32, wait: Duration) {
        // SAFETY: declared so in the stub; whoever calls this waits for the stream while the numbers live.
        unsafe {
            let add = self.driver.get::<Add>(b"stub_add\0").unwrap();
            add(self.computing, to.as_mut_ptr(), to.len(), number, wait.as_micros() as u32);
        }
    }

    /// Waits for the computing stream.
    fn computed(&self) {
        // SAFETY: the stream is alive.
        assert_eq!(unsafe { cuStreamSynchronize(self.computing) }, 0);
    }

    /// Lets the computing stream wait for a call, and waits for that.
    fn joined(&self, mark: Result<Mark, Error>) {
        self.ring.join(&mark.unwrap()).unwrap();
        self.computed();
        self.ring.check().unwrap();
    }

    fn reduce(&self, numbers: &mut [f32]) -> Result<Mark, Error> {
        let at = numbers.as_mut_ptr() as u64;
        // SAFETY: host memory is the stub's device memory, and whoever calls this waits while it lives.
        unsafe { self.ring.all_reduce((at, at), numbers.len(), Element::F32, Fold::Sum) }
    }

    fn collectives(&self) {
        let (rank, size) = (self.ring.rank(), self.ring.size());
        // SAFETY, of all calls below: the memory is the stub's, holds what is counted, and lives until each call is over.
        let numbers = |rank: usize| -> Vec<f32> { (0..6).map(|i| (10 * rank + i) as f32).collect() };
        let mut own = numbers(rank);
        self.joined(self.reduce(&mut own));
        let sum = |i: usize| (0..size).map(|rank| numbers(rank)[i]).sum::<f32>();
        assert_eq!(own, (0..6).map(sum).collect::<Vec<_>>(), "in place");

        let (from, mut to) = ([rank as i64 + 1, -(rank as i64)], [7i64; 2]);
        let (last, product) = (size as i64, (1..=size as i64).product());
        for (fold, wanted) in [(Fold::Max, [last, 0]), (Fold::Min, [1, 1 - last]), (Fold::Prod, [product, 0])] {
            // SAFETY: as above.
            let call =
                unsafe { self.ring.all_reduce((from.as_ptr() as u64, to.as_mut_ptr() as u64), 2, Element::I64, fold) };
            self.joined(call);
            assert_eq!(to, wanted, "{fold:?}");
        }

        let mut own = numbers(rank);
        // SAFETY: as above.
        self.joined(unsafe { self.ring.broadcast(own.as_mut_ptr() as u64, 6, Element::F32, size - 1) });
        assert_eq!(own, numbers(size - 1));

        let (own, mut all) = (numbers(rank), vec![0f32; 6 * size]);
        // SAFETY: as above.
        self.joined(unsafe { self.ring.all_gather((own.as_ptr() as u64, all.as_mut_ptr() as u64), 6, Element::F32) });
        assert_eq!(all, (0..size).flat_map(numbers).collect::<Vec<_>>());

        let whole: Vec<f32> = (0..2 * size).map(|i| (i * (rank + 1)) as f32).collect();
        let mut part = [0f32; 2];
        let places = (whole.as_ptr() as u64, part.as_mut_ptr() as u64);
        // SAFETY: as above.
        self.joined(unsafe { self.ring.reduce_scatter(places, 2, Element::F32, Fold::Sum) });
        let times = size * (size + 1) / 2;
        assert_eq!(part, [2 * rank, 2 * rank + 1].map(|i| (i * times) as f32));
        println!("every number is right");

        // SAFETY: as above.
        let refused = unsafe { self.ring.all_reduce(places, 1, Element::F16, Fold::Sum) };
        println!("{}", refused.unwrap_err());
        self.ring.check().expect("a call that was refused is no failure of the communicator");
    }

    fn order(&self) {
        let mut numbers = vec![0f32; 3];
        self.add(&mut numbers, 1., Duration::from_millis(100));
        let mark = self.reduce(&mut numbers).unwrap();
        self.ring.join(&mark).unwrap();
        self.add(&mut numbers, 100., Duration::ZERO);
        self.computed();
        println!("{numbers:?}");
    }

    /// A call of all ranks, and one of rank 0 alone, while the other does something else.
    fn alone(&self, meanwhile: impl Fn(&Self)) {
        let mut numbers = vec![1f32; 3];
        self.joined(self.reduce(&mut numbers));
        if self.ring.rank() == 1 {
            return meanwhile(self);
        }
        let mark = self.reduce(&mut numbers).unwrap();
        self.ring.join(&mark).unwrap();
        // It ends because the call is aborted.
        self.computed();
        println!("Err: {}", self.ring.check().unwrap_err());
        println!("again: {}", self.reduce(&mut numbers).unwrap_err());
        leave("over", b"");
    }

    fn wait_for_the_other(&self) {
        wait_for("over");
    }

    fn differ(&self) {
        let (mut own, mut all) = (vec![1f32; 3], vec![0f32; 6]);
        let call = match self.ring.rank() {
            0 => self.reduce(&mut own),
            // SAFETY: as in `collectives`.
            _ => unsafe { self.ring.all_gather((own.as_ptr() as u64, all.as_mut_ptr() as u64), 3, Element::F32) },
        };
        self.ring.join(&call.unwrap()).unwrap();
        println!("Err: {}", self.ring.synchronize().unwrap_err());
    }
}
