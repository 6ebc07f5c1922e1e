//! What the -sys crates declare, in the form of facts.

use crate::ctype::from_rust;
use crate::facts::{Facts, Function, Struct};
use acl_sys::loader::{FunctionDecl, OperatorDecl};
use std::collections::BTreeMap;

/// Declarations: the facts that they claim, and the oldest release of each function and operator.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// What is claimed of the interface.
    pub facts: Facts,
    /// Oldest release by C name.
    pub since: BTreeMap<String, String>,
}

impl Declared {
    /// The runtime and the aclnn meta interface.
    pub fn acl() -> Self {
        let mut declared = Self::default();
        declared.functions(acl_sys::loader::FUNCTIONS);
        declared.values(acl_sys::TYPES, acl_sys::ENUMS, acl_sys::STRUCTS);
        declared.constants(acl_sys::enums::CONSTANTS.iter().map(|(name, value)| (*name, i128::from(*value))));
        // The codes of aclnn are documented, but no header defines them.
        let codes = acl_sys::error::CODES.iter().filter(|code| !code.name.starts_with("ACLNN_"));
        declared.constants(codes.map(|code| (code.name, i128::from(code.code))));
        declared
    }

    /// The operator table.
    pub fn operators() -> Self {
        let mut declared = Self::default();
        acl_sys::loader::OPERATORS.iter().for_each(|row| declared.operator(row));
        declared
    }

    /// The collectives.
    pub fn hccl() -> Self {
        let mut declared = Self::default();
        declared.functions(hccl_sys::FUNCTIONS);
        declared.values(hccl_sys::TYPES, hccl_sys::ENUMS, hccl_sys::STRUCTS);
        declared.values(&[], &[], hccl_sys::OPEN_STRUCTS);
        declared.constants(hccl_sys::CONSTANTS.iter().map(|(name, value)| (*name, i128::from(*value))));
        declared
    }

    fn functions(&mut self, rows: &[FunctionDecl]) {
        for row in rows {
            let params = row.params.iter().map(|(name, kind)| ((*name).to_owned(), from_rust(kind))).collect();
            self.facts.functions.insert(row.name.to_owned(), Function { params, returns: from_rust(row.returns) });
            self.since.insert(row.name.to_owned(), row.since.to_owned());
        }
    }

    fn operator(&mut self, row: &OperatorDecl) {
        let meaning = |kind: &str| {
            let known = acl_sys::aclnn::KINDS.iter().find(|(name, _)| *name == kind);
            known.map_or_else(|| format!("a kind {kind} that is not declared"), |(_, meaning)| from_rust(meaning))
        };
        let params = row.params.iter().map(|(name, kind)| ((*name).to_owned(), meaning(kind))).collect();
        let name = format!("aclnn{}", row.name);
        self.since.insert(name.clone(), row.since.to_owned());
        self.facts.operators.insert(name, Function { params, returns: "aclnnStatus".to_owned() });
    }

    fn values(&mut self, types: &[(&str, &str)], enums: &[(&str, &[(&str, i32)])], structs: &[acl_sys::Struct]) {
        self.facts.types.extend(types.iter().map(|(name, meaning)| ((*name).to_owned(), from_rust(meaning))));
        for (name, values) in enums {
            let values = values.iter().map(|(name, value)| ((*name).to_owned(), i64::from(*value))).collect();
            self.facts.enums.insert((*name).to_owned(), values);
        }
        for (name, size, fields) in structs {
            let fields =
                fields.iter().map(|(name, kind, offset)| ((*name).to_owned(), from_rust(kind), *offset)).collect();
            self.facts.structs.insert((*name).to_owned(), Struct { size: *size, fields });
        }
    }

    fn constants<'a>(&mut self, rows: impl Iterator<Item = (&'a str, i128)>) {
        self.facts.constants.extend(rows.map(|(name, value)| (name.to_owned(), value)));
    }
}
