//! `cargo xtask`: maintenance tasks of this workspace.

use anyhow::{Result, bail};
use std::path::PathBuf;
use xtask::{bindgen, cuda_symbols, import, operators};

const USAGE: &str = "\
Usage: cargo xtask <task>

  operators                 write docs/operators.md from the operator table
  bindgen --cann-home DIR   read an installed toolkit's headers and report how they differ from the declarations
  cuda-symbols [--check]    write kernels/cuda/symbols.txt from cudarc's sources, or only compare
  facts --from DIR          write the fact files of the ABI test from DIR/<release>/{acl,aclnnop,hccl}.json";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["cuda-symbols"] => cuda_symbols::write(),
        ["cuda-symbols", "--check"] => cuda_symbols::check(),
        ["operators"] => operators::write(),
        ["bindgen", "--cann-home", home] => bindgen::run(&PathBuf::from(home)),
        ["facts", "--from", folder] => import::run(&PathBuf::from(folder)),
        [] | ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("cannot read {words:?}\n\n{USAGE}"),
    }
}
