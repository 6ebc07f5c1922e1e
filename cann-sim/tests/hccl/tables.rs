//! Communicators from a rank table.

use crate::support::*;
use hccl_sys::*;
use std::ffi::CString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::ptr::null_mut;

/// A table of `size` devices of one server, in a file of its own, with a port that is free.
fn table(name: &str, size: usize) -> PathBuf {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let device = |i| format!(r#"{{"device_id":"{i}","device_ip":"127.0.0.1","device_port":"{port}","rank_id":"{i}"}}"#);
    let devices: Vec<_> = (0..size).map(device).collect();
    let text = format!(
        r#"{{"status":"completed","version":"1.0","server_count":"1","server_list":[{{"server_id":"here","device":[{}]}}]}}"#,
        devices.join(",")
    );
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn ranks_meet_where_the_table_says() {
    let path = CString::new(table("ranks.json", 3).to_str().unwrap()).unwrap();
    std::thread::scope(|scope| {
        for rank in 0..3usize {
            let path = &path;
            scope.spawn(move || {
                let (stream, mut comm) = (Rank::device(rank), null_mut());
                // SAFETY: the path is NUL-terminated, and one handle is written.
                unsafe {
                    let wrong = (rank as u32 + 1) % 3;
                    let call = hccl().HcclCommInitClusterInfo(path.as_ptr(), wrong, &mut comm);
                    refused(call, HCCL_E_PARA, &[&format!("gives rank {wrong} device {wrong}")]);
                    let call = hccl().HcclCommInitClusterInfo(path.as_ptr(), 3, &mut comm);
                    refused(call, HCCL_E_PARA, &["rank 3 is not in the rank table"]);
                    ok(hccl().HcclCommInitClusterInfo(path.as_ptr(), rank as u32, &mut comm));
                    let call = hccl().HcclCommInitClusterInfo(path.as_ptr(), rank as u32, &mut null_mut());
                    refused(call, HCCL_E_PARA, &["initialised with a rank table before"]);
                }
                let me = Rank { comm, stream, rank };
                let (own, all) = (Buffer::of(&[rank as i64]), Buffer::room::<i64>(3));
                // SAFETY: the buffers are as long as the call says.
                unsafe { ok(hccl().HcclAllGather(own.data, all.data, 1, HCCL_DATA_TYPE_INT64, comm, stream)) };
                me.done();
                assert_eq!(all.values::<i64>(), [0, 1, 2]);
                me.leave();
            });
        }
    });
}

#[test]
fn a_table_that_is_not_there_is_named() {
    Rank::device(0);
    let mut comm = null_mut();
    // SAFETY: the path is NUL-terminated, and one handle is written.
    let call = unsafe { hccl().HcclCommInitClusterInfo(c"/no/such/table.json".as_ptr(), 0, &mut comm) };
    refused(call, HCCL_E_OPEN_FILE_FAILURE, &["/no/such/table.json", "cannot be read"]);
}
