//! Result codes of HCCL: name, meaning, and what a user does about each.

use crate::enums::*;
use acl_sys::error::Code;

/// Looks a code up.
pub fn lookup(code: HcclResult) -> Option<&'static Code> {
    CODES.iter().find(|row| row.code == code)
}

macro_rules! codes {
    ($($name:ident, $meaning:literal, $advice:literal;)*) => {
        /// Every known code.
        pub const CODES: &[Code] = &[$(Code { code: $name, name: stringify!($name), meaning: $meaning, advice: $advice }),*];
    };
}

codes! {
    HCCL_SUCCESS, "success", "nothing to do";
    HCCL_E_PARA, "an argument is invalid", "compare rank, root, count and data type with the other ranks and with the operation's page; a rank must be below the size of the communicator";
    HCCL_E_PTR, "a pointer is null", "pass a live communicator and non-null device buffers";
    HCCL_E_MEMORY, "memory could not be allocated or copied", "free device memory, or lower HCCL_BUFFSIZE: each communicator takes twice that many megabytes on the device";
    HCCL_E_INTERNAL, "an internal error", "read the first error of the failing rank in its log (ASCEND_PROCESS_LOG_PATH, default ~/ascend/log); later errors follow from it";
    HCCL_E_NOT_SUPPORT, "the operation is not supported here", "check that this chip, topology, data type and reduction are supported by the installed HCCL";
    HCCL_E_NOT_FOUND, "a resource was not found", "check the rank table: every rank, device id and device address must be listed, and RANK_TABLE_FILE must name the file";
    HCCL_E_UNAVAIL, "a resource is not available", "another process may hold the port or the device; change HCCL_IF_BASE_PORT or stop that process";
    HCCL_E_SYSCALL, "a system call failed", "read the log for errno; limits on open files (ulimit -n) and on locked memory are common causes";
    HCCL_E_TIMEOUT, "an operation timed out", "find the rank that did not arrive: check that all ranks run the same collectives in the same order; raise HCCL_CONNECT_TIMEOUT or HCCL_EXEC_TIMEOUT only if a rank is known to be slow";
    HCCL_E_OPEN_FILE_FAILURE, "a file could not be opened", "check that the rank table and HCCL's configuration files exist and are readable by this user";
    HCCL_E_TCP_CONNECT, "a TCP connection failed", "check that the hosts reach each other on the interface of HCCL_SOCKET_IFNAME or HCCL_IF_IP, and that no firewall closes HCCL_IF_BASE_PORT and the 15 ports above it";
    HCCL_E_ROCE_CONNECT, "an RDMA connection failed", "check the device network: hccn_tool -i <n> -link -g, then ping the peer's device address with hccn_tool -i <n> -ping -g address <ip>";
    HCCL_E_TCP_TRANSFER, "a TCP transfer failed", "a peer probably ended: look for the rank that failed first";
    HCCL_E_ROCE_TRANSFER, "an RDMA transfer failed", "look for the rank that failed first; if none did, check link errors with hccn_tool -i <n> -stat -g and consider HCCL_RDMA_TIMEOUT and HCCL_RDMA_RETRY_CNT";
    HCCL_E_RUNTIME, "a call of the ACL runtime failed", "read the runtime's own error before it in the log; often an earlier kernel failed on the same stream";
    HCCL_E_DRV, "a call of the driver failed", "check npu-smi info and dmesg; the driver and firmware must suit the installed CANN";
    HCCL_E_PROFILING, "a call of the profiler failed", "run once without profiling to see whether the collective itself works";
    HCCL_E_CCE, "a call of the compute engine failed", "read the log of the failing rank; reinstall CANN if files are missing";
    HCCL_E_NETWORK, "a call of the network layer failed", "check that the network interfaces named by HCCL_SOCKET_IFNAME are up on every host";
    HCCL_E_AGAIN, "the operation must be repeated", "call again";
    HCCL_E_REMOTE, "another rank reports an error", "this rank is not the cause: look for the rank whose log has the first error";
    HCCL_E_SUSPENDING, "the communicator is being suspended", "wait, then call HcclCommResume before the next collective";
    HCCL_E_OPRETRY_FAIL, "a collective failed again when it was retried", "check the device links with hccn_tool; the retry is set by HCCL_OP_RETRY_ENABLE and HCCL_OP_RETRY_PARAMS";
    HCCL_E_OOM, "the device is out of memory", "lower HCCL_BUFFSIZE, or the memory pool's limit, so that the communicator's buffers fit";
    HCCL_E_IN_STATUS, "the communicator is in an error state", "destroy the communicator on every rank and make a new one";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_its_row() {
        let (_, results) = ENUMS.iter().find(|(name, _)| *name == "HcclResult").expect("HcclResult is declared");
        for (name, code) in *results {
            let row = lookup(*code).unwrap_or_else(|| panic!("{name} has no row"));
            assert_eq!(row.name, *name);
            assert!(!row.meaning.is_empty() && !row.advice.is_empty(), "{name} says nothing");
        }
        assert_eq!(results.len(), CODES.len());
        assert!(lookup(999).is_none());
    }
}
