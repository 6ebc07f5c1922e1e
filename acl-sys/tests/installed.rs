//! The search for an installed CANN, on folders of small libraries that the tests compile.

use acl_sys::installed::{Loading, Search};
use acl_sys::{Library, SymbolSource};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Compiles a library with one function a name, each returning `answer`.
fn library(path: &Path, functions: &[&str], answer: i32) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("folder of the library");
    let source = path.with_extension("c");
    let text: String = functions.iter().map(|name| format!("int {name}(void) {{ return {answer}; }}\n")).collect();
    fs::write(&source, text).expect("source");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(path).arg(&source).status();
    assert!(status.expect("the C compiler cc runs").success(), "compiling {}", source.display());
}

fn call(cann: &dyn SymbolSource, library: Library, name: &std::ffi::CStr) -> Option<i32> {
    let address = cann.address(library, name)?;
    // SAFETY: `library` above gives every function this type.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(address) };
    Some(function())
}

fn home_with(folder: &TempDir, files: &[(&str, &[&str], i32)]) -> PathBuf {
    for (file, functions, answer) in files {
        library(&folder.path().join(file), functions, *answer);
    }
    folder.path().to_owned()
}

#[test]
fn libraries_are_loaded_when_they_are_first_needed() {
    let folder = TempDir::new().expect("folder");
    let home =
        home_with(&folder, &[("lib64/libascendcl.so", &["aclInit"], 1), ("lib64/libopapi.so", &["aclnnAdd"], 2)]);
    fs::write(home.join("version.info"), "Version=8.1.RC1\n").expect("version");
    let cann = Search { cann_home: Some(home.clone()), ..Default::default() }.run().expect("the runtime is there");
    let state = |file: &str| cann.libraries().into_iter().find(|(name, _)| *name == file).expect("a listed file").1;

    assert_eq!(cann.release(), Some("8.1.RC1"));
    assert_eq!(cann.describe(), format!("CANN 8.1.RC1 in {} (the given folder)", home.display()));
    assert_eq!(state("libascendcl.so"), Loading::Loaded(home.join("lib64/libascendcl.so")));
    assert_eq!(state("libopapi.so"), Loading::NotNeeded);
    assert_eq!(call(&cann, Library::ascendcl, c"aclInit"), Some(1));
    assert_eq!(call(&cann, Library::math, c"aclnnAdd"), Some(2));
    assert_eq!(state("libopapi.so"), Loading::Loaded(home.join("lib64/libopapi.so")));
    let Loading::Failed(why) = state("libopapi_math.so") else { panic!("CANN 8 has no libopapi_math.so") };
    assert!(why[0].ends_with("lib64/libopapi_math.so: no such file"), "{why:?}");
    assert_eq!(call(&cann, Library::math, c"aclnnMissing"), None);
}

#[test]
fn the_split_libraries_of_cann_9_and_custom_operators_come_first() {
    let folder = TempDir::new().expect("folder");
    let arch = std::env::consts::ARCH;
    let home = home_with(
        &folder,
        &[
            (&format!("{arch}-linux/lib64/libacl_rt.so"), &["aclInit"], 1),
            (&format!("{arch}-linux/lib64/libopapi_nn.so"), &["aclnnSilu", "aclnnGelu"], 2),
            (&format!("{arch}-linux/lib64/libopapi.so"), &["aclnnSilu"], 3),
            ("custom/op_api/lib/libcust_opapi.so", &["aclnnGelu"], 4),
            ("opp/vendors/mine/op_api/lib/libcust_opapi.so", &["aclnnGelu"], 5),
        ],
    );
    fs::write(home.join("opp/vendors/config.ini"), "load_priority=mine\n").expect("configuration");
    let search = Search { cann_home: Some(home.clone()), ..Default::default() };

    let cann = Search { custom_operators: vec![home.join("custom")], ..search.clone() }.run().expect("found");
    assert_eq!(call(&cann, Library::nn, c"aclnnSilu"), Some(2), "the split library before libopapi.so");
    assert_eq!(call(&cann, Library::nn, c"aclnnGelu"), Some(4), "ASCEND_CUSTOM_OPP_PATH first");
    let cann = search.run().expect("found");
    assert_eq!(call(&cann, Library::nn, c"aclnnGelu"), Some(5), "then the toolkit's vendors");
}

#[test]
fn places_are_searched_in_order() {
    let folder = TempDir::new().expect("folder");
    let home =
        home_with(&folder, &[("a/lib64/libascendcl.so", &["aclInit"], 1), ("b/lib64/libascendcl.so", &["aclInit"], 2)]);
    let variables = |first: Option<&str>, second: Option<&str>| {
        let path = |name: &str| home.join(name);
        vec![("ASCEND_HOME_PATH", first.map(path)), ("ASCEND_TOOLKIT_HOME", second.map(path))]
    };
    let found =
        |search: Search| search.run().map(|cann| cann.home().map(Path::to_owned)).expect("found").expect("a folder");

    let both = Search { variables: variables(Some("a"), Some("b")), ..Default::default() };
    assert_eq!(found(both.clone()), home.join("a"));
    assert_eq!(found(Search { variables: variables(None, Some("b")), ..both.clone() }), home.join("b"));
    assert_eq!(found(Search { cann_home: Some(home.join("b")), ..both }), home.join("b"));
    assert_eq!(
        found(Search { defaults: vec![home.join("none"), home.join("b")], ..Default::default() }),
        home.join("b")
    );
}

#[test]
fn a_given_folder_without_cann_is_an_error_even_if_cann_is_elsewhere() {
    let folder = TempDir::new().expect("folder");
    let home = home_with(&folder, &[("a/lib64/libascendcl.so", &["aclInit"], 1)]);
    let search = Search { cann_home: Some(home.join("nothing")), defaults: vec![home.join("a")], ..Default::default() };
    let text = search.run().expect_err("nothing is there").to_string();
    let wanted = home.join("nothing/lib64/libascendcl.so");
    assert!(text.contains(&format!("the given folder: {}: no such file", wanted.display())), "{text}");
    assert!(!text.contains("the default folder"), "{text}");
}

#[test]
fn the_error_lists_every_path_and_the_variable_that_fixes_it() {
    let folder = TempDir::new().expect("folder");
    let broken = folder.path().join("lib64/libascendcl.so");
    fs::create_dir_all(folder.path().join("lib64")).expect("folder");
    fs::write(&broken, "not a library").expect("file");
    let search = Search {
        variables: vec![("ASCEND_HOME_PATH", None)],
        defaults: vec![folder.path().to_owned()],
        ..Default::default()
    };
    let text = search.run().expect_err("nothing loadable is there").to_string();
    assert!(text.contains("ASCEND_HOME_PATH: not set"), "{text}");
    assert!(text.contains(&format!("the default folder: {}: ", broken.display())), "{text}");
    assert!(text.contains("libacl_rt.so: no such file"), "{text}");
    assert!(text.ends_with("name its folder (--cann-home)."), "{text}");
}
