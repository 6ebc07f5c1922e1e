//! Gradients by the tensor that they belong to.

use crate::{Result, Tensor, TensorId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The gradients of the variables that a value was computed from, by the identity of the variable.
#[derive(Default, Debug)]
pub struct GradStore(HashMap<TensorId, Tensor>);

impl GradStore {
    pub fn get_id(&self, id: TensorId) -> Option<&Tensor> {
        self.0.get(&id)
    }

    /// The gradient of `tensor`; none if nothing that was differentiated depends on it.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.0.get(&tensor.id())
    }

    /// Takes the gradient of `tensor` out.
    pub fn remove(&mut self, tensor: &Tensor) -> Option<Tensor> {
        self.0.remove(&tensor.id())
    }

    /// Sets the gradient of `tensor`; the previous one is returned.
    pub fn insert(&mut self, tensor: &Tensor, grad: Tensor) -> Option<Tensor> {
        self.0.insert(tensor.id(), grad)
    }

    pub fn insert_id(&mut self, id: TensorId, grad: Tensor) -> Option<Tensor> {
        self.0.insert(id, grad)
    }

    /// Adds the gradients of another store, as accumulation over several passes wants it.
    pub fn extend(&mut self, other: Self) -> Result<()> {
        for (id, grad) in other.0 {
            match self.0.entry(id) {
                Entry::Occupied(mut held) => {
                    let sum = held.get().add(&grad)?.detach();
                    held.insert(sum);
                }
                Entry::Vacant(free) => {
                    free.insert(grad);
                }
            }
        }
        Ok(())
    }

    /// Whose gradients are held, in no order.
    pub fn get_ids(&self) -> impl Iterator<Item = &TensorId> {
        self.0.keys()
    }
}
