//! Rank tables: the JSON files that list every rank of a job, as HCCL's pages describe them for A2 (version 1.0) and A3
//! (1.2, with super pods).

use super::interfaces::LOOPBACK;
use crate::status::Result;
use crate::{ensure, fail};
use hccl_sys::*;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub rank: usize,
    pub server: String,
    pub device: u32,
    /// `device_ip`, else the server's `host_ip`.
    pub ip: Option<IpAddr>,
    pub port: Option<u16>,
}

/// A table that has been read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankTable {
    /// In the order of the ranks.
    pub rows: Vec<Row>,
    /// Number that only the same text has.
    pub digest: u64,
}

/// Port of a device that the table gives none.
const PORT: u16 = 16666;

impl RankTable {
    pub fn load(path: &str) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|mut status| {
                status.message = format!("rank table {path}: {}", status.message);
                status
            }),
            Err(error) => fail!(HCCL_E_OPEN_FILE_FAILURE, "the rank table {path:?} cannot be read: {error}"),
        }
    }

    pub fn parse(text: &str) -> Result<Self> {
        let table: Value = match serde_json::from_str(text) {
            Ok(table) => table,
            Err(error) => fail!(HCCL_E_PARA, "no JSON: {error} (the comments of the documentation's examples must go)"),
        };
        let version = word(&table, "version", "the table")?;
        ensure!(["1.0", "1.2"].contains(&version.as_str()), HCCL_E_PARA, "version is {version:?}, wanted 1.0 or 1.2");
        let status = word(&table, "status", "the table")?;
        ensure!(status == "completed", HCCL_E_PARA, "status is {status:?}, wanted \"completed\"");
        let servers = list(&table, "server_list", "the table")?;
        if !table["server_count"].is_null() || version == "1.0" {
            let count: usize = number(&table, "server_count", "the table")?;
            ensure!(
                count == servers.len(),
                HCCL_E_PARA,
                "server_count is {count}, but server_list has {}",
                servers.len()
            );
        }
        let mut rows = Vec::new();
        let mut names = Vec::new();
        for server in servers {
            let name = word(server, "server_id", "a server")?;
            ensure!(!names.contains(&name), HCCL_E_PARA, "server_id {name:?} is listed twice");
            read_server(server, &name, &mut rows)?;
            names.push(name);
        }
        check_ranks(&mut rows, names.len())?;
        check_pods(&table, &names)?;
        Ok(Self { rows, digest: fnv(text.as_bytes()) })
    }

    /// Where the ranks meet: at rank 0's address, or on the loopback when there is one server and it has none.
    pub fn meeting(&self) -> SocketAddr {
        let first = &self.rows[0];
        SocketAddr::new(first.ip.unwrap_or(LOOPBACK), first.port.unwrap_or(PORT))
    }

    /// The line of `rank`.
    pub fn row(&self, rank: u32) -> Result<&Row> {
        let Some(row) = self.rows.get(rank as usize) else {
            fail!(HCCL_E_PARA, "rank {rank} is not in the rank table, which lists ranks 0 to {}", self.rows.len() - 1);
        };
        Ok(row)
    }
}

fn read_server(server: &Value, name: &str, rows: &mut Vec<Row>) -> Result<()> {
    let place = format!("server {name:?}");
    let host: Option<IpAddr> = optional(server, "host_ip", &place)?;
    for device in list(server, "device", &place)? {
        let rank = number(device, "rank_id", &format!("a device of {place}"))?;
        let place = format!("rank {rank} of {place}");
        let device_ip: Option<IpAddr> = optional(device, "device_ip", &place)?;
        let port: Option<u16> = optional(device, "device_port", &place)?;
        let id: u32 = number(device, "device_id", &place)?;
        let twin = rows.iter().find(|row: &&Row| row.server == name && row.device == id);
        if let Some(twin) = twin {
            fail!(HCCL_E_PARA, "ranks {} and {rank} of server {name:?} have the same device_id {id}", twin.rank);
        }
        ensure!(port != Some(0), HCCL_E_PARA, "device_port of {place} is 0, wanted 1 to 65535");
        rows.push(Row { rank, server: name.to_string(), device: id, ip: device_ip.or(host), port });
    }
    Ok(())
}

/// Every rank once, from 0 on, and those of a server together.
fn check_ranks(rows: &mut [Row], servers: usize) -> Result<()> {
    ensure!(!rows.is_empty(), HCCL_E_PARA, "the table lists no device");
    rows.sort_by_key(|row| row.rank);
    for (wanted, row) in rows.iter().enumerate() {
        ensure!(
            row.rank == wanted,
            HCCL_E_PARA,
            "rank_id {wanted} is {}; {} devices need the ranks 0 to {}",
            if row.rank < wanted { "preceded by a second one of its predecessor" } else { "missing" },
            rows.len(),
            rows.len() - 1
        );
        ensure!(
            servers == 1 || row.ip.is_some(),
            HCCL_E_PARA,
            "rank {wanted} has no device_ip, which a table of several servers needs"
        );
    }
    let blocks = 1 + rows.windows(2).filter(|pair| pair[0].server != pair[1].server).count();
    ensure!(
        blocks == servers,
        HCCL_E_PARA,
        "the ranks of a server are not consecutive; ranks of two servers may not alternate"
    );
    Ok(())
}

