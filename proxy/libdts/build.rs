//! Gives the shared library its ABI name: without one, a program would record
//! the path it was linked with.

fn main() {
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default();
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdts.so.{major}");
    println!("cargo::rerun-if-changed=build.rs");
}
