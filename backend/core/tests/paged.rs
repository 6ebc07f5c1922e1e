//! Attention over blocks of a pool against plain loops in F64: on every device, by its own kernel where it has one and
//! decomposed.

mod operands;

use candle_ascend::ops::{self, Kernels, paged_attention, with_kernels};
use candle_ascend::{DType, Device, Result, Tensor};
use operands::{devices, rng};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// What names no block of any pool.
const NOWHERE: u32 = u32::MAX;

/// Sequences of these lengths, and their heads.
#[derive(Clone, Copy, Debug)]
struct Case {
    lengths: &'static [usize],
    heads: usize,
    groups: usize,
    /// Of keys and of values.
    widths: [usize; 2],
    block_size: usize,
    /// Values are the first columns of the keys.
    latent: bool,
}

const CASE: Case =
    Case { lengths: &[37, 0, 16, 1], heads: 4, groups: 2, widths: [64, 64], block_size: 16, latent: false };

/// The first is longer than a GPU gives one part of the keys.
const CASES: [Case; 4] = [
    Case { lengths: &[300, 40], ..CASE },
    Case { heads: 5, groups: 1, widths: [48, 80], block_size: 32, ..CASE },
    Case { heads: 3, groups: 3, widths: [192, 128], block_size: 128, ..CASE },
    Case { heads: 6, groups: 1, widths: [576, 512], lengths: &[19, 70], latent: true, ..CASE },
];

/// Operands on the host: queries, keys, values, and the table and lengths.
struct Operands {
    floats: [Tensor; 3],
    table: Tensor,
    lengths: Tensor,
    scale: f64,
}

/// Numbers below 2 where `filled`, and 100 elsewhere, so that it shows in the result where one too many is read.
fn numbers(rng: &mut StdRng, dims: [usize; 4], dtype: DType, filled: impl Fn(usize, usize) -> bool) -> Result<Tensor> {
    let [_, groups, size, width] = dims;
    let value = |at: usize| match filled(at / (groups * size * width), at / width % size) {
        true => rng.random_range(-2f64..2.),
        false => 100.,
    };
    Tensor::from_vec((0..dims.iter().product()).map(value).collect(), &dims, &Device::Cpu)?.to_dtype(dtype)
}

impl Operands {
    /// Blocks in no order, one more in the table than a sequence needs, and one in the pool that nobody has.
    fn new(case: Case, dtype: DType) -> Result<Self> {
        let Case { lengths, heads, groups, widths: [width, value_width], block_size, latent } = case;
        let mut rng = rng(7);
        let used = |length: usize| length.div_ceil(block_size);
        let entries = lengths.iter().map(|&length| used(length)).max().unwrap_or(0) + 1;
        let mut free: Vec<u32> = (0..1 + lengths.iter().map(|&length| used(length)).sum::<usize>() as u32).collect();
        let blocks = free.len();
        free.shuffle(&mut rng);
        // How many rows of a block some sequence has.
        let (mut table, mut rows) = (Vec::new(), vec![0; blocks]);
        for &length in lengths {
            let own: Vec<u32> = free.split_off(free.len() - used(length));
            own.iter()
                .enumerate()
                .for_each(|(i, &block)| rows[block as usize] = (length - i * block_size).min(block_size));
            table.extend(own.iter().copied().chain(std::iter::repeat(NOWHERE)).take(entries));
        }
        let filled = |block: usize, row: usize| row < rows[block];
        let q = numbers(&mut rng, [lengths.len(), heads, 1, width], dtype, |_, _| true)?.squeeze(2)?;
        let keys = numbers(&mut rng, [blocks, groups, block_size, width], dtype, filled)?;
        let values = match latent {
            true => keys.narrow(3, 0, value_width)?,
            false => numbers(&mut rng, [blocks, groups, block_size, value_width], dtype, filled)?,
        };
        let tokens = lengths.iter().map(|&length| length as u32).collect();
        Ok(Self {
            floats: [q, keys, values],
            table: Tensor::from_vec(table, (lengths.len(), entries), &Device::Cpu)?,
            lengths: Tensor::from_vec(tokens, lengths.len(), &Device::Cpu)?,
            scale: 0.7 / (width as f64).sqrt(),
        })
    }

