//! Safetensors files: mapped, in memory, and written.
//!
//! Elements go from the mapped file to the device; no second copy of them is made on the host.

use crate::acl::MappedFile;
use crate::{DType, Device, Error, Result, Tensor, bail};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Tensors of a file by name.
pub trait Load {
    fn load(&self, device: &Device) -> Result<Tensor>;
}

impl Load for TensorView<'_> {
    fn load(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_raw_buffer(self.data(), element_type(self.dtype())?, self.shape(), device)
    }
}

/// The element type of a tensor in a file; booleans are U8.
fn element_type(dtype: Dtype) -> Result<DType> {
    match dtype {
        Dtype::BOOL => Ok(DType::U8),
        other => to_element_type(other).ok_or_else(|| Error::UnsupportedSafeTensorDtype(other)),
    }
}

fn to_element_type(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::U8 => DType::U8,
        Dtype::U32 => DType::U32,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F8_E4M3 => DType::F8E4M3,
        _ => return None,
    })
}

fn from_element_type(dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::U8 => Dtype::U8,
        DType::U32 => Dtype::U32,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F8E4M3 => Dtype::F8_E4M3,
        other => return Err(Error::UnsupportedDTypeForOp(other, "safetensors").bt()),
    })
}

/// Mapped files of one checkpoint; each tensor is read when it is asked for.
pub struct MmapedSafetensors {
    files: Vec<MappedFile>,
    index: HashMap<String, Entry>,
}

/// Where a tensor lies.
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl MmapedSafetensors {
    /// Maps one file.
    pub fn new<P: AsRef<Path>>(path: P) -> Result<Self> {
        Self::multi(&[path])
    }

    /// Maps several files. A name that two of them hold is an error.
    pub fn multi<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        let mut index = HashMap::new();
        for (file, path) in paths.iter().enumerate() {
            let path = path.as_ref();
            let mapped = MappedFile::open(path).map_err(|error| Error::from(error).with_path(path))?;
            // `deserialize` also checks that the tensors fill the file, which `read_metadata` does not.
            SafeTensors::deserialize(mapped.bytes()).map_err(|error| Error::from(error).with_path(path))?;
            let (header, metadata) = SafeTensors::read_metadata(mapped.bytes())?;
            let data = header + size_of::<u64>();
            for (name, info) in metadata.tensors() {
                let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
                let entry = Entry { file, dtype: info.dtype, shape: info.shape.clone(), bytes };
                if let Some(first) = index.insert(name.clone(), entry) {
                    bail!("tensor {name} is in {:?} and in {path:?}", paths[first.file].as_ref())
                }
            }
            files.push(mapped);
        }
        Ok(Self { files, index })
    }

    /// The tensor `name` on `device`, in the element type of the file.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.get(name)?.load(device)
    }

    /// Every tensor of every file, in no order.
    pub fn tensors(&self) -> Result<Vec<(String, TensorView<'_>)>> {
        self.index.keys().map(|name| Ok((name.clone(), self.get(name)?))).collect()
    }

    /// Whether some file holds `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The bytes of the tensor `name`.
    pub fn get(&self, name: &str) -> Result<TensorView<'_>> {
        let Some(entry) = self.index.get(name) else {
            return Err(Error::CannotFindTensor { path: name.to_owned() }.bt());
        };
        let bytes = &self.files[entry.file].bytes()[entry.bytes.clone()];
        Ok(TensorView::new(entry.dtype, entry.shape.clone(), bytes)?)
    }
}

/// The content of a file in memory.
pub struct BufferedSafetensors {
    data: Vec<u8>,
}

impl BufferedSafetensors {
    /// Checks the header of `data`.
    pub fn new(data: Vec<u8>) -> Result<Self> {
        SafeTensors::deserialize(&data)?;
        Ok(Self { data })
    }

    /// The tensor `name` on `device`, in the element type of the file.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.get(name)?.load(device)
    }

    /// Whether the file holds `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_ok()
    }

    /// The bytes of the tensor `name`.
    pub fn get(&self, name: &str) -> Result<TensorView<'_>> {
        Ok(SafeTensors::deserialize(&self.data)?.tensor(name)?)
    }
}

/// The content of a file that is borrowed.
pub struct SliceSafetensors<'a>(SafeTensors<'a>);

impl<'a> SliceSafetensors<'a> {
    /// Checks the header of `data`.
    pub fn new(data: &'a [u8]) -> Result<Self> {
        Ok(Self(SafeTensors::deserialize(data)?))
    }

    /// The tensor `name` on `device`, in the element type of the file.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.get(name)?.load(device)
    }

    /// Whether the file holds `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_ok()
    }

    /// The bytes of the tensor `name`.
    pub fn get(&self, name: &str) -> Result<TensorView<'a>> {
        Ok(self.0.tensor(name)?)
    }
}

/// Every tensor of the file `path` on `device`.
pub fn load<P: AsRef<Path>>(path: P, device: &Device) -> Result<HashMap<String, Tensor>> {
    let path = path.as_ref();
    let file = MappedFile::open(path).map_err(|error| Error::from(error).with_path(path))?;
    load_buffer(file.bytes(), device).map_err(|error| error.with_path(path))
}

/// Every tensor of a file's content on `device`.
pub fn load_buffer(data: &[u8], device: &Device) -> Result<HashMap<String, Tensor>> {
    let content = SafeTensors::deserialize(data)?;
    content.tensors().into_iter().map(|(name, view)| Ok((name, view.load(device)?))).collect()
}

/// Writes `tensors` to the file `path`.
pub fn save<K: AsRef<str> + Ord + std::fmt::Display, P: AsRef<Path>>(
    tensors: &HashMap<K, Tensor>,
    path: P,
) -> Result<()> {
    let mut held = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        held.push((
            name.as_ref().to_owned(),
            from_element_type(tensor.dtype())?,
            tensor.dims().to_vec(),
            bytes(tensor)?,
        ));
    }
    let views = held
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize_to_file(views, None, path.as_ref())?)
}

/// The elements of `tensor` as little-endian bytes in row-major order.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    fn of<T: crate::WithDType + bytemuck::NoUninit>(tensor: &Tensor) -> Result<Vec<u8>> {
        Ok(bytemuck::cast_slice::<T, u8>(&tensor.host_values::<T>()?).to_vec())
    }
    match tensor.dtype() {
        DType::U8 => of::<u8>(tensor),
        DType::U32 => of::<u32>(tensor),
        DType::I16 => of::<i16>(tensor),
        DType::I32 => of::<i32>(tensor),
        DType::I64 => of::<i64>(tensor),
        DType::BF16 => of::<half::bf16>(tensor),
        DType::F16 => of::<half::f16>(tensor),
        DType::F32 => of::<f32>(tensor),
        DType::F64 => of::<f64>(tensor),
        DType::F8E4M3 => Ok(tensor.host_values::<float8::F8E4M3>()?.into_iter().map(|v| v.to_bits()).collect()),
        other => Err(Error::UnsupportedDTypeForOp(other, "safetensors").bt()),
    }
}

impl Tensor {
    /// Writes this tensor, as `name`, to the file `path`.
    pub fn save_safetensors<P: AsRef<Path>>(&self, name: &str, path: P) -> Result<()> {
        save(&HashMap::from([(name, self.clone())]), path)
    }
}
