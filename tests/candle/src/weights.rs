//! Random weights for whatever a model asks for, by name and shape.

use crate::decoders;
use candle::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Builds model `file` on the CPU from random weights and writes them as the safetensors file `path`.
pub fn write_weights(file: &str, path: &Path) -> Result<()> {
    let made = Arc::new(Mutex::new(HashMap::new()));
    let source = Box::new(Seeded { made: made.clone() });
    drop(decoders::load(file, VarBuilder::from_backend(source, DType::F32, Device::Cpu))?);
    let made = made.lock().expect("no thread panicked with the lock");
    candle::safetensors::save(&made, path)
}

/// Tensors drawn from a generator that their name seeds, so that the order of asking does not matter.
struct Seeded {
    made: Arc<Mutex<HashMap<String, Tensor>>>,
}

impl SimpleBackend for Seeded {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let seed =
            name.bytes().fold(0xcbf29ce484222325, |hash: u64, byte| (hash ^ byte as u64).wrapping_mul(0x100000001b3));
        let mut rng = StdRng::seed_from_u64(seed);
        let count = shape.elem_count();
        // Vectors scale or shift (those of norms around one); matrices keep the size of what they multiply.
        let values: Vec<f32> = match shape.dims() {
            [_] if name.ends_with("bias") => (0..count).map(|_| rng.random_range(-0.2..0.2)).collect(),
            [_] => (0..count).map(|_| rng.random_range(0.7..1.3)).collect(),
            dims => {
                let bound = (3. / *dims.last().unwrap_or(&1) as f32).sqrt();
                (0..count).map(|_| rng.random_range(-bound..bound)).collect()
            }
        };
        let tensor = Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?;
        self.made.lock().expect("no thread panicked with the lock").insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle::bail!("{name} is asked for without a shape, which random weights need")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
