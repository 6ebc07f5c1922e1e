//! What the operators launch on a GPU, over a driver that runs our CUDA kernels on this host (`kernels/cuda/tests/stub/host_gpu.cpp`):
//! which kernels, with which arguments, on which memory, and that nothing is read back. `.ci/cuda-check launches` builds and runs
//! it without CUDA. It shows nothing of a GPU itself.
#![cfg(feature = "cuda")]

use candle_ascend::ops::moe::{self, Gating};
use candle_ascend::ops::{self, paged_attention};
use candle_ascend::{DType, Device, Result, Tensor, Var};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::process::Command;

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// A folder with the driver under the name of every library that opening a device needs.
fn stub() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host-gpu");
    std::fs::create_dir_all(&folder).expect("a folder");
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/cuda/tests");
    let made = folder.join("libcuda.so.1");
    let mut command = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    command.args(["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"]);
    command.arg(kernels.join("host")).arg("-o").arg(&made).arg(kernels.join("stub/host_gpu.cpp"));
    let output = command.output().expect("the C++ compiler runs");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    for library in npu_cuda::libraries::LIBRARIES.iter().filter(|library| library.name != "cuda") {
        std::fs::copy(&made, folder.join(library.file())).expect("a copy");
    }
    folder
}

/// Libraries are found once a process: this program runs the cases again as a child.
#[test]
fn operators_launch_our_kernels_and_read_nothing_back() {
    let folder = stub();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "child_process", "--nocapture"]).env("NPU_CUDA_CHILD", "1");
    command.env("STUB_GPU_LOG", folder.join("log")).env("LD_LIBRARY_PATH", folder);
    command.env_remove("CUDA_HOME").env_remove("CUDA_PATH");
    let output = command.output().expect("this program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("all cases ran"), "{text}");
    print!("{text}");
}

/// Not a test of its own: what the other starts.
#[test]
fn child_process() -> Result<()> {
    if std::env::var_os("NPU_CUDA_CHILD").is_none() {
        println!("started by the other test of this file");
        return Ok(());
    }
    let gpu = Gpu::open();
    for dtype in TYPES {
        gpu.layer(dtype, 1, Gating::Softmax { renormalise: true })?;
        gpu.paged(dtype, &[37, 0, 16], 2, [64, 64])?;
    }
    let sigmoid = Gating::Sigmoid { bias: None, groups: 3, kept_groups: 2, renormalise: true, factor: 2.5 };
    gpu.layer(DType::BF16, 73, sigmoid)?;
    gpu.paged(DType::BF16, &[150], 1, [576, 512])?;
    gpu.choice_with_a_bias()?;
    gpu.primitives_where_they_are_wanted()?;
    gpu.bad_routing()?;
    println!("all cases ran");
    Ok(())
}

struct Gpu {
    device: Device,
    log: PathBuf,
}

fn numbers(seed: u64, dims: &[usize], dtype: DType) -> Result<Tensor> {
    let mut rng = StdRng::seed_from_u64(seed);
    let values = (0..dims.iter().product()).map(|_| rng.random_range(-2f32..2.)).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Roundings of a layer's steps to the type; in F32 the order of sums.
#[track_caller]
fn assert_near(what: &str, got: &Tensor, wanted: &Tensor) -> Result<()> {
    assert_eq!((got.dims(), got.dtype()), (wanted.dims(), wanted.dtype()), "{what}");
    let tolerance = match got.dtype() {
        DType::F16 => 4e-3,
        DType::BF16 => 3.2e-2,
        _ => 2e-5,
    };
    let (got, wanted) = (values(got)?, values(wanted)?);
    let size = wanted.iter().fold(1f64, |size, x| size.max(x.abs()));
    for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        assert!((got - wanted).abs() <= tolerance * size, "{what}: element {i} is {got}, wanted {wanted}");
    }
    Ok(())
}

