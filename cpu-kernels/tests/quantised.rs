//! Products with quantised weights: every form against the plain one, and all against candle, which reads and multiplies
//! the same blocks with code of its own.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use npu_cpu_kernels::quantised::{Error, Form, Format, Matrix};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::borrow::Cow;
use std::io::Write;

fn candle_type(format: Format) -> GgmlDType {
    match format {
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q5_1 => GgmlDType::Q5_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q4K => GgmlDType::Q4K,
        Format::Q5K => GgmlDType::Q5K,
        Format::Q6K => GgmlDType::Q6K,
    }
}

/// Random blocks: every bit is random but those of the scales, which are finite halves of ordinary size.
fn blocks(random: &mut StdRng, format: Format, rows: usize, columns: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; rows * columns / format.block() * format.bytes()];
    random.fill(&mut bytes[..]);
    let halves: &[usize] = match format {
        Format::Q6K => &[208],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        _ => &[0, 2],
    };
    for block in bytes.chunks_mut(format.bytes()) {
        for at in halves {
            let scale = half::f16::from_f32(random.random_range(-0.02f32..0.02));
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn tensor(format: Format, rows: usize, columns: usize, bytes: &[u8]) -> QTensor {
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, candle_type(format)).expect("blocks");
    QTensor::new(storage, (rows, columns)).expect("a tensor")
}

fn matrix(format: Format, rows: usize, columns: usize, bytes: &[u8]) -> Matrix {
    let mut matrix = Matrix::new(columns);
    matrix.push(format, rows, bytes, &|row| row).expect("a matrix");
    matrix
}

fn values(random: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.random_range(-1f32..1.0)).collect()
}

fn multiply(matrix: &Matrix, form: Form, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / matrix.columns() * matrix.rows()];
    matrix.multiply_by(form, x, &mut out);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Forms of this machine; the others are named, so that nobody takes them for tested.
fn forms() -> Vec<Form> {
    let (here, missing): (Vec<_>, Vec<_>) = Form::ALL.into_iter().partition(|form| form.is_available());
    if !missing.is_empty() {
        let _ = writeln!(std::io::stderr(), "not tested, as this machine lacks them: {missing:?}");
    }
    here
}

#[test]
fn rows_are_what_candle_reads() {
    for (seed, format) in Format::ALL.into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(seed as u64);
        let (rows, columns) = (19, 2 * 256);
        let bytes = blocks(&mut random, format, rows, columns);
        let wanted = tensor(format, rows, columns, &bytes).dequantize(&Device::Cpu).expect("numbers");
        let wanted: Vec<Vec<f32>> = wanted.to_vec2().expect("numbers");
        let matrix = matrix(format, rows, columns, &bytes);
        let mut got = vec![f32::NAN; columns];
        for (row, wanted) in wanted.iter().enumerate() {
            matrix.row(row, &mut got);
            // One multiplication and one addition may be fused or not: a bit of the larger term, at most 63·63·0.02 ≈ 80.
            let apart = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(apart <= 1e-5, "{format:?} row {row}: {apart}");
        }
    }
}

/// The forms keep the plain form's order of additions, so that they agree to the bit, whatever the number of rows.
#[test]
fn every_form_gives_the_bits_of_the_plain_one() {
    let forms = forms();
    for format in Format::ALL {
        for (seed, (rows, blocks_a_row, m)) in
            [(1, 1, 1), (16, 2, 4), (17, 3, 5), (33, 1, 9), (40, 5, 3)].into_iter().enumerate()
        {
            let mut random = StdRng::seed_from_u64(seed as u64);
            let columns = blocks_a_row * format.block();
            let matrix = matrix(format, rows, columns, &blocks(&mut random, format, rows, columns));
            let x = values(&mut random, m * columns);
            let wanted = multiply(&matrix, Form::Plain, &x);
            for form in &forms {
                let got = multiply(&matrix, *form, &x);
                assert_eq!(bits(&got), bits(&wanted), "{format:?} {form:?} {rows}x{columns}, {m} rows, seed {seed}");
            }
            let apart: Vec<f32> = x.chunks(columns).flat_map(|x| multiply(&matrix, Form::Plain, x)).collect();
            assert_eq!(bits(&apart), bits(&wanted), "{format:?}: rows one by one");
        }
    }
}

/// Extreme integers on both sides: what a 16-bit sum of pairs would not hold.
#[test]
fn extremes_do_not_saturate() {
    for format in Format::ALL {
        let columns = format.block();
        let mut bytes = vec![0u8; 16 * format.bytes()];
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            bytes.fill(byte);
            for block in bytes.chunks_mut(format.bytes()) {
                let halves: &[usize] = if format == Format::Q6K { &[208] } else { &[0, 2] };
                for at in &halves[..if format.bytes() == 18 || format.bytes() == 22 || format.bytes() == 34 {
                    1
                } else {
                    halves.len()
                }] {
                    block[*at..at + 2].copy_from_slice(&half::f16::from_f32(1.0).to_le_bytes());
                }
            }
            let matrix = matrix(format, 16, columns, &bytes);
            for sign in [1f32, -1.0] {
                let x = vec![sign; columns];
                let wanted = multiply(&matrix, Form::Plain, &x);
                let mut row = vec![0f32; columns];
                matrix.row(0, &mut row);
                // 1 is 127 steps of 1/127, so that the product is the row's sum but for roundings.
                let sum: f64 = row.iter().map(|value| f64::from(sign * value)).sum();
                let size: f64 = row.iter().map(|value| f64::from(value.abs())).sum();
                assert!((f64::from(wanted[0]) - sum).abs() <= 1e-5 * size, "{format:?} {byte:#x}: {} {sum}", wanted[0]);
                for form in forms() {
                    assert_eq!(
                        bits(&multiply(&matrix, form, &x)),
                        bits(&wanted),
                        "{format:?} {form:?} {byte:#x} {sign}"
                    );
                }
            }
        }
    }
}

