use crate::arguments::*;
use crate::support::*;

/// The rotation as the page writes it: `x·cos + rotate(x)·sin`, by element.
fn turned(x: &[f64], cos: &[f64], sin: &[f64], mode: i64) -> Vec<f64> {
    let d = x.len();
    let (source, rotated): (Vec<f64>, Vec<f64>) = match mode {
        0 => (x.to_vec(), (0..d).map(|i| if i < d / 2 { -x[i + d / 2] } else { x[i - d / 2] }).collect()),
        1 => (x.to_vec(), (0..d).map(|i| if i % 2 == 0 { -x[i + 1] } else { x[i - 1] }).collect()),
        2 => (x.to_vec(), (0..d).map(|i| if i % (d / 2) < d / 4 { -x[i + d / 4] } else { x[i - d / 4] }).collect()),
        _ => {
            let (even, odd): (Vec<f64>, Vec<f64>) = x.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
            ([&even[..], &odd[..]].concat(), odd.iter().map(|v| -v).chain(even.iter().copied()).collect())
        }
    };
    (0..d).map(|i| source[i] * cos[i] + rotated[i] * sin[i]).collect()
}

#[test]
fn every_mode_of_every_type() {
    // One rounding; in f32 two products and a sum.
    for (dtype, tolerance) in [(F32, 1e-6), (F16, 6e-4), (BF16, 4.5e-3)] {
        for mode in 0..4 {
            let (x, cos, sin) = (
                array(dtype, &[2, 3, 2, 8], &noise(1, 96)),
                array(dtype, &[1, 3, 1, 8], &noise(2, 24)),
                array(dtype, &[1, 3, 1, 8], &noise(3, 24)),
            );
            let out = output(dtype, &[2, 3, 2, 8]);
            run!(RotaryPositionEmbedding(&x, &cos, &sin, mode, &out)).unwrap();
            let (v, c, s) = (x.values(), cos.values(), sin.values());
            let wanted: Vec<f64> = (0..12)
                .flat_map(|head| {
                    let token = head / 2 % 3;
                    turned(&v[head * 8..][..8], &c[token * 8..][..8], &s[token * 8..][..8], mode)
                })
                .collect();
            close(&out.values(), &wanted, tolerance);
        }
    }
    let (x, cos) = (array(F32, &[2, 3, 2, 8], &noise(1, 96)), array(F32, &[1, 2, 1, 8], &noise(2, 16)));
    let out = output(F32, &[2, 3, 2, 8]);
    refused(run!(RotaryPositionEmbedding(&x, &cos, &cos, 0i64, &out)), 561002, &["[1, 2, 1, 8]"]);
    refused(run!(RotaryPositionEmbedding(&x, &x, &x, 4i64, &out)), 561002, &["mode is 4"]);
    refused(
        run!(RotaryPositionEmbedding(&x, &array(F16, &[1, 1, 1, 8], &[0.0; 8]), &x, 0i64, &out)),
        161002,
        &["cos is FLOAT16"],
    );
}

#[test]
fn queries_and_keys_are_turned_in_place() {
    let (cos, sin) = (array(BF16, &[1, 2, 1, 128], &noise(3, 256)), array(BF16, &[1, 2, 1, 128], &noise(4, 256)));
    for (name, mode) in [("half", 0), ("interleave", 1), ("quarter", 2)] {
        let (query, key) = (array(BF16, &[1, 2, 3, 128], &noise(1, 768)), array(BF16, &[1, 2, 1, 128], &noise(2, 256)));
        let (q, k, c, s) = (query.values(), key.values(), cos.values(), sin.values());
        run!(ApplyRotaryPosEmbV2(&query, &key, &cos, &sin, 1i64, &text(name))).unwrap();
        let turn = |x: &[f64], heads: usize| -> Vec<f64> {
            let one =
                |(i, x): (usize, &[f64])| turned(x, &c[i / heads * 128..][..128], &s[i / heads * 128..][..128], mode);
            x.chunks(128).enumerate().flat_map(one).collect()
        };
        close(&query.values(), &turn(&q, 3), 4.5e-3);
        close(&key.values(), &turn(&k, 1), 4.5e-3);
    }
    let short = array(BF16, &[1, 2, 1, 64], &noise(1, 128));
    refused(run!(ApplyRotaryPosEmb(&short, &short, &short, &short, 1i64)), 161002, &["64", "128"]);
    refused(run!(ApplyRotaryPosEmb(&cos, &cos, &cos, &sin, 3i64)), 161002, &["layout is 3"]);
    refused(run!(ApplyRotaryPosEmbV2(&cos, &cos, &cos, &sin, 1i64, &text("whole"))), 161002, &["whole"]);
}