impl Gpu {
    fn open() -> Self {
        let log = PathBuf::from(std::env::var_os("STUB_GPU_LOG").expect("a file"));
        std::fs::write(&log, "").expect("an empty log");
        Self { device: Device::new_cuda(0).expect("the host's GPU opens"), log }
    }

    /// What `run` makes, and what the driver was asked to do meanwhile: a kernel's name, or `read` for a copy to the host.
    fn watched<R>(&self, run: impl FnOnce() -> R) -> (R, Vec<String>) {
        let log = || std::fs::read_to_string(&self.log).expect("the driver's log");
        let before = log().len();
        let made = run();
        (made, log()[before..].lines().map(str::to_owned).collect())
    }

    /// A mixture's layer of `tokens` rows, whose router, products and shared rows are given.
    fn layer(&self, dtype: DType, tokens: usize, gating: Gating<'_>) -> Result<()> {
        const EXPERTS: usize = 12;
        let (hidden, inner, k) = (40, 24, 3);
        let operands = [
            numbers(1, &[tokens, EXPERTS], DType::F32)?,
            numbers(2, &[tokens, hidden], dtype)?,
            (numbers(3, &[EXPERTS, 2 * inner, hidden], dtype)? * 0.2)?,
            (numbers(4, &[EXPERTS, hidden, inner], dtype)? * 0.2)?,
            numbers(5, &[tokens, hidden], dtype)?,
        ];
        let run = |[logits, x, up, down, shared]: &[Tensor; 5]| -> Result<[Tensor; 5]> {
            let (weights, chosen) = moe::route(logits, k, gating)?;
            let permuted = moe::permute(x, &chosen, EXPERTS)?;
            let y = ops::swiglu(&moe::grouped_linear(&permuted.rows, up, &permuted.ends)?)?;
            let y = moe::grouped_linear(&y, down, &permuted.ends)?;
            let sums = moe::unpermute_onto(shared, &y, &permuted.places, &weights)?;
            let alone = moe::unpermute(&y, &permuted.places, &weights)?;
            Ok([weights, chosen, permuted.ends, sums, alone])
        };
        let wanted = run(&operands)?;
        let there = operands.each_ref().map(|x| x.to_device(&self.device).expect("uploaded"));
        let (got, launched) = self.watched(|| run(&there));
        let what = format!("{tokens} tokens {dtype:?}");
        for (name, (got, wanted)) in
            ["weights", "experts", "ends", "sums", "sums alone"].iter().zip(got?.iter().zip(&wanted))
        {
            assert_near(&format!("{name} of {what}"), got, wanted)?;
        }
        let suffix = format!("{dtype:?}").to_lowercase();
        let of_type = |name: &str| format!("{name}_{suffix}");
        let product = if tokens * k < 8 * EXPERTS { "grouped_few" } else { "grouped_many_64" };
        let layer = ["permute", product, "swiglu", product, "unpermute", "unpermute"].map(of_type);
        let expected: Vec<_> = ["route_f32", "group_u32"].map(str::to_owned).into_iter().chain(layer).collect();
        assert_eq!(launched, expected, "{what}");
        Ok(())
    }

