use crate::arguments::*;
use crate::support::*;

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|v| v.exp()).sum();
    x.iter().map(|v| v - sum.ln()).collect()
}

#[test]
fn softmax_and_its_logarithm_along_any_dimension() {
    for (dtype, tolerance) in [(F32, 2e-7), (F16, 5e-4), (BF16, 4e-3), (F64, 1e-14)] {
        let x = array(dtype, &[2, 3, 4], &noise(1, 24));
        let v = x.values();
        for (dim, stride, size) in [(0i64, 12, 2), (1, 4, 3), (-1, 1, 4)] {
            let (soft, log) = (output(dtype, &[2, 3, 4]), output(dtype, &[2, 3, 4]));
            run!(Softmax(&x, dim, &soft)).unwrap();
            run!(LogSoftmax(&x, dim, &log)).unwrap();
            let wanted: Vec<f64> = (0..24)
                .map(|i| {
                    let first = i - i / stride % size * stride;
                    log_softmax(&(0..size).map(|j| v[first + j * stride]).collect::<Vec<_>>())[i / stride % size]
                })
                .collect();
            close(&log.values(), &wanted, tolerance);
            close(&soft.values(), &wanted.iter().map(|v| v.exp()).collect::<Vec<_>>(), tolerance);
        }
    }
    // Large values do not overflow, and a row of minus infinity has no softmax.
    let (x, out) = (array(F32, &[2, 2], &[1e4, 1e4, f64::NEG_INFINITY, f64::NEG_INFINITY]), output(F32, &[2, 2]));
    run!(Softmax(&x, 1i64, &out)).unwrap();
    close(&out.values(), &[0.5, 0.5, f64::NAN, f64::NAN], 0.0);
    refused(run!(Softmax(&x, 2i64, &out)), 161002, &["dimension 2"]);
    refused(run!(Softmax(&array(I32, &[2, 2], &[0.0; 4]), 1i64, &out)), 161002, &["INT32"]);
}

#[test]
fn gradients_of_softmax() {
    let (y, g) = (array(F32, &[2, 3], &[0.2, 0.3, 0.5, 0.1, 0.1, 0.8]), array(F32, &[2, 3], &noise(1, 6)));
    let out = output(F32, &[2, 3]);
    run!(SoftmaxBackward(&g, &y, -1i64, &out)).unwrap();
    let (gv, yv) = (g.values(), y.values());
    let sum = |row: usize| -> f64 { (0..3).map(|i| gv[row * 3 + i] * yv[row * 3 + i]).sum() };
    close(&out.values(), &(0..6).map(|i| (gv[i] - sum(i / 3)) * yv[i]).collect::<Vec<_>>(), 1e-6);
    let logs = array(F32, &[2, 3], &yv.iter().map(|v| v.ln()).collect::<Vec<_>>());
    run!(LogSoftmaxBackward(&g, &logs, 1i64, &out)).unwrap();
    let total = |row: usize| -> f64 { gv[row * 3..][..3].iter().sum() };
    close(&out.values(), &(0..6).map(|i| gv[i] - total(i / 3) * yv[i]).collect::<Vec<_>>(), 1e-6);
}

