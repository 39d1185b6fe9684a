//! Tells the program which compiler made it: an instruction count belongs to one.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    // A compiler that cannot say its version could not have compiled this either.
    let version = version.unwrap_or_default();
    println!("cargo::rustc-env=DTS_RUSTC={version}");
    println!("cargo::rerun-if-changed=build.rs");
}
