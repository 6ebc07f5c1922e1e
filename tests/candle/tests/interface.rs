//! What candle-core and candle-nn offer by name, candle-ascend and candle-ascend-nn offer too, or say here why not.
//!
//! The names are read from the sources, cargo's copies of theirs and the repository's of ours: whether a method does
//! the right thing is for the tests that call it.

#[path = "interface/names.rs"]
mod names;

use names::{Items, Words};
use std::collections::BTreeSet;
use std::path::Path;

/// Methods of `candle_core::Tensor` that are left out, and why.
const TENSOR_OMISSIONS: &[(&str, &str)] = &[
    ("from_storage", "takes candle's storage and its record of gradients, which are of its own devices"),
    ("strided_index", "walks a layout for kernels on the host, which candle keeps to itself where layouts are public"),
    ("strided_blocks", "as strided_index"),
    ("sorted_nodes", "the order that candle's backward walks in; ours counts uses instead"),
];

/// Methods of `candle_core::Device` that are left out, and why.
const DEVICE_OMISSIONS: &[(&str, &str)] = &[("as_metal_device", "there is no Metal device to give")];

/// Items of candle-nn that are left out, by `module` or `module::item`, and why.
const NN_OMISSIONS: &[(&str, &str)] = &[
    ("moe::cutile", "kernels for CUDA by another compiler"),
    ("moe::MoeInputMode", "as moe::cutile"),
    ("moe::MoeRouting", "as moe::cutile"),
    ("moe::routed_grouped_matmul", "as moe::cutile"),
    ("moe::warmup_routed_grouped_matmul", "as moe::cutile"),
    ("cpu_flash_attention", "a deprecated name for attention::flash_attn"),
    ("attention::run_causal_attn_cpu", "a kernel for the CPU behind attention::flash_attn, which every device has"),
    ("attention::standard", "as attention::run_causal_attn_cpu"),
    ("attention::run_flash_attn_cpu", "as attention::run_causal_attn_cpu"),
    ("var_builder::SafeTensorWithRouting", "has no constructor in candle either"),
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).expect("tests/candle lies in the repository")
}

/// The reason for which `name`, or a module or type that it lies in, is left out.
fn omitted<'a>(omissions: &'a [(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    let covers =
        |omission: &str| name == omission || name.strip_prefix(omission).is_some_and(|rest| rest.starts_with("::"));
    omissions.iter().find(|(omission, _)| covers(omission)).map(|(omission, _)| *omission)
}

/// Fails for names of theirs that are neither ours nor omitted, and for omissions that are not needed.
fn compare(what: &str, theirs: &BTreeSet<String>, ours: impl Fn(&str) -> bool, omissions: &[(&str, &str)]) {
    let missing: Vec<_> = theirs.iter().filter(|name| !ours(name) && omitted(omissions, name).is_none()).collect();
    let used: BTreeSet<_> =
        theirs.iter().filter(|name| !ours(name)).filter_map(|name| omitted(omissions, name)).collect();
    let stale: Vec<_> = omissions.iter().map(|(name, _)| *name).filter(|name| !used.contains(name)).collect();
    println!("{what}: {} of candle's, {} left out", theirs.len(), theirs.iter().filter(|name| !ours(name)).count());
    assert!(missing.is_empty(), "{what} lacks, without a reason in the table of omissions: {missing:?}");
    assert!(stale.is_empty(), "{what}: omissions that candle does not have or that are there by now: {stale:?}");
}

#[test]
fn every_method_of_the_tensor_is_here_or_left_out_for_a_reason() {
    let theirs = names::methods_of("Tensor", Path::new(env!("CANDLE_CORE_SOURCES")));
    assert!(
        theirs.contains("matmul") && theirs.contains("silu"),
        "candle's sources do not read as they did: {theirs:?}"
    );
    let ours = names::methods_of("Tensor", &repository().join("backend/core/src"));
    compare("Tensor", &theirs, |name| ours.contains(name), TENSOR_OMISSIONS);
}

#[test]
fn every_method_of_devices_and_variables_is_here_or_left_out_for_a_reason() {
    for (of, known, omissions) in [("Device", "set_seed", DEVICE_OMISSIONS), ("Var", "from_tensor", &[])] {
        let theirs = names::methods_of(of, Path::new(env!("CANDLE_CORE_SOURCES")));
        assert!(theirs.contains(known), "candle's sources do not read as they did: {theirs:?}");
        let ours = names::methods_of(of, &repository().join("backend/core/src"));
        compare(of, &theirs, |name| ours.contains(name), omissions);
    }
}

#[test]
fn every_item_of_candle_nn_is_here_or_left_out_for_a_reason() {
    let theirs = Items::of(Path::new(env!("CANDLE_NN_SOURCES")));
    assert!(theirs.0.contains("kv_cache::KvCache::append"), "candle's sources do not read as they did");
    let ours = Items::of(&repository().join("backend/nn/src"));
    // Types that a macro makes are words of its invocation, and so are their methods' names words of its definition.
    let words = Words::of_macros(&repository().join("backend/nn/src"));
    let has = |name: &str| ours.0.contains(name) || name.split("::").skip(1).all(|part| words.contains(part));
    compare("candle-nn", &theirs.0, has, NN_OMISSIONS);
}
