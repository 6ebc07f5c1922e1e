//! One text over candle-nn and over this crate, on the CPU and on the simulated NPU: caches, attention over packed and
//! unpacked sequences, recurrent layers, norms over channels, convolution layers, encodings, builders.

// The closures in the macro give `?` in a text something to return from.
#![allow(clippy::redundant_closure_call)]

use std::sync::{Arc, OnceLock};

fn devices() -> Vec<candle_ascend::Device> {
    static NPU: OnceLock<candle_ascend::Device> = OnceLock::new();
    let npu = NPU.get_or_init(|| {
        candle_ascend::register_simulator(|soc| Ok(Arc::new(cann_sim::Embedded::for_soc(soc)?)));
        candle_ascend::Device::new_sim("", 0).expect("the simulated NPU opens")
    });
    vec![candle_ascend::Device::Cpu, npu.clone()]
}

/// Deterministic values in [-2, 2).
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// Shape and elements of tensors of either library.
macro_rules! read {
    ($what:expr, $candle:ident, $tensors:expr) => {
        $tensors
            .and_then(|tensors| {
                let read = |t: &$candle::Tensor| {
                    Ok((t.dims().to_vec(), t.to_dtype($candle::DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
                };
                tensors.iter().map(read).collect::<$candle::Result<Vec<_>>>()
            })
            .unwrap_or_else(|error| panic!("{}: {error}", $what))
    };
}

/// 1e-5: both sides sum in F32, in different orders, over at most a few dozen terms below 4.
#[track_caller]
fn compare(what: &str, got: &[(Vec<usize>, Vec<f32>)], wanted: &[(Vec<usize>, Vec<f32>)]) {
    assert_eq!(got.len(), wanted.len(), "{what}: number of tensors");
    for (n, ((got_dims, got), (wanted_dims, wanted))) in got.iter().zip(wanted).enumerate() {
        assert_eq!(got_dims, wanted_dims, "{what}: shape of tensor {n}");
        for (i, (a, b)) in got.iter().zip(wanted).enumerate() {
            let same = a == b || (a - b).abs() <= 1e-5 * b.abs().max(1.);
            assert!(same, "{what}: tensor {n}, element {i} is {a}, candle-nn has {b}");
        }
    }
}

/// Runs one text over both libraries. In it `candle` and `nn` are one of them and `$random(dims, seed)` makes a tensor.
macro_rules! same {
    ($what:expr, |$device:ident, $random:ident| $body:block) => {{
        let wanted = {
            #[allow(unused_imports)]
            use {candle_core as candle, candle_nn as nn};
            let run = |$device: &candle::Device| -> candle::Result<Vec<candle::Tensor>> {
                let $random = |dims: &[usize], seed: u64| {
                    candle::Tensor::from_vec(values(dims.iter().product(), seed), dims, $device)
                };
                $body
            };
            read!(format!("{} over candle", $what), candle, run(&candle::Device::Cpu))
        };
        for device in devices() {
            #[allow(unused_imports)]
            use {candle_ascend as candle, candle_ascend_nn as nn};
            let run = |$device: &candle::Device| -> candle::Result<Vec<candle::Tensor>> {
                let $random = |dims: &[usize], seed: u64| {
                    candle::Tensor::from_vec(values(dims.iter().product(), seed), dims, $device)
                };
                $body
            };
            let what = format!("{} on {}", $what, device.kind());
            let got = read!(what, candle, run(&device));
            compare(&what, &got, &wanted);
        }
    }};
}

#[test]
fn rotating_caches() {
    // Steps that fill the ring, wrap it, and are longer than it.
    for steps in [&[3usize, 1, 1, 1, 1, 1][..], &[2, 3, 4, 2], &[7, 1, 2], &[5, 5, 1]] {
        same!(format!("steps {steps:?}"), |device, random| {
            let mut cache = nn::kv_cache::RotatingKvCache::new(2, 5);
            let mut seen = Vec::new();
            for (n, &step) in steps.iter().enumerate() {
                let positions: Vec<u32> = cache.positions(step).into_iter().map(|p| p as u32).collect();
                seen.push(candle::Tensor::new(positions, device)?);
                seen.extend(cache.attn_mask(step, device)?);
                let (k, v) = (random(&[1, 2, step, 3], n as u64)?, random(&[1, 2, step, 3], 50 + n as u64)?);
                let (k, v) = cache.append(&k, &v)?;
                seen.extend([k, v]);
                seen.extend(cache.k()?);
                seen.push(candle::Tensor::new(&[cache.offset() as u32, cache.current_seq_len() as u32], device)?);
            }
            Ok(seen)
        });
    }
}

#[test]
fn scattered_caches() {
    same!("scattered", |device, random| {
        let mut builder = nn::kv_cache::ScatteredCacheBuilder::new(3, 5, candle::DType::F32, device)?;
        let mut cache = builder.make_cache(2, 4)?;
        let mut seen = Vec::new();
        let steps =
            [(2, [true, true, false]), (2, [true, false, true]), (3, [true, true, true]), (1, [false, true, true])];
        for (n, (step, moves)) in steps.into_iter().enumerate() {
            let place = builder.indices_and_mask(step, &moves)?;
            let (k, v) = (random(&[3, 2, step, 4], n as u64)?, random(&[3, 2, step, 4], 70 + n as u64)?);
            let (k, v) = cache.append(&k, &v, &place)?;
            seen.extend([k, v, place.mask().clone()]);
            builder.reset_batch_index(2);
        }
        let whole = builder.indices_and_mask(6, &[true; 3])?;
        let (k, v) = cache.append(&random(&[3, 2, 6, 4], 9)?, &random(&[3, 2, 6, 4], 10)?, &whole)?;
        seen.extend([k, v, whole.mask().clone()]);
        let positions: Vec<u32> = builder.positions().iter().map(|&p| p as u32).collect();
        seen.push(candle::Tensor::new(positions, device)?);
        Ok(seen)
    });
}

#[test]
fn growing_caches() {
    same!("concatenated and interleaved", |_device, random| {
        let mut concat = nn::kv_cache::ConcatKvCache::new(2);
        let mut interleaved = nn::kv_cache::InterleavedKvCache::new(4);
        let mut seen = Vec::new();
        for (n, step) in [4usize, 1, 2].into_iter().enumerate() {
            // Transposed, as projections are.
            let (k, v) = (random(&[1, step, 3, 4], n as u64)?, random(&[1, step, 3, 4], 90 + n as u64)?);
            let (k, v) = (k.transpose(1, 2)?, v.transpose(1, 2)?);
            seen.push(interleaved.append(&k, &v)?);
            let (k, v) = concat.append(&k, &v)?;
            seen.extend([k, v]);
        }
        assert_eq!((concat.current_seq_len(), interleaved.current_seq_len()), (7, 7));
        concat.reset();
        assert!(concat.is_empty());
        Ok(seen)
    });
}

#[test]
fn decoding_in_host_memory() {
    for (heads, groups) in [(4usize, 2usize), (6, 2), (3, 3)] {
        same!(format!("{heads} heads over {groups}"), |device, _random| {
            let mut cache = nn::kv_cache::RawInterleavedKvCache::new(groups, 4, 2);
            cache.write_kv_batch(&values(2 * groups * 4, 1), &values(2 * groups * 4, 2), 2);
            for step in 0..3 {
                cache.write_kv(&values(groups * 4, 10 + step), &values(groups * 4, 20 + step));
            }
            let mut q = values(heads * 4, 3);
            nn::kv_cache::rope_i_inplace(&mut q, &[0.5, -0.25], &[0.75, 1.5], heads, 4);
            let (data, held) = (cache.data().to_vec(), cache.len());
            let attend = nn::attention::cpu_flash::causal::causal_decode_f32_interleaved;
            let out = attend(&q, &data, heads, groups, 4, held, 0.5)?;
            cache.reset();
            assert!(cache.is_empty());
            Ok(vec![out, candle::Tensor::new(data, device)?, candle::Tensor::new(q, device)?])
        });
    }
}

#[test]
fn attention_of_candle_s_cpu_path() {
    use std::f32::consts::FRAC_1_SQRT_2;
    for (max_bias, softcap) in [(None, None), (Some(8f32), None), (None, Some(3f32)), (Some(4.), Some(5.))] {
        for (queries, keys, offset) in [(4usize, 4usize, 0usize), (2, 7, 5), (1, 6, 5)] {
            // candle's kernel for one query biases keys by their distance when only a cap is asked for.
            if queries == 1 && max_bias.is_none() && softcap.is_some() {
                continue;
            }
            same!(format!("bias {max_bias:?}, cap {softcap:?}, {queries} on {keys}"), |_device, random| {
                let q = random(&[1, queries, 4, 8], 1)?;
                let (k, v) = (random(&[1, keys, 2, 8], 2)?, random(&[1, keys, 2, 8], 3)?);
                let mask = nn::attention::AttnMask::causal_with_offset(offset);
                let causal = nn::attention::flash_attn::<f32>(&q, &k, &v, FRAC_1_SQRT_2, mask, max_bias, softcap)?;
                let mask = nn::attention::AttnMask::Mask(random(&[queries, keys], 4)?);
                let masked = nn::attention::flash_attn::<f32>(&q, &k, &v, FRAC_1_SQRT_2, mask, max_bias, softcap)?;
                Ok(vec![causal, masked])
            });
        }
    }
    same!("a batch", |_device, random| {
        let (q, k, v) = (random(&[3, 5, 4, 8], 1)?, random(&[3, 5, 2, 8], 2)?, random(&[3, 5, 2, 8], 3)?);
        let all = nn::attention::flash_attn::<f32>(&q, &k, &v, 0.3, nn::attention::AttnMask::None, None, None)?;
        let causal = nn::attention::AttnMask::causal();
        Ok(vec![all, nn::attention::flash_attn::<f32>(&q, &k, &v, 0.3, causal, None, None)?])
    });
}

#[test]
fn attention_over_packed_sequences() {
    for (causal, left, right) in
        [(false, None, None), (true, None, None), (false, Some(2), Some(1)), (false, Some(1), None)]
    {
        for slopes in [false, true] {
            same!(format!("causal {causal}, window {left:?} {right:?}, slopes {slopes}"), |device, random| {
                let (q, k, v) = (random(&[9, 4, 8], 1)?, random(&[12, 2, 8], 2)?, random(&[12, 2, 8], 3)?);
                let (lq, lk) =
                    (candle::Tensor::new(&[3u32, 5, 1], device)?, candle::Tensor::new(&[3u32, 5, 4], device)?);
                let slopes = if slopes { Some(random(&[4], 4)?.abs()?) } else { None };
                let out = nn::attention::flash_attn_varlen_unfused(
                    &q,
                    &k,
                    &v,
                    slopes.as_ref(),
                    &lq,
                    &lk,
                    5,
                    5,
                    0.3,
                    causal,
                    left,
                    right,
                )?;
                Ok(vec![out])
            });
        }
    }
}

#[test]
fn rotary_of_every_layout() {
    same!("rotary", |_device, random| {
        let (x, cos, sin) = (random(&[2, 3, 5, 8], 1)?, random(&[6, 4], 2)?, random(&[6, 4], 3)?);
        Ok(vec![
            nn::rotary_emb::rope(&x, &cos, &sin)?,
            nn::rotary_emb::rope_slow(&x, &cos, &sin)?,
            nn::rotary_emb::rope_i(&x, &cos, &sin)?,
            nn::rotary_emb::rope_i_slow(&x, &cos, &sin)?,
            nn::rotary_emb::rope_thd(&x.transpose(1, 2)?.contiguous()?, &cos, &sin)?,
        ])
    });
}

#[test]
fn recurrent_layers() {
    same!("lstm and gru", |device, random| {
        use nn::RNN as _;
        let mut weights = std::collections::HashMap::new();
        for (layer, gates) in [("lstm", 4), ("gru", 3)] {
            let suffix = if layer == "lstm" { "l1_reverse" } else { "l0" };
            for (n, (name, dims)) in [
                ("weight_ih", vec![gates * 5, 3]),
                ("weight_hh", vec![gates * 5, 5]),
                ("bias_ih", vec![gates * 5]),
                ("bias_hh", vec![gates * 5]),
            ]
            .into_iter()
            .enumerate()
            {
                weights.insert(format!("{layer}.{name}_{suffix}"), random(&dims, gates as u64 * 10 + n as u64)?);
            }
        }
        let vb = nn::VarBuilder::from_tensors(weights, candle::DType::F32, device);
        let config =
            nn::rnn::LSTMConfig { layer_idx: 1, direction: nn::rnn::Direction::Backward, ..Default::default() };
        let (lstm, gru) = (nn::lstm(3, 5, config, vb.pp("lstm"))?, nn::gru(3, 5, Default::default(), vb.pp("gru"))?);
        let x = random(&[2, 4, 3], 7)?;
        let states = lstm.seq(&x)?;
        Ok(vec![lstm.states_to_tensor(&states)?, states[3].c().clone(), gru.states_to_tensor(&gru.seq(&x)?)?])
    });
}

#[test]
fn norms_over_channels() {
    same!("batch and group norm", |_device, random| {
        use nn::{Module as _, ModuleT as _};
        let (mean, variance) = (random(&[6], 1)?, random(&[6], 2)?.abs()?);
        let (weight, bias) = (random(&[6], 3)?, random(&[6], 4)?);
        let norm = nn::BatchNorm::new(6, mean, variance, weight.clone(), bias.clone(), 1e-5)?;
        let x = random(&[3, 6, 2, 5], 5)?;
        let before = norm.forward_t(&x, false)?;
        let training = norm.forward_t(&x, true)?;
        let after = norm.forward_t(&x, false)?;
        let groups = nn::GroupNorm::new(weight.clone(), bias.clone(), 6, 3, 1e-5)?.forward(&x)?;
        let rows = x.flatten(1, 3)?.narrow(1, 0, 6)?;
        let layer = nn::ops::layer_norm_slow(&rows, &weight, &bias, 1e-5)?;
        Ok(vec![before, training, after, norm.running_mean().clone(), norm.running_var().clone(), groups, layer])
    });
}

#[test]
fn convolution_layers() {
    same!("layers", |_device, random| {
        use nn::Module as _;
        let config = nn::Conv2dConfig { padding: 1, stride: 2, groups: 2, ..Default::default() };
        let conv2d = nn::Conv2d::new(random(&[6, 2, 3, 3], 1)?, Some(random(&[6], 2)?), config);
        let config = nn::Conv1dConfig { padding: 1, dilation: 2, ..Default::default() };
        let (mean, variance) = (random(&[6], 11)?, random(&[6], 12)?.abs()?);
        let norm = nn::BatchNorm::new(6, mean, variance, random(&[6], 13)?, random(&[6], 14)?, 1e-5)?;
        let absorbed = conv2d.absorb_bn(&norm)?;
        let conv1d = nn::Conv1d::new(random(&[5, 4, 2], 3)?, None, config);
        let config = nn::ConvTranspose2dConfig { stride: 2, output_padding: 1, ..Default::default() };
        let up = nn::ConvTranspose2d::new(random(&[4, 3, 2, 2], 4)?, Some(random(&[3], 5)?), config);
        let x = random(&[2, 4, 7, 6], 6)?;
        Ok(vec![
            conv2d.forward(&x)?,
            absorbed.forward(&x)?,
            conv1d.forward(&x.narrow(3, 0, 1)?.squeeze(3)?)?,
            up.forward(&x)?,
        ])
    });
}

#[test]
fn functions_on_pixels_and_scores() {
    same!("pixels", |_device, random| {
        let x = random(&[2, 8, 4, 6], 1)?;
        Ok(vec![
            nn::ops::pixel_shuffle(&x, 2)?,
            nn::ops::pixel_unshuffle(&x, 2)?,
            nn::ops::replication_pad2d(&x, 1)?,
            nn::ops::softmax(&x, 1)?,
        ])
    });
}

#[test]
fn encodings() {
    same!("one hot", |device, _random| {
        let indexes = candle::Tensor::new(&[[0i64, 3], [-1, 2]], device)?;
        let hot = nn::encoding::one_hot(indexes.clone(), 4, 2f32, 0.5f32)?;
        for wrong in [&[4i64][..], &[-2]] {
            let wrong = candle::Tensor::new(wrong, device)?;
            assert!(nn::encoding::one_hot(wrong, 4, 1f32, 0f32).is_err());
        }
        Ok(vec![hot])
    });
    same!("the largest logit", |_device, random| {
        Ok(vec![nn::sampling::gumbel_softmax(&random(&[3, 7], 1)?, 0., 1)?])
    });
}

#[test]
fn gumbel_noise_follows_the_softmax() {
    use candle_ascend::Tensor;
    for device in devices() {
        let logits = Tensor::new(&[[0f32, 1., 2.]], &device).and_then(|t| t.broadcast_as((4000, 3))).expect("logits");
        let drawn = candle_ascend_nn::sampling::gumbel_softmax(&logits, 1., 1).and_then(|t| t.to_vec1::<u32>());
        let drawn = drawn.expect("indexes");
        let total: f64 = (0..3).map(|i| f64::from(i).exp()).sum();
        for class in 0..3u32 {
            let share = drawn.iter().filter(|&&index| index == class).count() as f64 / drawn.len() as f64;
            let wanted = f64::from(class).exp() / total;
            // Five standard deviations of the share of 4000 draws.
            let bound = 5. * (wanted * (1. - wanted) / 4000.).sqrt();
            assert!((share - wanted).abs() < bound, "class {class} on {}: {share}, wanted {wanted}", device.kind());
        }
    }
}

#[test]
fn builders_over_files_and_other_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    let npz = folder.path().join("weights.npz");
    same!("builders", |device, random| {
        let tensors = std::collections::HashMap::from([("a.b".to_owned(), random(&[4, 6], 1)?)]);
        candle::safetensors::save(&tensors, &path)?;
        candle::Tensor::write_npz(&[("a.b", &tensors["a.b"])], &npz)?;
        let dtype = candle::DType::F32;
        let bytes = std::fs::read(&path).map_err(candle::Error::wrap)?;
        let over_slice = nn::VarBuilder::from_slice_safetensors(&bytes, dtype, device)?;
        let over_npz = nn::VarBuilder::from_npz(&npz, dtype, device)?;
        let renamed = nn::VarBuilder::from_buffered_safetensors(bytes.clone(), dtype, device)?;
        let renamed = renamed.rename_f(|name: &str| name.replace("other", "a"));
        let narrow =
            nn::VarBuilder::from_npz(&npz, candle::DType::F64, device)?.set_dtype(dtype).set_device(device.clone());
        assert!(over_npz.get((4, 6), "missing").is_err() && over_slice.get((6, 4), "a.b").is_err());
        assert!(renamed.contains_tensor("other.b") && !renamed.contains_tensor("b"));
        Ok(vec![
            over_slice.pp("a").get((4, 6), "b")?,
            over_npz.get((4, 6), "a.b")?,
            renamed.pp("other").get((4, 6), "b")?,
            narrow.get_unchecked("a.b")?,
        ])
    });
}

#[test]
fn a_shard_is_a_part_of_the_tensor() {
    // candle's builder is unsafe to make, so the tensor itself is what this is held against.
    use candle_ascend::{DType, Tensor, safetensors};
    use candle_ascend_nn::var_builder::{Shard, ShardedSafeTensors};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    for device in devices() {
        let whole = Tensor::from_vec(values(24, 1), (4, 6), &device).expect("tensor");
        safetensors::save(&std::collections::HashMap::from([("a.b", whole.clone())]), &path).expect("saves");
        let builder = ShardedSafeTensors::var_builder(&[&path], DType::F32, &device).expect("a builder");
        let part = |dim, rank, world_size| builder.get_with_hints((4, 6), "a.b", Shard { dim, rank, world_size });
        let read = |tensor: &Tensor| tensor.to_vec2::<f32>().expect("values");
        assert_eq!(read(&builder.get((4, 6), "a.b").expect("whole")), read(&whole));
        for (dim, world_size) in [(0, 2), (0, 4), (1, 2), (1, 3)] {
            let size = whole.dims()[dim] / world_size;
            for rank in 0..world_size {
                let wanted = whole.narrow(dim, rank * size, size).expect("a part");
                assert_eq!(
                    read(&part(dim, rank, world_size).expect("a shard")),
                    read(&wanted),
                    "{rank} of {world_size}"
                );
            }
        }
        for (dim, rank, world_size, word) in [(0, 0, 3, "3"), (2, 0, 2, "dimension 2"), (0, 2, 2, "rank 2")] {
            let error = part(dim, rank, world_size).expect_err("no such part").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
