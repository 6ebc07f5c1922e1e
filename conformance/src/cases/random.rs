//! Random rows: what every right answer has in common, and masks, whose use is not random.
//!
//! Averages must lie within six standard errors of what the distribution says. A right operator falls outside once in
//! five hundred million seeds; the seeds here are fixed.

use super::FLOATS;
use super::index::build;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

type Verdict = Result<(), String>;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.push(normal(dtype));
        all.extend(dropouts(dtype));
        all.extend(masks(dtype));
    }
    for dtype in [F32, F16, BF16, I32, I64] {
        all.push(uniform(dtype));
        all.push(integers(dtype));
        all.push(bernoulli(dtype));
    }
    all.extend(multinomials());
    all.extend(generated());
    for dtype in [I64, I32, F32] {
        all.push(permutation(dtype));
    }
    all
}

fn wanted(condition: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if condition { Ok(()) } else { Err(otherwise()) }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The average of `values` is `expected`, give or take six standard errors of numbers with standard deviation `spread`.
fn averages(what: &str, values: &[f64], expected: f64, spread: f64) -> Verdict {
    let (got, room) = (mean(values), 6.0 * spread / (values.len() as f64).sqrt());
    wanted((got - expected).abs() <= room, || format!("{what} is {got:.4}, wanted {expected:.4} ± {room:.4}"))
}

/// Share of `values` for which `f` holds.
fn share(what: &str, values: &[f64], f: impl Fn(f64) -> bool, expected: f64) -> Verdict {
    let holds: Vec<f64> = values.iter().map(|&v| f(v) as u8 as f64).collect();
    averages(&format!("share {what}"), &holds, expected, (expected * (1.0 - expected)).sqrt())
}

/// Neighbouring numbers of mean 0 and variance 1 have nothing to do with each other.
fn unrelated(values: impl Iterator<Item = f64>) -> Verdict {
    let values: Vec<f64> = values.collect();
    let products: Vec<f64> = values.windows(2).map(|pair| pair[0] * pair[1]).collect();
    averages("correlation of neighbours", &products, 0.0, 1.0)
}

fn filled(dtype: DType) -> Arg {
    Arg::Ref(Spec::new(dtype, [48, 129]))
}

fn normal(dtype: DType) -> Case {
    let (centre, deviation) = (1.5, 2.0);
    let args = vec![filled(dtype), Arg::Float(centre), Arg::Float(deviation), Arg::Int(7), Arg::Int(4)];
    Case::property("InplaceNormal", args, move |_, out| {
        let values = &out[0].data;
        let squares: Vec<f64> = values.iter().map(|v| ((v - centre) / deviation).powi(2)).collect();
        averages("mean", values, centre, deviation)?;
        // The square of a standard normal number has variance 2.
        averages("variance", &squares, 1.0, 2f64.sqrt())?;
        share("within one deviation", values, |v| (v - centre).abs() <= deviation, 0.6827)?;
        share("within two deviations", values, |v| (v - centre).abs() <= 2.0 * deviation, 0.9545)?;
        unrelated(values.iter().map(|v| (v - centre) / deviation))
    })
}

fn uniform(dtype: DType) -> Case {
    let (from, to) = (-3.0, 13.0);
    let args = vec![filled(dtype), Arg::Float(from), Arg::Float(to), Arg::Int(11), Arg::Int(8)];
    Case::property("InplaceUniform", args, move |_, out| {
        let values = &out[0].data;
        if let Some(outside) = values.iter().find(|&&v| !(from..to).contains(&v)) {
            return Err(format!("{outside} is outside of [{from}, {to})"));
        }
        if !dtype.is_float() {
            // Which of the ends whole numbers round to, the page does not say.
            return wanted(values.iter().all(|v| v.fract() == 0.0), || "a number is not whole".into());
        }
        let deviation = (to - from) / 12f64.sqrt();
        averages("mean", values, (from + to) / 2.0, deviation)?;
        for quarter in 1..4 {
            let edge = from + (to - from) * quarter as f64 / 4.0;
            share(&format!("below {edge}"), values, |v| v < edge, quarter as f64 / 4.0)?;
        }
        unrelated(values.iter().map(|v| (v - (from + to) / 2.0) / deviation))
    })
}

fn integers(dtype: DType) -> Case {
    let (from, to) = (-5, 12);
    let args = vec![filled(dtype), Arg::Int(from), Arg::Int(to), Arg::Int(5), Arg::Int(0)];
    Case::property("InplaceRandom", args, move |_, out| {
        let values = &out[0].data;
        if let Some(odd) = values.iter().find(|v| v.fract() != 0.0 || !(from as f64..to as f64).contains(v)) {
            return Err(format!("{odd} is no whole number of [{from}, {})", to));
        }
        (from..to).try_for_each(|n| share(&format!("of {n}"), values, |v| v == n as f64, 1.0 / (to - from) as f64))
    })
}

fn bernoulli(dtype: DType) -> Case {
    let p = 0.3;
    let args = vec![filled(dtype), Arg::Scalar(F32, p), Arg::Int(3), Arg::Int(8)];
    Case::property("InplaceBernoulli", args, move |_, out| {
        let values = &out[0].data;
        wanted(values.iter().all(|&v| v == 0.0 || v == 1.0), || "a number is neither 0 nor 1".into())?;
        share("of ones", values, |v| v == 1.0, p)?;
        unrelated(values.iter().map(|v| (v - p) / (p * (1.0 - p)).sqrt()))
    })
}

fn multinomials() -> Vec<Case> {
    let weights = vec![0.0, 1.0, 2.0, 5.0, 4.0, 0.0, 4.0, 8.0];
    let mut all = Vec::new();
    for dtype in [F32, F16, BF16] {
        let x = Arg::In(Spec::new(dtype, [2, 4]).fill(Fill::Values(weights.clone())));
        let args = vec![x, Arg::Int(4096), Arg::Bool(true), Arg::Int(9), Arg::Int(0), Arg::Out(I64, vec![2, 4096])];
        all.push(Case::property("Multinomial", args, |x, out| {
            for (weights, drawn) in x[0].data.chunks(4).zip(out[0].data.chunks(4096)) {
                let total: f64 = weights.iter().sum();
                for (class, weight) in weights.iter().enumerate() {
                    share(&format!("of class {class}"), drawn, |v| v == class as f64, weight / total)?;
                }
            }
            Ok(())
        }));
        // Every row draws all of its classes, each once; the first draw follows the weights.
        let rows = [1.0, 2.0, 5.0].repeat(512);
        let x = Arg::In(Spec::new(dtype, [512, 3]).fill(Fill::Values(rows)));
        let args = vec![x, Arg::Int(3), Arg::Bool(false), Arg::Int(9), Arg::Int(0), Arg::Out(I64, vec![512, 3])];
        all.push(Case::property("Multinomial", args, |_, out| {
            for row in out[0].data.chunks(3) {
                let mut classes = row.to_vec();
                classes.sort_by(f64::total_cmp);
                wanted(classes == [0.0, 1.0, 2.0], || format!("a row drew {row:?} without replacement"))?;
            }
            let first: Vec<f64> = out[0].data.iter().step_by(3).copied().collect();
            [1.0, 2.0, 5.0].iter().enumerate().try_for_each(|(class, weight)| {
                share(&format!("of class {class} drawn first"), &first, |v| v == class as f64, weight / 8.0)
            })
        }));
    }
    all
}

fn permutation(dtype: DType) -> Case {
    let n = 1000;
    let args = vec![Arg::Int(n), Arg::Int(13), Arg::Int(0), Arg::Out(dtype, vec![n as usize])];
    Case::property("Randperm", args, move |_, out| {
        let (mut values, size) = (out[0].data.clone(), n as f64);
        // Of a random order, the number at a place has nothing to do with the place.
        let related =
            values.iter().enumerate().map(|(i, v)| (i as f64 - (size - 1.0) / 2.0) * (v - (size - 1.0) / 2.0));
        let related: Vec<f64> = related.map(|product| product * 12.0 / (size * size)).collect();
        averages("correlation of numbers and places", &related, 0.0, 1.0)?;
        values.sort_by(f64::total_cmp);
        wanted(values.iter().enumerate().all(|(i, &v)| v == i as f64), || format!("not the numbers below {n}"))
    })
}

/// Bytes of a mask with a bit for each element: the bits fill up 128.
fn mask_bytes(elements: usize) -> usize {
    elements.next_multiple_of(128) / 8
}

/// Bit `i` of a mask, the lowest of a byte first.
fn bit(mask: &Array, i: usize) -> bool {
    mask.data[i / 8] as u8 >> (i % 8) & 1 == 1
}

fn keeps(mask: &Array, elements: usize, p: f64) -> Verdict {
    let kept: Vec<f64> = (0..elements).map(|i| bit(mask, i) as u8 as f64).collect();
    share("of elements kept", &kept, |v| v == 1.0, 1.0 - p)?;
    unrelated(kept.iter().map(|v| (v - (1.0 - p)) / (p * (1.0 - p)).sqrt()))
}

fn dropouts(dtype: DType) -> Vec<Case> {
    let p = 0.25;
    // No zero among the elements, so that a zero was dropped.
    let x = || Arg::In(Spec::new(dtype, [30, 101]).fill(Fill::Uniform(0.5, 2.0)));
    let args = |train, mask| {
        vec![x(), Arg::Float(p), Arg::Bool(train), Arg::Int(17), Arg::Int(0), Arg::Out(dtype, vec![30, 101]), mask]
    };
    let training = Case::property("Dropout", args(true, Arg::Out(U8, vec![mask_bytes(3030)])), move |x, out| {
        keeps(&out[1], 3030, p)?;
        for (i, (&input, &output)) in x[0].data.iter().zip(&out[0].data).enumerate() {
            let expected = if bit(&out[1], i) { input / (1.0 - p) } else { 0.0 };
            // The factor is rounded to f32, and then the product to the tensor's type.
            let near = (output - expected).abs() <= 2.0 * dtype.epsilon() * expected;
            wanted(near, || format!("element {i}: got {output}, wanted {expected} by the mask"))?;
        }
        Ok(())
    });
    // Outside of training the mask stays as it was.
    let mask = Arg::Ref(Spec::new(U8, [mask_bytes(3030)]));
    let otherwise = Case::new("Dropout", args(false, mask), |x| vec![x[0].clone(), x[1].clone()]).exact();
    vec![training, otherwise]
}

fn generated() -> Vec<Case> {
    let mut all = Vec::new();
    for p in [0.1, 0.5] {
        let args = |kind: Option<DType>| {
            let mut args = vec![Arg::Ints(vec![30, 101]), Arg::Float(p), Arg::Int(19), Arg::Int(0)];
            args.extend(kind.map(Arg::DType));
            args.push(Arg::Out(U8, vec![mask_bytes(3030)]));
            args
        };
        all.push(Case::property("DropoutGenMask", args(None), move |_, out| keeps(&out[0], 3030, p)));
        for kind in [F32, F16, BF16] {
            let row =
                Case::property("DropoutGenMaskV2", args(Some(kind)), move |_, out| keeps(&out[0], 3030, kind.round(p)));
            all.push(row);
        }
    }
    all
}

/// Applying a mask that is given.
fn masks(dtype: DType) -> Vec<Case> {
    let elements = 5 * 61;
    let x = || Arg::In(Spec::new(dtype, [5, 61]));
    let mask = || Arg::In(Spec::new(U8, [mask_bytes(elements)]).fill(Fill::Integers(0, 256)));
    let out = || Arg::Out(dtype, vec![5, 61]);
    let scaled = move |x: &[Array], scale: f64| {
        vec![build(dtype, &[5, 61], |at| if bit(&x[1], at[0] * 61 + at[1]) { x[0].at(at) * scale } else { 0.0 })]
    };
    let mut all = Vec::new();
    for (prob, scale) in [(0.25, 4.0 / 3.0), (1.0, 0.0)] {
        let args = vec![x(), mask(), Arg::Float(prob), out()];
        // The factor is rounded to f32 before the product is.
        all.push(Case::new("DropoutDoMask", args, move |x| scaled(x, scale)).within(2.0, 0.1));
    }
    let args = vec![x(), mask(), Arg::Float(0.0), out()];
    all.push(Case::new("DropoutDoMask", args, |x| vec![x[0].clone()]).exact());
    for scale in [1.25, 0.0] {
        let args = vec![x(), mask(), Arg::Float(scale), out()];
        all.push(Case::new("DropoutBackward", args, move |x| scaled(x, scale)));
    }
    all
}
