//! Declarations against the facts of two releases.
//!
//! A declaration is good for both releases or it says so by its oldest release. What may differ, and nothing else:
//! - where the releases disagree on a pointer's `const` or on a parameter's name, the declaration follows either;
//! - a structure that grew is declared as in the newer release, and the older one must be its beginning;
//! - an enumerator or a constant may be missing in one release, but has the declared value wherever it is.

use crate::ctype::{plain_name, without_const};
use crate::declared::Declared;
use crate::facts::{Facts, Function, Struct};

/// One release and its facts.
pub type Release<'a> = (&'a str, &'a Facts);

/// Every way in which the declarations contradict the facts, a line each.
pub fn differences(declared: &Declared, old: Release, new: Release) -> Vec<String> {
    let mut found = Vec::new();
    let both = [old, new];
    for (name, function) in &declared.facts.functions {
        presence(declared, name, both, |facts| facts.functions.contains_key(name), &mut found);
        callable(name, function, both.map(|(release, facts)| (release, facts.functions.get(name))), &mut found);
    }
    for (name, operator) in &declared.facts.operators {
        presence(declared, name, both, |facts| facts.operators.contains_key(name), &mut found);
        callable(name, operator, both.map(|(release, facts)| (release, facts.operators.get(name))), &mut found);
    }
    for (name, values) in &declared.facts.enums {
        for (enumerator, value) in values {
            let of = |facts: &Facts| facts.enums.get(name).and_then(|values| values.get(enumerator)).copied();
            same(
                &format!("{name}::{enumerator}"),
                value,
                both.map(|(release, facts)| (release, of(facts))),
                &mut found,
            );
        }
    }
    for (name, value) in &declared.facts.constants {
        same(name, value, both.map(|(release, facts)| (release, facts.constants.get(name).copied())), &mut found);
    }
    for (name, meaning) in &declared.facts.types {
        same(name, meaning, both.map(|(release, facts)| (release, facts.types.get(name).cloned())), &mut found);
    }
    for (name, it) in &declared.facts.structs {
        structure(name, it, both.map(|(release, facts)| (release, facts.structs.get(name))), &mut found);
    }
    found
}

/// Whether the releases that have the function are those that the declaration's oldest release says.
fn presence(
    declared: &Declared,
    name: &str,
    both: [Release; 2],
    has: impl Fn(&Facts) -> bool,
    found: &mut Vec<String>,
) {
    let [(old, in_old), (new, in_new)] = both.map(|(release, facts)| (release, has(facts)));
    let since = declared.since.get(name).map_or("", String::as_str);
    match (in_old, in_new) {
        (true, true) if since == old => {}
        (false, true) if since == new => {}
        (true, true) => found.push(format!("{name}: declared since {since:?}, but {old} has it already")),
        (false, true) => found.push(format!("{name}: declared since {since:?}, but only {new} has it")),
        (true, false) => found.push(format!("{name}: {new} no longer has it")),
        (false, false) => found.push(format!("{name}: neither {old} nor {new} has it")),
    }
}

/// Arity, types and names of the parameters, and the result.
fn callable(name: &str, declared: &Function, releases: [(&str, Option<&Function>); 2], found: &mut Vec<String>) {
    let facts: Vec<_> = releases.iter().filter_map(|(release, fact)| fact.map(|fact| (*release, fact))).collect();
    for (release, fact) in &facts {
        if fact.params.len() != declared.params.len() {
            let (wanted, got) = (fact.params.len(), declared.params.len());
            found.push(format!("{name}: {release} has {wanted} parameters, declared are {got}"));
            return;
        }
        if fact.returns != declared.returns {
            found.push(format!("{name}: {release} returns {}, declared is {}", fact.returns, declared.returns));
        }
    }
    for (index, (param, kind)) in declared.params.iter().enumerate() {
        let given: Vec<_> = facts.iter().map(|(release, fact)| (release, &fact.params[index])).collect();
        for (release, (_, wanted)) in &given {
            if without_const(wanted) != without_const(kind) {
                found.push(format!("{name}: parameter {param} is {wanted} in {release}, declared is {kind}"));
            }
        }
        let Some((release, (their_name, their_kind))) = given.last() else { continue };
        let differs = |wanted: &str| without_const(wanted) == without_const(kind) && wanted != kind;
        if given.iter().all(|(_, (_, wanted))| differs(wanted)) {
            found.push(format!("{name}: parameter {param} is {their_kind} in {release}, declared is {kind} (const)"));
        }
        if given.iter().all(|(_, (wanted, _))| plain_name(wanted) != plain_name(param)) {
            found.push(format!(
                "{name}: parameter {} is called {their_name} in {release}, declared is {param}",
                index + 1
            ));
        }
    }
}

/// A value that some release must have and no release may contradict.
fn same<T: PartialEq + std::fmt::Debug>(
    name: &str,
    declared: &T,
    releases: [(&str, Option<T>); 2],
    found: &mut Vec<String>,
) {
    if releases.iter().all(|(_, value)| value.is_none()) {
        found.push(format!("{name}: neither {} nor {} has it", releases[0].0, releases[1].0));
    }
    for (release, value) in releases {
        if let Some(value) = value.filter(|value| value != declared) {
            found.push(format!("{name}: {value:?} in {release}, declared is {declared:?}"));
        }
    }
}

fn structure(name: &str, declared: &Struct, [old, new]: [(&str, Option<&Struct>); 2], found: &mut Vec<String>) {
    let Some((newest, fact)) = [new, old].into_iter().find_map(|(release, fact)| fact.map(|fact| (release, fact)))
    else {
        found.push(format!("{name}: neither {} nor {} has it", old.0, new.0));
        return;
    };
    if fact.size != declared.size {
        found.push(format!("{name}: {} bytes in {newest}, declared are {}", fact.size, declared.size));
    }
    if fact.fields.len() != declared.fields.len() {
        found.push(format!("{name}: {} fields in {newest}, declared are {}", fact.fields.len(), declared.fields.len()));
    }
    for (release, fact) in [old, new].into_iter().filter_map(|(release, fact)| fact.map(|fact| (release, fact))) {
        for (theirs, ours) in fact.fields.iter().zip(&declared.fields) {
            let same_name = plain_name(&theirs.0) == plain_name(&ours.0);
            if !same_name || theirs.1 != ours.1 || theirs.2 != ours.2 {
                let show = |(name, kind, offset): &(String, String, usize)| format!("{name}: {kind} at {offset}");
                found.push(format!("{name}: {release} has {}, declared is {}", show(theirs), show(ours)));
            }
        }
    }
}
