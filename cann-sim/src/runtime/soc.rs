//! The chips that can be simulated.

/// What the runtime answers about one chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    /// As `aclrtGetSocName` gives it.
    pub name: &'static str,
    /// Family, as CANN's configuration files name it.
    pub short: &'static str,
    pub cube_cores: u32,
    pub vector_cores: u32,
    pub cube_mhz: u32,
    /// Device memory in GiB.
    pub hbm_gib: u64,
    /// Bytes a nanosecond between device memory and the cores.
    pub hbm_rate: u64,
    /// Second-level cache in MiB.
    pub l2_mib: u64,
    /// Unified buffer of one vector core in bytes.
    pub ub: u64,
    /// `ACL_DEV_ATTR_NPU_ARCH`.
    pub arch: i64,
}

const fn row(
    name: &'static str,
    short: &'static str,
    cube_cores: u32,
    cube_mhz: u32,
    hbm_gib: u64,
    l2_mib: u64,
    arch: i64,
) -> Soc {
    // The figure published for the family, a die of A3 and the 950PR alike; chips with half of the memory are taken to
    // have half of its stacks.
    let hbm_rate = if hbm_gib < 64 { 800 } else { 1600 };
    let ub = if arch == 3510 { 248 << 10 } else { 192 << 10 };
    Soc { name, short, cube_cores, vector_cores: 2 * cube_cores, cube_mhz, hbm_gib, hbm_rate, l2_mib, ub, arch }
}

/// Every chip that can be simulated.
pub const SOCS: &[Soc] = &[
    row("Ascend910B1", "Ascend910B", 24, 1850, 64, 192, 2201),
    row("Ascend910B2", "Ascend910B", 24, 1800, 64, 192, 2201),
    row("Ascend910B2C", "Ascend910B", 24, 1800, 64, 192, 2201),
    row("Ascend910B3", "Ascend910B", 20, 1800, 64, 192, 2201),
    row("Ascend910B4", "Ascend910B", 20, 1500, 32, 96, 2201),
    row("Ascend910B4-1", "Ascend910B", 20, 1500, 32, 168, 2201),
    row("Ascend910_9391", "Ascend910_93", 24, 1850, 64, 192, 2201),
    row("Ascend910_9392", "Ascend910_93", 24, 1850, 64, 192, 2201),
    row("Ascend910_9381", "Ascend910_93", 24, 1800, 64, 192, 2201),
    row("Ascend910_9382", "Ascend910_93", 24, 1800, 64, 192, 2201),
    row("Ascend910_9372", "Ascend910_93", 20, 1800, 64, 192, 2201),
    row("Ascend910_9362", "Ascend910_93", 20, 1500, 32, 168, 2201),
    row("Ascend950PR_9599", "Ascend950", 36, 1800, 128, 128, 3510),
];

/// Finds a chip by its name, with or without the prefix `Ascend`, in any case: `910b3`, `Ascend910_9391`.
pub fn find(name: &str) -> Result<&'static Soc, String> {
    let wanted = name.to_ascii_lowercase();
    let wanted = wanted.strip_prefix("ascend").unwrap_or(&wanted);
    SOCS.iter().find(|soc| soc.name["Ascend".len()..].eq_ignore_ascii_case(wanted)).ok_or_else(|| {
        let known: Vec<_> = SOCS.iter().map(|soc| soc.name).collect();
        format!("no simulated chip is called {name:?}; there are {}", known.join(", "))
    })
}
