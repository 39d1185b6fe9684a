//! Raw bindings to the DPDK that pkg-config finds at build time.
//!
//! The list of bound items is exact and stands in `build.rs`; functions that
//! the DPDK headers define inline come from the C shim under `dts_` names
//! (`shim.h` documents each). Everything here is as unsafe as C: use the `dpdk`
//! crate.

// The generated code keeps C's names and carries no documentation.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals
)]
#![allow(unsafe_op_in_unsafe_fn)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
