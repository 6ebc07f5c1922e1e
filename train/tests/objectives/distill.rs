//! Distillation through the objective: golden, from a file, on two devices, and of the student's own samples.

use crate::common::{GoldenSteps, golden, numbers, qwen2_tiny, sample, simulated};
use anyhow::Result;
use candle_ascend::{DType, Device, Tensor, no_grad};
use npu_engine::{RolloutOptions, SamplingOptions};
use npu_train::distill::{Distill, Distillation, OnPolicy, Teacher, TeacherLogits, TeacherRows, write_teacher_logits};
use npu_train::{Batch, Batches, Decay, IGNORED, Objective, Plain, Policy, Ranks, Sample, Sft, TrainOptions, train};

/// Half teacher at a temperature of 2, half labels.
const HALF: Distillation = Distillation { alpha: 0.5, temperature: 2., beta: 0. };

/// The fixture, the fixture after its ten golden steps, and the first golden batch.
fn student_and_teacher(device: &Device, teachers: &Device) -> (Policy, Policy, Batch) {
    let load = |device: &Device| Policy::full(&qwen2_tiny(), DType::F32, device, &|_, _| {}).expect("the fixture");
    let (student, teacher) = (load(device), load(teachers));
    let mut options = TrainOptions::new(10, 1e-3);
    options.schedule.decay = Decay::Constant;
    options.optimizer.weight_decay = 0.01;
    options.max_grad_norm = 0.;
    train(&teacher, &mut Sft::new(GoldenSteps::new(1)), &Ranks::single(), &options, &mut Plain).expect("ten steps");
    (student, teacher, Batch::new(GoldenSteps::new(1).samples[0].clone()))
}

/// The mean loss of `batch`, and of what is logged beside it.
fn loss(objective: &mut Distill<GoldenSteps>, student: &Policy, batch: &Batch) -> Result<(f64, Vec<f64>)> {
    let loss = no_grad(|| objective.loss(student, batch))?;
    let mean = |sum: &Tensor| Ok(f64::from(sum.to_scalar::<f32>()?) / objective.weight(batch));
    let also = loss.also.iter().map(|(_, sum)| mean(sum)).collect::<Result<_>>()?;
    Ok((mean(&loss.sum)?, also))
}

fn distill(teacher: Teacher, how: Distillation) -> Distill<GoldenSteps> {
    Distill::new(GoldenSteps::new(1), teacher, how, None).expect("it fits")
}

#[test]
fn the_golden_loss_with_teachers_here_there_and_in_a_file() {
    let wanted = numbers(&golden(), "kd_loss")[0];
    let dir = tempfile::tempdir().expect("a folder");
    for (device, teachers) in [(Device::Cpu, Device::Cpu), (simulated(5), simulated(5)), (Device::Cpu, simulated(5))] {
        let (student, teacher, batch) = student_and_teacher(&device, &teachers);
        let what = format!("student on {}, teacher on {}", device.kind(), teachers.kind());
        let path = dir.path().join(format!("{}-{}.safetensors", device.kind(), teachers.kind()));
        let of = |i: usize| Ok(batch.samples[i].clone());
        let whole = (&teacher, "ten steps of fine-tuning");
        write_teacher_logits(&path, whole, 512, batch.samples.len(), &of, &|_, _| {}).expect("all logits");
        let mut objective = distill(Teacher::Model(teacher), HALF);
        let (got, also) = loss(&mut objective, &student, &batch).expect("a loss");
        println!("{what}: {got:.6} (golden {wanted:.6})");
        // The tolerance that the golden loss is asked for with.
        assert!((got - wanted).abs() <= 1e-4, "{what}: {got}, golden {wanted}");
        assert!((2. * also[0] + 0.5 * also[1] - got).abs() <= 1e-5, "{what}: {also:?} do not add up to {got}");
        // A file with the whole vocabulary says what the model says; single rounding apart.
        let mut cached = distill(Teacher::Cached(TeacherLogits::open(&path).expect("the file")), HALF);
        let (from_file, _) = loss(&mut cached, &student, &batch).expect("a loss");
        assert!((from_file - got).abs() <= 1e-5, "{what}: {from_file} from the file, {got} from the model");
        // The batch in another order and cut in two.
        let mut turned = batch.samples.clone();
        turned.reverse();
        let parts = turned.chunks(1).map(|part| {
            let part = Batch::new(part.to_vec());
            let (mean, _) = loss(&mut cached, &student, &part).expect("a loss");
            mean * part.targets() as f64
        });
        let sum: f64 = parts.sum();
        assert!((sum / batch.targets() as f64 - got).abs() <= 1e-5, "{what}: {sum} in parts");
    }
}

