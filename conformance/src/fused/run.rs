//! Running a case by one way, and what became of all cases of an operator by that way.

use super::Case;
use crate::array::{Array, DType};
use crate::compare::{Difference, compare};
use crate::run::{array, tensor};
use candle_ascend::acl;
use candle_ascend::ops::{Kernels, with_kernels};
use candle_ascend::{Device, Result, Tensor};

/// Who computed a fused operator, by the names of what was launched on an NPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// aclnn's own operator.
    Aclnn,
    /// Our Ascend C kernel.
    Ours,
    /// Simpler operators.
    Composed,
}

/// Who computed something, and in how many launches.
type Seen = Option<(By, usize)>;

/// A case that ran and whose results are right.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The largest difference over all results.
    pub difference: Difference,
    /// Who computed it and in how many launches; nobody counts them but on an NPU.
    pub seen: Seen,
}

/// Runs a case by one way and holds every result to the loops.
///
/// # Errors
/// What failed, with the operator, the case, the way, and the first element that is not what the loops have.
pub fn run(device: &Device, case: &Case, way: Kernels) -> std::result::Result<Ran, String> {
    let failed = |why: String| format!("{} {} {} by {way}: {why}", case.operator.name, case.dtype, case.label);
    let inputs = case.arrays();
    let (got, seen) = results(device, case, &inputs, way).map_err(|error| failed(error.to_string()))?;
    let wanted = (case.loops)(&inputs);
    if got.len() != wanted.len() {
        return Err(failed(format!("{} results, and the loops have {}", got.len(), wanted.len())));
    }
    let mut difference = Difference::default();
    for (i, (got, wanted)) in got.into_iter().zip(wanted).enumerate() {
        // An operator may answer in its operands' type what another answers in F32.
        let same_kind = got.dtype == wanted.dtype || (got.dtype == case.dtype && wanted.dtype == DType::F32);
        let wanted = if same_kind { wanted.with_dtype(got.dtype) } else { wanted };
        let found = compare(&got, &wanted, case.tolerance(i)).map_err(|why| failed(format!("result {i}: {why}")))?;
        if !found.passed() {
            let (at, got, wanted) = found.at.unwrap_or_default();
            let worst = found.worst;
            return Err(failed(format!(
                "result {i}, element {at}: got {got}, wanted {wanted} ({worst:.1} times the tolerance)"
            )));
        }
        let (max_abs, worst) = (difference.max_abs.max(found.max_abs), difference.worst.max(found.worst));
        difference = Difference { max_abs, worst, at: None };
    }
    Ok(Ran { difference, seen })
}

fn results(device: &Device, case: &Case, inputs: &[Array], way: Kernels) -> Result<(Vec<Array>, Seen)> {
    let operands: Vec<Tensor> =
        case.inputs.iter().zip(inputs).map(|(spec, values)| tensor(device, spec, values)).collect::<Result<_>>()?;
    let (results, launched) = acl::launched(|| with_kernels(way, || (case.call)(&operands)));
    let results = results?.iter().map(array).collect::<Result<_>>()?;
    let begins = |names: &[&str]| launched.iter().any(|launch| names.iter().any(|name| launch.starts_with(name)));
    let by = if begins(case.operator.ours) {
        By::Ours
    } else if begins(case.operator.aclnn) {
        By::Aclnn
    } else {
        By::Composed
    };
    Ok((results, device.is_npu().then_some((by, launched.len()))))
}

/// What became of the cases of one operator and type by one way.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub cases: usize,
    pub failures: Vec<String>,
    pub max_error: f64,
    /// The largest error as a share of its tolerance.
    pub of_tolerance: f64,
    /// How many cases each computed, and the fewest and most launches of one.
    pub aclnn: usize,
    pub ours: usize,
    pub composed: usize,
    pub launches: Option<(usize, usize)>,
}

