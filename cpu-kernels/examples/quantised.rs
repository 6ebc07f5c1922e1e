//! How fast each format's product is, by form: nanoseconds and gigabytes of weights a second, for one row of input and for
//! a row of 128. The matrices are those of the Qwen2-0.5B shape's feed-forward part, so many that no cache holds them.
//!
//! `cargo run --release -p npu-cpu-kernels --example quantised`

use npu_cpu_kernels::quantised::{Form, Format, Matrix};
use std::time::Instant;

const ROWS: usize = 4864;
const COLUMNS: usize = 1024;
/// Matrices that are multiplied one after the other.
const COUNT: usize = 24;

fn main() {
    for format in Format::ALL {
        let bytes = vec![0x51u8; ROWS * COLUMNS / format.block() * format.bytes()];
        let matrix = || {
            let mut matrix = Matrix::new(COLUMNS);
            matrix.push(format, ROWS, &bytes, &|row| row).map(|()| matrix)
        };
        let matrices: Vec<Matrix> = (0..COUNT).map(|_| matrix().expect("blocks")).collect();
        for form in Form::ALL.into_iter().filter(|form| form.is_available() && *form != Form::Plain) {
            let mut line = format!("{format:?} {form:?}:");
            for m in [1, 128] {
                let x = vec![0.5f32; m * COLUMNS];
                let mut y = vec![0f32; m * ROWS];
                let mut times: Vec<f64> = (0..if m == 1 { 15 } else { 3 })
                    .map(|_| {
                        let start = Instant::now();
                        matrices.iter().for_each(|matrix| matrix.multiply_by(form, &x, &mut y));
                        start.elapsed().as_secs_f64() / COUNT as f64
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                let time = times[times.len() / 2];
                let (bytes, work) = (matrices[0].bytes() as f64, (m * ROWS * COLUMNS) as f64);
                line += &match m {
                    1 => format!(" {:.0} us, {:.1} GB/s;", time * 1e6, bytes / time / 1e9),
                    _ => format!(" {m} rows {:.0} us, {:.0} G multiplications/s", time * 1e6, work / time / 1e9),
                };
            }
            println!("{line}");
        }
    }
}
