//! Every operator of the table against plain arithmetic, and the tensor interface on every device.

use acl_sys::loader::OPERATORS;
use candle_ascend::Device;
use npu_conformance::{Answer, Arg, Array, Case, DType, Spec, cases, run_row, run_tensors};
use std::collections::BTreeSet;

/// Fails with every failure, at most forty of them spelled out.
fn assert_all_passed(what: &str, total: usize, failures: Vec<String>) {
    let shown: Vec<_> = failures.iter().take(40).cloned().collect();
    assert!(failures.is_empty(), "{what}: {} of {total} failed:\n{}", failures.len(), shown.join("\n"));
    assert!(total > 0, "{what}: nothing ran");
    println!("{what}: {total} cases passed");
}

#[test]
fn rows_on_the_simulator() {
    let device = npu_tests::simulated();
    let all = cases::all();
    let failures = all.iter().filter_map(|case| run_row(device.context(), case).err()).map(|f| f.to_string()).collect();
    assert_all_passed("rows on the simulated NPU", all.len(), failures);
}

#[test]
fn tensors_on_every_device() {
    let all = cases::all();
    for (name, device) in npu_tests::devices() {
        let outcomes: Vec<_> = all.iter().filter_map(|case| run_tensors(&device, case)).collect();
        let failures = outcomes.iter().filter_map(|o| o.as_ref().err()).map(|f| f.to_string()).collect();
        assert_all_passed(&format!("tensor interface on {name}"), outcomes.len(), failures);
    }
}

/// Decompositions are what devices without a fused operator run: they must compute the same.
#[test]
fn decompositions_on_every_device() {
    let all = cases::all();
    for (name, device) in npu_tests::devices() {
        let outcomes: Vec<_> =
            candle_ascend::ops::decomposed(|| all.iter().filter_map(|case| run_tensors(&device, case)).collect());
        let failures = outcomes.iter().filter_map(|o| o.as_ref().err()).map(|f| f.to_string()).collect();
        assert_all_passed(&format!("decompositions on {name}"), outcomes.len(), failures);
    }
}

#[test]
fn every_simulated_row_has_a_case() {
    let with_case: BTreeSet<&str> = cases::all().iter().map(|case| case.row).collect();
    let missing: Vec<&str> =
        OPERATORS.iter().filter(|row| row.simulated && !with_case.contains(row.name)).map(|row| row.name).collect();
    assert!(missing.is_empty(), "{} rows of the operator table have no conformance case: {missing:?}", missing.len());
}

#[test]
fn every_case_names_a_row() {
    for case in cases::all() {
        let row = OPERATORS.iter().find(|row| row.name == case.row);
        let row = row.unwrap_or_else(|| panic!("a case names aclnn{}, which is no row", case.row));
        assert_eq!(row.params.len(), case.args.len(), "aclnn{} {}: number of arguments", case.row, case.label);
    }
}

/// Outputs start as poison, so that an operator that writes nothing fails; tensors that are changed in place start as
/// numbers, so their references must change them.
#[test]
fn no_case_passes_by_doing_nothing() {
    for case in cases::all() {
        let Answer::Reference(reference) = &case.answer else { continue };
        let (inputs, what) = (case.inputs(), format!("aclnn{} {}", case.row, case.label));
        let wanted = reference(&inputs);
        assert!(wanted.iter().any(|array| !array.data.is_empty()), "{what}: the reference has no element");
        if case.args.iter().any(|arg| matches!(arg, Arg::Out(..) | Arg::OutList(_) | Arg::Room(..))) {
            continue;
        }
        let mut inputs = inputs.into_iter();
        let before: Vec<Array> = case
            .args
            .iter()
            .flat_map(|arg| match arg {
                Arg::Ref(_) => inputs.next(),
                Arg::In(_) => inputs.next().and(None),
                Arg::InList(list) => inputs.by_ref().take(list.len()).last().and(None),
                _ => None,
            })
            .collect();
        assert_ne!(before, wanted, "{what}: the reference leaves everything as it was");
    }
}

/// The suite must be able to fail: a wrong reference, and an operator that is told the wrong shape.
#[test]
fn a_wrong_answer_is_noticed() {
    let device = npu_tests::simulated();
    let args = || vec![Arg::In(Spec::new(DType::F32, [5, 7])), Arg::Out(DType::F32, vec![5, 7])];
    let wrong = Case::new("Abs", args(), |x| vec![x[0].map(|v| v.abs() + 1e-3)]);
    let failure = run_row(device.context(), &wrong).expect_err("1e-3 off is outside of one unit of f32");
    assert!(failure.reason.contains("got"), "{failure}");
    let right = Case::new("Abs", args(), |x: &[Array]| vec![x[0].map(f64::abs)]);
    run_row(device.context(), &right).expect("the same case with the right reference passes");
    let shape = vec![Arg::In(Spec::new(DType::F32, [5, 7])), Arg::Out(DType::F32, vec![5, 8])];
    let refused = run_row(device.context(), &Case::new("Abs", shape, |_| vec![])).expect_err("wrong output shape");
    assert!(refused.reason.contains("161002"), "{refused}");
    let room = vec![Arg::In(Spec::new(DType::F32, [5, 7])), Arg::Room(DType::I64, vec![35, 2])];
    let count = Case::new("Nonzero", room, |_| vec![Array::new(DType::I64, [3, 2], vec![0.0; 6])]);
    let failure = run_row(device.context(), &count).expect_err("35 numbers are not zero, not three");
    assert!(failure.reason.contains("[35, 2]"), "{failure}");
    let seeded = |holds: fn(&[Array]) -> bool| {
        let args =
            vec![Arg::Ref(Spec::new(DType::F32, [99])), Arg::Float(0.0), Arg::Float(1.0), Arg::Int(1), Arg::Int(0)];
        Case::property(
            "InplaceUniform",
            args,
            move |_, out| if holds(out) { Ok(()) } else { Err("does not hold".into()) },
        )
    };
    run_row(device.context(), &seeded(|out| out[0].data.iter().all(|v| *v < 1.0)))
        .expect("uniform numbers lie below 1");
    let failure = run_row(device.context(), &seeded(|out| out[0].data.iter().all(|v| *v < 0.5)));
    assert_eq!(failure.expect_err("half of them lie above").reason, "does not hold");
    let cpu = run_tensors(&Device::Cpu, &wrong);
    assert!(cpu.is_none(), "a case without a tensor form does not run as one");
}
