//! Modelled times of the operators at the shapes of large models, from what their sources do on the twin.
//!
//! A shape may be more than a host can run in reasonable time. Then a part of it runs that stands for the rest: a few
//! blocks with their share of the memory's rate, whose time is that of the whole when every block has as much to do.

use crate::Launch;
use crate::flash::Strides;
use crate::flash_attention::{self, FlashAttentionShape};
use crate::grouped_matmul::{self, GroupedMatmulShape};
use crate::mla_decode::{self, MlaShape};
use crate::paged::PagedShape;
use crate::paged_decode;
use crate::plan::Float;
use crate::twin::{Error, Library, Memory, Report, Soc};

/// Cube cores of the chip, and the elements that one multiplies in a cycle.
const CORES: usize = 20;
const PRODUCTS: f64 = 4096.0;

/// One operator at one shape.
#[derive(Debug)]
pub struct Case {
    pub kernel: &'static str,
    pub shape: &'static str,
    /// What ran in its place.
    pub part: &'static str,
    /// How many times the work of the part the whole is, and the blocks that the part runs on.
    pub times: f64,
    pub blocks: usize,
    /// Products and bytes of device memory that the whole cannot do without.
    pub products: f64,
    pub bytes: f64,
    run: fn(blocks: usize, sharing: u32) -> Result<Report, Error>,
}

/// What a case comes to on Ascend910B3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Microseconds, without starting the launch.
    pub modelled: f64,
    /// Microseconds that the chip needs at least, and the unit that does.
    pub bound: f64,
    pub bound_by: &'static str,
    /// The unit that is busy longest, and the part of the time that it is.
    pub limited_by: &'static str,
    pub busy: f64,
}

impl Case {
    /// Runs the part on the twin.
    ///
    /// # Errors
    /// A broken rule of the kernel, or a shape that it does not take.
    pub fn outcome(&self) -> Result<Outcome, Error> {
        let soc = Soc::ASCEND_910B3;
        let microseconds = |cycles: f64| cycles / soc.frequency_mhz;
        let cube = microseconds(self.products / (PRODUCTS * CORES as f64));
        let memory = microseconds(self.bytes / soc.hbm);
        let (bound, bound_by) = if cube > memory { (cube, "cube") } else { (memory, "memory") };
        // Every block of the whole has as much to do as one of the part.
        let scale = self.times * self.blocks as f64 / CORES as f64;
        let mut report = (self.run)(self.blocks, 0)?;
        if microseconds(report.cycles * scale) < memory {
            // The cores ask for more than the memory gives: each gets its share.
            report = (self.run)(self.blocks, CORES as u32)?;
        }
        let modelled = microseconds(report.cycles * scale).max(memory);
        let (limited_by, busy) = report.busiest();
        Ok(Outcome { modelled, bound, bound_by, limited_by, busy })
    }
}

/// Runs `launch` on a chip whose memory's rate `sharing` blocks share all the time.
fn run(launch: Result<Launch, String>, sharing: u32, memory: &mut Memory, tensors: &[u64]) -> Result<Report, Error> {
    let launch = launch.map_err(Error::Shape)?;
    let mut args = tensors.to_vec();
    args.push(memory.room(launch.workspace.max(1) as usize));
    args.push(memory.put(&launch.tiling));
    let soc = Soc { sharing, ..Soc::ASCEND_910B3 };
    Library::own()?.run(&soc, launch.kernel, launch.blocks, &args, memory)
}

/// A buffer of `count` bfloat16 numbers between -1 and 1.
fn numbers(memory: &mut Memory, count: usize) -> u64 {
    let mut state = 0x9E37_79B9u32;
    let values = (0..count).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        half::bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    });
    let values: Vec<_> = values.collect();
    memory.put(&values)
}

const PREFILL: usize = 4096;

/// One head of a causal prefill on one block.
fn prefill(blocks: usize, sharing: u32) -> Result<Report, Error> {
    let (width, mut memory) = (128, Memory::default());
    let strides = Strides { batch: PREFILL * width, head: PREFILL * width, row: width };
    let shape = FlashAttentionShape {
        batch: 1,
        heads: 1,
        key_heads: 1,
        queries: PREFILL,
        keys: PREFILL,
        width,
        value_width: width,
        strides: [strides; 4],
        ragged: false,
        causal: Some(0),
        scale: 0.088,
        float: Float::BF16,
    };
    let [q, k, v, y] = [(); 4].map(|()| numbers(&mut memory, PREFILL * width));
    let lengths = memory.put(&[0i64; 2]);
    run(flash_attention::launch(&shape, blocks), sharing, &mut memory, &[q, k, v, lengths, y])
}

/// Tokens of each sequence's cache, and of a block of it.
const CACHED: usize = 4096;
const PAGE: usize = 128;

/// One sequence, with all its heads, on one block.
fn decode(blocks: usize, sharing: u32) -> Result<Report, Error> {
    let (heads, key_heads, width, pages, mut memory) = (32, 8, 128, CACHED / PAGE, Memory::default());
    let strides = Strides::of([key_heads, PAGE, width]);
    let shape = PagedShape {
        batch: 1,
        heads,
        key_heads,
        width,
        value_width: width,
        blocks: pages,
        block_size: PAGE,
        table_width: pages,
        longest: CACHED,
        q: [heads * width, width],
        y: [heads * width, width],
        k: strides,
        v: strides,
        scale: 0.088,
    };
    let [q, y] = [(); 2].map(|()| numbers(&mut memory, heads * width));
    let [k, v] = [(); 2].map(|()| numbers(&mut memory, CACHED * key_heads * width));
    let table = memory.put(&(0..pages as u32).collect::<Vec<_>>());
    let lengths = memory.put(&[CACHED as u32]);
    let launch = paged_decode::launch(&shape, Float::BF16, blocks);
    run(launch, sharing, &mut memory, &[q, k, v, table, lengths, y])
}