/// Checkpoints of one tokenizer pad their vocabularies to different sizes: only what both have is compared.
#[test]
fn a_teacher_of_another_padding_is_compared_where_both_have_tokens() {
    let logits = |width: usize, seed: usize| {
        let values = (0..3 * width).map(|i| ((i * 7 + seed) as f32).sin() * 2.);
        Tensor::from_iter(values, &Device::Cpu).and_then(|x| x.reshape((3, width))).expect("logits")
    };
    let targets = Tensor::new(&[[1i64], [0], [4]], &Device::Cpu).expect("targets");
    let how = Distillation { alpha: 1., temperature: 1.5, beta: 0. };
    let soft = |student: &Tensor, teacher: Tensor| {
        let sums = how.of_logits(student, &TeacherRows::Logits(teacher), &targets).expect("sums");
        sums.soft.to_scalar::<f32>().expect("a number")
    };
    let part = |x: &Tensor| x.narrow(1, 0, 5).and_then(|part| part.contiguous()).expect("a part");
    let (narrow, wide) = (logits(5, 1), logits(9, 2));
    assert_eq!(soft(&narrow, wide.clone()), soft(&narrow, part(&wide)), "the teacher is padded");
    assert_eq!(soft(&wide, narrow.clone()), soft(&part(&wide), narrow.clone()), "the student is padded");
    assert!(soft(&narrow, part(&wide)) > 0.1, "they are alike");
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("teacher.safetensors");
    let teacher = || Policy::frozen(&qwen2_tiny(), DType::F32, &Device::Cpu, &|_, _| {}).expect("the fixture");
    let samples = [sample(&[1, 2, 3]), sample(&[4, 5]), sample(&[1, 2, 3])];
    let of = |i: usize| Ok(samples[i].clone());
    write_teacher_logits(&path, (&teacher(), "itself"), 4, 3, &of, &|_, _| {}).expect("a file");
    let mut file = TeacherLogits::open(&path).expect("the file");
    let both = Batch::new(vec![samples[1].clone(), samples[0].clone()]);
    let (indices, log_probs) = file.of_batch(&both).expect("rows");
    assert_eq!((file.top_k(), indices.len(), log_probs.len()), (4, 12, 12));
    assert!(log_probs.as_chunks::<4>().0.iter().all(|row| row.is_sorted_by(|a, b| a >= b) && row[0] < 0.));
    let error = file.of_batch(&Batch::new(vec![sample(&[1, 2, 4])])).expect_err("another sample").to_string();
    assert!(
        error.contains("3 tokens") && error.contains("teacher.safetensors") && error.contains("--max-length"),
        "{error}"
    );
    // A sample whose labels are others is another.
    let masked = Sample { labels: vec![IGNORED, IGNORED, 3], ..samples[0].clone() };
    assert!(file.of_batch(&Batch::new(vec![masked])).is_err());
    let says = |error: anyhow::Error, word: &str| assert!(format!("{error:#}").contains(word), "{error:#}");
    says(
        Distill::new(GoldenSteps::new(1), Teacher::Cached(file), Distillation { beta: 0.5, ..HALF }, None)
            .err()
            .expect("beta"),
        "beta is 0.5",
    );
    let bytes = std::fs::read(&path).expect("bytes");
    std::fs::write(&path, &bytes[..bytes.len() - 4]).expect("a cut");
    says(TeacherLogits::open(&path).expect_err("cut"), "not written to its end");
    std::fs::write(&path, b"not one at all, but some text that is long enough").expect("another file");
    says(TeacherLogits::open(&path).expect_err("text"), "not a safetensors file");
    says(TeacherLogits::open(&dir.path().join("none")).expect_err("none"), "none");
    let none = write_teacher_logits(&path, (&teacher(), "itself"), 513, 3, &of, &|_, _| {});
    says(none.expect_err("more than there are"), "512");
    for how in [Distillation { alpha: 1.5, ..HALF }, Distillation { temperature: 0., ..HALF }] {
        assert!(Distill::new(GoldenSteps::new(1), Teacher::Model(teacher()), how, None).is_err());
    }
}

/// Batches that know which step they are of.
struct Numbered;

impl Batches for Numbered {
    fn of_step(&mut self, step: usize, _: &Ranks) -> Result<Vec<Batch>> {
        let prompt = [step as u32 + 1, 7];
        let text = sample(&[9, 9]);
        Ok((0..4).map(|i| Batch::new(vec![Sample::completion(&prompt, &[50 + i, 60]), text.clone()])).collect())
    }
}

#[test]
fn a_share_of_the_batches_is_the_students_own() {
    let student = Policy::frozen(&qwen2_tiny(), DType::F32, &Device::Cpu, &|_, _| {}).expect("the fixture");
    let batches = |lambda: f64, step: usize| {
        let sampling = SamplingOptions { temperature: 1., ..Default::default() };
        let rollout = RolloutOptions { copies: 1, max_tokens: 3, sampling, ends: vec![], max_rows: 8 };
        let teacher = Policy::frozen(&qwen2_tiny(), DType::F32, &Device::Cpu, &|_, _| {}).expect("the fixture");
        let on_policy = Some(OnPolicy { lambda, rollout, seed: 3 });
        let mut objective = Distill::new(Numbered, Teacher::Model(teacher), HALF, on_policy).expect("it fits");
        objective.batches(step, &student, &Ranks::single()).expect("batches")
    };
    let data = Numbered.of_step(1, &Ranks::single()).expect("batches");
    assert_eq!(batches(0., 1), data);
    let own = batches(1., 1);
    assert_eq!(own, batches(1., 1), "the same step samples the same");
    assert_ne!(own[0].samples[0].tokens, own[1].samples[0].tokens, "batches sample what others did");
    for batch in &own {
        assert_eq!(batch.samples[0].tokens[..2], [2, 7], "the prompt stays");
        assert_eq!((batch.samples[0].tokens.len(), batch.samples[0].targets()), (5, 3));
        assert_eq!(batch.samples[1].tokens[..1], [9], "the first token is a prompt");
    }
    // Half of forty, give or take three deviations of 3.2.
    let answered: usize =
        (0..10).map(|step| batches(0.5, step).iter().filter(|b| b.samples[0].tokens.len() == 5).count()).sum();
    assert!((10..=30).contains(&answered), "{answered} of 40 batches are the student's");
}