    /// The operator on `device`; the table and the lengths go there first, or stay on the host.
    fn run(&self, device: &Device, table_on_device: bool) -> Result<Vec<f64>> {
        let [q, keys, values] = &self.floats;
        let there = |x: &Tensor| x.to_device(device);
        let (on_device, columns) = (there(keys)?, values.dim(3)?);
        // Latent values are columns of the very tensor that holds the keys.
        let values = if values.same_storage(keys) { on_device.narrow(3, 0, columns)? } else { there(values)? };
        let (table, lengths) = match table_on_device {
            true => (there(&self.table)?, there(&self.lengths)?),
            false => (self.table.clone(), self.lengths.clone()),
        };
        let out = paged_attention(&there(q)?, &on_device, &values, &table, &lengths, self.scale)?;
        assert_eq!((out.dtype(), out.dims()), (q.dtype(), &[q.dim(0)?, q.dim(1)?, columns][..]));
        out.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
    }

    /// The definition, of the operands as their type holds them.
    fn wanted(&self) -> Result<Vec<f64>> {
        let [q, keys, values] = self.floats.each_ref().map(|x| x.to_dtype(DType::F64).expect("widened"));
        let ((batch, heads, width), (_, groups, size, _), columns) = (q.dims3()?, keys.dims4()?, values.dim(3)?);
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f64>();
        let (q, k, v) = (flat(&q)?, flat(&keys)?, flat(&values)?);
        let (table, lengths): (Vec<Vec<u32>>, Vec<u32>) = (self.table.to_vec2()?, self.lengths.to_vec1()?);
        let mut out = Vec::new();
        for at in 0..batch * heads {
            let (sequence, head) = (at / heads, at % heads);
            let row = |token: usize| {
                (table[sequence][token / size] as usize * groups + head / (heads / groups)) * size + token % size
            };
            let query = &q[at * width..][..width];
            let score = |token: usize| query.iter().zip(&k[row(token) * width..]).map(|(a, b)| a * b).sum::<f64>();
            let tokens = lengths[sequence] as usize;
            let weights: Vec<f64> = (0..tokens).map(|token| (score(token) * self.scale).exp()).collect();
            let total = if tokens == 0 { 1. } else { weights.iter().sum::<f64>() };
            let sum = |e: usize| weights.iter().enumerate().map(|(t, w)| w * v[row(t) * columns + e]).sum::<f64>();
            out.extend((0..columns).map(|e| sum(e) / total));
        }
        Ok(out)
    }
}

/// A rounding of the result and of the weights, of numbers below 2; in F32 the order of sums over hundreds of products.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 2e-5,
    }
}

#[track_caller]
fn assert_near(what: &str, got: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let near = (got - wanted).abs() <= tolerance || (got.is_nan() && wanted.is_nan());
        assert!(near, "{what}: element {i} is {got}, wanted {wanted}");
    }
}

#[test]
fn sequences_attend_to_their_blocks() -> Result<()> {
    for case in CASES {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let operands = Operands::new(case, dtype)?;
            let wanted = operands.wanted()?;
            for device in devices() {
                for table_on_device in [true, false] {
                    let what = format!("{case:?} {dtype:?} on {}, its table there: {table_on_device}", device.kind());
                    assert_near(&what, &operands.run(&device, table_on_device)?, &wanted, tolerance(dtype));
                }
                let plain = ops::decomposed(|| operands.run(&device, true))?;
                assert_near(
                    &format!("{case:?} {dtype:?} on {}, plain", device.kind()),
                    &plain,
                    &wanted,
                    tolerance(dtype),
                );
            }
        }
    }
    Ok(())
}

