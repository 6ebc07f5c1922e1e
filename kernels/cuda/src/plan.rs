//! What a kernel is told: the structures that `cu/` declares, and the grid of each launch. Apart from launching, so that
//! the same plans run on the host in the tests.

/// One launch: entry point, blocks, and threads a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub entry: String,
    pub grid: [u32; 3],
    pub threads: u32,
}

/// Threads of a block that has a row: enough to hide the memory's latency, few enough that short rows waste little.
const ROW_THREADS: u32 = 256;

/// A block for each of `rows` rows.
pub fn by_row(entry: &str, suffix: &str, rows: usize) -> Launch {
    Launch { entry: format!("{entry}_{suffix}"), grid: [blocks(rows), 1, 1], threads: ROW_THREADS }
}

/// A thread for each of `count` elements.
pub fn by_element(entry: &str, suffix: &str, count: usize) -> Launch {
    by_row(entry, suffix, count.div_ceil(ROW_THREADS as usize))
}

/// A grid's first dimension takes 2³¹−1 blocks, more than any tensor that fits a GPU has rows.
fn blocks(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// `Rows` of `cu/rows.cu`: where the rows `[B, H, S, D]` of a view lie, in elements.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rows {
    pub heads: usize,
    pub positions: usize,
    pub width: usize,
    pub batch_stride: usize,
    pub head_stride: usize,
    pub position_stride: usize,
    pub table_batch_stride: usize,
    pub table_stride: usize,
}

/// `Problem` of `cu/attention.cu`; strides are those of batch, head and position, in elements.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Problem {
    pub heads: usize,
    pub groups: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub value_width: usize,
    pub q_stride: [usize; 3],
    pub k_stride: [usize; 3],
    pub v_stride: [usize; 3],
    /// Query `i` sees the keys up to `i + offset`; `keys` when it sees all.
    pub offset: usize,
    pub scale: f32,
}

/// Widths of heads that the attention kernels are compiled for.
const WIDTHS: [usize; 3] = [64, 128, 256];
/// From this many queries on, a tile of keys in shared memory pays.
const TILED_FROM: usize = 8;

/// The kernel for `batch` sequences of this problem; none when its heads are wider than any is compiled for.
pub fn attention(problem: &Problem, batch: usize, suffix: &str) -> Option<Launch> {
    let width = *WIDTHS.iter().find(|&&width| width >= problem.width.max(problem.value_width))?;
    if problem.queries < TILED_FROM {
        let grid = [blocks(batch * problem.heads * problem.queries), 1, 1];
        return Some(Launch { entry: format!("attend_few_{width}_{suffix}"), grid, threads: 8 * 32 });
    }
    // Four warps of as many queries as shared memory holds beside a tile of 32 keys.
    let queries_a_block = 4 * (512 / width);
    let grid = [blocks(problem.queries.div_ceil(queries_a_block)), blocks(problem.heads), blocks(batch)];
    Some(Launch { entry: format!("attend_tile_{width}_{suffix}"), grid, threads: 4 * 32 })
}

/// `Gate` of `cu/moe.cu`: how router logits become weights.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Gate {
    pub experts: usize,
    pub chosen: usize,
    /// Experts can be chosen of the `kept` best of `groups` groups alone.
    pub groups: usize,
    pub kept: usize,
    /// One for a sigmoid an expert, zero for a softmax over all.
    pub sigmoid: i32,
    /// One where the weights of the chosen add up to one before they are multiplied by `factor`.
    pub renormalise: i32,
    pub factor: f32,
}

/// Experts that a block has room for.
const MOST_EXPERTS: usize = 1024;

/// The choice of experts for `rows` rows; none when there are more experts than a block has room for.
pub fn route(gate: &Gate, rows: usize) -> Option<Launch> {
    (gate.experts <= MOST_EXPERTS).then(|| by_row("route", "f32", rows))
}

/// The grouping of `copies` of rows by expert: a block for each expert, and one for what names none. Each looks at the whole list.
pub fn group(experts: usize, copies: usize) -> Launch {
    Launch { threads: if copies < 4096 { ROW_THREADS } else { 1024 }, ..by_row("group", "u32", experts + 1) }
}

/// `Grouped` of `cu/grouped.cu`: rows `[R, I]` times matrices `[E, O, I]`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Grouped {
    pub rows: usize,
    pub inner: usize,
    pub outputs: usize,
    pub experts: usize,
}