#[test]
fn cross_entropy_and_its_gradient() {
    let (x, labels, weights) = (noise(1, 20), [3.0, -100.0, 0.0, 4.0], [1.0, 2.0, 0.5, 3.0, 0.25]);
    for reduction in ["none", "mean", "sum"] {
        for weighted in [true, false] {
            let w = |c: usize| if weighted { weights[c] } else { 1.0 };
            let each: Vec<f64> = (0..4)
                .map(|n| {
                    if n == 1 {
                        0.0
                    } else {
                        -w(labels[n] as usize) * log_softmax(&x[n * 5..][..5])[labels[n] as usize]
                    }
                })
                .collect();
            let total: f64 = [0, 2, 3].iter().map(|&n: &usize| w(labels[n] as usize)).sum();
            let wanted = match reduction {
                "none" => each.clone(),
                "mean" => vec![each.iter().sum::<f64>() / total],
                _ => vec![each.iter().sum()],
            };
            let (input, target, weight) =
                (array(F32, &[4, 5], &x), array(I64, &[4], &labels), array(F32, &[5], &weights));
            let given = if weighted { weight.handle.cast_const() } else { std::ptr::null() };
            let (loss, logs, unused) =
                (output(F32, &[wanted.len()]), output(F32, &[4, 5]), output(F32, &[wanted.len()]));
            let name = text(reduction);
            run!(CrossEntropyLoss(
                &input,
                &target,
                Raw(given),
                &name,
                -100i64,
                0.0,
                0.0,
                false,
                &loss,
                &logs,
                &unused,
                &output(F32, &[4])
            ))
            .unwrap();
            close(&loss.values(), &wanted, 1e-6);
            close(&logs.values(), &x.chunks(5).flat_map(log_softmax).collect::<Vec<_>>(), 1e-6);

            let grads = if reduction == "none" { vec![0.5, 1.0, 2.0, -1.0] } else { vec![2.0] };
            let shape: &[usize] = if reduction == "none" { &[4] } else { &[] };
            let (grad, dx) = (array(F32, shape, &grads), output(F32, &[4, 5]));
            run!(CrossEntropyLossGrad(
                &grad,
                &logs,
                &target,
                Raw(given),
                Nothing,
                Nothing,
                &name,
                -100i64,
                0.0,
                0.0,
                &dx
            ))
            .unwrap();
            let slope = |i: usize| {
                let (n, c) = (i / 5, i % 5);
                let scale = match reduction {
                    "none" => grads[n],
                    "mean" => grads[0] / total,
                    _ => grads[0],
                };
                if n == 1 {
                    0.0
                } else {
                    (log_softmax(&x[n * 5..][..5])[c].exp() - (c == labels[n] as usize) as u8 as f64)
                        * w(labels[n] as usize)
                        * scale
                }
            };
            close(&dx.values(), &(0..20).map(slope).collect::<Vec<_>>(), 1e-6);
        }
    }
    let (input, target) = (array(F32, &[1, 5], &x[..5]), array(I64, &[1], &[5.0]));
    let (one, logs) = (output(F32, &[1]), output(F32, &[1, 5]));
    let outside = run!(CrossEntropyLoss(
        &input,
        &target,
        Nothing,
        &text("mean"),
        -100i64,
        0.0,
        0.0,
        false,
        &one,
        &logs,
        Nothing,
        Nothing
    ));
    refused(outside, 507015, &["target holds 5"]);
    let wrong = run!(CrossEntropyLoss(
        &input,
        &target,
        Nothing,
        &text("max"),
        -100i64,
        0.0,
        0.0,
        false,
        &one,
        &logs,
        Nothing,
        Nothing
    ));
    refused(wrong, 561002, &["max"]);
}

#[test]
fn likelihood_squares_and_divergence() {
    let (x, target, weight) = (
        array(F32, &[3, 4], &noise(1, 12)),
        array(I64, &[3], &[1.0, 3.0, 0.0]),
        array(F32, &[4], &[1.0, 2.0, 3.0, 4.0]),
    );
    let v = x.values();
    let each = [-2.0 * v[1], -4.0 * v[7], -v[8]];
    let (out, total, none) = (output(F32, &[1]), output(F32, &[1]), output(F32, &[3]));
    run!(NLLLoss(&x, &target, &weight, 1i64, -100i64, &out, &total)).unwrap();
    close(&out.values(), &[each.iter().sum::<f64>() / 7.0], 1e-6);
    assert_eq!(total.values(), [7.0]);
    run!(NLLLoss(&x, &target, &weight, 0i64, 3i64, &none, &total)).unwrap();
    close(&none.values(), &[each[0], 0.0, each[2]], 1e-6);
    let dx = output(F32, &[3, 4]);
    run!(NLLLossBackward(
        &array(F32, &[1], &[0.5]),
        &x,
        &target,
        &weight,
        1i64,
        -100i64,
        &array(F32, &[1], &[7.0]),
        &dx
    ))
    .unwrap();
    let mut wanted = [0.0; 12];
    (wanted[1], wanted[7], wanted[8]) = (-1.0 / 7.0, -2.0 / 7.0, -0.5 / 7.0);
    close(&dx.values(), &wanted, 1e-6);
    refused(run!(NLLLoss(&x, &target, &weight, 3i64, 0i64, &out, &total)), 161002, &["reduction is 3"]);

    let (a, b, scalar) = (array(F32, &[2, 2], &[1.0, 2.0, 3.0, 4.0]), array(F32, &[2], &[0.0, 1.0]), output(F32, &[]));
    run!(MseLoss(&a, &b, 1i64, &scalar)).unwrap();
    assert_eq!(scalar.values(), [(1.0 + 1.0 + 9.0 + 9.0) / 4.0]);
    let slopes = output(F32, &[2, 2]);
    run!(MseLossBackward(&array(F32, &[1], &[3.0]), &a, &b, 1i64, &slopes)).unwrap();
    assert_eq!(slopes.values(), [1.5, 1.5, 4.5, 4.5]);
    let (p, q, one) =
        (array(F32, &[2, 2], &noise(1, 4)), array(F32, &[2, 2], &[0.25, 0.75, 0.5, 0.5]), output(F32, &[1]));
    run!(KlDiv(&p, &q, 3i64, false, &one)).unwrap();
    let (pv, qv) = (p.values(), q.values());
    close(&one.values(), &[(0..4).map(|i| qv[i] * (qv[i].ln() - pv[i])).sum::<f64>() / 2.0], 1e-6);
}
