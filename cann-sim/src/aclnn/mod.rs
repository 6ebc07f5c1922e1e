//! The aclnn interface: tensors and other host objects, and the two phases of every operator of the table.

pub mod call;
pub mod decode;
pub mod exports;
pub mod meta;
pub mod objects;
pub mod tensor;

pub use call::{Call, Kernel, Launch};
pub use decode::{Scalar, TensorList};
pub use tensor::{Tensor, TensorMeta};