/// The product of each group of rows with its expert's matrix; none for more tiles than a grid has. How many rows an expert has
/// only the GPU knows: tiles are as high as suits the average.
pub fn grouped_linear(size: &Grouped, suffix: &str) -> Option<Launch> {
    // From so many rows on, a tile of them in shared memory pays; tensor cores, which multiply 16-bit elements, sooner.
    let many = if suffix == "f32" { 16 } else { 8 };
    let (entry, height, width, threads) = match size.rows / size.experts.max(1) {
        average if average < many => ("grouped_few", 4, 32, ROW_THREADS),
        average if average < 96 => ("grouped_many_64", 64, 128, 128),
        _ => ("grouped_many_128", 128, 128, 128),
    };
    // Most tiles there are where as many groups as can be have a row in a tile of its own. Rows that nobody has are a group as well.
    let groups = size.rows.min(size.experts + 1);
    let tiles = ((size.rows - groups) / height + groups).checked_mul(size.outputs.div_ceil(width))?;
    // The kernels count rows, columns and tiles in 32 bits, and four rows' elements.
    let fits = tiles < 1 << 31 && size.rows < 1 << 31 && size.inner < 1 << 30 && size.outputs < 1 << 31;
    fits.then(|| Launch { entry: format!("{entry}_{suffix}"), grid: [blocks(tiles), 1, 1], threads })
}

/// `Paged` of `cu/paged.cu`: queries `[B, H, D]`, keys `[N, G, P, D]` and values `[N, G, P, E]` in N blocks of P tokens; strides are those of
/// block, head and token, in elements.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Paged {
    pub heads: usize,
    pub groups: usize,
    pub width: usize,
    pub value_width: usize,
    pub blocks: usize,
    pub block_size: usize,
    /// Blocks that a row of the table names.
    pub table_width: usize,
    pub k_stride: [usize; 3],
    pub v_stride: [usize; 3],
    /// Into how many parts each sequence's keys are split; see [`parts`].
    pub parts: usize,
    /// One where values are the first columns of the keys.
    pub latent: i32,
    pub scale: f32,
}

/// Widths of keys and values that the paged kernels are compiled for, and the query heads that a block of each takes together in F32: as
/// many as leave a thread's numbers in registers.
const PAGED: [(usize, usize); 5] = [(64, 8), (128, 8), (192, 4), (256, 4), (576, 2)];

/// How the paged kernels of a type share out the work; `cu/paged.cu` has the same numbers.
struct Sharing {
    /// Query heads that a block takes together, if not as many as [`PAGED`] says: the rows of a tile on tensor cores.
    together: Option<usize>,
    threads: u32,
    /// Blocks that a multiprocessor holds at a time.
    resident: usize,
    /// Keys below which a part is not worth its launch: the kernels make none smaller.
    least_keys: usize,
}

impl Sharing {
    fn of(suffix: &str) -> Self {
        match suffix {
            "f32" => Self { together: None, threads: ROW_THREADS, resident: 2, least_keys: 64 },
            _ => Self { together: Some(16), threads: 4 * 32, resident: 3, least_keys: 128 },
        }
    }
}

/// Blocks of threads for each part of every sequence, and the width that they are compiled for.
fn paged_tasks(problem: &Paged, batch: usize, suffix: &str) -> Option<(usize, usize)> {
    let &(width, plain) = PAGED.iter().find(|(width, _)| *width >= problem.width.max(problem.value_width))?;
    let together = Sharing::of(suffix).together.unwrap_or(plain);
    Some((batch * problem.groups * (problem.heads / problem.groups).div_ceil(together), width))
}

/// Parts of each sequence, so that few sequences use all of a GPU's `multiprocessors`; no more than run at a time, since the last would have the
/// GPU for themselves. How long a sequence is only the GPU knows: it shares its keys out over the parts.
pub fn parts(problem: &Paged, batch: usize, multiprocessors: usize, suffix: &str) -> usize {
    let tasks = paged_tasks(problem, batch, suffix).map_or(1, |(tasks, _)| tasks.max(1));
    let (sharing, longest) = (Sharing::of(suffix), problem.table_width * problem.block_size);
    (sharing.resident * multiprocessors / tasks).min(longest.div_ceil(sharing.least_keys)).max(1)
}

/// The kernel for `batch` sequences of this problem; none when its heads are wider than any is compiled for.
pub fn paged(problem: &Paged, batch: usize, suffix: &str) -> Option<Launch> {
    let (tasks, width) = paged_tasks(problem, batch, suffix)?;
    let grid = [blocks(tasks), blocks(problem.parts), 1];
    Some(Launch { entry: format!("attend_paged_{width}_{suffix}"), grid, threads: Sharing::of(suffix).threads })
}