/// The product against numbers that candle reads from the blocks, summed in F64.
#[test]
fn products_are_the_dequantised_ones_within_the_inputs_rounding() {
    for (seed, format) in Format::ALL.into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(100 + seed as u64);
        let (rows, columns, m) = (37, 3 * 256, 3);
        let bytes = blocks(&mut random, format, rows, columns);
        let oracle = tensor(format, rows, columns, &bytes);
        let weights: Vec<Vec<f32>> = oracle.dequantize(&Device::Cpu).and_then(|w| w.to_vec2()).expect("numbers");
        let x = values(&mut random, m * columns);
        let got = multiply(&matrix(format, rows, columns, &bytes), Form::best(), &x);
        let input = Tensor::from_slice(&x, (m, columns), &Device::Cpu).expect("input");
        let theirs = QMatMul::from_qtensor(oracle).and_then(|w| w.forward(&input)).expect("candle's product");
        let theirs: Vec<f32> = theirs.flatten_all().and_then(|y| y.to_vec1()).expect("numbers");
        let (mut ours_off, mut theirs_off) = (0f64, 0f64);
        for (i, x) in x.chunks(columns).enumerate() {
            for (j, row) in weights.iter().enumerate() {
                let exact: f64 = x.iter().zip(row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                // Each input is off by at most half a step, max|x| / 254; independent errors add up like their squares, and
                // six deviations of a uniform error of that size are never seen.
                let squares: f64 = row.iter().map(|w| f64::from(*w).powi(2)).sum();
                let bound = 6.0 * (1.0 / 254.0) / 3f64.sqrt() * squares.sqrt() + 1e-4;
                let off = (f64::from(got[i * rows + j]) - exact).abs();
                assert!(off <= bound, "{format:?} [{i}, {j}]: off by {off}, bound {bound}, seed {}", 100 + seed);
                ours_off += off;
                theirs_off += (f64::from(theirs[i * rows + j]) - exact).abs();
            }
        }
        // candle rounds its input as ggml does: at least as coarsely.
        assert!(ours_off <= 1.1 * theirs_off, "{format:?}: mean error {ours_off}, candle's {theirs_off}");
    }
}

#[test]
fn parts_of_several_formats_stand_one_below_the_other() {
    let mut random = StdRng::seed_from_u64(7);
    let columns = 256;
    let parts = [(Format::Q5_0, 20), (Format::Q8_0, 3), (Format::Q6K, 33), (Format::Q4K, 16)];
    let x = values(&mut random, 6 * columns);
    let mut all = Matrix::new(columns);
    let mut apart: Vec<Vec<f32>> = Vec::new();
    for (format, rows) in parts {
        let bytes = blocks(&mut random, format, rows, columns);
        // Rows in reverse, as one that reorders them would.
        all.push(format, rows, &bytes, &|row| rows - 1 - row).expect("a part");
        let straight = multiply(&matrix(format, rows, columns, &bytes), Form::Plain, &x);
        apart.push(straight.chunks(rows).flat_map(|row| row.iter().rev().copied()).collect());
    }
    let got = multiply(&all, Form::best(), &x);
    for m in 0..6 {
        let wanted: Vec<f32> =
            apart.iter().zip(parts).flat_map(|(y, (_, rows))| y[m * rows..(m + 1) * rows].to_vec()).collect();
        assert_eq!(bits(&got[m * all.rows()..(m + 1) * all.rows()]), bits(&wanted));
    }
}

#[test]
fn inputs_that_are_no_numbers_give_none() {
    let mut random = StdRng::seed_from_u64(9);
    let matrix = matrix(Format::Q8_0, 16, 64, &blocks(&mut random, Format::Q8_0, 16, 64));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = values(&mut random, 64);
        x[40] = bad;
        for form in forms() {
            assert!(multiply(&matrix, form, &x).iter().all(|y| y.is_nan()), "{form:?} {bad}");
        }
    }
    for tiny in [0.0, 1e-40, -1e-38] {
        assert_eq!(multiply(&matrix, Form::best(), &[tiny; 64]), [0.0; 16], "{tiny}");
    }
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let mut narrow = Matrix::new(96);
    let error = narrow.push(Format::Q4K, 1, &[0; 144], &|row| row).expect_err("refused");
    assert!(matches!(error, Error::Columns { .. }));
    assert_eq!(error.to_string(), "96 columns are not a multiple of 256, the block of Q4K");
    let error = narrow.push(Format::Q8_0, 2, &[0; 203], &|row| row).expect_err("refused");
    assert_eq!(error.to_string(), "2 rows of 96 columns in Q8_0 take 204 bytes, got 203");
    assert_eq!(narrow.rows(), 0);
}
