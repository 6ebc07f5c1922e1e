//! What the vector kernels cost at a decoded step of DeepSeek-V3: 32 tokens, 256 experts of which 8 are chosen in 4 of 8
//! groups, rows of 7168. Bytes are counted; times are the twin's model of an Ascend910B3 and are printed only.

use ascend_kernels::Launch;
use ascend_kernels::add_rms_norm::{self, AddRmsNormShape};
use ascend_kernels::gating::{self, GatingShape};
use ascend_kernels::permute::{self, PermuteShape};
use ascend_kernels::plan::Float;
use ascend_kernels::rotary_cache::{self, RotaryCacheShape};
use ascend_kernels::twin::{self, Memory, PIPES, Report};
use ascend_kernels::unpermute::{self, UnpermuteShape};

const CORES: usize = 40;
const TOKENS: usize = 32;
const EXPERTS: usize = 256;
const K: usize = 8;
const WIDTH: usize = 7168;
/// Bytes of a cycle that HBM gives all cores together: 1.6 TB/s at 1.8 GHz.
const HBM: f64 = 889.0;

/// `tensors` in the order of the kernel's arguments.
fn cost(launch: &Launch, tensors: &[Vec<u8>]) -> Report {
    let mut memory = Memory::default();
    let tensors: Vec<u64> = tensors.iter().map(|bytes| memory.put(bytes)).collect();
    let report = twin::run(launch, &tensors, &mut memory).unwrap();
    let micros = |cycles: f64| cycles / 1800.0;
    let floor = (report.gm_read_once + report.gm_written_once) as f64 / HBM;
    let (pipe, busy) = PIPES.iter().zip(report.busy).max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are pipes");
    println!(
        "{:<20} {:>2} cores {:>6.2} us; its bytes from HBM {:>6.2} us; busiest pipe {pipe} {:>6.2} us",
        launch.kernel,
        launch.blocks,
        micros(report.cycles),
        micros(floor),
        micros(busy)
    );
    report
}

fn zeros(bytes: usize) -> Vec<u8> {
    vec![0; bytes]
}

/// Numbers 0, 1, … of 32 bits: each choice another expert, or another row.
fn counted() -> Vec<u8> {
    (0..(TOKENS * K) as u32).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn a_decoded_step_reads_and_writes_each_byte_once() {
    let rows = TOKENS * WIDTH * 2;
    let shape = AddRmsNormShape { rows: TOKENS, width: WIDTH, float: Float::BF16, epsilon: 1e-6 };
    let launch = add_rms_norm::launch(shape, CORES).unwrap();
    let report = cost(&launch, &[rows, rows, WIDTH * 2, rows, rows].map(zeros));
    // The weight once a core; what is written is not read again.
    assert_eq!(report.gm_to_ub, (2 * rows + launch.blocks as usize * WIDTH * 2) as u64);
    assert_eq!(report.ub_to_gm, 2 * rows as u64);

    let gating = GatingShape {
        tokens: TOKENS,
        experts: EXPERTS,
        k: K,
        groups: 8,
        kept_groups: 4,
        sigmoid: true,
        has_bias: true,
        renormalise: true,
        factor: 2.5,
        float: Float::F32,
    };
    let choices = TOKENS * K * 4;
    let launch = gating::launch(gating, CORES).unwrap();
    let report = cost(&launch, &[TOKENS * EXPERTS * 4, EXPERTS * 4, choices, choices].map(zeros));
    assert_eq!(report.gm_to_ub, ((TOKENS + launch.blocks as usize) * EXPERTS * 4) as u64);
    assert_eq!(report.ub_to_gm, 2 * choices as u64);
    let softmax = GatingShape { groups: 1, kept_groups: 1, sigmoid: false, has_bias: false, factor: 1.0, ..gating };
    cost(&gating::launch(softmax, CORES).unwrap(), &[TOKENS * EXPERTS * 4, choices, choices].map(zeros));

    let shape = PermuteShape { tokens: TOKENS, k: K, experts: EXPERTS, width: WIDTH, float: Float::BF16 };
    let launch = permute::launch(shape, CORES).unwrap();
    let report = cost(&launch, &[zeros(rows), counted(), zeros(K * rows), zeros(choices), zeros(EXPERTS * 8)]);
    // A row is read once for its eight places; choices are read to count and to move; every core reads all counts.
    let counts = launch.workspace as usize;
    assert_eq!(report.gm_to_ub, (rows + 2 * choices + launch.blocks as usize * counts) as u64);
    assert_eq!(report.ub_to_gm, (K * rows + choices + EXPERTS * 8 + counts) as u64);

    let shape = UnpermuteShape { tokens: TOKENS, k: K, width: WIDTH, float: Float::BF16 };
    let launch = unpermute::launch(shape, CORES).unwrap();
    let report = cost(&launch, &[zeros(K * rows), counted(), zeros(choices), zeros(rows)]);
    assert_eq!(report.ub_to_gm, rows as u64);
    // Each core reads the places and weights of its tokens, and no two cores share more than the one at their border.
    let shared = (launch.blocks as usize + TOKENS) * K * 8;
    assert!(report.gm_to_ub <= (K * rows + shared) as u64, "{} of {}", report.gm_to_ub, K * rows);

    // Qwen3-30B-A3B's heads, as DeepSeek's attention has no heads of keys.
    let shape = RotaryCacheShape {
        batch: TOKENS,
        tokens: 1,
        heads: 32,
        kv_heads: 4,
        width: 128,
        capacity: 128,
        table_width: 128,
        apart: false,
        norm: Some(1e-6),
        float: Float::BF16,
    };
    let launch = rotary_cache::launch(shape, CORES).unwrap();
    let (head, cache) = (128 * 2, TOKENS * 4 * 128 * 128 * 2);
    let report = cost(
        &launch,
        &[TOKENS * 40 * head, head, head, TOKENS * 8, head, head, TOKENS * 32 * head, cache, cache].map(zeros),
    );
    assert_eq!(report.ub_to_gm, (TOKENS * 40 * head) as u64);
}
