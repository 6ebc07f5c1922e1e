//! Rotary position embedding.

use super::FLOATS;
use super::args::{given, out, t};
use crate::array::{Array, DType, indices};
use crate::case::{Arg, Case, Spec, View};
use candle_ascend::{Result, Tensor, ops};

/// Which elements of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Half,
    Interleave,
    Quarter,
    InterleaveHalf,
}

/// `head`, in the order of the output, and what the sine multiplies.
fn parts(head: &[f64], mode: Mode) -> (Vec<f64>, Vec<f64>) {
    let d = head.len();
    // The second half with its sign turned, then the first.
    let turned = |x: &[f64]| {
        let (first, second) = x.split_at(x.len() / 2);
        second.iter().map(|v| -v).chain(first.iter().copied()).collect::<Vec<_>>()
    };
    match mode {
        Mode::Half => (head.to_vec(), turned(head)),
        Mode::Quarter => (head.to_vec(), [turned(&head[..d / 2]), turned(&head[d / 2..])].concat()),
        Mode::Interleave => (head.to_vec(), head.chunks(2).flat_map(|pair| [-pair[1], pair[0]]).collect()),
        Mode::InterleaveHalf => {
            let gathered: Vec<f64> = head.iter().step_by(2).chain(head[1..].iter().step_by(2)).copied().collect();
            let rest = turned(&gathered);
            (gathered, rest)
        }
    }
}

/// `x` turned; `cos` and `sin` repeat along their dimensions of 1.
fn turned(x: &Array, cos: &Array, sin: &Array, mode: Mode) -> Array {
    let d = *x.shape.last().expect("a head is a dimension");
    let mut heads = x.data.chunks(d).map(|head| parts(head, mode));
    let mut data = Vec::with_capacity(x.data.len());
    for mut at in indices(&x.shape[..x.rank() - 1]) {
        let (plain, rest) = heads.next().expect("a head for each index");
        at.push(0);
        for i in 0..d {
            at[x.rank() - 1] = i;
            data.push(plain[i] * cos.at(&at) + rest[i] * sin.at(&at));
        }
    }
    Array::new(x.dtype, x.shape.clone(), data)
}

/// Products of numbers below 2 by a cosine and a sine, which a device may round to the type before it adds them.
fn rounded_twice(case: Case, mode: Mode) -> Case {
    let label = format!("{mode:?} {}", case.label);
    Case { label, ..case.within(4.0, 1.0) }
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(single(dtype));
        all.extend(pairs(dtype));
        all.extend(
            [(0, Mode::Half), (3, Mode::Interleave), (4, Mode::Half)].map(|(norm, mode)| with_norm(dtype, norm, mode)),
        );
    }
    all
}

/// Queries and keys of two sequences normed (by 3 without a weight, by 4 with one, by 0 not) and turned in their first positions,
/// values along with them, and all three brought to heads in front of tokens.
fn with_norm(dtype: DType, norm: i64, mode: Mode) -> Case {
    const EPS: f64 = 1e-6;
    let (batch, tokens, turned_tokens, width) = (2, 4, 3, 10);
    let heads = [3, 2, 2];
    let affine = norm == 4;
    let of = |n: usize| Spec::new(dtype, [batch, tokens, n, width]).view(View::Window);
    let mut args: Vec<Arg> = heads.iter().map(|&n| Arg::In(of(n))).collect();
    args.extend(vec![Arg::Null; 3]);
    for _ in 0..2 {
        args.extend([if affine { t(dtype, &[width]) } else { Arg::Null }, Arg::Null]);
    }
    args.extend(vec![Arg::Null; 4]);
    args.extend([t(dtype, &[turned_tokens, width]), t(dtype, &[turned_tokens, width])]);
    let rope = if mode == Mode::Half { 2 } else { 1 };
    args.extend([Arg::Int(norm), Arg::Int(0), Arg::Int(rope), Arg::Int(0), Arg::Float(EPS), Arg::Bool(false)]);
    args.extend(heads.map(|n| out(dtype, &[batch, n, tokens, width])));
    args.extend(vec![Arg::Null; 8]);
    let case = Case::new("NormRopeConcat", args, move |x| {
        let (sin, cos) = if affine { (&x[5], &x[6]) } else { (&x[3], &x[4]) };
        (0..3)
            .map(|which| {
                let n = heads[which];
                let mut data = vec![0.0; batch * n * tokens * width];
                for (i, head) in x[which].data.chunks(width).enumerate() {
                    let (b, token, h) = (i / n / tokens, i / n % tokens, i % n);
                    let mut head = head.to_vec();
                    if norm > 0 && which < 2 {
                        let mean = head.iter().map(|v| v * v).sum::<f64>() / width as f64;
                        head.iter_mut().for_each(|v| *v /= (mean + EPS).sqrt());
                        if affine {
                            head.iter_mut().zip(&x[3 + which].data).for_each(|(v, weight)| *v *= weight);
                        }
                    }
                    if token < turned_tokens && which < 2 {
                        let (plain, rest) = parts(&head, mode);
                        head = (0..width)
                            .map(|j| plain[j] * cos.at(&[token, j]) + rest[j] * sin.at(&[token, j]))
                            .collect();
                    }
                    data[((b * n + h) * tokens + token) * width..][..width].copy_from_slice(&head);
                }
                Array::new(dtype, [batch, n, tokens, width], data)
            })
            .collect()
    });
    let case = rounded_twice(case, mode);
    // A sum of ten squares and a root come before that, in f32.
    if dtype == DType::F32 { case.within(16.0, 1.0) } else { case }
}

