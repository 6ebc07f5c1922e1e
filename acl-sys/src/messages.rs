//! The codes at the head of CANN's error texts (`EI0002: …`), which say more than the number that a call returns.

/// What is known of the texts that begin with one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The whole code, such as `EI0002`, or the two characters that name the module, such as `EI`.
    pub prefix: &'static str,
    /// One sentence: what it says.
    pub meaning: &'static str,
    /// One line: what to do next.
    pub advice: &'static str,
}

/// Explains CANN's own error text (of `aclGetRecentErrMsg`, or a line of the log): the first code in it that is known,
/// or else the module of the first code.
pub fn explain(text: &str) -> Option<&'static Message> {
    let find = |prefix: &str| MESSAGES.iter().find(|row| row.prefix == prefix);
    codes(text).find_map(find).or_else(|| codes(text).find_map(|code| find(&code[..2])))
}

/// The words of `text` that have the form of a code: `E`, a letter or digit, four digits.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| match word.as_bytes() {
        [b'E', module, number @ ..] => {
            module.is_ascii_alphanumeric() && number.len() == 4 && number.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    })
}

macro_rules! messages {
    ($($prefix:literal, $meaning:literal, $advice:literal;)*) => {
        const MESSAGES: &[Message] = &[$(Message { prefix: $prefix, meaning: $meaning, advice: $advice }),*];
    };
}

messages! {
    // Collectives.
    "EI0001", "An environment variable of HCCL has an invalid value.", "the text names the variable and what it may be";
    "EI0002", "A rank waited in vain for another one in a collective (HCCL_EXEC_TIMEOUT).", "find the rank that did not arrive: look for an earlier error on other ranks, and check that all ranks run the same collectives in the same order with equal amounts of work; then check the links with hccn_tool";
    "EI0003", "A collective has an invalid argument.", "the text names the argument; compare count, data type, reduction and root on all ranks";
    "EI0004", "The rank table is invalid.", "check RANK_TABLE_FILE: number of servers, device ids, device addresses and rank ids from 0 without gaps";
    "EI0005", "Ranks call a collective with different arguments.", "make operation, count, data type, reduction and root equal on all ranks; the text names the ranks";
    "EI0006", "Ranks could not connect to one another in time (HCCL_CONNECT_TIMEOUT).", "check that every rank is running, that all use one network (HCCL_SOCKET_IFNAME, HCCL_IF_IP), that no firewall closes the ports from HCCL_IF_BASE_PORT, and that the device addresses reach one another (hccn_tool -i <n> -ping)";
    "EI0007", "HCCL cannot allocate a resource.", "free device memory and streams, or lower HCCL_BUFFSIZE";
    "EI0008", "Ranks use different releases of HCCL.", "install one CANN release on all hosts";
    "EI0011", "HCCL is out of memory.", "free device memory, or lower HCCL_BUFFSIZE";
    "EI0012", "A copy between devices of one host failed.", "look for an address out of bounds or freed memory on either rank; then check the devices' health with npu-smi info";
    "EI0013", "A transfer between hosts was retried too often.", "look for a rank that ended early; then check the network (link, cables, switches) between the two device addresses in the text";
    "EI0014", "Ranks disagree on the cluster.", "give every rank the same rank table and the same environment";
    "EI0015", "The ranks of the job did not gather in time.", "check that the number of started processes is the world size, that all reach the first rank's address, and raise HCCL_CONNECT_TIMEOUT if starting is slow";
    "EI9999", "HCCL failed inside.", "read the first error of all ranks' logs; later ones follow from it";
    "EJ0001", "The device's communication process could not start.", "another process probably uses the device: end it, or wait some seconds after the last job";
    // Operators.
    "EZ1001", "An operator refuses its arguments.", "the text names the argument: compare data types, shapes, formats and attributes with the operator's page";
    "EZ9903", "The runtime failed inside an operator.", "the text has the runtime's code (507xxx), which says more";
    "EZ9999", "An operator failed inside, or a kernel failed on the device.", "read on in the text: for a failed kernel it names the operator, the error and the address; look for indices out of range and tensors that were freed too early";
    "E89999", "An operator's tiling failed.", "the text names the check that failed: compare shapes and attributes with the operator's page";
    // Runtime and driver.
    "EE1001", "The runtime refuses an argument.", "the text names the argument and its range";
    "EE1002", "A stream was not done within the timeout.", "find the task that hangs; with several ranks, look for one that did not reach the same collective";
    "EE1010", "A stream or event belongs to another context.", "use it on the device and in the context that made it";
    "EE1013", "The runtime is out of host memory.", "free memory on the host";
    "EE1015", "The driver is too old.", "install a driver that suits the installed CANN";
    "EE1016", "The call is not allowed in the present state.", "the text names the state; during a capture, do what blocks before it begins";
    "EE2002", "An environment variable of the runtime has an invalid value.", "the text names the variable and what it may be";
    "EE9999", "The runtime failed inside.", "read the first error in the text; a code 507xxx in it says more";
    "EL0004", "Device memory cannot be allocated.", "see npu-smi info for who holds the device's memory; lower batch size, sequence length or the memory limit";
    // Modules, for codes that are not listed.
    "EE", "The text comes from the runtime.", "read its reason; a number 107xxx, 207xxx or 507xxx in it says more";
    "EH", "The text comes from the ACL.", "read its reason: mostly an argument of the call that it names";
    "EI", "The text comes from HCCL.", "compare with the texts of the other ranks: the first one in time is the cause";
    "EJ", "The text comes from the device's communication process.", "check that no other process uses the device, and the device's network";
    "EK", "The text comes from profiling.", "run without profiling to see whether the program itself works";
    "EL", "The text comes from the driver.", "check npu-smi info and dmesg; driver and firmware must suit the installed CANN";
    "EP", "The text comes from dumping.", "check the dump configuration";
    "EZ", "The text comes from an operator.", "compare the operator's arguments with its page";
    "E1", "The text comes from the graph engine.", "read its reason; this program does not use the graph engine itself";
    "E2", "The text comes from the graph's fusion.", "read its reason; this program does not use the graph engine itself";
    "E3", "The text comes from the AI CPU or the task scheduler on the device.", "read its reason; check that the AI CPU kernel package of this release is installed";
    "E4", "The text comes from compiling an operator.", "check that the compiler's Python packages are installed, or use operators with binary kernels";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_code_is_explained() {
        let text =
            "EI9000: something new\n[PID: 17] 2026-01-01 Communication_Error_Bind(EI0006): Getting socket times out.";
        assert_eq!(explain(text).map(|row| row.prefix), Some("EI0006"));
        assert_eq!(explain("EZ9999: Inner Error! EE9999 follows").map(|row| row.prefix), Some("EZ9999"));
    }

    #[test]
    fn an_unknown_code_is_explained_by_its_module() {
        assert_eq!(explain("EK0201: no memory").map(|row| row.prefix), Some("EK"));
        assert_eq!(explain("E10001: value").map(|row| row.prefix), Some("E1"));
    }

    #[test]
    fn words_that_are_no_codes_are_left_alone() {
        for text in ["", "EI000", "EI00022", "ERROR1234", "xEI0002", "the E label"] {
            assert_eq!(explain(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_prefix_has_one_row() {
        let mut prefixes: Vec<_> = MESSAGES.iter().map(|row| row.prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        assert_eq!(prefixes.len(), MESSAGES.len());
    }
}