/// One sequence with 128 heads on one block.
fn latent(blocks: usize, sharing: u32) -> Result<Report, Error> {
    let (heads, width, latent, pages, mut memory) = (128, 576, 512, CACHED / PAGE, Memory::default());
    let shape = MlaShape {
        batch: 1,
        heads,
        width,
        latent,
        blocks: pages,
        block_size: PAGE,
        table_width: pages,
        longest: CACHED,
        scale: 0.042,
    };
    let q = numbers(&mut memory, heads * width);
    let cache = numbers(&mut memory, CACHED * width);
    let table = memory.put(&(0..pages as u32).collect::<Vec<_>>());
    let lengths = memory.put(&[CACHED as u32]);
    let y = memory.room(heads * latent * 2);
    let launch = mla_decode::launch(&shape, Float::BF16, blocks);
    run(launch, sharing, &mut memory, &[q, cache, table, lengths, y])
}

const HIDDEN: usize = 7168;
const INNER: usize = 2048;

/// `rows` rows of one expert through `columns` columns of gate and up, or of down.
fn experts(sizes: [usize; 3], swiglu: bool, blocks: usize, sharing: u32) -> Result<Report, Error> {
    let [rows, inner, columns] = sizes;
    let mut memory = Memory::default();
    let shape = GroupedMatmulShape { rows, inner, columns, experts: 1, float: Float::BF16, swiglu };
    let x = numbers(&mut memory, rows * inner);
    let weight = numbers(&mut memory, if swiglu { 2 } else { 1 } * columns * inner);
    let ends = memory.put(&[rows as i64]);
    let y = memory.room(rows * columns * 2);
    run(grouped_matmul::launch(shape, blocks), sharing, &mut memory, &[x, weight, ends, y])
}

/// Bytes and products of `experts` experts of `rows` rows each.
const fn grouped(experts: usize, rows: usize, inner: usize, columns: usize, halves: usize) -> (f64, f64) {
    let bytes = 2 * experts * (halves * columns * inner + rows * (inner + columns));
    (bytes as f64, (experts * rows * inner * columns * halves) as f64)
}

/// The operators, at 4096 tokens and at the shapes of DeepSeek-V3 with sixteen experts on a chip.
pub fn cases() -> Vec<Case> {
    const HEADS: f64 = 32.0;
    let pairs = (PREFILL * (PREFILL + 1) / 2) as f64;
    let attention = Case {
        kernel: "flash_attention",
        shape: "prefill of 4096, 32 heads on 8, width 128, causal",
        part: "one head on one block",
        times: HEADS,
        blocks: 1,
        products: HEADS * pairs * 256.0,
        bytes: (PREFILL * 128 * 2) as f64 * (2.0 * HEADS + 16.0),
        run: prefill,
    };
    const SEQUENCES: f64 = 32.0;
    let tokens = SEQUENCES * CACHED as f64;
    let paged = Case {
        kernel: "paged_decode",
        shape: "decode of 32 sequences of 4096, 32 heads on 8, width 128",
        part: "one sequence on one block",
        times: SEQUENCES,
        blocks: 1,
        products: tokens * HEADS * 256.0,
        bytes: tokens * 8.0 * 256.0 * 2.0,
        run: decode,
    };
    let absorbed = Case {
        kernel: "mla_decode",
        shape: "decode of 32 sequences of 4096, 128 heads, latent 512 + 64",
        part: "one sequence on one block",
        times: SEQUENCES,
        blocks: 1,
        products: tokens * 128.0 * (576.0 + 512.0),
        bytes: tokens * 576.0 * 2.0,
        run: latent,
    };
    let (few_bytes, few_products) = grouped(16, 8, HIDDEN, INNER, 2);
    let few = Case {
        kernel: "grouped_matmul_swiglu",
        shape: "decode: 16 experts of 8 rows, 7168 to 2 x 2048",
        part: "512 columns of one expert on 4 blocks",
        times: 16.0 * 4.0,
        blocks: 4,
        products: few_products,
        bytes: few_bytes,
        run: |blocks, sharing| experts([8, HIDDEN, 512], true, blocks, sharing),
    };
    let (many_bytes, many_products) = grouped(16, 512, HIDDEN, INNER, 2);
    let many = Case {
        kernel: "grouped_matmul_swiglu",
        shape: "prefill: 16 experts of 512 rows, 7168 to 2 x 2048",
        part: "256 columns of one expert on 2 blocks",
        times: 16.0 * 8.0,
        blocks: 2,
        products: many_products,
        bytes: many_bytes,
        run: |blocks, sharing| experts([512, HIDDEN, 256], true, blocks, sharing),
    };
    let (down_bytes, down_products) = grouped(16, 512, INNER, HIDDEN, 1);
    let down = Case {
        kernel: "grouped_matmul",
        shape: "prefill: 16 experts of 512 rows, 2048 to 7168",
        part: "1024 columns of one expert on 4 blocks",
        times: 16.0 * 7.0,
        blocks: 4,
        products: down_products,
        bytes: down_bytes,
        run: |blocks, sharing| experts([512, INNER, 1024], false, blocks, sharing),
    };
    vec![attention, paged, absorbed, few, many, down]
}
