//! One notation for C types, Rust's, so that headers, facts and declarations compare as strings.

/// A C type as the headers write it, in Rust's notation: `const char *` becomes `*const c_char`.
///
/// `const` of the value itself says nothing to a caller and is left out.
pub fn from_c(c: &str) -> String {
    let c = c.trim();
    if let Some((result, arguments)) = c.split_once("(*)(") {
        let arguments: Vec<_> = arguments.trim_end_matches(')').split(',').map(from_c).collect();
        return format!("fn({}){}", arguments.join(", "), arrow(&from_c(result)));
    }
    if let Some((element, count)) = c.strip_suffix(']').and_then(|c| c.rsplit_once('[')) {
        return format!("[{}; {count}]", from_c(element));
    }
    let spaced = c.replace('*', " * ");
    let (mut constant, mut base, mut built) = (false, "", None);
    for word in spaced.split_whitespace() {
        match word {
            "const" => constant = true,
            "struct" | "enum" | "union" => {}
            "*" => {
                let inside = built.take().unwrap_or_else(|| scalar(base).to_owned());
                built = Some(format!("*{} {inside}", if constant { "const" } else { "mut" }));
                constant = false;
            }
            word => base = word,
        }
    }
    match built {
        Some(pointer) => pointer,
        None if base == "void" => "()".to_owned(),
        None => scalar(base).to_owned(),
    }
}

fn scalar(c: &str) -> &str {
    match c {
        "void" => "c_void",
        "char" => "c_char",
        "int8_t" => "i8",
        "int16_t" => "i16",
        "int32_t" | "int" => "i32",
        "int64_t" => "i64",
        "uint8_t" => "u8",
        "uint16_t" => "u16",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        "size_t" => "usize",
        "float" => "f32",
        "double" => "f64",
        other => other,
    }
}

/// A type as the declarations and bindgen write it, with one spelling for each meaning.
pub fn from_rust(rust: &str) -> String {
    // `stringify!` spaces tokens that passed through several macros.
    let one_line = rust.split_whitespace().collect::<Vec<_>>().join(" ").replace("* ", "*").replace(" ;", ";");
    let mut text = one_line.replace("::std::os::raw::", "").replace("::std::option::", "");
    if let Some(inside) = text.strip_prefix("Option<").and_then(|t| t.strip_suffix('>')) {
        // What stands before `fn` is the same for every callback.
        text = without_names(&inside[inside.find("fn(").unwrap_or(0)..]);
    }
    let same = [("c_int", "i32"), ("c_uint", "u32"), ("c_longlong", "i64"), ("c_ulonglong", "u64"), ("c_uchar", "u8")];
    for (spelled, meaning) in same {
        text = replace_word(&text, spelled, meaning);
    }
    text
}

/// A function pointer's type without the names of its parameters.
fn without_names(function: &str) -> String {
    let Some((arguments, result)) = function.strip_prefix("fn(").and_then(|f| f.split_once(')')) else {
        return function.to_owned();
    };
    let kinds = arguments.split(',').map(|a| a.split_once(':').map_or(a, |(_, kind)| kind).trim());
    let kinds: Vec<_> = kinds.filter(|kind| !kind.is_empty()).collect();
    format!("fn({}){}", kinds.join(", "), arrow(result.trim().trim_start_matches("->").trim()))
}

fn arrow(result: &str) -> String {
    if result.is_empty() || result == "()" { String::new() } else { format!(" -> {result}") }
}

fn replace_word(text: &str, word: &str, by: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let whole = !before.ends_with(is_name) && !after.starts_with(is_name);
        out.push_str(before);
        out.push_str(if whole { by } else { word });
        rest = after;
    }
    out + rest
}

/// The type with every pointer's constness forgotten.
pub fn without_const(rust: &str) -> String {
    rust.replace("*const ", "*mut ")
}

/// A name as it compares: headers write `selfRef` or `self`, the declarations `self_ref` or `self_`. That a parameter is
/// optional is said by its kind here and by its name there.
pub fn plain_name(name: &str) -> String {
    name.replace('_', "").to_lowercase().replace("optional", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_types_become_rust_types() {
        for (c, rust) in [
            ("const char *", "*const c_char"),
            ("void **", "*mut *mut c_void"),
            ("const aclTensor *const *", "*const *const aclTensor"),
            ("const aclrtStream", "aclrtStream"),
            ("uint8_t[12]", "[u8; 12]"),
            ("void *[2]", "[*mut c_void; 2]"),
            ("void", "()"),
            ("enum aclDataType", "aclDataType"),
            ("void (*)(void *)", "fn(*mut c_void)"),
            ("HcclResult (*)(HcclComm, void *)", "fn(HcclComm, *mut c_void) -> HcclResult"),
        ] {
            assert_eq!(from_c(c), rust, "{c}");
        }
    }

    #[test]
    fn rust_types_have_one_spelling() {
        let callback = hccl_sys::TYPES.iter().find(|(name, _)| *name == "HcclCommStateCallback").expect("declared").1;
        assert!(callback.starts_with("Option<"), "{callback}");
        assert_eq!(from_rust(callback), "fn(HcclComm, HcclCommStatePhase, *mut c_void) -> HcclResult");
        assert_eq!(from_rust("* mut * const c_void"), "*mut *const c_void");
        assert_eq!(from_rust("*mut ::std::os::raw::c_int"), "*mut i32");
        assert_eq!(from_rust("*const c_interface"), "*const c_interface");
    }
}