/// Said by the host, which has the table: nothing is launched.
#[test]
fn tables_that_point_nowhere_are_refused() -> Result<()> {
    let good = Operands::new(CASE, DType::F16)?;
    let with = |table: Vec<u32>, lengths: Vec<u32>| -> Result<Operands> {
        let table = Tensor::from_vec(table, (lengths.len(), 4), &Device::Cpu)?;
        let lengths = Tensor::from_vec(lengths, 4, &Device::Cpu)?;
        Ok(Operands { floats: good.floats.clone(), table, lengths, scale: 1. })
    };
    let blocks = good.floats[1].dim(0)? as u32;
    let table: Vec<u32> = good.table.flatten_all()?.to_vec1()?;
    let mut outside = table.clone();
    outside[2] = blocks;
    let cases = [
        (with(outside, vec![37, 0, 16, 1])?, format!("block 2 of sequence 0 is {blocks}, and the pool has {blocks}")),
        (with(table, vec![37, 0, 65, 1])?, "sequence 2 has 65 tokens and only 4 blocks".into()),
    ];
    devices();
    let sim = Device::new_sim("", 6)?;
    let Device::Npu(npu) = &sim else { panic!("no NPU") };
    for (operands, said) in cases {
        for device in devices().iter().chain([&sim]) {
            for kernels in [Kernels::Aclnn, Kernels::Ours, Kernels::Plain] {
                let error = with_kernels(kernels, || operands.run(device, false)).expect_err(&said).to_string();
                assert!(error.contains(&said), "{error}, wanted {said}");
            }
        }
    }
    assert_eq!(npu.counters().launches, 0);
    Ok(())
}

/// A kernel that meets an entry which no host has seen reads nothing there: our Ascend C one, and that of a GPU.
#[test]
fn a_sequence_of_a_block_that_is_none_becomes_no_number() -> Result<()> {
    let mut operands = Operands::new(CASE, DType::F16)?;
    let mut wanted = operands.wanted()?;
    let (row, mut table): (usize, Vec<u32>) = (CASE.heads * CASE.widths[1], operands.table.flatten_all()?.to_vec1()?);
    wanted[..row].fill(f64::NAN);
    table[1] = operands.floats[1].dim(0)? as u32;
    operands.table = Tensor::from_vec(table, operands.table.dims(), &Device::Cpu)?;
    for device in devices().iter().filter(|device| !device.is_cpu()) {
        let got = with_kernels(Kernels::Ours, || operands.run(device, true))?;
        assert_near(&format!("on {}", device.kind()), &got, &wanted, tolerance(DType::F16));
    }
    Ok(())
}

#[test]
fn misfits_are_refused_with_words() -> Result<()> {
    let [q, keys, values] = Operands::new(CASE, DType::F32)?.floats;
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu);
    let (table, lengths) = (zeros(&[4, 2], DType::U32)?, zeros(&[4], DType::U32)?);
    let refused = [
        (paged_attention(&q, &keys, &values.narrow(2, 0, 8)?, &table, &lengths, 1.), "wanted [B, H, D]"),
        (paged_attention(&q.narrow(1, 0, 3)?, &keys, &values, &table, &lengths, 1.), "H a multiple of G"),
        (paged_attention(&q, &keys.narrow(2, 0, 0)?, &values.narrow(2, 0, 0)?, &table, &lengths, 1.), "do not fit"),
        (paged_attention(&q, &keys, &values, &table.narrow(0, 0, 3)?, &lengths, 1.), "[B, W]"),
        (paged_attention(&q, &keys, &values, &table.to_dtype(DType::I64)?, &lengths, 1.), "wanted U32"),
        (paged_attention(&q, &keys.to_dtype(DType::F16)?, &values, &table, &lengths, 1.), "dtype mismatch"),
    ];
    for (result, said) in refused {
        let error = result.expect_err(said).to_string();
        assert!(error.contains(said), "{error}, wanted {said}");
    }
    Ok(())
}