fn single(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for (number, mode) in [Mode::Half, Mode::Interleave, Mode::Quarter, Mode::InterleaveHalf].into_iter().enumerate() {
        // Embeddings that vary with the position: BNSD, BSND.
        for (x, embedding) in [([2, 3, 5, 32], [1, 1, 5, 32]), ([2, 5, 3, 64], [1, 5, 1, 64])] {
            let args =
                vec![t(dtype, &x), t(dtype, &embedding), t(dtype, &embedding), Arg::Int(number as i64), out(dtype, &x)];
            let case = Case::new("RotaryPositionEmbedding", args, move |x| vec![turned(&x[0], &x[1], &x[2], mode)]);
            all.push(rounded_twice(case, mode));
        }
    }
    all
}

const HEAD: usize = 128;

/// Sizes of a tensor in layout 1 BSND, 2 SBND or 3 BNSD: 2 rows of 3 positions.
fn sizes(layout: i64, heads: usize) -> [usize; 4] {
    match layout {
        1 => [2, 3, heads, HEAD],
        2 => [3, 2, heads, HEAD],
        _ => [2, heads, 3, HEAD],
    }
}

/// `f` of an angle for each row, position and pair; the second half of the elements has the angles of the first.
fn angles(dtype: DType, layout: i64, f: fn(f64) -> f64) -> Array {
    let shape = sizes(layout, 1);
    let angle = |at: Vec<usize>| {
        let (row, position) = match layout {
            1 => (at[0], at[1]),
            2 => (at[1], at[0]),
            _ => (at[0], at[2]),
        };
        (row * 10 + position) as f64 * 0.7f64.powi((at[3] % (HEAD / 2)) as i32)
    };
    Array::new(dtype, shape, indices(&shape).map(|at| f(angle(at))).collect()).rounded()
}

/// Query and key in place: of the first version, and of the second with every layout and mode.
fn pairs(dtype: DType) -> Vec<Case> {
    let args = |layout: i64| {
        let x = |heads| Arg::Ref(Spec::new(dtype, sizes(layout, heads)));
        let (cos, sin) = (angles(dtype, layout, f64::cos), angles(dtype, layout, f64::sin));
        vec![x(4), x(2), given(&cos), given(&sin), Arg::Int(layout)]
    };
    let reference =
        |mode| move |x: &[Array]| vec![turned(&x[0], &x[2], &x[3], mode), turned(&x[1], &x[2], &x[3], mode)];
    let first = Case::new("ApplyRotaryPosEmb", args(1), reference(Mode::Half));
    let mut all = vec![rounded_twice(first, Mode::Half).tensors(through_bsnd)];
    for layout in 1..=3 {
        for (name, mode) in [("half", Mode::Half), ("interleave", Mode::Interleave), ("quarter", Mode::Quarter)] {
            let mut args = args(layout);
            args.push(Arg::Str(name));
            let case = rounded_twice(Case::new("ApplyRotaryPosEmbV2", args, reference(mode)), mode);
            all.push(if layout == 3 && mode == Mode::Half { case.tensors(through_bnsd) } else { case });
        }
    }
    all
}

fn through_bnsd(x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (q, k) = ops::rotary(&x[0], &x[1], &x[2].squeeze(1)?, &x[3].squeeze(1)?)?;
    Ok(vec![q, k])
}

/// The tensor interface has heads before positions: views of the operator's layout.
fn through_bsnd(x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (q, k) = ops::rotary(&x[0].transpose(1, 2)?, &x[1].transpose(1, 2)?, &x[2].squeeze(2)?, &x[3].squeeze(2)?)?;
    Ok(vec![q.transpose(1, 2)?, k.transpose(1, 2)?])
}
