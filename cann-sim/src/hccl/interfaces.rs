//! Which address a host uses, and which ports: `HCCL_IF_IP`, `HCCL_SOCKET_IFNAME`, `HCCL_IF_BASE_PORT` and
//! `HCCL_HOST_SOCKET_PORT_RANGE`, by the rules of HCCL's pages.

use crate::status::Result;
use crate::{ensure, fail};
use hccl_sys::*;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

/// A variable of the environment that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// An address of this host and the interface that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub ip: IpAddr,
}

/// The address that this host's ranks listen on: what the environment chooses, or the first interface that is neither
/// docker's nor the loopback, then docker's, then the loopback.
pub fn host() -> Result<Interface> {
    if let Some(text) = variable("HCCL_IF_IP") {
        let Ok(ip) = text.parse() else { fail!(HCCL_E_PARA, "HCCL_IF_IP: {text:?} is no IP address") };
        let found = all().into_iter().find(|it| it.ip == ip);
        return Ok(found.unwrap_or(Interface { name: "ip".into(), ip }));
    }
    let found = all();
    let chosen = match variable("HCCL_SOCKET_IFNAME") {
        Some(pattern) => found.iter().find(|it| matches(&pattern, &it.name)),
        None => found.iter().min_by_key(|it| (remoteness(&it.name), it.name.clone(), it.ip.is_ipv6())),
    };
    match chosen {
        Some(interface) => Ok(interface.clone()),
        None => {
            let names: Vec<_> = found.iter().map(|it| it.name.as_str()).collect();
            fail!(
                HCCL_E_NOT_FOUND,
                "no interface of this host fits HCCL_SOCKET_IFNAME={:?}; there are {}",
                variable("HCCL_SOCKET_IFNAME").unwrap_or_default(),
                names.join(", ")
            )
        }
    }
}

fn remoteness(name: &str) -> u8 {
    match name {
        "lo" => 2,
        _ if name.starts_with("docker") => 1,
        _ => 0,
    }
}

/// `eth,enp`: with one of the prefixes; `^eth`: with none; `=eth0`: one of the names; `^=eth0`: none.
fn matches(pattern: &str, name: &str) -> bool {
    let (not, pattern) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (exact, pattern) = pattern.strip_prefix('=').map_or((false, pattern), |rest| (true, rest));
    let hit = pattern.split(',').any(|word| if exact { name == word } else { name.starts_with(word) });
    hit != not
}

/// Addresses of the interfaces that are up.
fn all() -> Vec<Interface> {
    let mut first = std::ptr::null_mut();
    // SAFETY: writes the head of a list through a valid pointer.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: an element of the list, which lives until freeifaddrs below.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        if entry.ifa_flags & libc::IFF_UP as u32 == 0 || entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: not null; the name is NUL-terminated.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        // SAFETY: not null; the family says which structure the address is.
        let ip = unsafe {
            match i32::from((*entry.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let bytes = (*entry.ifa_addr.cast::<libc::sockaddr_in>()).sin_addr.s_addr.to_ne_bytes();
                    IpAddr::from(bytes)
                }
                libc::AF_INET6 => {
                    IpAddr::V6(Ipv6Addr::from((*entry.ifa_addr.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr))
                }
                _ => continue,
            }
        };
        // An address of the link alone needs a scope that root infos do not carry.
        let local = matches!(ip, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
        if !local {
            found.push(Interface { name, ip });
        }
    }
    // SAFETY: the list came from getifaddrs and is not used any more.
    unsafe { libc::freeifaddrs(first) };
    found
}

/// Ports that a root may listen on; empty leaves the choice to the operating system.
fn ports() -> Result<Vec<RangeInclusive<u16>>> {
    if let Some(text) = variable("HCCL_HOST_SOCKET_PORT_RANGE") {
        if text == "auto" {
            return Ok(Vec::new());
        }
        let range = |part: &str| {
            let (from, to) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
            let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
            (from > 0 && from <= to).then_some(from..=to)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        let Some(ranges) = ranges else {
            fail!(
                HCCL_E_PARA,
                "HCCL_HOST_SOCKET_PORT_RANGE: {text:?} is neither \"auto\" nor ports such as 60000-60050,60100"
            );
        };
        return Ok(ranges);
    }
    let base = match variable("HCCL_IF_BASE_PORT") {
        None => 60000u16,
        Some(text) => match text.parse() {
            Ok(port) if (1024..=65520).contains(&port) => port,
            _ => fail!(HCCL_E_PARA, "HCCL_IF_BASE_PORT: {text:?} is no port from 1024 to 65520"),
        },
    };
    Ok(vec![base..=base.saturating_add(31)])
}

/// A listener for a root at `ip`, on the first port that is free.
pub fn listen_as_root(ip: IpAddr) -> Result<TcpListener> {
    let ranges = ports()?;
    if ranges.is_empty() {
        return listen(SocketAddr::new(ip, 0));
    }
    let mut last = None;
    for port in ranges.iter().cloned().flatten() {
        match TcpListener::bind((ip, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => last = Some(error),
            Err(error) => fail!(HCCL_E_NETWORK, "cannot listen on {ip} port {port}: {error}"),
        }
    }
    fail!(
        HCCL_E_UNAVAIL,
        "every port of {ranges:?} on {ip} is taken ({}); choose others with HCCL_IF_BASE_PORT, or \
         HCCL_HOST_SOCKET_PORT_RANGE=auto",
        last.map_or_else(String::new, |error| error.to_string())
    )
}

/// A listener at `address`; port 0 leaves the port to the operating system.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            fail!(HCCL_E_UNAVAIL, "{address} is taken by another process: {error}")
        }
        Err(error) => fail!(HCCL_E_NETWORK, "cannot listen on {address}: {error}"),
    }
}

/// The address that only this host reaches.
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Refuses a whitelist, which the simulator does not check.
pub fn no_whitelist() -> Result<()> {
    ensure!(
        variable("HCCL_WHITELIST_DISABLE").is_none_or(|value| value == "1"),
        HCCL_E_NOT_SUPPORT,
        "HCCL_WHITELIST_DISABLE=0 asks for a whitelist, which the simulated CANN does not check; unset it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_interface_names() {
        assert!(matches("eth,enp", "enp3s0") && !matches("eth,enp", "lo"));
        assert!(matches("^eth", "lo") && !matches("^eth", "eth1"));
        assert!(matches("=eth0,lo", "lo") && !matches("=eth0", "eth01"));
        assert!(matches("^=eth0", "eth01") && !matches("^=eth0,lo", "lo"));
    }

    #[test]
    fn the_loopback_is_found_and_comes_last() {
        let found = all();
        assert!(found.iter().any(|it| it.name == "lo"), "{found:?}");
        assert!(remoteness("eth0") < remoteness("docker0") && remoteness("docker0") < remoteness("lo"));
    }
}
