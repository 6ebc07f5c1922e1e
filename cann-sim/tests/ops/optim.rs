use crate::support::*;

/// One AdamW step of one number, in `f64`.
#[allow(clippy::too_many_arguments)]
fn adam(w: f64, m: f64, v: f64, g: f64, lr: f64, b1: f64, b2: f64, decay: f64, eps: f64, t: i32) -> (f64, f64, f64) {
    let (m, v) = (b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g * g);
    let (mh, vh) = (m / (1.0 - b1.powi(t)), v / (1.0 - b2.powi(t)));
    (w - lr * mh / (vh.sqrt() + eps) - lr * decay * w, m, v)
}

#[test]
fn both_adamw_steps_follow_the_formula() {
    let (lr, b1, b2, decay, eps) = (1e-2, 0.9, 0.99, 0.1, 1e-6);
    let (w, g) = (noise(1, 37), noise(2, 37));
    let tensors = || (array(F32, &[37], &w), array(F32, &[37], &vec![0.1; 37]), array(F32, &[37], &vec![0.2; 37]));
    let grad = array(F32, &[37], &g);
    let wanted: Vec<_> = (0..37).map(|i| adam(w[i], 0.1, 0.2, g[i], lr, b1, b2, decay, eps, 3)).collect();
    let check = |(w, m, v): (Array, Array, Array)| {
        // A handful of `f32` operations each.
        close(&w.values(), &wanted.iter().map(|x| x.0).collect::<Vec<_>>(), 2e-6);
        close(&m.values(), &wanted.iter().map(|x| x.1).collect::<Vec<_>>(), 2e-6);
        close(&v.values(), &wanted.iter().map(|x| x.2).collect::<Vec<_>>(), 2e-6);
    };
    let (p, m, v) = tensors();
    let step = array(I64, &[1], &[3.0]);
    run!(ApplyAdamWV2(
        &p,
        &m,
        &v,
        Nothing,
        &grad,
        &step,
        lr as f32,
        b1 as f32,
        b2 as f32,
        decay as f32,
        eps as f32,
        false,
        false
    ))
    .unwrap();
    check((p, m, v));
    let (p, m, v) = tensors();
    let one = |value: f64| array(F32, &[1], &[value]);
    let rates = [b1 * b1, b2 * b2, lr, decay, b1, b2, eps].map(one);
    let [r0, r1, r2, r3, r4, r5, r6] = &rates;
    run!(ApplyAdamW(&p, &m, &v, r0, r1, r2, r3, r4, r5, r6, &grad, Nothing, false, false)).unwrap();
    check((p, m, v));
    let (p, m, v) = tensors();
    let result = run!(ApplyAdamWV2(&p, &m, &v, Nothing, &grad, &step, 1f32, 0f32, 0f32, 0f32, 0f32, true, false));
    refused(result, 161002, &["amsgrad"]);
}

#[test]
fn lists_are_added_scaled_and_measured() {
    let (a, b) = (array(F32, &[2], &[3.0, 4.0]), array(F32, &[1], &[-2.0]));
    let (x, y) = (output(F32, &[2]), output(F32, &[1]));
    let (inputs, outputs) = (list(&[&a, &b]), list(&[&x, &y]));
    run!(ForeachAddScalar(&inputs, &array(F32, &[1], &[1.0]), &outputs)).unwrap();
    assert_eq!((x.values(), y.values()), (vec![4.0, 5.0], vec![-1.0]));
    run!(ForeachMulScalar(&inputs, &array(F32, &[1], &[0.5]), &outputs)).unwrap();
    assert_eq!((x.values(), y.values()), (vec![1.5, 2.0], vec![-1.0]));
    run!(ForeachMulScalarV2(&inputs, &number(F32, 2.0), &outputs)).unwrap();
    assert_eq!((x.values(), y.values()), (vec![6.0, 8.0], vec![-4.0]));
    run!(ForeachAddList(&inputs, &inputs, &array(F32, &[1], &[2.0]), &outputs)).unwrap();
    assert_eq!((x.values(), y.values()), (vec![9.0, 12.0], vec![-6.0]));
    let (m, n) = (output(F32, &[1]), output(F32, &[1]));
    run!(ForeachNorm(&inputs, &number(F32, 2.0), &list(&[&m, &n]))).unwrap();
    assert_eq!((m.values(), n.values()), (vec![5.0], vec![2.0]));
    refused(run!(ForeachMulScalarV2(&inputs, &number(I64, 2.0), &outputs)), 161002, &["INT64"]);
}