/// Runs `cases` by one way.
pub fn line<'a>(device: &Device, cases: impl IntoIterator<Item = &'a Case>, way: Kernels) -> Line {
    let mut line = Line::default();
    for case in cases {
        line.cases += 1;
        let ran = match run(device, case, way) {
            Ok(ran) => ran,
            Err(failure) => {
                line.failures.push(failure);
                continue;
            }
        };
        line.max_error = line.max_error.max(ran.difference.max_abs);
        line.of_tolerance = line.of_tolerance.max(ran.difference.worst);
        let Some((by, launches)) = ran.seen else { continue };
        *match by {
            By::Aclnn => &mut line.aclnn,
            By::Ours => &mut line.ours,
            By::Composed => &mut line.composed,
        } += 1;
        let (fewest, most) = line.launches.unwrap_or((launches, launches));
        line.launches = Some((fewest.min(launches), most.max(launches)));
    }
    line
}

/// As a cell of a table: cases, the largest error, launches, and who computed what the way itself did not.
impl Line {
    pub fn cell(&self, way: Kernels) -> String {
        if !self.failures.is_empty() {
            return format!("FAILED {} of {}", self.failures.len(), self.cases);
        }
        let mut cell = format!("{}, {:.1e}", self.cases, self.max_error);
        let Some((fewest, most)) = self.launches else { return cell };
        let by_others = [("aclnn's", self.aclnn, Kernels::Aclnn), ("composed", self.composed, Kernels::Plain)];
        for (name, count, of) in by_others {
            if count > 0 && of != way {
                cell += &match count == self.cases {
                    true => format!(", {name}"),
                    false => format!(", {count} {name}"),
                };
            }
        }
        cell + &match (fewest, most) {
            (1, 1) => ", 1 launch".to_owned(),
            (fewest, most) if fewest == most => format!(", {most} launches"),
            (fewest, most) => format!(", {fewest} to {most} launches"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Operator, uniform};
    use super::*;

    static DOUBLE: Operator = Operator { name: "double", aclnn: &[], ours: &[] };

    fn doubled(times: usize, loops: impl Fn(&[Array]) -> Vec<Array> + Send + Sync + 'static) -> Case {
        let call = move |x: &[Tensor]| (0..times).map(|_| &x[0] * 2.0).collect();
        Case::new((&DOUBLE, DType::F32), "5".into(), vec![uniform(DType::F32, &[5], 2.0)], call, loops)
    }

    #[test]
    fn a_wrong_answer_is_noticed() {
        let right = doubled(1, |x| vec![x[0].map(|x| 2.0 * x)]);
        assert_eq!(run(&Device::Cpu, &right, Kernels::Plain).expect("right").seen, None);
        let wrong: [(Case, &str); 4] = [
            (doubled(1, |x| vec![x[0].map(|x| 2.0 * x + 1e-6)]), "result 0, element 0: got"),
            (doubled(2, |x| vec![x[0].map(|x| 2.0 * x)]), "2 results, and the loops have 1"),
            (doubled(1, |x| vec![x[0].clone().with_dtype(DType::I64)]), "got f32[5], wanted i64[5]"),
            (doubled(1, |x| vec![Array::new(DType::F32, [4], x[0].data[..4].to_vec())]), "got f32[5], wanted f32[4]"),
        ];
        for (case, says) in wrong {
            let said = run(&Device::Cpu, &case, Kernels::Plain).expect_err(says);
            assert!(said.contains(says) && said.starts_with("double f32 5 by plain"), "{said}");
        }
    }

    #[test]
    fn cells_say_who_computed_what() {
        let line = Line { cases: 3, max_error: 1e-3, ours: 2, composed: 1, launches: Some((1, 9)), ..Line::default() };
        assert_eq!(line.cell(Kernels::Ours), "3, 1.0e-3, 1 composed, 1 to 9 launches");
        let all = Line { ours: 0, composed: 3, ..line.clone() };
        assert_eq!(all.cell(Kernels::Aclnn), "3, 1.0e-3, composed, 1 to 9 launches");
        assert_eq!(all.cell(Kernels::Plain), "3, 1.0e-3, 1 to 9 launches");
        let lent = Line { ours: 0, composed: 0, aclnn: 3, launches: Some((1, 1)), ..line.clone() };
        assert_eq!(lent.cell(Kernels::Ours), "3, 1.0e-3, aclnn's, 1 launch");
        assert_eq!(Line { failures: vec!["a".into()], ..line }.cell(Kernels::Ours), "FAILED 1 of 3");
    }
}