    /// Attention over blocks of 16 and, of one sequence, a latent cache whose values are columns of its keys.
    fn paged(&self, dtype: DType, lengths: &[u32], groups: usize, [width, value_width]: [usize; 2]) -> Result<()> {
        let (size, latent, heads) = (16, width != value_width, 6);
        let (entries, blocks) = (lengths.iter().max().unwrap_or(&0).div_ceil(size as u32) as usize, 16);
        // Neighbours in a sequence lie apart in the pool; each sequence has blocks of its own.
        let table: Vec<u32> = (0..lengths.len() * entries).map(|i| (i * 7 % blocks) as u32).collect();
        let host = [
            Tensor::from_vec(table, (lengths.len(), entries), &Device::Cpu)?,
            Tensor::from_slice(lengths, lengths.len(), &Device::Cpu)?,
        ];
        let (q, keys) =
            (numbers(6, &[lengths.len(), heads, width], dtype)?, numbers(7, &[blocks, groups, size, width], dtype)?);
        let apart = numbers(8, &[blocks, groups, size, value_width], dtype)?;
        let run = |q: &Tensor, keys: &Tensor, apart: &Tensor, [table, lengths]: &[Tensor; 2]| {
            let values = if latent { keys.narrow(3, 0, value_width)? } else { apart.clone() };
            paged_attention(q, keys, &values, table, lengths, 0.2)
        };
        let wanted = run(&q, &keys, &apart, &host)?;
        let there = |x: &Tensor| x.to_device(&self.device).expect("uploaded");
        let ([q, keys, apart], on_device) = ([&q, &keys, &apart].map(there), host.each_ref().map(there));
        let name = format!("attend_paged_{width}_{}", format!("{dtype:?}").to_lowercase());
        // The stub has four multiprocessors: a long sequence is split over them.
        let join = name.replace(&format!("attend_paged_{width}"), "join_parts");
        let expected = if lengths.len() == 1 { vec![name, join] } else { vec![name] };
        for tables in [&on_device, &host] {
            let (got, launched) = self.watched(|| run(&q, &keys, &apart, tables));
            assert_near(&format!("{lengths:?} {dtype:?}"), &got?, &wanted)?;
            assert_eq!(launched, expected, "{lengths:?} {dtype:?}");
        }
        // A table on the host is looked at before anything is launched; of one on the device the kernel sees it.
        let mut outside: Vec<u32> = host[0].flatten_all()?.to_vec1()?;
        outside[0] = blocks as u32;
        let outside = Tensor::from_vec(outside, host[0].dims(), &Device::Cpu)?;
        let (refused, launched) = self.watched(|| run(&q, &keys, &apart, &[outside.clone(), host[1].clone()]));
        let said = refused.expect_err("no such block").to_string();
        assert!(said.contains("block 0 of sequence 0 is 16, and the pool has 16"), "{said}");
        assert!(launched.is_empty(), "{launched:?}");
        let got = values(&run(&q, &keys, &apart, &[there(&outside), on_device[1].clone()])?)?;
        let (first, others) = got.split_at(heads * value_width);
        assert!(first.iter().all(|x| x.is_nan()) && others.iter().all(|x| x.is_finite()), "{lengths:?}: {got:?}");
        Ok(())
    }

    fn choice_with_a_bias(&self) -> Result<()> {
        let (logits, bias) = (numbers(9, &[5, 8], DType::F32)?, numbers(10, &[8], DType::F32)?);
        let choose = |logits: &Tensor, bias: &Tensor| {
            let groups =
                Gating::Sigmoid { bias: Some(bias), groups: 4, kept_groups: 2, renormalise: false, factor: 1.5 };
            moe::route(logits, 2, groups)
        };
        let wanted = choose(&logits, &bias)?;
        let [on_device, its_bias] = [&logits, &bias].map(|x| x.to_device(&self.device).expect("uploaded"));
        let (got, launched) = self.watched(|| choose(&on_device, &its_bias));
        let got = got?;
        assert_near("weights with a bias", &got.0, &wanted.0)?;
        assert_near("experts with a bias", &got.1, &wanted.1)?;
        assert_eq!(launched, ["route_f32"]);
        Ok(())
    }

