//! Two hosts on one machine: network namespaces joined by a cable. The suite of `cann-sim`, which this crate depends on, takes
//! this file by its path.

use std::io::Write as _;
use std::process::Command;

/// Two network namespaces with the addresses 1 and 2 of a network of their own, removed at the end.
pub struct Hosts {
    pub names: [String; 2],
}

impl Hosts {
    /// Namespaces that begin with `name`, no more than four letters, in the network `network` (`10.211.7`). `None` where the machine
    /// does not allow it, with the reason on standard error, which a passing test does not swallow.
    pub fn new(name: &str, network: &str) -> Option<Self> {
        let id = std::process::id() % 10000;
        let hosts = Self { names: ["a", "b"].map(|end| format!("{name}{id}{end}")) };
        let [a, b] = &hosts.names;
        // A cable's end is called as its namespace is: interfaces have names of their own.
        let mut steps = vec![format!("netns add {a}"), format!("netns add {b}")];
        steps.push(format!("link add {a} netns {a} type veth peer name {b} netns {b}"));
        for (number, host) in [(1, a), (2, b)] {
            steps.push(format!("-n {host} addr add {network}.{number}/24 dev {host}"));
            steps.push(format!("-n {host} link set lo up"));
            steps.push(format!("-n {host} link set {host} up"));
        }
        for step in steps {
            let trouble = match Command::new("ip").args(step.split(' ')).output() {
                Ok(output) if output.status.success() => continue,
                Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
                Err(error) => error.to_string(),
            };
            let said = format!("did not run: this machine makes no network namespaces: ip {step}: {}", trouble.trim());
            let _ = writeln!(std::io::stderr(), "{said}");
            return None;
        }
        Some(hosts)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
