use crate::support::*;

fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let draw = |seed: i64, offset: i64| {
        let out = output(F32, &[100]);
        run!(InplaceNormal(&out, 0f32, 1f32, seed, offset)).unwrap();
        out.values()
    };
    assert_eq!(draw(1, 0), draw(1, 0));
    assert_ne!(draw(1, 0), draw(2, 0));
    assert_ne!(draw(1, 0), draw(1, 4));
}

#[test]
fn distributions_have_their_moments() {
    // With 40,000 draws a mean strays by 0.005 standard deviations; the bounds are six times that.
    let count = 40_000;
    let out = output(F32, &[count]);
    run!(InplaceNormal(&out, 3f32, 2f32, 5i64, 0i64)).unwrap();
    let (mean, variance) = moments(&out.values());
    assert!((mean - 3.0).abs() < 0.06 && (variance - 4.0).abs() < 0.17, "{mean} {variance}");
    run!(InplaceUniform(&out, -1f64, 3f64, 5u64, 0u64)).unwrap();
    let (mean, variance) = moments(&out.values());
    assert!((mean - 1.0).abs() < 0.035 && (variance - 16.0 / 12.0).abs() < 0.04, "{mean} {variance}");
    assert!(out.values().iter().all(|&x| (-1.0..3.0).contains(&x)));
    let whole = output(I32, &[count]);
    run!(InplaceRandom(&whole, -2i64, 3i64, 5i64, 0i64)).unwrap();
    for value in -2..3 {
        let share = whole.values().iter().filter(|&&x| x == value as f64).count() as f64 / count as f64;
        assert!((share - 0.2).abs() < 0.012, "{value}: {share}");
    }
    run!(InplaceBernoulli(&out, &number(F32, 0.25), 9i64, 0i64)).unwrap();
    assert!((moments(&out.values()).0 - 0.25).abs() < 0.013);
}

#[test]
fn draws_follow_the_weights() {
    let weights = array(F32, &[2, 3], &[0.0, 1.0, 3.0, 5.0, 0.0, 0.0]);
    let out = output(I64, &[2, 20_000]);
    run!(Multinomial(&weights, 20_000i64, true, 3i64, 0i64, &out)).unwrap();
    let values = out.values();
    let share = values[..20_000].iter().filter(|&&x| x == 2.0).count() as f64 / 20_000.0;
    assert!((share - 0.75).abs() < 0.02 && !values[..20_000].contains(&0.0), "{share}");
    assert!(values[20_000..].iter().all(|&x| x == 0.0));
    let out = output(I64, &[2]);
    run!(Multinomial(&array(F16, &[3], &[0.5, 0.0, 0.5]), 2i64, false, 3i64, 0i64, &out)).unwrap();
    let mut pair = out.values();
    pair.sort_by(f64::total_cmp);
    assert_eq!(pair, [0.0, 2.0], "without replacement nothing is drawn twice");
    refused(
        run!(Multinomial(&array(F16, &[1], &[0.0]), 1i64, true, 3i64, 0i64, &output(I64, &[1]))),
        507015,
        &["weights"],
    );
}

#[test]
fn a_permutation_has_every_number() {
    let out = output(I64, &[50]);
    run!(Randperm(50i64, 1i64, 0i64, &out)).unwrap();
    let mut values = out.values();
    assert_ne!(values, (0..50).map(f64::from).collect::<Vec<_>>());
    values.sort_by(f64::total_cmp);
    assert_eq!(values, (0..50).map(f64::from).collect::<Vec<_>>());
}

#[test]
fn dropout_keeps_what_its_mask_says() {
    let x = array(F32, &[200], &[1.0; 200]);
    let (out, mask) = (output(F32, &[200]), output(U8, &[32]));
    run!(Dropout(&x, 0.5f64, true, 4i64, 0i64, &out, &mask)).unwrap();
    let bits = mask.values();
    let wanted: Vec<f64> = (0..200).map(|i| if bits[i / 8] as u8 >> (i % 8) & 1 == 1 { 2.0 } else { 0.0 }).collect();
    assert_eq!(out.values(), wanted);
    let kept = wanted.iter().filter(|&&x| x > 0.0).count();
    assert!((60..140).contains(&kept), "{kept}");
    let grad = output(F32, &[200]);
    run!(DropoutBackward(&x, &mask, 2f64, &grad)).unwrap();
    assert_eq!(grad.values(), wanted);
    run!(DropoutDoMask(&x, &mask, 0.5f64, &grad)).unwrap();
    assert_eq!(grad.values(), wanted);
    let again = output(U8, &[32]);
    run!(DropoutGenMask(&ints(&[20, 10]), 0.5f64, 4i64, 0i64, &again)).unwrap();
    assert_eq!(again.values(), bits);
    run!(DropoutGenMaskV2(&ints(&[200]), 1.0f64, 4i64, 0i64, F32, &again)).unwrap();
    assert_eq!(again.values(), [0.0; 32]);
    run!(Dropout(&x, 0.5f64, false, 4i64, 0i64, &out, &mask)).unwrap();
    assert_eq!(out.values(), [1.0; 200]);
}