    /// Where gradients are recorded, and where it is asked for, none of our kernels is launched. The primitives are candle's
    /// kernels and cuBLAS, which the stub has not: that they fail shows that they were asked.
    fn primitives_where_they_are_wanted(&self) -> Result<()> {
        let there = |x: Tensor| x.to_device(&self.device).expect("uploaded");
        let (logits, x) = (there(numbers(11, &[4, 6], DType::F32)?), there(numbers(12, &[4, 5], DType::F32)?));
        let (matrices, y) = (there(numbers(13, &[6, 3, 5], DType::F32)?), there(numbers(14, &[8, 5], DType::F32)?));
        let chosen = there(Tensor::from_slice(&[0u32, 1, 1, 2, 5, 0, 3, 3], (4, 2), &Device::Cpu)?);
        let ends = there(Tensor::from_slice(&[1i64, 2, 3, 4, 4, 4], 6, &Device::Cpu)?);
        let places = there(Tensor::from_slice(&[0u32, 1, 2, 3, 4, 5, 6, 7], 8, &Device::Cpu)?);
        let weights = there(numbers(15, &[4, 2], DType::F32)?);
        let (q, pool) =
            (there(numbers(16, &[1, 2, 64], DType::F32)?), there(numbers(17, &[2, 2, 16, 64], DType::F32)?));
        let [table, lengths] =
            [&[1u32][..], &[7]].map(|x| there(Tensor::from_slice(x, x.len(), &Device::Cpu).expect("a list")));
        let table = table.reshape((1, 1))?;
        type Call<'a> = (&'a str, &'a Tensor, &'a dyn Fn(&Tensor) -> Result<()>);
        let gating = Gating::Softmax { renormalise: true };
        let calls: [Call; 6] = [
            ("route", &logits, &|x| moe::route(x, 2, gating).map(drop)),
            ("permute", &x, &|x| moe::permute(x, &chosen, 6).map(drop)),
            ("grouped_linear", &matrices, &|w| moe::grouped_linear(&x, w, &ends).map(drop)),
            ("unpermute", &y, &|y| moe::unpermute(y, &places, &weights).map(drop)),
            ("unpermute_onto", &y, &|y| moe::unpermute_onto(&x, y, &places, &weights).map(drop)),
            ("paged_attention", &q, &|q| paged_attention(q, &pool, &pool, &table, &lengths, 1.).map(drop)),
        ];
        let ours = ["route", "group", "permute", "grouped", "unpermute", "attend_paged", "join"];
        for (name, operand, call) in calls {
            let variable = Var::from_tensor(operand)?;
            for (how, (result, launched)) in [
                ("recorded", self.watched(|| call(&variable))),
                ("plain", self.watched(|| ops::decomposed(|| call(operand)))),
            ] {
                let said = result.expect_err("the stub has no kernel of candle").to_string();
                let of_candle = ["NOT_FOUND", "500", "CublasError"].iter().any(|part| said.contains(part));
                assert!(of_candle, "{name}, {how}: {said}");
                let of_ours = |kernel: &String| ours.iter().any(|name| kernel.starts_with(name));
                assert!(!launched.iter().any(of_ours), "{name}, {how}: {launched:?}");
            }
            call(operand).unwrap_or_else(|error| panic!("{name} by our kernels: {error}"));
        }
        Ok(())
    }

    fn bad_routing(&self) -> Result<()> {
        let mut logits = vec![0.5f32; 12];
        logits[6 + 4] = f32::NAN;
        let logits = Tensor::from_vec(logits, (2, 6), &Device::Cpu)?.to_device(&self.device)?;
        let weights = values(&moe::route(&logits, 2, Gating::Softmax { renormalise: true })?.0)?;
        assert!(
            weights[..2].iter().all(|x| (x - 0.5).abs() < 1e-6) && weights[2..].iter().all(|x| x.is_nan()),
            "{weights:?}"
        );
        let ones = |dims: &[usize]| {
            Tensor::from_vec(vec![1f32; dims.iter().product()], dims, &Device::Cpu)?.to_device(&self.device)
        };
        let chosen = Tensor::from_slice(&[0u32, 1, 3, 7], (2, 2), &Device::Cpu)?.to_device(&self.device)?;
        let permuted = moe::permute(&ones(&[2, 4])?, &chosen, 6)?;
        let y = moe::grouped_linear(&permuted.rows, &ones(&[6, 3, 4])?, &permuted.ends)?;
        let sums = values(&moe::unpermute(&y, &permuted.places, &ones(&[2, 2])?)?)?;
        assert!(sums[..3] == [8.; 3] && sums[3..].iter().all(|x| x.is_nan()), "{sums:?}");
        Ok(())
    }
}
