//! Arguments that make no sense, for every row that the simulator implements: each is refused or computed, and nothing
//! panics, hangs or writes where it must not. The simulator turns its own panics into errors that say so; they fail here.

use acl_sys::loader::{OPERATORS, OperatorDecl};
use npu_conformance::run::try_row;
use npu_conformance::{Arg, Case, DType, Fill, Spec, View};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const CALLS_PER_ROW: u64 = 40;

fn dtype(rng: &mut StdRng) -> DType {
    use DType::*;
    // Mostly the types that operators take, so that calls get past the first check.
    *[F32, F32, F32, F16, BF16, I64, I64, I32, U8, I8, I16, F64, Bool].choose(rng).expect("not empty")
}

fn shape(rng: &mut StdRng, common: &[usize]) -> Vec<usize> {
    match rng.random_range(0..4) {
        0 => (0..rng.random_range(0..5)).map(|_| rng.random_range(0..6)).collect(),
        1 => common[..rng.random_range(0..=common.len())].to_vec(),
        _ => common.to_vec(),
    }
}

fn spec(rng: &mut StdRng, common: &[usize], kind: DType) -> Spec {
    let dtype = if rng.random_bool(0.7) { kind } else { dtype(rng) };
    let view = *[View::Contiguous, View::Contiguous, View::Transposed, View::Window].choose(rng).expect("not empty");
    let fill = match rng.random_range(0..3) {
        0 => Fill::Integers(-3, 9),
        1 if dtype.is_float() => Fill::Uniform(-1e30, 1e30),
        _ => Fill::Integers(0, 3),
    };
    Spec::new(dtype, shape(rng, common)).fill(fill).view(view)
}

fn out(rng: &mut StdRng, common: &[usize], kind: DType) -> (DType, Vec<usize>) {
    let spec = spec(rng, common, kind);
    (spec.dtype, spec.shape)
}

/// An argument of the kind that the row declares; now and then null.
fn arg(rng: &mut StdRng, kind: &str, common: &[usize], tensor_type: DType) -> Arg {
    let small = |rng: &mut StdRng| rng.random_range(-4..9);
    let optional = kind.starts_with("Opt");
    if (optional && rng.random_bool(0.6)) || (kind.len() > 3 && rng.random_bool(0.02)) {
        return Arg::Null;
    }
    match kind.strip_prefix("Opt").unwrap_or(kind) {
        "" | "In" => Arg::In(spec(rng, common, tensor_type)),
        "Ref" => Arg::Ref(spec(rng, common, tensor_type)),
        "Out" | "OutC" => {
            let (dtype, shape) = out(rng, common, tensor_type);
            Arg::Out(dtype, shape)
        }
        "InList" => Arg::InList((0..rng.random_range(0..4)).map(|_| spec(rng, common, tensor_type)).collect()),
        "OutList" | "OutListC" => {
            Arg::OutList((0..rng.random_range(0..4)).map(|_| out(rng, common, tensor_type)).collect())
        }
        "Scalar" => Arg::Scalar(dtype(rng), small(rng) as f64),
        "Scalars" => Arg::Scalars(DType::F32, vec![small(rng) as f64; 2]),
        "Ints" | "IntsMut" => Arg::Ints((0..rng.random_range(0..4)).map(|_| small(rng)).collect()),
        "Bools" => Arg::Bools((0..rng.random_range(0..4)).map(|_| rng.random_bool(0.5)).collect()),
        "Floats" => Arg::Floats(vec![small(rng) as f32; 2]),
        "Str" | "StrMut" => {
            Arg::Str(["BSH", "BNSD", "BSND", "TND", "mean", "none", "half", "", "?"].choose(rng).expect("not empty"))
        }
        "F64" | "F32" => {
            Arg::Float([0.0, 1e-6, 1.0, -1.0, f64::NAN, f64::INFINITY].choose(rng).copied().expect("not empty"))
        }
        "Bool" => Arg::Bool(rng.random_bool(0.5)),
        "DType" => Arg::DType(dtype(rng)),
        _ => Arg::Int(if rng.random_bool(0.05) { i64::MIN } else { small(rng) }),
    }
}

fn call(row: &'static OperatorDecl, seed: u64) -> Case {
    let mut rng = StdRng::seed_from_u64(seed);
    let common: Vec<usize> = (0..rng.random_range(1..4)).map(|_| rng.random_range(1..6)).collect();
    let tensor_type = dtype(&mut rng);
    let args = row.params.iter().map(|(_, kind)| arg(&mut rng, kind, &common, tensor_type)).collect();
    Case::new(row.name, args, |_| Vec::new())
}

#[test]
fn senseless_arguments_are_refused_or_computed() {
    let base: u64 = std::env::var("NPU_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20261123);
    let device = npu_tests::simulated();
    let (mut computed, mut refused) = (0, 0);
    for (index, row) in OPERATORS.iter().enumerate().filter(|(_, row)| row.simulated) {
        for i in 0..CALLS_PER_ROW {
            let seed = base.wrapping_add(index as u64 * CALLS_PER_ROW + i);
            let case = call(row, seed);
            // Printed first: should the process end here, the last line replays it.
            println!("aclnn{} seed {seed}: {}", case.row, case.label);
            match try_row(device.context(), &case) {
                Ok(()) => computed += 1,
                Err(error) => {
                    assert!(!error.is_empty(), "seed {seed}: an error without a text");
                    let broken = error.contains("overwritten") || error.contains("simulator itself failed");
                    assert!(!broken, "aclnn{} seed {seed} {}: {error}", case.row, case.label);
                    refused += 1;
                }
            }
        }
    }
    println!("{computed} calls computed, {refused} refused");
    assert!(computed > 500, "only {computed} calls got through: the generator tests nothing but refusals");
    assert!(refused > 500, "only {refused} calls were refused");
}
