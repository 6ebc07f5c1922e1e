//! Fused operators by every way that a device has, against plain loops, and which way computed what.

use candle_ascend::Device;
use candle_ascend::ops::Kernels;
use npu_conformance::DType;
use npu_conformance::fused::{self, DTYPES, Line, WAYS};

/// An operator in one type by one way, and what became of its cases.
type Row = (&'static str, DType, Kernels, Line);

fn rows(device: &Device) -> Vec<Row> {
    let all = fused::all();
    let mut rows = Vec::new();
    for of_operator in all.chunk_by(|a, b| a.operator.name == b.operator.name) {
        for dtype in DTYPES {
            for way in WAYS.into_iter().filter(|way| *way != Kernels::Ours || device.is_npu()) {
                let cases = of_operator.iter().filter(|case| case.dtype == dtype);
                rows.push((of_operator[0].operator.name, dtype, way, fused::line(device, cases, way)));
            }
        }
    }
    rows
}

/// Cases that a way leaves to simpler operators on the simulated NPU, in F32, F16 and BF16. Attention in F32; widths of no
/// whole blocks, keys wider than values; a choice that is not renormalised; F16 rows with F32 weights; what aclnn has no
/// operator for.
const COMPOSED: [(&str, Kernels, [usize; 3]); 18] = [
    ("attention, prefill", Kernels::Aclnn, [7, 2, 2]),
    ("attention, prefill", Kernels::Ours, [7, 1, 1]),
    ("attention, one query", Kernels::Aclnn, [3, 0, 0]),
    ("attention, one query", Kernels::Ours, [3, 0, 0]),
    ("attention, one latent query", Kernels::Aclnn, [2, 2, 2]),
    ("attention, one latent query", Kernels::Ours, [2, 0, 0]),
    ("attention, hidden keys", Kernels::Aclnn, [5, 1, 1]),
    ("attention, hidden keys", Kernels::Ours, [5, 1, 1]),
    ("attention, ragged", Kernels::Aclnn, [3, 1, 1]),
    ("attention, ragged", Kernels::Ours, [3, 0, 0]),
    ("attention, paged", Kernels::Aclnn, [6, 6, 6]),
    ("attention, paged", Kernels::Ours, [6, 0, 0]),
    ("route, sigmoid", Kernels::Aclnn, [1, 1, 1]),
    ("unpermute", Kernels::Aclnn, [0, 4, 0]),
    ("unpermute, shared expert", Kernels::Aclnn, [0, 4, 0]),
    ("grouped_swiglu", Kernels::Aclnn, [4, 4, 4]),
    ("grouped_swiglu", Kernels::Ours, [1, 1, 1]),
    ("turn_and_write_at", Kernels::Aclnn, [6, 6, 6]),
];

/// What a way computed itself, and in how many launches.
fn check_who((operator, dtype, way, line): &Row) {
    let what = format!("{operator} {dtype} by {way}: {}", line.cell(*way));
    let left = COMPOSED.iter().find(|left| (left.0, left.1) == (*operator, *way));
    let column = DTYPES.iter().position(|other| other == dtype).expect("a type of the table");
    let composed = left.map_or(0, |left| left.2[column]);
    let taken = line.cases - composed;
    // There is no kernel of ours for it alone.
    let lent = *operator == "swiglu";
    let (aclnn, ours, composed) = match way {
        Kernels::Aclnn => (taken, 0, composed),
        Kernels::Ours if lent => (taken, 0, composed),
        Kernels::Ours => (0, taken, composed),
        Kernels::Plain => (0, 0, line.cases),
    };
    assert_eq!((line.aclnn, line.ours, line.composed), (aclnn, ours, composed), "{what}");
    // The shared expert's rows are added by another launch of ours.
    let each = if (*operator, *way) == ("unpermute, shared expert", Kernels::Ours) { 2 } else { 1 };
    let Some((fewest, most)) = line.launches else { panic!("{what}: nobody counted launches") };
    let whole = *way != Kernels::Plain && composed == 0;
    assert!(!whole || (fewest, most) == (each, each), "{what}");
}

#[test]
fn every_way_computes_what_the_loops_do() {
    for (name, device) in npu_tests::devices() {
        let (mut cases, mut failures) = (0, Vec::new());
        for row in rows(&device) {
            cases += row.3.cases;
            failures.extend(row.3.failures.iter().cloned());
            if name == "sim" && row.3.failures.is_empty() {
                check_who(&row);
            }
        }
        let shown: Vec<_> = failures.iter().take(40).cloned().collect();
        assert!(failures.is_empty(), "{name}: {} of {cases} failed:\n{}", failures.len(), shown.join("\n"));
        assert!(cases > 0, "{name}: nothing ran");
        println!("{name}: {cases} cases passed");
    }
}

/// The table in the documents names every operator of the suite in every type.
#[test]
fn the_documents_have_every_operator() {
    let text = include_str!("../../docs/kernels.md");
    for case in fused::all() {
        let row = format!("| {} | {} |", case.operator.name, case.dtype);
        assert!(
            text.contains(&row),
            "docs/kernels.md has no row {row:?}; `npu-run smoke --device sim` prints the table"
        );
    }
}
