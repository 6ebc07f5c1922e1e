//! Every declaration of the -sys crates against the facts of the two CANN releases.

use std::fs;
use xtask::compare::differences;
use xtask::declared::Declared;
use xtask::facts::Facts;

const OLD: &str = "8.1";
const NEW: &str = "9.1";

fn facts(file: &str) -> [Facts; 2] {
    let read = |file: &str| {
        let path = xtask::root().join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let mut text = read(file);
    if file == OPERATORS {
        text += &read(GENERATED);
    }
    [OLD, NEW].map(|release| Facts::parse(&text, release).unwrap_or_else(|error| panic!("{file}: {error:#}")))
}

fn compare(declared: &Declared, file: &str) -> Vec<String> {
    let [old, new] = facts(file);
    differences(declared, (OLD, &old), (NEW, &new))
}

fn assert_same(declared: &Declared, file: &str) {
    let found = compare(declared, file);
    assert!(found.is_empty(), "{} declarations contradict {file}:\n  {}", found.len(), found.join("\n  "));
}

const ACL: &str = "acl-sys/tests/facts/acl.txt";
const OPERATORS: &str = "acl-sys/tests/facts/aclnnop.txt";
/// What the 9.1 facts cannot show, because those headers are made when CANN is built.
const GENERATED: &str = "acl-sys/tests/facts/aclnnop_generated.txt";
const HCCL: &str = "hccl-sys/tests/facts/hccl.txt";

#[test]
fn the_runtime_is_declared_as_it_is() {
    assert_same(&Declared::acl(), ACL);
}

#[test]
fn the_operators_are_declared_as_they_are() {
    assert_same(&Declared::operators(), OPERATORS);
}

#[test]
fn the_collectives_are_declared_as_they_are() {
    assert_same(&Declared::hccl(), HCCL);
}

/// Static inlines of the headers, which no library exports: a row for them could never be called.
const INLINE: [&str; 6] = [
    "HcclChannelDescInit",
    "HcclCommConfigInit",
    "HcclKernelLaunchCfgInit",
    "HcclOpDescInit",
    "HcclTeamCreateChannelsDescInit",
    "HcclTeamCreateDescInit",
];

#[test]
fn every_collective_is_declared_but_the_inlines() {
    let declared = Declared::hccl().facts.functions;
    for (release, facts) in [OLD, NEW].iter().zip(facts(HCCL)) {
        let missing: Vec<_> = facts
            .functions
            .keys()
            .filter(|name| !declared.contains_key(*name) && !INLINE.contains(&name.as_str()))
            .collect();
        assert!(missing.is_empty(), "{release}: {missing:?} are not declared");
    }
    assert!(INLINE.iter().all(|name| !declared.contains_key(*name)), "an inline is declared as a symbol");
}

/// The differences that `change` of the declaration `name` brings: about `name`, and about nothing else.
fn caught(name: &str, mut declared: Declared, file: &str, change: impl FnOnce(&mut Declared)) -> String {
    change(&mut declared);
    let found = compare(&declared, file);
    assert!(!found.is_empty(), "the wrong declaration of {name} is not caught");
    assert!(found.iter().all(|line| line.starts_with(name)), "{found:#?}");
    found[0].clone()
}

#[test]
fn a_wrong_number_of_parameters_is_caught() {
    let found = caught("aclrtMalloc", Declared::acl(), ACL, |d| {
        d.facts.functions.get_mut("aclrtMalloc").expect("declared").params.pop();
    });
    assert_eq!(found, "aclrtMalloc: 8.1 has 3 parameters, declared are 2");
}

#[test]
fn a_wrong_type_is_caught() {
    let found = caught("aclnnSoftmax", Declared::operators(), OPERATORS, |d| {
        d.facts.operators.get_mut("aclnnSoftmax").expect("declared").params[1].1 = "i32".into();
    });
    assert_eq!(found, "aclnnSoftmax: parameter dim is i64 in 8.1, declared is i32");
}

#[test]
fn a_wrong_result_is_caught() {
    let found = caught("HcclGroupStart", Declared::hccl(), HCCL, |d| {
        d.facts.functions.get_mut("HcclGroupStart").expect("declared").returns = "()".into();
    });
    assert_eq!(found, "HcclGroupStart: 9.1 returns HcclResult, declared is ()");
}

#[test]
fn two_parameters_in_the_wrong_order_are_caught() {
    let found = caught("aclnnSub", Declared::operators(), OPERATORS, |d| {
        d.facts.operators.get_mut("aclnnSub").expect("declared").params.swap(0, 1);
    });
    assert_eq!(found, "aclnnSub: parameter 1 is called self in 9.1, declared is other");
}

#[test]
fn a_const_that_no_release_has_is_caught() {
    let found = caught("aclrtFree", Declared::acl(), ACL, |d| {
        d.facts.functions.get_mut("aclrtFree").expect("declared").params[0].1 = "*const c_void".into();
    });
    assert_eq!(found, "aclrtFree: parameter dev_ptr is *mut c_void in 9.1, declared is *const c_void (const)");
}

#[test]
fn a_wrong_oldest_release_is_caught() {
    let since = |name: &'static str, release: &'static str| {
        caught(name, Declared::acl(), ACL, |d| *d.since.get_mut(name).expect("declared") = release.to_owned())
    };
    assert_eq!(since("aclrtGetDeviceInfo", "8.1"), "aclrtGetDeviceInfo: declared since \"8.1\", but only 9.1 has it");
    assert_eq!(since("aclrtMalloc", "9.1"), "aclrtMalloc: declared since \"9.1\", but 8.1 has it already");
}

#[test]
fn a_wrong_enumerator_is_caught() {
    let found = caught("aclDataType", Declared::acl(), ACL, |d| {
        d.facts.enums.get_mut("aclDataType").expect("declared").insert("ACL_FLOAT8_E5M2".into(), 36);
    });
    assert_eq!(found, "aclDataType::ACL_FLOAT8_E5M2: 35 in 9.1, declared is 36");
}

#[test]
fn a_wrong_error_code_is_caught() {
    let found = caught("ACL_ERROR_RT_AICPU_EXCEPTION", Declared::acl(), ACL, |d| {
        d.facts.constants.insert("ACL_ERROR_RT_AICPU_EXCEPTION".into(), 507019);
    });
    assert_eq!(found, "ACL_ERROR_RT_AICPU_EXCEPTION: 507018 in 8.1, declared is 507019");
}

#[test]
fn a_wrong_offset_is_caught() {
    let found = caught("aclrtMallocConfig", Declared::acl(), ACL, |d| {
        d.facts.structs.get_mut("aclrtMallocConfig").expect("declared").fields[1].2 = 12;
    });
    assert_eq!(found, "aclrtMallocConfig: 8.1 has numAttrs: usize at 8, declared is numAttrs: usize at 12");
}

#[test]
fn a_wrong_size_is_caught() {
    let found = caught("HcclSendRecvItem", Declared::hccl(), HCCL, |d| {
        d.facts.structs.get_mut("HcclSendRecvItem").expect("declared").size = 24;
    });
    assert_eq!(found, "HcclSendRecvItem: 32 bytes in 9.1, declared are 24");
}

#[test]
fn a_wrong_handle_is_caught() {
    let found = caught("aclrtStream", Declared::acl(), ACL, |d| {
        d.facts.types.insert("aclrtStream".into(), "u64".into());
    });
    assert_eq!(found, "aclrtStream: \"*mut c_void\" in 8.1, declared is \"u64\"");
}
