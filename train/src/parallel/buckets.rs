//! How parameters lie in flat buckets, which is how their gradients travel.

use candle_ascend::DType;
use npu_models::Parameter;
use std::cmp::Reverse;

/// Elements that share a scale in an optimizer's 8-bit state. A parameter begins at a multiple of them, so that its blocks are
/// the same however many ranks there are.
pub(crate) const BLOCK: usize = 256;

/// Where a parameter lies in its bucket, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Place in the list of parameters.
    pub parameter: usize,
    pub offset: usize,
    pub count: usize,
}

/// Parameters whose gradients go over the wire in one call.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub kind: Kind,
    pub members: Vec<Member>,
    /// Elements, padding included.
    pub count: usize,
}

/// What all of a bucket has in common, because one slot of the optimizer may take a piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub dtype: DType,
    /// Whether the optimizer's weight decay applies.
    pub decays: bool,
}

/// Puts the parameters into buckets, each closed once it has `bytes` bytes of F32: from the last to the first, because that
/// is how backward comes to them. Each divides into whole blocks for `ranks` ranks, whether it is divided or not: so the
/// wire adds up in the same order, and the sums are the same to the last bit.
pub(crate) fn lay_out(
    parameters: &[Parameter],
    bytes: usize,
    ranks: usize,
    kind: impl Fn(&Parameter) -> Kind,
) -> Vec<Bucket> {
    let (mut open, mut closed): (Vec<Bucket>, Vec<Bucket>) = Default::default();
    for (place, parameter) in parameters.iter().enumerate().rev() {
        let kind = kind(parameter);
        let mut bucket = match open.iter().position(|bucket| bucket.kind == kind) {
            Some(at) => open.swap_remove(at),
            None => Bucket { kind, members: Vec::new(), count: 0 },
        };
        let (offset, count) = (bucket.count.next_multiple_of(BLOCK), parameter.var.elem_count());
        bucket.members.push(Member { parameter: place, offset, count });
        bucket.count = offset + count;
        if bucket.count * DType::F32.size_in_bytes() >= bytes { closed.push(bucket) } else { open.push(bucket) }
    }
    closed.append(&mut open);
    for bucket in &mut closed {
        bucket.count = bucket.count.next_multiple_of(BLOCK * ranks);
    }
    // A bucket is complete with the first of its parameters, and they are sent in this order.
    closed.sort_by_key(|bucket| Reverse(bucket.members.last().map(|member| member.parameter)));
    closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_ascend::{Device, Var};

    fn parameters(counts: &[usize]) -> Vec<Parameter> {
        let parameter = |&count: &usize| Parameter {
            parts: vec![("w".into(), count)],
            var: Var::zeros(count, DType::F32, &Device::Cpu).unwrap(),
        };
        counts.iter().map(parameter).collect()
    }

    /// Parameters and offsets of each bucket, and its elements.
    fn places(buckets: &[Bucket]) -> Vec<(Vec<(usize, usize)>, usize)> {
        let of = |bucket: &Bucket| {
            let members = bucket.members.iter().map(|member| (member.parameter, member.offset)).collect();
            (members, bucket.count)
        };
        buckets.iter().map(of).collect()
    }

    #[test]
    fn buckets_follow_backward_are_of_one_kind_and_divide_into_blocks() {
        let kind = |p: &Parameter| Kind { dtype: DType::F32, decays: p.var.elem_count() > 1 };
        let buckets = lay_out(&parameters(&[300, 1, 1, 10, 700]), 4096, 2, kind);
        // The one-element parameters wait for each other; the bucket that is complete first comes first.
        assert_eq!(places(&buckets), [(vec![(2, 0), (1, 256)], 512), (vec![(4, 0), (3, 768), (0, 1024)], 1536)]);
    }
}