/// Where super pods are listed, each server is in exactly one.
fn check_pods(table: &Value, servers: &[String]) -> Result<()> {
    if table["super_pod_list"].is_null() {
        return Ok(());
    }
    let mut seen = Vec::new();
    for pod in list(table, "super_pod_list", "the table")? {
        let pod_id = word(pod, "super_pod_id", "a super pod")?;
        for server in list(pod, "server_list", &format!("super pod {pod_id:?}"))? {
            let name = word(server, "server_id", &format!("a server of super pod {pod_id:?}"))?;
            ensure!(
                servers.contains(&name),
                HCCL_E_PARA,
                "super pod {pod_id:?} has server {name:?}, which server_list lacks"
            );
            ensure!(!seen.contains(&name), HCCL_E_PARA, "server {name:?} is in two super pods");
            seen.push(name);
        }
    }
    match servers.iter().find(|name| !seen.contains(name)) {
        Some(name) => fail!(HCCL_E_PARA, "server {name:?} is in no super pod"),
        None => Ok(()),
    }
}

fn list<'a>(value: &'a Value, key: &str, place: &str) -> Result<&'a [Value]> {
    match value[key].as_array() {
        Some(list) if !list.is_empty() => Ok(list),
        _ => fail!(HCCL_E_PARA, "{key} of {place} is {}, wanted a list that is not empty", value[key]),
    }
}

/// A text; HCCL's tables write numbers as texts too, and both are taken.
fn word(value: &Value, key: &str, place: &str) -> Result<String> {
    match &value[key] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => fail!(HCCL_E_PARA, "{key} of {place} is {other}, wanted a text"),
    }
}

fn optional<T: std::str::FromStr>(value: &Value, key: &str, place: &str) -> Result<Option<T>> {
    if value[key].is_null() {
        return Ok(None);
    }
    let text = word(value, key, place)?;
    match text.parse() {
        Ok(parsed) => Ok(Some(parsed)),
        Err(_) => fail!(HCCL_E_PARA, "{key} of {place} is {text:?}, which cannot be read"),
    }
}

fn number<T: std::str::FromStr>(value: &Value, key: &str, place: &str) -> Result<T> {
    match optional(value, key, place)? {
        Some(number) => Ok(number),
        None => fail!(HCCL_E_PARA, "{key} of {place} is missing"),
    }
}

/// The hash FNV-1a, which is the same in every process.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, devices: &str) -> String {
        format!(r#"{{"server_id":"{name}","host_ip":"127.0.0.1","device":[{devices}]}}"#)
    }

    fn table(version: &str, servers: &[String], rest: &str) -> String {
        let (count, servers) = (servers.len(), servers.join(","));
        format!(
            r#"{{"status":"completed","version":"{version}","server_count":"{count}","server_list":[{servers}]{rest}}}"#
        )
    }

    #[test]
    fn both_forms_are_read() {
        let a2 = table(
            "1.0",
            &[server("a", r#"{"device_id":"0","rank_id":"1"},{"device_id":1,"rank_id":0,"device_port":"5000"}"#)],
            "",
        );
        let rows = RankTable::parse(&a2).unwrap();
        assert_eq!(rows.rows.iter().map(|row| row.device).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(rows.meeting(), "127.0.0.1:5000".parse().unwrap());
        let servers = [
            server("a", r#"{"device_id":"0","super_device_id":"0","rank_id":"0"}"#),
            server("b", r#"{"device_id":"0","super_device_id":"2","device_ip":"127.0.0.2","rank_id":"1"}"#),
        ];
        let pods = r#","super_pod_list":[{"super_pod_id":"0","server_list":[{"server_id":"a"},{"server_id":"b"}]}]"#;
        let rows = RankTable::parse(&table("1.2", &servers, pods)).unwrap().rows;
        assert_eq!(rows[1].ip, Some("127.0.0.2".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let one = |devices: &str| table("1.0", &[server("a", devices)], "");
        let device = r#"{"device_id":"0","rank_id":"0"}"#;
        let two = [server("a", device), server("b", r#"{"device_id":"0","rank_id":"1"}"#)];
        for (text, says) in [
            ("{//".to_string(), "no JSON"),
            (one(device).replace("completed", "initializing"), "status is \"initializing\""),
            (one(device).replace("1.0", "2.0"), "version is \"2.0\""),
            (
                one(device).replace(r#""server_count":"1""#, r#""server_count":"2""#),
                "server_count is 2, but server_list has 1",
            ),
            (one(r#"{"device_id":"0"}"#), "rank_id of a device of server \"a\" is missing"),
            (one(r#"{"device_id":"0","rank_id":"1"}"#), "rank_id 0 is missing"),
            (
                one(r#"{"device_id":"0","rank_id":"0"},{"device_id":"0","rank_id":"1"}"#),
                "ranks 0 and 1 of server \"a\" have the same device_id 0",
            ),
            (table("1.0", &[two[0].clone(), two[0].clone()], ""), "server_id \"a\" is listed twice"),
            (
                table("1.2", &two, r#","super_pod_list":[{"super_pod_id":"0","server_list":[{"server_id":"a"}]}]"#),
                "server \"b\" is in no super pod",
            ),
            (table("1.0", &two, "").replace(r#""host_ip":"127.0.0.1","#, ""), "rank 0 has no device_ip"),
        ] {
            let status = RankTable::parse(&text).unwrap_err();
            assert_eq!(status.code, HCCL_E_PARA);
            assert!(status.message.contains(says), "{:?} does not say {says:?}", status.message);
        }
        let status = RankTable::load("/does/not/exist").unwrap_err();
        assert_eq!(status.code, HCCL_E_OPEN_FILE_FAILURE);
    }
}
