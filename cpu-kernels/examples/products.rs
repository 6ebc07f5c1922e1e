//! How fast the product is at the shapes of a small model: `products [form]… [rows]…`, all forms where none is named; `wide` is
//! the product of many rows.

use half::{bf16, f16};
use npu_cpu_kernels::{Float, Form, Matrix, Rows, multiply_wide, product_by};
use std::time::Instant;

/// (outputs, inputs) of Qwen2-0.5B's layers.
const SHAPES: [(usize, usize); 5] = [(1152, 896), (896, 896), (9728, 896), (896, 4864), (151936, 896)];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rows: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let rows = if rows.is_empty() { vec![1, 4, 16, 128] } else { rows };
    let forms = Form::available();
    let named = |form: &Form| args.iter().any(|arg| format!("{form:?}").eq_ignore_ascii_case(arg));
    let all = !forms.iter().any(named) && !args.iter().any(|arg| arg == "wide");
    let mut wanted: Vec<Option<Form>> = forms.into_iter().filter(|form| all || named(form)).map(Some).collect();
    if all || args.iter().any(|arg| arg == "wide") {
        wanted.push(None);
    }
    for form in wanted {
        for &rows in &rows {
            row::<bf16>("bf16", form, rows);
            row::<f16>("f16", form, rows);
            row::<f32>("f32", form, rows);
        }
    }
}

fn row<T: Float>(name: &str, form: Option<Form>, rows: usize) {
    print!("{} {name} {rows} rows:", form.map_or("wide".into(), |form| format!("{form:?}")));
    for (outputs, inputs) in SHAPES {
        if outputs > 100_000 && rows > 16 {
            continue;
        }
        // Enough copies that no cache holds them: a model's layers are read one after the other.
        let copies = (200_000_000 / (outputs * inputs * size_of::<T>())).clamp(1, 24);
        let weights: Vec<T> = (0..copies * outputs * inputs).map(|i| T::round((i % 251) as f32 / 251. - 0.5)).collect();
        let x: Vec<T> = (0..rows * inputs).map(|i| T::round((i % 13) as f32 / 13. - 0.5)).collect();
        let mut y = vec![T::default(); rows * outputs];
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            for weight in weights.chunks_exact(outputs * inputs) {
                match form {
                    Some(form) => {
                        product_by(form, Rows::new(&x, rows, inputs), Rows::new(weight, outputs, inputs), None, &mut y)
                    }
                    None => {
                        multiply_wide(Matrix::rows(&x, rows, inputs), Matrix::rows(weight, outputs, inputs).t(), &mut y)
                    }
                }
            }
            times.push(start.elapsed().as_secs_f64() / copies as f64);
        }
        times.sort_by(f64::total_cmp);
        let time = times[2];
        let (bytes, operations) = (outputs * inputs * size_of::<T>(), 2 * rows * outputs * inputs);
        print!(
            "  {:.0} us {:.1} GB/s {:.0} Gop/s",
            time * 1e6,
            bytes as f64 / time / 1e9,
            operations as f64 / time / 1e9
        );
    }
    println!();
}
